"""What the rows of a cascade say by their votes alone, all rows together; see `evidence.recompute`."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.cascade.radii import CASCADE_RULES, Cascade, first_to_accept, steps
from dualrs_lab.evidence.claim import ABSTAIN, answered
from dualrs_lab.evidence.counts import rule_of
from dualrs_lab.evidence.rows import check_each
from dualrs_lab.evidence.votes import read_column

_AT_A_TIME = 500  # rows, as counts are of all classes that occur in them


def recomputed_columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """What the rows say by their votes alone, see `evidence.recompute`."""
    found: dict[str, NDArray[Any]] = {}
    for _, alike in table.groupby(["thresholds", "alpha"], sort=False):
        for start in range(0, len(alike), _AT_A_TIME):
            rows = alike.iloc[start : start + _AT_A_TIME]
            for name, values in _alike(rows).items():
                found.setdefault(name, np.zeros(len(table), dtype=values.dtype))[rows.index] = values
    return found


def _alike(rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
    # of rows (N,) with the same thresholds and alpha
    names = [str(name).removeprefix("votes_") for name in rows if str(name).startswith("votes_")]
    limits = tuple(map(float, str(rows["thresholds"].iloc[0]).split()))
    cascade, alpha = Cascade(tuple(map(float, names)), limits), float(rows["alpha"].iloc[0])
    if not 0 < alpha < 1:
        raise ValueError(f"wanted alpha in (0, 1), got {alpha}")
    every = {
        what: [read_column(f"{what}_{name}", rows[f"{what}_{name}"]) for name in names]
        for what in ("selection", "votes")
    }
    kinds = np.unique(np.concatenate([[0], *(one.kinds for columns in every.values() for one in columns)]))
    selection, votes = (np.stack([one.counts_of(kinds) for one in columns], 1) for columns in every.values())
    drawn = selection.sum((1, 2)) + votes.sum((1, 2))
    check_each("votes", rows, "drawn >= its votes", rows["drawn"].to_numpy() >= drawn, "drawn")
    expert, y = first_to_accept(selection, cascade)
    rule = rule_of(rows, CASCADE_RULES) if "rule" in rows else CASCADE_RULES[1]
    found = steps(votes, np.maximum(y, 0), cascade=cascade, alpha=alpha, rule=rule)
    radius = np.where(y != ABSTAIN, np.maximum(found.radius, 0.0), 0.0)
    guess = np.where(y != ABSTAIN, kinds[np.maximum(y, 0)], ABSTAIN)
    said = {"radius": radius, "predict": answered(guess, radius)}
    said |= {"sigma": np.where(expert != ABSTAIN, np.asarray(cascade.sigmas)[np.maximum(expert, 0)], 0.0)}
    for j, name in enumerate(names):
        said |= {f"accepts_{name}": found.accepts[:, j], f"errs_{name}": found.errs[:, j]}
    return said
