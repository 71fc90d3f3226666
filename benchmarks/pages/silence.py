"""What docs/results.md says of cascades whose experts are silent where they are not sure."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.dial import CAT_RS, network_of, table_of
from benchmarks.gpu.certifying import RADII
from benchmarks.pages.certificates import apart_cells, reached_at
from benchmarks.pages.larger import points, published
from benchmarks.pages.taught import TAUGHT
from benchmarks.pages.text import DATA, Facts, along, markdown, percent, radius, signed
from benchmarks.silence import ASKED, KINDS, SILENT, certified, of_row, tables
from benchmarks.silent_votes import (
    ARMS,
    CONFIDENCES,
    GOALS,
    LEVELS,
    NEAREST,
    SHOWN,
    Told,
    counted,
    envelope,
    votes_name,
)
from dualrs_lab.cascade import Cascade, CascadeGoal
from dualrs_lab.evidence import (
    average_radius,
    certified_accuracy,
    every_vote,
    expert_text,
    read_table,
    reclaimed,
)

__all__ = [
    "AT", "alone", "as_of_all", "as_of_all_cells", "beside_half", "beyond", "by_goal", "chosen", "dual",
    "facts", "gained", "less", "order", "over", "promised", "reached", "rows", "table", "told", "tried",
]  # fmt: skip

AT = [f"{r:g}" for r in RADII]


@cache
def told(kind: str = CAT_RS) -> Told:
    """Votes about held-out images."""
    return counted(TAUGHT / votes_name(network_of(ASKED[kind][0], kind)), ASKED[kind])


def promised(kind: str = CAT_RS) -> pd.DataFrame:
    """A row for each goal and arm: what was chosen by half of the images promises of the other half."""
    return pd.read_csv(TAUGHT / f"silence_promised{KINDS[kind]}.csv").set_index(["goal", "arm"])[AT]


def gained(goal: str) -> "pd.Series[float]":
    """By radius, what silence promises more than every vote does, for a goal."""
    found = promised()
    return found.loc[(goal, ARMS[0])] - found.loc[(goal, ARMS[1])]


def rows(kind: str = CAT_RS) -> pd.DataFrame:
    """A row for each goal and arm: which cascade all held-out images choose, and what it certifies."""
    return pd.read_csv(TAUGHT / f"silence{KINDS[kind]}.csv").set_index(["goal", "arm"])


def chosen(goal: str = SHOWN, arm: str = ARMS[0], kind: str = CAT_RS) -> Cascade:
    """The cascade of a row."""
    return of_row(rows(kind).loc[(goal, arm)])


@cache
def table(goal: str = SHOWN, arm: str = ARMS[0], kind: str = CAT_RS) -> pd.DataFrame:
    """What the cascade of a row certifies of test images."""
    return certified(chosen(goal, arm, kind), kind=kind)


def alone(sigma: float, kind: str = CAT_RS) -> pd.DataFrame:
    """One noise level by two bounds, on the images of the cascades."""
    return reclaimed(every_vote(tables(kind=kind)[sigma]), "two-bounds")


def over(other: pd.DataFrame, kind: str = CAT_RS) -> pd.DataFrame:
    """By image and radius, what the silent cascade that is shown certifies less what another table does."""
    return less(table(kind=kind), other)


def beside_half(goal: str = SHOWN, kind: str = CAT_RS) -> "pd.Series[float]":
    """By radius, what the silent cascade for a goal certifies more than σ = 0.5 alone, on the same images."""
    return less(table(goal, kind=kind), alone(0.5, kind))[AT].mean()


def less(mine: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """By image of both and radius, what one table certifies less what another one does."""
    ours, theirs = reached_at(mine, RADII), reached_at(other, RADII)
    return (ours - theirs).loc[ours.index.intersection(theirs.index)]


@cache
def _levels() -> tuple[pd.DataFrame, ...]:
    # what each level alone certifies of all images that it has
    return tuple(reclaimed(read_table(table_of(s, CAT_RS)), "two-bounds") for s in LEVELS)


def as_of_all(table: pd.DataFrame) -> pd.DataFrame:
    """By radius, the `share` that a system would certify of all images that its levels have, and its `error`.

    A regression estimate (Cochran, Sampling Techniques, 1977, chapter 7): what the system does on its images
    is explained by what each level alone does there, and that is known of more of them. It takes account of
    images that happen to be easy. The error is one standard error of the estimate.
    """
    mine = reached_at(table, RADII)
    known = [reached_at(level, RADII) for level in _levels()]
    sampled, found = known[0].index.isin(mine.index), dict[str, tuple[float, float]]()
    for at in AT:
        every = np.column_stack([np.ones(len(sampled)), *(level[at] for level in known)])
        own = mine[at].to_numpy()
        slopes, *_ = np.linalg.lstsq(every[sampled], own, rcond=None)
        guess, left = every @ slopes, own - every[sampled] @ slopes
        spread = left.var(ddof=len(LEVELS)) / len(own) + guess.var() / len(guess)
        found[at] = float(guess.mean()), float(np.sqrt(spread))
    return pd.DataFrame.from_dict(found, orient="index", columns=["share", "error"])


def as_of_all_cells(table: pd.DataFrame) -> list[str]:
    """The same in percent, with errors."""
    return [f"{percent(share)} ± {percent(error)}" for share, error in as_of_all(table).to_numpy()]


def beyond(arm: str = ARMS[0], kind: str = CAT_RS) -> "pd.Series[float]":
    """By radius from 0.25 on, how many points a cascade lies above the published dual system, as of all."""
    return points(as_of_all(table(arm=arm, kind=kind))["share"][AT[1:]], dual()[AT[1:]])


def by_goal(goal: str, curve: "pd.Series[float]") -> float:
    """What a curve is worth for a goal: the weighted mean, or the least advantage."""
    aim = GOALS.get(goal) or CascadeGoal(above=_envelope())
    if not aim.above:
        return float(np.average(curve, weights=aim.weights))
    return float((curve - np.asarray(aim.above))[np.asarray(aim.weights) > 0].min())


@cache
def _envelope() -> tuple[float, ...]:
    return envelope(told())


def tried() -> pd.DataFrame:
    """What other ways to silence promised on held-out images."""
    return pd.read_csv(TAUGHT / "silence_tried.csv").set_index("lever")


def facts() -> Facts:
    """Placeholders of the page."""
    counts, labels = told().counts, told().labels
    goals = (*GOALS, NEAREST)
    promises = {arm: (promised().loc[(SHOWN, arm)] - dual())[AT[1:]] for arm in ARMS}
    count, paid = int(rows()["images"].iloc[0]), beside_half()["1":"1.5"]
    return {
        "silence": _board(),
        "silence_held_out": f"{len(labels):,}",
        "silence_half": f"{len(labels) // 2:,}",
        "silence_error": f"{50 / np.sqrt(len(labels)):.1f}",
        "silence_draws": f"{counts[:, 0].sum(axis=1).max():,}",
        "silence_asked": " and ".join(f"{s:g}" for s in SILENT[CAT_RS][::-1]),
        "silence_levels": ", ".join(f"{s:g}" for s in CONFIDENCES),
        "silence_gained": markdown(
            ["goal", *along(AT), "by the goal", "every vote"],
            [[goal, *map(signed, gained(goal)), *_told(goal)] for goal in goals],
        ),
        "silence_goal": {goal: dict(zip(("silent", "every"), _told(goal), strict=True)) for goal in goals},
        "silence_by_goal": {goal: signed(reached(goal)[0] - reached(goal)[1]) for goal in goals},
        "silence_least": {arm: signed(float(each.min())) for arm, each in promises.items()},
        "silence_where": {arm: str(each.idxmin()) for arm, each in promises.items()},
        "silence_certified": _certified(),
        "silence_images": f"{count:,}",
        "silence_step": str(table()["idx"].diff().max().astype(int)),
        "silence_images_error": f"{50 / np.sqrt(count):.1f}",
        "silence_order": order(chosen()),
        "silence_over": _over(),
        "silence_paid": f"{percent(-paid.max())} to {percent(-paid.min())}",
        "silence_at_two": percent(beside_half()["2"]),
        "silence_all": _as_of_all(),
        "silence_all_images": f"{len(read_table(table_of(LEVELS[0], CAT_RS))):,}",
        "silence_beyond": {arm: signed(beyond(arm).min() / 100) for arm in ARMS},
        "silence_beyond_most": signed(beyond().max() / 100),
        "silence_tried": _tried(),
    }


def reached(goal: str) -> tuple[float, float]:
    """What is promised in each arm, by the goal itself."""
    silent, every = (by_goal(goal, promised().loc[(goal, arm)]) for arm in ARMS)
    return silent, every


def _told(goal: str) -> list[str]:
    # advantages have a sign
    means = goal in GOALS and not GOALS[goal].above
    return [percent(at) if means else signed(at) for at in reached(goal)]


def order(cascade: Cascade) -> str:
    """A cascade as `dualrs-lab cascade --ask` takes it."""
    asked = zip(cascade.sigmas, cascade.sure, cascade.limits, strict=True)
    return ",".join(f"{expert_text(sigma, sure)}:{limit:g}" for sigma, sure, limit in asked)


def _certified() -> str:
    shown = [
        [f"{goal}: {arm}", *(percent(float(row[r])) for r in AT), radius(float(row["acr"]))]
        for (goal, arm), row in rows().iterrows()  # type: ignore[misc]
    ]
    curves = dict[str, Any]()
    for sigma in LEVELS:
        table = alone(sigma)
        curves[f"σ = {sigma:g} alone"] = certified_accuracy(table, RADII)
        shown.append(
            [f"σ = {sigma:g} alone", *map(percent, certified_accuracy(table, RADII)),
             radius(average_radius(table))]
        )  # fmt: skip
    shown.append(["their envelope (no classifier)", *map(percent, np.max([*curves.values()], axis=0)), ""])
    theirs = {
        "published: Dual RS, fine-tuned": dual(),
        "published: CAT-RS, σ = 0.5, n = 100,000": published("CAT-RS", 0.5),
        "published: Cohen et al., best σ, n = 100,000": published("Cohen 2019"),
    }
    shown += [[name, *(percent(float(curve[r])) for r in AT), ""] for name, curve in theirs.items()]
    return markdown(["", *along(AT), "ACR"], shown)


def _as_of_all() -> str:
    shown = []
    for goal, arm in ((goal, arm) for goal in (SHOWN, "small", "large") for arm in ARMS):
        shown.append([f"{goal}: {arm}", *as_of_all_cells(table(goal, arm))])
    for sigma, level in zip(LEVELS, _levels(), strict=True):
        exact = certified_accuracy(level, RADII)
        shown.append([f"σ = {sigma:g} alone (counted)", *map(percent, exact)])
    shown.append(["published: Dual RS, fine-tuned", *map(percent, dual())])
    return markdown(["", *along(AT)], shown)


def _over() -> str:
    others = {"every vote counts, the same goal": table(arm=ARMS[1])}
    others |= {f"σ = {sigma:g} alone": alone(sigma) for sigma in LEVELS}
    shown = [[name, *apart_cells(over(other))] for name, other in others.items()]
    return markdown(["", *along(AT), "ACR"], shown)


def dual() -> "pd.Series[float]":
    """Certified accuracy of the published dual system, by radius."""
    found = pd.read_csv(DATA / "published_dual.csv")
    found = found[found["system"] == "Dual RS, fine-tuned"].set_index("radius")["certified_accuracy"]
    return pd.Series({f"{r:g}": float(found[r]) for r in RADII})


def _board() -> str:
    rows = [[f"{goal}: {arm}", *map(percent, curve)] for (goal, arm), curve in promised().iterrows()]  # type: ignore[misc]
    rows.append(["published: Dual RS, fine-tuned", *map(percent, dual())])
    best = published("CAT-RS", 0.5)
    rows.append(["published: CAT-RS, σ = 0.5, n = 100,000", *(percent(float(best[r])) for r in AT)])
    return markdown(["goal", *along(AT)], rows)


def _tried() -> str:
    found = tried()
    rows = [
        [str(lever), *map(percent, curve), percent(float(curve.mean()))] for lever, curve in found.iterrows()
    ]
    return markdown(["", *along(found.columns), "mean"], rows)
