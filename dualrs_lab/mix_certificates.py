"""Certificates of a mix from those of its robust network: other radii, no new samples.

A table of the smoothed h, ours with votes or a published log, becomes one of the mix (1 - a) g + a h at any
weight a and with any accurate network g: within `radius` the mix answers `predict`, with probability at least
1 - alpha over the draws of h. It is a statement about the mix with the exact smoothed probabilities of h, not
with an estimate of them. Nothing is certified that h does not certify, so no accuracy that g adds is.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dualrs_lab.bounds import (
    anytime_upper_bound,
    mix_radius_closed,
    mix_radius_exact,
    mix_radius_lipschitz,
    mix_radius_smoothing,
    smoothed_slope,
    upper_bound,
)
from dualrs_lab.certificates import ABSTAIN, BOUNDS, cell_votes, certified_accuracy, leader, vote_counts

__all__ = [
    "FORMS",
    "check_mixed",
    "mix_curves",
    "mixed",
    "mixed_answers",
    "noise_of",
    "probability_bounds",
    "weight_for",
]

FORMS = ("closed", "exact", "smoothing", "lipschitz")
"""Which certificate: the sharp one in closed form or as a root, theorem 5, theorem 4 (see `bounds`)."""

_UPPER = {"clopper-pearson": upper_bound, "betting": anytime_upper_bound}
Floats = NDArray[np.float64]


def noise_of(table: pd.DataFrame, *, sigma: float | None = None) -> float:
    """The noise of the one smoothed network h that `table` is of; `sigma` is for logs that do not say it.

    Raises ValueError for tables of other systems, whose radii are no probabilities of one network, for a
    table of a mix (wanted is that of its h), and for a `sigma` that is missing or not the table's.
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
    table: pd.DataFrame, *, others: str = "rest", classes: int | None = None, sigma: float | None = None
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """h's largest probability from below (N,), every other one from above (N,), and the class (N,).

    `others="rest"`: the others have what the lower bound leaves. "votes": each other class has its own upper
    bound, alpha being spent half on the class and half on the `classes` - 1 others. A published log has no
    votes: "rest" from its radii and `sigma`, and an image that abstains gets p = 1/2 and the class -1.

    Raises ValueError where votes, classes or sigma are missing or contradict the table, see `noise_of`, and
    for radii beyond 6 sigma, for which nobody draws enough: they are of another noise.
    """
    level = noise_of(table, sigma=sigma)
    voted = {"votes", "selection", "successes", "n", "alpha"} <= {*table}
    if others not in ("rest", "votes") or (others == "votes" and not (voted and classes and classes > 1)):
        raise ValueError(
            f"probability_bounds: got others={others!r}, classes={classes} and "
            f"{'a table with votes' if voted else 'a log without votes'}; wanted 'rest', or 'votes' "
            "with votes and the number of classes"
        )
    if not voted:
        reach = table["radius"].to_numpy(dtype=np.float64) / level
        if (reach > 6).any():
            raise ValueError(
                f"probability_bounds: got a radius of {level * reach.max():g} for sigma {level:g}; wanted at "
                "most 6 sigma: no number of draws certifies more; is the log of another sigma?"
            )
        p = special.ndtr(reach)
        return p, 1 - p, table["predict"].to_numpy(dtype=np.int64)
    kinds = np.array([leader(cell_votes(cell)) for cell in table["selection"]], dtype=np.int64)
    bound = table["bound"] if "bound" in table else pd.Series("clopper-pearson", index=table.index)
    alpha = table["alpha"].to_numpy(dtype=np.float64) / (2 if others == "votes" else 1)
    n = table["n"].to_numpy(dtype=np.float64)
    lower, upper = np.zeros(len(table)), np.ones(len(table))
    votes = [cell_votes(cell) for cell in table["votes"]]
    most = max((kind for row in votes for kind, _ in row), default=-1)
    if classes is not None and most >= classes:
        raise ValueError(
            f"probability_bounds: got classes={classes}, and votes for class {most}; wanted the number of "
            "all classes, as the bound of each has its share of alpha"
        )
    second = [
        max((count for other, count in row if other != kind), default=0)
        for row, kind in zip(votes, kinds, strict=True)
    ]
    for name in bound.unique():
        at = (bound == name).to_numpy()
        lower[at] = BOUNDS[name](table["successes"].to_numpy()[at], n[at], alpha[at])
        if others == "votes":
            assert classes is not None
            upper[at] = _UPPER[name](np.array(second)[at], n[at], alpha[at] / (classes - 1))
    return lower, np.minimum(upper, 1.0) if others == "votes" else 1 - lower, kinds


def mixed(
    table: pd.DataFrame,
    weight: float,
    *,
    form: str = "closed",
    others: str = "rest",
    classes: int | None = None,
    sigma: float | None = None,
) -> pd.DataFrame:
    """The table of h, with the radius, predict and correct of the mix, and columns weight, form, others.

    l2 radii. `weight` is a; with a <= 1/2 every row abstains. `form` is one of FORMS; "closed" knows only
    what the class itself got, so it wants `others="rest"`, for which, and for `sigma` and errors, see
    `probability_bounds`.
    """
    if form not in FORMS or (form == "closed" and others != "rest"):
        raise ValueError(
            f"mixed: got form={form!r} with others={others!r}; wanted a form of {FORMS}, and others='rest' "
            "with 'closed'"
        )
    lower, upper, kinds = probability_bounds(table, others=others, classes=classes, sigma=sigma)
    radius = _radius(form, lower, upper, weight, noise_of(table, sigma=sigma))
    radius = np.where(kinds == ABSTAIN, 0.0, radius)
    predict = np.where(radius > 0, kinds, ABSTAIN)
    right = (predict == table["label"]) & (predict != ABSTAIN)
    made = {"radius": radius, "predict": predict, "correct": right.astype(int), "method": "mix"}
    return table.assign(**made, weight=float(weight), form=form, others=others)


def _radius(form: str, lower: Floats, upper: Floats, weight: float, sigma: float) -> Floats:
    if form == "closed":
        return mix_radius_closed(lower, weight, sigma)
    if form == "exact":
        return mix_radius_exact(lower, upper, weight, sigma)
    if form == "smoothing":
        return mix_radius_smoothing(lower, upper, weight, sigma)
    return mix_radius_lipschitz(lower, upper, weight, smoothed_slope(sigma))


def mixed_answers(table: pd.DataFrame, logits: ArrayLike, weight: float) -> NDArray[np.int64]:
    """What the mix answers on the images of `table` (N,), h's probabilities being its shares of votes.

    `logits` (N, K) are those of the accurate network on the same images, in the order of the rows. An
    estimate of clean accuracy: where the two best classes are within sampling error, the exact mix may say
    otherwise.
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
    form: str = "closed",
    others: str = "rest",
    classes: int | None = None,
) -> pd.DataFrame:
    """What mixes of the h of `table` win and certify, a row for each weight; weight 1 is h itself.

    sigma, weight, form, natural accuracy by `mixed_answers`, and certified accuracy in a column for each
    radius ("0.25", …). Arguments as of `mixed_answers` and `mixed`.
    """
    rows = []
    for weight in weights:
        natural = float((mixed_answers(table, logits, weight) == table["label"]).mean())
        certified = mixed(table, weight, form=form, others=others, classes=classes)
        at = zip([f"{r:g}" for r in radii], certified_accuracy(certified, radii).tolist(), strict=True)
        row = {"sigma": noise_of(table), "weight": weight, "form": form, "natural": natural}
        rows.append(row | dict(at))
    return pd.DataFrame(rows)


def check_mixed(table: pd.DataFrame, of: pd.DataFrame) -> None:
    """ValueError where a table of a mix claims more than the table `of` its h: no mix can.

    `of` should rest on the same evidence: the table of h itself, or `mixed(…, weight=1)` with the same
    `others`.
    """
    if table["idx"].duplicated().any() or {*table["idx"]} - {*of["idx"]}:
        raise ValueError("check_mixed: wanted each idx once, and all of them in the table of h")
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
