"""Image by image, what the experts of a dual system are good for: two bars each, and both radii."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from dualrs_lab.charts.chart import Chart, as_data
from dualrs_lab.charts.controls import slider, tips
from dualrs_lab.charts.theme import RULER, WIDTH
from dualrs_lab.evidence.claim import ABSTAIN, Claims
from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.evidence.table import as_table
from dualrs_lab.figures.style import GREY, RED, level_label, sigma_look

__all__ = ["dual_chart"]


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
    view = _view(told.assign(**bars), levels, image, end)
    first = told.iloc[image]
    answer = "abstains" if first["predict"] == ABSTAIN else f"class {int(first['predict'])}"
    words = (
        f"Radii of {len(levels)} experts of a dual system for one of {len(table)} images at a time; image "
        f"{int(first['idx'])}: {answer}, routed radius {floor_text(first['radius'])}, published "
        f"{floor_text(first['published'])}"
    )
    return Chart(name="dual", alt=words, view=view, values=told)


def _view(told: pd.DataFrame, levels: list[float], image: int, end: float) -> Any:
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
