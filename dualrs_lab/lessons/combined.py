"""Combiners and cascades in the plane of the lessons, where radii can be held against the truth."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import class_margins, lengths
from dualrs_lab.lessons.plane import NEAR, Boxes, _frontier, _nearest

__all__ = ["CombinedPlane", "FirstSure"]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CombinedPlane:
    """The experts `base` smoothed at the sigmas of a combiner, compared by it (see `combine.radii`)."""

    base: Boxes
    combiner: Combiner

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise of each expert."""
        return self.combiner.sigmas

    def lengths(self, points: Floats) -> Floats:
        """Coordinates z (N, K, C) of each expert and class, from exact probabilities.

        From the nearer tail, and cut at 37 standard deviations: beyond, floats hold no probability.
        """
        p = np.stack([self.base.probabilities(points, sigma) for sigma in self.sigmas], axis=1)
        rest = np.stack([np.delete(p, k, axis=2).sum(axis=2) for k in range(p.shape[2])], axis=2)
        near = np.where(p > 0.5, rest, p).clip(1e-300, 0.5)
        z = lengths(near, self.sigmas)
        return np.where(p > 0.5, -z, z)

    def radii(self, points: Floats) -> Floats:
        """The radius (N,) that the theorem gives with exact probabilities; 0 where the system abstains."""
        return np.asarray(np.maximum(0.0, class_margins(self.lengths(points), self.combiner).max(axis=1)))

    def predict(self, points: Floats) -> Ints:
        """Class (N,) of the system, -1 where it abstains."""
        margins = class_margins(self.lengths(points), self.combiner)
        return np.where(margins.max(axis=1) > 0, margins.argmax(axis=1), -1)

    def choose(self, points: Floats) -> Ints:
        """The expert (N,) that reaches farthest by itself for the class that is answered."""
        z, kind = self.lengths(points), class_margins(self.lengths(points), self.combiner).argmax(axis=1)
        own = np.take_along_axis(z, kind[:, None, None], axis=2)[..., 0]
        others = np.where(np.arange(z.shape[2]) == kind[:, None, None], -np.inf, z).max(axis=2)
        return np.asarray((own - others).argmax(axis=1))

    def exact_radius(self, points: Floats) -> Floats:
        """Distance (N,) to the nearest point where the system answers differently; infinite beyond NEAR.

        As `DualPlane.exact_radius`.
        """
        return _nearest(self.predict, _frontier(self), points, NEAR, 20)


@dataclass(frozen=True)
class FirstSure:
    """Who answers in a cascade: the first of `sigmas` (K,) whose sigma Phi^-1(p) reaches its threshold.

    p is the exact probability of its class. Where none is so sure, the last one.
    """

    plane: Boxes
    sigmas: tuple[float, ...]
    thresholds: tuple[float, ...]

    def __call__(self, points: Floats) -> Ints:
        """The number (N,) of who answers about each of the points (N, 2)."""
        sure = np.stack(
            [
                sigma * ndtri(self.plane.probabilities(points, sigma).max(axis=1)) >= threshold
                for sigma, threshold in zip(self.sigmas, self.thresholds, strict=True)
            ],
            axis=1,
        )
        return np.asarray(np.where(sure.any(axis=1), sure.argmax(axis=1), len(self.sigmas) - 1))
