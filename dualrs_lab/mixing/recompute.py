"""What the rows of a mix say by the votes of its h alone, all rows together; see `evidence.recompute`."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.evidence.claim import answered
from dualrs_lab.evidence.counts import Counted, counted
from dualrs_lab.evidence.recompute import once_each
from dualrs_lab.evidence.rows import check_each
from dualrs_lab.mixing.certificate import _bounds, _check_form, _radius


def recomputed_columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Columns by name (N,); ValueError for rows that name no certificate of a mix."""
    found, radius = counted(table), np.zeros(len(table))
    said = table[["form", "others"]].astype(str)
    for form, others in said.drop_duplicates().itertuples(index=False, name=None):
        _check_form("votes", form, others)
        of_form = ((said["form"] == form) & (said["others"] == others)).to_numpy()
        for bound, of_bound in found.bounds.items():
            at = np.flatnonzero(of_form & of_bound)
            radius[at] = _radii(table.iloc[at], found, at, form, bound, others == "votes")
    counts = {"n0": found.n0, "n": found.n, "successes": found.successes}
    return counts | {"radius": radius, "predict": np.asarray(answered(found.guess, radius))}


def _radii(
    rows: pd.DataFrame, found: Counted, at: NDArray[np.int64], form: str, bound: str, by_votes: bool
) -> NDArray[np.float64]:
    def radius(k: Any, second: Any, n: Any, alpha: Any, weight: Any, sigma: Any, classes: Any) -> Any:
        lower, upper = _bounds(bound, k, second, n, alpha, classes if by_votes else None)
        return _radius(form, lower, upper, weight, sigma)

    counts = (found.successes[at], found.second[at], found.n[at])
    classes = _classes(rows, found.classes[at]) if by_votes else np.zeros(len(at))
    return once_each(radius, *counts, rows["alpha"], rows["weight"], rows["sigma"], classes)


def _classes(rows: pd.DataFrame, least: NDArray[np.int64]) -> NDArray[np.float64]:
    if "classes" not in rows:
        raise ValueError("others is votes, but there is no column classes, their number")
    classes = rows["classes"].to_numpy(dtype=np.float64, na_value=np.nan)
    check_each("votes", rows, "the number of all classes", classes >= np.maximum(least, 2), "classes")
    return classes
