"""The counts behind a table of one smoothed classifier, and what its rows say by them alone."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.evidence.certificate import BOUNDS
from dualrs_lab.evidence.claim import answered
from dualrs_lab.evidence.radii import rs_radius
from dualrs_lab.evidence.recompute import once_each
from dualrs_lab.evidence.rows import check_each
from dualrs_lab.evidence.votes import read_column

__all__ = ["Counted", "counted"]


class Counted(NamedTuple):
    """What the votes of a table of one smoothed classifier say, all rows (N,) together."""

    guess: NDArray[np.int64]
    successes: NDArray[np.int64]
    second: NDArray[np.int64]  # votes of the largest other class
    n0: NDArray[np.int64]
    n: NDArray[np.int64]
    classes: NDArray[np.int64]  # at least, by those that got votes
    bounds: dict[str, NDArray[np.bool_]]  # the rows of each bound


def counted(table: pd.DataFrame) -> Counted:
    """The counts behind the rows of a table; ValueError for votes, levels or bounds that make no sense."""
    selection, votes = (read_column(name, table[name]) for name in ("selection", "votes"))
    guess = selection.leaders()
    names = _bound_names(table)
    found = Counted(
        guess,
        votes.of(guess),
        votes.most_besides(guess),
        selection.totals(),
        votes.totals(),
        1 + np.maximum(selection.largest(), votes.largest()),
        {name: names == name for name in BOUNDS},
    )
    _check_counts(table, found, names)
    return found


def recomputed_columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """What the rows say by their votes alone, see `evidence.recompute`."""
    found = counted(table)
    radius = np.zeros(len(table))
    for name, at in found.bounds.items():
        columns = (found.successes, found.n, table["alpha"], table["sigma"])
        radius[at] = once_each(
            lambda k, n, alpha, sigma, bound=BOUNDS[name]: rs_radius(bound(k, n, alpha), sigma),
            *(np.asarray(column)[at] for column in columns),
        )
    said = {"n0": found.n0, "n": found.n, "successes": found.successes}
    return said | {"radius": radius, "predict": np.asarray(answered(found.guess, radius))}


def _bound_names(table: pd.DataFrame) -> NDArray[Any]:
    if "bound" in table:
        return table["bound"].to_numpy()
    return np.full(len(table), "clopper-pearson", dtype=object)  # the first tables


def _check_counts(table: pd.DataFrame, found: Counted, names: NDArray[Any]) -> None:
    call = "votes"
    alpha, sigma = (table[name].to_numpy(dtype=np.float64) for name in ("alpha", "sigma"))
    check_each(call, table, "one draw at least", found.n0 * found.n >= 1, "votes")
    check_each(call, table, "alpha in (0, 1)", (alpha > 0) & (alpha < 1), "alpha")
    check_each(call, table, "a positive, finite sigma", (sigma > 0) & (sigma < np.inf), "sigma")
    known = np.isin(names.astype(str), [*BOUNDS])
    check_each(call, table, f"a bound of {', '.join(BOUNDS)}", known, "bound")
    if "drawn" in table:
        drawn = table["drawn"].to_numpy(dtype=np.int64, na_value=-1)
        check_each(call, table, "drawn >= n", drawn >= found.n, "drawn")
