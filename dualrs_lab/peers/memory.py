"""A noise level for each input by its own votes, and a memory that keeps the promises: no classifier.

Alfarra et al. (2022) and Eiras et al. (2022) take for each input the level that certifies most. Asked at
another input, the system takes another level, and what it promised at the first need not hold there (see
lesson 11). Their remedy is a memory. Inputs are asked one after the other, and each answer is kept with its
ball. A new input

- inside a kept ball takes over its answer, with what is left of that ball around it,
- elsewhere keeps its own answer, and its ball is cut where it meets a kept ball of another class.

So no two balls contradict each other. But what the system answers at an input, and how far, depends on what
was asked before: ask in another order, and both change. It is no function of its input, hence no classifier,
and a certified accuracy over a test set is one of that order. With an empty memory for each input the balls
are not cut at all, and the claims are false, as lesson 11 shows. `remembered` is the rule, `remembered_table`
a table of it to be compared.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dualrs_lab.evidence.claim import ABSTAIN, Claims, claimed
from dualrs_lab.evidence.joins import join_votes
from dualrs_lab.evidence.recompute import reclaimed
from dualrs_lab.evidence.table import as_table

__all__ = ["NO_CLASSIFIER", "level_by_votes", "remembered", "remembered_table"]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


NO_CLASSIFIER = " (no classifier: depends on the order)"
"""How names of systems with a memory end, so that nobody takes them for classifiers."""


_CLAMP = 0.02, 0.98  # of probabilities by few votes, as in their code


def remembered(
    away: ArrayLike, answers: ArrayLike, radii: ArrayLike, *, order: ArrayLike | None = None
) -> tuple[Ints, Floats]:
    """What a system with a memory answers, and how far (N,), if N inputs are asked in an `order`.

    `away` (N, N) are their l2 distances; `answers` (N,) and `radii` (N,) those of each input by itself;
    ABSTAIN, which has radius 0, is not kept. `order` holds each position once (None: as they come). Raises
    ValueError for others.
    """
    away, own = np.asarray(away, dtype=np.float64), np.asarray(answers, dtype=np.int64)
    reach = np.asarray(radii, dtype=np.float64)
    turn = np.arange(len(own)) if order is None else np.asarray(order)
    if away.shape != 2 * own.shape or reach.shape != own.shape or sorted(turn) != [*range(len(own))]:
        raise ValueError(
            f"remembered: got distances {away.shape}, answers {own.shape}, radii {reach.shape} and an order "
            f"of {turn.shape}; wanted (N, N), (N,), (N,), and each position once"
        )
    said, found, asked = own.copy(), np.where(own == ABSTAIN, 0.0, reach), turn[:0]
    for i in turn:
        kept = asked[found[asked] > 0]
        room = found[kept] - away[i, kept]  # of each kept ball around this input; below 0 outside
        inside = kept[room >= 0]
        if len(inside):  # balls of one class, as those of others do not meet them
            said[i] = said[inside[0]]
        free = min(found[i], *(-room[said[kept] != said[i]]), np.inf) if said[i] == own[i] else 0.0
        found[i] = max(free, *room, 0.0)
        said[i] = said[i] if found[i] > 0 else ABSTAIN
        asked = np.append(asked, i)
    return said, found


def level_by_votes(selection: NDArray[np.int64], sigmas: ArrayLike) -> Ints:
    """Which of K levels (N,) has the largest sigma / 2 (Phi^-1(p) - Phi^-1(q)), by a few votes (N, K, C).

    p and q are the shares of the two leading classes, clamped to [0.02, 0.98] as published.
    """
    top = np.sort(selection / selection.sum(axis=2, keepdims=True), axis=2)[..., -2:]
    first, second = np.moveaxis(special.ndtri(np.clip(top, *_CLAMP)), -1, 0)[::-1]
    return np.asarray((np.asarray(sigmas) / 2 * (first - second)).argmax(axis=1))


def remembered_table(
    tables: Mapping[float, Claims],
    away: ArrayLike,
    *,
    rule: str = "two-bounds",
    order: ArrayLike | None = None,
) -> pd.DataFrame:
    """Claims of a system with a memory, which asks the level that looks best by the selection votes.

    `tables` are those of `smoothing.certify_table` by sigma, `away` (N, N) the l2 distances of the N images
    that all of them hold, by ascending idx, which is the order too unless one is given. The counted votes
    certify the level that the others chose, by a `rule`. Raises ValueError as `evidence.join_votes` and
    `remembered`.
    """
    sigmas = sorted(tables)
    joined = join_votes(tables, sigmas)
    level = level_by_votes(joined.selection, sigmas), np.arange(len(joined.idx))
    own = [reclaimed(as_table(tables[sigma]), rule).set_index("idx").loc[joined.idx] for sigma in sigmas]
    answers, radii = (np.stack([table[name] for table in own])[level] for name in ("predict", "radius"))
    said, reach = remembered(away, answers, radii, order=order)
    images = pd.DataFrame({"idx": joined.idx, "label": joined.label})
    return claimed(images, said, reach).assign(alone=radii, sigma=np.asarray(sigmas)[level[0]])
