"""Attacks on classifiers of scores, small enough to be read: by gradients, and by nothing but answers.

Points, labels, scores and budgets are those of `lessons.digits`. No torch.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.lessons.digits import Scores, leads

__all__ = [
    "by_entropy",
    "by_margin",
    "by_ratio",
    "left_after",
    "random_strike",
    "right_after",
    "sign_strike",
    "towards",
]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


Bools = NDArray[np.bool_]


Pull = Callable[[Floats, Ints], Floats]  # how a loss grows with each score (N, K)


def by_entropy(scores: Floats, labels: Ints) -> Floats:
    """Of the cross-entropy: softmax less one for the label, in float32, as networks compute it."""
    sharp = np.exp((scores - scores.max(axis=1, keepdims=True)).astype(np.float32))
    p = sharp / sharp.sum(axis=1, keepdims=True)
    return np.asarray(p - np.eye(scores.shape[1])[labels], dtype=np.float64)


def by_margin(scores: Floats, labels: Ints) -> Floats:
    """Of the best rival's score less the label's (Carlini and Wagner 2017): 1 and -1, however sure."""
    own = np.eye(scores.shape[1])[labels]
    rival = np.where(own == 1, -np.inf, scores).argmax(axis=1)
    return np.asarray(np.eye(scores.shape[1])[rival] - own)


def by_ratio(scores: Floats, labels: Ints) -> Floats:
    """Of the margin over the gap between first and third score (DLR, Croce and Hein 2020), its scale held."""
    ordered = np.sort(scores, axis=1)
    return by_margin(scores, labels) / (ordered[:, -1] - ordered[:, -3] + 1e-12)[:, None]


def towards(rival: int) -> Pull:
    """Of one class's score less the label's, whichever rival is ahead: a *targeted* loss."""

    def pull(scores: Floats, labels: Ints) -> Floats:
        kinds = np.eye(scores.shape[1])
        return np.asarray(kinds[np.full(len(labels), rival)] - kinds[labels])

    return pull


def sign_strike(
    model: Scores,
    x: Floats,
    labels: Ints,
    eps: float,
    *,
    pull: Pull = by_margin,
    steps: int = 20,
    step: float | None = None,
    seed: int | None = None,
) -> Floats:
    """Projected gradient descent by signs (Madry et al. 2018): points (N, D) within `eps` and [0, 1].

    Each of the `steps` moves every pixel by `step` (default eps / 4) along the sign of its gradient, where
    this is not 0. It begins at the points themselves or, with a `seed`, at random within the budget. What is
    answered wrongly stays where it was found; what never is, is where the walk ended.
    """
    length = eps / 4 if step is None else step
    low, high = np.clip(x - eps, 0, 1), np.clip(x + eps, 0, 1)
    at = x.copy() if seed is None else np.random.default_rng(seed).uniform(low, high)
    for _ in range(steps):
        scores = model.scores(at)
        going = leads(scores, labels) > 0
        slope = model.back(at, pull(scores, labels))
        at = np.where(going[:, None], np.clip(at + length * np.sign(slope), low, high), at)
    return np.asarray(at)


def random_strike(
    model: Scores, x: Floats, labels: Ints, eps: float, *, tries: int = 500, seed: int = 0
) -> Floats:
    """Random search, which asks for scores and no gradient: points (N, D) within `eps` and [0, 1].

    Each try turns a few random pixels to the other end of what they can reach, and keeps what lowers the
    lead of the label: the idea of the square attack (Andriushchenko et al. 2020), without its squares.
    """
    rng = np.random.default_rng(seed)
    low, high = np.clip(x - eps, 0, 1), np.clip(x + eps, 0, 1)
    up = rng.random(x.shape) < 0.5
    best = leads(model.scores(np.where(up, high, low)), labels)
    for number in range(tries):
        some = rng.random(x.shape) < max(1.5 / x.shape[1], 0.3 * (1 - number / tries) ** 2)
        other = up ^ some
        found = leads(model.scores(np.where(other, high, low)), labels)
        better = found < best
        up, best = np.where(better[:, None], other, up), np.where(better, found, best)
    return np.where(up, high, low)


def right_after(model: Scores, moved: Floats, labels: Ints) -> Bools:
    """Whether the answers (N,) at `moved` points (N, D) are the labels, each ahead of all others."""
    return np.asarray(leads(model.scores(moved), labels) > 0)


def left_after(
    model: Scores,
    x: Floats,
    labels: Ints,
    eps: float,
    *,
    other: Scores,
    by: Scores | None = None,
    pull: Pull = by_margin,
) -> dict[str, float]:
    """Accuracies of `model` that five attacks leave, for a look at the signs of masking, by what was tried.

    `sign_strike` with one step of `eps`, with 20, and with a budget of 1, along the slopes of `by` (default
    the model itself) by the loss of `pull`; `random_strike`; and one step along the slopes of `other`, a
    network that knows nothing of this one.
    """
    seen = by or model
    moved = {
        "1 step": sign_strike(seen, x, labels, eps, pull=pull, steps=1, step=eps),
        "20 steps": sign_strike(seen, x, labels, eps, pull=pull),
        "budget 1": sign_strike(seen, x, labels, 1.0, pull=pull, steps=50),
        "random search": random_strike(model, x, labels, eps),
        "another network": sign_strike(other, x, labels, eps, steps=1, step=eps),
    }
    return {name: float(right_after(model, at, labels).mean()) for name, at in moved.items()}
