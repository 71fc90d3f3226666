"""What the rows of a cascade say by their votes alone, all rows together; see `evidence.recompute`."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.cascade.radii import CASCADE_RULES, Cascade, first_to_accept, steps
from dualrs_lab.evidence.claim import ABSTAIN, answered
from dualrs_lab.evidence.counts import expert_counts, in_parts, rule_of


def recomputed_columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """What the rows say by their votes alone, see `evidence.recompute`."""
    own = ["shares"] if "shares" in table else []
    return in_parts(table, ["thresholds", *own, "alpha"], _alike)


def _alike(rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
    # of rows (N,) with the same thresholds, shares of the level and alpha
    names, sigmas, alpha, kinds, selection, votes = expert_counts(rows)
    limits, shares = (
        tuple(map(float, str(rows[name].iloc[0]).split())) if name in rows else ()
        for name in ("thresholds", "shares")
    )
    cascade = Cascade(sigmas, limits, shares)
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
