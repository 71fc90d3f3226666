"""Exercises of lesson 15: distances, steps, slopes from noise, and what tables of attacks say."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.exercises.breaking import BREAKING
from dualrs_lab.exercises.exercise import Exercise, Formula, Mistake
from dualrs_lab.exercises.verdict import Picture, drawn_by
from dualrs_lab.lessons.digits import LinearScores, edge_distances
from dualrs_lab.lessons.problems import lesson_plane
from dualrs_lab.lessons.slopes import drawn_slope

__all__ = ["ATTACKING"]


Floats = NDArray[np.float64]


Bools = NDArray[np.bool_]


def _distance(w: Floats, b: Floats, x: Floats, label: int) -> float:
    return float(edge_distances(LinearScores(w, b), x[None], np.array([label]))[0])


def _ways(w: Floats, b: Floats, x: Floats, label: int, order: float | None = None) -> tuple[Floats, Floats]:
    # the lead over each rival, and the length of the difference of weights
    scores = w @ x + b
    others = np.delete(np.arange(len(b)), label)
    return scores[label] - scores[others], np.linalg.norm(w[label] - w[others], ord=order, axis=1)


def _runner_up(w: Floats, b: Floats, x: Floats, label: int) -> float:
    ahead, lengths = _ways(w, b, x, label)
    return max(0.0, float(ahead[ahead.argmin()] / lengths[ahead.argmin()]))


THREE = {"w": np.array([[-2.0, 0.0], [1.0, 0.5], [3.0, 4.0]]), "b": np.array([1.2, 0.0, -3.9])}


def _draw_edges(case: Mapping[str, Any], given: Any) -> Picture:
    model, radius = LinearScores(case["w"], case["b"]), min(float(given), 2.0)
    draw = drawn_by("plane_field", "Classes of the case, its point, and a circle of your distance")
    return draw(model, points=[case["x"]], radii=[radius], title="a point, and the distance that you gave")


_EDGE = Formula(
    name="distance to the edge",
    asks="Write distance(w, b, x, label): how far the nearest point is (l2) at which the linear classifier "
    "w @ x + b does not answer label; 0 where it does not do so at x.",
    hints=(
        "Against one rival k: the label leads by a score that is linear in x. How fast can a step of length "
        "1 lower it?",
        "The lead over k is (w[label] - w[k]) @ x + b[label] - b[k], and it falls by at most the norm of "
        "w[label] - w[k]. Several rivals: who is reached first?",
    ),
    truth=_distance,
    cases=[
        THREE | {"x": np.array([0.3, 0.3]), "label": 0},
        THREE | {"x": np.array([0.6, 0.35]), "label": 1},
        THREE | {"x": np.array([0.96, 0.07]), "label": 1},
        THREE | {"x": np.array([0.8, 0.9]), "label": 2},
        THREE | {"x": np.array([0.8, 0.9]), "label": 0},
    ],
    mistakes=(
        Mistake(
            formula=lambda w, b, x, label: max(0.0, float(_ways(w, b, x, label)[0].min())),
            says="That is a lead of scores, not yet a distance: how fast can a step lower it?",
        ),
        Mistake(
            formula=lambda w, b, x, label: max(
                0.0, float(_ways(w, b, x, label)[0].min() / np.linalg.norm(w[label]))
            ),
            says="The rival's score moves, too. What falls is the difference of two scores.",
        ),
        Mistake(
            formula=_runner_up,
            says="The runner-up by score need not be the nearest: another rival's edge can be closer.",
        ),
        Mistake(
            formula=lambda w, b, x, label: float(
                np.min(np.divide(*_ways(w, b, x, label)))
            ),
            says="A negative distance: the answer at x is another one already, so it takes 0.",
        ),
        Mistake(
            formula=lambda w, b, x, label: max(0.0, float(np.min(np.divide(*_ways(w, b, x, label, 1))))),
            says="That is the distance if every coordinate may move by as much (l-infinity). Here it is l2.",
        ),
        Mistake(
            formula=lambda w, b, x, label: max(0.0, float(np.max(np.divide(*_ways(w, b, x, label))))),
            says="One rival is enough. Yours is the one that is reached last.",
        ),
    ),
    picture=_draw_edges,
)  # fmt: skip


def _step(start: Floats, at: Floats, slope: Floats, length: float, eps: float) -> Floats:
    return np.clip(np.clip(at + length * np.sign(slope), start - eps, start + eps), 0, 1)


def _draw_step(case: Mapping[str, Any], given: Any) -> Picture:
    draw = drawn_by("step_in_budget", "The budget around an image of two pixels, and where your step leads")
    return draw(case["start"], case["at"], np.asarray(given, dtype=np.float64), case["eps"])


_STEP = Formula(
    name="a step of PGD",
    asks="Write pgd_step(start, at, slope, length, eps): from `at`, `length` up the loss by the signs of its "
    "slope, then back into the budget around `start` and into [0, 1].",
    hints=(
        "np.sign(slope) says for each pixel which way the loss grows.",
        "The budget is around the image that was given, start, not around where the attack stands.",
    ),
    truth=_step,
    cases=[
        {"start": np.array([0.5, 0.5]), "at": np.array([0.55, 0.47]), "slope": np.array([3.0, -0.2]),
         "length": 0.04, "eps": 0.06},
        {"start": np.array([0.97, 0.2]), "at": np.array([0.97, 0.24]), "slope": np.array([0.5, -2.0]),
         "length": 0.05, "eps": 0.1},
        {"start": np.array([0.3, 0.6]), "at": np.array([0.32, 0.6]), "slope": np.array([1e-6, 0.0]),
         "length": 0.02, "eps": 0.1},
        {"start": np.array([0.4, 0.4]), "at": np.array([0.41, 0.38]), "slope": np.array([1.0, 0.5]),
         "length": 0.08, "eps": 0.05},
    ],
    mistakes=(
        Mistake(
            formula=lambda start, at, slope, length, eps: np.clip(at + length * np.sign(slope), 0, 1),
            says="That may leave the budget: how far is it from start?",
        ),
        Mistake(
            formula=lambda start, at, slope, length, eps: np.clip(
                at + length * np.sign(slope), start - eps, start + eps
            ),
            says="An image has values in [0, 1]: some of yours are none.",
        ),
        Mistake(
            formula=lambda start, at, slope, length, eps: _step(start, at, slope, -length, eps),
            says="Downhill: that makes the loss smaller, and the classifier surer.",
        ),
        Mistake(
            formula=lambda start, at, slope, length, eps: np.clip(
                np.clip(at + length * slope, start - eps, start + eps), 0, 1
            ),
            says="The step is as long as the slope is steep. By signs, every pixel moves by the same length.",
        ),
        Mistake(
            formula=lambda start, at, slope, length, eps: _step(at, at, slope, length, eps),
            says="The budget moves along with the attack: after many steps it is anywhere.",
        ),
        Mistake(
            formula=lambda start, at, slope, length, eps: _step(start, start, slope, length, eps),
            says="Each step begins again at the image, so that many steps are no more than one.",
        ),
    ),
    picture=_draw_step,
)  # fmt: skip


_DRAWN = np.random.default_rng(4).standard_normal((3, 40, 2))
_PLACES = ((0.47, 0.35, 0.07), (0.68, 0.3, 0.1), (0.4, 0.8, 0.05))
_NOISY: list[dict[str, Any]] = [
    {"z": z, "answers": lesson_plane().predict(np.array([x, y]) + sigma * z), "kind": kind, "sigma": sigma}
    for z, (x, y, sigma), kind in zip(_DRAWN, _PLACES, (1, 2, 0), strict=True)
]


def _draw_slope(case: Mapping[str, Any], given: Any) -> Picture:
    number = next(n for n, one in enumerate(_NOISY) if one["sigma"] == case["sigma"])
    x, y, sigma = _PLACES[number]
    at = np.array([x, y])
    arrow = np.asarray(given, dtype=np.float64).reshape(1, 2)
    window = (x - 0.3, x + 0.3, y - 0.3, y + 0.3)
    copies = at + sigma * case["z"]
    draw = drawn_by(
        "slope_arrows", "The noisy copies of the case by their answers, and your slope as an arrow"
    )
    return draw(lesson_plane(), at, {"your slope": arrow}, draws=copies, window=window, length=0.18)


_SLOPE = Formula(
    name="a slope from noise",
    asks="Write slope(z, answers, kind, sigma): the estimate of how the probability of class `kind` changes "
    "with x, from draws z (M, 2) of N(0, 1) and the answers (M,) at x + sigma z.",
    hints=(
        "Each draw that is answered by `kind` votes for its own direction z.",
        "The mean over *all* draws of 1[answer is kind] z, in which unit? A slope is a share per length.",
    ),
    truth=drawn_slope,
    cases=_NOISY,
    mistakes=(
        Mistake(
            formula=lambda z, answers, kind, sigma: (z * (answers == kind)[:, None]).mean(axis=0),
            says="That is per standard deviation. How long is one in the plane?",
        ),
        Mistake(
            formula=lambda z, answers, kind, sigma: z[answers == kind].mean(axis=0) / sigma,
            says="Averaged over the hits only: divided by how probable the class is, this is another slope "
            "(of the logarithm).",
        ),
        Mistake(
            formula=lambda z, answers, kind, sigma: (z * (answers == kind)[:, None]).sum(axis=0) / sigma,
            says="A sum grows with the number of draws; an expectation does not.",
        ),
        Mistake(
            formula=lambda z, answers, kind, sigma: (z * (answers != kind)[:, None]).mean(axis=0) / sigma,
            says="Those are the draws that were answered otherwise: this points away from the class.",
        ),
        Mistake(
            formula=lambda z, answers, kind, sigma: (z * (answers == kind)[:, None]).mean(axis=0) * sigma,
            says="The smaller sigma, the steeper: yours is the other way round.",
        ),
        Mistake(
            formula=lambda z, answers, kind, sigma: z[0] * (answers[0] == kind) / sigma,
            says="One draw. Its slope is either 0 or a random direction: average over all of them.",
        ),
    ),
    picture=_draw_slope,
)  # fmt: skip


def _worst(natural: Bools, attacked: Bools) -> float:
    return float((natural & attacked.all(axis=0)).mean())


def _bits(*rows: str) -> Bools:
    return np.array([[bit == "1" for bit in row] for row in rows])


def _draw_table(case: Mapping[str, Any], given: Any) -> Picture:
    rows = {"no attack": case["natural"]} | {f"attack {i + 1}": row for i, row in enumerate(case["attacked"])}
    draw = drawn_by("answers_grid", "The answers of the case: a row for each attack, a column for each image")
    return draw(rows, title=f"you say {float(given):.3f}")


_TABLE = Formula(
    name="the worst case",
    asks="Write worst_case(natural, attacked): the accuracy that is left if each image meets the attack that "
    "hurts it most; `natural` (N,) and `attacked` (attacks, N) say which answers are right.",
    hints=(
        "An image survives if its answer is right under every attack. Which axis is that?",
        "And an image that is answered wrongly without an attack is not robust, whatever attacks did to it.",
    ),
    truth=_worst,
    cases=[
        {"natural": _bits("11111111")[0], "attacked": _bits("11110000", "00111111", "11011011")},
        {"natural": _bits("1110111111")[0], "attacked": _bits("1111101110", "1101111011")},
        {"natural": _bits("1101")[0], "attacked": _bits("1111")},
    ],
    mistakes=(
        Mistake(
            formula=lambda natural, attacked: float((natural & attacked).mean(axis=1).min()),
            says="That is the strongest attack on average. Other images fall to other attacks.",
        ),
        Mistake(
            formula=lambda natural, attacked: float((natural & attacked).mean()),
            says="That is an average attack. An attacker does not average: he picks.",
        ),
        Mistake(
            formula=lambda natural, attacked: float((natural & attacked.any(axis=0)).mean()),
            says="Right under *some* attack: that is the kindest case, not the worst.",
        ),
        Mistake(
            formula=lambda natural, attacked: float(np.prod((natural & attacked).mean(axis=1))),
            says="A product is for attacks that know nothing of each other. They fall upon the same images.",
        ),
        Mistake(
            formula=lambda natural, attacked: float(attacked.all(axis=0).mean()),
            says="Some image was wrong before any attack, and some attack moved it back: it is not robust.",
        ),
    ),
    picture=_draw_table,
)  # fmt: skip


ATTACKING: tuple[Exercise, ...] = (
    BREAKING[0],
    _STEP,
    _EDGE,
    BREAKING[1],
    _SLOPE,
    BREAKING[2],
    _TABLE,
    BREAKING[3],
)
