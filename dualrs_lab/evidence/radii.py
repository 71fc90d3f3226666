"""Radii of one smoothed classifier: how far a bound on a probability reaches, and what that takes.

R = sigma * Phi^-1(p_lower) (Cohen, Rosenfeld and Kolter 2019, theorem 1), in the unit of sigma. The formula
adds a relative error of about 1e-15 to its bound.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dualrs_lab.evidence.binomial import first_bad, lower_bound

__all__ = ["enough_draws", "radius_ceiling", "rs_radius", "smoothed_slope"]


Floats = NDArray[np.float64]


def rs_radius(p_lower: ArrayLike, sigma: ArrayLike) -> Floats:
    """Certified l2 radius sigma * Phi^-1(p_lower), in sigma's unit (Cohen et al. 2019, theorem 1).

    0 where p_lower <= 1/2 (abstain); infinite where p_lower = 1, which no finite number of draws gives.
    """
    p, sigma = np.asarray(p_lower, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    fine = (p >= 0) & (p <= 1)
    if not fine.all():
        raise ValueError(f"rs_radius: p_lower is a probability in [0, 1], got {first_bad(p, fine):g}.")
    if not np.all((sigma > 0) & np.isfinite(sigma)):
        raise ValueError(f"rs_radius: sigma must be positive and finite, got {sigma}.")
    return np.where(p > 0.5, sigma * special.ndtri(np.maximum(p, 0.5)), 0.0)[()]


def radius_ceiling(trials: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Floats:
    """The radius when all n votes agree: no certificate from n draws at this alpha and sigma is larger."""
    return rs_radius(lower_bound(trials, trials, alpha), sigma)


def smoothed_slope(sigma: ArrayLike) -> Floats:
    """The l2 Lipschitz constant 1 / (sigma sqrt(2 pi)) of any [0, 1]-valued function under Gaussian noise.

    A half-space attains it; it is half of the constant in Salman et al. 2019, lemma 1, for values in [-1, 1].
    """
    return np.asarray(1 / (np.asarray(sigma, dtype=np.float64) * np.sqrt(2 * np.pi)), dtype=np.float64)[()]


def enough_draws(
    p: ArrayLike, most: ArrayLike, alpha: ArrayLike, loss: float, *, step: int = 1
) -> NDArray[np.int64]:
    """Draws that nearly give the radius of `most` draws, where a share p of them votes for the class.

    The smallest multiple of `step` (else `most`) whose Clopper–Pearson radius is positive and at most `loss`
    times sigma below that of `most` draws; 0 where `most` draws certify nothing. The rule of input-specific
    sampling (Chen et al. 2022). Raises ValueError for p outside [0, 1], a loss <= 0 and what `lower_bound`
    refuses.
    """
    share, most, level = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (p, most, alpha)))
    fine = (share >= 0) & (share <= 1)
    if not fine.all() or not loss > 0 or step < 1:
        raise ValueError(
            f"enough_draws: wanted p in [0, 1], loss > 0 and step >= 1, got {share}, {loss} and {step}."
        )

    def bound(n: Floats) -> Floats:
        return lower_bound(np.floor(n * share + 1e-9), n, level)

    goal = bound(most)
    wish = special.ndtr(np.maximum(special.ndtri(goal) - loss, 0.0))
    low, high = np.zeros_like(share), np.ceil(most / step)  # in steps
    while (high - low > 1).any():
        middle = np.maximum(np.floor((low + high) / 2), 1.0)
        enough = bound(np.minimum(middle * step, most)) > wish
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(goal > 0.5, np.minimum(high * step, most), 0).astype(np.int64)[()]
