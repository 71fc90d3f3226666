"""Exercises of lesson 14: from votes to a radius, and what alpha covers; see `exercises.forgeries`, too."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dualrs_lab.evidence.binomial import lower_bound, upper_bound
from dualrs_lab.evidence.radii import rs_radius, ruled_radius
from dualrs_lab.evidence.votes import read_votes
from dualrs_lab.exercises.exercise import Exercise, Formula, Mistake
from dualrs_lab.exercises.forgeries import FORGERIES
from dualrs_lab.exercises.verdict import drawn_by

__all__ = ["CERTIFICATES"]


Floats = NDArray[np.float64]


def _ppf(p: float | Floats) -> float:
    return float(stats.norm.ppf(p))


def _counts(votes: str, kind: int) -> tuple[int, int]:
    found = dict(read_votes(votes))
    return found.get(kind, 0), max((count for other, count in found.items() if other != kind), default=0)


def _two_largest(votes: str, kind: int) -> tuple[int, int]:
    largest = sorted((count for _, count in read_votes(votes)), reverse=True)
    return largest[0], [*largest, 0][1]


def _first_two(votes: str, kind: int) -> tuple[int, int]:
    counts = [count for _, count in read_votes(votes)]
    return counts[0], [*counts, 0][1]


def _must_be_there(votes: str, kind: int) -> tuple[float, float]:
    own, rival = _counts(votes, kind)
    return (own, rival) if own and len(read_votes(votes)) > 1 else (math.nan, math.nan)


_READ = Formula(
    name="read the votes",
    asks="Write own_and_rival(votes, kind): the votes for the class `kind`, and the most for any other one.",
    hints=(
        "Split the text at spaces, and each part at its colon: pairs of a class and its count.",
        "A class without votes is not in the text. And there may be no other class at all.",
    ),
    truth=_counts,
    cases=[
        {"votes": "0:9642 5:26 7:22 9:310", "kind": 0},
        {"votes": "0:47 3:930 9:23", "kind": 3},
        {"votes": "2:588 3:412", "kind": 3},
        {"votes": "1:1000", "kind": 1},
        {"votes": "1:600 4:400", "kind": 2},
    ],
    mistakes=(
        Mistake(
            formula=_two_largest,
            says="Those are the two largest counts. The class was chosen by other draws, and may "
            "have lost here.",
        ),
        Mistake(
            formula=lambda votes, kind: (
                _counts(votes, kind)[0],
                sum(count for other, count in read_votes(votes) if other != kind),
            ),
            says="All others together. A rival is one class.",
        ),
        Mistake(
            formula=_first_two,
            says="Classes stand in order of their number, not of their votes.",
        ),
        Mistake(
            formula=lambda votes, kind: _counts(votes, kind)[::-1],
            says="The two are swapped.",
        ),
        Mistake(
            formula=lambda votes, kind: (_counts(votes, kind)[0], _two_largest(votes, kind)[1]),
            says="The second largest count is the rival's only where the class itself has the largest.",
        ),
        Mistake(
            formula=lambda votes, kind: (_counts(votes, kind)[0], max(c for _, c in read_votes(votes))),
            says="The class itself is not its own rival.",
        ),
    ),
    picture=drawn_by("votes_answer", "The votes by class, and the two numbers that you read"),
)  # fmt: skip


def _gap(own: int, rival: int, n: int, sigma: float, level: float, half: float = 0.5) -> float:
    return half * sigma * (_ppf(lower_bound(own, n, level)) - _ppf(upper_bound(rival, n, level)))


_ROW = Formula(
    name="radius of a row",
    asks="Write radius(own, rival, n, sigma, alpha): by the rule of two bounds, each at alpha "
    "/ 2; 0 if below.",
    hints=(
        "lower_bound(own, n, alpha / 2) for the class, upper_bound(rival, n, alpha / 2) for the rival.",
        "R = sigma / 2 (Phi^-1(p_lower) - Phi^-1(p_upper)), and 0 where it is negative.",
    ),
    truth=lambda own, rival, n, sigma, alpha: float(
        ruled_radius("two-bounds", own, rival, n, alpha, sigma)
    ),
    cases=[
        {"own": 700, "rival": 120, "n": 1000, "sigma": 0.5, "alpha": 0.001},
        {"own": 9642, "rival": 258, "n": 10_000, "sigma": 0.25, "alpha": 0.001},
        {"own": 450, "rival": 200, "n": 1000, "sigma": 1.0, "alpha": 0.01},
        {"own": 412, "rival": 588, "n": 1000, "sigma": 0.25, "alpha": 0.001},
        {"own": 960, "rival": 40, "n": 1000, "sigma": 0.25, "alpha": 0.001},
    ],
    mistakes=(
        Mistake(
            formula=lambda own, rival, n, sigma, alpha: max(0.0, _gap(own, rival, n, sigma, alpha)),
            says="Two bounds at alpha each may fail twice as often as alpha allows.",
        ),
        Mistake(
            formula=lambda own, rival, n, sigma, alpha: float(
                rs_radius(lower_bound(own, n, alpha), sigma)
            ),
            says="That is Cohen's rule, which does not look at the rival's votes.",
        ),
        Mistake(
            formula=lambda own, rival, n, sigma, alpha: max(0.0, _gap(own, rival, n, sigma, alpha / 2, 1.0)),
            says="Twice too far: the class falls *and* the rival rises, they meet half-way.",
        ),
        Mistake(
            formula=lambda own, rival, n, sigma, alpha: _gap(own, rival, n, sigma, alpha / 2),
            says="A negative radius: the class is behind, or not ahead for sure. What does a table say then?",
        ),
        Mistake(
            formula=lambda own, rival, n, sigma, alpha: max(
                0.0, sigma / 2 * (_ppf(own / n) - _ppf(rival / n))
            ),
            says="Shares of votes are no bounds: luck is in them.",
        ),
        Mistake(
            formula=lambda own, rival, n, sigma, alpha: max(
                0.0,
                sigma / 2
                * (_ppf(lower_bound(own, n, alpha / 2)) - _ppf(lower_bound(rival, n, alpha / 2))),
            ),
            says="A lower bound of the rival helps nobody: how large could its probability be?",
        ),
    ),
    picture=drawn_by("row_answer", "How the class falls and its rival rises on the way, and your radius"),
)  # fmt: skip


_FOR_ALL = Formula(
    name="level for a data set",
    asks="Write level_for_all(images, alpha): alpha of each image, so that with probability 1 - alpha *no* "
    "certificate is false, whatever the draws of the images have to do with each other.",
    hints=(
        "The probability that any of several things happens is at most the sum of their probabilities.",
        "The sum over all images must not be more than alpha.",
    ),
    truth=lambda images, alpha: alpha / images,
    cases=[{"images": 500, "alpha": 0.001}, {"images": 10_000, "alpha": 0.05}, {"images": 1, "alpha": 0.01}],
    mistakes=(
        Mistake(
            formula=lambda images, alpha: alpha,
            says="With alpha for each image, images * alpha false ones are to be expected.",
        ),
        Mistake(
            formula=lambda images, alpha: -math.expm1(math.log1p(-alpha) / images),
            says="That multiplies probabilities, which takes independent draws. Images may share "
            "their noise.",
        ),
        Mistake(
            formula=lambda images, alpha: alpha * images,
            says="More images need a smaller level for each, not a larger one.",
        ),
        Mistake(
            formula=lambda images, alpha: alpha / math.sqrt(images),
            says="The root belongs to errors of averages. Here not a single one may be false.",
        ),
        Mistake(
            formula=lambda images, alpha: alpha / (2 * images),
            says="Half of that is enough: a certificate is false in one direction only.",
        ),
    ),
    atol=0, rtol=1e-9,
    picture=drawn_by("level_answer", "How probable a false certificate may be at your level, and alpha"),
)  # fmt: skip


_TOLERATED = Formula(
    name="false certificates",
    asks="Write tolerated(certificates, alpha, chance): the smallest number that false "
    "certificates exceed with "
    "probability `chance` at most, if draws are independent.",
    hints=(
        "In the worst case each is false with probability alpha: their number is binomial.",
        "binom.sf(m, certificates, alpha) is the probability of more than m. Find the first m "
        "with at most chance.",
    ),
    truth=lambda certificates, alpha, chance: float(stats.binom.isf(chance, certificates, alpha)),
    cases=[
        {"certificates": 400, "alpha": 0.001, "chance": 0.001},
        {"certificates": 10_000, "alpha": 0.001, "chance": 0.01},
        {"certificates": 20_000, "alpha": 0.05, "chance": 0.001},
    ],
    mistakes=(
        Mistake(
            formula=lambda certificates, alpha, chance: certificates * alpha,
            says="So many are to be expected, on average. Half of the time there are more.",
        ),
        Mistake(
            formula=lambda certificates, alpha, chance: math.ceil(certificates * alpha),
            says="The expected number, rounded up: often there are more, and nothing is wrong.",
        ),
        Mistake(
            formula=lambda certificates, alpha, chance: 0,
            says="None at all? alpha is allowed to each one, and there are many.",
        ),
        Mistake(
            formula=lambda certificates, alpha, chance: float(stats.binom.ppf(chance, certificates, alpha)),
            says="The other tail: with nearly all probability there are more than that.",
        ),
        Mistake(
            formula=lambda certificates, alpha, chance: certificates * alpha
            - _ppf(chance) * math.sqrt(certificates * alpha * (1 - alpha)),
            says="That is the normal approximation. Rare events are not normal: the binomial law is at hand.",
        ),
        Mistake(
            formula=lambda certificates, alpha, chance: float(stats.binom.isf(alpha, certificates, chance)),
            says="alpha and chance are swapped: alpha is that of each certificate.",
        ),
    ),
    picture=drawn_by("tolerated_answer", "How many certificates are false, and what exceeds your number"),
)  # fmt: skip


CERTIFICATES: tuple[Exercise, ...] = (_READ, _ROW, _FOR_ALL, _TOLERATED, *FORGERIES)
