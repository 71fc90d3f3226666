"""A linear classifier of small pictures, whose worst case under any budget of pixels is known exactly."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["EPS", "linear_problem"]


Floats = NDArray[np.float64]


EPS = 0.1
"""The mean budget at which the lesson's picture withstands a uniform attack, and not a placed one."""


def linear_problem() -> tuple[Floats, Floats]:
    """Weights (6, 6) and a picture (6, 6): the class is the sign of sum(w * x). It looks at the middle."""
    place = np.arange(6) - 2.5
    bump = np.exp(-np.add.outer(place**2, place**2) / 3)
    w = bump - bump.mean()
    w /= np.abs(w).sum()
    return w, 0.5 + 0.12 * np.sign(w)
