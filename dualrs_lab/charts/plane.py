"""Points of the lessons' plane that are dragged: votes and discs, and attacks on them, step by step."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.charts.chart import Chart, as_data
from dualrs_lab.charts.controls import DRAG, menu, nearest, slider, tips
from dualrs_lab.charts.theme import RULER
from dualrs_lab.evidence.radii import ruled_radius
from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.figures.plane import CLASS_LOOKS
from dualrs_lab.figures.style import BLACK, GREY, RED
from dualrs_lab.lessons.plane import Boxes
from dualrs_lab.lessons.problems import lesson_plane
from dualrs_lab.lessons.slopes import SmoothedPlane, first_wrong, walk

__all__ = ["plane_chart", "walk_chart"]


SIDE = 400  # of the square, in pixels


PLACES = np.round(np.linspace(0, 1, 41), 9)  # of the point along each side


STARTS = np.round(np.arange(0.05, 0.951, 0.06), 9)  # of an attack along each side


STEPS = 10  # of an attack, at most


SIGMAS = (0.02, 0.07, 0.25)


AXES: dict[str, Any] = {"x": "x₁", "y": "x₂"}


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
    points = _grid(PLACES)
    table = pd.DataFrame({"x": points[:, 0], "y": points[:, 1]})
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
    at = nearest(PLACES, x), nearest(PLACES, y)
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


def walk_chart(
    smoothed: SmoothedPlane,
    *,
    ways: Mapping[str, Mapping[str, Any]],
    eps: float = 0.1,
    x: float = 0.53,
    y: float = 0.35,
    steps: int = 3,
) -> Chart:
    """The smoothed classifier on the unit square, a point that is dragged, and an attack on it step by step.

    Around the point, with exact probabilities: solid, how far its class is certified; dashed, how far it
    really is kept; dotted, the budget. `ways` are the attacks of a menu by name, each the options of
    `lessons.walk`: step, start, seed, draws. The walk is shown up to the step where its slider stands.
    """
    points = _grid(STARTS)
    labels = smoothed.predict(points)
    same = {
        "x": points[:, 0],
        "y": points[:, 1],
        "kind": labels,
        "c": _down(smoothed.base.rs_radius_exact(points, smoothed.sigma)),
        "e": _down(np.minimum(smoothed.base.exact_radius(points, smoothed.sigma), 9)),
    }
    parts = []
    for number, options in enumerate(ways.values()):
        places = walk(smoothed, points, labels, eps, **{"steps": STEPS, **options})
        rounded = np.rint(places * 1e3).astype(int)
        gone = {f"{axis}{t}": rounded[:, t, i] for t in range(STEPS + 1) for i, axis in enumerate("xy")}
        parts.append(
            pd.DataFrame(same | {"f": first_wrong(smoothed, places, labels)} | gone).assign(way=number)
        )
    table = pd.concat(parts, ignore_index=True)
    at = nearest(STARTS, x), nearest(STARTS, y)
    here = table[(table["x"] == at[0]) & (table["y"] == at[1])]
    found = [f"at step {step}" if step >= 0 else "never" for step in here["f"]]
    first = here.iloc[0]
    words = (
        f"A point at ({at[0]:g}, {at[1]:g}) of class {int(first['kind'])}, certified within "
        f"{floor_text(first['c'])}, exactly {floor_text(first['e'])}, and attacks with budget {eps:g}; "
        f"another class is found by {', '.join(': '.join(pair) for pair in zip(ways, found, strict=True))}"
    )
    values = pd.DataFrame({"attack": [*ways], "another class": found}).assign(**{"class": int(first["kind"])})
    return Chart(
        name="attack", alt=words, view=_walks(smoothed, table, [*ways], at, eps, steps), values=values
    )


def _grid(places: NDArray[np.float64]) -> NDArray[np.float64]:
    # (P * P, 2), row by row
    return np.stack([part.ravel() for part in np.meshgrid(places, places)], axis=1)


def _down(radii: Any) -> Any:
    return np.floor(np.asarray(radii) * 1e4) / 1e4


def _view(
    table: pd.DataFrame, classes: int, at: tuple[float, float], levels: Sequence[float], sigma: float
) -> Any:
    step = float(PLACES[1] - PLACES[0])
    moved = _dragged(PLACES, at)
    chosen = menu("level", "σ", {f"{level:g}": i for i, level in enumerate(levels)}, levels.index(sigma))
    base = alt.Chart(as_data("plane", table)).transform_calculate(
        kind="'class ' + datum['k' + level]",
        p="datum['p' + level]",
        certified="PI * pow(datum['r' + level] * width, 2)",
        exact="PI * pow(datum['e' + level] * width, 2)",
    )
    point = base.transform_filter(moved)
    said = tips({
        "x": "format(ROW.x, '.3f')", "y": "format(ROW.y, '.3f')", "class": "ROW['k' + level]",
        "probability": "format(ROW.p, '.3f')", "certified": "format(ROW['r' + level], '.3f')",
        "exact": "format(ROW['e' + level], '.3f')",
    })  # fmt: skip
    row = f"data('plane')[{_number(PLACES, at)}]"
    kind, p, certified, exact = (f"{row}['{key}' + level]" for key in "kpre")
    claim = f"({certified} > 0 ? ': certified within ' + format({certified}, '.3f') : ': abstains')"
    told = f"'class ' + {kind} + ' with probability ' + format({p}, '.3f') + {claim}"
    dot = point.mark_point(color=RULER, size=60, filled=True, opacity=1, aria=False).encode(**_scales("xy"))
    layers = [_field(base, step, range(classes)), *_rings(point, "exact", "certified"), dot]
    return _square(
        [*layers, _grip(base, moved, said)],
        [chosen],
        f"{told} + ', exactly ' + format({exact}, '.3f')",
    )


def _walks(
    smoothed: SmoothedPlane,
    table: pd.DataFrame,
    ways: Sequence[str],
    at: tuple[float, float],
    eps: float,
    steps: int,
) -> Any:
    middles = PLACES[:-1] + PLACES[1] / 2
    p = smoothed.probabilities(_grid(middles))
    ground = pd.DataFrame(_grid(middles), columns=["x", "y"]).round(4).assign(k=p.argmax(axis=1))
    squares = alt.Chart(as_data("ground", ground.assign(p=p.max(axis=1).round(2))))
    moved = _dragged(STARTS, at)
    controls = [
        menu("way", "attack", {name: i for i, name in enumerate(ways)}, 0),
        slider("upto", "steps", steps, 0, STEPS, 1),
    ]
    base = alt.Chart(as_data("walks", table))
    point = (
        base.transform_filter(moved)
        .transform_filter("datum.way == way")
        .transform_calculate(
            certified="PI * pow(datum.c * width, 2)",
            exact="PI * pow(datum.e * width, 2)",
            budget=f"PI * pow({eps!r} * width, 2)",
            **{f"{a}s": f"[{', '.join(f'datum.{a}{t} / 1000' for t in range(STEPS + 1))}]" for a in "xy"},
        )
    )
    gone = (
        point.transform_flatten(["xs", "ys"])
        .transform_window(i="row_number()")
        .transform_filter("datum.i <= upto + 1")
        .transform_calculate(wrong="datum.f >= 0 && datum.i > datum.f", last="datum.i == upto + 1")
    )
    places = _scales(("xs", "ys"))
    line = gone.mark_line(color=BLACK, strokeWidth=1.6, aria=False, clip=True)
    dots = gone.mark_point(filled=True, opacity=1, aria=False, clip=True).encode(
        **places,
        color=alt.condition("datum.wrong", alt.value(RED), alt.value(BLACK)),
        size=alt.condition("datum.last", alt.value(90), alt.value(22)),
    )
    said = tips({"x": "format(ROW.x, '.2f')", "y": "format(ROW.y, '.2f')", "class": "ROW.kind"})
    row = f"data('walks')[way * {len(STARTS) ** 2} + {_number(STARTS, at)}]"
    still = f"({row}.f < 0 || {row}.f > upto ? ': still class ' + {row}.kind"
    result = f"{still} : ': another class, at step ' + {row}.f)"
    kept = f"'certified within ' + format({row}.c, '.3f') + ', exactly ' + format({row}.e, '.3f')"
    field = _field(squares.transform_calculate(kind="'class ' + datum.k"), float(PLACES[1]), {*ground["k"]})
    layers = [field, *_rings(point, "budget", "exact", "certified"), line.encode(**places, order="i:Q"), dots]
    grip = _grip(base.transform_filter("datum.way == 0"), moved, said)
    return _square([*layers, grip], controls, f"{kept} + ' · ' + upto + ' steps' + {result}")


def _scales(fields: Sequence[str]) -> dict[str, Any]:
    unit, (across, up) = alt.Scale(domain=[0, 1], nice=False), fields
    return {
        "x": alt.X(f"{across}:Q", title=AXES["x"], scale=unit),
        "y": alt.Y(f"{up}:Q", title=AXES["y"], scale=unit),
    }


def _dragged(places: NDArray[np.float64], at: tuple[float, float]) -> Any:
    # the point that is dragged among places, or moved by two sliders
    low, high, step = float(places[0]), float(places[-1]), round(float(places[1] - places[0]), 9)
    bind: Any = {
        side: alt.binding_range(min=low, max=high, step=step, name=f"point {name}")
        for side, name in AXES.items()
    }
    return alt.selection_point(
        name="ruler", fields=["x", "y"], on=DRAG, nearest=True, toggle=False, clear=False, empty=False,
        value=[{"x": at[0], "y": at[1]}], bind=bind,
    )  # fmt: skip


def _number(places: NDArray[np.float64], at: tuple[float, float]) -> str:
    # of the row of the point, as an expression
    first, step = float(places[0]), float(places[1] - places[0])
    start = round((at[1] - first) / step) * len(places) + round((at[0] - first) / step)
    across, up = (f"round((ruler.{side}[0] - {first!r}) / {step!r})" for side in "xy")
    return f"(ruler.x ? {up} * {len(places)} + {across} : {start})"


def _field(base: Any, step: float, kinds: Any) -> Any:
    # squares by `kind`, paler where p is smaller
    names = [f"class {kind}" for kind in sorted(kinds)]
    colours = [CLASS_LOOKS[kind % len(CLASS_LOOKS)].colour for kind in sorted(kinds)]
    colour = alt.Color("kind:N", title=None, scale=alt.Scale(domain=names, range=colours))
    strength = alt.Scale(domain=[0.33, 1], range=[0.15, 0.8], clamp=True)
    cut = base.transform_calculate(
        left=f"max(0, datum.x - {step / 2})", right=f"min(1, datum.x + {step / 2})",
        low=f"max(0, datum.y - {step / 2})", high=f"min(1, datum.y + {step / 2})",
    )  # fmt: skip
    return cut.mark_rect(aria=False).encode(
        x=alt.X("left:Q", title=AXES["x"]), x2="right:Q", y=alt.Y("low:Q", title=AXES["y"]), y2="high:Q",
        color=colour, opacity=alt.Opacity("p:Q", scale=strength, legend=None),
    )  # fmt: skip


def _rings(point: Any, *names: str) -> list[Any]:
    looks: dict[str, Any] = {
        "certified": {"color": RULER, "strokeWidth": 2.5},
        "exact": {"color": GREY, "strokeWidth": 2, "strokeDash": [5, 4]},
        "budget": {"color": GREY, "strokeWidth": 2, "strokeDash": [1.5, 3]},
    }
    return [
        point.mark_point(filled=False, opacity=1, clip=True, aria=False, **looks[name]).encode(
            **_scales("xy"), size=alt.Size(f"{name}:Q", scale=None, legend=None)
        )
        for name in names
    ]


def _grip(base: Any, moved: Any, said: Any) -> Any:
    marks = base.mark_point(opacity=0, size=1, aria=False).encode(**_scales("xy"), tooltip=said)
    return marks.add_params(moved).properties(name="grip")


def _square(layers: Sequence[Any], controls: Sequence[Any], told: str) -> Any:
    title = alt.TitleParams(text=alt.ExprRef("readout"))
    view = alt.layer(*layers).add_params(*controls, alt.param(name="readout", expr=told))
    return view.properties(width=SIDE, height=SIDE, title=title)
