"""Certificates of a mix from those of its robust network: other radii, no new samples.

A table of the smoothed h, ours with votes or a published log, becomes one of the mix (1 - a) g + a h at any
weight a and with any accurate network g: within `radius` the mix answers `predict`, with probability at least
1 - alpha over the draws of h. It is a statement about the mix with the exact smoothed probabilities of h, not
with an estimate of them.

Nothing is certified that h alone does not certify by the same rule (`evidence.radii`), which is the mix of
weight 1: accuracy that g adds is not. The radius of a mix falls in the probability of the rival c, and the
most probable one is fixed before any draw; so two bounds, of h's class and of its largest rival, at half of
alpha each, suffice here as they do for h alone, without a union over classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dualrs_lab.evidence.certificate import Certificate
from dualrs_lab.evidence.claim import ABSTAIN, Claims, claimed, whole
from dualrs_lab.evidence.counts import counted
from dualrs_lab.evidence.joins import agree, counted_votes, of_what_voted
from dualrs_lab.evidence.radii import BOUNDS, EXACT, RULES, Bounds, ruled_bounds, smoothed_slope
from dualrs_lab.evidence.recompute import FIRST_MIXES
from dualrs_lab.evidence.summary import certified_accuracy
from dualrs_lab.evidence.table import as_table
from dualrs_lab.evidence.votes import cell_votes, vote_counts
from dualrs_lab.mixing.radii import (
    mix_radius_closed,
    mix_radius_exact,
    mix_radius_lipschitz,
    mix_radius_smoothing,
)

__all__ = [
    "FORMS",
    "MixCertificate",
    "check_mixed",
    "class_bounds",
    "mix_curves",
    "mixed",
    "mixed_answers",
    "noise_of",
    "probability_bounds",
    "weight_for",
]


FORMS = ("closed", "exact", "smoothing", "lipschitz")
"""Which certificate: the sharp one in closed form or as a root, theorem 5, theorem 4 (see `mixing.radii`)."""


EACH_CLASS = FIRST_MIXES["votes"]
"""A rule that only the first tables have: half of alpha for the other classes together, a share for each."""


Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MixCertificate(Certificate):
    """With probability >= 1 - alpha the mix of `weight` of h answers `predict` within `radius`, for any g.

    The evidence is that of h, whose votes these are. `form` says by which theorem, `rule` how h's classes are
    bounded. The first tables had a rule of their own, "each-class", with a bound for each of the other
    `classes` - 1.
    """

    method: str = "mix"
    weight: float
    form: str = "exact"
    classes: int | None = None

    rules: ClassVar[tuple[str, ...]] = (*RULES, EACH_CLASS)

    def recomputed(self) -> float:
        """The radius of the mix that the votes of h alone give."""
        how = {"bounds": BOUNDS[self.bound], "unanimous": self.unanimous, "classes": self.classes}
        lower, upper = class_bounds(*self.counted(), **how)  # type: ignore[arg-type]
        return float(_radius(self.form, lower, upper, self.weight, self.sigma))

    def evidence(self) -> dict[str, object]:
        """As `Claim.evidence`; `classes` only where they count."""
        how = {"weight": self.weight, "form": self.form}
        return super().evidence() | how | ({} if self.classes is None else {"classes": self.classes})

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """As `Claim.from_row`. By "each-class", a table from before there were `classes` is a ValueError."""
        rule = str(row["rule"]) if "rule" in row else FIRST_MIXES.get(str(row.get("others")), "")
        cls._said(row, ("weight", "form", *(("classes",) if rule == EACH_CLASS else ())))
        fields = cls._fields({**row, "rule": rule})
        fields |= {"weight": float(row["weight"]), "form": str(row["form"])}
        return cls(**fields, classes=whole(row["classes"]) if rule == EACH_CLASS else None)

    def _want_evidence(self) -> None:
        super()._want_evidence()
        self._want(not self.paired, f"votes of h itself, as pairs are not built into mixes, got {self.pairs}")
        _check_form(f"MixCertificate(idx={self.idx})", self.form, self.rule)
        least = max(2, *(kind + 1 for kind, _ in (*self.votes, *self.selection)))
        fine = self.rule != EACH_CLASS or (self.classes is not None and self.classes >= least)
        self._want(fine, f"the number of all classes, {least} at least, got {self.classes}")


def noise_of(table: pd.DataFrame, *, sigma: float | None = None) -> float:
    """The noise of the one smoothed network h that `table` is about; `sigma` is for logs that do not say it.

    Raises ValueError for tables of other systems, whose radii are not probabilities of one network, for a
    table of a mix (that of its h is wanted), and for a `sigma` that is missing or not that of the table.
    """
    other = {*table.get("method", [])} - {"rs", "published"}
    levels = sorted({*table.get("sigma", [])})
    if other or len(levels) > 1:
        raise ValueError(
            f"noise_of: got a table of {', '.join(sorted(other)) or 'rs'} at sigma {levels}; wanted the "
            "certificates of one smoothed network (rs, or a published log), its noise the same in all rows"
        )
    if not levels and sigma is None:
        raise ValueError("noise_of: the table has no column sigma; pass sigma=, that of the smoothed h")
    if levels and sigma is not None and sigma != levels[0]:
        raise ValueError(f"noise_of: got sigma={sigma:g} for a table of sigma {levels[0]:g}; leave it out")
    level = float(levels[0] if levels else cast(float, sigma))
    if not 0 < level < np.inf:
        raise ValueError(f"noise_of: got sigma {level:g}; wanted a positive number")
    return level


def probability_bounds(
    table: pd.DataFrame, *, rule: str = RULES[0], sigma: float | None = None
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Bounds (N,) of h's class from below and of all others from above by a rule, and the class (N,).

    A published log has no votes: by "cohen" the bounds follow from its radii and `sigma`, and an image that
    abstains gets p = 1/2 and the class -1. Its radii must be Cohen's, as those of the literature are: from
    two bounds no probability of the class follows.

    Raises ValueError where votes or sigma are missing or contradict the table, see `noise_of`, and for radii
    beyond 6 sigma, for which nobody draws enough: they belong to another noise level.
    """
    level = noise_of(table, sigma=sigma)
    of_what_voted("probability_bounds", "the table of h", table)
    if {"votes", "selection", "successes", "n", "alpha"} <= {*table}:
        return _voted_bounds(table, rule)
    if {rule, *table.get("rule", [])} != {"cohen"}:
        raise ValueError(
            f"probability_bounds: got rule={rule!r} and a log without votes, claimed by "
            f"{sorted({*table.get('rule', ['cohen'])})}; wanted 'cohen' for both: bounds are from its radii"
        )
    reach = table["radius"].to_numpy(dtype=np.float64) / level
    if (reach > 6).any():
        raise ValueError(
            f"probability_bounds: got a radius of {level * reach.max():g} for sigma {level:g}; wanted at "
            "most 6 sigma: no number of draws certifies more; is the log of another sigma?"
        )
    p = special.ndtr(reach)
    return p, 1 - p, table["predict"].to_numpy(dtype=np.int64)


def _voted_bounds(table: pd.DataFrame, rule: str) -> tuple[Floats, Floats, NDArray[np.int64]]:
    counted_votes("probability_bounds", table)
    found, alpha = counted(table.assign(rule=rule)), table["alpha"].to_numpy(np.float64)
    lower, upper = np.zeros(len(table)), np.ones(len(table))
    for name, at in found.bounds.items():
        told = found.successes[at], found.second[at], found.n[at], alpha[at]
        lower[at], upper[at] = ruled_bounds(rule, *told, bounds=BOUNDS[name], unanimous=found.unanimous[at])
    return lower, upper, found.guess


def class_bounds(
    rule: str,
    own: ArrayLike,
    rival: ArrayLike,
    trials: ArrayLike,
    alpha: ArrayLike,
    *,
    bounds: Bounds = EXACT,
    unanimous: ArrayLike = False,
    classes: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """As `evidence.ruled_bounds`, and by the rule of the first tables."""
    if rule != EACH_CLASS:
        return ruled_bounds(rule, own, rival, trials, alpha, bounds=bounds, unanimous=unanimous)
    level = np.asarray(alpha, dtype=np.float64) / 2
    shared = level / (np.asarray(classes, dtype=np.float64) - 1)
    return bounds[0](own, trials, level), np.minimum(bounds[1](rival, trials, shared), 1.0)


def mixed(
    claims: Claims, weight: float, *, form: str = "exact", rule: str = RULES[0], sigma: float | None = None
) -> pd.DataFrame:
    """The table of h, with the radius, predict and correct of the mix, and columns weight, form and rule.

    A row with votes is that of a `MixCertificate`. `weight` is a; with a <= 1/2 every row abstains. `form` is
    one of FORMS; "closed" knows only what the class itself got, so it wants the rule "cohen". For `rule`,
    `sigma` and errors, see `probability_bounds`. ValueError where an image comes twice.
    """
    _check_form("mixed", form, rule)
    table = as_table(claims)
    agree("mixed", {"the table of h": table})
    lower, upper, kinds = probability_bounds(table, rule=rule, sigma=sigma)
    radius = _radius(form, lower, upper, weight, noise_of(table, sigma=sigma))
    found = claimed(table, kinds, np.where(kinds == ABSTAIN, 0.0, radius))
    made: dict[str, Any] = {name: found[name].to_numpy() for name in ("radius", "predict", "correct")}
    return table.assign(**made, method="mix", weight=float(weight), form=form, rule=rule)


def _check_form(call: str, form: str, rule: str) -> None:
    fine = form in FORMS and rule in MixCertificate.rules and (form != "closed" or rule == "cohen")
    if not fine:
        raise ValueError(
            f"{call}: got form={form!r} with rule={rule!r}; wanted a form of {FORMS} and a rule of {RULES}, "
            "'cohen' with 'closed'"
        )


def _radius(form: str, lower: Floats, upper: Floats, weight: float, sigma: float) -> Floats:
    if form == "closed":
        return mix_radius_closed(lower, weight, sigma)
    if form == "exact":
        return mix_radius_exact(lower, upper, weight, sigma)
    if form == "smoothing":
        return mix_radius_smoothing(lower, upper, weight, sigma)
    return mix_radius_lipschitz(lower, upper, weight, smoothed_slope(sigma))


def mixed_answers(table: pd.DataFrame, logits: ArrayLike, weight: float) -> NDArray[np.int64]:
    """What the mix answers on the images of `table` (N,), with shares of votes as h's probabilities.

    `logits` (N, K) are those of the accurate network on the same images, in the order of the rows. This
    estimates clean accuracy: where the two best classes are within sampling error, the exact mix may answer
    differently.
    """
    g = np.asarray(logits, dtype=np.float64)
    if "votes" not in table or g.ndim != 2 or len(g) != len(table) or not 0 <= weight <= 1:
        raise ValueError(
            f"mixed_answers: got logits {g.shape} for {len(table)} rows of {list(table)}, weight {weight:g}; "
            "wanted logits (N, K) of the accurate network, a table with votes, and a weight in [0, 1]"
        )
    counts = vote_counts([cell_votes(cell) for cell in table["votes"]], g.shape[1])
    h = counts / counts.sum(axis=1, keepdims=True)
    mix = (1 - weight) * special.softmax(g, axis=1) + weight * h
    return np.asarray(mix.argmax(axis=1), dtype=np.int64)


def mix_curves(
    table: pd.DataFrame,
    logits: ArrayLike,
    weights: Sequence[float],
    radii: Sequence[float],
    *,
    form: str = "exact",
    rule: str = RULES[0],
) -> pd.DataFrame:
    """What mixes of the h of `table` win and certify, a row for each weight; weight 1 is h itself.

    sigma, weight, form, rule, natural accuracy by `mixed_answers`, and certified accuracy in a column for
    each radius ("0.25", …). Arguments as of `mixed_answers` and `mixed`.
    """
    rows = []
    for weight in weights:
        natural = float((mixed_answers(table, logits, weight) == table["label"]).mean())
        certified = mixed(table, weight, form=form, rule=rule)
        at = zip([f"{r:g}" for r in radii], certified_accuracy(certified, radii).tolist(), strict=True)
        row = {"sigma": noise_of(table), "weight": weight, "form": form, "rule": rule, "natural": natural}
        rows.append(row | dict(at))
    return pd.DataFrame(rows)


def check_mixed(table: pd.DataFrame, of: pd.DataFrame) -> None:
    """ValueError where a table of a mix claims more than `of`, the table of its h, which no mix can.

    `of` should rest on the same evidence: that of `mixed(…, weight=1)`, or a table of h by the same rule.
    Raises as `evidence.agree` does, too: it is about the same images at the same level and noise.
    """
    agree("check_mixed", {"the mix": table, "the table of h": of}, same=("alpha", "sigma", "seed"))
    if {*table["idx"]} - {*of["idx"]}:
        raise ValueError("check_mixed: wanted all images of the mix in the table of h")
    own = of.set_index("idx").loc[table["idx"]]
    claims = table["radius"].to_numpy() > 0
    more = claims & (table["radius"].to_numpy() > own["radius"].to_numpy() * (1 + 1e-9))
    other = claims & (table["predict"].to_numpy() != own["predict"].to_numpy())
    if (more | other).any():
        bad = table["idx"].to_numpy()[more | other].tolist()
        raise ValueError(
            f"check_mixed: images {bad[:10]} are certified further than by h itself, or in another class; a "
            "mix certifies what h does, within less: this is a table of another h"
        )


def weight_for(radius: float, p_lower: float, sigma: float) -> float:
    """The smallest weight at which the mix keeps an answer of probability `p_lower` within `radius` (l2).

    1 / (2 Phi(R - radius)) in units of sigma, R being Cohen's radius; above 1 where h itself does not reach
    it.
    """
    rest = float(special.ndtri(p_lower)) - radius / sigma
    return float(1 / (2 * special.ndtr(rest)))
