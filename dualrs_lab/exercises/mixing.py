"""Exercises of lesson 13: margins, the price of mixing, and a weight that is chosen and certified."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dualrs_lab.exercises.exercise import Exercise, Find, Formula, Mistake
from dualrs_lab.exercises.verdict import Picture, drawn_by
from dualrs_lab.lessons.problems import lesson_plane, sample_points
from dualrs_lab.mixing.radii import mix_radius_closed

__all__ = ["MIXING"]


Floats = NDArray[np.float64]


def _ppf(p: float) -> float:
    return float(stats.norm.ppf(p))


def _phi(z: float) -> float:
    return float(stats.norm.cdf(z))


_MARGIN = Formula(
    name="worst margin",
    asks="Write worst_margin(p, rival, a): the least by which the mix prefers h's class to a "
    "rival, for any g.",
    hints=(
        "h is fixed: it gives p to its class and `rival` to the other. Which g hurts most?",
        "The worst g is sure of the rival: it gives 1 to the rival and 0 to h's class. Put "
        "that into the mix.",
    ),
    truth=lambda p, rival, a: a * (p - rival) - (1 - a),
    cases=[
        {"p": 0.9, "rival": 0.05, "a": 0.76},
        {"p": 0.6, "rival": 0.4, "a": 0.6},
        {"p": 0.99, "rival": 0.002, "a": 0.55},
    ],
    mistakes=(
        Mistake(
            formula=lambda p, rival, a: a * (p - rival),
            says="That is h's part. It is the mix with a g that has no opinion, and g may have a strong one.",
        ),
        Mistake(
            formula=lambda p, rival, a: (1 - a) * (p - rival) - a,
            says="The weights are swapped: a is that of the robust classifier.",
        ),
        Mistake(
            formula=lambda p, rival, a: p - rival - (1 - a),
            says="g takes at most 1 - a, but h's margin counts only with its weight.",
        ),
        Mistake(
            formula=lambda p, rival, a: a * p - (1 - a),
            says="The rival has h's votes, too, beside those of g.",
        ),
        Mistake(
            formula=lambda p, rival, a: p - rival - (1 - a) / a,
            says="The right sign, in units of h's margin: by how much does the *mix* prefer the class?",
        ),
        Mistake(
            formula=lambda p, rival, a: a * (p - rival) - (1 - a) / 2,
            says="g need not be fair: it may give everything to the rival.",
        ),
    ),
    picture=drawn_by("margin_answer", "Margins of the mix for classifiers g by chance, and your answer"),
)  # fmt: skip


_WEIGHT = Formula(
    name="smallest weight",
    asks="Write smallest_weight(p, rival): the a from which the mix keeps h's class at the point, for any g.",
    hints=(
        "At that weight the worst margin is exactly 0.",
        "Solve a (p - rival) = 1 - a for a.",
    ),
    truth=lambda p, rival: 1 / (1 + p - rival),
    cases=[{"p": 0.9, "rival": 0.05}, {"p": 0.55, "rival": 0.45}, {"p": 1.0, "rival": 0.0}],
    mistakes=(
        Mistake(
            formula=lambda p, rival: 1 - (p - rival),
            says="Put it in: with this weight g's part is as large as h's margin, but h has only "
            "its own weight.",
        ),
        Mistake(
            formula=lambda p, rival: 0.5,
            says="Half of the weight is enough only for an h that is certain.",
        ),
        Mistake(
            formula=lambda p, rival: 1 / (1 + p),
            says="That forgets the rival, which h gives something too.",
        ),
        Mistake(
            formula=lambda p, rival: 1 / (p - rival),
            says="A weight above 1? Where is the part of g in your equation?",
        ),
        Mistake(
            formula=lambda p, rival: (p - rival) / (1 + p - rival),
            says="That is what is left for g. The weight is h's.",
        ),
        Mistake(
            formula=lambda p, rival: 1 / (2 * p),
            says="Right where the rival has all that h's class leaves. It may have less.",
        ),
    ),
    picture=drawn_by(
        "weight_at_point_answer",
        "Margins of the mix at your weight, for classifiers g by chance",
    ),
)  # fmt: skip


def _price(a: float) -> float:
    return _ppf(1 / (2 * a)) if a > 0.5 else float("inf")


def _theorem_5(p: float, a: float, sigma: float) -> float:
    return max(0.0, sigma / 2 * (_ppf(a * p) - _ppf(a * (1 - p) + 1 - a))) if a > 0.5 else 0.0


_RADIUS = Formula(
    name="radius of a mix",
    asks="Write mix_radius(p, a, sigma): Cohen's radius less the price of mixing; 0 where nothing is left.",
    hints=(
        "The rival gets all that p leaves, so the margin of h is 2 p - 1, and it has to stay "
        "above (1 - a) / a.",
        "r = sigma Phi^-1(p) - sigma Phi^-1(1 / (2 a)). When is nothing left, and when is "
        "there no price at all?",
    ),
    truth=lambda p, a, sigma: float(mix_radius_closed(p, a, sigma)),
    cases=[
        {"p": 0.99, "a": 0.76, "sigma": 0.5},
        {"p": 0.8, "a": 0.9, "sigma": 0.25},
        {"p": 0.6, "a": 0.7, "sigma": 1.0},
        {"p": 0.95, "a": 1.0, "sigma": 0.5},
        {"p": 0.99, "a": 0.45, "sigma": 0.5},
    ],
    mistakes=(
        Mistake(
            formula=lambda p, a, sigma: sigma * (_ppf(p) - _price(a)),
            says="A negative radius promises nothing; an honest method says 0.",
        ),
        Mistake(
            formula=lambda p, a, sigma: max(0.0, sigma * _ppf(p) - _price(a)),
            says="The price, too, is a length: it grows with sigma.",
        ),
        Mistake(
            formula=lambda p, a, sigma: max(0.0, sigma * _ppf(p)),
            says="That is h alone. g can take away 1 - a, and takes it before h has lost its lead.",
        ),
        Mistake(
            formula=_theorem_5,
            says="That is theorem 5 of Bai et al.: true, but it never exceeds sigma Phi^-1(a).",
        ),
        Mistake(
            formula=lambda p, a, sigma: max(0.0, sigma * a * _ppf(p)),
            says="The price does not shrink the radius in proportion: it is the same for every image.",
        ),
        Mistake(
            formula=lambda p, a, sigma: max(0.0, sigma * (_ppf(p) - _ppf(a))),
            says="At a = 1 there must be no price, and yours is infinite. Solve 2 q - 1 = (1 - a) / a for q.",
        ),
    ),
    picture=drawn_by("mix_answer", "The margin of h on the way, what the mix needs of it, and your radius"),
)  # fmt: skip


_FOR_RADIUS = Formula(
    name="weight for a radius",
    asks="Write weight_for(radius, p, sigma): the smallest a at which the mix keeps this radius.",
    hints=(
        "Set the radius of the mix equal to the one that is wanted, and solve for a.",
        "Phi of both sides: 1 / (2 a) = Phi(Phi^-1(p) - radius / sigma).",
    ),
    truth=lambda radius, p, sigma: 1 / (2 * _phi(_ppf(p) - radius / sigma)),
    cases=[
        {"radius": 1.0, "p": 0.99, "sigma": 1.0},
        {"radius": 0.25, "p": 0.9, "sigma": 0.5},
        {"radius": 0.1, "p": 0.95, "sigma": 0.12},
    ],
    mistakes=(
        Mistake(
            formula=lambda radius, p, sigma: 1 / _phi(_ppf(p) - radius / sigma),
            says="Twice too much. In the price of mixing, which share stands inside Phi^-1?",
        ),
        Mistake(
            formula=lambda radius, p, sigma: 1 / (2 * _phi(_ppf(p) - radius)),
            says="In which units is the radius? Phi^-1(p) is in units of sigma.",
        ),
        Mistake(
            formula=lambda radius, p, sigma: 1 / (2 * p),
            says="That keeps the answer at the point itself: the weight for radius 0.",
        ),
        Mistake(
            formula=lambda radius, p, sigma: 1 / (2 * _phi(_ppf(p) + radius / sigma)),
            says="A larger radius must take more weight: yours takes less.",
        ),
        Mistake(
            formula=lambda radius, p, sigma: _phi(_ppf(p) - radius / sigma),
            says="That is the probability that h has left at this distance, not yet a weight.",
        ),
    ),
    picture=drawn_by(
        "weight_answer",
        "The margin of h on the way, what a mix of your weight needs, and the radius",
    ),
)  # fmt: skip


def mix_turns(p: float, a: float, distance: float) -> bool:
    """Whether some g turns the mix at this distance, h being a half-plane smoothed with sigma 1."""
    left = _phi(_ppf(p) - distance)
    return a * (2 * left - 1) < 1 - a


def _break_mix(answer: Any) -> str:
    try:
        p, a, distance = (float(value) for value in answer)
    except (TypeError, ValueError):
        return "Give three numbers: h's probability p, the weight a, and a distance in units of sigma."
    if not 0.5 < p < 1 or not 0 < a <= 1 or distance < 0:
        return (
            f"wanted p between 1/2 and 1, a weight up to 1 and a distance of 0 or more, got {p, a, distance}."
        )
    cohen = _ppf(p)
    if distance >= cohen:
        return (
            f"Cohen's radius is {cohen:.4f}: nothing is claimed at {distance:g}, so nothing is broken there."
        )
    if a == 1:
        return "At a = 1 the mix is h, and the claim is Cohen's theorem."
    if not mix_turns(p, a, distance):
        left = _phi(cohen - distance)
        margin, needed = 2 * left - 1, (1 - a) / a
        return f"There h's margin is still {margin:.4f}, and g can only turn margins below {needed:.4f}."
    return ""


_BREAK = Find(
    name="break a certificate of a mix",
    asks="'The mix has h's radius.' Give (p, a, distance), in units of sigma, at which some g "
    "proves it false.",
    hints=(
        "Inside Cohen's radius h still prefers its class, but by less and less. When does g win?",
        "Just inside Cohen's radius the margin of h is nearly 0. Any g of some weight turns that.",
    ),
    examine=_break_mix,
    praise="A radius of h says that h's answer stays. The mix needs more of h: a margin.",
    picture=drawn_by(
        "worst_mix_answer",
        "The margin of h on the way, what the mix needs of it, and your distance",
    ),
)


SIGMA, REACH, CERTIFIED, CLEAN = 0.07, 0.05, 0.5, 0.975


@cache
def _plane() -> tuple[Floats, Floats, Floats]:
    """Probabilities (P, 3) of g and of h, and the one-hot labels (P, 3) of points of the plane."""
    plane = lesson_plane()
    places, labels = sample_points(plane, 1000, seed=1)
    truth = np.eye(plane.classes)[labels]
    return 0.025 + 0.925 * truth, plane.probabilities(places, SIGMA), truth


def mix_scores(weight: float) -> tuple[float, float]:
    """Clean accuracy of the mix, and its accuracy certified at `REACH`, with exact probabilities."""
    g, h, truth = _plane()
    own = (h * truth).sum(axis=1)
    radii = mix_radius_closed(own, weight, SIGMA)
    clean = ((1 - weight) * g + weight * h).argmax(axis=1) == truth.argmax(axis=1)
    return float(clean.mean()), float((radii >= REACH).mean())


def _choose(answer: Any) -> str:
    if isinstance(answer, bool) or not isinstance(answer, int | float | np.integer | np.floating):
        return "Give one number, the weight of the robust classifier."
    weight = float(answer)
    if not 0 <= weight <= 1:
        return f"{weight:g} is no weight: wanted a share between 0 and 1."
    if weight <= 0.5:
        return "With half of the weight or less nothing is certified, whatever h says."
    clean, certified = mix_scores(weight)
    if certified < CERTIFIED:
        return (
            f"Certified at {REACH:g}: {certified:.1%}, wanted {CERTIFIED:.0%}. Clean accuracy is {clean:.1%}."
        )
    if clean < CLEAN:
        return f"Clean accuracy: {clean:.1%}, wanted {CLEAN:.1%}. Certified at {REACH:g} are {certified:.1%}."
    return ""


def _draw_scores(answer: Any) -> Picture:
    clean, certified = mix_scores(float(answer))
    draw = drawn_by(
        "named_bars", "Clean accuracy and the certified share at your weight, as parts of what is wanted"
    )
    shares = {"clean accuracy": clean / CLEAN, f"certified at {REACH:g}": certified / CERTIFIED}
    title = f"weight {float(answer):.3f}: clean {clean:.1%}, certified {certified:.1%}"
    return draw(shares, line=1.0, says="wanted", title=title, across="part of what is wanted", least=1.0)


_CHOOSE = Find(
    name="choose a weight",
    asks=f"Give a weight with clean accuracy {CLEAN:.1%} and {CERTIFIED:.0%} certified at {REACH:g}, for the "
    "plane's h and a g that is always right and 95 % sure.",
    hints=(
        "More weight, more certified; less weight, more of g's accuracy. Try 0.6 and 0.95, "
        "and see which fails.",
        "The certified share at radius r counts the points with Cohen's radius of at least r plus the price.",
    ),
    examine=_choose,
    praise="Between the two there is a window. What g adds at clean points, no certificate speaks of.",
    picture=_draw_scores,
)


MIXING: tuple[Exercise, ...] = (_MARGIN, _WEIGHT, _RADIUS, _FOR_RADIUS, _BREAK, _CHOOSE)
