"""Whenever a table is read, its radii are computed anew from its votes: an edited one is not believed.

A method says how in a module of its own wing: `recomputed_columns(table)` gives the columns that follow
from the votes of its rows, all rows together. The module is loaded when such a row is read, so that tables of
all methods are checked here, and this wing imports none of those that build on it.

By the same way a table is claimed by another rule (`reclaimed`), or by those of its votes that are sure
(`at_confidence`): what was drawn depends on neither.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.evidence.claim import ABSTAIN
from dualrs_lab.evidence.radii import PairedCounts
from dualrs_lab.evidence.rows import check_each
from dualrs_lab.evidence.votes import are_votes, cell_votes, passing_blocks, votes_text

__all__ = [
    "FIRST_MIXES",
    "at_confidence",
    "check_evidence",
    "confidences_of",
    "every_vote",
    "for_copy",
    "once_each",
    "reclaimed",
    "rules_behind",
]


# Where a method says how.
HOMES = {
    "rs": "dualrs_lab.evidence.counts",
    "dual": "dualrs_lab.dual.recompute",
    "cascade": "dualrs_lab.cascade.recompute",
    "combine": "dualrs_lab.combine.recompute",
    "mix": "dualrs_lab.mixing.recompute",
    "smooth-sigma": "dualrs_lab.peers.recompute",
}


Columns = Mapping[str, NDArray[Any]]


_FIRST = {"cascade": "own-votes"}  # the rule of tables that do not say; all others: Cohen's
FIRST_MIXES = {"rest": "cohen", "votes": "each-class"}
"""The rule of the first tables of mixes, by their column `others`."""


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


def reclaimed(table: pd.DataFrame, rule: str) -> pd.DataFrame:
    """What a table of one method claims by another rule, from the same votes, at the same level.

    Each claim is valid, if the rule was decided before anybody looked at what the two claim. Early stopping
    is no obstacle: its bounds hold whenever the votes made it stop. A dual table gets the even split of its
    alpha by that rule; an expert that was not asked by the first rule counts nothing by the other, which is
    sound and may cost radius. A published log is Cohen's and says nothing else. Raises ValueError for tables
    of several methods and for rules that the method does not have.
    """
    methods = sorted({*table["method"]}) if "method" in table else ["published"]
    if len(methods) != 1:
        raise ValueError(f"reclaimed: got a table of {', '.join(methods)}; wanted one method at a time")
    module = _module(methods[0], table)
    if module is None:
        if rule != rules_behind(table):
            raise ValueError(f"reclaimed: a log without votes is Cohen's; wanted 'cohen', got {rule!r}")
        return table
    rows = table.reset_index(drop=True)
    ready = module.ruled(rows, rule) if hasattr(module, "ruled") else rows.assign(rule=rule)
    made = _claimed_anew(ready, module)
    if known := table.attrs.get("identity"):
        made.attrs = table.attrs | {"identity": known | {"rule": rule}}
    return made


def for_copy(table: pd.DataFrame) -> pd.DataFrame:
    """What the votes of a copy certify for the copy itself, where a table certifies its original by them.

    At the same level and by the same rule; any other table is returned as it is. Each of the two claims is
    valid, if it was decided before anybody looked at the votes which of them is meant.
    """
    if not {*PairedCounts._fields} & {*table}:
        return table
    rows = table.drop(columns=[*PairedCounts._fields]).reset_index(drop=True)
    (method,) = {*rows["method"]}
    made = _claimed_anew(rows, _module(method, rows))
    known = table.attrs.get("identity", {})
    kept = {name: value for name, value in known.items() if name not in ("certify", "paired")}
    made.attrs = table.attrs | ({"identity": kept} if known else {})
    return made


def confidences_of(table: pd.DataFrame) -> tuple[float, ...]:
    """By which confidences the votes of a table are told apart, as its record says; empty: by none."""
    sure = table.attrs.get("identity", {}).get("sure")
    return tuple(map(float, sure["confidences"])) if _graded(sure) else ()


def at_confidence(table: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """What the votes of a graded network certify where draws below `confidence` are silent.

    The table of the network that votes only where it is that sure, from the same draws, by the same rule and
    level: of C classes, its votes are for 0 to C - 1, and C is silence. With 0 every vote counts. Its record
    says the confidence, which has to be chosen before anybody looks at these votes. Raises ValueError for a
    table without a record of confidences (see `models.Graded`), for another confidence than those there are,
    and where an original is certified, as pairs are about its guess alone.
    """
    known = table.attrs.get("identity", {})
    if not _graded(known.get("sure")):
        raise ValueError(
            "at_confidence: got a table whose record says of confidences: "
            f"{known.get('sure', 'nothing')}; wanted one as `certify --sure` makes it, whose votes are told "
            "apart by confidences"
        )
    if "paired" in table:
        raise ValueError(
            "at_confidence: the table certifies the original of what voted, by pairs about its guess alone; "
            "wanted one that was certified for the copy (certify='copy')"
        )
    classes = int(known["sure"]["answers"])
    passing = passing_blocks("at_confidence", confidences_of(table), confidence)
    most = classes * (len(confidences_of(table)) + 1)

    def counted(cell: object) -> str:
        votes = cell_votes(cell)
        if not are_votes(votes, below=most):
            raise ValueError(f"at_confidence: got votes {cell!r}; wanted votes for classes below {most}")
        found = dict[int, int]()
        for kind, count in votes:
            block, answer = divmod(kind, classes)
            told = answer if block < passing else classes
            found[told] = found.get(told, 0) + count
        return votes_text(tuple(sorted(found.items())))

    rows = table.reset_index(drop=True)
    rows = rows.assign(**{name: [*map(counted, rows[name])] for name in ("selection", "votes")})
    (method,) = {*rows["method"]}
    made = _claimed_anew(rows, _module(method, rows))
    sure = {"confidence": float(confidence), "answers": classes}
    made.attrs = table.attrs | {"identity": known | {"sure": sure}}
    return made


def every_vote(table: pd.DataFrame) -> pd.DataFrame:
    """What all votes of a table certify, also where confidences tell them apart: the plain network."""
    return at_confidence(table, 0) if confidences_of(table) else table


def _graded(sure: Any) -> bool:
    # of one network; systems tell the confidences of each expert
    return isinstance(sure, Mapping) and "confidences" in sure


def _claimed_anew(rows: pd.DataFrame, module: Any) -> pd.DataFrame:
    found = {name: values for name, values in module.recomputed_columns(rows).items() if name in rows}
    right = (found["predict"] == rows["label"]) & (found["predict"] != ABSTAIN)
    return rows.assign(**found, correct=right.astype(np.int64))


def rules_behind(table: pd.DataFrame) -> str:
    """The rule by which a table was claimed; several, of several methods, after commas."""
    if "rule" in table:
        names = table["rule"].dropna()
    elif "others" in table:
        names = table["others"].map(FIRST_MIXES)
    else:
        names = table.get("method", pd.Series(["published"])).map(lambda name: _FIRST.get(name, "cohen"))
    return ", ".join(sorted({*map(str, names)}))


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
    module = _module(method, rows)
    return module.recomputed_columns if module else None


def _module(method: str, rows: pd.DataFrame) -> Any:
    voted = {"selection", "votes", "n0", "n", "successes", "sigma", "alpha"} <= {*rows}
    if method == "mix" and not voted:
        return None
    module = HOMES.get(method, HOMES["rs"] if voted else "")
    return importlib.import_module(module) if module else None


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
