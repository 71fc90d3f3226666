"""What is said of one image, by whatever method: an answer within a radius, or nothing.

One rule holds for all: an answer is claimed exactly where its radius is above 0. A `Claim` brings its
evidence along, from which alone its radius can be recomputed; a table of claims has a row for each.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

__all__ = ["ABSTAIN", "LOG_COLUMNS", "Claim", "Claims", "answered", "claimed", "reach", "whole"]


ABSTAIN = -1


LOG_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")  # the format of the published logs


Ints = NDArray[np.int64]


Floats = NDArray[np.float64]


def answered(guess: ArrayLike, radius: ArrayLike) -> Ints:
    """What is claimed (…,): the guess where its radius is above 0, ABSTAIN elsewhere."""
    return np.where(np.asarray(radius) > 0, guess, ABSTAIN)[()]


def claimed(images: pd.DataFrame, guess: ArrayLike, radius: ArrayLike) -> pd.DataFrame:
    """A table of claims (idx, label, predict, radius, correct) about the images of another one."""
    predict, label = answered(guess, radius), images["label"].to_numpy()
    return pd.DataFrame(
        {
            "idx": images["idx"].to_numpy(),
            "label": label,
            "predict": predict,
            "radius": np.asarray(radius, dtype=np.float64),
            "correct": _right(predict, label).astype(np.int64),
        }
    )


def reach(table: pd.DataFrame) -> Floats:
    """(N,): the radius up to which each row counts, -inf where it is wrong or abstains."""
    radius = table["radius"].to_numpy(dtype=np.float64)
    return np.where(table["correct"].to_numpy(dtype=bool), radius, -np.inf)


def _right(predict: Ints, label: Ints) -> NDArray[np.bool_]:
    return np.asarray((predict == label) & (predict != ABSTAIN))


@dataclass(frozen=True, kw_only=True)
class Claim(ABC):
    """Within `radius` of an image the answer is `predict`, but for the failure probability of the method.

    l2 radius in the [0, 1] pixel unit; `predict` is ABSTAIN exactly where it is 0, which claims nothing.
    `label` -1 means unknown; `seconds` is the cost. Raises ValueError where parts contradict each other, or
    where the radius is more than the evidence gives.
    """

    idx: int
    label: int
    predict: int
    radius: float
    seconds: float

    counts: ClassVar[tuple[str, ...]] = ("idx", "label", "predict")  # the fields that are Python ints

    @property
    def correct(self) -> bool:
        """Whether the certified class is the label; never where abstaining or where the label is unknown."""
        return self.predict == self.label != ABSTAIN

    @property
    @abstractmethod
    def guess(self) -> int:
        """The class that draws of their own chose: the only one that can be claimed."""

    @abstractmethod
    def recomputed(self) -> float:
        """The radius that the evidence alone gives."""

    @abstractmethod
    def evidence(self) -> dict[str, object]:
        """The columns of a row that follow those of the published logs; votes are text such as "3:97 5:3"."""

    @classmethod
    @abstractmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The claim back from `to_row` or a row of a table (`to_dict("records")`), checked again."""

    def to_row(self) -> dict[str, object]:
        """A row of a table, in the order of its columns and at full precision."""
        said = (self.idx, self.label, self.predict, self.radius, int(self.correct), self.seconds)
        return dict(zip(LOG_COLUMNS, said, strict=True)) | self.evidence()

    @classmethod
    def _said(cls, row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
        # the fields of this class, from a row that has these columns besides
        if missing := [name for name in dict.fromkeys((*LOG_COLUMNS, *columns)) if name not in row]:
            raise ValueError(
                f"{cls.__name__}.from_row: no {', '.join(missing)} in the row; wanted a row of this method, "
                "with its votes (a published log has none)."
            )
        said = {name: whole(row[name]) for name in ("idx", "label", "predict")}
        return said | {"radius": float(row["radius"]), "seconds": float(row["time"])}

    def __post_init__(self) -> None:
        ints = {name: getattr(self, name) for name in self.counts}
        self._want(all(type(value) is int for value in ints.values()), f"Python ints, got {ints}")
        self._want(self.idx >= 0 and self.label >= -1, f"idx >= 0, label >= -1, got {self.idx}, {self.label}")
        self._want(self.seconds >= 0, f"seconds >= 0, got {self.seconds}")
        self._want_evidence()
        self._want(self.predict in (self.guess, ABSTAIN), f"predict {self.guess} or -1, got {self.predict}")
        self._want(0 <= self.radius < np.inf, f"a finite radius >= 0, got {self.radius}")
        one = (self.predict == ABSTAIN) == (self.radius == 0)
        self._want(one, f"radius 0 exactly where abstaining, got {self.radius} and class {self.predict}")
        self._want_at_most("radius", self.radius, self.recomputed())

    @abstractmethod
    def _want_evidence(self) -> None:
        """ValueError where the evidence contradicts itself."""

    def _want_at_most(self, name: str, radius: float, most: float) -> None:
        fine = radius <= most * (1 + 1e-9)  # another SciPy may differ in the last digits
        self._want(fine, f"at most the {name} {most} of its votes, got {radius}")

    def _want(self, true: bool, what: str) -> None:
        if not true:
            raise ValueError(f"{type(self).__name__}(idx={self.idx}): wanted {what}.")


Claims = pd.DataFrame | Sequence[Claim]
"""Claims about many images: a table of them, or one after the other; see `evidence.as_table`."""


def whole(cell: object) -> int:
    """A whole number back from a cell of a table; a fraction is a ValueError."""
    return int(str(cell))
