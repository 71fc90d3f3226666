"""Short walks from points of the plane in all directions, and who answers otherwise there: for the lessons.

A classifier is asked around each point (`withstands`), also one that mixing began with (`Biased`: steep, and
corrected by an oracle where it is steep); and around a certificate of a mix, whatever its accurate network
says (`mix_breaks`). Points are `(N, 2)`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from dualrs_lab.lessons.plane import Boxes

__all__ = ["Biased", "above_wave", "mix_breaks", "ring", "rippled", "steepness", "withstands"]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


Bools = NDArray[np.bool_]


def ring(directions: int = 64) -> Floats:
    """Unit steps (directions, 2), evenly spread."""
    angle = np.linspace(0, 2 * np.pi, directions, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def withstands(
    predict: Callable[[Floats], Ints], points: Floats, labels: Ints, step: float, *, directions: int = 64
) -> Bools:
    """Whether all answers (N,) one `step` away, in each direction, are the point's label."""
    around = (points[:, None] + step * ring(directions)).reshape(-1, 2)
    return np.asarray((predict(around).reshape(-1, directions) == labels[:, None]).all(axis=1))


def above_wave(points: Floats) -> Ints:
    """Class (N,) of the problem that `rippled` solves: 1 right of a wave from below to above, else 0."""
    return (points[:, 0] > 0.5 + 0.1 * np.sin(7 * points[:, 1])).astype(np.int64)


def rippled(points: Floats) -> Floats:
    """Scores (N,) of points (N, 2); by sign nearly always right about `above_wave`, and steep."""
    x, y = points.T
    return np.asarray(4 * (x - 0.5 - 0.1 * np.sin(7 * y)) + 0.3 * np.sin(40 * x) * np.cos(36 * y))


def steepness(points: Floats) -> Floats:
    """The l2 norm (N,) of the gradient of `rippled` at points (N, 2)."""
    x, y = points.T
    across = 4 + 12 * np.cos(40 * x) * np.cos(36 * y)
    up = -2.8 * np.cos(7 * y) - 10.8 * np.sin(40 * x) * np.sin(36 * y)
    return np.asarray(np.hypot(across, up))


@dataclass(frozen=True, eq=False)
class Biased:
    """`rippled`, biased locally (see `mixing.locally_biased`) towards the class of the nearest example.

    The oracle knows `examples` (M, 2) of `above_wave` and no more; a `strength` of 0 leaves it out, with an
    infinite one it answers alone.
    """

    examples: Floats
    strength: float

    def oracle(self, points: Floats) -> Floats:
        """-1 or 1 (N,)."""
        nearest = cKDTree(self.examples).query(points)[1]
        return np.asarray(np.where(above_wave(self.examples) == 1, 1.0, -1.0)[nearest])

    def predict(self, points: Floats) -> Ints:
        """Class (N,), 0 or 1."""
        says = self.oracle(points) * steepness(points)
        score = says if np.isinf(self.strength) else rippled(points) + self.strength * says
        return np.asarray((score > 0).astype(np.int64))


def mix_breaks(
    plane: Boxes,
    points: Floats,
    classes: Ints,
    reach: ArrayLike,
    *,
    sigma: float,
    weight: float,
    directions: int = 64,
) -> Bools:
    """Whether some accurate network g and some direction change the mix's class (N,) at distance `reach`.

    The mix is (1 - weight) g + weight h, h being the plane smoothed at `sigma`. The worst g is sure of the
    best other class, so the class stays only where h prefers it by at least (1 - weight) / weight.
    """
    moves = np.broadcast_to(np.asarray(reach, dtype=np.float64), len(points))[:, None, None] * ring(
        directions
    )
    p = plane.probabilities((points[:, None] + moves).reshape(-1, 2), sigma)
    own = np.eye(plane.classes, dtype=bool)[np.repeat(classes, directions)]
    ahead = p[own] - np.where(own, 0, p).max(axis=1)
    return np.asarray((weight * ahead < 1 - weight).reshape(-1, directions).any(axis=1))
