"""The two-dimensional problem of the lessons, where everything that smoothing estimates is known exactly.

A base classifier made of boxes makes the Gaussian-smoothed class probabilities products of differences of
Phi, so the smoothed classifier can be drawn, and a certificate compared with the exact radius. Points are
`(N, 2)` in the unit square; l2 radii in the same unit.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import ndtr, ndtri

__all__ = ["Boxes", "lesson_plane", "sample_points"]

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]  # x and y of the lower left corner, x and y of the upper right one

STEP = 0.005  # of the grid on which changes of class are looked for
REACH = 1.0  # how far from the points: radii beyond are reported as infinite


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

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes), one-hot in the dtype and on the device of `x` (N, 2)."""
        xs, ys, member = (torch.from_numpy(part).to(x.device, x.dtype) for part in _cells(self))
        column, row = x.T.contiguous()
        return member[torch.bucketize(column, xs, right=True), torch.bucketize(row, ys, right=True)]

    def predict(self, points: Floats) -> NDArray[np.int64]:
        """Class (N,) of the base classifier itself."""
        return np.asarray(self(torch.from_numpy(_points("predict", points))).argmax(dim=1).numpy())

    def probabilities(self, points: Floats, sigma: float) -> Floats:
        """Exact P[f(x + sigma Z) = k], shape (N, classes); small ones keep their digits."""
        points = _points("probabilities", points)
        xs, ys, member = _cells(self)
        mx, my = _masses(points[:, 0], xs, sigma), _masses(points[:, 1], ys, sigma)
        return np.asarray(np.einsum("nx,xyk,ny->nk", mx, member, my))

    def smoothed(self, points: Floats, sigma: float) -> NDArray[np.int64]:
        """Class (N,) of the exact smoothed classifier; the lowest class wins a tie."""
        return np.asarray(self.probabilities(points, sigma).argmax(axis=1))

    def rs_radius_exact(self, points: Floats, sigma: float) -> Floats:
        """sigma * Phi^-1(p_top) (N,), what infinitely many draws would certify; 0 where p_top <= 1/2."""
        p = np.sort(self.probabilities(points, sigma), axis=1)
        rest = np.minimum(p[:, :-1].sum(axis=1), 0.5)  # 1 - p_top would lose its digits near 0
        return np.asarray(-sigma * ndtri(rest), dtype=np.float64) + 0.0

    def boundary(self, sigma: float) -> Floats:
        """Points (B, 2) less than 0.01 apart, right to 1e-12, along which the smoothed class changes.

        They cover the unit square and REACH around it. An island of another class narrower than STEP can be
        missed; smoothing leaves none that small but where it is just about to vanish.
        """
        return _boundary(self, sigma)[0]

    def exact_radius(self, points: Floats, sigma: float) -> Floats:
        """Distance (N,) to the nearest point where the smoothed class differs; infinite if beyond REACH.

        Never too small by more than 1e-9, and too large by at most 1e-6 where the boundary is smooth (a
        corner or junction can add 0.005). It does not use the theorem that lessons check against it.
        """
        points = _points("exact_radius", points)
        if not ((points >= 0) & (points <= 1)).all():
            raise ValueError("exact_radius: wanted points in the unit square [0, 1] x [0, 1].")
        boundary, tree = _boundary(self, sigma)
        if len(boundary) == 0:
            return np.full(len(points), np.inf)
        found, nearest = tree.query(points)
        distance = np.asarray(found, dtype=np.float64)
        offset = boundary[nearest] - points
        angle = np.arctan2(offset[:, 1], offset[:, 0])
        width = np.arcsin(np.clip(2 * STEP / np.maximum(distance, 1e-300), 0.0, 1.0))
        for _ in range(4):  # each round looks closer around the best direction so far
            distance, angle = self._nearer(points, distance, angle, width, sigma)
            width /= 6
        return np.where(distance <= REACH, distance, np.inf)

    def _nearer(
        self, points: Floats, distance: Floats, angle: Floats, width: Floats, sigma: float
    ) -> tuple[Floats, Floats]:
        # The nearest change of class along a fan of rays (N, F): bisect within the last 2 STEP of `distance`.
        home = self.smoothed(points, sigma)[:, None]
        fan = angle[:, None] + width[:, None] * np.linspace(-1, 1, 13)
        ray = np.stack([np.cos(fan), np.sin(fan)], axis=-1)

        def away(length: Floats) -> NDArray[np.bool_]:
            ends = points[:, None] + length[..., None] * ray
            return np.asarray(self.smoothed(ends.reshape(-1, 2), sigma).reshape(fan.shape) != home)

        high = np.repeat(distance[:, None] + 1e-9, fan.shape[1], axis=1)
        low = np.maximum(high - 2 * STEP, 0.0)
        crosses = away(high) & ~away(low)
        for _ in range(36):
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
    inner = [points if len(points) else np.zeros(1) for points in inner]  # no edge: any point will do
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
    below, above = np.asarray(ndtr(z)), np.asarray(ndtr(-z))
    return np.where(z[:, :-1] > 0, above[:, :-1] - above[:, 1:], below[:, 1:] - below[:, :-1])


@lru_cache(maxsize=16)
def _boundary(boxes: Boxes, sigma: float) -> tuple[Floats, cKDTree]:
    ticks = np.arange(-REACH, 1 + REACH + STEP / 2, STEP)
    xs, ys, member = _cells(boxes)
    mx, my = _masses(ticks, xs, sigma), _masses(ticks, ys, sigma)
    classes = np.argmax([mx @ member[:, :, k] @ my.T for k in range(boxes.classes)], axis=0)
    pairs: list[
        tuple[Floats, Floats]
    ] = []  # neighbours of different class, along x and along y: bisect between them
    for i, j in (np.nonzero(classes[1:] != classes[:-1]), np.nonzero(classes[:, 1:] != classes[:, :-1])):
        step = (STEP, 0.0) if len(pairs) == 0 else (0.0, STEP)
        first = np.stack([ticks[i], ticks[j]], axis=1)
        pairs.append((first, first + step))
    low, high = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    home = boxes.smoothed(low, sigma)
    for _ in range(34):
        middle = (low + high) / 2
        beyond = (boxes.smoothed(middle, sigma) != home)[:, None]
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return high, cKDTree(high)


def lesson_plane() -> Boxes:
    """Three scales in one plane, so that no single sigma serves both small and large radii.

    Class 0 fills x < 0.4, and what lies beyond x = 1. Between them are two bands of width 0.3 below y = 0.6,
    which sigma = 0.07 can see, and eight strips of width 0.075 above, which take a sigma such as 0.02. Large
    radii at the left take a large one, such as 0.25: n draws certify at most `radius_ceiling`, which grows
    with sigma.
    """
    bands = tuple((i / 10, -np.inf, (i + 3) / 10, 0.6) for i in (4, 7))
    strips = tuple((i / 40, 0.6, (i + 3) / 40, np.inf) for i in range(16, 40, 3))
    return Boxes(bands + strips, (1, 2, 1, 2, 0, 1, 2, 0, 1, 2), background=0, classes=3)


def sample_points(boxes: Boxes, n: int, *, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """n points uniform in the unit square (n, 2), and their labels (n,): the base classifier is the truth."""
    points = np.random.default_rng(seed).random((n, 2))
    return points, boxes.predict(points)


def _points(call: str, points: Floats) -> Floats:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"Boxes.{call}: wanted points (N, 2), got shape {points.shape}.")
    return points
