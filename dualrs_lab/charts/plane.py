"""A point of the lessons' plane that is dragged: its class, its votes, its certified and its exact disc."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from dualrs_lab.charts.chart import Chart, as_data
from dualrs_lab.charts.controls import DRAG, menu, nearest, tips
from dualrs_lab.charts.theme import RULER
from dualrs_lab.evidence.radii import ruled_radius
from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.figures.plane import CLASS_LOOKS
from dualrs_lab.figures.style import GREY
from dualrs_lab.lessons.plane import Boxes
from dualrs_lab.lessons.problems import lesson_plane

__all__ = ["plane_chart"]


SIDE = 400  # of the square, in pixels


PLACES = 41  # of the point along each side


SIGMAS = (0.02, 0.07, 0.25)


def plane_chart(
    plane: Boxes | None = None,
    *,
    sigmas: Sequence[float] = SIGMAS,
    sigma: float = 0.07,
    x: float = 0.5,
    y: float = 0.35,
    n: int = 1000,
    alpha: float = 0.001,
) -> Chart:
    """The smoothed classifier on the unit square, and a point that is dragged, with its discs.

    Solid: the radius by Cohen's rule that n votes certify where they fall as they are expected to, rounded
    down; dashed: the exact radius. Paler where the class is less probable. A menu chooses one of `sigmas`.
    """
    problem, levels = plane or lesson_plane(), sorted({*sigmas, sigma})
    places = np.round(np.linspace(0, 1, PLACES), 9)
    across, up = (part.ravel() for part in np.meshgrid(places, places))
    points = np.stack([across, up], axis=1)
    table = pd.DataFrame({"x": across, "y": up})
    for i, level in enumerate(levels):
        p = problem.probabilities(points, level)
        top = p.max(axis=1)
        votes = np.floor(n * top + 1e-9)
        certified = ruled_radius("cohen", votes, n - votes, n, alpha, level)
        columns = {
            f"k{i}": p.argmax(axis=1),
            f"p{i}": top.round(4),
            f"r{i}": _down(certified),
            f"e{i}": np.minimum(problem.exact_radius(points, level), 9).round(4),
        }
        table = table.assign(**columns)
    at = nearest(places, x), nearest(places, y)
    view = _view(table, problem.classes, at, levels, sigma)
    here = table[(table["x"] == at[0]) & (table["y"] == at[1])].iloc[0]
    i = levels.index(sigma)
    values = pd.DataFrame(
        {
            "sigma": levels,
            "class": [int(here[f"k{j}"]) for j in range(len(levels))],
            **{
                name: [float(here[f"{key}{j}"]) for j in range(len(levels))]
                for name, key in {"probability": "p", "certified radius": "r", "exact radius": "e"}.items()
            },
        }
    )
    words = (
        f"The unit square by the class of the smoothed classifier, and a point at ({at[0]:g}, {at[1]:g}): at "
        f"sigma {sigma:g} it is of class {int(here[f'k{i}'])} with probability {here[f'p{i}']:.3f}, "
        f"certified within {floor_text(here[f'r{i}'])}, exactly {floor_text(here[f'e{i}'])}"
    )
    return Chart(name="plane", alt=words, view=view, values=values)


def _down(radii: Any) -> Any:
    return np.floor(np.asarray(radii) * 1e4) / 1e4


def _view(
    table: pd.DataFrame, classes: int, at: tuple[float, float], levels: Sequence[float], sigma: float
) -> Any:
    step = float(1 / (PLACES - 1))
    bind: Any = {
        side: alt.binding_range(min=0, max=1, step=round(step, 9), name=f"point {name}")
        for side, name in (("x", "x₁"), ("y", "x₂"))
    }
    moved = alt.selection_point(
        name="ruler", fields=["x", "y"], on=DRAG, nearest=True, toggle=False, clear=False, empty=False,
        value=[{"x": at[0], "y": at[1]}], bind=bind,
    )  # fmt: skip
    chosen = menu("level", "σ", {f"{level:g}": i for i, level in enumerate(levels)}, levels.index(sigma))
    base = alt.Chart(as_data("plane", table)).transform_calculate(
        kind="'class ' + datum['k' + level]",
        p="datum['p' + level]",
        certified="PI * pow(datum['r' + level] * width, 2)",
        exact="PI * pow(datum['e' + level] * width, 2)",
        left=f"max(0, datum.x - {step / 2})", right=f"min(1, datum.x + {step / 2})",
        low=f"max(0, datum.y - {step / 2})", high=f"min(1, datum.y + {step / 2})",
    )  # fmt: skip
    names = [f"class {kind}" for kind in range(classes)]
    colours = [CLASS_LOOKS[kind % len(CLASS_LOOKS)].colour for kind in range(classes)]
    x, y = (
        alt.X("x:Q", title="x₁", scale=alt.Scale(domain=[0, 1], nice=False)),
        alt.Y("y:Q", title="x₂", scale=alt.Scale(domain=[0, 1], nice=False)),
    )
    colour = alt.Color("kind:N", title=None, scale=alt.Scale(domain=names, range=colours))
    strength = alt.Opacity(
        "p:Q", scale=alt.Scale(domain=[0.33, 1], range=[0.15, 0.8], clamp=True), legend=None
    )
    field = base.mark_rect(aria=False).encode(
        x=alt.X("left:Q", title="x₁"), x2="right:Q", y=alt.Y("low:Q", title="x₂"), y2="high:Q",
        color=colour, opacity=strength,
    )  # fmt: skip
    point = base.transform_filter(moved)
    size = {what: alt.Size(f"{what}:Q", scale=None, legend=None) for what in ("certified", "exact")}
    ring: dict[str, Any] = {"filled": False, "opacity": 1, "clip": True, "aria": False}
    solid = point.mark_point(color=RULER, strokeWidth=2.5, **ring).encode(x=x, y=y, size=size["certified"])
    dashed = point.mark_point(color=GREY, strokeWidth=2, strokeDash=[5, 4], **ring)
    dot = point.mark_point(color=RULER, size=60, filled=True, opacity=1, aria=False).encode(x=x, y=y)
    said = tips({
        "x": "format(ROW.x, '.3f')", "y": "format(ROW.y, '.3f')", "class": "ROW['k' + level]",
        "probability": "format(ROW.p, '.3f')", "certified": "format(ROW['r' + level], '.3f')",
        "exact": "format(ROW['e' + level], '.3f')",
    })  # fmt: skip
    grip = base.mark_point(opacity=0, size=1, aria=False).encode(x=x, y=y, tooltip=said)
    row = f"data('plane')[ruler.x ? round(ruler.y[0] / {step}) * {PLACES} + round(ruler.x[0] / {step}) : "
    row += f"{round(at[1] / step) * PLACES + round(at[0] / step)}]"
    kind, p, certified, exact = (f"{row}['{key}' + level]" for key in "kpre")
    claim = f"({certified} > 0 ? ': certified within ' + format({certified}, '.3f') : ': abstains')"
    told = f"'class ' + {kind} + ' with probability ' + format({p}, '.3f') + {claim}"
    readout = alt.param(name="readout", expr=f"{told} + ', exactly ' + format({exact}, '.3f')")
    layers = alt.layer(
        field, dashed.encode(x=x, y=y, size=size["exact"]), solid, dot,
        grip.add_params(moved).properties(name="grip"),
    )  # fmt: skip
    title = alt.TitleParams(text=alt.ExprRef("readout"))
    return layers.add_params(chosen, readout).properties(width=SIDE, height=SIDE, title=title)
