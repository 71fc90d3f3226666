"""Short walks from points of the plane in all directions, and who answers otherwise there: for the lessons.

A classifier is asked around each point (`withstands`), also one that mixing began with (`Biased`: steep, and
corrected by an oracle where it is steep); and around a certificate of a mix, whatever its accurate network
says (`mix_breaks`). Points are `(N, 2)`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.lessons.plane import Boxes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Biased", "above_wave", "mix_breaks", "ring", "rippled", "withstands"]


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


def rippled(x: "Tensor") -> "Tensor":
    """A classifier (N,) of points (N, 2) by its sign, nearly always right about `above_wave`, and steep."""
    distance = x[:, 0] - 0.5 - 0.1 * (7 * x[:, 1]).sin()
    return 4 * distance + 0.3 * (40 * x[:, 0]).sin() * (36 * x[:, 1]).cos()


@dataclass(frozen=True, eq=False)
class Biased:
    """`rippled`, biased locally (see `mixing.locally_biased`) towards the class of the nearest example.

    The oracle knows `examples` (M, 2) of `above_wave` and no more; a `strength` of 0 leaves it out, with an
    infinite one it answers alone.
    """

    examples: Floats
    strength: float

    def oracle(self, x: "Tensor") -> "Tensor":
        """-1 or 1 (N,)."""
        import torch  # here and below, as all else works where there is none

        signs = torch.from_numpy(np.where(above_wave(self.examples) == 1, 1.0, -1.0))
        return signs[torch.cdist(x, torch.from_numpy(self.examples)).argmin(1)]

    def predict(self, points: Floats) -> Ints:
        """Class (N,), 0 or 1."""
        import torch

        from dualrs_lab.mixing import locally_biased

        biased = locally_biased(rippled, self.oracle, torch.from_numpy(points), self.strength)
        return np.asarray((biased > 0).long().numpy())


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
