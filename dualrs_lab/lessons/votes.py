"""Votes about points of the plane, drawn and counted as for a network, and the certificates they give.

Noise is drawn by NumPy, so that the lessons run without torch; `smoothing.certify` does the same for
networks and images.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.evidence.certificate import Certificate, decide
from dualrs_lab.lessons.plane import Boxes
from dualrs_lab.settings import RULE

__all__ = ["certify_points", "noisy_copies"]


Floats = NDArray[np.float64]


SELECTION, ESTIMATION = 0, 1  # which draws guess the class, and which bound its probability


def noisy_copies(
    point: ArrayLike, sigma: float, n: int, *, seed: int, number: int = 0, stream: int = ESTIMATION
) -> Floats:
    """n copies (n, 2) of a point (2,) under Gaussian noise, the same for the same seed, number and stream.

    The first copies do not depend on n. Those of two points, by their `number`, are independent.
    """
    noise = np.random.default_rng((seed, stream, number)).standard_normal((n, 2))
    return np.asarray(np.asarray(point, dtype=np.float64) + sigma * noise)


def certify_points(
    plane: Boxes,
    points: ArrayLike,
    *,
    sigma: float,
    n: int,
    alpha: float,
    seed: int,
    labels: Sequence[int] | None = None,
    n0: int = 100,
    rule: str = RULE.names[0],
) -> list[Certificate]:
    """Certificates of the plane smoothed at `sigma`, one for each of the points (N, 2), from votes.

    n0 copies guess the class of a point, n others bound its probability; each holds with probability 1 -
    `alpha` over its own draws, and no two points share any. `labels` (N,) are the true classes, by default
    those of the plane. Raises ValueError for points that are not (N, 2), and as `evidence.decide` does.
    """
    at = np.asarray(points, dtype=np.float64)
    if at.ndim != 2 or at.shape[1] != 2:
        raise ValueError(f"certify_points: wanted points (N, 2), got shape {at.shape}")
    truth = plane.predict(at) if labels is None else labels
    same = {"sigma": sigma, "alpha": alpha, "seed": seed, "seconds": 0.0, "rule": rule}
    return [
        decide(*_counted(plane, point, sigma, (n0, n), seed, number), idx=number, label=int(label), **same)  # type: ignore[arg-type]
        for number, (point, label) in enumerate(zip(at, truth, strict=True))
    ]


def _counted(
    plane: Boxes, point: Floats, sigma: float, draws: tuple[int, int], seed: int, number: int
) -> Iterator[NDArray[np.int64]]:
    # the votes (K,) of the copies that guess, and those of the copies that count
    for stream, n in zip((SELECTION, ESTIMATION), draws, strict=True):
        copies = noisy_copies(point, sigma, n, seed=seed, number=number, stream=stream)
        yield np.bincount(plane.predict(copies), minlength=plane.classes)
