"""Attacks in the plane of the lessons: uphill on exact probabilities, or on what a few draws say of them.

Points are `(N, 2)`, labels `(N,)`, l2 budgets and steps in the same unit. No torch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.lessons.plane import Boxes, _cells, _masses, _points

__all__ = ["SmoothedPlane", "drawn_slope", "first_wrong", "shortened", "walk"]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SmoothedPlane:
    """`base` smoothed at `sigma`, with exact slopes: what an attacker who knows everything can follow."""

    base: Boxes
    sigma: float

    def predict(self, points: Floats) -> Ints:
        """Class (N,)."""
        return self.base.smoothed(points, self.sigma)

    def probabilities(self, points: Floats) -> Floats:
        """Exact (N, K)."""
        return self.base.probabilities(points, self.sigma)

    def slopes(self, points: Floats) -> Floats:
        """Gradients (N, K, 2) of the probabilities, exact: densities at the edges in place of masses."""
        at = _points("slopes", points)
        xs, ys, member = _cells(self.base)
        mass = [_masses(at[:, axis], edges, self.sigma) for axis, edges in ((0, xs), (1, ys))]
        rise = [_rises(at[:, axis], edges, self.sigma) for axis, edges in ((0, xs), (1, ys))]
        across = np.einsum("nx,xyk,ny->nk", rise[0], member, mass[1], optimize=True)
        up = np.einsum("nx,xyk,ny->nk", mass[0], member, rise[1], optimize=True)
        return np.stack([across, up], axis=-1)

    def drawn_slopes(self, points: Floats, draws: int, rng: np.random.Generator) -> Floats:
        """The same, estimated from so many noisy copies of each point and the answers of `base` to them."""
        at = _points("drawn_slopes", points)
        z = rng.standard_normal((len(at), draws, 2))
        kinds = self.base.predict((at[:, None] + self.sigma * z).reshape(-1, 2)).reshape(len(at), draws)
        return np.stack(
            [drawn_slope(z, kinds, kind, self.sigma) for kind in range(self.base.classes)], axis=1
        )


def drawn_slope(z: Floats, answers: Ints, kind: int, sigma: float) -> Floats:
    """The mean of 1[answer is `kind`] z / sigma over draws (…, M, 2): its expectation is the slope (…, 2).

    The slope of a Gaussian expectation E[f(x + sigma Z)] is E[f(x + sigma Z) Z] / sigma (Stein's identity),
    whatever f is: no gradient of f is needed.
    """
    return np.asarray((z * (answers == kind)[..., None]).mean(axis=-2) / sigma)


def walk(
    smoothed: SmoothedPlane,
    points: Floats,
    labels: Ints,
    eps: float,
    *,
    steps: int,
    step: float,
    draws: int = 0,
    start: float = 0.0,
    seed: int = 0,
) -> Floats:
    """Projected gradient descent in the plane: places (N, steps + 1, 2), never farther than `eps` away.

    Each step goes `step` far where the label's lead over its best rival falls most steeply, by exact slopes
    or by those of so many `draws` (the rival is the exact one in both). It begins at the points, or up to
    `start` away from them at random. Where no slope is seen, it stays.
    """
    rng = np.random.default_rng(seed)
    at = _points("walk", points)
    home, rows = at, np.arange(len(at))
    if start:
        angle, far = rng.uniform(0, 2 * np.pi, len(at)), start * np.sqrt(rng.random(len(at)))
        at = at + (far * np.stack([np.cos(angle), np.sin(angle)])).T
    found = [at]
    for _ in range(steps):
        p = smoothed.probabilities(at)
        p[rows, labels] = -np.inf
        slopes = smoothed.drawn_slopes(at, draws, rng) if draws else smoothed.slopes(at)
        uphill = slopes[rows, p.argmax(axis=1)] - slopes[rows, labels]
        length = np.linalg.norm(uphill, axis=1, keepdims=True)
        move = at + step * np.divide(uphill, length, out=np.zeros_like(uphill), where=length > 0) - home
        far = np.linalg.norm(move, axis=1, keepdims=True)
        at = home + move * np.minimum(1.0, eps / np.maximum(far, 1e-300))
        found.append(at)
    return np.stack(found, axis=1)


def first_wrong(smoothed: SmoothedPlane, places: Floats, labels: Ints) -> Ints:
    """The first of the places (N, T, 2) on each walk that is not answered by the label; -1 where none is."""
    n, along = places.shape[:2]
    wrong = smoothed.predict(places.reshape(-1, 2)).reshape(n, along) != labels[:, None]
    return np.where(wrong.any(axis=1), wrong.argmax(axis=1), -1)


def shortened(smoothed: SmoothedPlane, points: Floats, places: Floats, labels: Ints) -> Floats:
    """How near (N,) to each point its walk (N, T, 2) proves another answer; infinite where it found none.

    Of every place that is wrong, the straight way back is halved 40 times: what stays wrong is a proof.
    """
    n, along = places.shape[:2]
    home = np.repeat(points, along, axis=0)
    flat, wanted = places.reshape(-1, 2), np.repeat(labels, along)
    wrong = smoothed.predict(flat) != wanted
    low, high = np.zeros(len(flat)), np.ones(len(flat))
    for _ in range(40):
        middle = (low + high) / 2
        still = smoothed.predict(home + middle[:, None] * (flat - home)) != wanted
        low, high = np.where(still, low, middle), np.where(still, middle, high)
    length = np.where(wrong, high * np.linalg.norm(flat - home, axis=1), np.inf)
    return np.asarray(length.reshape(n, along).min(axis=1))


def _rises(at: Floats, edges: Floats, sigma: float) -> Floats:
    # (N, E + 1): how fast the mass between neighbouring edges grows as the point moves
    z = (edges - at[:, None]) / sigma
    density = np.exp(-(z**2) / 2) / (sigma * np.sqrt(2 * np.pi))
    density = np.pad(density, ((0, 0), (1, 1)))  # none at infinity
    return np.asarray(density[:, :-1] - density[:, 1:])
