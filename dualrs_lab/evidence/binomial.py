"""Numbers in, numbers out: exact binomial bounds and tests.

All functions broadcast, compute in float64 and return a NumPy scalar for scalar input. Probabilities are
rounded to the safe side, so that floating point never spends more than alpha. In the symbols of Cohen,
Rosenfeld and Kolter (2019): k = `successes`, n = `trials`, and the lower bound of p_A is `p_lower`.

A Clopper–Pearson bound holds for a number of draws fixed beforehand; `evidence.anytime` has bounds that hold
at all numbers of draws at once.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

__all__ = ["ahead_pvalue", "lower_bound", "top_two_pvalue", "two_sided_pvalue", "upper_bound"]


Floats = NDArray[np.float64]


def lower_bound(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> Floats:
    """One-sided exact Clopper–Pearson: p >= lower_bound fails with probability <= alpha, for every p and n.

    The largest p_lower with P[Binomial(n, p_lower) >= k] <= alpha, the alpha-quantile of Beta(k, n - k + 1);
    0 where k = 0, alpha^(1/n) where k = n. Raises ValueError unless 0 <= k <= n, n >= 1 and 0 < alpha < 1.
    """
    k, n, level = checked_counts("lower_bound", successes, trials, alpha)
    a, b = np.maximum(k, 1.0), n - k + 1.0
    p = np.asarray(special.betaincinv(a, b, level), dtype=np.float64)
    p = _settle(p, lambda p: special.betainc(a, b, p) > level, towards=0.0)
    return np.where(k == 0, 0.0, p)[()]


def upper_bound(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> Floats:
    """One-sided exact Clopper–Pearson: p <= upper_bound fails with probability <= alpha, for every p and n.

    The smallest p_upper with P[Binomial(n, p_upper) <= k] <= alpha; 1 where k = n. Mirrors `lower_bound`.
    """
    k, n, level = checked_counts("upper_bound", successes, trials, alpha)
    a, b = k + 1.0, np.maximum(n - k, 1.0)
    p = np.asarray(special.betainccinv(a, b, level), dtype=np.float64)
    p = _settle(p, lambda p: special.betaincc(a, b, p) > level, towards=1.0)
    return np.where(k == n, 1.0, p)[()]


def two_sided_pvalue(successes: ArrayLike, trials: ArrayLike) -> Floats:
    """Exact two-sided binomial test of p = 1/2, for Cohen's PREDICT: votes of the top among the top two.

    Answering only where it is <= alpha gives a class other than the smoothed one with probability <= alpha.
    """
    k, n, _ = checked_counts("two_sided_pvalue", successes, trials, 0.5)
    most = np.maximum(k, n - k)
    tail = np.asarray(special.betainc(most, n - most + 1.0, 0.5), dtype=np.float64)
    return np.minimum(1.0, 2.0 * tail)[()]


def top_two_pvalue(votes: ArrayLike) -> Floats:
    """`two_sided_pvalue` (…,) of the two leading counts of votes (…, C); 0 where there is one class only."""
    counts = np.sort(np.asarray(votes), axis=-1)
    if counts.shape[-1] == 1:
        return np.zeros(counts.shape[:-1])[()]
    first, second = counts[..., -1], counts[..., -2]
    return two_sided_pvalue(first, first + second)


def ahead_pvalue(own: ArrayLike, rival: ArrayLike) -> Floats:
    """Exact one-sided test (…,) that a class is not ahead of another, from their counts; 1 without votes.

    P[Binomial(own + rival, 1/2) >= own]: it grows with the rival's count, falls with one's own.
    """
    k = np.asarray(own, dtype=np.float64)
    k, n, _ = checked_counts("ahead_pvalue", k, k + np.asarray(rival, dtype=np.float64), 0.5, least=0)
    tail = special.betainc(np.maximum(k, 1.0), n - k + 1.0, 0.5)
    return np.where(k > 0, tail, 1.0)[()]


def _settle(p: Floats, too_bold: Callable[[Floats], NDArray[np.bool_]], *, towards: float) -> Floats:
    # The inverse is good to a few ulps in p, which is not good enough where p is close to 1: step outwards,
    # doubling the step, until the tail probability itself says that the level is kept.
    step = np.spacing(p)
    while (bold := too_bold(p)).any():
        p = np.where(bold, np.clip(p + step if towards else p - step, 0.0, 1.0), p)
        step = 2 * step
    return p


def checked_counts(
    call: str,
    successes: ArrayLike,
    trials: ArrayLike,
    alpha: ArrayLike,
    *,
    level: str = "alpha is a failure probability",
    least: int = 1,
) -> tuple[Floats, Floats, Floats]:
    k, n, share = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (successes, trials, alpha)))
    whole = (k == np.floor(k)) & (n == np.floor(n)) & np.isfinite(n)
    fine = whole & (k >= 0) & (k <= n) & (n >= least)
    if not fine.all():
        raise ValueError(
            f"{call}: wants whole counts with 0 <= successes <= trials and trials >= {least}, "
            f"got {first_bad(k, fine):g} of {first_bad(n, fine):g}."
        )
    fine = (share > 0) & (share < 1)
    if not fine.all():
        raise ValueError(f"{call}: {level} in (0, 1), got {first_bad(share, fine):g}.")
    return k, n, share


def first_bad(values: Floats, fine: NDArray[np.bool_]) -> float:
    return float(values[~fine].flat[0])
