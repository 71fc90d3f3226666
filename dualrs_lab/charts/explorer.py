"""The explorer: tables of certificates side by side in one page, and whatever files are dropped on it.

The page holds the rows of its tables and works from disk without a network: curves with a ruler, the plane of
natural against certified accuracy at the ruler, a table to sort, and what every method says of one image.
Files are read in the browser and go nowhere.
"""

import base64
import io
from collections.abc import Collection, Mapping
from importlib.resources import files as resources
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from dualrs_lab.charts.chart import Chart, as_data
from dualrs_lab.charts.controls import nearest, ruler, ticks
from dualrs_lab.charts.curves import values_at
from dualrs_lab.charts.embed import inert, page_html
from dualrs_lab.charts.theme import RULER, WIDTH
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.summary import average_radius, certified_accuracy, confidence_band
from dualrs_lab.evidence.table import as_table
from dualrs_lab.figures.board import front
from dualrs_lab.figures.style import COLOURS, GREY

if TYPE_CHECKING:
    from dualrs_lab.data.pictures import Pictures

__all__ = ["explorer_html"]


KEPT = ("method", "sigma", "n", "alpha", "seed", "rule")  # columns that say how a table was made
_BODY = Markup(
    """<main class="dualrs-explorer">
<h1>{title}</h1>
<p>Certified accuracy of each table against the radius, and at the ruler against natural accuracy. Drag the
ruler, choose tables, sort, click a point or a name. Every radius of the tables that came with this page was
computed again from its votes when the page was made; of files that you drop, radii are taken as they are
(<code>dualrs-lab verify</code> checks them). Nothing leaves this page.</p>
<p class="dualrs-drop"><label>Add tables or certification logs:
<input type="file" multiple accept=".tsv,.txt"/></label> or drop them anywhere.
<label><input type="checkbox" class="dualrs-common"/> only images that all chosen tables hold</label></p>
<ul class="dualrs-notes" aria-live="polite"></ul>
<div class="dualrs-two">
{curves}
{plane}
</div>
<p>Values: <a class="dualrs-csv" download="explorer.csv" href="#">CSV</a>
<a class="dualrs-tex" download="explorer.tex" href="#">LaTeX</a></p>
<div class="dualrs-wide"><table class="dualrs-tables"><thead></thead><tbody></tbody></table></div>
<section class="dualrs-picked" aria-live="polite"></section>
<h2>One image</h2>
<p><label>Image number <input type="number" class="dualrs-number" min="0"/></label></p>
<div class="dualrs-pictures">{pictures}</div>
<div class="dualrs-wide"><table class="dualrs-image"><thead></thead><tbody></tbody></table></div>
<script type="application/json" id="dualrs-tables">{tables}</script>
<script type="application/json" id="dualrs-classes">{classes}</script>
</main>
<style>{style}</style>"""
)


_PICTURE = Markup(
    '<button type="button" data-idx="{idx}" title="image {idx}, {label}">'
    '<img alt="image {idx}, {label}" src="data:image/png;base64,{data}"/></button>'
)


def explorer_html(
    tables: Mapping[str, Claims],
    *,
    chosen: Collection[str] | None = None,
    radius: float = 0.5,
    pictures: "Pictures | None" = None,
    title: str = "Trade-off explorer",
) -> Markup:
    """A page of its own for these tables, by their names; `pictures` are shown to be clicked.

    At first those that are `chosen` are drawn (all), and the ruler stands at `radius`. Raises ValueError for
    no tables, and for tables without labels.
    """
    every = {name: as_table(claims) for name, claims in tables.items()}
    given = {name: table for name, table in every.items() if chosen is None or name in chosen}
    if not given:
        raise ValueError("explorer_html: got no tables to draw; wanted at least one, by its name")
    places = ticks(max(4.0, *(float(table["radius"].max()) for table in every.values())), most=400)
    at = nearest(places, radius)
    here = resources(__package__)
    style, code = (here.joinpath(f"explorer.{kind}").read_text("utf-8") for kind in ("css", "js"))
    body = _BODY.format(
        title=title,
        curves=Markup(_curves(given, places.tolist(), at).figure()),
        plane=Markup(_plane(given, at).figure()),
        pictures=Markup("").join(_shown(pictures)),
        classes=inert(_classes(pictures)),
        tables=inert([_told(name, table, shown=name in given) for name, table in every.items()]),
        style=Markup(style),
    )
    head, end, tail = page_html(title, [body]).rpartition(Markup("</body>"))  # the runtime speaks of others
    return Markup("").join([head, Markup(f"<script>{code}</script>\n"), end, tail])


def _told(name: str, table: pd.DataFrame, *, shown: bool) -> dict[str, Any]:
    """A table as the page keeps it; votes as they are written, of each expert where there are several."""
    text = pd.api.types.is_string_dtype
    votes = [column for column in table if str(column).startswith("votes") and text(table[column])]
    rows = table[["idx", "label", "predict", "radius", "correct"]].to_numpy().tolist()
    told = {str(key): _plain(table[key].iloc[0]) for key in KEPT if key in table and len(table)}
    return {
        "name": name,
        "shown": shown,
        "rows": [[int(i), int(y), int(p), float(r), int(c)] for i, y, p, r, c in rows],
        "votes": {str(column): table[column].fillna("").astype(str).tolist() for column in votes},
        "settings": told,
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _curves(given: Mapping[str, pd.DataFrame], places: list[float], at: float) -> Chart:
    """Curves whose rows the page replaces, and a ruler over the radii."""
    last = max(float(table["radius"].max()) for table in given.values())
    end = round(1.03 * last, 2) or 1.0
    marks = [place for place in places if place <= end]
    steps = pd.concat([_steps(name, table, marks) for name, table in given.items()], ignore_index=True)
    moved = ruler("ruler", "radius", "radius", places, at)
    x = alt.X(
        "radius:Q",
        title="l2 radius",
        scale=alt.Scale(domainMin=0, domainMax=alt.ExprRef("end"), nice=False, clamp=True),
    )
    y = alt.Y("accuracy:Q", title="certified accuracy", scale=alt.Scale(domain=[0, 1]))
    colour = _colour()
    wide = alt.condition("datum.table == picked", alt.value(4), alt.value(2))
    base = alt.Chart(as_data("steps", steps))
    ground = alt.Chart(as_data("at", pd.DataFrame({"radius": places}))).transform_filter(
        "datum.radius <= end"
    )
    layers = [
        base.mark_area(interpolate="step-before", opacity=0.13, aria=False).encode(
            x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour
        ),
        base.mark_line(interpolate="step-before").encode(x=x, y=y, color=colour, strokeWidth=wide),
        ground.transform_filter(moved).mark_rule(strokeWidth=2.5, color=RULER, aria=False).encode(x=x),
        base.transform_filter("abs(datum.radius - radius) < 1e-6")
        .mark_point(filled=True, size=60, opacity=1, aria=False)
        .encode(x=x, y=y, color=colour),
        ground.mark_point(opacity=0, aria=False).encode(x=x, y=alt.value(140)).add_params(moved),
    ]
    radius = alt.param(name="radius", expr=f"ruler.radius ? ruler.radius[0] : {at!r}")
    params = [alt.param(name="end", value=end), alt.param(name="picked", value=""), radius]
    title = alt.TitleParams(text=alt.ExprRef("'at radius ' + format(radius, '.2f')"))
    view = alt.layer(*layers).add_params(*params).properties(width=WIDTH, height=300, title=title)
    words = f"Certified accuracy of {len(given)} tables against the l2 radius, with a ruler at {at:g}"
    return Chart(name="explorer-curves", alt=words, view=view, values=values_at(given, marks[::25]))


def _plane(given: Mapping[str, pd.DataFrame], at: float) -> Chart:
    """Natural accuracy against that certified at the ruler; the page replaces the rows."""
    points = pd.DataFrame([_point(name, table, at) for name, table in given.items()])
    points["front"] = front(points.rename(columns={"certified": "robust"}))

    def room(pixels: int) -> alt.Scale:  # so that labels of points at an edge are whole
        return alt.Scale(zero=False, nice=False, padding=pixels)

    x = alt.X("natural:Q", title="natural accuracy, certified at radius 0", scale=room(60))
    y = alt.Y("certified:Q", title="certified at the ruler", scale=room(25))
    base = alt.Chart(as_data("points", points))
    large = alt.condition("datum.label == picked", alt.value(260), alt.value(90))
    tips = [
        alt.Tooltip("label:N"),
        *(alt.Tooltip(f"{side}:Q", format=".3f") for side in ("natural", "certified")),
    ]
    layers = [
        base.transform_filter("datum.front == 1")
        .mark_line(color=GREY, strokeWidth=5, opacity=0.4, aria=False)
        .encode(x=x, y=y, order=alt.Order("natural:Q")),
        base.mark_point(filled=True, opacity=0.95).encode(
            x=x, y=y, color=_colour("label"), size=large, tooltip=tips
        ),
        base.mark_text(dy=-13, fontSize=11, style="guide-label", aria=False).encode(x=x, y=y, text="label:N"),
    ]
    params = [alt.param(name="picked", value=""), alt.param(name="radius", value=at)]
    title = alt.TitleParams(text=alt.ExprRef("'certified at radius ' + format(radius, '.2f')"))
    view = alt.layer(*layers).add_params(*params).properties(width=WIDTH, height=300, title=title)
    told = ", ".join(f"{row.label} ({row.natural:.3f}, {row.certified:.3f})" for row in points.itertuples())
    words = f"Natural accuracy against accuracy certified at radius {at:g}: {told}"
    return Chart(name="explorer-plane", alt=words, view=view, values=points)


def _colour(field: str = "table") -> alt.Color:
    # in the order of the rows, which the page keeps: a table has one colour in both charts
    legend = alt.Legend(title=None, symbolOpacity=1) if field == "table" else None
    return alt.Color(f"{field}:N", scale=alt.Scale(range=list(COLOURS)), sort=None, legend=legend)


def _point(name: str, table: pd.DataFrame, radius: float) -> dict[str, Any]:
    natural, certified = certified_accuracy(table, [0.0, radius]).tolist()
    return {"label": name, "natural": natural, "certified": certified, "acr": average_radius(table)}


def _steps(name: str, table: pd.DataFrame, places: list[float]) -> pd.DataFrame:
    low, high = confidence_band(table, places)
    accuracy = certified_accuracy(table, places)
    found = {"table": name, "radius": places, "accuracy": accuracy, "low": low, "high": high}
    return pd.DataFrame(found).round(5)


def _classes(pictures: "Pictures | None") -> dict[str, Any]:
    if pictures is None:
        return {"names": [], "labels": {}}
    labels = dict(zip(map(str, pictures.places), pictures.images.labels.tolist(), strict=True))
    return {"names": list(pictures.images.classes), "labels": labels}


def _shown(pictures: "Pictures | None") -> list[Markup]:
    if pictures is None:
        return []
    images = pictures.images
    all_pixels, labels = images.batch(range(len(images)))
    return [
        _PICTURE.format(idx=place, label=images.classes[int(label)], data=_png(pixels.numpy()))
        for place, label, pixels in zip(pictures.places, labels, all_pixels, strict=True)
    ]


def _png(pixels: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
