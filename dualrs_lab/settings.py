"""A setting says once what it is: the dataclass that holds it gives its default, its range and its help.

The command line reads all three from there, see `cli.parser.add_option`, and the dataclass itself refuses
what is out of range, see `check_settings`. Loads at once, as the command line's help must.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypeVar

__all__ = [
    "ALPHA",
    "BUDGET",
    "COUNT",
    "LEVEL",
    "RADIUS",
    "RULE",
    "SECONDS",
    "SEED",
    "SHARE",
    "SIGMA",
    "STRICT",
    "OneOf",
    "Range",
    "Subset",
    "check_settings",
    "check_worth",
    "required",
    "setting",
]


STRICT = (
    "DUALRS_STRICT"  # environment variable: 1 where notebooks run as they ship, so that each claim must hold
)


ALPHA = 0.001  # failure probability of a certificate where nobody asks for another


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that a setting may be: finite, from `least` to `most`, above and below the others."""

    whole: bool = False
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    also: int | None = None  # a number beside the range that means something of its own

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number = int(value) if isinstance(value, Integral) else float(value)
        inside = self.least <= number <= self.most and self.above < number < self.below
        return (inside or number == self.also) and (isinstance(number, int) or math.isfinite(number))

    def __str__(self) -> str:
        bounds = ((">=", self.least), (">", self.above), ("<=", self.most), ("<", self.below))
        texts = [f"{sign} {_shown(bound)}" for sign, bound in bounds if math.isfinite(bound)]
        words = ["a whole number" if self.whole else "a number", " and ".join(texts)]
        return " ".join(filter(None, words)) + ("" if self.also is None else f", or {self.also}")

    def read(self, text: str) -> int | float:
        """The number that `text` says; ValueError with `text` and what is wanted where it is none of these.

        Digits, sign, point and exponent, as everybody writes them: 1_000 is a slip, and not 1000.
        """
        kind = "int" if self.whole else "float"
        digits = r"[+-]?\d+" if self.whole else r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
        if not re.fullmatch(digits, text.strip(), re.ASCII) or len(text) > 400:
            raise ValueError(f"invalid {kind} value: {text[:400]!r}; want {self}")
        value = int(text) if self.whole else float(text)
        if value not in self:
            raise ValueError(f"{text.strip()}: want {self}")
        return value


@dataclass(frozen=True)
class OneOf:
    """The names that a setting may be."""

    names: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


def _shown(bound: float) -> str:
    if not isinstance(bound, int):
        return f"{bound:g}"
    return f"{bound:,}" if abs(bound) <= 10**9 else f"2^{bound.bit_length()} - 1"


COUNT = Range(whole=True, least=1, most=10**9)
"""How many: draws, images, classes."""


SEED = Range(whole=True, least=0, most=2**63 - 1)
"""Of everything that is drawn: what a table's whole numbers hold."""


LEVEL = Range(above=0, below=1)
"""A failure probability."""


SHARE = Range(least=0, most=1)
"""A part of a whole."""


SIGMA = Range(least=1e-6, most=1000)
"""A noise level in the unit of [0, 1] pixels; beyond, floats no longer hold image and noise together."""


BUDGET = Range(above=0, most=1000)
"""What an attacker may change, in the unit of [0, 1] pixels."""


SECONDS = Range(above=0, most=10**9)
"""A time that something may take."""


RULE = OneOf(("two-bounds", "cohen", "selected"))
"""How a radius follows from votes, see `evidence.radii`; the first is the default."""


RADIUS = Range(least=0, below=math.inf)
"""A distance in the unit of [0, 1] pixels."""


T = TypeVar("T")


def setting(default: T, help: str, within: Range | OneOf | None = None) -> T:
    """A field of a dataclass, with what it means to the person who sets it, and what it may be.

    A default of None is allowed beside the range.
    """
    value: T = field(default=default, metadata={"help": help, "within": within})
    return value


def required(help: str, within: Range) -> Any:
    """As `setting`, for a field without a default."""
    return field(metadata={"help": help, "within": within})


def check_settings(settings: Any) -> None:
    """ValueError for the first field of a dataclass that is out of its range: what came, what is wanted."""
    for one in fields(settings):
        value, within = getattr(settings, one.name), one.metadata.get("within")
        left_open = value is None and one.default is None and one.default is not MISSING
        if within is not None and not left_open and value not in within:
            raise ValueError(f"{type(settings).__name__}: got {one.name} {value!r}; wanted {within}")


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Which images of a data set are judged, and with which seed."""

    skip: int = setting(1, "take every SKIP-th image", COUNT)
    max_images: int = setting(
        -1, "take at most MAX images; -1: all", Range(whole=True, least=1, most=10**9, also=-1)
    )
    seed: int = setting(0, "of everything drawn", SEED)


def check_worth(call: str, radii: Sequence[float], weights: Sequence[float]) -> None:
    """ValueError unless `radii` ascend from 0 or above, and each has a weight, of which one is above 0."""
    fine = list(radii) == sorted({*radii}) and all(0 <= r < math.inf for r in radii)
    worth = all(0 <= w < math.inf for w in weights) and any(weights)
    if not fine or len(weights) != len(radii) or not worth:
        raise ValueError(
            f"{call}: wanted ascending radii >= 0 and as many weights >= 0, not all 0; got {radii} and "
            f"{weights}"
        )
