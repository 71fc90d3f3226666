"""Numbers in, numbers out: exact binomial bounds and the radii that follow from them.

Every bound and radius formula of the package lives here once. All functions broadcast, compute in float64
and return a NumPy scalar for scalar input. Probabilities are rounded to the safe side, so that floating point
never spends more than alpha; the radius formula then adds a relative error of about 1e-15.

Paper symbols (Cohen, Rosenfeld and Kolter 2019): k = `successes`, n = `trials`, p_A lower bound = `p_lower`,
R = sigma * Phi^-1(p_lower).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

__all__ = ["lower_bound", "radius_ceiling", "rs_radius", "two_sided_pvalue", "upper_bound"]

Floats = NDArray[np.float64]


def lower_bound(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> Floats:
    """One-sided exact Clopper–Pearson: p >= lower_bound fails with probability <= alpha, for every p and n.

    The largest p_lower with P[Binomial(n, p_lower) >= k] <= alpha, the alpha-quantile of Beta(k, n - k + 1);
    0 where k = 0, alpha^(1/n) where k = n. Raises ValueError unless 0 <= k <= n, n >= 1 and 0 < alpha < 1.
    """
    k, n, level = _checked("lower_bound", successes, trials, alpha)
    a, b = np.maximum(k, 1.0), n - k + 1.0
    p = np.asarray(special.betaincinv(a, b, level), dtype=np.float64)
    p = _settle(p, lambda p: special.betainc(a, b, p) > level, towards=0.0)
    return np.where(k == 0, 0.0, p)[()]


def upper_bound(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> Floats:
    """One-sided exact Clopper–Pearson: p <= upper_bound fails with probability <= alpha, for every p and n.

    The smallest p_upper with P[Binomial(n, p_upper) <= k] <= alpha; 1 where k = n. Mirrors `lower_bound`.
    """
    k, n, level = _checked("upper_bound", successes, trials, alpha)
    a, b = k + 1.0, np.maximum(n - k, 1.0)
    p = np.asarray(special.betainccinv(a, b, level), dtype=np.float64)
    p = _settle(p, lambda p: special.betaincc(a, b, p) > level, towards=1.0)
    return np.where(k == n, 1.0, p)[()]


def rs_radius(p_lower: ArrayLike, sigma: ArrayLike) -> Floats:
    """Certified l2 radius sigma * Phi^-1(p_lower), in sigma's unit (Cohen et al. 2019, theorem 1).

    0 where p_lower <= 1/2 (abstain); infinite where p_lower = 1, which no finite number of draws gives.
    """
    p, sigma = np.asarray(p_lower, dtype=np.float64), np.asarray(sigma, dtype=np.float64)
    fine = (p >= 0) & (p <= 1)
    if not fine.all():
        raise ValueError(f"rs_radius: p_lower is a probability in [0, 1], got {_first(p, fine):g}.")
    if not np.all((sigma > 0) & np.isfinite(sigma)):
        raise ValueError(f"rs_radius: sigma must be positive and finite, got {sigma}.")
    return np.where(p > 0.5, sigma * special.ndtri(np.maximum(p, 0.5)), 0.0)[()]


def radius_ceiling(trials: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Floats:
    """The radius when all n votes agree: no certificate from n draws at this alpha and sigma is larger."""
    return rs_radius(lower_bound(trials, trials, alpha), sigma)


def two_sided_pvalue(successes: ArrayLike, trials: ArrayLike) -> Floats:
    """Exact two-sided binomial test of p = 1/2, for Cohen's PREDICT: votes of the top among the top two.

    Answering only where it is <= alpha gives a class other than the smoothed one with probability <= alpha.
    """
    k, n, _ = _checked("two_sided_pvalue", successes, trials, 0.5)
    most = np.maximum(k, n - k)
    tail = np.asarray(special.betainc(most, n - most + 1.0, 0.5), dtype=np.float64)
    return np.minimum(1.0, 2.0 * tail)[()]


def _settle(p: Floats, too_bold: Callable[[Floats], NDArray[np.bool_]], *, towards: float) -> Floats:
    # The inverse is good to a few ulps in p, which is not good enough where p is close to 1: step outwards,
    # doubling the step, until the tail probability itself says that the level is kept.
    step = np.spacing(p)
    while (bold := too_bold(p)).any():
        p = np.where(bold, np.clip(p + step if towards else p - step, 0.0, 1.0), p)
        step = 2 * step
    return p


def _checked(
    call: str, successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    k, n, level = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (successes, trials, alpha)))
    whole = (k == np.floor(k)) & (n == np.floor(n)) & np.isfinite(n)
    fine = whole & (k >= 0) & (k <= n) & (n >= 1)
    if not fine.all():
        raise ValueError(
            f"{call}: wants whole counts with 0 <= successes <= trials and trials >= 1, "
            f"got {_first(k, fine):g} of {_first(n, fine):g}."
        )
    fine = (level > 0) & (level < 1)
    if not fine.all():
        raise ValueError(f"{call}: alpha is a failure probability in (0, 1), got {_first(level, fine):g}.")
    return k, n, level


def _first(values: Floats, fine: NDArray[np.bool_]) -> float:
    return float(values[~fine].flat[0])
