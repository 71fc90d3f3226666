"""What the rows of a combiner say by their votes alone, all rows together; see `evidence.recompute`."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import combined_radius, reach_of_each, surest_class
from dualrs_lab.evidence.claim import answered
from dualrs_lab.evidence.counts import rule_of
from dualrs_lab.evidence.rows import check_each
from dualrs_lab.evidence.votes import read_column
from dualrs_lab.settings import RULE

_AT_A_TIME = 500  # rows, as counts are of all classes that occur in them


def recomputed_columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """What the rows say by their votes alone, see `evidence.recompute`."""
    rule_of(table, RULE.names[:1])
    found: dict[str, NDArray[Any]] = {}
    for _, alike in table.groupby(["combiner", "alpha"], sort=False):
        for start in range(0, len(alike), _AT_A_TIME):
            rows = alike.iloc[start : start + _AT_A_TIME]
            for name, values in _alike(rows).items():
                found.setdefault(name, np.zeros(len(table), dtype=values.dtype))[rows.index] = values
    return found


def _alike(rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
    # of rows (N,) with the same combiner and alpha
    names = [str(name).removeprefix("votes_") for name in rows if str(name).startswith("votes_")]
    combiner = Combiner.of_text(tuple(map(float, names)), str(rows["combiner"].iloc[0]))
    alpha = float(rows["alpha"].iloc[0])
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
    y = surest_class(selection, combiner)
    radius = np.maximum(0.0, combined_radius(votes, y, combiner=combiner, alpha=alpha))
    reaches = reach_of_each(votes, y, combiner=combiner, alpha=alpha)
    said = {"radius": radius, "predict": answered(kinds[y], radius)}
    said |= {"sigma": np.asarray(combiner.sigmas)[reaches.argmax(axis=1)]}
    return said | {f"reach_{name}": reaches[:, j] for j, name in enumerate(names)}
