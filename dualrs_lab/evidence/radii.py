"""Radii of one smoothed classifier: how far bounds on probabilities reach, and what that takes.

**Cohen's rule**: R = sigma Phi^-1(p_lower), which grants a rival all that the class leaves (Cohen, Rosenfeld
and Kolter 2019, theorem 1). **Two bounds** look at the votes of the rivals as well:

    R = sigma / 2 (Phi^-1(p_lower) - Phi^-1(min(p_upper, 1 - p_lower))),

where p_lower bounds the class y at alpha / 2, and p_upper is the upper bound, at alpha / 2, that the largest
count of another class gives. There is no union over the other classes. *Proof.* The exact radius of y is R* =
sigma / 2 (Phi^-1(p_y) - Phi^-1(p_c)) for the most probable other class c (Cohen et al. 2019, theorem 1 in its
two-sided form). y and c are fixed before the votes are drawn: y by separate draws, c by the classifier. No
count of another class is above the largest, and bounds rise in their count, so that p_upper >= p_c unless c's
own bound fails; and 1 - p_lower >= p_c unless y's bound fails. So R > R* only if one of two bounds at alpha /
2 fails. QED. The same holds at all numbers of draws at once, if both bounds do.

**Selected**: Cohen's rule for images whose selection draws are unanimous, where a rival's votes say the least
and half of alpha costs the most, and two bounds for the others. The counted votes have no say in it.

**The original from votes of a copy** (in the spirit of IRS: Ugare et al. 2024). Votes are counted of a quick
copy c of the network f; `PairedCounts` say what f voted on the noise of the first m of the same draws. For
every class y and every other class r

    P[f = y] >= P[c = y] - P[c = y, f != y],        P[f = r] <= P[c = r] + P[f = r, c != r],

where both last terms are at most P[c != f], and in general half of it. Half of alpha goes to the bounds of c,
half to those of the differences, each shared by class and rival as the rule has it; the split is fixed. An
even one is near the best: the bounds move with the logarithms of their levels. Where the selection draws are
unanimous, and differences cost the most, f's own votes on the m draws decide, by Cohen's rule at all of
alpha. *Proof.* y and whether the selection is unanimous are fixed before the counted draws, by separate ones;
f's most probable other class r is fixed by f, x and y. No draw has a say in any of them, so nothing is to be
united over classes: no count of a class other than y is above the largest such count, neither of votes of c
for r nor of draws with f = r, c != r, and upper bounds rise in their count. So R > R*(f) only if one of these
fails: c's bound of y at alpha / 4, the bound of P[c = y, f != y] at alpha / 4, that of c's votes for r at
alpha / 4, that of P[f = r, c != r] at alpha / 4; by Cohen's rule one of the first two at alpha / 2 each; if
unanimous, f's own bound of y at alpha. The union bound asks for no independence, so the paired draws may be
among the counted ones. QED. m is fixed beforehand, and all pairs are of this very image: a copy differs on
images near a boundary and hardly elsewhere, so that a share over many images bounds that of none of them.
Where the votes decide when to stop, no image stops before its m-th draw, so that m stays fixed; bounds of
differences are of these m draws alone, and c's hold at all numbers of draws at once. Then any time may be
chosen by votes and pairs.

*How many pairs.* The copy's bounds lose about sqrt(2 L v / n) in probability, with L = log(4 / alpha) and v
the variance of a vote, those of the differences L / m at least. If a draw of f costs as much as kappa of c,
n + kappa m draws are used best with m = n^(3/4) (2 L / v)^(1/4) / sqrt(kappa): for n = 10,000 and alpha =
0.001, from a tenth of n (v = 0.1, kappa = 15) to half of it (v = 0.01, kappa = 2). A quarter is the default.
A copy repays only where it is much quicker: where kappa is small or votes are nearly unanimous, as many
draws of f itself as the same time gives certify more.

The formulas add a relative error of about 1e-15 to their bounds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dualrs_lab.evidence.anytime import anytime_lower_bound, anytime_upper_bound
from dualrs_lab.evidence.binomial import first_bad, lower_bound, upper_bound
from dualrs_lab.settings import RULE

__all__ = [
    "BOUNDS",
    "RULES",
    "PairedCounts",
    "enough_draws",
    "margin_radius",
    "radius_ceiling",
    "rs_radius",
    "rule_levels",
    "ruled_bounds",
    "ruled_radius",
    "smoothed_slope",
]


Floats = NDArray[np.float64]


Bound = Callable[[ArrayLike, ArrayLike, ArrayLike], Floats]  # successes, trials, level


Bounds = tuple[Bound, Bound]  # from below, from above


EXACT: Bounds = (lower_bound, upper_bound)


BOUNDS: dict[str, Bounds] = {
    "clopper-pearson": EXACT,  # at a number of draws that the votes had no say in
    "betting": (anytime_lower_bound, anytime_upper_bound),  # wherever the votes made it stop
}


RULES = RULE.names
"""How a radius follows from the votes; the first is the default, "cohen" that of tables which do not say."""


class PairedCounts(NamedTuple):
    """What the original voted on the noise of the first `paired` of a copy's counted draws; counts (…,)."""

    paired: ArrayLike  # draws, fixed beforehand
    kept: ArrayLike  # of them, on which the original votes for the class
    lost: ArrayLike  # on which the copy does, and the original does not
    gained: ArrayLike  # on which the original votes for one other class and the copy does not, at most


def possible_pairs(pairs: PairedCounts, own: ArrayLike, trials: ArrayLike) -> NDArray[np.bool_]:
    """Where (…,) such counts can be, beside `own` of `trials` votes of the copy for the class."""
    own, trials, paired, kept, lost, gained = map(np.asarray, (own, trials, *pairs))
    other = paired - kept  # where the original votes for others
    fine = (paired <= trials) & (kept >= 0) & (lost >= 0) & (lost <= np.minimum(own, other))
    return np.asarray(fine & (gained >= 0) & (gained <= other) & (other - lost <= trials - own))


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


def margin_radius(p_lower: ArrayLike, p_upper: ArrayLike, sigma: ArrayLike) -> Floats:
    """sigma / 2 (Phi^-1(p_lower) - Phi^-1(min(p_upper, 1 - p_lower))), or 0 where that is below it.

    `p_lower` bounds the class, `p_upper` every other one. So it is never below `rs_radius`. Raises as that
    does.
    """
    alone = rs_radius(p_lower, sigma)
    low, high = np.asarray(p_lower, dtype=np.float64), np.asarray(p_upper, dtype=np.float64)
    fine = (high >= 0) & (high <= 1)
    if not fine.all():
        raise ValueError(f"margin_radius: p_upper is a probability in [0, 1], got {first_bad(high, fine):g}.")
    return np.maximum(alone, signed_margin(low, high, sigma))[()]


def signed_margin(p_lower: ArrayLike, p_upper: ArrayLike, sigma: ArrayLike) -> Floats:
    """As `margin_radius`, of probabilities that nobody checks, and also below 0; `rs_radius` at p_upper 1."""
    own = special.ndtri(np.asarray(p_lower, dtype=np.float64))
    with np.errstate(invalid="ignore"):  # infinite less infinite: both 0 or both 1
        gap = (own - special.ndtri(np.asarray(p_upper, dtype=np.float64))) / 2
    return np.asarray(np.asarray(sigma) * np.fmax(own, gap))


def ruled_bounds(
    rule: str,
    own: ArrayLike,
    rival: ArrayLike,
    trials: ArrayLike,
    alpha: ArrayLike,
    *,
    bounds: Bounds = EXACT,
    unanimous: ArrayLike = False,
    pairs: PairedCounts | None = None,
) -> tuple[Floats, Floats]:
    """Bounds (…,) of the class from below and of the others from above, from counts (…,) of both, by a rule.

    `rival` is the largest count of another class, `unanimous` says whether all selection draws were for the
    class. With `pairs` they bound the original, else whatever voted. Raises ValueError for a rule that there
    is not, and for counts as `lower_bound` does.
    """
    alone = cohens(rule, unanimous)
    level = np.where(alone, 1.0, 0.5) * np.asarray(alpha, dtype=np.float64) / (1 if pairs is None else 2)
    low, high = (bound(count, trials, level) for bound, count in zip(bounds, (own, rival), strict=True))
    if pairs is not None:
        lost, gained = (upper_bound(count, pairs.paired, level) for count in (pairs.lost, pairs.gained))
        low, high = np.maximum(low - lost, 0.0), np.minimum(np.minimum(high, 1.0 - low) + gained, 1.0)
        alike = np.asarray(unanimous, dtype=bool)
        low = np.where(alike, lower_bound(pairs.kept, pairs.paired, alpha), low)
        alone = alone | alike
    rest = 1.0 - low
    return np.asarray(low)[()], np.where(alone, rest, np.minimum(high, rest))[()]


def ruled_radius(
    rule: str,
    own: ArrayLike,
    rival: ArrayLike,
    trials: ArrayLike,
    alpha: ArrayLike,
    sigma: ArrayLike,
    *,
    bounds: Bounds = EXACT,
    unanimous: ArrayLike = False,
    pairs: PairedCounts | None = None,
) -> Floats:
    """The certified l2 radius (…,) in sigma's unit by a rule, at level alpha: see `ruled_bounds`."""
    how = {"bounds": bounds, "unanimous": unanimous, "pairs": pairs}
    low, high = ruled_bounds(rule, own, rival, trials, alpha, **how)  # type: ignore[arg-type]
    alone = cohens(rule, unanimous)
    return np.where(alone, rs_radius(low, sigma), margin_radius(low, high, sigma))[()]


def cohens(rule: str, unanimous: ArrayLike = False) -> NDArray[np.bool_]:
    """Where (…,) a rule of `RULES` leaves all of alpha to the class."""
    if rule not in RULES:
        raise ValueError(f"ruled_radius: wanted a rule of {', '.join(RULES)}, got {rule!r}.")
    alone = unanimous if rule == "selected" else np.zeros(np.shape(unanimous)) + (rule == "cohen")
    return np.asarray(alone, dtype=bool)


def rule_levels(rule: str, alpha: float) -> dict[str, float]:
    """How alpha is split by a rule, over the bounds of the class and of its largest rival: for records.

    By "selected" in two ways, which the draws that guess the class tell apart. ValueError for other rules.
    """
    cohens(rule)
    halves = {"class": alpha / 2, "rival": alpha / 2}
    if rule == "selected":
        return {"class, where the selection is unanimous": alpha, **halves}
    return {"class": alpha} if rule == "cohen" else halves


def radius_ceiling(
    trials: ArrayLike, alpha: ArrayLike, sigma: ArrayLike, *, rule: str = "two-bounds"
) -> Floats:
    """The radius when all n votes agree: no certificate from n draws at this alpha and sigma is larger."""
    return ruled_radius(rule, trials, 0, trials, alpha, sigma, unanimous=True)


def smoothed_slope(sigma: ArrayLike) -> Floats:
    """The l2 Lipschitz constant 1 / (sigma sqrt(2 pi)) of any [0, 1]-valued function under Gaussian noise.

    A half-space attains it; it is half of the constant in Salman et al. 2019, lemma 1, for values in [-1, 1].
    """
    return np.asarray(1 / (np.asarray(sigma, dtype=np.float64) * np.sqrt(2 * np.pi)), dtype=np.float64)[()]


def enough_draws(
    p: ArrayLike,
    most: ArrayLike,
    alpha: ArrayLike,
    loss: float,
    *,
    rival: ArrayLike | None = None,
    unanimous: ArrayLike = False,
    rule: str = "two-bounds",
    step: int = 1,
) -> NDArray[np.int64]:
    """Draws that nearly give the radius of `most` draws, where a share p of them votes for the class.

    A share `rival` (None: all that is left) votes for the largest other one. The smallest multiple of `step`
    (else `most`) whose radius by the `rule` is positive and at most `loss` times sigma below that of `most`
    draws; 0 where `most` draws certify nothing. The rule of input-specific sampling (Chen et al. 2022).
    Raises ValueError for shares outside [0, 1], a loss <= 0 and what `lower_bound` refuses.
    """
    left = 1 - np.asarray(p, dtype=np.float64) if rival is None else rival
    given = (np.asarray(value, dtype=np.float64) for value in (p, left, most, alpha))
    share, other, most, level = np.broadcast_arrays(*given)
    fine = (share >= 0) & (share <= 1) & (other >= 0) & (share + other <= 1 + 1e-9)
    if not fine.all() or not loss > 0 or step < 1:
        raise ValueError(
            f"enough_draws: wanted shares in [0, 1], loss > 0 and step >= 1, got {share}, {other}, {loss} "
            f"and {step}."
        )

    def radius(n: Floats) -> Floats:
        own = np.floor(n * share + 1e-9)
        theirs = np.minimum(np.ceil(n * other - 1e-9), n - own)
        return ruled_radius(rule, own, theirs, n, level, 1.0, unanimous=unanimous)

    goal = radius(most)
    wish = np.maximum(goal - loss, 0.0)
    low, high = np.zeros_like(share), np.ceil(most / step)  # in steps
    while (high - low > 1).any():
        middle = np.maximum(np.floor((low + high) / 2), 1.0)
        enough = radius(np.minimum(middle * step, most)) > wish
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(goal > 0, np.minimum(high * step, most), 0).astype(np.int64)[()]
