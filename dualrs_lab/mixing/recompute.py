"""What the rows of a mix say by the votes of its h alone, all rows together; see `evidence.recompute`."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.evidence.claim import answered
from dualrs_lab.evidence.counts import Counted, counted
from dualrs_lab.evidence.joins import of_what_voted
from dualrs_lab.evidence.radii import BOUNDS
from dualrs_lab.evidence.recompute import FIRST_MIXES, once_each
from dualrs_lab.evidence.rows import check_each
from dualrs_lab.mixing.certificate import (
    EACH_CLASS,
    MixCertificate,
    _check_form,
    _radius,
    class_bounds,
)


def recomputed_columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Columns by name (N,); ValueError for rows that name no certificate of a mix."""
    if "rule" not in table:
        table = table.assign(rule=[FIRST_MIXES.get(str(text), "") for text in table["others"]])
    found, radius = counted(table, MixCertificate.rules), np.zeros(len(table))
    of_what_voted("votes", "the mix", table)
    forms = table["form"].astype(str)
    for form in forms.unique():
        _check_form("votes", form, found.rule)
        for bound, of_bound in found.bounds.items():
            at = np.flatnonzero((forms == form).to_numpy() & of_bound)
            radius[at] = _radii(table.iloc[at], found, at, form, bound)
    counts = {"n0": found.n0, "n": found.n, "successes": found.successes}
    return counts | {"radius": radius, "predict": np.asarray(answered(found.guess, radius))}


def ruled(table: pd.DataFrame, rule: str) -> pd.DataFrame:
    """The rows, to be claimed by a rule; what only the first rules said is dropped."""
    return table.drop(columns=["others", "classes"], errors="ignore").assign(rule=rule)


def _radii(
    rows: pd.DataFrame, found: Counted, at: NDArray[np.int64], form: str, bound: str
) -> NDArray[np.float64]:
    def radius(
        k: Any, second: Any, n: Any, alpha: Any, sigma: Any, alike: Any, weight: Any, classes: Any
    ) -> Any:
        how = {"bounds": BOUNDS[bound], "unanimous": alike == 1, "classes": classes}
        lower, upper = class_bounds(found.rule, k, second, n, alpha, **how)
        return _radius(form, lower, upper, weight, sigma)

    told = (column.to_numpy(dtype=np.float64) for column in (rows["alpha"], rows["sigma"]))
    counts = found.successes[at], found.second[at], found.n[at]
    classes = _classes(rows, found.classes[at]) if found.rule == EACH_CLASS else np.zeros(len(at))
    return once_each(radius, *counts, *told, found.unanimous[at], rows["weight"], classes)


def _classes(rows: pd.DataFrame, least: NDArray[np.int64]) -> NDArray[np.float64]:
    if "classes" not in rows:
        raise ValueError(f"the rule is {EACH_CLASS}, but there is no column classes, their number")
    classes = rows["classes"].to_numpy(dtype=np.float64, na_value=np.nan)
    check_each("votes", rows, "the number of all classes", classes >= np.maximum(least, 2), "classes")
    return classes
