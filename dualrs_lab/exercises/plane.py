"""Things to find in the plane of lesson 11: a naive promise that breaks, a router, a cascade."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.cascade.radii import Cascade, first_to_accept, steps
from dualrs_lab.dual.radii import median_entry, routes
from dualrs_lab.dual.split import even_split
from dualrs_lab.evidence.binomial import lower_bound
from dualrs_lab.evidence.radii import rs_radius
from dualrs_lab.exercises.exercise import Exercise, Find
from dualrs_lab.exercises.verdict import Picture, drawn_by
from dualrs_lab.lessons.combined import FirstSure
from dualrs_lab.lessons.plane import DualPlane, LargestRadius, MedianChoice
from dualrs_lab.lessons.problems import lesson_plane, sample_points

__all__ = ["PLANE"]


Floats = NDArray[np.float64]


LEVELS = (0.02, 0.07, 0.25)


N, ALPHA = 10_000, 0.001


def _naive() -> DualPlane:
    plane = lesson_plane()
    return DualPlane(plane, LEVELS, LargestRadius(plane, LEVELS))


def _pair(answer: Any) -> Floats:
    try:
        pair = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError):
        pair = np.zeros(0)
    if pair.shape != (2, 2):
        raise ValueError("give two points, such as ((0.2, 0.3), (0.25, 0.3)): the centre first")
    if not ((pair >= 0) & (pair <= 1)).all():
        raise ValueError("both points have to be in the unit square")
    return pair


def _break_naive(answer: Any) -> str:
    pair, naive = _pair(answer), _naive()
    asked, answers = naive.choose(pair), naive.predict(pair)
    claimed = float(naive.base.rs_radius_exact(pair[:1], LEVELS[asked[0]])[0])
    step = float(np.linalg.norm(pair[1] - pair[0]))
    if step == 0:
        return "These are one and the same point. A promise breaks where the answer is another one."
    if claimed == 0:
        return "At the first point no expert claims anything, and what is not promised cannot be broken."
    if step >= claimed:
        return f"The other point is {step:.4f} away, outside the ball: only {claimed:.4f} are claimed."
    if answers[0] == answers[1]:
        same = "asks the same expert" if asked[0] == asked[1] else "asks another expert, but that one agrees"
        return f"Inside the ball, but both are of class {answers[0]}: at the other point the system {same}."
    return ""


WHO = "Who is asked and what is answered"  # in the plane


def _draw_naive(answer: Any) -> Picture:
    pair, naive = _pair(answer), _naive()
    claimed = float(naive.base.rs_radius_exact(pair[:1], LEVELS[naive.choose(pair)[0]])[0])
    draw = drawn_by("choice_and_answers", f"{WHO}, with both points and the claimed ball")
    return draw(naive, points=pair, radii=[claimed, 0])


def _draw_router(answer: Any) -> Picture:
    return drawn_by("choice_and_answers", WHO)(DualPlane(lesson_plane(), LEVELS, answer))


_NAIVE = Find(
    name="break the naive radius",
    asks="Give (point, other): the system that asks whoever claims most promises `other` the same class.",
    hints=(
        "A promise breaks where another expert is asked on the way. Who is asked about the strips?",
        "Start left of the strips, where the largest level is asked, at an x2 above 0.6.",
        "Let `other` be the middle of the first strip, near x1 = 0.44, and come closer with the first point.",
    ),
    examine=_break_naive,
    praise="Each expert kept its promise. The system made one that nobody had given.",
    picture=_draw_naive,
)


GOAL = 0.09  # the average radius that a router of one's own has to reach


@cache
def _draws() -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], float]:
    """Points (P, 2), labels (P,), guesses (P, K) and votes (P, K, C) of experts, and the best radius."""
    plane = lesson_plane()
    places, labels = sample_points(plane, 1000, seed=1)
    rng = np.random.default_rng(2)
    p = np.stack([plane.probabilities(places, level) for level in LEVELS], axis=1)
    guess, votes = rng.multinomial(100, p).argmax(axis=2), rng.multinomial(N, p)
    own = np.take_along_axis(votes, guess[..., None], axis=2)[..., 0]
    alone = np.where(guess == labels[:, None], rs_radius(lower_bound(own, N, ALPHA), LEVELS), 0.0)
    return places, labels, guess, votes, float(alone.mean(axis=0).max())


def routed_average(choice: MedianChoice) -> tuple[float, float, float]:
    """Of the system that `choice` routes: its average radius, the share right, and the share out of reach.

    From the same counted votes for every choice. Out of reach: the radius ends where the choice may change.
    """
    places, labels, guess, votes, _ = _draws()
    q, rng = choice.estimator.probabilities(places, choice.sigma), np.random.default_rng(3)
    top = (2 * rng.multinomial(100, q).cumsum(axis=1) >= 100).argmax(axis=1)
    split = even_split(3, ALPHA, guessed_apart=True, rule="cohen")
    entry = median_entry(rng.multinomial(N, q), sigma=choice.sigma, split=split)
    found = routes(entry, votes, top=top, classes=guess, sigmas=LEVELS, split=split, rule="cohen")
    right = found.claim == labels
    own = np.take_along_axis(found.experts, top[:, None], axis=1)[:, 0]
    return float((found.routed * right).mean()), float(right.mean()), float((found.routed < own).mean())


def _beat_single(answer: Any) -> str:
    if not isinstance(answer, MedianChoice):
        return "Give a MedianChoice(Boxes(...), sigma_e): what votes, and the noise under which it does."
    if answer.estimator.classes != len(LEVELS):
        return f"{answer.estimator.classes} classes: wanted 3, one for each of the levels {LEVELS}, from 0."
    average, right, stopped = routed_average(answer)
    best = _draws()[-1]
    if average >= GOAL:
        return ""
    said = f"On average {average:.4f}, the best single level {best:.4f}, wanted {GOAL:g}."
    if len({*answer.estimator.labels, answer.estimator.background}) == 1:
        return f"{said} Nobody is ever routed: that is one level, with a third of alpha for its bound."
    if right < 0.93:
        return f"{said} It is right about {right:.0%} only. Which level resolves the strips?"
    if stopped > 0.45:
        return (
            f"{said} At {stopped:.0%} of the points the chosen expert would reach farther, but a choice that "
            "could change stops it. What does sigma_e do to entry radii?"
        )
    return f"{said} It is right about {right:.0%}. Where would a larger level reach farther, and agree?"


_ROUTER = Find(
    name="a router of your own",
    asks=f"Give a MedianChoice for the plane whose routed radius is {GOAL:g} on average, or more.",
    hints=(
        "Only the smallest level resolves the strips, and only the largest one reaches far at the left.",
        "At the left all experts agree: there a change of mind does no harm. How far may the largest one go?",
        "Route everything left of x1 = 0.4 to level 2, and the strips right of it, above 0.6, to level 0.",
    ),
    examine=_beat_single,
    praise="A router is worth what it certifies, and not how well it guesses the best level of each point.",
    picture=_draw_router,
)


ORDER = LEVELS[::-1]  # of asking


REACH, RIGHT = 0.088, 0.94  # what a cascade has to reach: on average, and the share certified and right


def cascaded(first: float, second: float) -> tuple[float, float, float]:
    """Of a cascade with these thresholds, the last being 0, from the same counted votes for all of them.

    Its average radius, the share certified and right, and the share of points that the first expert answers.
    """
    places, labels, _, votes, _ = _draws()
    p = np.stack([lesson_plane().probabilities(places, level) for level in ORDER], axis=1)
    selection, cascade = np.random.default_rng(4).multinomial(100, p), Cascade(ORDER, (first, second, 0.0))
    who, y = first_to_accept(selection, cascade)
    found = steps(votes[:, ::-1], np.maximum(y, 0), cascade=cascade, alpha=ALPHA).radius
    radius = np.where((y == labels) & (found > 0), found, 0.0)
    return float(radius.mean()), float((radius > 0).mean()), float((who == 0).mean())


def _thresholds(answer: Any) -> tuple[float, float]:
    try:
        first, second = (float(value) for value in answer)
    except (TypeError, ValueError):
        raise ValueError("give two thresholds, (of 0.25, of 0.07); the last expert always has 0") from None
    if not (np.isfinite([first, second]).all() and min(first, second) >= 0):
        raise ValueError("a threshold is a length, 0 or more: how sure an expert has to be before it answers")
    return first, second


def _choose_thresholds(answer: Any) -> str:
    average, right, asked_first = cascaded(*_thresholds(answer))
    if average >= REACH and right >= RIGHT:
        return ""
    said = f"On average {average:.4f}, wanted {REACH:g}; certified and right {right:.1%}, wanted {RIGHT:.0%}."
    if asked_first == 0:
        return f"{said} σ = 0.25 never answers: so sure it is nowhere. Where do the large radii come from?"
    if average >= REACH:
        return f"{said} σ = 0.25 answers {asked_first:.0%} of the points: about many of them it is wrong."
    if right >= RIGHT:
        return f"{said} Much is left to small levels, which reach less far. Who may answer more often?"
    return f"{said} Both: σ = 0.07 hands on what it could have certified, or σ = 0.25 is not held back."


def _draw_cascade(answer: Any) -> Picture:
    plane = lesson_plane()
    choose = FirstSure(plane, ORDER, (*_thresholds(answer), 0.0))
    return drawn_by("choice_and_answers", WHO)(DualPlane(plane, ORDER, choose))


_CASCADE = Find(
    name="thresholds of a cascade",
    asks=f"Give (t of 0.25, t of 0.07): a cascade that reaches {REACH:g} on average and is certified "
    f"and right about {RIGHT:.0%} of the points.",
    hints=(
        "With thresholds 0 whoever has a majority answers: far, but about the strips σ = 0.25 is wrong.",
        "Raise one threshold at a time. Which expert is it that is sure where it is wrong?",
        "In the bands σ = 0.07 is right whenever it has a majority. Hold back σ = 0.25 only, a little.",
    ),
    examine=_choose_thresholds,
    praise="A threshold buys accuracy and pays with radius. The first to be asked is the one to hold back.",
    picture=_draw_cascade,
)


PLANE: tuple[Exercise, Exercise, Exercise] = (_NAIVE, _ROUTER, _CASCADE)
