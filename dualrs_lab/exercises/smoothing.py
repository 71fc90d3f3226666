"""Exercises of lesson 10: bounds, radii, what draws buy, and why a naive interval is no promise."""

import math
from typing import Any

import numpy as np
from scipy import stats

from dualrs_lab.evidence.binomial import lower_bound
from dualrs_lab.evidence.radii import rs_radius
from dualrs_lab.exercises.exercise import Exercise, Find, Formula, Mistake
from dualrs_lab.exercises.verdict import drawn_by

__all__ = ["SMOOTHING"]

_VOTES = [
    {"k": 950, "n": 1000, "alpha": 0.001},
    {"k": 60, "n": 100, "alpha": 0.05},
    {"k": 100, "n": 100, "alpha": 0.001},
    {"k": 3, "n": 10, "alpha": 0.1},
]


def _wald(k: int, n: int, alpha: float) -> float:
    return k / n + float(stats.norm.ppf(alpha)) * math.sqrt(k / n * (1 - k / n) / n)


_LOWER = Formula(
    name="lower bound",
    asks="Write lower_bound(k, n, alpha): the largest p at which k votes or more of n are no surprise.",
    hints=(
        "A surprise has probability at most alpha. For a given p, binom.sf(k - 1, n, p) is the probability "
        "of k votes or more; it grows with p.",
        "Look for the p at which that probability is alpha. Bisection between 0 and k / n finds it.",
        "The law behind it is a Beta distribution: P(Bin(n, p) >= k) = P(Beta(k, n - k + 1) <= p).",
    ),
    truth=lower_bound,
    cases=[*_VOTES, {"k": 0, "n": 50, "alpha": 0.01}],
    mistakes=(
        Mistake(
            formula=lambda k, n, alpha: k / n,
            says="That is the share of the votes. In half of all cases the truth is below it.",
        ),
        Mistake(
            formula=lambda k, n, alpha: lower_bound(k, n, alpha / 2),
            says="You split alpha over two sides, but nobody asks how large the probability could be.",
        ),
        Mistake(
            formula=_wald,
            says="That is the normal approximation. It is no promise: where all votes agree it claims 1.",
        ),
        Mistake(
            formula=lambda k, n, alpha: stats.beta.ppf(alpha, k + 1, n - k),
            says="Nearly: that p makes *more than* k votes a surprise. k itself must count among them.",
        ),
        Mistake(
            formula=lambda k, n, alpha: stats.beta.ppf(1 - alpha, k, n - k + 1),
            says="That is the other tail: it is above the share of the votes.",
        ),
        Mistake(
            formula=lambda k, n, alpha: stats.beta.ppf(alpha, k, n - k + 1),
            says="Right where there is a vote. Without any the law has no Beta form, and the bound is plain.",
        ),
        Mistake(
            formula=lambda k, n, alpha: k / n - math.sqrt(math.log(1 / alpha) / (2 * n)),
            says="That is Hoeffding's bound: true, but not the largest p. It does not know the binomial law.",
        ),
    ),
    picture=drawn_by("bound_answer", "The law of the votes if your bound were the truth"),
)  # fmt: skip


def _radius(k: int, n: int, sigma: float, alpha: float) -> float:
    p = float(lower_bound(k, n, alpha))
    return float(rs_radius(p, sigma)) if p > 0.5 else 0.0


def _ppf(p: float) -> float:
    return float(stats.norm.ppf(p))


_RADIUS = Formula(
    name="radius",
    asks="Write radius(k, n, sigma, alpha): what k of n votes certify; 0 where the method abstains.",
    hints=(
        "Bound the probability first, then ask how far the half-plane may move.",
        "R = sigma Phi^-1(p_lower); the inverse is scipy.stats.norm.ppf. And when is nothing claimed?",
    ),
    truth=_radius,
    cases=[
        {"k": 950, "n": 1000, "sigma": 0.25, "alpha": 0.001},
        {"k": 1000, "n": 1000, "sigma": 0.5, "alpha": 0.001},
        {"k": 700, "n": 1000, "sigma": 1.0, "alpha": 0.01},
        {"k": 520, "n": 1000, "sigma": 0.25, "alpha": 0.001},
        {"k": 0, "n": 1000, "sigma": 0.25, "alpha": 0.001},
    ],
    mistakes=(
        Mistake(
            formula=lambda k, n, sigma, alpha: max(0.0, sigma * _ppf(k / n)),
            says="The share of the votes is not a bound: this promises what luck may have given.",
        ),
        Mistake(
            formula=lambda k, n, sigma, alpha: sigma * _ppf(float(lower_bound(k, n, alpha))),
            says="A negative radius promises nothing, minus infinity less. What does an honest method say?",
        ),
        Mistake(
            formula=lambda k, n, sigma, alpha: max(0.0, _ppf(float(lower_bound(k, n, alpha)))),
            says="In units of sigma that is it. How long is it in units of the plane?",
        ),
        Mistake(
            formula=lambda k, n, sigma, alpha: max(0.0, sigma / 2 * _ppf(float(lower_bound(k, n, alpha)))),
            says="The half belongs to the rule with two bounds, where a rival's bound is subtracted.",
        ),
        Mistake(
            formula=lambda k, n, sigma, alpha: sigma * float(stats.norm.cdf(float(lower_bound(k, n, alpha)))),
            says="Phi turns lengths into probabilities. Here a probability must become a length.",
        ),
    ),
    picture=drawn_by("radius_answer", "What a half-plane keeps of its copies on the way, and your radius"),
)  # fmt: skip


def _draws(radius: float, sigma: float, alpha: float) -> int:
    return math.ceil(math.log(alpha) / float(stats.norm.logcdf(radius / sigma)) - 1e-9)


def _exact_draws(radius: float, sigma: float, alpha: float) -> float:
    return math.log(alpha) / float(stats.norm.logcdf(radius / sigma))


_DRAWS = Formula(
    name="draws for a radius",
    asks="Write draws_for(radius, sigma, alpha): the fewest draws that could certify it, if all votes agree.",
    hints=(
        "If all n votes agree, the lower bound is alpha to the power 1 / n.",
        "Set sigma Phi^-1(alpha^(1/n)) >= radius and solve for n; n is a whole number.",
    ),
    truth=_draws,
    cases=[
        {"radius": 0.5, "sigma": 0.25, "alpha": 0.001},
        {"radius": 1.0, "sigma": 0.25, "alpha": 0.001},
        {"radius": 0.1, "sigma": 0.5, "alpha": 0.05},
        {"radius": 1.5, "sigma": 0.5, "alpha": 0.01},
    ],
    mistakes=(
        Mistake(
            formula=lambda radius, sigma, alpha: math.floor(_exact_draws(radius, sigma, alpha)),
            says="One draw too few: there, the bound is still a little below what the radius needs.",
        ),
        Mistake(formula=_exact_draws, says="A part of a draw cannot be had: round in the safe direction."),
        Mistake(
            formula=lambda radius, sigma, alpha: math.ceil(_exact_draws(radius, 1.0, alpha)),
            says="Where is sigma? The same radius is easier with more noise.",
        ),
        Mistake(
            formula=lambda radius, sigma, alpha: math.ceil(_exact_draws(radius, sigma, alpha / 2)),
            says="You halved alpha, but one bound only is at stake.",
        ),
        Mistake(
            formula=lambda radius, sigma, alpha: math.ceil(1 / (1 - float(stats.norm.cdf(radius / sigma)))),
            says="So many draws see a rare other answer about once. To *prove* that it is rare takes more.",
        ),
    ),
    rtol=0, atol=1e-9,
    picture=drawn_by(
        "ceiling_answer",
        "The radius that your draws can certify at most, and the one that is wanted",
    ),
)  # fmt: skip


_SIGMA = Formula(
    name="noise for a radius",
    asks="Write sigma_for(radius, n, alpha): the smallest sigma whose ceiling reaches the radius.",
    hints=(
        "The ceiling is the radius if all n votes agree: sigma Phi^-1(alpha^(1/n)).",
        "It grows in proportion to sigma, so divide.",
    ),
    truth=lambda radius, n, alpha: radius / float(stats.norm.ppf(alpha ** (1 / n))),
    cases=[
        {"radius": 1.0, "n": 1000, "alpha": 0.001},
        {"radius": 2.0, "n": 100_000, "alpha": 0.001},
        {"radius": 0.25, "n": 100, "alpha": 0.05},
    ],
    mistakes=(
        Mistake(
            formula=lambda radius, n, alpha: radius * float(stats.norm.ppf(alpha ** (1 / n))),
            says="With this sigma the ceiling is far from the radius: put it into its formula.",
        ),
        Mistake(
            formula=lambda radius, n, alpha: radius / float(stats.norm.ppf(1 - alpha)),
            says="1 - alpha is what one draw would prove. n draws that agree prove more.",
        ),
        Mistake(
            formula=lambda radius, n, alpha: radius / float(stats.norm.ppf(1 - alpha / n)),
            says="Close for large n, but that splits alpha over draws; all of them must agree at once.",
        ),
        Mistake(
            formula=lambda radius, n, alpha: radius / float(stats.norm.ppf((alpha / 2) ** (1 / n))),
            says="You halved alpha, but one bound only is at stake.",
        ),
        Mistake(
            formula=lambda radius, n, alpha: radius / alpha ** (1 / n),
            says="The bound is a probability. Which length of the half-plane belongs to it?",
        ),
    ),
    picture=drawn_by(
        "ceiling_answer",
        "The radius that your noise can certify at most, and the one that is wanted",
    ),
)  # fmt: skip


def failure(p: float, n: int, alpha: float) -> float:
    """How often the normal approximation claims more than the truth p, by the binomial law."""
    k = np.arange(n + 1)
    share = k / n
    claim = share + stats.norm.ppf(alpha) * np.sqrt(share * (1 - share) / n)
    return float(stats.binom.pmf(k, n, p)[claim > p].sum())


def _break_wald(answer: Any) -> str:
    try:
        p, n = answer
    except (TypeError, ValueError):
        return "Give two numbers: the true probability p and the number of draws n."
    if not 0 < p < 1:
        return f"p = {p} is no probability between 0 and 1. At 1 every vote agrees, and a claim of 1 is true."
    if n != int(n) or not 1 <= n <= 10_000:
        return f"n = {n}: wanted a whole number from 1 to 10,000."
    often = failure(float(p), int(n), 0.05)
    if often <= 0.05:
        return (
            f"There the interval is false with probability {often:.4f}, which 5 % allows. "
            "Where are its votes so equal that it believes to know everything?"
        )
    if often <= 0.15:
        return f"False with probability {often:.4f}: too often, but not yet three times as often as allowed."
    return ""


_WALD = Find(
    name="break the normal interval",
    asks="Give (p, n) for which the normal approximation at alpha = 0.05 is false three times too often.",
    hints=(
        "Its width is sqrt(share (1 - share) / n). When is it 0?",
        "If all n votes agree it claims 1, which is false for every p < 1. How often do all votes agree?",
    ),
    examine=_break_wald,
    praise="An approximation that is good on average can be bad exactly where certificates live: near 1.",
    picture=drawn_by("interval_answer", "The law of the votes, with those that make the interval false"),
)


SMOOTHING: tuple[Exercise, ...] = (_LOWER, _RADIUS, _DRAWS, _SIGMA, _WALD)
