"""The problems of the lessons: a plane of three classes, experts, and who chooses among them."""

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.lessons.plane import Boxes, DualPlane, MedianChoice

__all__ = ["lesson_dual", "lesson_estimator", "lesson_plane", "sample_points"]


Ints = NDArray[np.int64]


Floats = NDArray[np.float64]


def lesson_plane() -> Boxes:
    """Three scales in one plane, so that no single sigma serves both small and large radii.

    Class 0 fills x < 0.4 and everything beyond x = 1. Between them are two bands of width 0.3 below y = 0.6,
    which sigma = 0.07 resolves, and eight strips of width 0.075 above, which need a sigma such as 0.02. Large
    radii at the left need a large one, such as 0.25: n draws certify at most `radius_ceiling`, which grows
    with sigma.
    """
    bands = tuple((i / 10, -np.inf, (i + 3) / 10, 0.6) for i in (4, 7))
    strips = tuple((i / 40, 0.6, (i + 3) / 40, np.inf) for i in range(16, 40, 3))
    return Boxes(bands + strips, (1, 2, 1, 2, 0, 1, 2, 0, 1, 2), background=0, classes=3)


def lesson_estimator() -> Boxes:
    """Votes for one of three noise levels on `lesson_plane`, numbered from 0, the smallest.

    The smallest where the strips are, the largest at the far left, elsewhere the middle one.
    """
    strips, left = (0.38, 0.6, 1.0, np.inf), (-np.inf, -np.inf, 0.3, np.inf)
    return Boxes((strips, left), (0, 2), background=1, classes=3)


def lesson_dual(sigma: float = 0.1) -> DualPlane:
    """Experts 0.02, 0.07, 0.25 on `lesson_plane`; the median of `lesson_estimator` under `sigma` chooses."""
    return DualPlane(lesson_plane(), (0.02, 0.07, 0.25), MedianChoice(lesson_estimator(), sigma))


def sample_points(boxes: Boxes, n: int, *, seed: int) -> tuple[Floats, Ints]:
    """n points uniform in the unit square (n, 2), and their labels (n,): the base classifier is the truth."""
    points = np.random.default_rng(seed).random((n, 2))
    return points, boxes.predict(points)
