"""A noise level that changes slowly with the input: more far from all training images (Súkeník et al. 2022).

    sigma(x) = sigma_b exp(r (d(x) - m)),        d(x): mean distance of x to its k nearest training images.

The distance to one image is 1-Lipschitz in x; so is the j-th smallest of several 1-Lipschitz functions, and
so is a mean of these. So |log sigma(x) - log sigma(x')| <= r ||x - x'||: sigma is r-semi-elastic, which is
all that the radii of `peers.radii` ask for. m only scales sigma_b; near the usual d, sigma stays around
sigma_b.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.settings import COUNT, SIGMA

__all__ = ["SmoothSigma", "neighbour_distances"]


@dataclass(frozen=True, kw_only=True)
class SmoothSigma:
    """sigma(x) = base exp(rate (d(x) - centre)), where d is the mean distance to `k` neighbours, see above.

    Distances and sigma in the [0, 1] pixel unit. Raises ValueError for numbers that make no sense.
    """

    base: float
    rate: float
    centre: float
    k: int = 20

    def __post_init__(self) -> None:
        fine = self.base in SIGMA and 0 <= self.rate < math.inf and math.isfinite(self.centre)
        if not fine or self.k not in COUNT:
            raise ValueError(
                f"SmoothSigma: got {self}; wanted base {SIGMA}, a finite rate >= 0, a finite centre, and "
                f"k {COUNT}"
            )

    def at(self, distance: ArrayLike) -> NDArray[np.float64]:
        """sigma (…,) of inputs whose mean distance to their neighbours is `distance` (…,)."""
        return np.asarray(self.base * np.exp(self.rate * (np.asarray(distance) - self.centre)))[()]


def neighbour_distances(
    images: NDArray[np.uint8], among: NDArray[np.uint8], *, k: int, left_out: bool = False
) -> NDArray[np.float64]:
    """Mean l2 distance (N,) of uint8 images (N, …) to their `k` nearest `among` (M, …), in [0, 1] pixels.

    `left_out`: the images are some of those, and each leaves its nearest, itself, out. Squares are sums of
    integers below 2^53, and exact. Raises ValueError for other types, shapes, or too few images.
    """
    rows, others = (np.reshape(each, (len(each), -1)) for each in (images, among))
    wanted = k + left_out
    same = rows.dtype == others.dtype == np.uint8 and rows.shape[1] == others.shape[1]
    if not same or k not in COUNT or len(others) < wanted:
        raise ValueError(
            f"neighbour_distances: got {images.dtype} {images.shape} and {among.dtype} {among.shape} with k "
            f"{k}; wanted uint8 images of one shape, and {wanted} or more to be near to"
        )
    x = rows.astype(np.float64)
    nearest = np.empty((len(x), 0))
    own = (x**2).sum(axis=1)[:, None]
    for first in range(0, len(others), 2000):
        y = others[first : first + 2000].astype(np.float64)
        squares = own + (y**2).sum(axis=1) - 2 * x @ y.T
        nearest = np.sort(np.concatenate([nearest, squares], axis=1), axis=1)[:, :wanted]
    return np.asarray(np.sqrt(nearest[:, left_out:]).mean(axis=1) / 255)
