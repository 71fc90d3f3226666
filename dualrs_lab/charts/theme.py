"""The look of `figures` for charts that live in a page: the same colours, marks and letters.

What a chart carries reads on light and dark alike; the ink of text, axes and grid comes in where the chart is
drawn. A picture of a chart is drawn in light ink, as figures are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from dualrs_lab.figures.style import BLACK, GREY, Look

__all__ = ["RULER", "THEME", "WIDTH", "line_scales", "mark_scales"]


WIDTH = 560  # of a view, in pixels; a page makes it less where there is less room


RULER = "#e06c10"  # what is dragged; 3:1 and more against white and against black


FONT = "DejaVu Sans, Verdana, Geneva, sans-serif"


DASHES: dict[Any, list[float]] = {"-": [1, 0], "--": [6, 3], "-.": [7, 2, 2, 2], ":": [2, 2]}


SHAPES = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
    "P": "cross",
    "X": "M-1-.6-.6-1 0-.4.6-1 1-.6.4 0 1 .6.6 1 0 .4-.6 1-1 .6-.4 0Z",
    "*": "M0-1 .3-.35 1-.3.45.15.6.85 0 .5-.6.85-.45.15-1-.3-.3-.35Z",
}


THEME: dict[str, Any] = {
    "font": FONT,
    "axis": {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "tickSize": 4},
    "legend": {"labelFontSize": 11, "orient": "bottom", "labelLimit": 320, "columns": 2, "columnPadding": 24},
    "title": {"fontSize": 12, "subtitleFontSize": 12, "fontWeight": "normal", "anchor": "start"},
    "view": {"continuousWidth": WIDTH, "continuousHeight": 280},
    "rule": {"color": RULER},
    "style": {"quiet": {"stroke": GREY}},
}
"""What every chart carries, on whatever ground; the ink (`ink.INK`) comes where it is drawn."""


def line_scales(looks: Mapping[str, Look]) -> tuple[alt.Scale, alt.Scale]:
    """Scales of colour and of dashes that give each series the look it has in figures."""
    names = list(looks)
    dashes = [_dash(look.line) for look in looks.values()]
    return _scale(names, [seen(look.colour) for look in looks.values()]), _scale(names, dashes)


def mark_scales(looks: Mapping[str, Look]) -> tuple[alt.Scale, alt.Scale]:
    """Scales of colour and of shapes, likewise."""
    names = list(looks)
    shapes = [SHAPES.get(look.marker, "circle") for look in looks.values()]
    return _scale(names, [seen(look.colour) for look in looks.values()]), _scale(names, shapes)


def seen(colour: str) -> str:
    """A colour that shows on dark ground too: what figures draw in ink is grey here."""
    return GREY if colour == BLACK else colour


def _dash(line: Any) -> list[float]:
    return DASHES[line] if isinstance(line, str) else [float(part) * 1.5 for part in line[1]]


def _scale(names: Sequence[str], values: Sequence[Any]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=list(values))
