"""A cascade of smoothed experts, and how far it keeps its answer: numbers in, numbers out.

Experts are asked in a fixed order, usually from the largest sigma on. Expert i *accepts* class c at x where c
is its most probable class and sigma_i Phi^-1(p_ic) >= t_i, with a threshold t_i in the unit of a radius; 0
means a majority. g(x) is what the first expert that accepts anything accepts, and g abstains where none does:
the noise level depends on the input, and no estimator is needed. (Jeong and Shin 2023, for t = 0.)

Phi^-1(p_ic) is 1/sigma_i-Lipschitz (Salman et al. 2019). For a class y let, over all classes c other than y,

    half_ic   = sigma_i / 2 (Phi^-1(p_iy) - Phi^-1(p_ic))        y stays ahead of c below it
    accepts_i = min(sigma_i Phi^-1(p_iy) - t_i, half_ic)         expert i accepts y at ||delta|| below it
    errs_i    = min_c max(t_i - sigma_i Phi^-1(p_ic), half_ic)   it accepts no other class below it

**Theorem.** g(x + delta) = y for all ||delta|| < R, with
R = min(max_i accepts_i, min_i max(errs_i, accepts_j for j asked before i)).
*Proof.* If g(x + delta) is another class, an expert i accepts it, so ||delta|| >= errs_i, and no j before i
accepts y (it would have answered), so ||delta|| >= accepts_j. If g abstains there, ||delta|| >= accepts_i for
all i. Either way ||delta|| >= R. QED.

So an expert that says nothing does no harm, and any expert that accepts y protects from all that come after
it. Jeong and Shin's radius, min(accepts_i, errs_j for j before i) with i the first to accept at x, is never
larger: it ends where expert i may fall silent, although a later one may still say y.

**From votes.** Let y be fixed beforehand, by draws that are not counted. The exact probabilities name one way
in which g first fails: an expert i and class c, or silence of all. R from bounds exceeds the exact R only if
it exceeds the value of this one way, and so one of the bounds in it fails: of p_iy and p_ic, and of p_jy and
one rival for experts before i; where t >= 0, of p_ic alone, and of p_jy alone, since a rival of y has at most
1 - p_jy. So with b_i = 1 where t_i >= 0 and 2 elsewhere, the bounds of expert i may fail with probability
alpha s_i / b_i each, for any shares s_i of the level that were fixed before the draws and add up to 1. Where
none are named, all bounds have the same, alpha / sum_i b_i. An expert that is not asked accepts nothing and
may err at once (its bounds are 0 and 1), which lowers R and costs no level; nor does letting the guess decide
how many draws each expert gets. (Where t >= 0, half_ic never exceeds -sigma_i Phi^-1(p_ic), since p_iy + p_ic
<= 1: it has no part in either distance. Where t < 0, an expert has the level of both of its bounds, so a
rival has at most what the lower bound of y leaves, too.)

**Silence.** A base classifier may also say nothing on a noisy copy, as where it is not sure (`models.sure`):
it is a function into the classes 1..C and silence. p_ic is the probability of class c over *all* copies,
silent ones among them, so Phi^-1(p_ic) is Lipschitz as before, and the p_ic of an expert add up to at most 1.
Silence is never accepted: "most probable" is meant among the classes, and so is every c above. The theorem
holds word for word, as its proof speaks of nothing but classes that are accepted. Nor do levels change: the
way in which g first fails names one class c of C, and p_ic + p_iy <= 1 still. So draws that are silent count
as trials, and are neither an answer nor a rival. To leave them out of the trials would be to bound p_ic given
that the expert speaks, which is no Lipschitz function of x. `Cascade.answers` is C, and votes for numbers
from C on are silent.

**Asked again.** Nothing above needs experts to have different networks, noise or draws: the proof asks of
each only that its p is Lipschitz, and levels add up whether or not draws are shared. So one network may be
asked where it is quite sure, then another one, and then the first again by another confidence, all from the
same votes. `Cascade.confidences` tells such experts apart.

Shapes: leading axes of images (or none), then experts (K,) in the order of asking, then classes (C,).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dualrs_lab.evidence.binomial import lower_bound, upper_bound
from dualrs_lab.evidence.claim import ABSTAIN
from dualrs_lab.evidence.votes import expert_text, own_and_rival
from dualrs_lab.settings import RULE

__all__ = [
    "CASCADE_RULES",
    "Cascade",
    "Steps",
    "bounded_steps",
    "cascade_radius",
    "first_to_accept",
    "steps",
    "vote_bounds",
]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


CASCADE_RULES = (RULE.names[0], "own-votes")
"""How rivals are bounded where a threshold is below 0: by votes and rest, or as in the first tables."""


@dataclass(frozen=True)
class Cascade:
    """Experts in the order of asking: their noise, and the radius from which on they accept (0: a majority).

    With a larger threshold an expert leaves more to those after it, which trades large radii for accuracy.
    `shares` of the level, one an expert, give those most whose radii matter most; without, all bounds have
    the same. With `answers`, votes for class numbers from there on are silent: they count as trials, and are
    for nobody. `confidences` tell below which each expert is silent (0: never); a noise level may come again
    with another one, as another expert of the same draws. Raises ValueError for sigmas that are not positive,
    for an expert that comes twice, for a wrong number of thresholds, shares or confidences, for shares that
    are not positive or add up to more than 1, for confidences outside [0, 1), and for no answers.
    """

    sigmas: tuple[float, ...]
    thresholds: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    answers: int | None = None
    confidences: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.confidences) not in (0, len(self.sigmas)) or not all(0 <= s < 1 for s in self.sure):
            raise ValueError(
                f"Cascade: wanted a confidence in [0, 1) for each of {len(self.sigmas)} experts, got "
                f"{self.confidences}."
            )
        positive = all(0 < sigma < np.inf for sigma in self.sigmas)
        once = len({*zip(self.sigmas, self.sure, strict=True)}) == len(self.sigmas)
        if not self.sigmas or not positive or not once:
            told = f" with confidences {self.confidences}" if self.confidences else ""
            raise ValueError(
                "Cascade: wanted different positive sigmas, or different confidences of one, got "
                f"{self.sigmas}{told}."
            )
        if len(self.thresholds) not in (0, len(self.sigmas)) or not np.isfinite(self.limits).all():
            raise ValueError(
                f"Cascade: wanted a finite threshold for each of {len(self.sigmas)} experts, got "
                f"{self.thresholds}."
            )
        fine = all(0 < share < 1 for share in self.shares) and math.fsum(self.shares) <= 1
        if self.shares and (len(self.shares) != len(self.sigmas) or not fine):
            raise ValueError(
                f"Cascade: wanted a positive share of the level for each of {len(self.sigmas)} experts, at "
                f"most 1 in all, got {self.shares}."
            )
        if self.answers is not None and not (type(self.answers) is int and self.answers >= 1):
            raise ValueError(
                f"Cascade: wanted how many classes are answers, at least 1, got {self.answers!r}."
            )
        if any(self.sure) and self.answers is None:
            raise ValueError(
                f"Cascade: got confidences {self.confidences}; wanted how many classes are answers, too, as "
                "votes for others are silent."
            )

    @property
    def limits(self) -> tuple[float, ...]:
        """The threshold of each expert."""
        return self.thresholds or (0.0,) * len(self.sigmas)

    @property
    def sure(self) -> tuple[float, ...]:
        """The confidence below which each expert is silent."""
        return self.confidences or (0.0,) * len(self.sigmas)

    @property
    def names(self) -> tuple[str, ...]:
        """What each expert is called: "0.5", and "0.5@0.6" where it is silent below a confidence of 0.6."""
        return tuple(expert_text(sigma, sure) for sigma, sure in zip(self.sigmas, self.sure, strict=True))

    def levels(self, alpha: float) -> tuple[float, ...]:
        """The level of each bound of each expert: a certificate fails with probability at most `alpha`."""
        bounds = [1 if limit >= 0 else 2 for limit in self.limits]
        if not self.shares:
            return (alpha / sum(bounds),) * len(bounds)
        return tuple(alpha * share / each for share, each in zip(self.shares, bounds, strict=True))

    def settings(self) -> dict[str, tuple[float, ...] | int]:
        """As records tell it: shares only where there are some, answers only where votes may be silent."""
        told: dict[str, tuple[float, ...] | int] = {"sigmas": self.sigmas, "thresholds": self.thresholds}
        told |= {"shares": self.shares} if self.shares else {}
        told |= {} if self.answers is None else {"answers": self.answers}
        return told | ({"confidences": self.confidences} if self.confidences else {})

    def alpha_split(self, alpha: float) -> dict[str, float]:
        """The level of each bound, by name, as records tell it."""
        levels = self.levels(alpha)
        if not self.shares:
            return {"each bound": levels[0]}
        return {f"each bound at σ = {name}": level for name, level in zip(self.names, levels, strict=True)}


class Steps(NamedTuple):
    """What bounds say about each expert, and the radius that follows; below 0 nothing is certified."""

    accepts: Floats  # (…, K): the expert gives y below this distance
    errs: Floats  # (…, K): it accepts no other class below this distance
    radius: Floats  # (…,)


def cascade_radius(accepts: ArrayLike, errs: ArrayLike) -> Floats:
    """R (…,) from both kinds of distances (…, K)."""
    own, other = np.asarray(accepts, dtype=np.float64), np.asarray(errs, dtype=np.float64)
    best = np.maximum.accumulate(own, axis=-1)
    before = np.concatenate([np.full_like(best[..., :1], -np.inf), best[..., :-1]], axis=-1)
    return np.asarray(np.minimum(best[..., -1], np.maximum(other, before).min(axis=-1)))[()]


def first_to_accept(votes: ArrayLike, cascade: Cascade) -> tuple[Ints, Ints]:
    """The first expert (…,) to accept, and its class (…,), by the shares of votes (…, K, C).

    A guess, without a test. ABSTAIN for both where no expert accepts; one without votes for an answer accepts
    nothing.
    """
    every = np.asarray(votes)
    counts = every[..., : cascade.answers]
    trials, leading = every.sum(axis=-1), counts.max(axis=-1)
    share = (leading + 0.5) / (trials + 1)  # n of n votes are no certainty
    reach = np.asarray(cascade.sigmas) * special.ndtri(share)
    accepting = (reach >= np.asarray(cascade.limits)) & (leading > 0)
    expert = accepting.argmax(axis=-1)
    kind = np.take_along_axis(counts.argmax(axis=-1), expert[..., None], axis=-1)[..., 0]
    found = accepting.any(axis=-1)
    return np.where(found, expert, ABSTAIN)[()], np.where(found, kind, ABSTAIN)[()]


def steps(
    votes: ArrayLike, y: ArrayLike, *, cascade: Cascade, alpha: float, rule: str = CASCADE_RULES[0]
) -> Steps:
    """Both distances and the radius for class y (…,) from votes (…, K, C), at level alpha.

    y must come from other draws than these. Experts without votes were not asked. Raises ValueError where
    shapes do not fit the cascade, and for a rule that is none of `CASCADE_RULES`.
    """
    counts, kind = np.asarray(votes), np.asarray(y)
    if counts.ndim < 2 or counts.shape[-2] != len(cascade.sigmas) or kind.shape != counts.shape[:-2]:
        raise ValueError(
            f"steps: wanted votes (…, {len(cascade.sigmas)}, C) and one y an image, got {counts.shape} and "
            f"{kind.shape}."
        )
    if rule not in CASCADE_RULES:
        raise ValueError(f"steps: wanted a rule of {', '.join(CASCADE_RULES)}, got {rule!r}.")
    trials = counts.sum(axis=-1)  # silent ones among them
    own, rival = own_and_rival(counts[..., : cascade.answers], np.broadcast_to(kind[..., None], trials.shape))
    low, high = vote_bounds(own, rival, trials, cascade.levels(alpha))
    return bounded_steps(low, high, trials > 0, cascade=cascade, complement=rule == CASCADE_RULES[0])


def vote_bounds(
    own: ArrayLike, rival: ArrayLike, trials: ArrayLike, level: ArrayLike
) -> tuple[Floats, Floats]:
    """What p of y is at least and p of any rival at most, each but with probability `level` (…, K).

    From the votes for y and for its strongest rival among `trials`, all that were drawn, silent ones as well;
    0 and 1 where there were none.
    """
    n = np.asarray(trials)
    low = np.where(n > 0, lower_bound(own, np.maximum(n, 1), level), 0.0)
    high = np.where(n > 0, upper_bound(rival, np.maximum(n, 1), level), 1.0)
    return low, high


def bounded_steps(
    low: ArrayLike, high: ArrayLike, asked: ArrayLike, *, cascade: Cascade, complement: bool = True
) -> Steps:
    """Both distances and the radius from bounds (…, K), for experts that were `asked`.

    With `complement`, a rival has at most what `low` leaves, wherever the level pays for both bounds.
    """
    least, most, heard = np.asarray(low), np.asarray(high), np.asarray(asked)
    sigma, limit = np.asarray(cascade.sigmas), np.asarray(cascade.limits)
    if complement:
        most = np.where(limit < 0, np.minimum(most, 1 - least), most)
    mine, theirs = sigma * special.ndtri(least), sigma * special.ndtri(most)
    half = np.where(heard, mine / 2 - theirs / 2, -np.inf)
    accepts = np.minimum(mine - limit, half)  # with limit >= 0 always the first
    alone = limit - theirs  # from the bound of the rival only, as the level assumes
    errs = np.where(limit >= 0, alone, np.maximum(alone, half))
    return Steps(accepts, errs, cascade_radius(accepts, errs))
