"""Who is asked, and from which threshold on: learnt from votes about training images, over a whole grid.

A cascade is a dial: with a larger threshold an expert leaves more to those after it, and with none it is not
asked. Most of the level may go to one expert, whose radii then are nearly those that it has alone. What each
setting would certify is read from votes that were counted once, as if the draws of the certification had
given the same shares. Nothing here needs to be sound: the theorem holds for any cascade that was fixed before
the draws that count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.cascade.radii import Cascade, bounded_steps, vote_bounds
from dualrs_lab.evidence.votes import own_and_rival, want_labels
from dualrs_lab.settings import ALPHA, check_worth

__all__ = ["MOST", "THRESHOLDS", "CascadeFront", "cascade_front", "expected_bounds", "level_shares"]


Floats = NDArray[np.float64]


THRESHOLDS = (-0.3, -0.15, 0.0, 0.15, 0.3, 0.6, 1.0, 1.5)
"""What each expert may want before it accepts, in the unit of a radius, unless others are given."""


MOST = 15 / 16
"""Of the level, for the one expert that may get most of it."""


@dataclass(frozen=True)
class CascadeFront:
    """Cascades (S,), and the share of images that each certifies at radii: curves (S, R)."""

    radii: tuple[float, ...]
    cascades: tuple[Cascade, ...]
    curves: Floats

    def best(self, weights: Sequence[float]) -> int:
        """The number of the cascade whose weighted curve is largest; the first one where several are.

        Raises ValueError unless there is a finite weight >= 0 for each radius, and one above 0.
        """
        check_worth("CascadeFront.best", self.radii, weights)
        return int((self.curves @ np.asarray(weights)).argmax())

    def undominated(self, columns: Sequence[ArrayLike]) -> NDArray[np.int64]:
        """Numbers of the cascades that no other one beats, by weights (R,) of each of two or more goals.

        One beats another where it is as good by all goals and better by one. Sorted by the first goal.
        """
        goals = np.stack([self.curves @ np.asarray(column, dtype=np.float64) for column in columns], axis=1)
        order, kept = np.lexsort(-goals.T[::-1]), list[int]()
        for number in order:  # what comes later is no better by the first goal
            beaten = any((goals[other] >= goals[number]).all() for other in kept)
            if not beaten:
                kept.append(int(number))
        return np.asarray(kept, dtype=np.int64)


def cascade_front(
    counts: ArrayLike,
    labels: ArrayLike,
    sigmas: Sequence[float],
    *,
    radii: Sequence[float],
    draws: int = 10_000,
    alpha: float = ALPHA,
    thresholds: Sequence[float] = THRESHOLDS,
) -> CascadeFront:
    """What every cascade of these experts would certify, from votes (N, K, C) about images with labels (N,).

    Each expert is left out or has one of the `thresholds`; the larger sigma is asked first. All bounds have
    the same level, or one expert has MOST of it. Shares of votes count as if `draws` had given them, at level
    `alpha` for each certificate. Raises ValueError where shapes do not fit, where an image has no votes, and
    as `Cascade` does.
    """
    votes, kinds, noise = np.asarray(counts), np.asarray(labels), np.asarray(sigmas, dtype=np.float64)
    fits = votes.ndim == 3 and kinds.shape == votes.shape[:1] and noise.shape == votes.shape[1:2]
    if not fits or not len(votes) or votes.shape[2] < 2 or (votes.sum(axis=2) == 0).any():
        raise ValueError(
            f"cascade_front: got counts {votes.shape}, labels {kinds.shape} and {len(noise)} sigmas; wanted "
            "(N, K, C), (N,) and K, with votes about each image"
        )
    want_labels("cascade_front", kinds, votes.shape[2])
    order = np.argsort(-noise, kind="stable")
    votes, noise = votes[:, order], noise[order]

    @cache
    def of(expert: int, level: float) -> tuple[Floats, Floats]:
        return expected_bounds(votes[:, expert], kinds, draws, level)

    cascades, curves = list[Cascade](), list[Floats]()
    for asked, cascade in _settings(noise, thresholds):
        each = [of(i, level) for i, level in zip(asked, cascade.levels(alpha), strict=True)]
        low, high = (np.stack(bounds, axis=1) for bounds in zip(*each, strict=True))
        reached = bounded_steps(low, high, np.ones(low.shape, dtype=bool), cascade=cascade).radius
        cascades.append(cascade)
        curves.append((reached[:, None] > np.asarray(radii)).mean(axis=0))
    return CascadeFront(tuple(map(float, radii)), tuple(cascades), np.asarray(curves))


def expected_bounds(
    counts: NDArray[np.int64],
    labels: NDArray[np.int64],
    draws: int,
    level: float,
    answers: int | None = None,
    unseen: float = 0.5,
) -> tuple[Floats, Floats]:
    """Bounds (N,) of the label and of its strongest rival, as if `draws` had given the shares of votes.

    From counts (N, C); classes from `answers` on are silence. `unseen` votes are added for and against a
    class, so that n of n are no certainty.
    """
    share = (counts[:, :answers] + unseen) / (counts.sum(axis=1, keepdims=True) + 2 * unseen)
    own, _ = own_and_rival(np.floor(share * draws), labels)
    _, rival = own_and_rival(np.ceil(share * draws), labels)
    return vote_bounds(own, rival, np.int64(draws), level)


def _settings(sigmas: Floats, thresholds: Sequence[float]) -> Iterator[tuple[list[int], Cascade]]:
    # each expert left out (None) or with a threshold
    for setting in product((None, *thresholds), repeat=len(sigmas)):
        asked = [i for i, limit in enumerate(setting) if limit is not None]
        if asked:
            limits = tuple(float(limit) for limit in setting if limit is not None)
            for shares in level_shares(len(asked)):
                yield asked, Cascade(tuple(float(sigmas[i]) for i in asked), limits, shares)


def level_shares(experts: int) -> list[tuple[float, ...]]:
    """Shares of the level that are tried: alike, or MOST for one expert."""
    if experts == 1:
        return [()]
    rest = (1 - MOST) / (experts - 1)
    return [(), *(tuple(MOST if i == one else rest for i in range(experts)) for one in range(experts))]
