"""The counts behind tables, and what rows of one smoothed classifier say by them alone."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.evidence.claim import answered
from dualrs_lab.evidence.radii import BOUNDS, RULES, PairedCounts, possible_pairs, ruled_radius
from dualrs_lab.evidence.recompute import once_each
from dualrs_lab.evidence.rows import check_each
from dualrs_lab.evidence.votes import read_column, read_expert

__all__ = ["Counted", "ExpertCounts", "counted", "expert_counts", "in_parts", "rule_of"]


_AT_A_TIME = 500  # rows, as counts are of all classes that occur in them


class Counted(NamedTuple):
    """What the votes of a table of one smoothed classifier say, all rows (N,) together."""

    guess: NDArray[np.int64]
    successes: NDArray[np.int64]
    second: NDArray[np.int64]  # votes of the largest other class
    n0: NDArray[np.int64]
    n: NDArray[np.int64]
    classes: NDArray[np.int64]  # at least, by those that got votes
    unanimous: NDArray[np.bool_]  # whether all selection draws were for the guess
    rule: str  # of all rows
    bounds: dict[str, NDArray[np.bool_]]  # the rows of each bound
    pairs: PairedCounts | None  # what the original voted, where votes are of a copy that certify it

    def judged(self, table: pd.DataFrame, at: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """What radii of the rows `at` follow from: both counts, n, alpha, sigma, and unanimity."""
        own = self.successes, self.second, self.n, table["alpha"], table["sigma"], self.unanimous
        return tuple(np.asarray(column)[at] for column in own)


def counted(table: pd.DataFrame, rules: Sequence[str] = RULES) -> Counted:
    """The counts behind the rows of a table; ValueError where votes, level, bound or rule make no sense."""
    selection, votes = (read_column(name, table[name]) for name in ("selection", "votes"))
    guess = selection.leaders()
    names = _bound_names(table)
    n0 = selection.totals()
    found = Counted(
        guess,
        votes.of(guess),
        votes.most_besides(guess),
        n0,
        votes.totals(),
        1 + np.maximum(selection.largest(), votes.largest()),
        selection.of(guess) == n0,
        rule_of(table, rules),
        {name: names == name for name in BOUNDS},
        _pairs(table),
    )
    _check_counts(table, found, names)
    return found


def recomputed_columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """What the rows say by their votes alone, see `evidence.recompute`."""
    found = counted(table)
    radius = np.zeros(len(table))
    for name, at in found.bounds.items():
        beside = () if found.pairs is None else (np.asarray(count)[at] for count in found.pairs)
        radius[at] = once_each(
            lambda k, rival, n, alpha, sigma, alike, *pairs, name=name: ruled_radius(
                found.rule,
                k,
                rival,
                n,
                alpha,
                sigma,
                bounds=BOUNDS[name],
                unanimous=alike == 1,
                pairs=PairedCounts(*pairs) if pairs else None,
            ),
            *found.judged(table, at),
            *beside,
        )
    said = {"n0": found.n0, "n": found.n, "successes": found.successes}
    return said | {"radius": radius, "predict": np.asarray(answered(found.guess, radius))}


def _bound_names(table: pd.DataFrame) -> NDArray[Any]:
    if "bound" in table:
        return table["bound"].to_numpy()
    return np.full(len(table), "clopper-pearson", dtype=object)  # the first tables


def rule_of(table: pd.DataFrame, rules: Sequence[str] = RULES) -> str:
    """The rule of a table, Cohen's where it does not say; ValueError unless one of `rules` for all rows.

    Otherwise rows could be claimed by whichever rule likes their votes better.
    """
    names = sorted({str(name) for name in table["rule"]}) if "rule" in table else ["cohen"]
    if len(names) != 1 or names[0] not in rules:
        raise ValueError(f"votes: got rules {names}; wanted one of {', '.join(rules)} for all rows")
    return names[0]


def _pairs(table: pd.DataFrame) -> PairedCounts | None:
    names = PairedCounts._fields
    there = [name for name in names if name in table]
    if not there:
        return None
    if len(there) < len(names):
        raise ValueError(f"votes: got columns {', '.join(there)}; wanted all of {', '.join(names)}")
    counts = [table[name].to_numpy(dtype=np.int64, na_value=-1) for name in names]
    one = (counts[0] == counts[0][:1]) & (counts[0] >= 1)
    check_each("votes", table, "one number of paired draws for all rows", one, "paired")
    return PairedCounts(*counts)


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
    if found.pairs is not None:
        fine = possible_pairs(found.pairs, found.successes, found.n)
        check_each(call, table, "pairs that the votes allow", fine, "lost")


class ExpertCounts(NamedTuple):
    """The counts of K experts behind rows (N,) of a system that have the same settings."""

    names: list[str]  # of the experts, as in columns
    sigmas: tuple[float, ...]
    alpha: float
    kinds: NDArray[np.int64]  # (C,) the classes that are counted: class 0, and all that got votes
    selection: NDArray[np.int64]  # (N, K, C)
    votes: NDArray[np.int64]  # (N, K, C)


def expert_counts(rows: pd.DataFrame) -> ExpertCounts:
    """From columns `selection_0.25`, …, `votes_0.25`, …; ValueError where votes or level make no sense."""
    names = [str(name).removeprefix("votes_") for name in rows if str(name).startswith("votes_")]
    sigmas, alpha = tuple(read_expert(name)[0] for name in names), float(rows["alpha"].iloc[0])
    if not 0 < alpha < 1:
        raise ValueError(f"wanted alpha in (0, 1), got {alpha}")
    every = [
        [read_column(f"{what}_{name}", rows[f"{what}_{name}"]) for name in names]
        for what in ("selection", "votes")
    ]
    kinds = np.unique(np.concatenate([[0], *(one.kinds for columns in every for one in columns)]))
    selection, votes = (np.stack([one.counts_of(kinds) for one in columns], 1) for columns in every)
    drawn = selection.sum((1, 2)) + votes.sum((1, 2))
    check_each("votes", rows, "drawn >= its votes", rows["drawn"].to_numpy() >= drawn, "drawn")
    return ExpertCounts(names, sigmas, alpha, kinds, selection, votes)


def in_parts(
    table: pd.DataFrame, alike: list[str], judge: Callable[[pd.DataFrame], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """What `judge` says of rows that are `alike` in these columns, some at a time, for all rows (N,)."""
    found: dict[str, NDArray[Any]] = {}
    for _, group in table.groupby(alike, sort=False):
        for start in range(0, len(group), _AT_A_TIME):
            rows = group.iloc[start : start + _AT_A_TIME]
            for name, values in judge(rows).items():
                found.setdefault(name, np.zeros(len(table), dtype=values.dtype))[rows.index] = values
    return found
