"""The ink of charts, text and axes and grid, by the ground that they are drawn on."""

from typing import Any

__all__ = ["INK"]


def _ink(ink: str, grid: str, ground: str) -> dict[str, Any]:
    return {
        "background": ground,
        "view": {"stroke": grid},
        "title": {"color": ink, "subtitleColor": ink},
        "axis": {"domainColor": ink, "tickColor": ink, "gridColor": grid},
        "style": {"guide-label": {"fill": ink}, "guide-title": {"fill": ink}},
    }


INK = {"light": _ink("#303030", "#e5e5e5", "#ffffff"), "dark": _ink("#e4e4e4", "#4a4a4a", "#111111")}
"""Configs of Vega-Lite: whoever draws a chart takes the one of the ground; `theme.THEME` is in the chart."""
