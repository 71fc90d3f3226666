"""Exercises of lesson 15: what an attack missed, a loss that sees, an attack on the mix, signs in a table."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.exercises.exercise import Exercise, Find, Formula, Mistake
from dualrs_lab.exercises.verdict import Picture, drawn_by
from dualrs_lab.lessons.digits import LinearScores, MixedScores, fit_linear, leads, lesson_digits, worst_leads
from dualrs_lab.lessons.problems import lesson_plane
from dualrs_lab.lessons.slopes import SmoothedPlane
from dualrs_lab.lessons.strikes import sign_strike

__all__ = ["BREAKING"]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


START, BUDGET, SIGMA = (0.565, 0.965), 0.1, 0.1  # where the walk from the point itself finds nothing


EPS, SCALE, IMAGES = 0.1, 1000.0, 100  # of the digits, and of the scores that are masked


NEAR = 0.1  # to the exact share: entropy of scores that were scaled back comes as near, a far rival does not


WEIGHT, SHARPER, IMAGE = 0.76, 10.0, 432  # of the mix, and an image that attacks on g and on h alone miss


def _other_class(answer: Any) -> str:
    try:
        point = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError):
        point = np.zeros(0)
    if point.shape != (2,) or not np.isfinite(point).all():
        return "Give one point of the plane, such as (0.5, 0.9)."
    smoothed, home = SmoothedPlane(lesson_plane(), SIGMA), np.array(START)
    far = float(np.linalg.norm(point - home))
    (own,), (here,) = smoothed.predict(home[None]), smoothed.predict(point[None])
    if far > BUDGET:
        return f"That is {far:.4f} away, and the budget is {BUDGET:g}."
    if here == own:
        p = np.sort(smoothed.probabilities(point[None])[0])
        return f"{far:.4f} away, and still class {own}: its lead there is {p[-1] - p[-2]:.4f}."
    return ""


def _draw_other(answer: Any) -> Picture:
    points = np.stack([np.array(START), np.asarray(answer, dtype=np.float64)])
    x, y = START
    window = (x - 0.2, x + 0.2, y - 0.2, y + 0.2)
    smoothed: Any = SmoothedPlane(lesson_plane(), SIGMA)  # drawn by its classes
    title = f"smoothed at {SIGMA:g}: budget and point"
    draw = drawn_by("plane_field", "The smoothed classes around the start, the budget, and your point")
    return draw(smoothed, points=points, radii=[BUDGET, 0], window=window, title=title)


_MISSED = Find(
    name="what a weak attack missed",
    asks=f"Give a point within {BUDGET:g} of {START} at which the classifier smoothed at {SIGMA:g} answers "
    "another class. (The walk from the point itself finds none, with any number of steps.)",
    hints=(
        "It walks towards the rival that is best where it starts. Which other class is near?",
        "Try many points of the disc, or start the walk at random in it: `start=0.1` and a `seed`.",
    ),
    examine=_other_class,
    praise="The walk had found nothing, and there was something: a failed attack proves nothing.",
    picture=_draw_other,
)


class _Problem(NamedTuple):
    model: LinearScores
    x: Floats
    labels: Ints


@cache
def masked_problem() -> _Problem:
    """Digits that are answered rightly, and the classifier with scores a thousand times as large."""
    digits = lesson_digits()
    model = fit_linear(digits.learn, digits.learn_labels).sharpened(SCALE)
    x, labels = digits.test, digits.test_labels
    right = np.flatnonzero(leads(model.scores(x), labels) > 0)[:IMAGES]
    return _Problem(model, x[right], labels[right])


def _pulled(answer: Any) -> tuple[Floats, Floats]:
    """Where the attack by this pull ends (N, D), and the pull itself at the images (N, K)."""
    problem = masked_problem()
    kinds = len(problem.model.bias)

    def pull(scores: Floats, labels: Ints) -> Floats:
        rows = [
            np.asarray(answer(row.copy(), int(label)), dtype=np.float64)
            for row, label in zip(scores, labels, strict=True)
        ]
        if any(row.shape != (kinds,) for row in rows):
            raise ValueError(f"wanted {kinds} numbers, one for each score, got shape {rows[0].shape}")
        return np.stack(rows)

    x, labels = problem.x, problem.labels
    return sign_strike(problem.model, x, labels, EPS, pull=pull, steps=5, step=EPS / 2), pull(
        problem.model.scores(x), labels
    )


def _sees(answer: Any) -> str:
    if not callable(answer):
        return (
            "Give a function of the scores (10,) of one image and its label, with 10 numbers as its result."
        )
    problem = masked_problem()
    moved, pulled = _pulled(answer)
    right = leads(problem.model.scores(moved), problem.labels) > 0
    truth = (worst_leads(problem.model, problem.x, problem.labels, EPS) > 0).mean()
    if not np.isfinite(pulled).all():
        return "Some of it is not a number: on scores of thousands, exp overflows."
    if right.mean() <= truth + NEAR:
        return ""
    said = f"This attack leaves {right.mean():.0%} right; exactly {truth:.0%} withstand every attack."
    still = (np.abs(pulled).max(axis=1) == 0).mean()
    own = pulled[np.arange(len(pulled)), problem.labels]
    if still > 0.5:
        return f"{said} For {still:.0%} of the images all 10 numbers are 0: nothing to follow."
    if (own > 0).any():
        return f"{said} The label's own score is pulled up: that helps the classifier."
    if (own == 0).all():
        return (
            f"{said} It raises rivals and leaves the label's score alone. What has to change is a difference."
        )
    if np.bincount(pulled.argmax(axis=1)).max() > 0.8 * len(pulled):
        return f"{said} It pulls towards one class, whatever the image. Which rival is nearest?"
    return f"{said} It pulls towards rivals that are far away. Which one is the nearest, at these scores?"


def _draw_digit(answer: Any) -> Picture:
    problem = masked_problem()
    moved, _ = _pulled(answer)
    left = leads(problem.model.scores(moved), problem.labels) > 0
    broken = worst_leads(problem.model, problem.x, problem.labels, EPS) <= 0
    image = int(np.flatnonzero(left & broken)[0])
    words = "A digit that can be broken, what your attack made of it, and the change"
    return _draw_moved(problem.x[image], moved[image], problem.labels[image], "moved", words)


def _draw_moved(before: Any, after: Any, label: int, name: str, words: str) -> Picture:
    # an image (64,), what it became, and the change between them, grey where there is none
    first, second = (np.asarray(one, dtype=np.float64).reshape(8, 8) for one in (before, after))
    change = 0.5 + (second - first) / (2 * EPS)
    return drawn_by("moved_images", words)({f"a {label}": first, name: second, "the change": change})


_SEES = Find(
    name="a loss that sees",
    asks=f"Write pull(scores, label): 10 numbers that say how an attacker's loss grows with each score, such "
    f"that PGD breaks the classifier whose scores are {SCALE:g} times as large.",
    hints=(
        "Cross-entropy gives softmax(scores) less 1 at the label. What is that where softmax is exactly 1?",
        "What makes an answer wrong is that a rival's score gets above the label's. Which rival is nearest?",
        "A loss that is a difference of two scores has slopes of 1 and -1, however large the scores are.",
    ),
    examine=_sees,
    praise="The classifier was as fragile as before. Only cross-entropy had looked away.",
    picture=_draw_digit,
    probe=(np.arange(10.0), 0),
)


@cache
def mixed_problem() -> tuple[MixedScores, Floats, int]:
    """The mix of the lesson, the image of the exercise (64,) and its label."""
    digits = lesson_digits()
    g = fit_linear(digits.learn, digits.learn_labels).sharpened(SHARPER)
    h = fit_linear(digits.learn, digits.learn_labels, eps=EPS)
    return MixedScores(g, h, WEIGHT), digits.test[IMAGE], int(digits.test_labels[IMAGE])


def _fools_the_mix(answer: Any) -> str:
    model, x, label = mixed_problem()
    try:
        moved = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError):
        moved = np.zeros(0)
    if moved.size != 64 or not np.isfinite(moved).all():
        return f"Give 64 pixels, an image such as test[{IMAGE}]; got shape {moved.shape}."
    moved = moved.reshape(1, 64)
    if moved.min() < -1e-12 or moved.max() > 1 + 1e-12:
        return f"An image has values in [0, 1]; yours go from {moved.min():g} to {moved.max():g}."
    far = float(np.abs(moved - x).max())
    if far > EPS + 1e-9:
        return f"A pixel is {far:.4f} away from the image, and the budget is {EPS:g}."
    if (leads(model.scores(moved), np.array([label])) <= 0).all():
        return ""
    names = {"g": model.g, "h": model.h}
    wrong = [name for name, part in names.items() if leads(part.scores(moved), np.array([label]))[0] <= 0]
    ahead = float(leads(model.scores(moved), np.array([label]))[0])
    said = f"The mix still answers {label}, by {ahead:.4f} in its logarithm."
    if len(wrong) == 2:
        return (
            f"{said} g and h are both wrong there, each for another class, and the mix is right all the same."
        )
    if wrong:
        return f"{said} {wrong[0]} alone is wrong there: the attack knew a part, not the mix."
    return f"{said} So do g and h by themselves."


def _draw_mix(answer: Any) -> Picture:
    _, x, label = mixed_problem()
    return _draw_moved(x, answer, label, "yours", "The image, yours, and the change between them")


_KNOWS = Find(
    name="an attack that knows the mix",
    asks=f"Give 64 pixels within {EPS:g} of test[{IMAGE}] that the mix of weight {WEIGHT:g} answers wrongly. "
    "(Attacks on g alone and on h alone fail on this image.)",
    hints=(
        "Which scores decide the answer: those of g, of h, or of the mix?",
        "sign_strike takes any classifier with scores and slopes. Give it the mix itself.",
    ),
    examine=_fools_the_mix,
    praise="Attacks on the parts had failed. An evaluation has to attack the very thing that answers.",
    picture=_draw_mix,
)


def _signs(
    few: float, many: float, unbounded: float, gradient: float, scores: float, transfer: float
) -> list[bool]:
    return [many > few, unbounded > 0, scores < gradient, transfer < gradient]


_SIGNS = Formula(
    name="signs of masking",
    asks="Write signs(few, many, unbounded, gradient, random, transfer), from accuracies that attacks leave: "
    "four truth values, in the order of the list above.",
    hints=(
        "An attack that is stronger leaves *less* accuracy. Which of two numbers ought to be the smaller?",
        "Equal numbers are no sign. With an unlimited budget nothing ought to be left at all.",
    ),
    truth=_signs,
    cases=[
        {"few": 0.62, "many": 0.6, "unbounded": 0.0, "gradient": 0.6, "random": 0.66, "transfer": 0.75},
        {"few": 0.9, "many": 0.93, "unbounded": 0.9, "gradient": 0.93, "random": 0.61, "transfer": 0.6},
        {"few": 0.97, "many": 0.97, "unbounded": 0.97, "gradient": 0.97, "random": 0.97, "transfer": 0.8},
        {"few": 0.5, "many": 0.45, "unbounded": 0.02, "gradient": 0.45, "random": 0.4, "transfer": 0.45},
    ],
    mistakes=(
        Mistake(
            formula=lambda few, many, unbounded, gradient, scores, transfer: [
                many < few, unbounded > 0, scores < gradient, transfer < gradient,
            ],
            says="That more steps leave less is as it should be. The sign is the other way round.",
        ),
        Mistake(
            formula=lambda few, many, unbounded, gradient, scores, transfer: [
                many > few, unbounded > 0, scores > gradient, transfer > gradient,
            ],
            says="Gradients know more than random tries or another network. Which result would surprise you?",
        ),
        Mistake(
            formula=lambda few, many, unbounded, gradient, scores, transfer: [
                many >= few, unbounded > 0, scores <= gradient, transfer <= gradient,
            ],
            says="Equal numbers are no sign by themselves.",
        ),
        Mistake(
            formula=lambda few, many, unbounded, gradient, scores, transfer: [
                many > few, unbounded > 0.1, scores < gradient, transfer < gradient,
            ],
            says="With a budget of 1 every image can become every other one: what is left at all is a sign.",
        ),
        Mistake(
            formula=lambda few, many, unbounded, gradient, scores, transfer: [
                many > few, unbounded == 0, scores < gradient, transfer < gradient,
            ],
            says="Nothing left without a limit is as it should be. The sign is the other way round.",
        ),
        Mistake(
            formula=lambda few, many, unbounded, gradient, scores, transfer: any(
                _signs(few, many, unbounded, gradient, scores, transfer)
            ),
            says="One truth value for all. Give four: which sign it is tells where to look.",
        ),
    ),
)  # fmt: skip


BREAKING: tuple[Exercise, ...] = (_MISSED, _SEES, _KNOWS, _SIGNS)
