"""What docs/results.md says of an expert for a noise level between those of the others."""

import numpy as np
import pandas as pd

from benchmarks.between import LEVEL, SKIP, STARTS, N
from benchmarks.dial import BETWEEN, CAT_RS, network_of
from benchmarks.gpu.certifying import ALPHA, RADII
from benchmarks.pages.certificates import apart_cells
from benchmarks.pages.silence import (
    AT,
    alone,
    as_of_all,
    as_of_all_cells,
    beside_half,
    beyond,
    by_goal,
    chosen,
    dual,
    less,
    order,
    over,
    rows,
    table,
    told,
)
from benchmarks.pages.taught import TAUGHT
from benchmarks.pages.text import Facts, along, markdown, percent, radius, read_info, signed
from benchmarks.silence import ASKED
from benchmarks.silent_votes import ARMS, GOALS, HALVES, NEAREST, SHOWN
from dualrs_lab.evidence import average_radius, certified_accuracy, radius_ceiling

__all__ = [
    "ahead", "apart", "counted_ahead", "facts", "gained", "larger", "promised", "tried",
]  # fmt: skip

VOTES, GOALS_SHOWN = 10_000, (*GOALS, NEAREST)
BOTH = {CAT_RS: f"σ = {ASKED[CAT_RS][0]:g}", BETWEEN: f"σ = {LEVEL:g}"}  # the largest level of each


def tried() -> pd.DataFrame:
    """What each arm alone promises of held-out images, by radius."""
    return pd.read_csv(TAUGHT / "between_tried.csv", index_col="arm")[AT]


def larger() -> pd.DataFrame:
    """What the level alone certifies of the images of the cascades less what σ = 1 does, by image."""
    return less(alone(LEVEL, BETWEEN), alone(ASKED[CAT_RS][0]))


def promised() -> pd.DataFrame:
    """A row for each goal and kind of networks: what cascades promise of images that did not choose them."""
    return pd.read_csv(TAUGHT / "between.csv").set_index(["goal", "networks"])[AT]


def ahead(kind: str) -> "pd.Series[float]":
    """By radius, how far the cascade for all radii at once is promised to be above the published system."""
    return promised().loc[(SHOWN, kind)] - dual()


def gained(goal: str) -> float:
    """What cascades with this level promise more than those with σ = 1, by the goal itself."""
    mine, theirs = (by_goal(goal, promised().loc[(goal, kind)]) for kind in (BETWEEN, CAT_RS))
    return mine - theirs


def apart() -> pd.DataFrame:
    """What the cascade that is shown certifies less what the one with σ = 1 does, by image and radius."""
    return over(table(), BETWEEN)


def counted_ahead() -> "pd.Series[float]":
    """By radius, how far the cascade that is shown lies above the published system, on its images."""
    return pd.Series(certified_accuracy(table(kind=BETWEEN), RADII), index=AT) - dual()


def facts() -> Facts:
    """Placeholders of the page."""
    legs = read_info(network_of(LEVEL, BETWEEN).with_suffix(".json"))["training"]["legs"]
    labels, more = told(BETWEEN).labels, beyond(kind=BETWEEN)
    return {
        "between_level": f"{LEVEL:g}",
        "between_near": f"{radius_ceiling(VOTES, ALPHA, STARTS[0]):.1f}",
        "between_far": f"{radius_ceiling(VOTES, ALPHA, STARTS[1]):.1f}",
        "between_least_level": f"{2 / radius_ceiling(VOTES, ALPHA, 1):.2f}",
        "between_epochs": f"{sum(leg['epochs'] for leg in legs):.1f}",
        "between_minutes": f"{sum(leg['seconds'] for leg in legs) / 60:.0f}",
        "between_leg": f"{legs[0]['seconds'] / 60:.0f}",
        "between_tried": markdown(
            ["", *along(AT)], [[str(arm), *map(percent, at)] for arm, at in tried().iterrows()]
        ),
        "between_tried_images": f"{len(labels) // SKIP:,}",
        "between_tried_draws": f"{N:,}",
        "between_tried_error": f"{50 / np.sqrt(len(labels) // SKIP):.1f}",
        "between_promised": _promised(),
        "between_least": {kind: signed(float(ahead(kind)[AT[1:]].min())) for kind in BOTH},
        "between_where": {kind: str(ahead(kind)[AT[1:]].idxmin()) for kind in BOTH},
        "between_goal": {goal: signed(gained(goal)) for goal in GOALS},
        "between_nearer": percent(gained(NEAREST)),
        "between_halves": str(2 * HALVES),
        "between_images": f"{int(rows(BETWEEN)['images'].iloc[0]):,}",
        "between_certified": _certified(),
        "between_order": order(chosen(kind=BETWEEN)),
        "between_over": _over(),
        "between_all": _as_of_all(),
        "between_beyond": signed(more.min() / 100),
        "between_beyond_at": str(more.idxmin()),
        "between_beyond_error": percent(float(as_of_all(table(kind=BETWEEN))["error"][more.idxmin()])),
        "between_counted": signed(float(counted_ahead()[AT[1:]].min())),
        "between_paid": percent(-float(beside_half("large", BETWEEN)[AT[:-1]].min())),
        "between_two": percent(float(certified_accuracy(table("large", ARMS[0], BETWEEN), [2.0])[0])),
        "between_two_before": percent(float(certified_accuracy(table("large"), [2.0])[0])),
        "between_beyond_most": signed(more.max() / 100),
    }


def _promised() -> str:
    shown = []
    for goal in GOALS_SHOWN:
        for kind, level in BOTH.items():
            curve = promised().loc[(goal, kind)]
            worth = by_goal(goal, curve)
            means = goal in GOALS and not GOALS[goal].above
            told_by = percent(worth) if means else signed(worth)
            shown.append([f"{goal}: with {level}", *map(percent, curve), told_by])
    return markdown(["goal", *along(AT), "by the goal"], shown)


def _certified() -> str:
    found = rows(BETWEEN).xs(ARMS[0], level="arm")
    shown = [
        [f"{goal}: with {BOTH[BETWEEN]}", *(percent(float(row[r])) for r in AT), radius(float(row["acr"]))]
        for goal, row in found.iterrows()
    ]
    single = {level: alone(ASKED[kind][0], kind) for kind, level in BOTH.items()}
    others = {f"{SHOWN}: with {BOTH[CAT_RS]}": table()}
    others |= {f"{level} alone": each for level, each in single.items()}
    shown += [
        [name, *map(percent, certified_accuracy(each, RADII)), radius(average_radius(each))]
        for name, each in others.items()
    ]
    shown.append(["published: Dual RS, fine-tuned", *map(percent, dual()), ""])
    return markdown(["", *along(AT), "ACR"], shown)


def _over() -> str:
    shown = {
        f"the cascade, over the one with {BOTH[CAT_RS]}": apart(),
        **{
            f"the cascade, over σ = {sigma:g} alone": over(alone(sigma, BETWEEN), BETWEEN)
            for sigma in ASKED[BETWEEN]
        },
        f"{BOTH[BETWEEN]} alone, over {BOTH[CAT_RS]} alone": larger(),
    }
    return markdown(["", *along(AT), "ACR"], [[name, *apart_cells(each)] for name, each in shown.items()])


def _as_of_all() -> str:
    shown = [
        [f"{goal}: with {level}", *as_of_all_cells(table(goal, ARMS[0], kind))]
        for goal in (SHOWN, "small", "large")
        for kind, level in BOTH.items()
    ]
    shown.append([f"{BOTH[BETWEEN]} alone", *as_of_all_cells(alone(LEVEL, BETWEEN))])
    shown.append(["published: Dual RS, fine-tuned", *map(percent, dual())])
    return markdown(["", *along(AT)], shown)
