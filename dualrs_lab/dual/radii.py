"""How far a dual system keeps its answer, by the published and by the routed rule: numbers in, numbers out.

The system is g(x) = g_j(x) with j = g_e(x): a smoothed estimator g_e chooses among K smoothed experts g_j.
Every statement is about this ideal system, not about votes: g_j(x) is the most probable class of expert j
under noise of its own sigma_j, and the estimator is one of

- median: F_k(x) = P[vote <= k] under noise s_k (one for all cuts k = 1 … K - 1, or one each) and F_K = 1;
  g_e(x) = min{k : F_k(x) >= 1/2}: the first cut that says yes decides, and a tie says yes;
- plurality: p_j(x) = P[vote = j] under noise s; g_e(x) is the j of the largest p_j, ties broken in any way.

**Entry radius** r_j: at no ||delta|| < r_j is expert j chosen. Phi^-1 of a probability that is smoothed
with s is 1/s-Lipschitz (Salman et al. 2019). The median chooses j only where F_j >= 1/2 and F_i < 1/2 for
all i < j, and plurality only where p_j reaches p_top, whichever `top` one compares with:

    median     r_j = max(0, -s_j Phi^-1(F_j), s_i Phi^-1(F_i) for i < j)        without the F_K term
    plurality  r_j = max(0, s/2 (Phi^-1(p_top) - Phi^-1(p_j)))

**Expert radius** R_j: at all ||delta|| < R_j expert j returns y, the claimed class (Cohen et al. 2019,
theorem 1); 0 where it is certified for no class or for another one.

**Theorem.** g(x + delta) = y for all ||delta|| < R = min_j max(r_j, R_j). *Proof.* Let j be the one chosen at
x + delta. Then r_j <= ||delta|| < max(r_j, R_j), hence ||delta|| < R_j, and expert j returns y there. QED.

The published rule (Sun, Mao and Vechev 2026, theorem 4.1) is min(R_e, R_top), where R_e, the least r_j of the
others, is how far the choice remains `top`. It is never larger, since R_top <= max(r_top, R_top) and, for the
others, R_e <= r_j. All experts with r_j = 0 may be the one chosen at x: they must agree on y, or R = 0.

**From votes.** Where they hold, bounds of the probabilities only make each r_j and R_j smaller. A wrong `top`
does no harm: the expert that the ideal estimator chooses at x has r_j = 0, so R > 0 needs its certificate for
y too. Let t_j be the least ||delta|| at which j is chosen and does not return y, so that min_j t_j is the
true radius. max(r_j, R_j) <= t_j where the bounds that enter it hold; how levels add up depends on `top`:

- *guessed on separate draws*: y is fixed then, and so is the j with the least t_j. R > t_j implies
  max(r_j, R_j) > t_j, a failure of this one route. So levels add up within a route only: those of the expert,
  and of the cuts, at most three, or two with plurality. (A minimum of lower bounds needs no union bound,
  Berger 1982; for the same reason the published rule could spend alpha on each of its two stages.) The level
  of an expert is that of its radius, whatever the rule: two bounds share it (`evidence.radii`).
- *taken from the votes themselves*: y depends on them, so all bounds have to hold: all levels add up.

With one noise for all cuts F_1 <= … <= F_(K-1), so only one of the earlier cuts matters: r_j is the larger of
-s Phi^-1(F_j) and s Phi^-1(F_(j-1)), and a route has two bounds of cuts for any K (`Split.nearest`). Cuts of
different noise have no order, and a route has all those up to its own, or loses something.

In both cases each expert's class is guessed on draws other than the counted ones, estimator and experts may
share noise, and the split is fixed before any draw. An expert with r_j >= R cannot change R by any votes; not
asking it (`still_needed`) gives the number that asking would have given, and therefore costs no level either.

Shapes: leading axes of images (or none), then experts (K,) or cuts (K - 1,), counted from 0. Radii are l2 in
the unit of the sigmas. The paper's sigma_e, R_sigma and R_c are s, R_e and R_top.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dualrs_lab.dual.split import Split
from dualrs_lab.evidence.radii import EXACT, RULES, Bounds, ruled_radius
from dualrs_lab.evidence.votes import own_and_rival

__all__ = [
    "Routes",
    "constancy_radius",
    "cuts_entry",
    "expert_radii",
    "joined",
    "median_entry",
    "median_entry_radii",
    "plurality_entry",
    "plurality_entry_radii",
    "published_radius",
    "routed_radius",
    "routes",
    "still_needed",
]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


Bools = NDArray[np.bool_]


def median_entry_radii(
    lower: ArrayLike, upper: ArrayLike, sigma: ArrayLike, *, nearest: bool = False
) -> Floats:
    """Entry radii (…, K) of the median estimator from bounds (…, K - 1) of F_1 … F_(K-1).

    `sigma` is the estimator's noise, one for all cuts or one each (K - 1,). Exact probabilities are passed
    twice. The F_k need not be ascending: those of cuts with different noise may not be. With `nearest`, of
    the cuts before an expert's own only the last one is looked at.
    """
    low, high = (_probabilities("median_entry_radii", bound) for bound in (lower, upper))
    sigmas = _sigmas("median_entry_radii", sigma, low.shape[-1])
    says_no = -sigmas * special.ndtri(high)  # the cut itself, within this radius
    yes = sigmas * special.ndtri(low)
    says_yes = yes if nearest else np.maximum.accumulate(yes, axis=-1)  # an earlier cut
    none = np.zeros((*low.shape[:-1], 1))
    terms = [np.maximum(says_no, 0.0), none], [none, says_yes]
    return np.asarray(np.maximum(*(np.concatenate(term, axis=-1) for term in terms)))


def plurality_entry_radii(lower_top: ArrayLike, upper: ArrayLike, top: ArrayLike, sigma: float) -> Floats:
    """Entry radii (…, K) of the plurality estimator; 0 for `top` (…,), the expert that others must overtake.

    `lower_top` (…,) bounds p_top from below, `upper` (…, K) every p_j from above. 1 - lower_top bounds the
    others too, so no r_j is below s Phi^-1(lower_top), the published radius of constancy.
    """
    low = _probabilities("plurality_entry_radii", lower_top)[..., None]
    high = np.minimum(_probabilities("plurality_entry_radii", upper), 1.0 - low)
    never = (high == 0) & (low > 0)  # treated apart, since infinity less infinity is not a number
    gap = special.ndtri(low) - special.ndtri(np.where(high == 0, 0.5, high))
    radius = np.where(never, np.inf, np.maximum(_sigmas("plurality_entry_radii", sigma, 1) / 2 * gap, 0.0))
    return np.where(_at("plurality_entry_radii", top, high.shape[-1]), 0.0, radius)


def constancy_radius(entry: ArrayLike, top: ArrayLike) -> Floats:
    """R_e (…,): within it no expert but `top` (…,) is chosen. Infinite for K = 1."""
    r = np.asarray(entry, dtype=np.float64)
    return _least(np.where(_at("constancy_radius", top, r.shape[-1]), np.inf, r))


def published_radius(entry: ArrayLike, experts: ArrayLike, top: ArrayLike) -> Floats:
    """min(R_e, R_top) (…,) from entry radii r_j and expert radii R_j, both (…, K)."""
    r = np.asarray(entry, dtype=np.float64)
    return _least(np.where(_at("published_radius", top, r.shape[-1]), experts, r))


def routed_radius(entry: ArrayLike, experts: ArrayLike) -> Floats:
    """min_j max(r_j, R_j) (…,) from entry radii r_j and expert radii R_j, both (…, K)."""
    return _least(np.maximum(entry, experts))


def still_needed(entry: ArrayLike, experts: ArrayLike, certified: ArrayLike) -> Bools:
    """Which experts (…, K) are not `certified` yet, but could still lower the routed radius.

    Certify `top` first, then others by ascending entry radius, and ask again after each. The R_j of experts
    that are not certified plays no part: with 0 for them, the routed radius is the same as with all.
    """
    done = np.asarray(certified, dtype=bool)
    so_far = np.where(done, np.maximum(entry, experts), np.inf).min(axis=-1, keepdims=True)
    return np.asarray(~done & (np.asarray(entry) < so_far))


def median_entry(votes: ArrayLike, *, sigma: ArrayLike, split: Split, bounds: Bounds = EXACT) -> Floats:
    """Entry radii (…, K) from votes (…, K) for each expert: the same draws serve all cuts."""
    at_most = np.cumsum(np.asarray(votes), axis=-1)
    cuts = np.stack([at_most, at_most[..., -1:] - at_most], axis=-1)[..., :-1, :]
    return cuts_entry(cuts, sigma=sigma, split=split, bounds=bounds)


def cuts_entry(votes: ArrayLike, *, sigma: ArrayLike, split: Split, bounds: Bounds = EXACT) -> Floats:
    """Entry radii (…, K) from votes (…, K - 1, 2), at most k and more than k: separate draws for each cut."""
    counts, cuts = np.asarray(votes), len(split.experts) - 1
    if counts.shape[-2:] != (cuts, 2) or len(split.lower) != cuts:
        raise ValueError(
            f"cuts_entry: wanted votes (…, {cuts}, 2) and {cuts} lower levels in the split over {cuts + 1} "
            f"experts, got {counts.shape} and {len(split.lower)} levels."
        )
    yes, trials = counts[..., 0], counts.sum(axis=-1)
    low, high = bounds
    lower, upper = low(yes, trials, split.lower), high(yes, trials, split.upper)
    return median_entry_radii(lower, upper, sigma, nearest=split.nearest)


def plurality_entry(
    votes: ArrayLike, top: ArrayLike, *, sigma: float, split: Split, bounds: Bounds = EXACT
) -> Floats:
    """Entry radii (…, K) from votes (…, K) for each expert; `top` (…,) is the one that is chosen at x."""
    counts, count = np.asarray(votes), len(split.experts)
    if counts.shape[-1] != count or len(split.lower) != count:
        raise ValueError(
            f"plurality_entry: wanted votes (…, {count}) and {count} lower levels in the split over {count} "
            f"experts, got {counts.shape} and {len(split.lower)} levels."
        )
    trials, (low, high) = counts.sum(axis=-1, keepdims=True), bounds
    lower_top = _pick(low(counts, trials, split.lower), top)
    return plurality_entry_radii(lower_top, high(counts, trials, split.upper), top, sigma)


class Routes(NamedTuple):
    """What the votes on an image (or several) say. A radius of 0 claims nothing: the system abstains."""

    claim: Ints  # (…,) y, the class that both radii are about: that of `top`
    routed: Floats  # (…,) min_j max(r_j, R_j)
    published: Floats  # (…,) min(R_e, R_top)
    constancy: Floats  # (…,) R_e
    entry: Floats  # (…, K) r_j
    experts: Floats  # (…, K) R_j; 0 where expert j abstains, gives another class or was not asked


def expert_radii(
    own: ArrayLike,
    rival: ArrayLike,
    trials: ArrayLike,
    *,
    sigmas: ArrayLike,
    levels: ArrayLike,
    rule: str = RULES[0],
    unanimous: ArrayLike = False,
    bounds: Bounds = EXACT,
) -> Floats:
    """R_j (…, K) from counts (…, K) of the class, of its largest rival and of all draws, at `levels` (K,).

    0 for an expert without draws. `unanimous` (…,) says where the draws that guessed the class all did, for
    the rule that asks.
    """
    n = np.asarray(trials)
    told = own, rival, np.maximum(n, 1), levels, _sigmas("expert_radii", sigmas, n.shape[-1])
    alike = np.broadcast_to(np.asarray(unanimous)[..., None], n.shape)
    return np.where(n > 0, ruled_radius(rule, *told, bounds=bounds, unanimous=alike), 0.0)


def joined(entry: Floats, experts: Floats, claim: Ints, top: ArrayLike) -> Routes:
    """Both radii from entry radii (…, K), the experts' radii for y (…, K), y (…,) and `top` (…,)."""
    routed, published = routed_radius(entry, experts), published_radius(entry, experts, top)
    return Routes(claim[()], routed, published, constancy_radius(entry, top), entry, experts)


def routes(
    entry: ArrayLike,
    votes: ArrayLike,
    *,
    top: ArrayLike,
    classes: ArrayLike,
    sigmas: ArrayLike,
    split: Split,
    rule: str = RULES[0],
    unanimous: ArrayLike = False,
    bounds: Bounds = EXACT,
) -> Routes:
    """Both radii from the entry radii (…, K) and the experts' votes (…, K, C) for C classes.

    `top` (…,) is the expert chosen at x. `classes` (…, K) are the classes for which the experts are
    certified, guessed on draws that count neither here nor for `entry`; `rule` and the rest as of
    `expert_radii`. An expert without votes was not asked. Raises ValueError where shapes, `top` and `split`
    do not fit together.
    """
    r, counts, guesses = np.asarray(entry, dtype=np.float64), np.asarray(votes), np.asarray(classes)
    count = len(split.experts)
    if counts.ndim < 2 or not r.shape == guesses.shape == counts.shape[:-1] or r.shape[-1] != count:
        raise ValueError(
            f"routes: wanted entry radii and classes (…, {count}), votes (…, {count}, C) for the split over "
            f"{count} experts, got {r.shape}, {guesses.shape} and {counts.shape}."
        )
    claim = _pick(guesses, top)
    certified = expert_radii(
        *own_and_rival(counts, guesses),
        counts.sum(axis=-1),
        sigmas=sigmas,
        levels=split.experts,
        rule=rule,
        unanimous=unanimous,
        bounds=bounds,
    )
    return joined(r, np.where(guesses == claim[..., None], certified, 0.0), claim, top)


def _least(values: Any) -> Floats:
    return np.asarray(np.asarray(values, dtype=np.float64).min(axis=-1))[()]


def _at(call: str, top: ArrayLike, count: int) -> Bools:
    # (…, K): where `top` is
    chosen = np.asarray(top)
    if not ((chosen >= 0) & (chosen < count)).all():
        raise ValueError(f"{call}: top is an expert, one of 0 … {count - 1}, got {chosen}.")
    return np.asarray(np.arange(count) == chosen[..., None])


def _pick(values: NDArray[Any], where: ArrayLike) -> NDArray[Any]:
    return np.take_along_axis(values, np.asarray(where)[..., None], axis=-1)[..., 0]


def _probabilities(call: str, bound: ArrayLike) -> Floats:
    p = np.asarray(bound, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"{call}: bounds are probabilities in [0, 1], got {p}.")
    return p


def _sigmas(call: str, sigma: ArrayLike, count: int) -> Floats:
    values = np.asarray(sigma, dtype=np.float64)
    if values.shape not in ((), (count,)) or not ((values > 0) & np.isfinite(values)).all():
        raise ValueError(f"{call}: wanted one sigma or {count}, positive and finite, got {values}.")
    return values
