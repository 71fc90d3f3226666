"""Whenever a table is read, its radii are computed anew from its votes: an edited one is not believed.

A method says how in a module of its own wing: `recomputed_columns(table)` gives the columns that follow
from the votes of its rows, all rows together. The module is loaded when such a row is read, so that tables of
all methods are checked here, and this wing imports none of those that build on it.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.evidence.rows import check_each

__all__ = ["check_evidence", "once_each"]


# Where a method says how.
HOMES = {
    "rs": "dualrs_lab.evidence.counts",
    "dual": "dualrs_lab.dual.recompute",
    "cascade": "dualrs_lab.cascade.recompute",
    "mix": "dualrs_lab.mixing.recompute",
}


Columns = Mapping[str, NDArray[Any]]


def check_evidence(call: str, table: pd.DataFrame) -> None:
    """ValueError that names the first row that does not say what its votes say.

    Published logs, and mixes of them, have no votes and are taken as they are, as are methods of others
    without them. Rows that have the columns of one smoothed classifier are checked whatever their method.
    """
    check_each(call, table, "a method", table["method"].notna().to_numpy(), "method")
    methods = table["method"].unique().tolist()
    for method in methods:
        rows = table
        if len(methods) > 1:  # without the columns of other methods
            rows = table[table["method"] == method].dropna(axis=1, how="all")
        if home := _home(method, rows):
            try:
                found = home(rows.reset_index(drop=True))
            except (ValueError, KeyError) as error:
                raise ValueError(f"{call}: {error}") from None
            _compare(call, rows, found)


def once_each(function: Callable[..., Any], *columns: Any) -> NDArray[np.float64]:
    """`function(*columns)` of numbers (N,), computed once for rows that are equal in all of them."""
    each = [np.asarray(column, dtype=np.float64) for column in columns]
    where = np.zeros(len(each[0]), dtype=np.int64)
    for column in each:  # rows that agree in the columns so far have one number
        numbers, values = pd.factorize(column, use_na_sentinel=False)
        where = pd.factorize(where * len(values) + numbers)[0]
    first = np.unique(where, return_index=True)[1]
    return np.asarray(function(*(column[first] for column in each)), dtype=np.float64)[where]


def _home(method: str, rows: pd.DataFrame) -> Callable[[pd.DataFrame], Columns] | None:
    voted = {"selection", "votes", "n0", "n", "successes", "sigma", "alpha"} <= {*rows}
    if method == "mix" and not voted:
        return None
    module = HOMES.get(method, HOMES["rs"] if voted else "")
    return importlib.import_module(module).recomputed_columns if module else None


def _compare(call: str, rows: pd.DataFrame, found: Columns) -> None:
    for name, values in found.items():
        if name not in rows:
            raise ValueError(f"{call}: no column {name}; wanted a table of {rows['method'].iloc[0]}, whole.")
        said = rows[name].to_numpy()
        fine = said == values if values.dtype.kind == "i" else _close(said.astype(np.float64), values)
        if not np.all(fine):
            at = int(np.argmin(fine))
            where = f"image {rows['idx'].iloc[at]} (line {rows.index[at] + 2})"
            raise ValueError(
                f"{call}: {where} has {name} {said[at]}, and its votes give {values[at]}; the table was "
                "changed after it was made."
            )


def _close(said: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.bool_]:
    # another SciPy may differ in the last digits
    return np.isclose(said, values, rtol=1e-9, atol=1e-12, equal_nan=False)
