"""Systems: what a setting does to their curve, and of dual ones what each expert is good for.

Cascades move by their thresholds, combiners by name, mixes by their weight, dual systems image by image.

The curve of each setting is in the page, so that the chart follows its sliders at once and every value is one
that the package computed.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from dualrs_lab.cascade.radii import Cascade, first_to_accept, steps
from dualrs_lab.charts.chart import Chart, as_data
from dualrs_lab.charts.controls import menu, nearest, slider, ticks, tips
from dualrs_lab.charts.curves import curve_steps, curves_at, ruled_curves, values_at
from dualrs_lab.charts.theme import RULER, WIDTH
from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import combined_radius, surest_class
from dualrs_lab.evidence.claim import ABSTAIN, Claims, claimed, reach
from dualrs_lab.evidence.joins import Joined, join_votes
from dualrs_lab.evidence.recompute import reclaimed
from dualrs_lab.evidence.summary import average_radius, certified_accuracy, floor_text
from dualrs_lab.evidence.table import as_table
from dualrs_lab.figures.style import (
    GREY,
    RED,
    Look,
    level_label,
    looks,
    sigma_look,
)
from dualrs_lab.mixing.certificate import FORMS, mixed

__all__ = ["cascade_chart", "combiner_chart", "dial_chart", "dual_chart", "mix_chart"]


PLACES = 100  # of the ruler, at most


Setting = tuple[float | str, ...]


def dial_chart(
    tables: Mapping[str, Claims],
    settings: Mapping[Setting, Claims],
    names: Sequence[str],
    *,
    label: str,
    start: Setting | None = None,
    radius: float = 0.25,
    name: str = "dial",
) -> Chart:
    """Certified accuracy of `tables`, and of one system more whose setting is chosen by sliders and menus.

    `settings` holds a table for each setting, one of every combination of the values that the `names` take:
    numbers at equal steps have a slider, others a menu. `start` is the first setting shown, by default the
    first given. Raises ValueError where a combination is missing or there are no settings.
    """
    axes = _axes(settings, names)
    given = {text: as_table(claims) for text, claims in tables.items()}
    dialled = {setting: as_table(settings[setting]) for setting in product(*axes)}
    own = looks(given | {label: next(iter(dialled.values()))})
    own = {text: own[text] for text in (*(text for text in own if text != label), label)}
    own[label] = Look(RULER, "-", "*")
    last = max(float(reach(one).max(initial=0.0)) for one in (*given.values(), *dialled.values()))
    places = ticks(1.03 * last or 1.0, PLACES)
    single = {text: given[text] for text in own if text != label}
    curves = [
        curve_steps(text, one, float(places[-1]), None, most=2 * PLACES) for text, one in single.items()
    ]
    drawn = pd.concat(curves or [pd.DataFrame({"table": [], "radius": [], "accuracy": []})]).round(5)
    shares = {f"d{i}": certified_accuracy(one, places).round(6) for i, one in enumerate(dialled.values())}
    at = curves_at(single, places, None).assign(**shares)
    first = start if start is not None else next(iter(settings))
    controls, setting = _controls(axes, names, first)
    heights = {text: f"ROW.t{i}" for i, text in enumerate(single)} | {label: "ROW['d' + setting]"}
    texts = {text: f"format({height}, '.3f')" for text, height in heights.items()}
    acrs = [average_radius(one) for one in dialled.values()]
    told = f"' · ACR of the {label} ' + format(floor({acrs!r}[setting] * 1e4) / 1e4, '.4f')"
    if single:
        best = max(map(average_radius, single.values()))
        told += f" + ' (best other {floor_text(best, 4)})'"
    view = ruled_curves(drawn, at, own, heights, texts, radius=radius, dial=label, told=told)
    for control in (*controls, alt.param(name="setting", expr=setting)):
        view = view.add_params(control)
    values = pd.concat([_named(names, one, table) for one, table in dialled.items()], ignore_index=True)
    at_first = floor_text(average_radius(dialled[first]), 4)
    chosen = ", ".join(f"{n}: {_text(value)}" for n, value in zip(names, first, strict=True))
    words = (
        f"Certified accuracy against the l2 radius: {', '.join(single) or 'no fixed curve'}, and the {label} "
        f"for {len(dialled)} settings of {', '.join(names)}; with {chosen} its average certified radius is "
        f"{at_first}"
    )
    return Chart(name=name, alt=words, view=view, values=values)


def cascade_chart(
    tables: Mapping[float, Claims], *, alpha: float = 0.001, parts: int = 8, radius: float = 0.25
) -> Chart:
    """What the thresholds of a cascade do, from votes already counted; `tables` of its experts by sigma.

    The largest sigma is asked first. Each threshold but the last, which is 0, goes from 0 to its sigma in
    `parts` steps. Raises ValueError as `join_votes` does.
    """
    order = tuple(sorted(tables, reverse=True))
    joined, same = _joined(tables, order)
    singles = {level_label(sigma): same[sigma] for sigma in sorted(tables)}
    limits = [[round(sigma * i / parts, 9) for i in range(parts + 1)] for sigma in order[:-1]]
    settings: dict[Setting, pd.DataFrame] = {
        setting: _cascaded(joined, Cascade(order, (*setting, 0.0)), alpha) for setting in product(*limits)
    }
    names = [f"threshold at {sigma:g}" for sigma in order[:-1]]
    return dial_chart(singles, settings, names, label="cascade", radius=radius, name="cascade")


def combiner_chart(
    tables: Mapping[float, Claims],
    combiners: Mapping[str, Combiner],
    *,
    alpha: float = 0.001,
    radius: float = 0.25,
) -> Chart:
    """The dial of combiners, from votes already counted; `tables` of their experts by sigma.

    Each expert by two bounds beside them. Raises ValueError as `join_votes` does.
    """
    order = next(iter(combiners.values())).sigmas
    joined, same = _joined(tables, order)
    singles = {level_label(sigma): reclaimed(same[sigma], "two-bounds") for sigma in sorted(tables)}
    settings: dict[Setting, pd.DataFrame] = {}
    for name, combiner in combiners.items():
        y = surest_class(joined.selection, combiner)
        radii = combined_radius(joined.votes, y, combiner=combiner, alpha=alpha)
        settings[(name,)] = claimed(_images(joined), y, np.maximum(radii, 0.0)).assign(method="combine")
    return dial_chart(singles, settings, ["combiner"], label="combiner", radius=radius, name="combiner")


def mix_chart(
    table: Claims,
    *,
    weight: float = 0.76,
    sigma: float | None = None,
    step: float = 0.02,
    radius: float = 0.25,
) -> Chart:
    """What the weight of the robust network certifies, on the evidence of the table of the smoothed h.

    The certificate is chosen by a menu: the exact one by two bounds, where there are votes, and the closed
    one, by Cohen's rule. Errors as of `mixing.mixed`.
    """
    rows = as_table(table)
    kinds = [("exact", "two-bounds")] if "votes" in rows else []
    kinds.append((FORMS[0], "cohen"))
    weights = np.round(np.arange(0.5, 1 + step / 2, step), 9).tolist()
    settings: dict[Setting, pd.DataFrame] = {
        (one, f"{form}, {rule}"): mixed(rows, one, form=form, rule=rule, sigma=sigma)
        for one, (form, rule) in product(weights, kinds)
    }
    alone = {
        f"h alone, {rule}": mixed(rows, 1.0, form=form, rule=rule, sigma=sigma).assign(method="rs")
        for form, rule in kinds
    }
    start = (nearest(weights, weight), f"{kinds[0][0]}, {kinds[0][1]}")
    names = ["weight of h", "certificate"]
    return dial_chart(alone, settings, names, label="mix", start=start, radius=radius, name="mix")


def _joined(
    tables: Mapping[float, Claims], order: Sequence[float]
) -> tuple[Joined, dict[float, pd.DataFrame]]:
    """The votes of all experts on the images that all of them hold, and their tables of these."""
    given = {sigma: as_table(claims) for sigma, claims in tables.items()}
    joined = join_votes(given, order)
    return joined, {sigma: table[table["idx"].isin(joined.idx)] for sigma, table in given.items()}


def _images(joined: Joined) -> pd.DataFrame:
    return pd.DataFrame({"idx": joined.idx, "label": joined.label})


def _cascaded(joined: Joined, cascade: Cascade, alpha: float) -> pd.DataFrame:
    _, y = first_to_accept(joined.selection, cascade)
    found = steps(joined.votes, np.maximum(y, 0), cascade=cascade, alpha=alpha)
    radius = np.where(y == ABSTAIN, 0.0, np.maximum(found.radius, 0.0))
    return claimed(_images(joined), y, radius).assign(method="cascade")


def _named(names: Sequence[str], setting: Setting, table: pd.DataFrame) -> pd.DataFrame:
    """A row of values with its setting in front."""
    last = max(0.25, float(reach(table).max(initial=0.0)))
    found = values_at({"": table}, np.arange(0, min(last, 3.0) + 1e-9, 0.25)).drop(columns="table")
    for place, (name, value) in enumerate(zip(names, setting, strict=True)):
        found.insert(place, name, [value])
    return found


def _axes(settings: Mapping[Setting, Claims], names: Sequence[str]) -> list[list[float | str]]:
    if not settings or any(len(setting) != len(names) for setting in settings):
        raise ValueError(f"dial_chart: wanted settings of {list(names)}, got {list(settings)[:3]}")
    axes = [list(dict.fromkeys(setting[i] for setting in settings)) for i in range(len(names))]
    if missing := [setting for setting in product(*axes) if setting not in settings]:
        raise ValueError(f"dial_chart: no table for the setting {missing[0]} of {list(names)}")
    return axes


def _controls(
    axes: Sequence[Sequence[float | str]], names: Sequence[str], first: Setting
) -> tuple[list[Any], str]:
    """A control for each of the names, and the number of the setting, as an expression."""
    controls, terms, stride = [], [], int(np.prod([len(axis) for axis in axes]))
    for number, (axis, name, at) in enumerate(zip(axes, names, first, strict=True)):
        stride //= len(axis)
        gaps = np.diff([float(value) for value in axis if not isinstance(value, str)])
        if len(gaps) == len(axis) - 1 > 0 and np.allclose(gaps, gaps[0], rtol=1e-6) and gaps[0] > 0:
            low, high, step = float(axis[0]), float(axis[-1]), round(float(gaps[0]), 9)
            controls.append(slider(f"dial{number}", name, float(at), low, high, step))
            terms.append(f"{stride} * round((dial{number} - {low!r}) / {step!r})")
        else:
            options = {_text(value): i for i, value in enumerate(axis)}
            controls.append(menu(f"dial{number}", name, options, axis.index(at)))
            terms.append(f"{stride} * dial{number}")
    return controls, " + ".join(terms)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def dual_chart(claims: Claims, *, image: int = 0) -> Chart:
    """Certificates of a dual system, one image at a time: until where each expert is out, or right.

    `claims` are those of `dual.certify_dual`, `image` a position among them. The longer of the two bars of an
    expert is how far it does no harm; the shortest of these is the routed radius (solid), the published one
    is dashed. Raises ValueError for tables that are not of a dual system.
    """
    table = as_table(claims)
    levels = sorted(
        float(str(name).removeprefix("entry_")) for name in table if str(name).startswith("entry_")
    )
    if not levels or "published" not in table:
        raise ValueError(f"dual_chart: wanted certificates of a dual system, got columns {list(table)}")
    radii = table[[f"{what}_{level:g}" for what in ("entry", "radius") for level in levels]]
    finite = radii.to_numpy(dtype=np.float64)
    end = 1.05 * max(0.1, float(finite[np.isfinite(finite)].max()))
    told = table.reset_index(drop=True)[["idx", "label", "predict", "radius", "published"]]
    bars = {
        f"{key}{j}": np.minimum(np.floor(table[f"{what}_{level:g}"].to_numpy() * 1e4) / 1e4, end)
        for j, level in enumerate(levels)
        for key, what in (("e", "entry"), ("r", "radius"))
    }
    view = _routes_view(told.assign(**bars), levels, image, end)
    first = told.iloc[image]
    answer = "abstains" if first["predict"] == ABSTAIN else f"class {int(first['predict'])}"
    words = (
        f"Radii of {len(levels)} experts of a dual system for one of {len(table)} images at a time; image "
        f"{int(first['idx'])}: {answer}, routed radius {floor_text(first['radius'])}, published "
        f"{floor_text(first['published'])}"
    )
    return Chart(name="dual", alt=words, view=view, values=told)


def _routes_view(told: pd.DataFrame, levels: list[float], image: int, end: float) -> Any:
    names, kinds = [level_label(level) for level in levels], ["cannot be chosen", "gives the class"]
    chosen = slider("image", "image", image, 0, len(told) - 1, 1)
    here = "datum.image == image"
    colours = alt.Scale(domain=names, range=[sigma_look(level).colour for level in levels])
    both = alt.Chart(as_data("told", told.assign(image=np.arange(len(told))))).transform_filter(here)
    base = both.transform_fold(
        [f"{key}{j}" for j in range(len(levels)) for key in "er"], as_=["key", "reach"]
    ).transform_calculate(
        expert=f"{names!r}[toNumber(slice(datum.key, 1))]",
        what=f"{kinds!r}[slice(datum.key, 0, 1) == 'e' ? 0 : 1]",
    )
    x = alt.X("reach:Q", title="distance from the image", scale=alt.Scale(domain=[0, end], nice=False))
    y, offset = alt.Y("expert:N", title=None, sort=names), alt.YOffset("what:N")
    legend = alt.Legend(title=None, symbolFillColor=GREY, symbolStrokeWidth=0)
    fade = alt.Opacity("what:O", scale=alt.Scale(domain=kinds, range=[0.35, 1]), legend=legend)
    said = tips({"expert": "ROW.expert", "": "ROW.what", "up to": "format(ROW.reach, '.3f')"})
    colour = alt.Color("expert:N", scale=colours, legend=None)
    bars = base.mark_bar().encode(x=x, y=y, yOffset=offset, opacity=fade, color=colour, tooltip=said)
    routed = both.mark_rule(strokeWidth=2.5, color=RULER).encode(x=alt.X("radius:Q"))
    published = both.mark_rule(strokeWidth=2, strokeDash=[6, 4], color=RED).encode(x=alt.X("published:Q"))
    row = "data('told')[image]"
    routed_text, published_text = (
        f"' {name} ' + format(floor({row}.{column} * 1e3) / 1e3, '.3f')"
        for name, column in (("· routed", "radius"), ("· published", "published"))
    )
    answer = f"({row}.predict < 0 ? ': abstains' : ': class ' + {row}.predict)"
    told_here = f"'image ' + {row}.idx + {answer} + ', label ' + {row}.label"
    readout = alt.param(name="readout", expr=f"{told_here} + {routed_text} + {published_text}")
    title = alt.TitleParams(text=alt.ExprRef("readout"))
    view = alt.layer(bars, published, routed).add_params(chosen, readout)
    return view.properties(width=WIDTH, height=60 * len(levels), title=title)
