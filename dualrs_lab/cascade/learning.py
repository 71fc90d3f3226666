"""Who is asked, and from which threshold on: learnt from votes about training images, over a whole grid.

A cascade is a dial: with a larger threshold an expert leaves more to those after it, and with none it is not
asked. Most of the level may go to one expert, whose radii then are nearly those that it has alone. What each
setting would certify is read from votes that were counted once, as if the draws of the certification had
given the same shares. Where votes are told apart by how sure they are (`models.Graded`), it is learnt as
well below which confidence each expert is silent. Nothing here needs to be sound: the theorem holds for any
cascade that was fixed before the draws that count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.cascade.radii import Cascade, bounded_steps, cascade_radius, vote_bounds
from dualrs_lab.evidence.votes import own_and_rival, sure_votes, want_labels
from dualrs_lab.settings import ALPHA

__all__ = ["MOST", "SURE_THRESHOLDS", "THRESHOLDS", "CascadeFront", "cascade_front"]


Floats = NDArray[np.float64]


THRESHOLDS = (-0.3, -0.15, 0.0, 0.15, 0.3, 0.6, 1.0, 1.5)
"""What each expert may want before it accepts, in the unit of a radius, unless others are given."""


SURE_THRESHOLDS = (-0.15, 0.0, 0.15, 0.3, 0.6)
"""The same where there are confidences as well, which are tried with each of them."""


MOST = 15 / 16
"""Of the level, for the one expert that may get most of it."""


@dataclass(frozen=True)
class CascadeFront:
    """Cascades (S,), and the share of images that each certifies at radii: curves (S, R).

    `sure` (S,) holds the confidence below which each expert of a cascade is silent, 0 where never.
    """

    radii: tuple[float, ...]
    cascades: tuple[Cascade, ...]
    curves: Floats
    sure: tuple[tuple[float, ...], ...] = ()

    def best(self, weights: Sequence[float]) -> int:
        """The number of the cascade whose weighted curve is largest; the first one where several are.

        Raises ValueError unless there is a finite weight >= 0 for each radius, and one above 0.
        """
        worth = np.asarray(weights, dtype=np.float64)
        fine = worth.shape == (len(self.radii),) and np.isfinite(worth).all() and (worth >= 0).all()
        if not fine or not worth.any():
            raise ValueError(
                f"CascadeFront.best: wanted a weight >= 0 for each of {len(self.radii)} radii, not all 0; "
                f"got {tuple(weights)}"
            )
        return int((self.curves @ worth).argmax())

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
    thresholds: Sequence[float] | None = None,
    confidences: Sequence[float] = (),
) -> CascadeFront:
    """What every cascade of these experts would certify, from votes (N, K, C) about images with labels (N,).

    Each expert is left out or has one of the `thresholds` (None: THRESHOLDS); the larger sigma is asked
    first. All bounds have the same level, or one expert has MOST of it. Shares of votes count as if `draws`
    had given them, at level `alpha` for each certificate. With `confidences` that tell the votes apart,
    (N, K, C (T + 1)), each expert that is asked has one of them, or 0, besides one of the thresholds (None:
    SURE_THRESHOLDS). Raises ValueError where shapes do not fit, where an image has no votes, and as `Cascade`
    does.
    """
    limits = (SURE_THRESHOLDS if confidences else THRESHOLDS) if thresholds is None else thresholds
    votes, kinds, noise = np.asarray(counts), np.asarray(labels), np.asarray(sigmas, dtype=np.float64)
    fits = votes.ndim == 3 and kinds.shape == votes.shape[:1] and noise.shape == votes.shape[1:2]
    classes, left = divmod(votes.shape[2] if votes.ndim == 3 else 0, len(confidences) + 1)
    if not fits or left or not len(votes) or classes < 2 or (votes.sum(axis=2) == 0).any():
        raise ValueError(
            f"cascade_front: got counts {votes.shape}, labels {kinds.shape} and {len(noise)} sigmas; wanted "
            f"(N, K, C{f' · {len(confidences) + 1}' if confidences else ''}), (N,) and K, with votes about "
            "each image"
        )
    want_labels("cascade_front", kinds, classes)
    order = np.argsort(-noise, kind="stable")
    votes, noise = votes[:, order], noise[order]

    @cache
    def bounds(expert: int, sure: float, level: float) -> tuple[Floats, Floats]:
        counted = sure_votes(votes[:, expert], confidences, sure)[:, :classes]
        share = (counted + 0.5) / (votes[:, expert].sum(axis=1, keepdims=True) + 1)
        own, _ = own_and_rival(np.floor(share * draws), kinds)
        _, rival = own_and_rival(np.ceil(share * draws), kinds)
        return vote_bounds(own, rival, np.int64(draws), level)

    @cache
    def lengths(expert: int, limit: float, sure: float, level: float) -> tuple[Floats, Floats]:
        low, high = (bound[:, None] for bound in bounds(expert, sure, level))
        one = Cascade((float(noise[expert]),), (limit,))
        found = bounded_steps(low, high, np.ones(low.shape, dtype=bool), cascade=one)
        return found.accepts[:, 0], found.errs[:, 0]

    cascades, curves, each_sure = list[Cascade](), list[Floats](), list[tuple[float, ...]]()
    ways = [(float(limit), float(sure)) for limit in limits for sure in (0, *confidences)]
    for asked, cascade, sure in _settings(noise, ways, classes):
        told = zip(asked, cascade.limits, sure, cascade.levels(alpha), strict=True)
        accepts, errs = (
            np.stack(each, axis=1) for each in zip(*(lengths(*one) for one in told), strict=True)
        )
        cascades.append(cascade)
        each_sure.append(sure)
        curves.append((cascade_radius(accepts, errs)[:, None] > np.asarray(radii)).mean(axis=0))
    return CascadeFront(tuple(map(float, radii)), tuple(cascades), np.asarray(curves), tuple(each_sure))


def _settings(
    sigmas: Floats, ways: Sequence[tuple[float, float]], classes: int
) -> Iterator[tuple[list[int], Cascade, tuple[float, ...]]]:
    # each expert left out (None), or asked with a threshold and a confidence
    for setting in product((None, *ways), repeat=len(sigmas)):
        asked = [i for i, way in enumerate(setting) if way is not None]
        if asked:
            limits, sure = zip(*(way for way in setting if way is not None), strict=True)
            answers = classes if any(sure) else None
            for shares in _shares(len(asked)):
                yield asked, Cascade(tuple(float(sigmas[i]) for i in asked), limits, shares, answers), sure


def _shares(experts: int) -> list[tuple[float, ...]]:
    # alike, or most of the level for one expert
    if experts == 1:
        return [()]
    rest = (1 - MOST) / (experts - 1)
    return [(), *(tuple(MOST if i == one else rest for i in range(experts)) for one in range(experts))]
