"""Numbers in, numbers out: exact binomial bounds and the radii that follow from them.

Every bound and radius formula of the package lives here once. All functions broadcast, compute in float64 and
return a NumPy scalar for scalar input. Probabilities are rounded to the safe side, so that floating point
never spends more than alpha; the radius formula then adds a relative error of about 1e-15.

Paper symbols (Cohen, Rosenfeld and Kolter 2019): k = `successes`, n = `trials`, p_A lower bound = `p_lower`,
R = sigma * Phi^-1(p_lower).

A Clopper–Pearson bound holds for a number of draws fixed beforehand. The `anytime` bounds hold at all numbers
of draws at once, so one may look at the votes as they come in and stop when they suffice (Voráček 2024).

The `mix_radius` family is for a mix (1 - a) g + a h of probabilities, g arbitrary, weight a. While the robust
h keeps the margin mu = (1 - a) / a between a class and any other, the mix answers that class (Bai et al.
2024, lemma 2); so nothing is certified for a <= 1/2. `p_lower` bounds h's largest probability from below,
`p_upper` every other one from above.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

__all__ = [
    "anytime_lower_bound",
    "anytime_upper_bound",
    "enough_draws",
    "log_wealth",
    "lower_bound",
    "mix_radius_closed",
    "mix_radius_exact",
    "mix_radius_lipschitz",
    "mix_radius_smoothing",
    "radius_ceiling",
    "rs_radius",
    "smoothed_slope",
    "top_two_pvalue",
    "two_sided_pvalue",
    "upper_bound",
]

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


def log_wealth(successes: ArrayLike, trials: ArrayLike, p0: ArrayLike) -> Floats:
    """Log wealth of a gambler who bet 1 against "p <= p0": -inf where it underflows, far below 1.

    The likelihood ratio of q and p0, averaged by the Beta(1/2, 1/2) prior of q cut to q > p0. If p <= p0, it
    is a nonnegative supermartingale from 1, so it ever reaches 1/alpha with probability <= alpha (Ville).
    Above 1 it falls in p0: in the angle arcsin(sqrt(q)) the prior is uniform and the likelihood log-concave.
    Raises ValueError unless 0 <= k <= n and 0 < p0 < 1.
    """
    k, n, p = _checked("log_wealth", successes, trials, p0, level="p0 is a probability", least=0)
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
    k, n, level = _checked("anytime_lower_bound", successes, trials, alpha, least=0)
    angle = _crossing(np.maximum(k, 1.0), np.maximum(n, 1.0), -np.log(level))
    return np.where(k == 0, 0.0, np.sin(angle) ** 2 * (1 - 1e-15))[()]


def anytime_upper_bound(successes: ArrayLike, trials: ArrayLike, alpha: ArrayLike) -> Floats:
    """p <= anytime_upper_bound at all numbers of draws at once; mirrors `anytime_lower_bound`."""
    k, n, level = _checked("anytime_upper_bound", successes, trials, alpha, least=0)
    return np.asarray(1 - anytime_lower_bound(n - k, n, level), dtype=np.float64)[()]


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


def smoothed_slope(sigma: ArrayLike) -> Floats:
    """The l2 Lipschitz constant 1 / (sigma sqrt(2 pi)) of any [0, 1]-valued function under Gaussian noise.

    A half-space attains it; it is half of the constant in Salman et al. 2019, lemma 1, for values in [-1, 1].
    """
    return np.asarray(1 / (np.asarray(sigma, dtype=np.float64) * np.sqrt(2 * np.pi)), dtype=np.float64)[()]


def mix_radius_lipschitz(
    p_lower: ArrayLike, p_upper: ArrayLike, weight: ArrayLike, slope: ArrayLike
) -> Floats:
    """(a (p_lower - p_upper) + a - 1) / (2 a slope), or 0: Bai et al. 2024, theorem 4.

    In the norm, any l_p, in which each of h's probabilities has the Lipschitz constant `slope`.
    """
    p1, p2, a, slope = _checked_mix("mix_radius_lipschitz", p_lower, p_upper, weight, slope)
    a = np.maximum(a, 0.5)  # where nothing is certified
    return np.asarray(np.maximum(a * (p1 - p2) + a - 1, 0.0) / (2 * a * slope), dtype=np.float64)[()]


def mix_radius_smoothing(
    p_lower: ArrayLike, p_upper: ArrayLike, weight: ArrayLike, sigma: ArrayLike
) -> Floats:
    """sigma / 2 (Phi^-1(a p_lower) - Phi^-1(a p_upper + 1 - a)), or 0: Bai et al. 2024, theorem 5 (l2).

    Never beyond sigma Phi^-1(a): it moves the margin into a function that is no longer smoothed.
    """
    p1, p2, a, sigma = _checked_mix("mix_radius_smoothing", p_lower, p_upper, weight, sigma)
    with np.errstate(invalid="ignore"):  # infinite less infinite certifies nothing
        gap = special.ndtri(a * p1) - special.ndtri(a * p2 + 1 - a)
    return np.where((a > 0.5) & (gap > 0), sigma / 2 * np.maximum(gap, 0.0), 0.0)[()]


def mix_radius_exact(p_lower: ArrayLike, p_upper: ArrayLike, weight: ArrayLike, sigma: ArrayLike) -> Floats:
    """The r with Phi(Phi^-1(p_lower) - r / sigma) - Phi(Phi^-1(p_upper) + r / sigma) = mu, or 0 (l2).

    Phi^-1 of a smoothed probability is 1/sigma-Lipschitz (Salman et al. 2019, lemma 2), so h keeps its margin
    within r; a half-space attains it. So it is at least `mix_radius_smoothing` and `mix_radius_lipschitz`
    (with `smoothed_slope`). Rounded down; infinite where p_lower = 1 and p_upper = 0.
    """
    p1, p2, a, sigma = _checked_mix("mix_radius_exact", p_lower, p_upper, weight, sigma)
    z1, z2 = (np.clip(special.ndtri(p), -37.0, 37.0) for p in (p1, p2))
    room = np.maximum(2 * a - 1, 0.0) / a.clip(1e-300)  # 1 - mu: what h may lose, from the nearer tails
    low, high = np.zeros_like(z1), np.maximum(z1 - z2, 0.0) / 2
    for _ in range(64):
        middle = (low + high) / 2
        kept = special.ndtr(middle - z1) + special.ndtr(z2 + middle) <= room
        low, high = np.where(kept, middle, low), np.where(kept, high, middle)
    some = (a > 0.5) & (special.ndtr(-z1) + special.ndtr(z2) < room)
    radius = np.where((p1 == 1) & (p2 == 0), np.inf, sigma * low)
    return np.where(some, radius, 0.0)[()]


def mix_radius_closed(p_lower: ArrayLike, weight: ArrayLike, sigma: ArrayLike) -> Floats:
    """`mix_radius_exact` for p_upper = 1 - p_lower: the radius of h less sigma Phi^-1(1 / (2 a)), or 0.

    One constant is subtracted from `rs_radius`, so that a table of h becomes one of the mix at any weight.
    """
    p1, _, a, sigma = _checked_mix("mix_radius_closed", p_lower, 0.0, weight, sigma)
    price = -special.ndtri(np.maximum(2 * a - 1, 0.0) / (2 * a.clip(1e-300)))
    with np.errstate(invalid="ignore"):
        rest = special.ndtri(p1) - price
    return np.where((a > 0.5) & (rest > 0), sigma * np.maximum(rest, 0.0), 0.0)[()]


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


def two_sided_pvalue(successes: ArrayLike, trials: ArrayLike) -> Floats:
    """Exact two-sided binomial test of p = 1/2, for Cohen's PREDICT: votes of the top among the top two.

    Answering only where it is <= alpha gives a class other than the smoothed one with probability <= alpha.
    """
    k, n, _ = _checked("two_sided_pvalue", successes, trials, 0.5)
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


def _settle(p: Floats, too_bold: Callable[[Floats], NDArray[np.bool_]], *, towards: float) -> Floats:
    # The inverse is good to a few ulps in p, which is not good enough where p is close to 1: step outwards,
    # doubling the step, until the tail probability itself says that the level is kept.
    step = np.spacing(p)
    while (bold := too_bold(p)).any():
        p = np.where(bold, np.clip(p + step if towards else p - step, 0.0, 1.0), p)
        step = 2 * step
    return p


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


def _checked(
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
            f"got {_first(k, fine):g} of {_first(n, fine):g}."
        )
    fine = (share > 0) & (share < 1)
    if not fine.all():
        raise ValueError(f"{call}: {level} in (0, 1), got {_first(share, fine):g}.")
    return k, n, share


def _checked_mix(
    call: str, p_lower: ArrayLike, p_upper: ArrayLike, weight: ArrayLike, scale: ArrayLike
) -> tuple[Floats, Floats, Floats, Floats]:
    given = (np.asarray(value, dtype=np.float64) for value in (p_lower, p_upper, weight, scale))
    p1, p2, a, scale = np.broadcast_arrays(*given)
    named = {"p_lower is a probability": p1, "p_upper is a probability": p2, "weight is a share": a}
    for what, values in named.items():
        fine = (values >= 0) & (values <= 1)
        if not fine.all():
            raise ValueError(f"{call}: {what} in [0, 1], got {_first(values, fine):g}.")
    fine = (scale > 0) & np.isfinite(scale)
    if not fine.all():
        raise ValueError(f"{call}: sigma or slope must be positive and finite, got {_first(scale, fine):g}.")
    return p1, p2, a, scale


def _first(values: Floats, fine: NDArray[np.bool_]) -> float:
    return float(values[~fine].flat[0])
