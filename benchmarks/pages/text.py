"""How the pages write numbers and tables."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from dualrs_lab.evidence import floor_text

__all__ = [
    "DATA", "Facts", "along", "markdown", "millions", "percent", "radius", "read_info", "signed",
    "significant",
]  # fmt: skip

DATA = Path(__file__).resolve().parents[2] / "data"
Facts = dict[str, Any]  # a text, or texts by name, for each placeholder


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage, without the sign."""
    return f"{100 * share:.{digits}f}"


def signed(share: float, digits: int = 1) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * share:+.{digits}f}".replace("-", "−")


def radius(value: float) -> str:
    """An average radius, rounded down; empty where there is none."""
    return "" if np.isnan(value) else floor_text(value)


def significant(value: float, digits: int = 3) -> str:
    """A measured value to so many significant digits, or all of those before the point."""
    whole = value == int(value) or abs(value) >= 10 ** (digits - 1)
    return f"{value:,.0f}" if whole else f"{value:.{digits}g}"


def along(radii: Iterable[object]) -> list[str]:
    """What stands above columns by radius."""
    first, *others = map(str, radii)
    return [f"r = {first}", *others]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Markdown writes it."""
    lines = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def read_info(path: Path) -> dict[str, Any]:
    """The json that lies beside a table or a checkpoint."""
    return dict(json.loads(path.with_suffix(".json").read_text("utf-8")))


def millions(checkpoint: Path, digits: int = 1) -> str:
    """Parameters of a network in millions: all that its file holds, but for statistics and normalisation."""
    fixed = ("running_mean", "running_var", "num_batches_tracked", "normalize.mean", "normalize.std")
    with safe_open(checkpoint, "np") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys() if not key.endswith(fixed)]  # noqa: SIM118
    return f"{sum(int(np.prod(shape)) for shape in shapes) / 1e6:.{digits}f}"
