"""Exercises of lesson 11: radii of systems that hold, what they cost, and see `exercises.plane`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dualrs_lab.dual.split import even_split
from dualrs_lab.exercises.exercise import Exercise, Formula, Mistake
from dualrs_lab.exercises.plane import PLANE
from dualrs_lab.exercises.verdict import drawn_by

__all__ = ["DUAL"]


Floats = NDArray[np.float64]


def _ppf(p: float) -> float:
    return float(stats.norm.ppf(p))


def _entry(before: float, here: float, sigma_e: float) -> float:
    return sigma_e * max(0.0, -_ppf(here), _ppf(before))


_ENTRY = Formula(
    name="entry radius",
    asks="Write entry_radius(before, here, sigma_e): how far expert j cannot be chosen; F_(j-1) is `before`.",
    hints=(
        "Expert j is chosen where F_j is at least 1/2 and F_(j-1) is below it. Which of the two fails now?",
        "Phi^-1 of either changes by at most d / sigma_e within d. How far is each from 0?",
        "Both conditions must come true before j is chosen: the one that takes longer decides.",
    ),
    truth=_entry,
    cases=[
        {"before": 0.05, "here": 0.2, "sigma_e": 0.1},
        {"before": 0.7, "here": 0.9, "sigma_e": 0.1},
        {"before": 0.2, "here": 0.8, "sigma_e": 0.25},
        {"before": 0.0, "here": 0.1, "sigma_e": 0.05},
        {"before": 0.6, "here": 1.0, "sigma_e": 0.5},
    ],
    mistakes=(
        Mistake(
            formula=lambda before, here, sigma_e: sigma_e * max(-_ppf(here), _ppf(before)),
            says="A negative distance: this expert is the one that is chosen, so it is there already.",
        ),
        Mistake(
            formula=lambda before, here, sigma_e: max(0.0, -_ppf(here), _ppf(before)),
            says="In units of sigma_e that is it. How long is it in the plane?",
        ),
        Mistake(
            formula=lambda before, here, sigma_e: sigma_e * max(0.0, min(-_ppf(here), _ppf(before))),
            says="You ask that both conditions fail. One that fails is enough to keep the expert out.",
        ),
        Mistake(
            formula=lambda before, here, sigma_e: sigma_e * max(0.0, -_ppf(here)),
            says="That is the way until enough votes are for j or smaller. They may already be for "
            "smaller ones.",
        ),
        Mistake(
            formula=lambda before, here, sigma_e: sigma_e * max(0.0, _ppf(here), -_ppf(before)),
            says="The signs are turned round: this is 0 exactly where the expert is out, and large "
            "where it is in.",
        ),
        Mistake(
            formula=lambda before, here, sigma_e: sigma_e * max(0.0, -_ppf(here - before)),
            says="That asks when j itself has half of the votes. The median does not need that.",
        ),
    ),
    picture=drawn_by("entry_answer", "Both probabilities of the choice on the way, and your radius"),
)  # fmt: skip


_RADII: list[dict[str, Any]] = [
    {"entry": np.array([0.132, 0.049, 0.0]), "experts": np.array([0.151, 0.15, 0.171])},
    {"entry": np.array([0.2, 0.0, 0.3]), "experts": np.array([0.02, 0.08, 0.25])},
    {"entry": np.array([0.0, 0.05, 0.12]), "experts": np.array([0.04, 0.0, 0.0])},
    {"entry": np.array([0.06, 0.0, 0.0]), "experts": np.array([0.1, 0.05, 0.04])},
]
_CHOSEN = [case | {"chosen": chosen} for case, chosen in zip(_RADII, (2, 1, 0, 1), strict=True)]


def _others(entry: Floats, chosen: int) -> float:
    return float(np.delete(entry, chosen).min())


_PUBLISHED = Formula(
    name="published radius",
    asks="Write published(entry, experts, chosen): the rule of local constancy, from all r_j and R_j.",
    hints=(
        "Two things have to hold: nobody else is chosen, and the chosen expert keeps its answer.",
        "The first holds within the smallest entry radius of the others, the second within "
        "the chosen one's R.",
    ),
    truth=lambda entry, experts, chosen: min(_others(entry, chosen), experts[chosen]),
    cases=_CHOSEN,
    mistakes=(
        Mistake(
            formula=lambda entry, experts, chosen: min(entry.min(), experts[chosen]),
            says="The chosen expert's own entry radius is 0. It may stay: only the others must not come in.",
        ),
        Mistake(
            formula=lambda entry, experts, chosen: experts[chosen],
            says="That is no guard at all: the promise of one expert, while another may be asked.",
        ),
        Mistake(
            formula=lambda entry, experts, chosen: _others(entry, chosen),
            says="Within it the choice is constant, but the chosen expert may change its own answer before.",
        ),
        Mistake(
            formula=lambda entry, experts, chosen: max(_others(entry, chosen), experts[chosen]),
            says="Both must hold, the choice and the answer: what ends first ends the promise.",
        ),
        Mistake(
            formula=lambda entry, experts, chosen: np.maximum(entry, experts).min(),
            says="That is the routed radius: true, but this rule does not ask what the others would say.",
        ),
        Mistake(
            formula=lambda entry, experts, chosen: min(_others(entry, chosen), experts.min()),
            says="An expert that is not chosen may say what it likes.",
        ),
    ),
    picture=drawn_by("radii_answer", "Both radii of each expert, and your answer"),
)  # fmt: skip


_ROUTED = Formula(
    name="routed radius",
    asks="Write routed(entry, experts): how far no expert can do harm, from all r_j and R_j.",
    hints=(
        "Expert j does harm where it is chosen *and* answers otherwise. Up to where can it not do both?",
        "It is out up to r_j and right up to R_j. Either is enough. And no expert at all may do harm.",
    ),
    truth=lambda entry, experts: np.maximum(entry, experts).min(),
    cases=_RADII,
    mistakes=(
        Mistake(
            formula=lambda entry, experts: np.minimum(entry, experts).max(),
            says="Turned round: you ask for one expert that is out and right, and trust it with all of them.",
        ),
        Mistake(
            formula=lambda entry, experts: np.minimum(entry, experts).min(),
            says="You ask each expert to be out *and* right. Either is enough.",
        ),
        Mistake(
            formula=lambda entry, experts: np.maximum(entry, experts).max(),
            says="The most harmless expert does not help where another one does harm.",
        ),
        Mistake(
            formula=lambda entry, experts: (entry + experts).min(),
            says="Both lengths start at the point itself; they are not walked one after the other.",
        ),
        Mistake(
            formula=lambda entry, experts: experts.min(),
            says="True, but too small: who cannot be chosen need not agree.",
        ),
        Mistake(
            formula=lambda entry, experts: min(
                _others(entry, int(entry.argmin())), experts[int(entry.argmin())]
            ),
            says="That is the published rule, which stops where the choice may change, harm or no harm.",
        ),
    ),
    picture=drawn_by("radii_answer", "Both radii of each expert, and your answer"),
)  # fmt: skip


_LEVEL = Formula(
    name="level of a bound",
    asks="Write level(experts, alpha): what each bound of a routed radius may spend; guesses "
    "are drawn apart.",
    hints=(
        "First fix the expert that really does the harm. It does not depend on any counted vote.",
        "A false radius needs one false bound among those that enter *its* max(r_j, R_j). How "
        "many are there?",
        "R_j is one bound. r_j has two, of F_j and F_(j-1), but with two experts only one cut exists.",
    ),
    truth=lambda experts, alpha: even_split(
        experts, alpha, monotone=True, guessed_apart=True, rule="cohen"
    ).experts[0],
    cases=[
        {"experts": 3, "alpha": 0.001},
        {"experts": 2, "alpha": 0.01},
        {"experts": 5, "alpha": 0.001},
        {"experts": 1, "alpha": 0.05},
    ],
    mistakes=(
        Mistake(
            formula=lambda experts, alpha: alpha / (3 * experts - 2),
            says="That makes all bounds hold at once. A false radius needs a false bound of one expert only.",
        ),
        Mistake(
            formula=lambda experts, alpha: alpha / experts,
            says="One bound for each expert? What matters is how many bounds enter a single expert's term.",
        ),
        Mistake(
            formula=lambda experts, alpha: alpha / 3,
            says="Right for three experts and more. How many cuts are there with two, and with one?",
        ),
        Mistake(
            formula=lambda experts, alpha: alpha,
            says="Then a term with three bounds may fail three times as often as alpha allows.",
        ),
        Mistake(
            formula=lambda experts, alpha: alpha / 2,
            says="One half for the choice, one for the expert? The choice has two bounds, of F_j "
            "and F_(j-1).",
        ),
    ),
)  # fmt: skip


def _lead(z: Floats, handicaps: Floats, sign: float = -1.0) -> float:
    best = np.sort((z + sign * handicaps[:, None]).max(axis=0))
    return float(best[-1] - best[-2])


_COMBINED = Formula(
    name="radius of whoever is surest",
    asks="Write surest(z, t): the radius, from lengths z of experts (rows) and classes (columns).",
    hints=(
        "The score of a class is its largest length, less the handicap of who has it.",
        "The answer is the class of the largest score. What is its lead over the next, and "
        "what of it is safe?",
    ),
    truth=lambda z, t: _lead(z, t) / 2,
    cases=[
        {"z": np.array([[0.05, -0.02, -0.06], [0.1, -0.03, -0.2]]), "t": np.array([0.0, 0.02])},
        {"z": np.array([[-0.03, 0.03, -0.08], [0.2, -0.2, -0.3]]), "t": np.array([0.0, 0.1])},
        {"z": np.array([[0.04, -0.04], [-0.3, 0.3], [0.1, -0.1]]), "t": np.array([0.0, 0.02, 0.3])},
    ],
    mistakes=(
        Mistake(
            formula=_lead,
            says="The whole lead. While the answer's score falls, the rival's rises: they meet half-way.",
        ),
        Mistake(
            formula=lambda z, t: _lead(z, 0 * t) / 2,
            says="Without handicaps. How much surer must an expert be than the others?",
        ),
        Mistake(
            formula=lambda z, t: _lead(z, t, 1.0) / 2,
            says="A handicap is taken from a length, not added to it.",
        ),
        Mistake(
            formula=lambda z, t: np.sort((z - t[:, None]).max(axis=0))[-1],
            says="That is the score of the answer. The promise is about its lead over the next class.",
        ),
        Mistake(
            formula=lambda z, t: (np.diff(np.sort(z, axis=1)[:, -2:])[:, 0] - t).max() / 2,
            says="That is the lead within one expert. A rival may get its score from another expert.",
        ),
        Mistake(
            formula=lambda z, t: -np.diff(np.sort((z - t[:, None]).min(axis=0))[::-1])[0] / 2,
            says="The least sure expert decides here, not the surest one.",
        ),
    ),
    picture=drawn_by("surest_answer", "The score of each class, and how far it may move within your radius"),
)  # fmt: skip


DUAL: tuple[Exercise, ...] = (PLANE[0], _ENTRY, _PUBLISHED, _ROUTED, _LEVEL, _COMBINED, *PLANE[1:])
