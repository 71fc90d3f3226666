"""How alpha is split over the bounds of a dual system, beforehand. Why it adds up so is in `dual.radii`."""

from dataclasses import dataclass
from math import fsum

from dualrs_lab.evidence.radii import RULES

__all__ = ["Split", "even_split"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """The level of each one-sided bound, fixed before any draw; certificates fail with at most `alpha`.

    `lower` and `upper` bound F_1 … F_(K-1) of the median estimator, or p_1 … p_K of the plurality estimator;
    `experts` are the levels of the K radii of the experts. `guessed_apart` says that `top` comes from
    separate draws, so that levels add up within a route only. Raises ValueError for levels outside (0, 1),
    lengths that do not fit, or levels that add up to more than alpha.
    """

    alpha: float
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    experts: tuple[float, ...]
    guessed_apart: bool = False

    def __post_init__(self) -> None:
        count, cuts = len(self.experts), len(self.lower)
        if count < 1 or len(self.upper) != cuts or cuts not in (count - 1, count):
            raise ValueError(
                "Split: wanted K >= 1 experts, and K - 1 (median) or K (plurality) lower and upper levels, "
                f"got {count} experts, {cuts} lower and {len(self.upper)} upper."
            )
        levels = (self.alpha, *self.lower, *self.upper, *self.experts)
        if not all(0 < level < 1 for level in levels):
            raise ValueError(f"Split: levels are failure probabilities in (0, 1), got {levels}.")
        if self.spent > self._most:
            raise ValueError(f"Split: the levels add up to {self.spent:g}, more than alpha = {self.alpha:g}.")

    @property
    def spent(self) -> float:
        """The largest failure probability of a certificate that these levels allow."""
        if not self.guessed_apart:
            return fsum((*self.lower, *self.upper, *self.experts))
        return max(map(fsum, self._routes(nearest=self.nearest)))

    @property
    def nearest(self) -> bool:
        """Whether a route has, of the cuts before its own, only the nearest: where all would cost too much.

        To leave out cuts only makes entry radii smaller, and those of one noise are ascending anyway.
        """
        return self.guessed_apart and max(map(fsum, self._routes(nearest=False))) > self._most

    @property
    def _most(self) -> float:
        return self.alpha * (1 + 1e-12)

    def _routes(self, *, nearest: bool) -> list[tuple[float, ...]]:
        # The levels that enter max(r_j, R_j), for each j; with plurality, for the most costly `top`.
        count = len(self.experts)
        if len(self.lower) < count:
            first = [max(0, j - 1) if nearest else 0 for j in range(count)]
            return [
                (self.experts[j], *self.lower[first[j] : j], *self.upper[j : j + 1]) for j in range(count)
            ]
        if count == 1:
            return [self.experts]
        tops = [max(self.lower[:j] + self.lower[j + 1 :]) for j in range(count)]
        return list(zip(self.experts, self.upper, tops, strict=True))


def even_split(
    experts: int,
    alpha: float,
    *,
    plurality: bool = False,
    monotone: bool = False,
    guessed_apart: bool = False,
    rule: str = RULES[0],
) -> Split:
    """The same level for all bounds, the largest that `Split` allows for K = `experts`.

    By the `rule`, the radius of an expert has one bound or, but for Cohen's, two. `monotone` says that the
    cuts share their draws: then a route has two bounds of cuts at most.
    """
    own, cuts = (1 if rule == "cohen" else 2), (experts if plurality else experts - 1)
    of_cuts = min(2, experts - 1 if monotone else 2 * (experts - 1)) if plurality or monotone else cuts
    level = alpha / (own + of_cuts if guessed_apart else 2 * cuts + own * experts)
    both = (level,) * cuts
    return Split(
        alpha=alpha,
        lower=both,
        upper=both,
        experts=(own * level,) * experts,
        guessed_apart=guessed_apart,
    )
