"""Linear classifiers of digits, for which the strongest attack within a budget is known exactly.

Points are `(N, D)` with values in [0, 1], labels `(N,)`, scores `(N, K)`. An attacker may move each pixel by
`eps` (l-infinity), and has to stay within [0, 1]. A score is linear in the pixels, so each pixel goes to one
of the two ends that it can reach, and the worst that any attack can do is a sum. No torch.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

__all__ = [
    "Digits",
    "LinearScores",
    "MixedScores",
    "RoundedScores",
    "Scores",
    "StraightThrough",
    "edge_distances",
    "fit_linear",
    "kept_by_margin",
    "leads",
    "lesson_digits",
    "worst_leads",
]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


STEPS = 200  # of the optimiser: enough for differences below a tenth of a percent


class Scores(Protocol):
    """A classifier of scores: the largest one answers."""

    def scores(self, x: Floats) -> Floats:
        """Scores (N, K) of points (N, D)."""

    def back(self, x: Floats, pull: Floats) -> Floats:
        """Gradient (N, D) of sum(pull * scores) with respect to the points, as backpropagation gives it."""


@dataclass(frozen=True, eq=False)
class LinearScores:
    """Scores x W^T + b, of `weights` W (K, D) and `bias` b (K,)."""

    weights: Floats
    bias: Floats

    def scores(self, x: Floats) -> Floats:
        """Scores (N, K)."""
        return x @ self.weights.T + self.bias

    def predict(self, points: Floats) -> Ints:
        """Class (N,)."""
        return np.asarray(self.scores(points).argmax(axis=1))

    def back(self, x: Floats, pull: Floats) -> Floats:
        """Gradient (N, D) of sum(pull * scores)."""
        return pull @ self.weights

    def reach(self, x: Floats, eps: float) -> tuple[Floats, Floats]:
        """The least and the largest value (N, D) of each pixel that an attacker can bring about."""
        return np.clip(x - eps, 0, 1), np.clip(x + eps, 0, 1)

    def sharpened(self, scale: float) -> "LinearScores":
        """The same answers everywhere, from scores that are `scale` times as large."""
        return replace(self, weights=scale * self.weights, bias=scale * self.bias)


@dataclass(frozen=True, eq=False)
class RoundedScores:
    """`base` behind a defence that rounds pixels to one of `levels` + 1 values; flat almost everywhere."""

    base: LinearScores
    levels: int

    def rounded(self, x: Floats) -> Floats:
        """What `base` is shown."""
        return np.asarray(np.rint(x * self.levels) / self.levels)

    def scores(self, x: Floats) -> Floats:
        """Scores (N, K)."""
        return self.base.scores(self.rounded(x))

    def back(self, x: Floats, pull: Floats) -> Floats:
        """Zeros: that is the slope of a step function wherever it has one."""
        return np.zeros_like(x)

    def reach(self, x: Floats, eps: float) -> tuple[Floats, Floats]:
        """As of `LinearScores`, behind the rounding."""
        low, high = self.base.reach(x, eps)
        return self.rounded(low), self.rounded(high)


@dataclass(frozen=True, eq=False)
class StraightThrough:
    """Answers of `defence`, slopes of `by`, the classifier without it (BPDA, Athalye et al. 2018)."""

    defence: Scores
    by: Scores

    def scores(self, x: Floats) -> Floats:
        """Scores (N, K) of the defence."""
        return self.defence.scores(x)

    def back(self, x: Floats, pull: Floats) -> Floats:
        """Gradient (N, D) as if the defence were not there."""
        return self.by.back(x, pull)


@dataclass(frozen=True, eq=False)
class MixedScores:
    """log((1 - weight) softmax(g) + weight softmax(h)), added in the log domain (see `mixing.mix_logits`)."""

    g: Scores
    h: Scores
    weight: float

    def _parts(self, x: Floats) -> tuple[Floats, Floats]:
        logs = (np.log1p(-self.weight), np.log(self.weight))
        one, two = (
            log + scores - logsumexp(scores, axis=1, keepdims=True)
            for log, scores in zip(logs, (self.g.scores(x), self.h.scores(x)), strict=True)
        )
        return one, two

    def scores(self, x: Floats) -> Floats:
        """Scores (N, K)."""
        return np.asarray(np.logaddexp(*self._parts(x)))

    def back(self, x: Floats, pull: Floats) -> Floats:
        """Gradient (N, D) of sum(pull * scores), through both networks."""
        parts, found = self._parts(x), np.zeros_like(x)
        both = np.logaddexp(*parts)
        for part, network in zip(parts, (self.g, self.h), strict=True):
            share = pull * np.exp(part - both)  # what a class has of this network, K by K
            p = np.exp(part - logsumexp(part, axis=1, keepdims=True))
            found += network.back(x, share - p * share.sum(axis=1, keepdims=True))
        return found


def kept_by_margin(model: MixedScores, x: Floats, labels: Ints, eps: float) -> NDArray[np.bool_]:
    """Whether h alone keeps the mix's answer (N,) within `eps`, whatever g says: its margin stays above mu.

    `h` has to be linear. Each difference of its scores has a worst case (see `worst_leads`), and all at once
    give a lower bound of its margin: enough for a certificate, not the whole truth.
    """
    h = model.h
    if not isinstance(h, LinearScores):
        raise TypeError(f"kept_by_margin: h is {type(h).__name__}; wanted LinearScores")
    gaps = np.stack([_gaps(h, x, labels, rival, eps) for rival in range(len(h.bias))], axis=1)
    others = ~np.eye(len(h.bias), dtype=bool)[labels]
    own = 1 / (1 + np.where(others, np.exp(-gaps), 0).sum(axis=1))
    margin = own * (1 - np.exp(-np.where(others, gaps, np.inf).min(axis=1)))
    return np.asarray(margin >= (1 - model.weight) / model.weight)


class Digits(NamedTuple):
    """Handwritten digits: pixels (N, 64) in [0, 1] and labels, to learn from and to be asked about."""

    learn: Floats
    learn_labels: Ints
    test: Floats
    test_labels: Ints


@cache
def lesson_digits() -> Digits:
    """The digits of `data.load_images`, which ship with the package: 1297 to learn from, 500 to ask about."""
    with np.load(Path(__file__).parents[1] / "data" / "digits.npz") as file:
        levels, labels, test = file["levels"], file["labels"].astype(np.int64), file["test"].astype(np.int64)
    pixels = levels.reshape(len(levels), -1) / 16.0
    rest = np.setdiff1d(np.arange(len(labels)), test)
    return Digits(pixels[rest], labels[rest], pixels[test], labels[test])


def fit_linear(x: Floats, labels: Ints, *, eps: float = 0.0, decay: float = 1e-3) -> LinearScores:
    """Logistic regression against the worst case within `eps`, which a linear classifier has in closed form.

    With `eps` 0 the usual one. The attacker of class k moves its lead by eps times the l1 norm of the
    difference of two rows of weights; that [0, 1] ends sooner is left out here. `decay` is the weight of
    the squared weights. Raises ValueError for an `eps` with which nothing is learnt.
    """
    classes, (n, width) = int(labels.max()) + 1, x.shape
    truth = np.eye(classes)[labels]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights, bias = flat[: classes * width].reshape(classes, width), flat[classes * width :]
        apart = weights[None] - weights[:, None]  # (K, K, D), of the rival less of the label
        scores = x @ weights.T + bias
        ahead = scores - scores[truth == 1][:, None] + eps * np.abs(apart).sum(axis=2)[labels]
        wrong = (np.exp(ahead - logsumexp(ahead, axis=1, keepdims=True)) - truth) / n
        pairs = truth.T @ (wrong * (1 - truth))  # (K, K), weights of label against rival
        push = eps * np.sign(apart) * pairs[..., None]
        slope = wrong.T @ x + push.sum(axis=0) - push.sum(axis=1) + decay * weights
        value = logsumexp(ahead, axis=1).mean() + decay / 2 * (weights**2).sum()
        return float(value), np.concatenate([slope.ravel(), wrong.sum(axis=0)])

    start = np.zeros(classes * (width + 1))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS}).x
    if not found.any():
        raise ValueError(f"fit_linear: nothing is learnt against eps {eps:g}; wanted a smaller budget")
    return LinearScores(found[: classes * width].reshape(classes, width), found[classes * width :])


def leads(scores: Floats, labels: Ints) -> Floats:
    """By how much (N,) the label's score is above the best other one; the answer is right above 0."""
    own = np.eye(scores.shape[1], dtype=bool)[labels]
    return np.asarray(scores[own] - np.where(own, -np.inf, scores).max(axis=1))


def worst_leads(model: LinearScores | RoundedScores, x: Floats, labels: Ints, eps: float) -> Floats:
    """The smallest lead (N,) that any attack within `eps` can leave, exactly: the truth about attacks."""
    base = model.base if isinstance(model, RoundedScores) else model
    gaps = [
        np.where(labels == rival, np.inf, _gaps(model, x, labels, rival, eps))
        for rival in range(len(base.bias))
    ]
    return np.asarray(np.min(gaps, axis=0))


def _gaps(model: LinearScores | RoundedScores, x: Floats, labels: Ints, rival: int, eps: float) -> Floats:
    # (N,): the label's score less the rival's, where each pixel went to the end at which the rival gains most
    base = model.base if isinstance(model, RoundedScores) else model
    low, high = model.reach(x, eps)
    apart = base.weights[rival] - base.weights[labels]
    gained = np.maximum(apart * low, apart * high).sum(axis=1)
    return np.asarray(base.bias[labels] - base.bias[rival] - gained)


def edge_distances(model: LinearScores, x: Floats, labels: Ints) -> Floats:
    """The l2 distance (N,) to the nearest point of R^D that is answered otherwise; 0 where wrong."""
    scores, found = model.scores(x), np.full(len(x), np.inf)
    for rival in range(scores.shape[1]):
        apart = np.linalg.norm(model.weights[labels] - model.weights[rival], axis=1)
        ahead = scores[np.arange(len(x)), labels] - scores[:, rival]
        found = np.where(labels == rival, found, np.minimum(found, ahead / np.maximum(apart, 1e-300)))
    return np.asarray(np.maximum(found, 0.0))
