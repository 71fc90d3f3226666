"""Why so few images are certified, by signs that are measured: what tables and answers alone tell. No torch.

Where a sign compares accuracies it is an exact test: a network without the fault shows it with probability at
most `LEVEL`. A sign says where to look; it proves nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import bdtrc

from dualrs_lab.evidence.binomial import ahead_pvalue
from dualrs_lab.evidence.claim import ABSTAIN
from dualrs_lab.evidence.radii import radius_ceiling
from dualrs_lab.evidence.votes import cell_votes, leader

__all__ = ["LEVEL", "Sign", "at_chance", "better", "is_poor", "order_sign", "sigma_sign", "table_signs"]


LEVEL = 0.001
"""The probability at most with which a network without a fault shows its sign."""


FEWEST = 20
"""Images below which nothing is said about accuracy."""


LARGE_SIGMA = 2.0
"""A noise level of pixels in [0, 1] beyond which nobody has certified anything."""


Ints = NDArray[np.int64]


Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Sign:
    """A fault that was seen: its short `name`, what was `measured`, and a `text` that says what to do."""

    name: str
    text: str
    measured: Mapping[str, Any] = field(default_factory=dict)


def is_poor(table: pd.DataFrame) -> bool:
    """Whether most images abstain, or no more are certified as their label than by chance."""
    if not len(table):
        return False
    answers = table["predict"].to_numpy(dtype=np.int64)
    if (answers == ABSTAIN).mean() > 0.5:
        return True
    labels = table["label"].to_numpy(dtype=np.int64)
    return bool((labels >= 0).all()) and len(table) >= FEWEST and at_chance(answers, labels)


def at_chance(answers: Ints, labels: Ints, *, level: float = LEVEL) -> bool:
    """Whether answers (N,) are right no more often than if they had nothing to do with labels (N,).

    Exact binomial test, against the agreement of answers and labels that are paired at random.
    """
    right = int((answers == labels).sum())
    return bool(bdtrc(right - 1, len(labels), _by_chance(answers, labels)) > level)


def better(one: Bools, other: Bools) -> float:
    """p-value of McNemar's exact test that `one` (N,) is more often right than `other` (N,)."""
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    return float(ahead_pvalue(wins, losses))


def order_sign(answers: Ints, labels: Ints, classes: int, *, level: float = LEVEL) -> Sign | None:
    """Whether another order of the classes makes answers (N,) fit labels (N,) better, and which.

    The order is the best assignment on every other image, and is tested on those between: the p-value is that
    of McNemar's exact test against the order as it is.
    """
    if len(labels) < FEWEST:
        return None
    found = _best_order(answers[::2], labels[::2], classes)
    left, told = answers[1::2], labels[1::2]
    as_is, moved = left == told, found[left] == told
    p = better(moved, as_is)
    if p > level:
        return None
    order = _best_order(answers, labels, classes)
    seen = [int(k) for k in np.unique(labels)]
    inverse = {int(order[k]): k for k in range(classes)}
    pairs = [(k, inverse[k]) for k in seen if inverse[k] != k]
    shown = ", ".join(f"{a} is output {b}" for a, b in pairs[:12]) + (", …" if len(pairs) > 12 else "")
    text = (
        "The labels seem to be in another order than the outputs of the network: as they are, "
        f"{as_is.mean():.0%} of the images fit, and {moved.mean():.0%} by the best order, found on other "
        f"images (p = {p:.1g}). By it, label {shown}. Compare the list of classes of your labels with that "
        "of the network."
    )
    measured = {"as it is": float(as_is.mean()), "best order": float(moved.mean()), "p": p, "order": inverse}
    return Sign("labels in another order", text, measured)


def sigma_sign(sigma: float, accuracies: Mapping[str, float] | None = None) -> Sign | None:
    """Whether a noise level looks like one of pixels from 0 to 255."""
    if sigma <= LARGE_SIGMA:
        return None
    told = "".join(f"; {name}: {share:.0%}" for name, share in (accuracies or {}).items())
    text = (
        f"σ = {sigma:g} is a noise level for pixels in [0, 1], where it drowns every image. If it was meant "
        f"for pixels from 0 to 255, give sigma={sigma / 255:.3g}{told}."
    )
    return Sign("σ in units of 0 to 255", text, {"sigma": sigma, **(accuracies or {})})


def table_signs(table: pd.DataFrame) -> list[Sign]:
    """What a table that `is_poor` shows by itself of why; nothing of others, and little without votes."""
    if not is_poor(table):
        return []
    sigma, found = _only(table, "sigma"), list[Sign | None]()
    found.append(_few_draws(table))
    found.append(sigma_sign(float(sigma)) if sigma is not None else None)
    labels = table["label"].to_numpy(dtype=np.int64)
    guesses = _guesses(table)
    if (labels >= 0).all() and (guesses >= 0).all() and len(table):
        found.append(order_sign(guesses, labels, int(max(guesses.max(), labels.max())) + 1))
    found.append(one_answer(guesses[guesses >= 0], labels, "Under noise"))
    signs = [sign for sign in found if sign]
    return signs or [*filter(None, [_unsure(table)])]


def one_answer(answers: Ints, labels: Ints, when: str) -> Sign | None:
    """Whether nearly all images get one answer, though their labels differ (or are unknown)."""
    if len(answers) < FEWEST:
        return None
    value, count = (part[0] for part in _most_common(answers))
    known = labels[labels >= 0]
    if count < 0.95 * len(answers) or (len(known) and (known == value).mean() > 0.8):
        return None
    text = (
        f"{when}, {count} of {len(answers)} images get the same answer, class {value}: the network does not "
        "see them. Are they scaled as in its training, and is the noise not larger than there?"
    )
    return Sign("one answer for all", text, {"class": int(value), "share": count / len(answers)})


def _few_draws(table: pd.DataFrame) -> Sign | None:
    if not {"n", "alpha", "sigma", "votes"} <= {*table}:
        return None
    n, alpha = int(table["n"].max()), float(table["alpha"].max())
    rule = str(table["rule"].iloc[0]) if "rule" in table else "cohen"
    if float(radius_ceiling(n, alpha, 1.0, rule=rule)) > 0:
        return None
    text = (
        f"With {n} draws nothing can be certified at alpha = {alpha:g}, even where all votes agree. Take "
        "more: n=1000 is enough for small radii, n=10_000 is usual."
    )
    return Sign("too few draws", text, {"n": n, "alpha": alpha})


def _unsure(table: pd.DataFrame) -> Sign | None:
    if "votes" not in table or (table["predict"] == ABSTAIN).mean() <= 0.5:
        return None
    leads = [max(k for _, k in row) / sum(k for _, k in row) for row in map(cell_votes, table["votes"])]
    share = float(np.mean(leads))
    text = (
        f"The leading class has {share:.0%} of the votes on average, and a certificate wants more than "
        "half: under this noise the network is not sure. Was it trained with noise of this σ? Train it so, "
        "put a denoiser in front, or take a smaller σ."
    )
    return Sign("not sure under noise", text, {"share of the leading class": share})


def _guesses(table: pd.DataFrame) -> Ints:
    if "selection" not in table:
        return table["predict"].to_numpy(dtype=np.int64)
    each = [cell_votes(cell) for cell in table["selection"]]
    return np.array([leader(row) if row else ABSTAIN for row in each], dtype=np.int64)


def _best_order(answers: Ints, labels: Ints, classes: int) -> Ints:
    # (K,) the label of each output, for as many images as possible, and as it is where they do not tell
    from scipy.optimize import linear_sum_assignment  # it takes long to import, and few tables need it

    counts = np.zeros((classes, classes))
    np.add.at(counts, (answers, labels), 1.0)
    counts[np.diag_indices(classes)] += 0.5
    _, label = linear_sum_assignment(counts, maximize=True)
    return np.asarray(label, dtype=np.int64)


def _by_chance(answers: Ints, labels: Ints) -> float:
    size = int(max(answers.max(), labels.max())) + 1
    mine, theirs = (np.bincount(one[one >= 0], minlength=size) / len(one) for one in (answers, labels))
    return float(mine @ theirs)


def _most_common(values: Ints) -> tuple[Ints, Ints]:
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return found[order], counts[order]


def _only(table: pd.DataFrame, column: str) -> Any:
    return table[column].iloc[0] if column in table and table[column].nunique() == 1 else None
