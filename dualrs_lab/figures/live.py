"""Figures that move: drawn once, then only what changes is drawn again, at the screen's resolution.

A `Drawing` is what a function of this wing draws, kept: `show` gives its artists other numbers. A `Live` page
holds drawings. Its still parts (axes, ticks, titles) are laid out and drawn once and kept as a picture, and a
frame draws the moving artists over it. Where a still part changes after all, such as the end of an axis, the
frame draws everything.
"""

import io
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.legend import Legend
from PIL import Image

from dualrs_lab.figures.style import Page, style

__all__ = ["Drawing", "Live", "rounded_up"]


INCH = 96  # pixels of a page in a browser


class Drawing:
    """Artists in `ax`; those of `moving` are given other numbers by `show`, whatever its arguments are."""

    def __init__(self, ax: Axes) -> None:
        self.ax = ax
        self.moving: list[Artist] = []
        self._names: dict[str, list[str]] = {}

    def limits(self, **ends: tuple[float, float]) -> None:
        """`xlim` and `ylim`, set only where they are others: setting them draws all anew."""
        for name, wanted in ends.items():
            if not np.allclose(getattr(self.ax, f"get_{name}")(), wanted):
                self.ax.set(**{name: wanted})

    def across(self, text: str) -> None:
        """The label of the horizontal axis, likewise."""
        if self.ax.get_xlabel() != text:
            self.ax.set_xlabel(text)

    def names(self, up: Iterable[str], *, axis: str = "y") -> None:
        """The labels of the ticks, set only where they are others."""
        wanted = list(up)
        if self._names.get(axis) != wanted:  # asking the axis for them would make it draw anew
            self._names[axis] = wanted
            getattr(self.ax, f"set_{axis}ticklabels")(wanted)


class Live:
    """Drawings on one page that has been filled; `png` is a frame of it.

    `scale` is the number of the screen's pixels for one of the browser's.
    """

    def __init__(self, drawings: Iterable[Drawing], *, scale: float = 2.0) -> None:
        held = list(drawings)
        page = held[0].ax.figure
        assert isinstance(page, Page)
        self.page, self._ground = page, cast(Any, None)
        self._held = held
        self.width = round(page.get_figwidth() * INCH)
        page.set_dpi(INCH * scale)
        canvas: Any = FigureCanvasAgg(page)
        self._canvas = canvas
        self._canvas.draw()  # laid out with everything in place, so that there is room for it
        page.set_layout_engine("none")

    def png(self) -> bytes:
        """The page as it is now; the same page gives the same bytes."""
        moving = self._moving()
        for artist in moving:
            for part in artist.findobj() if isinstance(artist, Legend) else [artist]:
                part.set_animated(True)
        with style():
            if self._ground is None or self.page.stale:
                self._canvas.draw()
                self._ground = self._canvas.copy_from_bbox(self.page.bbox)
            else:
                self._canvas.restore_region(self._ground)
            for artist in moving:
                if artist.get_visible():
                    artist.draw(self._canvas.get_renderer())
            self.page.stale = False  # a legend places its parts while it is drawn
        return _encoded(np.asarray(self._canvas.buffer_rgba())[..., :3])

    def _moving(self) -> list[Artist]:
        # with the spines and the legend, which may be another one by now: they lie over what moves
        artists: list[Artist] = [one for each in self._held for one in each.moving]
        for each in self._held:
            artists += [*each.ax.spines.values(), *filter(None, [each.ax.get_legend()])]
        return sorted(dict.fromkeys(artists), key=lambda one: one.zorder)


def _encoded(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=2)
    return file.getvalue()


def rounded_up(end: float) -> float:
    """The end of an axis, in steps of a quarter: it changes seldom, and nothing is cut."""
    steps = np.array([1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.4, 8, 10])
    scale = 10.0 ** np.floor(np.log10(end))
    return float(scale * steps[np.searchsorted(steps, end / scale * (1 - 1e-9))])
