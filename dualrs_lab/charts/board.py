"""The board: what each method keeps of natural accuracy and of robustness, point by point."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from dualrs_lab.charts.chart import Chart, as_data
from dualrs_lab.charts.controls import ticks
from dualrs_lab.charts.curves import curve_steps
from dualrs_lab.charts.theme import RULER, WIDTH, mark_scales
from dualrs_lab.evidence.binomial import lower_bound, upper_bound
from dualrs_lab.evidence.claim import Claims, reach
from dualrs_lab.evidence.table import as_table
from dualrs_lab.figures.board import POINT_COLUMNS, front
from dualrs_lab.figures.style import COLOURS, GREY, MARKERS, Look

__all__ = ["board_chart"]


SIDES = ("natural", "robust")


def board_chart(
    points: pd.DataFrame,
    *,
    tables: Mapping[str, Claims] | None = None,
    level: float = 0.95,
    published: str = "published",
    name: str = "board",
) -> Chart:
    """Natural against robust accuracy of points, by threat, with the Pareto front of what was measured here.

    `points` are those of `figures.points`, with columns POINT_COLUMNS; a column `images`, where there is one,
    gives exact two-sided intervals at `level` for new images. A menu chooses among several threats.
    A point that is clicked, or chosen by its menu, stands out, and so does its curve of certified accuracy
    where `tables` holds one by its label. Families whose name begins with `published` are hollow and off the
    front. Raises ValueError for points without these columns.
    """
    if missing := [column for column in POINT_COLUMNS if column not in points]:
        raise ValueError(f"board_chart: no {', '.join(missing)} in the points; they have {list(points)}")
    found = _complete(points, level, published)
    threats, families = (list(dict.fromkeys(found[column])) for column in ("threat", "family"))
    threat = alt.param(
        name="threat", value=threats[0], bind=alt.binding_select(options=threats, name="threat")
    )
    labels = sorted(dict.fromkeys(found["label"]))
    names: Any = {
        "label": alt.binding_select(options=[None, *labels], labels=["none", *labels], name="point")
    }
    picked = alt.selection_point(
        name="picked", fields=["label"], on="click", clear="dblclick", toggle=False, empty=False, bind=names
    )
    field = _field(found, families, picked).add_params(threat)
    curves = {label: as_table(claims) for label, claims in (tables or {}).items()}
    view = field if not curves else alt.vconcat(field, _curves(curves, picked))
    values = found[[*POINT_COLUMNS, *(c for c in points if c == "images"), "front"]]
    return Chart(name=name, alt=_alt(found, threats), view=view, values=values)


def _complete(points: pd.DataFrame, level: float, published: str) -> pd.DataFrame:
    """The points, with whether they are published, on the front of their threat, and intervals."""
    found = points.reset_index(drop=True).copy()
    found["published"] = found["family"].astype(str).str.startswith(published)
    found["front"] = False
    for _, own in found[~found["published"]].groupby("threat", sort=False):
        found.loc[own.index, "front"] = front(own)
    if "images" in found:
        counted = found.index[found["images"].notna()]
        count = found.loc[counted, "images"].to_numpy(dtype=np.float64)
        for side in SIDES:
            hits = np.rint(found.loc[counted, side].to_numpy(dtype=np.float64) * count)
            found.loc[counted, f"{side}_low"] = lower_bound(hits, count, (1 - level) / 2)
            found.loc[counted, f"{side}_high"] = upper_bound(hits, count, (1 - level) / 2)
    return found


def _field(found: pd.DataFrame, families: list[str], picked: Any) -> Any:
    looks = {
        family: Look(COLOURS[number % len(COLOURS)], "-", MARKERS[number % len(MARKERS)])
        for number, family in enumerate(families)
    }
    colours, shapes = mark_scales(looks)
    x = alt.X("natural:Q", title="natural accuracy", scale=_range(found, "natural"))
    y = alt.Y("robust:Q", title="robust accuracy", scale=_range(found, "robust"))
    legend = alt.Legend(title=None, symbolOpacity=1)
    colour = alt.Color("family:N", scale=colours, sort=families, legend=legend)
    shape = alt.Shape("family:N", scale=shapes, sort=families, legend=legend)
    base = alt.Chart(as_data("points", found)).transform_filter("datum.threat == threat")
    best = (
        base.transform_filter("datum.front == 1")
        .mark_line(color=GREY, strokeWidth=5, opacity=0.4, aria=False)
        .encode(x=x, y=y, order=alt.Order("natural:Q"))
    )
    large = alt.condition(picked, alt.value(260), alt.value(80))
    tips = [alt.Tooltip(f"{column}:N") for column in ("label", "family", "attack")]
    tips += [alt.Tooltip(f"{side}:Q", format=".3f") for side in SIDES]
    marks: dict[str, Any] = {"x": x, "y": y, "color": colour, "shape": shape, "size": large, "tooltip": tips}
    here = base.transform_filter("datum.published == 0").mark_point(filled=True, opacity=0.9)
    theirs = base.transform_filter("datum.published == 1").mark_point(filled=False, strokeWidth=1.5)
    ring = (
        base.transform_filter(picked)
        .mark_point(size=520, color=RULER, strokeWidth=2.5, aria=False)
        .encode(x=x, y=y)
    )
    name = (
        base.transform_filter(picked)
        .mark_text(dy=-18, fontSize=12, style="guide-label", aria=False)
        .encode(x=x, y=y, text="label:N")
    )
    layers = [best, here.encode(**marks).add_params(picked), theirs.encode(**marks), ring, name]
    if "images" in found:
        layers[1:1] = [_intervals(base, side, x, y, colour) for side in SIDES]
    told = "' · ' + (picked.label ? picked.label[0] : 'click a point, or choose it below')"
    title = alt.TitleParams(text=alt.ExprRef(f"threat + {told}"))
    return alt.layer(*layers).properties(width=WIDTH, height=340, title=title)


def _range(found: pd.DataFrame, side: str) -> alt.Scale:
    """Room for all points of all threats and their intervals: nothing jumps when the threat changes."""
    values = found[[column for column in found if str(column).startswith(side)]].to_numpy(dtype=np.float64)
    low, high = np.nanmin(values), np.nanmax(values)
    edge = 0.05 * max(high - low, 0.1)
    return alt.Scale(domain=[round(low - edge, 3), round(high + edge, 3)], nice=False)


def _intervals(base: Any, side: str, x: Any, y: Any, colour: Any) -> Any:
    """Lines from the low end to the high one of what is known of a side."""
    along = {"natural": (alt.X, "x2", {"y": y}), "robust": (alt.Y, "y2", {"x": x})}
    channel, end, across = along[side]
    low = channel(f"{side}_low:Q", title=f"{side} accuracy")
    ends = {channel.__name__.lower(): low, end: f"{side}_high:Q"}
    known = base.transform_filter(f"isValid(datum.{side}_low)")
    return known.mark_rule(strokeWidth=1.2, opacity=0.5, aria=False).encode(**ends, **across, color=colour)


def _curves(curves: Mapping[str, pd.DataFrame], picked: Any) -> Any:
    last = max(float(reach(table).max(initial=0.0)) for table in curves.values())
    end = float(ticks(1.03 * last or 1.0)[-1])
    steps = pd.concat([curve_steps(label, table, end, None) for label, table in curves.items()])
    return (
        alt.Chart(as_data("curves", steps.rename(columns={"table": "label"}).round(5)))
        .mark_line(interpolate="step-before")
        .encode(
            x=alt.X("radius:Q", title="l2 radius", scale=alt.Scale(domain=[0, end], nice=False)),
            y=alt.Y("accuracy:Q", title="certified accuracy", scale=alt.Scale(domain=[0, 1])),
            detail="label:N",
            color=alt.condition(picked, alt.value(RULER), alt.value(GREY)),
            opacity=alt.condition(picked, alt.value(1), alt.value(0.45)),
            strokeWidth=alt.condition(picked, alt.value(3), alt.value(1.2)),
            tooltip="label:N",
        )
        .properties(width=WIDTH, height=200)
    )


def _alt(found: pd.DataFrame, threats: list[str]) -> str:
    here = found[(found["threat"] == threats[0]) & found["front"]].sort_values("natural")
    told = [f"{row.label} ({row.natural:.3f}, {row.robust:.3f})" for row in here.itertuples()]
    return (
        f"Natural against robust accuracy of {len(found)} points under {len(threats)} threats; on the Pareto "
        f"front of {threats[0]}: {', '.join(told) or 'none'}"
    )
