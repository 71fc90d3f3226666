"""Who is asked, in which order and how often: searched, from votes about training images.

Where votes tell how sure they are (`models.Graded`), every noise level is as many experts as there are
confidences, and each may have any threshold, at any place. These are too many cascades to try (a grid for a
few experts is `cascade.learning`), so lists are grown: the best few of each length get one expert more, at
every place, and each of them is mended by exchange, as the best one seldom leads to the best. Where the least
of several advantages counts, all that grows so may be alike, and exchange of one expert ends early: so some
lists begin at random, and are mended, too. What a list would certify is read from votes that were counted
once.
Nothing here needs to be sound: the theorem holds for any cascade that was fixed before the draws that count.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.cascade.learning import THRESHOLDS, expected_bounds, level_shares
from dualrs_lab.cascade.radii import Cascade, bounded_steps
from dualrs_lab.evidence.votes import sure_votes, want_labels
from dualrs_lab.settings import ALPHA, check_worth

__all__ = ["UNSEEN", "CascadeGoal", "FoundCascade", "expected_curve", "search_cascade"]


Floats = NDArray[np.float64]


UNSEEN = 0.1
"""Votes that are added for and against a class, so that a share of 1 is no certainty.

By 2,000 draws of the larger experts of CIFAR-10 (`data/cifar10_recipes`): of images on which 400 draws agree,
the mean share is 0.9994 to 0.9998; 400.1 / 400.2 is 0.9998, and half a vote would say 0.9988.
"""


@dataclass(frozen=True, kw_only=True)
class CascadeGoal:
    """What a cascade is for: what an image is worth that is certified at each of `radii`.

    With `above`, certified accuracies (R,) in [0, 1], the least advantage over them counts, and a tenth of
    the weighted mean: a cascade for all radii at once. Raises ValueError for radii, weights or accuracies
    that do not fit.
    """

    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    weights: tuple[float, ...] = ()
    above: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        given = self.weights or (1.0,) * len(self.radii)
        check_worth("CascadeGoal", self.radii, given)
        if self.above and (len(self.above) != len(self.radii) or not all(0 <= a <= 1 for a in self.above)):
            raise ValueError(
                f"CascadeGoal: got accuracies {self.above}; wanted one in [0, 1] for each of the "
                f"radii {self.radii}"
            )
        object.__setattr__(self, "weights", tuple(map(float, given)))

    def worth(self, curves: ArrayLike) -> Floats:
        """Of certified accuracies (…, R)."""
        found, weights = np.asarray(curves, dtype=np.float64), np.asarray(self.weights)
        mean = found @ weights / weights.sum()
        if not self.above:
            return np.asarray(mean)
        ahead = np.where(weights > 0, found - np.asarray(self.above), np.inf)
        return np.asarray(ahead.min(axis=-1) + mean / 10)


@dataclass(frozen=True)
class FoundCascade:
    """A cascade, what it would certify (R,) of the images that it was learnt from, and what that is worth."""

    cascade: Cascade
    curve: tuple[float, ...]
    worth: float


_SHARED = 4  # so many of the best lists try several shares of the level


class _Expert(NamedTuple):
    level: int  # which of the noise levels
    sure: float
    limit: float


def search_cascade(
    counts: ArrayLike,
    labels: ArrayLike,
    sigmas: Sequence[float],
    *,
    goal: CascadeGoal,
    confidences: Sequence[float] = (),
    stages: int = 5,
    width: int = 12,
    starts: int = 12,
    seed: int = 0,
    thresholds: Sequence[float] = THRESHOLDS,
    plain: Sequence[float] = (),
    draws: int = 10_000,
    alpha: float = ALPHA,
) -> FoundCascade:
    """The best cascade found for `goal`, of at most so many `stages`, from votes (N, K, C (T + 1)).

    Votes are those of experts at K `sigmas` about images with labels (N,), told apart by T `confidences` (see
    `evidence.sure_votes`). A noise level may be asked again by another confidence, unless it is one of the
    `plain` ones, whose every vote counts. `width` lists of each length are grown on, and `starts` begin at
    random, by `seed`. Shares of votes count as if `draws` had given them, at level `alpha` for each
    certificate. Raises ValueError where shapes do not fit, where an image has no votes, for no stages or
    lists, for fewer than 0 starts, and as `sure_votes` and `Cascade` do.
    """
    votes, kinds = np.asarray(counts), np.asarray(labels)
    fits = votes.ndim == 3 and kinds.shape == votes.shape[:1] and len(sigmas) == votes.shape[1]
    classes, left = divmod(votes.shape[-1], len(confidences) + 1)
    if not fits or left or not len(votes) or classes < 2 or (votes.sum(axis=2) == 0).any():
        raise ValueError(
            f"search_cascade: got counts {votes.shape}, labels {kinds.shape}, {len(sigmas)} sigmas and "
            f"{len(confidences)} confidences; wanted (N, K, {len(confidences) + 1} C), (N,) and K, with "
            "votes about each image"
        )
    if stages < 1 or width < 1 or starts < 0:
        raise ValueError(
            f"search_cascade: got {stages} stages, {width} lists and {starts} starts; wanted 1, 1 and 0 at "
            "least"
        )
    want_labels("search_cascade", kinds, classes)
    each = [(0.0,) if sigma in plain else (0.0, *map(float, confidences)) for sigma in sigmas]
    told = {
        (level, sure): sure_votes(votes[:, level], confidences, sure)
        for level, least in enumerate(each)
        for sure in least
    }
    search = _Search(told, kinds, sigmas, goal, stages, width, thresholds, draws, alpha)
    return search.found(starts, np.random.default_rng(seed))


def expected_curve(
    cascade: Cascade,
    votes: Sequence[NDArray[np.int64]],
    labels: NDArray[np.int64],
    *,
    radii: Sequence[float],
    draws: int = 10_000,
    alpha: float = ALPHA,
) -> Floats:
    """What a cascade would certify at `radii` (R,), from votes (N, C + 1) of each expert, silence last.

    As if `draws` had given their shares, at level `alpha` for each certificate; see `evidence.sure_votes`.
    """
    each = [
        expected_bounds(counts, labels, draws, level, counts.shape[1] - 1, UNSEEN)
        for counts, level in zip(votes, cascade.levels(alpha), strict=True)
    ]
    low, high = (np.stack(bounds, axis=1) for bounds in zip(*each, strict=True))
    radius = bounded_steps(low, high, np.ones(low.shape, dtype=bool), cascade=cascade).radius
    return np.asarray((radius[:, None] > np.asarray(radii)).mean(axis=0))


class _Search:
    """All experts with both distances to each image, and lists of them that are grown."""

    def __init__(
        self,
        told: Mapping[tuple[int, float], NDArray[np.int64]],
        labels: NDArray[np.int64],
        sigmas: Sequence[float],
        goal: CascadeGoal,
        stages: int,
        width: int,
        thresholds: Sequence[float],
        draws: int,
        alpha: float,
    ) -> None:
        self.labels, self.sigmas, self.goal = labels, [*map(float, sigmas)], goal
        self.stages, self.width, self.draws, self.alpha = stages, width, draws, alpha
        self.told, self.classes = told, told[0, 0.0].shape[-1] - 1
        self.experts = [_Expert(*who, float(limit)) for who in self.told for limit in thresholds]
        who = {who: number for number, who in enumerate(self.told)}
        self.who = np.asarray([who[expert.level, expert.sure] for expert in self.experts])
        each = [self._lengths(expert) for expert in self.experts]  # at a level that is alike for all stages
        self.accepts, self.errs = (np.stack(side) for side in zip(*each, strict=True))  # (E, N)

    def found(self, starts: int, rng: np.random.Generator) -> FoundCascade:
        """The best list of any length, each of the best few with the shares of the level that suit it."""
        lists: list[tuple[int, ...]] = [()]
        best = list[tuple[float, tuple[int, ...]]]()
        for _ in range(self.stages):
            lists = self._best(grown for one in lists for grown in self._grown(one))
            mended = sorted(map(self._mended, lists), key=lambda pair: -pair[0])
            best.append(mended[0])
            lists = [*dict.fromkeys(one for _, one in mended)]
        best += [self._mended(self._drawn(rng)) for _ in range(starts)]
        ranked = sorted(best, key=lambda pair: (-round(pair[0], 9), len(pair[1])))
        few = [*dict.fromkeys(one for _, one in ranked)][:_SHARED]
        return max((self._judged(each) for one in few for each in self._shared(one)), key=lambda f: f.worth)

    def _drawn(self, rng: np.random.Generator) -> tuple[int, ...]:
        # a list of any length, at random; none comes twice
        kinds = np.unique(self.who)
        some = rng.permutation(kinds)[: rng.integers(1, self.stages + 1)]
        return tuple(int(rng.choice(np.flatnonzero(self.who == who))) for who in some)

    def _grown(self, one: tuple[int, ...]) -> Iterator[tuple[float, tuple[int, ...]]]:
        # the worth of a list with each expert, at each place; none comes twice
        fresh = ~np.isin(self.who, self.who[[*one]])
        for place in range(len(one) + 1):
            worth = np.where(fresh, self.goal.worth(self._curves(one, place)), -np.inf)
            for number in np.argsort(-worth, kind="stable")[: self.width]:
                if fresh[number]:
                    yield float(worth[number]), (*one[:place], int(number), *one[place:])

    def _curves(self, one: tuple[int, ...], place: int) -> Floats:
        # (E, R) of a list with each expert at this place. As R of `cascade.radii` is a minimum of maxima, the
        # parts before and after the place are worked out once.
        own, other = self.accepts[[*one]], self.errs[[*one]]
        before = np.full((len(one) + 1, own.shape[1]), -np.inf)
        before[1:] = np.maximum.accumulate(own, axis=0)
        guarded = np.maximum(other, before[:-1])
        first = guarded[:place].min(axis=0, initial=np.inf)
        later = guarded[place:].min(axis=0, initial=np.inf)
        radius = np.maximum(before[-1], self.accepts)
        np.minimum(radius, first, out=radius)
        np.minimum(radius, np.maximum(self.errs, before[place]), out=radius)
        np.minimum(radius, np.maximum(later, self.accepts), out=radius)
        return np.stack([(radius > r).mean(axis=1) for r in self.goal.radii], axis=1)

    def _best(self, grown: Iterator[tuple[float, tuple[int, ...]]]) -> list[tuple[int, ...]]:
        # so many lists of different worth, the best first
        kept = dict[float, tuple[int, ...]]()
        for worth, one in sorted(grown, key=lambda pair: -pair[0]):
            kept.setdefault(round(worth, 9), one)
            if len(kept) == self.width:
                break
        return [*kept.values()]

    def _mended(self, one: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        # exchange one expert at a time, also for one at another place, while that gains
        worth = -np.inf
        while True:
            fewer = [one[:place] + one[place + 1 :] for place in range(len(one))]
            better, other = max(pair for rest in fewer for pair in self._grown(rest))
            if better <= worth + 1e-9:
                return worth, one
            worth, one = better, other

    def _lengths(self, expert: _Expert) -> tuple[Floats, Floats]:
        # accepts and errs (N,)
        level = self.alpha / self.stages / (1 if expert.limit >= 0 else 2)
        alone = self._cascade((expert,))
        told = self.told[expert.level, expert.sure]
        bounds = expected_bounds(told, self.labels, self.draws, level, self.classes, UNSEEN)
        low, high = (bound[:, None] for bound in bounds)
        found = bounded_steps(low, high, np.ones(low.shape, dtype=bool), cascade=alone)
        return found.accepts[:, 0], found.errs[:, 0]

    def _cascade(self, asked: Sequence[_Expert]) -> Cascade:
        sure = tuple(expert.sure for expert in asked)
        return Cascade(
            tuple(self.sigmas[expert.level] for expert in asked),
            tuple(expert.limit for expert in asked),
            answers=self.classes if any(sure) else None,
            confidences=sure if any(sure) else (),
        )

    def _shared(self, one: tuple[int, ...]) -> Iterator[tuple[list[_Expert], Cascade]]:
        asked = [self.experts[number] for number in one]
        for shares in level_shares(len(asked)):
            yield asked, replace(self._cascade(asked), shares=shares)

    def _judged(self, setting: tuple[list[_Expert], Cascade]) -> FoundCascade:
        asked, cascade = setting
        votes = [self.told[expert.level, expert.sure] for expert in asked]
        radii, draws = self.goal.radii, self.draws
        curve = expected_curve(cascade, votes, self.labels, radii=radii, draws=draws, alpha=self.alpha)
        return FoundCascade(cascade, tuple(curve.tolist()), float(self.goal.worth(curve)))
