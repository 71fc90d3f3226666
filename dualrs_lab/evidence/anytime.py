"""Bounds that hold at all numbers of draws at once (Voráček 2024).

So the votes may be looked at while they come in, and decide when to stop.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dualrs_lab.evidence.binomial import checked_counts

__all__ = ["anytime_lower_bound", "anytime_upper_bound", "log_wealth"]


Floats = NDArray[np.float64]


def log_wealth(successes: ArrayLike, trials: ArrayLike, p0: ArrayLike) -> Floats:
    """Log wealth of a gambler who bet 1 against "p <= p0": -inf where it underflows, far below 1.

    The likelihood ratio of q and p0, averaged by the Beta(1/2, 1/2) prior of q cut to q > p0. If p <= p0, it
    is a nonnegative supermartingale from 1, so it ever reaches 1/alpha with probability <= alpha (Ville).
    Above 1 it falls in p0: in the angle arcsin(sqrt(q)) the prior is uniform and the likelihood log-concave.
    Raises ValueError unless 0 <= k <= n and 0 < p0 < 1.
    """
    k, n, p = checked_counts("log_wealth", successes, trials, p0, level="p0 is a probability", least=0)
    with np.errstate(divide="ignore"):
        beyond = np.log(special.betaincc(k + 0.5, n - k + 0.5, p))
    prior = np.log(2 / np.pi * np.arcsin(np.sqrt(1 - p)))
    wealth = _log_evidence(k, n) - k * np.log(p) - (n - k) * np.log1p(-p) + beyond - prior
    return np.where(n == 0, 0.0, wealth)[()]


def anytime_lower_bound(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> Floats:
    """p >= anytime_lower_bound at all numbers of draws at once fails with probability <= alpha, for every p.

    The largest p0 whose `log_wealth` is at least log(1/alpha), 0 where k = 0; rounded down, for alpha <= 0.01
    by at most 2e-4 of the wealth. Raises ValueError as `lower_bound` does, but allows n = 0.
    """
    k, n, level = checked_counts("anytime_lower_bound", successes, trials, alpha, least=0)
    angle = _crossing(np.maximum(k, 1.0), np.maximum(n, 1.0), -np.log(level))
    return np.where(k == 0, 0.0, np.sin(angle) ** 2 * (1 - 1e-15))[()]


def anytime_upper_bound(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> Floats:
    """p <= anytime_upper_bound at all numbers of draws at once; mirrors `anytime_lower_bound`."""
    k, n, level = checked_counts("anytime_upper_bound", successes, trials, alpha, least=0)
    return np.asarray(1 - anytime_lower_bound(n - k, n, level), dtype=np.float64)[()]


def _log_evidence(k: Floats, n: Floats) -> Floats:
    # log of the integral of q^k (1-q)^(n-k) over the Beta(1/2, 1/2) prior
    return np.asarray(
        special.gammaln(k + 0.5) + special.gammaln(n - k + 0.5) - special.gammaln(n + 1) - np.log(np.pi),
        dtype=np.float64,
    )


def _crossing(k: Floats, n: Floats, goal: Floats) -> Floats:
    """An angle arcsin(sqrt(p0)) where the log wealth is surely >= goal > 0, and < goal + 1e-5; for k >= 1.

    Newton's method inside a bracket; an element stays where it arrived, so that others do not change it.
    """
    evidence = _log_evidence(k, n) - 1e-15 * (n * np.log(n + 2) + 100)  # less what rounding may have added
    low, high = np.zeros_like(evidence), np.arcsin(np.sqrt(k / n))
    angle = np.maximum(high - np.sqrt((goal + np.log(n) / 2) / (2 * n)), high / 8)
    for _ in range(200):
        wealth, slope = _wealth_below(k, n, evidence, angle)
        gain = wealth - goal
        low, high = np.where(gain >= 0, angle, low), np.where(gain >= 0, high, angle)
        arrived = (gain >= 0) & (gain <= 1e-6)
        if arrived.all():
            break
        newton = angle - (gain - 5e-7) / slope
        inside = (newton > low) & (newton < high)
        angle = np.where(arrived, angle, np.where(inside, newton, (low + high) / 2))
    return low


def _wealth_below(k: Floats, n: Floats, evidence: Floats, angle: Floats) -> tuple[Floats, Floats]:
    """A closed form just below the log wealth, without the slow incomplete Beta, and about its slope.

    Of the likelihood averaged over the whole prior it takes away more than the part below p0: the integral of
    the exponential that touches the log-concave likelihood at p0. -inf where that leaves nothing.
    """
    tangent, beyond = np.tan(angle), np.pi / 2 - angle
    rise = 2 * (k / tangent - (n - k) * tangent)  # slope of the log likelihood in the angle
    with np.errstate(divide="ignore", over="ignore"):
        whole = evidence - 2 * (k * np.log(np.sin(angle)) + (n - k) * np.log(np.cos(angle)))
        left = np.where(rise > 0, 1 - np.exp(-whole) * 2 / (np.pi * rise), 0.0)
        wealth = whole + np.log(np.maximum(left, 0.0)) - np.log(beyond * 2 / np.pi)
    return wealth, 1 / beyond - rise
