"""The two-dimensional problem of the lessons, where everything that smoothing estimates is known exactly.

With a base classifier made of boxes, the Gaussian-smoothed class probabilities are products of differences of
Phi. So the smoothed classifier can be drawn, and a certificate can be compared with the exact radius. Points
are `(N, 2)` in the unit square; l2 radii in the same unit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import ndtr, ndtri

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Boxes", "DualPlane", "LargestRadius", "MedianChoice"]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


Answer = Callable[[Floats], Ints]  # of points (N, 2): classes (N,)


Box = tuple[float, float, float, float]  # x and y of the lower left corner, x and y of the upper right one


STEP = 0.005  # of the grid that is searched for changes of class


REACH = 1.0  # how far from the points: radii beyond are reported as infinite


NEAR = 0.4  # the same for systems, whose answers cost more


@dataclass(frozen=True)
class Boxes:
    """Class `labels[m]` in the half-open box m, `background` elsewhere; `classes` classes in all.

    Boxes are disjoint and may reach to infinity. Called with a tensor `(N, 2)` it answers like a network,
    with logits `(N, classes)` that are 1 for the class and 0 for the others.
    """

    boxes: tuple[Box, ...]
    labels: tuple[int, ...]
    background: int
    classes: int

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.boxes):
            raise ValueError(f"Boxes: wanted a label per box, got {len(self.labels)} for {len(self.boxes)}.")
        if not set(self.labels) | {self.background} <= set(range(self.classes)):
            raise ValueError(
                f"Boxes: labels {self.labels}, {self.background} are not in 0..{self.classes - 1}."
            )
        for i, (x0, y0, x1, y1) in enumerate(self.boxes):
            if not (x0 < x1 and y0 < y1):
                raise ValueError(f"Boxes: box {i} is empty or turned around: {self.boxes[i]}.")
            for other in self.boxes[:i]:
                if max(x0, other[0]) < min(x1, other[2]) and max(y0, other[1]) < min(y1, other[3]):
                    raise ValueError(f"Boxes: {other} and {self.boxes[i]} overlap; boxes must be disjoint.")

    def __call__(self, x: "Tensor") -> "Tensor":
        """Logits (N, classes), one-hot in the dtype and on the device of `x` (N, 2)."""
        import torch  # here, as all else works where there is none

        xs, ys, member = (torch.from_numpy(part).to(x.device, x.dtype) for part in _cells(self))
        column, row = x.T.contiguous()
        return member[torch.bucketize(column, xs, right=True), torch.bucketize(row, ys, right=True)]

    def predict(self, points: Floats) -> Ints:
        """Class (N,) of the base classifier itself."""
        (xs, ys, member), at = _cells(self), _points("predict", points)
        column, row = np.searchsorted(xs, at[:, 0], side="right"), np.searchsorted(ys, at[:, 1], side="right")
        return np.asarray(member[column, row].argmax(axis=1))

    def probabilities(self, points: Floats, sigma: float) -> Floats:
        """Exact P[f(x + sigma Z) = k], shape (N, classes); small probabilities keep their digits."""
        points = _points("probabilities", points)
        xs, ys, member = _cells(self)
        mx, my = _masses(points[:, 0], xs, sigma), _masses(points[:, 1], ys, sigma)
        # In two steps: one sum over both axes takes thirty times as long.
        rows = (mx @ member.reshape(mx.shape[1], -1)).reshape(*my.shape, self.classes)  # (N, Y, K)
        return np.asarray(np.einsum("nyk,ny->nk", rows, my))

    def smoothed(self, points: Floats, sigma: float) -> Ints:
        """Class (N,) of the exact smoothed classifier; the lowest class wins a tie."""
        return np.asarray(self.probabilities(points, sigma).argmax(axis=1))

    def rs_radius_exact(self, points: Floats, sigma: float) -> Floats:
        """sigma * Phi^-1(p_top) (N,), what infinitely many draws would certify; 0 where p_top <= 1/2."""
        p = np.sort(self.probabilities(points, sigma), axis=1)
        rest = np.minimum(p[:, :-1].sum(axis=1), 0.5)  # 1 - p_top would lose its digits near 0
        return np.asarray(-sigma * ndtri(rest), dtype=np.float64) + 0.0

    def boundary(self, sigma: float) -> Floats:
        """Points (B, 2) less than 0.01 apart, accurate to 1e-12, along which the smoothed class changes.

        They cover the unit square and REACH around it. An island of another class narrower than STEP can be
        missed; smoothing leaves none that small except one that is about to vanish.
        """
        return _boundary(self, sigma)[0]

    def exact_radius(self, points: Floats, sigma: float) -> Floats:
        """Distance (N,) to the nearest point where the smoothed class differs; infinite if beyond REACH.

        Never too small by more than 1e-9, and too large by at most 1e-6 where the boundary is smooth (a
        corner or junction can add 0.005). It does not use the theorem that lessons check against it.
        """
        return _nearest(lambda at: self.smoothed(at, sigma), _boundary(self, sigma), points, REACH, 36)


@dataclass(frozen=True)
class MedianChoice:
    """The expert that the median vote of `estimator` under noise `sigma` chooses; classes stand for experts.

    F_k(x) = P[vote <= k], and the choice is the lowest k with F_k >= 1/2 (see `dual.radii`).
    """

    estimator: Boxes
    sigma: float

    def cuts(self, points: Floats) -> Floats:
        """Exact F_1 … F_(K-1), shape (N, K - 1)."""
        at_most = np.cumsum(self.estimator.probabilities(points, self.sigma), axis=1)[:, :-1]
        return np.asarray(np.minimum(at_most, 1.0))  # sums of probabilities can exceed 1 by an ulp

    def __call__(self, points: Floats) -> Ints:
        """Expert (N,), counted from 0."""
        yes = np.pad(self.cuts(points) >= 0.5, ((0, 0), (0, 1)), constant_values=True)
        return np.asarray(yes.argmax(axis=1))


@dataclass(frozen=True)
class LargestRadius:
    """The expert with the largest radius at the point itself: nothing keeps this choice from changing."""

    base: Boxes
    sigmas: tuple[float, ...]

    def __call__(self, points: Floats) -> Ints:
        """Expert (N,), counted from 0; the lowest wins a tie."""
        radii = [self.base.rs_radius_exact(points, sigma) for sigma in self.sigmas]
        return np.asarray(np.argmax(radii, axis=0))


@dataclass(frozen=True)
class DualPlane:
    """The experts `base` smoothed at each of `sigmas`, and a choice among them at each point."""

    base: Boxes
    sigmas: tuple[float, ...]
    choose: Callable[[Floats], Ints]

    def experts(self, points: Floats) -> Ints:
        """Class (N, K) that each expert gives."""
        return np.stack([self.base.smoothed(points, sigma) for sigma in self.sigmas], axis=1)

    def predict(self, points: Floats) -> Ints:
        """Class (N,) of the system: that of the chosen expert."""
        points = _points("predict", points)
        chosen, kinds = self.choose(points), np.zeros(len(points), dtype=np.int64)
        for j, sigma in enumerate(self.sigmas):  # each expert only where it is chosen
            kinds[chosen == j] = self.base.smoothed(points[chosen == j], sigma)
        return kinds

    def expert_radii(self, points: Floats) -> Floats:
        """Radius (N, K) within which each expert gives the system's class, from exact probabilities; or 0."""
        radii = [self.base.rs_radius_exact(points, sigma) for sigma in self.sigmas]
        agree = self.experts(points) == self.predict(points)[:, None]
        return np.where(agree, np.stack(radii, axis=1), 0.0)

    def exact_radius(self, points: Floats) -> Floats:
        """Distance (N,) to the nearest point where the system answers differently; infinite beyond NEAR.

        As `Boxes.exact_radius`, accurate to 1e-7, but too large where an island or a wedge of another answer
        is narrower than STEP, which a system may have where its choice changes.
        """
        return _nearest(self.predict, _frontier(self), points, NEAR, 20)


class System(Protocol):
    """What answers everywhere in the plane, and can be told from others."""

    def predict(self, points: Floats, /) -> Ints:
        """Class (N,)."""

    def __hash__(self) -> int: ...


class _Boundary(NamedTuple):
    points: Floats  # (B, 2)
    tree: cKDTree


def _nearest(answer: Answer, boundary: _Boundary, points: Floats, reach: float, halvings: int) -> Floats:
    points = _points("exact_radius", points)
    if not ((points >= 0) & (points <= 1)).all():
        raise ValueError("exact_radius: wanted points in the unit square [0, 1] x [0, 1].")
    if len(boundary.points) == 0:
        return np.full(len(points), np.inf)
    found, nearest = boundary.tree.query(points)
    distance = np.asarray(found, dtype=np.float64)
    offset = boundary.points[nearest] - points
    angle = np.arctan2(offset[:, 1], offset[:, 0])
    width = np.arcsin(np.clip(2 * STEP / np.maximum(distance, 1e-300), 0.0, 1.0))
    for _ in range(4):  # each round refines around the best direction so far
        distance, angle = _nearer(answer, points, distance, angle, width, halvings)
        width /= 6
    return np.where(distance <= reach, distance, np.inf)


def _nearer(
    answer: Answer, points: Floats, distance: Floats, angle: Floats, width: Floats, halvings: int
) -> tuple[Floats, Floats]:
    # The nearest change of class along a fan of rays (N, F): bisect within the last 2 STEP of `distance`.
    home = answer(points)[:, None]
    fan = angle[:, None] + width[:, None] * np.linspace(-1, 1, 13)
    ray = np.stack([np.cos(fan), np.sin(fan)], axis=-1)

    def away(length: Floats) -> NDArray[np.bool_]:
        ends = points[:, None] + length[..., None] * ray
        return np.asarray(answer(ends.reshape(-1, 2)).reshape(fan.shape) != home)

    high = np.repeat(distance[:, None] + 1e-9, fan.shape[1], axis=1)
    low = np.maximum(high - 2 * STEP, 0.0)
    crosses = away(high) & ~away(low)
    for _ in range(halvings):
        middle = (low + high) / 2
        beyond = away(middle)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    high = np.where(crosses, high, np.inf)
    best = high.argmin(axis=1)
    rows = np.arange(len(points))
    found = high[rows, best] < distance
    return np.where(found, high[rows, best], distance), np.where(found, fan[rows, best], angle)


@lru_cache(maxsize=16)
def _cells(boxes: Boxes) -> tuple[Floats, Floats, Floats]:
    # The edges of all boxes cut the plane into a table of cells with one class each: its edges (X - 1,) and
    # (Y - 1,), and the one-hot classes (X, Y, K). Sums over cells have no "1 - …" that would cancel.
    corners = np.array(boxes.boxes, dtype=np.float64).reshape(-1, 4)
    edges = [np.unique(corners[:, (axis, axis + 2)]) for axis in (0, 1)]
    xs, ys = (edge[np.isfinite(edge)] for edge in edges)
    inner = [np.concatenate([e[:1] - 1, (e[1:] + e[:-1]) / 2, e[-1:] + 1]) for e in (xs, ys)]
    inner = [points if len(points) else np.zeros(1) for points in inner]  # no edge: any point serves
    x, y = np.meshgrid(*inner, indexing="ij")
    member = np.eye(boxes.classes)[np.full(x.shape, boxes.background)]
    for (x0, y0, x1, y1), kind in zip(boxes.boxes, boxes.labels, strict=True):
        member[(x0 < x) & (x < x1) & (y0 < y) & (y < y1)] = np.eye(boxes.classes)[kind]
    return xs, ys, member


def _masses(at: Floats, edges: Floats, sigma: float) -> Floats:
    # (N, E + 1): P[at + sigma Z between neighbouring edges], from the nearer tail
    if not (sigma > 0 and np.isfinite(sigma)):
        raise ValueError(f"Boxes: sigma must be positive and finite, got {sigma}.")
    z = np.pad((edges - at[:, None]) / sigma, ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf))
    above = z > 0
    tail = np.asarray(ndtr(-np.abs(z)))  # of the side that an edge lies on
    below = np.where(above, 1 - tail, tail)
    return np.where(above[:, :-1], tail[:, :-1] - tail[:, 1:], below[:, 1:] - below[:, :-1])


@lru_cache(maxsize=16)
def _boundary(boxes: Boxes, sigma: float) -> _Boundary:
    ticks = np.arange(-REACH, 1 + REACH + STEP / 2, STEP)
    xs, ys, member = _cells(boxes)
    mx, my = _masses(ticks, xs, sigma), _masses(ticks, ys, sigma)
    classes = np.argmax([mx @ member[:, :, k] @ my.T for k in range(boxes.classes)], axis=0)
    return _changes(lambda at: boxes.smoothed(at, sigma), ticks, classes, 34)


@lru_cache(maxsize=4)
def _frontier(system: "System") -> _Boundary:
    ticks = np.arange(-NEAR, 1 + NEAR + STEP / 2, STEP)
    grid = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1)
    return _changes(system.predict, ticks, np.stack([system.predict(column) for column in grid]), 20)


def _changes(answer: Answer, ticks: Floats, classes: Ints, halvings: int) -> _Boundary:
    # Neighbours of different class on a grid (T, T), along x and along y: bisect between them.
    pairs: list[tuple[Floats, Floats]] = []
    for i, j in (np.nonzero(classes[1:] != classes[:-1]), np.nonzero(classes[:, 1:] != classes[:, :-1])):
        step = (STEP, 0.0) if len(pairs) == 0 else (0.0, STEP)
        first = np.stack([ticks[i], ticks[j]], axis=1)
        pairs.append((first, first + step))
    low, high = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    home = answer(low)
    for _ in range(halvings):
        middle = (low + high) / 2
        beyond = (answer(middle) != home)[:, None]
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return _Boundary(high, cKDTree(high))


def _points(call: str, points: Floats) -> Floats:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"Boxes.{call}: wanted points (N, 2), got shape {points.shape}.")
    return points
