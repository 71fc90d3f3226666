"""How many draws an image gets: all, enough for given radii, or enough for its own radius.

A rule reads the counts of the selection draws and gives a `Watch`, which looks at the counts of the images as
their draws come in, and says which images are done and what their certificates rest on. Every certificate
keeps its level alpha, whenever the rule stops: `AllDraws` and `InputSpecific` fix the number of draws before
the first of them, `AtRadii` uses a bound that holds at all numbers of draws at once. Where an original is
certified by votes of its copy (`evidence.radii`), no image stops before all of its pairs are there.

Counts are int64 (images, classes). The class in question leads the selection; the lowest wins a tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.evidence.anytime import anytime_lower_bound
from dualrs_lab.evidence.binomial import lower_bound, upper_bound
from dualrs_lab.evidence.radii import RULES, PairedCounts, cohens, enough_draws, signed_margin
from dualrs_lab.settings import COUNT, Range, check_settings, setting
from dualrs_lab.smoothing.noise import BLOCK

__all__ = ["AllDraws", "AtRadii", "InputSpecific", "Stopping", "Watch"]


Counts = NDArray[np.int64]


Floats = NDArray[np.float64]


class Pairs(Protocol):
    """What an original votes on the first `paired` draws of each image, beside its copy."""

    paired: int

    def of(self, position: int) -> PairedCounts:
        """The counts of an image, all of whose pairs are there."""


_FAR = 1e9  # no radius is below minus this


class Watch:
    """Looks at the draws of some images: each takes the number of `draws` (I,) set for it."""

    def __init__(self, draws: Counts) -> None:
        self.draws = draws

    def done(self, images: Counts, counts: Counts) -> NDArray[np.bool_]:
        """Which of `images` (A,) need no more draws, by their counts (A, K) so far.

        To be asked after every block of draws, in their order; an image occurs at most once.
        """
        return np.asarray(counts.sum(axis=1) >= self.draws[images])

    def evidence(self, image: int, counts: Counts) -> Counts:
        """The counts (K,) that the certificate of `image` rests on, given all its `counts`."""
        del image
        return counts


@dataclass(frozen=True, kw_only=True)
class AllDraws:
    """n draws for every image, as Cohen, Rosenfeld and Kolter (2019) do."""

    bound: ClassVar[str] = "clopper-pearson"

    def selection(self, n0: int) -> int:
        """Draws that select the class."""
        return n0

    def watch(
        self,
        selection: Counts,
        *,
        n: int,
        alpha: float,
        sigma: float,
        rule: str = RULES[0],
        pairs: Pairs | None = None,
        answers: int | None = None,
    ) -> Watch:
        """A watch over images with these `selection` counts (I, K); `pairs` are those of an original.

        Of K kinds of votes, told apart by how sure they are, `answers` are classes (None: all).
        """
        del alpha, sigma, rule, pairs, answers
        return Watch(np.full(len(selection), n))


@dataclass(frozen=True, kw_only=True)
class AtRadii:
    """Draws until it is settled which of the `radii` are certified, or n are used (Voráček 2024, betting).

    A radius is certified as soon as the anytime bounds reach it by the rule. It is given up when even the
    opposite bounds, at level `futility`, fall short of it, or when classes of those probabilities would not
    reach it with the draws that are left: this can cost power, never the guarantee. Raises ValueError unless
    the radii are >= 0, finite and ascending.
    """

    radii: Sequence[float] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # l2, in [0, 1] pixel units
    futility: float = 0.001  # level at which a radius is given up
    bound: ClassVar[str] = "betting"

    def __post_init__(self) -> None:
        radii = tuple(float(radius) for radius in self.radii)
        fine = all(0 <= radius < np.inf for radius in radii) and radii == tuple(sorted(set(radii)))
        if not fine or not radii or not 0 < self.futility < 1:
            raise ValueError(
                f"AtRadii: wanted finite radii >= 0, each once, ascending, and 0 < futility < 1; got {self}"
            )
        object.__setattr__(self, "radii", radii)

    def selection(self, n0: int) -> int:
        """Draws that select the class."""
        return n0

    def watch(
        self,
        selection: Counts,
        *,
        n: int,
        alpha: float,
        sigma: float,
        rule: str = RULES[0],
        pairs: Pairs | None = None,
        answers: int | None = None,
    ) -> Watch:
        """As that of `AllDraws`."""
        del answers
        return _RadiiWatch(self, selection, n=n, alpha=alpha, sigma=sigma, rule=rule, pairs=pairs)


class _RadiiWatch(Watch):
    """Keeps, for each image, the largest radius so far and the counts that gave it.

    Its bounds hold at all numbers of draws at once, so that the best radius is as valid as the last, and
    nothing that was certified is lost by drawing on for a larger one.
    """

    def __init__(
        self,
        watching: AtRadii,
        selection: Counts,
        *,
        n: int,
        alpha: float,
        sigma: float,
        rule: str,
        pairs: Pairs | None,
    ) -> None:
        super().__init__(np.full(len(selection), n))
        self._radii, self._sigma, self._n = np.asarray(watching.radii), sigma, n
        self._top = selection.argmax(axis=1)
        alike = selection.max(1) == selection.sum(1)
        self._alone = np.broadcast_to(cohens(rule, alike), len(selection))
        self._alpha, self._futility = np.where(self._alone, alpha, alpha / 2), watching.futility
        self._lost, self._gained = np.zeros(len(selection)), np.zeros(len(selection))
        self._pairs, self._least = pairs, 0 if pairs is None else pairs.paired
        if pairs is not None:
            self._alpha = self._alpha / 2
        self._own = alike & (pairs is not None)  # whose pairs alone decide
        self._compared = np.zeros(len(selection), dtype=bool)
        self._radius = np.full(len(selection), -np.inf)
        self._high, self._theirs = np.ones(len(selection)), np.zeros(len(selection))
        self._best = np.zeros_like(selection)

    def done(self, images: Counts, counts: Counts) -> NDArray[np.bool_]:
        begun = counts.sum(axis=1) >= self._least
        found = np.zeros(len(images), dtype=bool)
        if begun.any():
            self._compare(images[begun])
            found[begun] = self._settled(images[begun], counts[begun])
        return found

    def _settled(self, images: Counts, counts: Counts) -> NDArray[np.bool_]:
        drawn, own = counts.sum(axis=1), counts[np.arange(len(images)), self._top[images]]
        rival = np.where(np.arange(counts.shape[1]) == self._top[images, None], 0, counts).max(axis=1)
        left = np.maximum(self._n - drawn, 0)
        at_best = own + np.ceil(left * self._high[images])  # of all n draws, at the bounds so far
        at_worst = np.minimum(rival + np.floor(left * self._theirs[images]), drawn + left - at_best)
        alpha, futility = self._alpha[images], np.full(len(images), self._futility)
        low, rest, against, theirs, hoped, left_over = anytime_lower_bound(
            [own, drawn - rival, drawn - own, rival, at_best, drawn + left - at_worst],
            [drawn, drawn, drawn, drawn, drawn + left, drawn + left],
            [alpha, alpha, futility, futility, alpha, alpha],
        )
        now, hope = self._reach(images, low, 1 - rest), self._reach(images, hoped, 1 - left_over)
        self._high[images] = np.minimum(self._high[images], 1 - against)
        self._theirs[images] = np.maximum(self._theirs[images], theirs)
        most = self._reach(images, self._high[images], self._theirs[images])
        better = now > self._radius[images]
        self._best[images[better]] = counts[better]
        self._radius[images] = radius = np.maximum(self._radius[images], now)
        settled = self._reached(radius) >= self._reached(np.minimum(most, hope))
        return np.asarray(settled | self._own[images] | (left == 0))

    def _compare(self, images: Counts) -> None:
        # bounds of how often the original votes otherwise, once all pairs of an image are there
        if self._pairs is None:
            return
        for image in images[~self._compared[images]].tolist():
            counts = self._pairs.of(image)
            self._lost[image], self._gained[image] = (
                upper_bound(count, counts.paired, self._alpha[image])
                for count in (counts.lost, counts.gained)
            )
            self._compared[image] = True

    def evidence(self, image: int, counts: Counts) -> Counts:
        del counts
        return np.array(self._best[image])

    def _reach(self, images: Counts, low: Floats, high: Floats) -> Floats:
        # the radius from a bound of the class and one of its largest rival; what is below 0 can be compared
        theirs = np.where(self._alone[images], 1.0, np.minimum(high + self._gained[images], 1.0))
        own = np.maximum(low - self._lost[images], 0.0)
        return np.maximum(signed_margin(own, theirs, self._sigma), -_FAR)

    def _reached(self, radius: Floats) -> Counts:
        # how many of the radii this one gives
        return np.where(radius > 0, np.searchsorted(self._radii, radius, side="right"), 0)


@dataclass(frozen=True, kw_only=True)
class InputSpecific:
    """As many draws as an image needs to lose at most `loss` sigma of the radius that n draws would give.

    The selection draws, at least `pilot`, choose the number (Chen et al. 2022). Unlike there, they are not
    counted again: the bound rests on fresh draws, so it keeps its level. Where the pilot's share of the votes
    would certify nothing, its upper bound decides; where that would not either, one block is drawn, or
    `least`: a system that also asks others has to know of an expert that it is undecided. Of votes that are
    told apart by how sure they are, all count here. Raises ValueError unless pilot and least >= 1 and
    loss > 0.
    """

    pilot: int = setting(1000, "draws that choose the number of the others", COUNT)
    loss: float = setting(
        0.05, "expected, in units of sigma; the actual loss depends on the votes", Range(above=0)
    )
    least: int | None = setting(None, "draws that every image gets", COUNT)
    bound: ClassVar[str] = "clopper-pearson"

    def __post_init__(self) -> None:
        check_settings(self)

    def selection(self, n0: int) -> int:
        """Draws that select the class and the number of draws."""
        return max(n0, self.pilot)

    def watch(
        self,
        selection: Counts,
        *,
        n: int,
        alpha: float,
        sigma: float,
        rule: str = RULES[0],
        pairs: Pairs | None = None,
        answers: int | None = None,
    ) -> Watch:
        """As that of `AllDraws`."""
        del sigma  # cancels: radius and loss are both in units of sigma
        if answers is not None:
            selection = selection.reshape(len(selection), -1, answers).sum(axis=1)
        alpha, least = (alpha, 1) if pairs is None else (alpha / 2, pairs.paired)
        drawn, (second, votes) = selection.sum(axis=1), np.sort(np.pad(selection, ((0, 0), (1, 0))))[:, -2:].T
        high = upper_bound(votes, drawn, alpha)
        low = np.minimum(lower_bound(second, drawn, alpha), 1 - high)
        how = {"unanimous": votes == drawn, "rule": rule, "step": BLOCK}
        likely = enough_draws(votes / drawn, n, alpha, self.loss, rival=second / drawn, **how)
        at_best = enough_draws(high, n, alpha, self.loss, rival=low, **how)
        draws = np.maximum(np.where(likely > 0, likely, at_best), min(self.least or BLOCK, n))
        if pairs is not None:
            draws = np.where(votes == drawn, 1, draws)  # the original's own votes decide
        return Watch(np.maximum(draws, least))


Stopping = AllDraws | AtRadii | InputSpecific
