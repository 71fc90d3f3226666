"""What a wrong answer of an exercise looks like: (case, answer) in, or (answer), Axes out.

A case is a mapping of the values that a reader's function was called with. Answers come as readers gave them:
what cannot be drawn raises whatever it raises, and is told in words alone.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from dualrs_lab.evidence.binomial import lower_bound, upper_bound
from dualrs_lab.evidence.votes import read_votes
from dualrs_lab.figures.cases import answer_along, binomial_law, named_bars, paired_bars, spreads
from dualrs_lab.figures.style import BLACK, BLUE, GREY, RED, SKY, new_axes, row_of_axes, style

__all__ = [
    "bound_answer",
    "budget_answer",
    "ceiling_answer",
    "chance_answer",
    "clip_answer",
    "entry_answer",
    "interval_answer",
    "level_answer",
    "margin_answer",
    "mix_answer",
    "radii_answer",
    "radius_answer",
    "row_answer",
    "surest_answer",
    "tolerated_answer",
    "verified_answer",
    "votes_answer",
    "weight_answer",
    "weight_at_point_answer",
    "worst_answer",
    "worst_mix_answer",
]


Case = Mapping[str, Any]


def bound_answer(case: Case, answer: Any) -> Axes:
    """The law of the votes if the answer were the true probability: are so many votes a surprise?"""
    k, n, p = case["k"], case["n"], _within(answer, 0, 1)
    often = float(binom.sf(k - 1, n, p))
    told = f"if the truth were {p:.4f}: {k} votes or more (red) have probability\n{often:.2g}"
    return binomial_law(n, p, np.arange(k, n + 1), title=f"{told}; a surprise has {case['alpha']:g}")


def interval_answer(answer: Any) -> Axes:
    """The law of the votes at (p, n), red where the normal interval claims more than p, at alpha = 0.05."""
    p, n = float(answer[0]), int(answer[1])
    k = np.arange(n + 1)
    claim = k / n + float(ndtri(0.05)) * np.sqrt(k / n * (1 - k / n) / n)
    false = k[claim > p]
    often = float(binom.pmf(false, n, p).sum())
    return binomial_law(n, p, false, title=f"counts with a false claim (red) have probability {often:.3f}")


def radius_answer(case: Case, answer: Any) -> Axes:
    """What a half-plane keeps of its copies as the point moves, and where the answer stands."""
    p, sigma, at = float(lower_bound(case["k"], case["n"], case["alpha"])), case["sigma"], float(answer)
    moved = np.linspace(0, max(4 * sigma, 1.1 * at if np.isfinite(at) else 0), 200)
    left = {"share of the copies": ndtr(ndtri(p) - moved / sigma)}
    title = f"a half-plane, from {case['k']} of {case['n']} votes: what it keeps at least"
    return answer_along(
        moved, left, at=at, says="your radius", level=("one half", 0.5), up="probability", title=title
    )


def ceiling_answer(case: Case, answer: Any) -> Axes:
    """The radius if all votes agree, with the draws or the noise that was answered and with a little less."""
    given, kept = float(answer), "n" in case
    bars = {}
    for name, value in {"your answer": given, "a little less": 0.99 * given if kept else given - 1}.items():
        draws, noise = (case["n"], value) if kept else (value, case["sigma"])
        if draws > 0:
            bars[name] = noise * max(0.0, float(ndtri(case["alpha"] ** (1 / draws))))
    return named_bars(
        bars, line=case["radius"], says="wanted", title="radius if all votes agree", across="l2 radius",
        least=case["radius"],
    )  # fmt: skip


def entry_answer(case: Case, answer: Any) -> Axes:
    """How F_j may rise and F_(j-1) fall on the way, and where the answer stands."""
    before, here, noise, at = ndtri(case["before"]), ndtri(case["here"]), case["sigma_e"], float(answer)
    moved = np.linspace(0, max(2.5 * noise, 1.1 * at if np.isfinite(at) else 0), 200)
    ways = {"$F_j$, at most": ndtr(here + moved / noise), "$F_{j-1}$, at least": ndtr(before - moved / noise)}
    title = "expert j can be chosen where $F_j$ is 1/2 or more and $F_{j-1}$ below"
    return answer_along(
        moved, ways, at=at, says="your radius", level=("one half", 0.5), up="probability", title=title
    )


def radii_answer(case: Case, answer: Any) -> Axes:
    """The two radii of each expert, and where the answer stands."""
    names = [f"expert {j}" for j in range(len(case["entry"]))]
    if "chosen" in case:
        names[case["chosen"]] += ", chosen"
    says = ("cannot be chosen within", "gives the class within")
    title = "what each expert is known to do"
    return paired_bars(case["entry"], case["experts"], names, says=says, answer=float(answer), title=title)


def surest_answer(case: Case, answer: Any) -> Axes:
    """The score of each class, and how far it may move within the radius that was answered."""
    scores = (case["z"] - np.asarray(case["t"])[:, None]).max(axis=0)
    groups = {f"class {kind}": [score] for kind, score in enumerate(scores)}
    title = "scores, and how far each may move within your radius"
    return spreads(groups, reach=float(answer), title=title, across="score, a length")


@style()
def clip_answer(case: Case, answer: Any) -> Axes:
    """Each pixel's own budget as a bar, where it was moved to, and where the answer leaves it."""
    x, eps = case["x"], case["eps"]
    found = np.broadcast_to(np.asarray(answer, dtype=np.float64), x.shape)
    ax, rows = new_axes(None, 5.2, 0.9 + 0.38 * len(x)), np.arange(len(x))
    ax.errorbar(
        x, rows, xerr=eps, fmt="|", color=BLUE, capsize=4, linewidth=2, label="the image and its budget"
    )
    ax.plot(case["moved"], rows, "o", color=GREY, markersize=6, label="where the step led")
    ax.plot(found, rows, "X", color=BLACK, markersize=7, label="your answer")
    ax.axvspan(0, 1, color="0.95", zorder=0)
    ax.set_yticks(rows, [f"pixel {i}" for i in rows])
    ax.set(xlabel="value; an image has those on grey", ylim=(len(x) - 0.5, -0.5))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    ax.grid(axis="y", visible=False)
    sns.despine(ax=ax)
    return ax


@style()
def budget_answer(case: Case, answer: Any) -> Axes:
    """Pixels in a row by their budget, and the answer as the budget of all: the areas must be the same."""
    share, equal = case["share"], float(answer)
    ax = new_axes(None, 5.2, 2.2)
    ax.bar([share / 2, (1 + share) / 2], [case["low"], case["high"]], width=[share, 1 - share], color=SKY)
    ax.axhline(equal, color=BLACK, linewidth=1.6, label="your answer, for all")
    ax.set(xlabel="pixels, as a share of all", ylabel="budget", xlim=(0, 1))
    ax.set_title("what sticks out above the line must fill what lies below it")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    sns.despine(ax=ax)
    return ax


def worst_answer(case: Case, answer: Any) -> Axes:
    """The scores of all moves of all pixels to an end of their budgets, and the answer."""
    w, x, eps = case["w"], case["x"], case["eps"]
    ends = np.array([*product((-1.0, 1.0), repeat=len(w))])
    scores = ((x + ends * eps) * w).sum(axis=1)
    title = (
        f"your answer (line); {int((scores < float(answer) - 1e-9).sum())} of {len(ends)} attacks go lower"
    )
    return spreads(
        {"pixels at their ends": scores}, reach=0.0, title=title, across="score", line=float(answer)
    )


def chance_answer(case: Case, answer: Any) -> Axes:
    """Both kinds of networks, each with its mean and standard error."""
    errors = [float(np.std(case[name], ddof=1) / np.sqrt(len(case[name]))) for name in "ab"]
    title = f"networks, means and standard errors; you say {float(answer):.3g} standard errors apart"
    return spreads({name: case[name] for name in "ab"}, reach=errors, title=title, across="accuracy")


def _margins(p: float, rival: float, weight: float) -> Any:
    """By how much the mix prefers h's class to the rival, for 300 classifiers g drawn by chance."""
    g = np.random.default_rng(0).dirichlet([0.3, 0.3, 0.3], 300)
    return weight * (p - rival) + (1 - weight) * (g[:, 0] - g[:, 1])


def margin_answer(case: Case, answer: Any) -> Axes:
    """What 300 classifiers g by chance leave of h's margin, and the answer."""
    margins, least = _margins(case["p"], case["rival"], case["a"]), float(answer)
    title = f"margin of the mix, for 300 g by chance: {int((margins < least - 1e-9).sum())} below your answer"
    return spreads({"g by chance": margins}, reach=0.0, title=title, across="margin", line=least)


def weight_at_point_answer(case: Case, answer: Any) -> Axes:
    """The same at the weight that was answered: below 0 the mix answers the rival."""
    weight = _within(answer, 0, 1)
    margins = _margins(case["p"], case["rival"], weight)
    title = f"margin of the mix at your weight, for 300 g by chance: {int((margins < 0).sum())} below 0"
    return spreads({"g by chance": margins}, reach=0.0, title=title, across="margin", line=0.0)


def _margin_of_h(p: float, weight: float, sigma: float, at: float, says: str, title: str) -> Axes:
    moved = np.linspace(0, max(3 * sigma, 1.1 * at if np.isfinite(at) else 0), 200)
    level = ("margin that the mix needs", (1 - weight) / weight)
    margin = {"margin of h, a half-plane": 2 * ndtr(ndtri(p) - moved / sigma) - 1}
    return answer_along(moved, margin, at=at, says=says, level=level, up="margin", title=title)


def mix_answer(case: Case, answer: Any) -> Axes:
    """The margin of h along the way, what the mix needs of it, and where the answer stands."""
    title = f"p = {case['p']:g}, weight {case['a']:g}, σ = {case['sigma']:g}"
    return _margin_of_h(case["p"], case["a"], case["sigma"], float(answer), "your radius", title)


def weight_answer(case: Case, answer: Any) -> Axes:
    """The margin of h up to the wanted radius, and what a mix of the answered weight needs of it."""
    weight = _within(answer, 1e-3, 10)
    title = f"p = {case['p']:g}, σ = {case['sigma']:g}, and your weight {weight:.3f}"
    return _margin_of_h(case["p"], weight, case["sigma"], case["radius"], "wanted radius", title)


def worst_mix_answer(answer: Any) -> Axes:
    """The same for (p, a, distance), in units of sigma."""
    p, weight, distance = map(float, answer)
    title = f"p = {p:g}, weight {weight:g}, distances in units of σ"
    return _margin_of_h(_within(p, 0, 1), _within(weight, 1e-3, 1), 1.0, distance, "your distance", title)


@style()
def votes_answer(case: Case, answer: Any) -> Axes:
    """The votes of a row by class, and the two numbers that were read from it."""
    counts = dict(read_votes(case["votes"]))
    own, rival = (float(value) for value in answer)
    ax = new_axes(None, 5.2, 2.2)
    ax.bar(
        [*map(str, counts)], [*counts.values()], color=[BLUE if k == case["kind"] else SKY for k in counts]
    )
    ax.axhline(own, color=BLACK, linewidth=1.4, label="your votes for the class")
    ax.axhline(rival, color=RED, linestyle="--", linewidth=1.4, label="your rival")
    ax.set(xlabel="class", ylabel="votes", title=f"{case['votes']}; the class is {case['kind']}")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    sns.despine(ax=ax)
    return ax


def row_answer(case: Case, answer: Any) -> Axes:
    """How the class may fall and its rival rise on the way, from both bounds, and the answer."""
    counts = (case["own"], case["rival"])
    low = float(lower_bound(counts[0], case["n"], case["alpha"] / 2))
    high = float(upper_bound(counts[1], case["n"], case["alpha"] / 2))
    at, sigma = float(answer), case["sigma"]
    moved = np.linspace(0, max(2.5 * sigma, 1.1 * at if np.isfinite(at) else 0), 200)
    ways = {
        "the class, at least": ndtr(ndtri(low) - moved / sigma),
        "its rival, at most": ndtr(ndtri(high) + moved / sigma),
    }
    title = f"{counts[0]} and {counts[1]} of {case['n']} votes, σ = {sigma:g}"
    return answer_along(moved, ways, at=at, says="your radius", up="probability", title=title)


def level_answer(case: Case, answer: Any) -> Axes:
    """By how much any of the certificates may be false, if each has the answered level."""
    together = {"images × your level": case["images"] * float(answer)}
    title = f"{case['images']} images: at most so probable is a false one"
    return named_bars(together, line=case["alpha"], says="alpha", title=title, across="probability")


def tolerated_answer(case: Case, answer: Any) -> Axes:
    """The law of the number of false certificates, red where it exceeds the answer."""
    n, alpha, most = case["certificates"], case["alpha"], float(answer)
    often, last = float(binom.sf(most, n, alpha)), int(binom.isf(1e-6, n, alpha)) + 1
    title = f"more than yours (red) have probability {often:.2g}; allowed {case['chance']:g}"
    beyond = np.arange(int(np.floor(most)) + 1, max(last, int(most) + 1))
    return binomial_law(n, alpha, beyond, title=title, across="false certificates")


@style()
def verified_answer(case: Case, answer: Any) -> Axes:
    """The evidence of a row, selection and votes, under what it claims and what was answered."""
    axes = row_of_axes(2.4, 2.8, height=2.2)
    for ax, name in zip(axes, ("selection", "votes"), strict=True):
        counts = case[name]
        ax.bar([*map(str, counts)], [*counts.values()], color=SKY, width=0.6)
        ax.set(title=f"{name}: {sum(counts.values())}", xlabel="class")
        sns.despine(ax=ax)
    claim = f"claims class {case['predict']} within {case['radius']:.4f} from n = {case['n']}"
    said = "holds" if float(answer) else "does not hold"
    axes[0].figure.suptitle(f"{claim}; you say that it {said}", fontsize=9)
    return axes[-1]


def _within(answer: Any, low: float, high: float) -> float:
    value = float(answer)
    if not low <= value <= high:
        raise ValueError(f"{value} cannot be drawn: wanted it between {low} and {high}")
    return value
