"""A chart of a table, drawn by whoever shows it: JupyterLab, a page without a kernel, an editor, a printer.

A chart is a Vega-Lite drawing with its data inside. JupyterLab draws it by itself, and so does a page that
holds the runtime once (`embed`); neither asks a kernel or a network. Wherever nobody draws, on git hosts and
in print, its picture is shown, and `alt` says in words what is to be seen.
"""

import base64
import importlib.util
import io
import os
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import Any

import altair as alt
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from dualrs_lab.charts.embed import ACTIONS, VEGALITE, figure_html, page_html, runtime_html
from dualrs_lab.charts.ink import INK
from dualrs_lab.charts.theme import THEME
from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.figures.style import FONTS

__all__ = ["Chart", "as_data"]


SCALE = 1.5  # pixels of a picture for each of the page


def as_data(name: str, table: pd.DataFrame) -> Any:
    """The rows of a table for a chart, by a name that expressions know (`data('name')`); None where none.

    As text, which is a third of what rows with names take. Numbers come out as they went in, truth as 0 or 1.
    """
    table = table.astype({column: int for column in table if table[column].dtype == bool})
    numeric = pd.api.types.is_numeric_dtype
    kinds = {str(column): "number" if numeric(table[column]) else "string" for column in table}
    text = table.to_csv(index=False, lineterminator="\n")
    data: Any = alt.Data
    return data(name=name, values=text, format=alt.CsvDataFormat(type="csv", parse=kinds))


@dataclass(frozen=True, kw_only=True, eq=False)
class Chart:
    """A drawing, in words as well, and the table of what it shows.

    `view` is an Altair chart to go on with, `name` a word for its files, `alt` what one is told who does not
    see it, `values` what `csv` and `latex` write.
    """

    name: str
    alt: str
    view: Any
    values: pd.DataFrame

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The drawing as Vega-Lite 5, which JupyterLab draws by itself; data and look are inside."""
        tables: dict[str, str] = {}
        told = _by_name(self.view.properties(description=self.alt).to_dict(), tables)
        told |= {"datasets": tables, "config": THEME}
        return {**told, "$schema": "https://vega.github.io/schema/vega-lite/v5.json"}

    def png(self, *, scale: float = 2.0) -> bytes:
        """A picture of the first frame, in at most 256 colours, a third of the size."""
        picture = Image.open(io.BytesIO(_converter().vegalite_to_png(scale=scale, **self._still())))
        small = io.BytesIO()
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        return small.getvalue()

    def svg(self) -> str:
        """A drawing of the first frame in vectors, for print, whose title says what it shows."""
        drawing: str = _converter().vegalite_to_svg(**self._still())
        return drawing.replace(">", f"><title>{escape(self.alt)}</title>", 1)

    def csv(self) -> str:
        """The values as comma-separated text, at full precision."""
        return str(self.values.to_csv(index=False, lineterminator="\n"))

    def latex(self) -> str:
        r"""The values as a `tabular` for booktabs, to three decimals, rounded down: no radius grows."""
        text = self.values.to_latex(index=False, escape=True, float_format=floor_text)
        return str(text).replace("σ", r"$\sigma$").replace("α", r"$\alpha$")

    def html(self) -> Markup:
        """A page of its own with the runtime inside, for any browser, without a network."""
        return page_html(self.name, [self.figure()])

    def figure(self) -> Markup:
        """The chart as a part of a page that holds the runtime (`embed.runtime_html`)."""
        files = {"csv": self.csv(), "tex": self.latex()}
        return figure_html(self.spec, name=self.name, alt=self.alt, files=files, picture=self._picture)

    @cached_property
    def _picture(self) -> bytes:
        return self.png(scale=SCALE)

    def _still(self) -> dict[str, Any]:
        spec = {key: part for key, part in self.spec.items() if key != "$schema"}
        return {"vl_spec": spec, "config": INK["light"]}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], Any]:
        if os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):  # which draws no Vega-Lite by itself
            return {"text/html": str(self.figure() + runtime_html()), "text/plain": self.alt}, {}
        data = {VEGALITE: self.spec, "text/plain": self.alt}
        if importlib.util.find_spec(
            "vl_convert"
        ):  # which a browser's Python has not; its page draws by itself
            data["image/png"] = base64.b64encode(self._picture).decode("ascii")
        files = {"csv": self.csv(), "tex": self.latex()}
        how = {"embed_options": {"renderer": "svg", "actions": ACTIONS, "downloadFileName": self.name}}
        return data, {VEGALITE: how | {"name": self.name, "files": files}}

    def __repr__(self) -> str:
        return f"Chart({self.name!r}: {self.alt})"


def _by_name(part: Any, tables: dict[str, str]) -> Any:
    """A drawing in which each table of `as_data` stands once, in `tables`, whoever draws from it."""
    if isinstance(part, list):
        return [_by_name(one, tables) for one in part]
    if not isinstance(part, dict):
        return part
    if "values" in part and "name" in part:
        tables[part["name"]] = part["values"]
        part = {key: value for key, value in part.items() if key != "values"}
    return {key: _by_name(value, tables) for key, value in part.items()}


@cache
def _converter() -> Any:
    """vl-convert, which draws without a browser, with the letters that figures have."""
    converter = import_module("vl_convert")
    converter.register_font_directory(FONTS)
    return converter
