"""What the rows of a cascade say by their votes alone, all rows together; see `evidence.recompute`."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.cascade.certificate import confidences_in
from dualrs_lab.cascade.radii import CASCADE_RULES, Cascade, first_to_accept, steps
from dualrs_lab.evidence.claim import ABSTAIN, answered, whole
from dualrs_lab.evidence.counts import expert_counts, in_parts, rule_of


def recomputed_columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """What the rows say by their votes alone, see `evidence.recompute`."""
    own = [name for name in ("shares", "answers") if name in table]
    return in_parts(table, ["thresholds", *own, "alpha"], _alike)


def _alike(rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
    # of rows (N,) with the same thresholds, shares of the level, answers and alpha
    names, sigmas, alpha, kinds, selection, votes = expert_counts(rows)
    limits, shares = (
        tuple(map(float, str(rows[name].iloc[0]).split())) if name in rows else ()
        for name in ("thresholds", "shares")
    )
    cascade = Cascade(sigmas, limits, shares, _answers(rows, kinds), confidences_in(names))
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


def _answers(rows: pd.DataFrame, kinds: NDArray[np.int64]) -> int | None:
    # how many of the classes that are counted are answers: class 0 always is
    if "answers" not in rows:
        return None
    said = whole(rows["answers"].iloc[0])
    if said < 1:
        raise ValueError(f"wanted answers >= 1, got {said}")
    return int(np.searchsorted(kinds, said))
