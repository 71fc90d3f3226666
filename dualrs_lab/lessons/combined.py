"""A combiner in the plane of the lessons, where its radius can be held against the truth."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import class_margins, lengths
from dualrs_lab.lessons.plane import NEAR, Boxes, _frontier, _nearest

__all__ = ["CombinedPlane"]


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
        """Coordinates z (N, K, C) of each expert and class, from exact probabilities."""
        p = np.stack([self.base.probabilities(points, sigma) for sigma in self.sigmas], axis=1)
        return lengths(np.clip(p, 0.0, 1.0), self.sigmas)

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
