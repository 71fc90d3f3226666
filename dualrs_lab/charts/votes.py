"""What votes are worth: bounds and radii of both rules, from a share that is dragged."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from dualrs_lab.charts.chart import Chart, as_data
from dualrs_lab.charts.controls import menu, nearest, ruler, slider, tips
from dualrs_lab.charts.theme import RULER, WIDTH
from dualrs_lab.evidence.binomial import lower_bound
from dualrs_lab.evidence.radii import radius_ceiling, ruled_bounds, ruled_radius
from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.figures.style import BLUE, GREY, RED

__all__ = ["votes_chart"]


SHARES = 200  # steps of a share from 0 to 1


N = (100, 1000, 10_000, 100_000)


ALPHAS = (0.001, 0.01, 0.1)


def votes_chart(
    *,
    share: float = 0.9,
    rival: float = 0.05,
    n: int = 1000,
    alpha: float = 0.001,
    sigma: float = 0.5,
    draws: Sequence[int] = N,
    alphas: Sequence[float] = ALPHAS,
) -> Chart:
    """Shares of n votes for a class and its largest rival, what bounds them, and the radius that follows.

    The share is dragged; `rival`, a share of all votes, n, alpha and sigma have controls. The bounds, exact
    (Clopper–Pearson), are in the page for each n of `draws` and each of `alphas`; the radius is computed from
    them as sigma / 2 (Phi^-1(p_lower) - Phi^-1(p_upper)), by Cohen's rule as sigma Phi^-1(p_lower). Votes are
    whole: shares of the class are rounded down, those of its rival up.
    """
    sizes, levels = sorted({*draws, n}), sorted({*alphas, alpha})
    shares = np.arange(SHARES + 1) / SHARES
    table = pd.DataFrame({"share": shares})
    for i, size in enumerate(sizes):
        own = np.floor(size * shares + 1e-6)
        for j, level in enumerate(levels):
            key = i * len(levels) + j
            table[f"a{key}"] = lower_bound(own, size, level / 2).round(13)
            table[f"c{key}"] = lower_bound(own, size, level).round(13)
    at = nearest(shares[shares >= 0.3], share)
    moved = ruler("ruler", "share", "share of votes", shares[shares >= 0.3].tolist(), at)
    state = {
        "key": f"n * {len(levels)} + alpha",
        "own": f"(ruler.share ? round(ruler.share[0] * {SHARES}) : {round(at * SHARES)})",
        "most": f"round(rival * {SHARES})",
    }
    here = _bounds("data('bounds')[own]", "own")
    state |= {
        "low": here["low"],
        "high": here["high"],
        "radius": _two("low", "high"),
        "cohen": _cohen(here["alone"]),
    }
    words = f"'share ' + format(own / {SHARES}, '.3f') + ': radius ' + {_told('radius')}"
    words += f" + ', by Cohen’s rule ' + {_told('cohen')}"
    controls = [
        slider("rival", "largest rival", nearest(shares, rival), 0.0, 0.5, 1 / SHARES),
        menu("n", "draws n", {f"{size:,}": i for i, size in enumerate(sizes)}, sizes.index(n)),
        menu("alpha", "α", {f"{level:g}": j for j, level in enumerate(levels)}, levels.index(alpha)),
        slider("sigma", "σ", sigma, 0.05, 1.0, 0.05),
        *(alt.param(name=name, expr=text) for name, text in (state | {"readout": words}).items()),
    ]
    view = alt.vconcat(_bars(), _radii(table, moved), spacing=14).resolve_scale(
        color="independent", strokeDash="independent"
    )
    for control in controls:
        view = view.add_params(control)
    view = view.properties(title=alt.TitleParams(text=alt.ExprRef("readout")))
    values = _values(sizes, at, rival, alpha, sigma)
    row: Any = values.set_index("n").loc[n]
    told = (
        f"{n:,} votes, a share of {at:g} for the class and {rival:g} for its largest rival, alpha {alpha:g}, "
        f"sigma {sigma:g}: the class has at least {floor_text(row['lower'])}, the certified radius is "
        f"{floor_text(row['radius'])}, by Cohen's rule {floor_text(row['cohen'])}"
    )
    return Chart(name="votes", alt=told, view=view, values=values)


def _bounds(row: str, own: str) -> dict[str, str]:
    """Bounds at a row of shares, as expressions: a rival is bounded by what is not its own, from below."""
    most = f"min(most, {SHARES} - {own})"
    low, alone = f"{row}['a' + key]", f"{row}['c' + key]"
    high = f"min(1 - data('bounds')[{SHARES} - {most}]['a' + key], 1 - {low})"
    return {"low": low, "high": high, "alone": alone}


def _two(low: str, high: str) -> str:
    gap = f"(quantileNormal({low}) - quantileNormal({high})) / 2"
    return f"({low} > 0 ? max(0, sigma * max(quantileNormal({low}), {gap})) : 0)"


def _cohen(alone: str) -> str:
    return f"({alone} > 0.5 ? sigma * quantileNormal({alone}) : 0)"


def _told(radius: str) -> str:
    return f"({radius} > 0 ? format(floor({radius} * 1e3) / 1e3, '.3f') : '0, abstains')"


def _bars() -> Any:
    kinds = ["class", "rival", "others"]
    named = alt.Chart(as_data("kinds", pd.DataFrame({"kind": kinds})))
    rest = f"min(most, {SHARES} - own)"
    share = f"datum.kind == 'class' ? own / {SHARES} : datum.kind == 'rival' ? {rest} / {SHARES} : "
    share += f"({SHARES} - own - {rest}) / {SHARES}"
    bound = "datum.kind == 'class' ? low : datum.kind == 'rival' ? high : null"
    base = named.transform_calculate(share=share, bound=bound)
    x = alt.X("share:Q", title="share of votes, and what bounds it", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("kind:N", title=None, sort=kinds)
    colour = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[BLUE, RED, GREY]), legend=None)
    said = tips(
        {"share": "format(ROW.share, '.3f')", "bound": "isValid(ROW.bound) ? format(ROW.bound, '.4f') : ''"}
    )
    bars = base.mark_bar(opacity=0.75).encode(x=x, y=y, color=colour, tooltip=said)
    marks = base.transform_filter("isValid(datum.bound)").mark_tick(thickness=3.5, size=26, color=RULER)
    half = alt.Chart(as_data("half", pd.DataFrame({"half": [0.5]}))).mark_rule(strokeDash=[4, 3], color=GREY)
    layers = alt.layer(bars, half.encode(x="half:Q"), marks.encode(x=alt.X("bound:Q"), y=y, tooltip=said))
    return layers.properties(width=WIDTH, height=90)


def _radii(table: pd.DataFrame, moved: Any) -> Any:
    base = alt.Chart(as_data("bounds", table)).transform_window(i="row_number()")
    each = _bounds("datum", "(datum.i - 1)")
    base = base.transform_calculate(
        two=_two(f"({each['low']})", f"({each['high']})"), alone=_cohen(each["alone"])
    ).transform_filter("datum.share >= 0.3")
    kinds = ["two bounds", "Cohen"]
    x = alt.X("share:Q", title="share of votes for the class", scale=alt.Scale(domain=[0.3, 1], nice=False))
    y = alt.Y("radius:Q", title="certified l2 radius")
    colour = alt.Color("rule:N", title=None, scale=alt.Scale(domain=kinds, range=[BLUE, GREY]))
    dash = alt.StrokeDash("rule:N", title=None, scale=alt.Scale(domain=kinds, range=[[1, 0], [5, 3]]))
    long = base.transform_fold(["two", "alone"], as_=["key", "radius"]).transform_calculate(
        rule="datum.key == 'two' ? 'two bounds' : 'Cohen'"
    )
    lines = long.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash)
    rule = base.transform_filter(moved).mark_rule(strokeWidth=2.5, aria=False).encode(x=x)
    dots = long.transform_filter(moved).mark_point(filled=True, size=70, opacity=1, aria=False)
    said = {"share": "format(ROW.share, '.3f')", "two bounds": "format(ROW.two, '.3f')"}
    grip = base.mark_point(opacity=0, aria=False).encode(
        x=x, y=alt.value(100), tooltip=tips(said | {"Cohen": "format(ROW.alone, '.3f')"})
    )
    grip = grip.add_params(moved).properties(name="grip")
    layers = alt.layer(lines, rule, dots.encode(x=x, y=y, color=colour), grip)
    return layers.properties(width=WIDTH, height=220)


def _values(sizes: Sequence[int], share: float, rival: float, alpha: float, sigma: float) -> pd.DataFrame:
    """Bounds and radii at the first share for each number of draws, by the package."""
    n = np.asarray(sizes)
    own = np.floor(n * share + 1e-6)
    theirs = np.minimum(np.ceil(n * rival - 1e-6), n - own)
    low, high = ruled_bounds("two-bounds", own, theirs, n, alpha)
    return pd.DataFrame(
        {
            "n": n,
            "share": share,
            "rival": rival,
            "alpha": alpha,
            "sigma": sigma,
            "lower": low,
            "upper": high,
            "radius": ruled_radius("two-bounds", own, theirs, n, alpha, sigma),
            "cohen": ruled_radius("cohen", own, theirs, n, alpha, sigma),
            "ceiling": radius_ceiling(n, alpha, sigma),
        }
    )
