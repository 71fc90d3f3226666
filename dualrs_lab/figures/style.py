"""One look for every figure, on the screen and in print: frame or tensor in, matplotlib Axes out.

A function draws into `ax`, or into a new `Page` of a column's or a page's width; nothing enters pyplot's
registry, no style outlives a call. A notebook ends a cell with `certified_curves(…).figure` to show it.
Colour stands for the noise level or, where all share one, for the method; line style and marker say the same
in black and white. Radii are l2 in the [0, 1] pixel unit.
"""

import io
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.ticker
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes as Axes  # what a figure is drawn into, for those who call this wing
from matplotlib.figure import Figure

__all__ = [
    "COLUMN",
    "MARKERS",
    "METHODS",
    "PAGE",
    "Look",
    "Page",
    "legend_beside",
    "looks",
    "new_axes",
    "png",
    "row_of_axes",
    "sigma_look",
    "style",
]


MARKERS = "osD^vPX*<>hpd8"  # for series that have no look of their own


COLUMN, PAGE = 3.4, 6.8  # widths in inches of a column and of a page of two


FONTS = f"{matplotlib.get_data_path()}/fonts/ttf"  # where the letters of all figures are


RADIUS = r"$\ell_2$ radius (pixels in [0, 1])"


COLOURS = BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, PINK, GREY, YELLOW, SKY = sns.color_palette(
    "colorblind"
).as_hex()


BLACK = "#303030"


_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.grid": True,
    "grid.color": "0.9",
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.framealpha": 0.9,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True)
class Look:
    """How one series looks wherever it is drawn."""

    colour: str
    line: Any
    marker: str


METHODS: dict[str, Look] = {
    "standard": Look(BLACK, ":", "X"),
    "gaussian": Look(BLUE, "-", "o"),
    "rs": Look(BLUE, "-", "o"),
    "consistency": Look(ORANGE, "--", "s"),
    "dual": Look(RED, "-.", "D"),
    "cascade": Look(PURPLE, "-", "P"),
    "combine": Look(BLACK, "-", "*"),
    "mix": Look(GREEN, "-", "^"),
    "published": Look(GREY, "-", "v"),
}
"""Look of each method; the order is that of legends. Other names follow, in the order given."""


_SPARE = [
    Look(colour, line, marker)
    for line, (colour, marker) in itertools.product(
        ["-", "--", "-.", ":"],
        [(GREEN, "^"), (PURPLE, "P"), (BROWN, "<"), (SKY, ">"), (PINK, "h"), (BLACK, "X")],
    )
]


LINES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2))]


THIN = (0, (4, 2))  # for what others published


_LEVELS = (
    0.015,
    0.03,
    0.06,
    0.12,
    0.25,
    0.5,
    1.0,
    2.0,
)  # noise levels with a colour of their own; others are blends


_LEVEL_LOOKS = [
    Look(PINK, "-", "<"),
    Look(RED, "-", ">"),
    Look(BROWN, "-", "v"),
    Look(SKY, "-", "^"),
    Look(BLUE, "-", "o"),
    Look(ORANGE, "-", "s"),
    Look(GREEN, "-", "D"),
    Look(PURPLE, "-", "P"),
]


class Page(Figure):
    """A figure in our style that no registry holds; a notebook shows it where it ends a cell."""

    def draw(self, renderer: Any) -> None:
        with style():  # ticks are made, and read the style, only here
            super().draw(renderer)

    def _repr_png_(self) -> tuple[bytes, dict[str, int | str]]:
        width, height = self.get_size_inches() * 100
        return png(self, dpi=144), {"width": int(width), "height": int(height), "alt": self.in_words()}

    def in_words(self) -> str:
        """What the figure shows, for those who do not see it: its titles, axes and series."""
        return "; ".join(filter(None, map(_in_words, self.axes)))


def _in_words(ax: Axes) -> str:
    """A title, what stands against what, and the names of the legend; of pictures, their own names."""
    across, up = ax.get_xlabel(), ax.get_ylabel()
    named = [text.get_text() for text in legend.get_texts()] if (legend := ax.get_legend()) else []
    parts = [ax.get_title(), f"{up} against {across}" if across and up else across or up, ", ".join(named)]
    if not any(parts):
        parts = [", ".join(filter(None, (tick.get_text() for tick in ax.get_xticklabels())))]
    text = ": ".join(part.replace("\n", ", ") for part in parts if part)
    return text.replace(r"$\ell_2$", "l2").replace("$", "")


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """The look of the package's figures: `with style():`, or `@style()` on a function; undone at the end."""
    with matplotlib.rc_context(sns.axes_style("ticks") | _STYLE):
        yield


def sigma_look(sigma: float) -> Look:
    """Colour and marker of a noise level, the same everywhere; between two known levels a blend."""
    if sigma == 0:
        return METHODS["standard"]
    place, levels = np.log(max(sigma, 1e-9)), np.log(_LEVELS)
    anchors = np.array([matplotlib.colors.to_rgb(look.colour) for look in _LEVEL_LOOKS])
    red, green, blue = (float(np.interp(place, levels, part)) for part in anchors.T)
    colour = matplotlib.colors.to_hex((red, green, blue))
    return replace(_LEVEL_LOOKS[int(np.abs(levels - place).argmin())], colour=colour)


def looks(tables: Mapping[str, pd.DataFrame]) -> dict[str, Look]:
    """A look for each table, no two the same, in the order of the legend: by method, then by noise level.

    Where noise levels differ, the level gives colour and marker, and the method the line.
    """
    sigmas = {label: _only(table, "sigma") for label, table in tables.items()}
    methods = {label: _method(label, tables[label]) for label in tables}
    ranks = {method: rank for rank, method in enumerate(METHODS)}
    order = sorted(tables, key=lambda label: (ranks.get(methods[label], len(ranks)), sigmas[label] or 0.0))
    by_level = len(tables) == 1 or len(set(sigmas.values())) > 1
    chosen: dict[str, Look] = {}
    for label in order:
        look, sigma = METHODS.get(methods[label], _SPARE[0]), sigmas[label]
        choices = [look, *_SPARE]
        if by_level and sigma is not None:
            level = sigma_look(sigma)
            choices = [replace(level, line=line) for line in (look.line, *LINES)]
        chosen[label] = next(choice for choice in choices if choice not in chosen.values())
    return chosen


@style()
def row_of_axes(*widths: float, height: float) -> list[Axes]:
    """Empty Axes side by side on a new page, of the given widths in inches, to draw several plots into."""
    page = Page(figsize=(sum(widths), height), layout="constrained")
    return list(page.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0])


def legend_beside(ax: Axes) -> None:
    """The legend right of the axes, which lose their upper and right spines."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    sns.despine(ax=ax)


def new_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or new ones on a `Page` of this size in inches, a column wide at least."""
    if ax is not None:
        return ax
    return Page(figsize=(max(width, COLUMN), height), layout="constrained").add_subplot()


def _method(label: str, table: pd.DataFrame) -> str:
    known = [name for name in METHODS if label.startswith(name)]
    return known[0] if known else str(_only(table, "method") or label)


def level_label(sigma: float) -> str:
    return f"σ = {sigma:g}" if sigma else "no noise"


def _only(table: pd.DataFrame, column: str) -> Any:
    # the value on which all rows agree, or None
    return table[column].iloc[0] if column in table and table[column].nunique() == 1 else None
