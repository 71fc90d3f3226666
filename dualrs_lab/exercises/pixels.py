"""Exercises of lesson 12: budgets of pixels, an attack that is exact, and what is more than chance."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.exercises.exercise import Exercise, Find, Formula, Mistake
from dualrs_lab.exercises.verdict import Picture, drawn_by
from dualrs_lab.lessons.linear import EPS, linear_problem

__all__ = ["PIXELS"]


Floats = NDArray[np.float64]


def _within(x: Floats, moved: Floats, eps: Floats) -> Floats:
    return np.clip(np.clip(moved, x - eps, x + eps), 0, 1)


_CLIP = Formula(
    name="back into the budget",
    asks="Write back(x, moved, eps): each pixel within its own eps of x, and within [0, 1], "
    "nearest to `moved`.",
    hints=(
        "Each pixel by itself: it may lie between x - eps and x + eps.",
        "np.clip takes arrays as limits. An image has no values below 0 or above 1.",
    ),
    truth=_within,
    cases=[
        {"x": np.array([0.5, 0.1, 0.9]), "moved": np.array([0.8, -0.3, 1.2]), "eps": np.full(3, 0.2)},
        {"x": np.array([0.4, 0.6]), "moved": np.array([0.45, 0.3]), "eps": np.array([0.1, 0.05])},
        {"x": np.array([0.0, 1.0]), "moved": np.array([0.3, 0.9]), "eps": np.array([0.2, 0.2])},
    ],
    mistakes=(
        Mistake(
            formula=lambda x, moved, eps: np.clip(moved, x - eps, x + eps),
            says="An image has values in [0, 1]: some of yours are none.",
        ),
        Mistake(
            formula=lambda x, moved, eps: np.clip(moved, 0, 1),
            says="That is an image, but how far may each pixel move?",
        ),
        Mistake(
            formula=lambda x, moved, eps: np.clip(x + eps * np.sign(moved - x), 0, 1),
            says="That moves each pixel as far as it may, although some were within their budget.",
        ),
        Mistake(
            formula=lambda x, moved, eps: _within(x, moved, np.full_like(eps, eps.mean())),
            says="Each pixel has a budget of its own, and not the mean of all.",
        ),
        Mistake(
            formula=lambda x, moved, eps: np.clip(np.clip(moved - x, -eps, eps), 0, 1),
            says="That is the change alone, without the image that it is a change of.",
        ),
        Mistake(
            formula=lambda x, moved, eps: np.clip(
                x + (moved - x) * min(1.0, float((eps / np.abs(moved - x)).min())), 0, 1
            ),
            says="You shrink the whole change until its worst pixel fits. Each pixel is clipped by itself.",
        ),
    ),
    picture=drawn_by("clip_answer", "The budget of each pixel, where it was moved to, and your answer"),
)  # fmt: skip


_EQUAL = Formula(
    name="the same total",
    asks="Write equal(high, low, share): the budget of every pixel, if a `share` of them gets "
    "low, the rest high, "
    "and the total is to be the same.",
    hints=(
        "The total over N pixels is N share low + N (1 - share) high.",
        "Divide it among N pixels.",
    ),
    truth=lambda high, low, share: share * low + (1 - share) * high,
    cases=[{"high": 0.2, "low": 0.1, "share": 0.25}, {"high": 0.05, "low": 0.01, "share": 0.7}],
    mistakes=(
        Mistake(
            formula=lambda high, low, share: (high + low) / 2,
            says="That is right where half of the pixels get each.",
        ),
        Mistake(
            formula=lambda high, low, share: share * high + (1 - share) * low,
            says="The share is that of the pixels with the *small* budget.",
        ),
        Mistake(
            formula=lambda high, low, share: high - share * low,
            says="Those pixels do not lose all of `low`; they lose the difference.",
        ),
        Mistake(
            formula=lambda high, low, share: math.sqrt(share * low**2 + (1 - share) * high**2),
            says="That keeps the mean of the squares. The total is a sum of budgets.",
        ),
        Mistake(
            formula=lambda high, low, share: (1 - share) * high,
            says="The other pixels get little, but not nothing.",
        ),
    ),
    picture=drawn_by("budget_answer", "Both budgets by the share of the pixels that have them, and yours"),
)  # fmt: skip


_WORST = Formula(
    name="worst score",
    asks="Write worst(w, x, eps): the smallest score sum(w * x) that an attacker reaches with these budgets. "
    "(Never mind [0, 1].)",
    hints=(
        "The gradient of the score with respect to pixel i is w_i, wherever one stands.",
        "Each pixel goes against the sign of its w_i, as far as its budget allows.",
    ),
    truth=lambda w, x, eps: float((w * x).sum() - (eps * np.abs(w)).sum()),
    cases=[
        {"w": np.array([1.0, -2.0, 0.5]), "x": np.array([0.9, 0.2, 0.5]), "eps": np.array([0.1, 0.2, 0.3])},
        {"w": np.array([-1.0, -0.5]), "x": np.array([0.1, 0.3]), "eps": np.array([0.05, 0.2])},
    ],
    mistakes=(
        Mistake(
            formula=lambda w, x, eps: float((w * x).sum() - (eps * w).sum()),
            says="Where w is negative your attacker helps. Which way must that pixel go?",
        ),
        Mistake(
            formula=lambda w, x, eps: float((w * x).sum() - np.linalg.norm(w) * eps.mean()),
            says="That is an l2 attack with one budget. Here each pixel has its own.",
        ),
        Mistake(
            formula=lambda w, x, eps: float((w * x).sum() - np.abs(w).sum() * eps.mean()),
            says="With the mean budget everywhere. It matters which pixel has how much.",
        ),
        Mistake(
            formula=lambda w, x, eps: float((w * x).sum() - (eps * np.abs(w)).max()),
            says="Only one pixel moves. All of them may.",
        ),
        Mistake(
            formula=lambda w, x, eps: float((w * x).sum() + (eps * np.abs(w)).sum()),
            says="The attacker wants the score small; this is the largest.",
        ),
    ),
    picture=drawn_by(
        "worst_answer",
        "The scores of attacks with all pixels at an end of their budgets, and your answer",
    ),
)  # fmt: skip


def _place(answer: Any) -> str:
    w, x = linear_problem()
    try:
        eps = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError):
        eps = np.zeros(0)
    if eps.shape != w.shape:
        return f"Give a budget for each pixel, an array of shape {w.shape}; got shape {eps.shape}."
    if not np.isfinite(eps).all() or eps.min() < 0 or eps.max() > 2 * EPS + 1e-9:
        return f"Each budget lies between 0 and {2 * EPS:g}; yours go from {eps.min():g} to {eps.max():g}."
    if eps.mean() > EPS + 1e-9:
        return f"The mean budget is {eps.mean():.4f}, and {EPS:g} is allowed: place it, do not add to it."
    left = float((w * x).sum() - (eps * np.abs(w)).sum())
    if np.ptp(eps) < 1e-9 and left > 0:
        return f"The same budget everywhere leaves a score of {left:.4f}. Which pixels is it wasted on?"
    if left > 0:
        return f"The score is still {left:.4f}, above 0: the budget lies where the classifier hardly looks."
    return ""


def _draw_budget(answer: Any) -> Picture:
    w, _ = linear_problem()
    eps = np.asarray(answer, dtype=np.float64).reshape(w.shape)
    parts = {"size of the weights": np.abs(w), "your budgets": eps, "what they take off": eps * np.abs(w)}
    title = f"mean budget {eps.mean():.4f}, taken off in all {(eps * np.abs(w)).sum():.4f}"
    return drawn_by("heat_row", "The weights, your budgets, and what they take from the score")(
        parts, title=title
    )


_BUDGET = Find(
    name="place a budget",
    asks=f"Place budgets with a mean of {EPS:g}, none above {2 * EPS:g}, such that the worst "
    f"score of linear_problem() is "
    "not above 0.",
    hints=(
        "How much does a bit of budget at pixel i take from the score?",
        "Half of the pixels can have twice the mean, if the others have none. Which half?",
    ),
    examine=_place,
    praise="Placed by where the classifier looks, the same total does what a uniform budget "
    "cannot. Training does "
    "the reverse: it gives budget where it matters.",
    picture=_draw_budget,
)


def _error(a: Floats, b: Floats, ddof: int = 1) -> float:
    return math.sqrt(a.var(ddof=ddof) / len(a) + b.var(ddof=ddof) / len(b))


_CHANCE = Formula(
    name="more than chance",
    asks="Write errors_apart(a, b): the mean of a less that of b, in units of the standard "
    "error of this difference; "
    "a and b are accuracies of networks with other seeds.",
    hints=(
        "The standard error of a mean is std(ddof=1) / sqrt(number of networks).",
        "Errors of a difference add as squares: sqrt(error_a**2 + error_b**2).",
    ),
    truth=lambda a, b: float(a.mean() - b.mean()) / _error(a, b),
    cases=[
        {"a": np.array([0.91, 0.93, 0.92]), "b": np.array([0.88, 0.9, 0.86])},
        {"a": np.array([0.5, 0.52, 0.47, 0.49]), "b": np.array([0.55, 0.51])},
    ],
    mistakes=(
        Mistake(
            formula=lambda a, b: float(a.mean() - b.mean()) / _error(a, b, 0),
            says="With so few networks, the deviation must divide by their number less one: ddof=1.",
        ),
        Mistake(
            formula=lambda a, b: float(a.mean() - b.mean()) / math.sqrt(a.var(ddof=1) + b.var(ddof=1)),
            says="That is how much single networks differ. Means differ less: by the root of their number.",
        ),
        Mistake(
            formula=lambda a, b: float(a.mean() - b.mean())
            / (math.sqrt(a.var(ddof=1) / len(a)) + math.sqrt(b.var(ddof=1) / len(b))),
            says="Errors that have nothing to do with each other add as squares.",
        ),
        Mistake(
            formula=lambda a, b: abs(float(a.mean() - b.mean())) / _error(a, b),
            says="Keep the sign: it tells which is better.",
        ),
        Mistake(
            formula=lambda a, b: float(a.mean() - b.mean()),
            says="In which units? Whether that is much depends on how much networks differ by themselves.",
        ),
    ),
    picture=drawn_by("chance_answer", "Both kinds of networks with means and standard errors"),
)  # fmt: skip


PIXELS: tuple[Exercise, ...] = (_CLIP, _EQUAL, _WORST, _BUDGET, _CHANCE)
