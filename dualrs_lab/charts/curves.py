"""Certified accuracy against the radius, with a ruler that is dragged and the values where it stands."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.charts.chart import Chart, as_data
from dualrs_lab.charts.controls import nearest, ruler, ticks, tips
from dualrs_lab.charts.theme import WIDTH, line_scales
from dualrs_lab.evidence.claim import Claims, reach
from dualrs_lab.evidence.summary import average_radius, certified_accuracy, confidence_band, floor_text
from dualrs_lab.evidence.table import as_table
from dualrs_lab.figures.style import Look, looks

__all__ = ["curves_chart"]


STEPS_DRAWN = 400  # of one curve


def curves_chart(
    tables: Mapping[str, Claims],
    radii: Sequence[float] | None = None,
    *,
    radius: float = 0.25,
    band: float | None = 0.95,
    name: str = "certified",
) -> Chart:
    """Certified accuracy of tables against the l2 radius, exact bands, and a ruler with the values at it.

    The ruler stands at `radius` at first. `radii`, by default every quarter, are those of the values that the
    chart keeps as CSV and LaTeX. A curve of more than 400 steps is drawn by that many, never above itself.
    Raises ValueError for no tables, and for tables without rows or labels.
    """
    given = {label: as_table(claims) for label, claims in tables.items()}
    if not given:
        raise ValueError("curves_chart: got no tables; wanted at least one, by the name of its curve")
    own = looks(given)
    last = max(float(reach(table).max(initial=0.0)) for table in given.values())
    end = 1.03 * last or 1.0
    places = ticks(end)
    marks = np.arange(0, last, 0.25) if radii is None else np.asarray(radii, dtype=np.float64)
    steps = pd.concat([curve_steps(label, given[label], float(places[-1]), band) for label in own]).round(5)
    heights = {label: f"ROW.t{number}" for number, label in enumerate(own)}
    texts = {label: f"ROW.b{number}" for number, label in enumerate(own)}
    at = curves_at({label: given[label] for label in own}, places, band)
    view = ruled_curves(steps, at, own, heights, texts, radius=radius)
    values = values_at(given, marks)
    return Chart(name=name, alt=_alt(given, nearest(places, radius)), view=view, values=values)


def values_at(tables: Mapping[str, pd.DataFrame], radii: ArrayLike) -> pd.DataFrame:
    """A row for each table: images, certified accuracy at radii (columns "r = 0.25", …), ACR."""
    places = np.asarray(radii, dtype=np.float64)
    rows = [
        {"table": label, "images": len(table)}
        | {f"r = {r:g}": float(certified_accuracy(table, r)) for r in places}
        | {"ACR": average_radius(table)}
        for label, table in tables.items()
    ]
    return pd.DataFrame(rows)


def ruled_curves(
    steps: pd.DataFrame,
    at: pd.DataFrame,
    own: Mapping[str, Look],
    heights: Mapping[str, str],
    texts: Mapping[str, str],
    *,
    radius: float,
    dial: str | None = None,
    told: str = "''",
    across: str = "radius",
    up: str = "certified accuracy",
) -> Any:
    """The view: curves from `steps` (table, radius, accuracy, low, high), and a ruler over the rows `at`.

    `heights` and `texts` are expressions over a row ROW of `at`, by the label of a curve; the curve `dial`
    has no steps of its own and is drawn by its height. `told` is an expression of what else the heading says.
    `across` and `up` are what the axes show, where it is not certified accuracy against a radius.
    """
    places, labels = at["radius"].tolist(), list(own)
    colours, dashes = line_scales(own)
    moved = ruler("ruler", "radius", across, places, radius)
    row = f"data('at')[{place_of(places, radius)}]"
    here = [heights[label].replace("ROW", row) for label in labels]
    name = f"datum.label + '   ' + format([{', '.join(here)}][indexof({labels!r}, datum.label)], '.3f')"
    legend = alt.Legend(title=None, labelExpr=name, symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=2)
    named = "l2 radius" if across == "radius" else across
    few: dict[str, Any] = {} if across == "radius" else {"axis": alt.Axis(tickCount=6)}
    x = alt.X("radius:Q", title=named, scale=alt.Scale(domain=[0, places[-1]], nice=False), **few)
    y = alt.Y("accuracy:Q", title=up, scale=alt.Scale(domain=[0, 1]))
    colour = alt.Color("table:N", scale=colours, sort=labels, legend=legend)
    dash = alt.StrokeDash("table:N", scale=dashes, sort=labels, legend=legend)
    drawn = {"x": x, "y": y, "color": colour, "strokeDash": dash}
    base, ground = alt.Chart(as_data("steps", steps)), alt.Chart(as_data("at", at))
    layers = [base.mark_line(interpolate="step-before", strokeWidth=2).encode(**drawn)]
    if "low" in steps:
        band = base.mark_area(interpolate="step-before", opacity=0.15, aria=False)
        layers.insert(0, band.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour))
    if dial is not None:
        followed = ground.transform_calculate(
            accuracy=heights[dial].replace("ROW", "datum"), table=repr(dial)
        )
        layers.append(followed.mark_line(interpolate="step-before", strokeWidth=3.5).encode(**drawn))
    ruled = ground.transform_filter(moved)
    layers += [ruled.mark_rule(strokeWidth=2.5, aria=False).encode(x=x)]
    keys = {f"h{i}": heights[label].replace("ROW", "datum") for i, label in enumerate(labels)}
    dots = ruled.transform_calculate(**keys).transform_fold(list(keys), as_=["key", "accuracy"])
    dots = dots.transform_calculate(table=f"{labels!r}[toNumber(slice(datum.key, 1))]")
    layers += [dots.mark_point(filled=True, size=60, opacity=1, aria=False).encode(x=x, y=y, color=colour)]
    said = tips({across: "format(ROW.radius, '.3f')", **texts})
    grip = ground.mark_point(opacity=0, aria=False).encode(x=x, y=alt.value(140), tooltip=said)
    layers += [grip.add_params(moved).properties(name="grip")]
    heading = f"'at {across} ' + format({row}.radius, '.3f') + {told}"
    values = " + ', ' + ".join(
        f"{f'{label} '!r} + format({height}, '.3f')" for label, height in zip(labels, here, strict=True)
    )
    readout = alt.param(name="readout", expr=f"{heading} + ': ' + {values}")
    title = alt.TitleParams(text=alt.ExprRef(heading))
    return alt.layer(*layers).add_params(readout).properties(width=WIDTH, height=280, title=title)


def place_of(places: Sequence[float], radius: float) -> str:
    """The number of the row at the ruler, as an expression."""
    first, step = round(nearest(places, radius) / places[1]), places[1]
    return f"(ruler.radius ? round(ruler.radius[0] / {step!r}) : {first})"


def curve_steps(
    label: str, table: pd.DataFrame, end: float, band: float | None, *, most: int = STEPS_DRAWN
) -> pd.DataFrame:
    """Accuracy changes just after the radius of a row: a step that holds up to and including it."""
    x = np.unique(np.r_[0.0, end, reach(table)])
    x = x[(x >= 0) & (x <= end)]
    if len(x) > most:
        x = np.linspace(0, end, most + 1)
    low, high = confidence_band(table, x, band) if band is not None else (None, None)
    found = pd.DataFrame({"table": label, "radius": x, "accuracy": certified_accuracy(table, x)})
    return found if low is None else found.assign(low=low, high=high)


def curves_at(
    tables: Mapping[str, pd.DataFrame], places: NDArray[np.float64], band: float | None
) -> pd.DataFrame:
    """A row for each place of the ruler: its radius, accuracies t0, t1, …, and texts b0, … with bands."""
    columns: dict[str, Any] = {"radius": places}
    for number, table in enumerate(tables.values()):
        accuracy = columns[f"t{number}"] = certified_accuracy(table, places)
        texts = [f"{share:.3f}" for share in accuracy]
        if band is not None:
            both = zip(texts, *confidence_band(table, places, band), strict=True)
            texts = [f"{text} ({low:.3f} to {high:.3f})" for text, low, high in both]
        columns[f"b{number}"] = texts
    return pd.DataFrame(columns)


def _alt(given: Mapping[str, pd.DataFrame], radius: float) -> str:
    told = ", ".join(
        f"{label} {float(certified_accuracy(table, radius)):.3f} (ACR {floor_text(average_radius(table))})"
        for label, table in given.items()
    )
    return f"Certified accuracy against the l2 radius, of {len(given)} tables; at radius {radius:g}: {told}"
