"""Charts in a page of HTML: the runtime once, each chart where it stands, nothing from any network.

A page holds a figure for each chart (`figure_html`) and, after them, the runtime (`runtime_html`): Vega,
Vega-Lite and vega-embed as one script, and a few lines that draw each figure in the ink of its ground. Until
it is drawn, or where scripts do not run, a figure shows its picture.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.resources import files as resources
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from dualrs_lab.charts.ink import INK

__all__ = ["VEGALITE", "chart_outputs", "figure_html", "inert", "page_html", "runtime_html"]


VEGALITE = "application/vnd.vegalite.v5+json"
"""What JupyterLab draws by itself, without an extension or a kernel."""


ACTIONS = {"export": True, "source": False, "compiled": False, "editor": False}  # the editor is in a network


KINDS = {"csv": ("CSV", "text/csv"), "tex": ("LaTeX", "application/x-tex")}


_FIGURE = Markup(
    """<figure class="dualrs-chart" aria-label="{name}">
<div class="dualrs-view"><img alt="{alt}" src="data:image/png;base64,{picture}"/></div>
<p class="dualrs-unseen" aria-live="polite"></p>
<figcaption class="dualrs-files">{files}</figcaption>
<script type="application/json">{told}</script>
</figure>"""
)


_FILE = Markup('<a download="{name}.{ending}" href="data:{kind};charset=utf-8,{text}">{title}</a>')


_RUNTIME = Markup(
    """<style>
{style}</style>
<script id="dualrs-inks" type="application/json">{inks}</script>
<script>if (!window.vegaEmbed) {{ {vega} }}</script>
<script>{glue}</script>"""
)


_PAGE = Markup(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<title>{title}</title>
</head>
<body>
{body}
</body>
</html>
"""
)


def figure_html(
    spec: Mapping[str, Any], *, name: str, alt: str, files: Mapping[str, str], picture: bytes
) -> Markup:
    """One chart as a part of a page; `files` are texts to keep by their ending, csv and tex."""
    links = Markup(" ").join(
        _FILE.format(name=name, ending=ending, title=title, kind=kind, text=quote(files[ending]))
        for ending, (title, kind) in KINDS.items()
        if ending in files
    )
    drawn = {key: part for key, part in spec.items() if key != "$schema"}  # JupyterLab's version, not ours
    told = inert({"spec": drawn, "name": name, "actions": ACTIONS})
    shown = base64.b64encode(picture).decode("ascii")
    return _FIGURE.format(name=name, alt=alt, files=links, told=told, picture=shown)


def runtime_html() -> Markup:
    """What draws all charts before it that are not drawn yet: 0.9 MB, once a page, behind the last one."""
    here = resources(__package__)
    style, glue = (here.joinpath(name).read_text("utf-8") for name in ("page.css", "glue.js"))
    parts = {"style": style, "vega": _script(_bundle()), "glue": glue}
    return _RUNTIME.format(inks=inert(INK), **{name: Markup(part) for name, part in parts.items()})


def page_html(title: str, parts: Sequence[str]) -> Markup:
    """A whole page of HTML `parts` with charts among them, for any browser, from disk."""
    body = Markup("\n").join([*map(Markup, parts), runtime_html()])
    return _PAGE.format(title=title, body=body)


def chart_outputs(output: Mapping[str, Any]) -> Markup | None:
    """An output of a notebook as a part of a page, where it is a chart; else None."""
    data = output.get("data", {})
    if VEGALITE not in data or "image/png" not in data:
        return None
    told = output.get("metadata", {}).get(VEGALITE, {})
    picture, alt = ("".join(data.get(mime, "")) for mime in ("image/png", "text/plain"))
    files = {ending: str(text) for ending, text in told.get("files", {}).items()}
    name = str(told.get("name", "chart"))
    return figure_html(data[VEGALITE], name=name, alt=alt, files=files, picture=base64.b64decode(picture))


@cache
def _bundle() -> str:
    return str(import_module("vl_convert").javascript_bundle())


def _script(source: str) -> str:
    """JavaScript that cannot end the element that it stands in."""
    return source.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def inert(value: object) -> Markup:
    """JSON for a script element: nothing in it ends the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
