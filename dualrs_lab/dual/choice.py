"""How an estimator's votes choose an expert, and how close another choice may be.

Votes are counts (…, S, C) over S streams of draws, each with its own noise: one stream with a class per
expert (`Median`, `Plurality`), or one per cut with the classes "at most k" and "more than k" (`Cuts`).
Experts are numbered from 0, in any order of their sigmas. Splits hold where `top` comes from draws other than
those of `entry`. The theory is in `dual.radii`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.dual.radii import cuts_entry, median_entry, plurality_entry
from dualrs_lab.dual.split import Split, even_split
from dualrs_lab.evidence.radii import RULES

__all__ = ["Cuts", "Estimator", "Median", "Plurality"]


Ints = NDArray[np.int64]


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Vote:
    """Each draw votes for one of the experts, under noise of one `sigma`."""

    sigma: float

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise of each stream."""
        return (self.sigma,)

    def classes(self, experts: int) -> int:
        """Classes that a stream votes for."""
        return experts


@dataclass(frozen=True)
class Median(_Vote):
    """The median vote for an expert, under noise of one `sigma`."""

    def split(self, experts: int, alpha: float, rule: str = RULES[0]) -> Split:
        """The even split of `alpha` over all bounds."""
        return even_split(experts, alpha, monotone=True, guessed_apart=True, rule=rule)

    def top(self, votes: Ints) -> Ints:
        """The expert (…,) that votes (…, 1, K) choose."""
        at_most = np.cumsum(votes[..., 0, :], axis=-1)
        return np.asarray((2 * at_most >= at_most[..., -1:]).argmax(axis=-1))

    def entry(self, votes: Ints, top: Ints, split: Split) -> Floats:
        """Entry radii (…, K) from votes (…, 1, K)."""
        del top
        return median_entry(votes[..., 0, :], sigma=self.sigma, split=split)


@dataclass(frozen=True)
class Cuts:
    """A yes-or-no vote per cut between neighbouring experts, each under its own noise; the first yes wins."""

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.sigmas:
            raise ValueError("Cuts: wanted the noise of one cut at least, got none.")

    def classes(self, experts: int) -> int:
        """Classes that a stream votes for."""
        if experts != len(self.sigmas) + 1:
            raise ValueError(
                f"Cuts: {len(self.sigmas)} cuts part {len(self.sigmas) + 1} experts, got {experts}."
            )
        return 2

    def split(self, experts: int, alpha: float, rule: str = RULES[0]) -> Split:
        """The even split of `alpha` over all bounds."""
        return even_split(experts, alpha, guessed_apart=True, rule=rule)

    def top(self, votes: Ints) -> Ints:
        """The expert (…,) that votes (…, K - 1, 2) choose."""
        yes = 2 * votes[..., 0] >= votes.sum(axis=-1)
        always = np.ones((*yes.shape[:-1], 1), dtype=bool)
        return np.asarray(np.concatenate([yes, always], axis=-1).argmax(axis=-1))

    def entry(self, votes: Ints, top: Ints, split: Split) -> Floats:
        """Entry radii (…, K) from votes (…, K - 1, 2)."""
        del top
        return cuts_entry(votes, sigma=self.sigmas, split=split)


@dataclass(frozen=True)
class Plurality(_Vote):
    """The most frequent vote for an expert, under noise of one `sigma`: the published estimator."""

    def split(self, experts: int, alpha: float, rule: str = RULES[0]) -> Split:
        """The even split of `alpha` over all bounds."""
        return even_split(experts, alpha, plurality=True, guessed_apart=True, rule=rule)

    def top(self, votes: Ints) -> Ints:
        """The expert (…,) that votes (…, 1, K) choose."""
        return np.asarray(votes[..., 0, :].argmax(axis=-1))

    def entry(self, votes: Ints, top: Ints, split: Split) -> Floats:
        """Entry radii (…, K) from votes (…, 1, K)."""
        return plurality_entry(votes[..., 0, :], top, sigma=self.sigma, split=split)


Estimator = Median | Cuts | Plurality
