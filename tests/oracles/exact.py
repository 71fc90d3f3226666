"""Systems whose truth is computed from the definition, by code that shares nothing with the package.

A classifier gives one class in each cell of a line or of a plane that is cut along both axes: half-spaces,
slabs, unions of intervals, rectangles. Under Gaussian noise the probability of a class is then a sum of
products of differences of Phi, and what an ideal system answers is known at every point. How far it keeps its
answer is looked for along rays, then by bisection. What is found is a point where the answer differs: the
distance is never below the true one, and a radius beyond it claims too much.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

FAR = 1e3  # where an edge is that a classifier lacks


def phi(z: np.ndarray) -> np.ndarray:
    """The normal distribution function, by the complementary error function."""
    return 0.5 * special.erfc(-z / np.sqrt(2))


def probit(p: np.ndarray) -> np.ndarray:
    """Its inverse."""
    return -np.sqrt(2) * special.erfcinv(2 * p)


@dataclass(frozen=True)
class Cells:
    """N classifiers of R^D: axes are cut at `edges` (N, D, E), and each cell has a kind (N, (E + 1)^D)."""

    edges: np.ndarray
    kinds: np.ndarray
    classes: int

    def probabilities(self, points: np.ndarray, sigma: float | np.ndarray) -> np.ndarray:
        """P[f(x + sigma Z) = c] (N, P, C) at points (N, P, D)."""
        z = (self.edges[:, None] - points[..., None]) / sigma  # (N, P, D, E)
        below = np.pad(phi(z), [(0, 0)] * 3 + [(1, 1)], constant_values=(0, 1))
        along = np.diff(below, axis=-1)  # (N, P, D, E + 1)
        mass = along[:, :, 0]
        for axis in range(1, along.shape[2]):
            mass = (mass[..., :, None] * along[:, :, axis, None, :]).reshape(*mass.shape[:2], -1)
        return np.clip(mass @ np.eye(self.classes)[self.kinds], 0, 1)


def some_cells(rng: np.random.Generator, count: int, dims: int, classes: int) -> Cells:
    """Half-spaces, slabs and unions in equal parts: one edge, two, or four (two an axis in the plane)."""
    most = 4 if dims == 1 else 2
    edges = np.sort(rng.uniform(-1, 1, (count, dims, most)), axis=-1)
    kept = rng.choice([1, 2, most], count)
    edges = np.where(np.arange(most) < kept[:, None, None], edges, FAR + np.arange(most))
    return Cells(edges, rng.integers(0, classes, (count, (most + 1) ** dims)), classes)


def alike(rng: np.random.Generator, cells: Cells, *, moved: float = 0.1, other: float = 0.2) -> Cells:
    """As if trained for the same problem: edges are moved a little, and some cells have another class."""
    edges = np.sort(cells.edges + rng.normal(0, moved, cells.edges.shape), axis=-1)
    changed = rng.random(cells.kinds.shape) < other
    kinds = np.where(changed, rng.integers(0, cells.classes, cells.kinds.shape), cells.kinds)
    return Cells(edges, kinds, cells.classes)


def half_line(edge: np.ndarray, left: int, right: int, classes: int) -> Cells:
    """Class `left` below the edges (N,), `right` above them."""
    kinds = np.tile([left, right], (len(edge), 1))
    return Cells(np.asarray(edge, dtype=float)[:, None, None], kinds, classes)


def draws(rng: np.random.Generator, p: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """Votes (N, C) of n draws with probabilities (N, C)."""
    return rng.multinomial(n, p / p.sum(axis=-1, keepdims=True))


Answer = Callable[[np.ndarray], np.ndarray]  # points (N, P, D) -> classes (N, P), -1 for none


def reach(answer: Answer, x: np.ndarray, y: np.ndarray, *, far: float = 3.0) -> np.ndarray:
    """(N,): how far from x (N, D) a point was found whose answer is not y; infinite where there is none.

    A point is sought up to `far` along the rays of the line, or 12 of the plane.
    """
    rays, ticks = (2, 80) if x.shape[1] == 1 else (12, 25)
    angle = 2 * np.pi * np.arange(rays) / rays
    toward = np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, : x.shape[1]]  # (rays, D)

    def differs(radii: np.ndarray) -> np.ndarray:  # (N, rays, T) -> the same
        points = x[:, None, None] + radii[..., None] * toward[:, None]
        said = answer(points.reshape(len(x), -1, x.shape[1]))
        return (said != y[:, None]).reshape(radii.shape)

    steps = far * (np.arange(1, ticks + 1) / ticks) ** 2  # finer near by
    other = differs(np.broadcast_to(steps, (len(x), rays, ticks)))
    first = np.where(other.any(axis=-1), other.argmax(axis=-1), ticks - 1)
    low, high = np.where(first > 0, steps[first - 1], 0.0), steps[first]
    for _ in range(24):  # to one part in 10^7
        middle = (low + high) / 2
        beyond = differs(middle[..., None])[..., 0]
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    found = np.where(other.any(axis=-1), high, np.inf).min(axis=-1)
    return np.where(answer(x[:, None])[:, 0] != y, 0.0, found)


def violated(answer: Answer, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Which claims (N,), of class y within a radius above 0, are false. To abstain is never false."""
    return beyond(reach(answer, x, y), y, radius)


def beyond(reached: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """`violated`, by what `reach` found."""
    return (radius > reached * (1 + 1e-6)) & (radius > 0) & (y >= 0)
