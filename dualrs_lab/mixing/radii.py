"""Radii of a mix (1 - a) g + a h of probabilities, g arbitrary and h robust, at weight a.

While h keeps the margin mu = (1 - a) / a between a class and any other, the mix answers that class (Bai et
al. 2024, lemma 2); so nothing is certified for a <= 1/2. `p_lower` bounds h's largest probability from below,
`p_upper` every other one from above.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dualrs_lab.evidence.binomial import first_bad

__all__ = ["mix_radius_closed", "mix_radius_exact", "mix_radius_lipschitz", "mix_radius_smoothing"]


Floats = NDArray[np.float64]


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


def _checked_mix(
    call: str, p_lower: ArrayLike, p_upper: ArrayLike, weight: ArrayLike, scale: ArrayLike
) -> tuple[Floats, Floats, Floats, Floats]:
    given = (np.asarray(value, dtype=np.float64) for value in (p_lower, p_upper, weight, scale))
    p1, p2, a, scale = np.broadcast_arrays(*given)
    named = {"p_lower is a probability": p1, "p_upper is a probability": p2, "weight is a share": a}
    for what, values in named.items():
        fine = (values >= 0) & (values <= 1)
        if not fine.all():
            raise ValueError(f"{call}: {what} in [0, 1], got {first_bad(values, fine):g}.")
    fine = (scale > 0) & np.isfinite(scale)
    if not fine.all():
        raise ValueError(
            f"{call}: sigma or slope must be positive and finite, got {first_bad(scale, fine):g}."
        )
    return p1, p2, a, scale
