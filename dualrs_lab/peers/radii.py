"""How far an answer lasts where the noise level itself changes with the input (Súkeník et al. 2022).

sigma(x) is *r-semi-elastic*: |log sigma(x) - log sigma(x')| <= r ||x - x'||. At x0 the classifier votes under
N(x0, s0^2 I) in N dimensions, at x1 under N(x1, s1^2 I). What the votes at x0 leave open is the worst case
over all base classifiers, and over all levels that sigma(x1) may have.

**One pair of Gaussians.** Let a set have probability p under the first. Its least probability under the
second is attained where their likelihood ratio is cut (Neyman and Pearson): with a = ||x1 - x0|| and g =
(s1/s0)^2 - 1, in a ball for s1 > s0, outside one for s1 < s0, whose centre lies at a / |g| from x0 and at a
(s1/s0)^2 / |g| from x1, on their line. Both probabilities are non-central chi-squares with N degrees of
freedom:

    f(p; a, s1) = F(F^-1(p; c0) (s0/s1)^2; c1)               s1 > s0, c0 = (a / (s0 g))^2, c1 = (s1/s0)^2 c0,
    f(p; a, s1) = 1 - F(F^-1(1 - p; c0) (s0/s1)^2; c1)       s1 < s0,
    f(p; a, s0) = Phi(Phi^-1(p) - a / s0).

*f falls in a.* Let A be the best set for a > 0: a ball, or what is outside one. Move the second mean from a
away from the first, for s1 < s0 at most to the centre, at a / |g| > a. It goes away from the centre of the
ball (for s1 < s0 towards it), which lowers the probability of A, as that of a ball falls with the distance of
its centre. A still has p under the first, so f does not rise; and such steps reach every b > a. For a = 0, f
is continuous.

*f is Lipschitz in log s1*, with the constant L = 2 k^k e^-k / Gamma(k) <= sqrt(N / pi), k = N/2. The
derivative of the probability of any set A under N(x1, s^2 I) with respect to log s is E[1_A (X - N)], X the
chi-square |z - x1|^2 / s^2; E X = N, so that it is at most E max(X - N, 0) = L in size. An infimum over sets
keeps it. QED

**The certificate.** Let p bound the class y at x0 from below and q every other class from above, and

    W(h; a) = f(p; a, s0 e^h) + f(1 - q; a, s0 e^h) - 1.

At x1 the class has at least f(p), any other at most 1 - f(1 - q); so y is the answer where W > 0. *R is
certified if W(h; R) > 0 for all |h| <= r R.* Any x1 within R has a <= R and |log sigma(x1) - log s0| <= r a
<= r R, and W falls in a. QED. For r = 0 this is the radius of two bounds (q = 1 - p: Cohen's, see
`evidence.radii`).

The interval of h is not sampled but covered: W is Lipschitz with 2L, so W(h) = w > 0 settles all h' within w
/ 2L of h. The published code looks at one end (in its default) or both. For h > 0 the far end decides
wherever f(p) > 1/2 there: a ball that holds half of a Gaussian holds its mean, so that its probability falls
as the noise grows. For h < 0 we know no proof, and no case in which neither end decides; none is needed
here.

**Why so little is left in many dimensions.** Two levels are told apart by the length of the noise alone: it
is s sqrt(N) within s / sqrt(2), so that f leaves nothing where r R is a few times 1 / sqrt(2 N), whatever the
base classifier.

Probabilities are those of SciPy (Boost), exact to 5e-12 up to a non-centrality of 1e10. Above `_FAR`, where
both levels nearly agree, f at equal levels less L |h| stands in; `_SLACK` is taken off every value.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dualrs_lab.evidence.radii import margin_radius

__all__ = ["least_probability", "level_slope", "smooth_sigma_radius"]


_FAR = 1e8  # non-centrality up to which the chi-square is asked


_MOST = 30.0  # change of log sigma, beyond which nothing is claimed


_SLACK = 1e-9  # of every probability: two hundred times what SciPy was seen to miss


_HALVINGS = 24  # of the radius that there is without any change of the level


_STEPS = 1 << _HALVINGS


_DEEPEST = 60  # parts of an interval, one within the other


_BACK = (
    10  # first, 2^-10 of the radius is given up, so that the ends of the interval are settled at a distance
)


def level_slope(dims: int) -> float:
    """The Lipschitz constant L in log s of any set's probability under N(x, s^2 I), in `dims` dimensions."""
    half = dims / 2
    return 2 * math.exp(half * math.log(half) - half - math.lgamma(half))


def least_probability(p: float, away: float, change: float, dims: int) -> float:
    """f: what a set of probability `p` under N(0, I) has at least under N(a, e^(2 change) I), |a| = `away`.

    `away` is in units of the first standard deviation. Never above the exact value. Raises ValueError for
    numbers that make no sense.
    """
    if not (0 <= p <= 1 and 0 <= away < math.inf and math.isfinite(change) and dims >= 1):
        raise ValueError(
            f"least_probability: got p {p}, away {away}, change {change} and {dims} dimensions; wanted a "
            "probability, a finite distance, a finite change of log sigma, and one dimension at least"
        )
    if p in (0.0, 1.0):
        return p
    if abs(change) > _MOST:
        return 0.0
    gap = math.expm1(2 * change)
    first = (away / gap) ** 2 if gap else math.inf
    if not first <= _FAR:
        there = float(special.ndtr(special.ndtri(p) - away))
        return max(0.0, there - level_slope(dims) * abs(change) - _SLACK * (change != 0))
    second, shrunk = first * math.exp(2 * change), math.exp(-2 * change)
    if gap > 0:
        cut = special.chndtrix(p, dims, first)
        found = float(special.chndtr(cut * shrunk, dims, second))
    else:
        cut = special.chndtrix(1 - p, dims, first)
        found = 1 - float(special.chndtr(cut * shrunk, dims, second))
    return max(0.0, found - _SLACK) if math.isfinite(found) else 0.0


def smooth_sigma_radius(
    p_lower: ArrayLike, p_upper: ArrayLike, sigma: ArrayLike, rate: ArrayLike, dims: int
) -> NDArray[np.float64]:
    """The certified l2 radius (…,) where log sigma changes by at most `rate` per unit of distance.

    `p_lower` bounds the class at the input itself, `p_upper` every other one, under noise `sigma` in `dims`
    dimensions. 0 where nothing is certified; never above `evidence.margin_radius`, which it is for rate 0.
    Raises ValueError as that does, and for a negative rate.
    """
    most = margin_radius(p_lower, p_upper, sigma)
    rate = np.asarray(rate, dtype=np.float64)
    if not (np.isfinite(rate) & (rate >= 0)).all():
        raise ValueError(f"smooth_sigma_radius: wanted a finite rate >= 0, got {rate}")
    high = np.minimum(p_upper, 1.0 - np.asarray(p_lower, dtype=np.float64))
    given = np.broadcast_arrays(most, p_lower, high, sigma, rate)
    told = zip(*(column.ravel().tolist() for column in given), strict=True)
    each = [_radius(m, low, q, s, r, dims) for m, low, q, s, r in told]
    return np.asarray(np.reshape(each, given[0].shape))[()]


def _radius(most: float, low: float, high: float, sigma: float, rate: float, dims: int) -> float:
    if most == 0 or rate == 0 or math.isinf(most):
        return most

    def wins(change: float, radius: float) -> float:
        away = radius / sigma
        own, rest = (least_probability(p, away, change, dims) for p in (low, 1 - high))
        return own + rest - 1

    def ends(radius: float) -> bool:
        return all(wins(sign * rate * radius, radius) > 0 for sign in (-1, 1))

    steps = 0  # of most / _STEPS, so that another SciPy finds the same radius
    for bit in reversed(range(_HALVINGS)):
        steps += ends(most * (steps + (1 << bit)) / _STEPS) << bit
    for back in range(_BACK, 0, -1):
        radius = most * (steps - (steps >> back) - 1) / _STEPS
        if radius > 0 and _covered(wins, radius, rate, 2 * level_slope(dims)):
            return radius
    return 0.0


def _covered(wins: Callable[[float, float], float], radius: float, rate: float, slope: float) -> bool:
    # whether wins(h, radius), with this Lipschitz constant in h, is above 0 for all |h| <= rate * radius
    parts = [(-rate * radius, rate * radius, 0)]
    while parts:
        low, high, depth = parts.pop()
        middle = (low + high) / 2
        reach = wins(middle, radius) / slope
        if reach <= 0 or depth > _DEEPEST:
            return False
        if reach < (high - low) / 2:
            parts += [(low, middle - reach, depth + 1), (middle + reach, high, depth + 1)]
    return True
