"""Small figures of one case, for exercises that show on what an answer fails: numbers in, Axes out.

None computes what is right: they draw the case, what was answered for it, and what follows from the answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy import stats

from dualrs_lab.figures.style import BLACK, BLUE, GREY, ORANGE, RED, SKY, new_axes, row_of_axes, style

__all__ = ["answer_along", "binomial_law", "heat_row", "named_bars", "paired_bars", "spreads"]


WIDTH, HEIGHT = 5.2, 2.1  # in inches


LINES = ["-", "--", "-.", ":"]


@style()
def binomial_law(n: int, p: float, shaded: ArrayLike, *, title: str, across: str = "votes") -> Axes:
    """Probability of each count of n draws of probability p, where there is any; `shaded` counts in red."""
    ax = new_axes(None, WIDTH, HEIGHT)
    low, high = (int(stats.binom.ppf(tail, n, p)) for tail in (1e-5, 1 - 1e-5))
    red = np.asarray(shaded, dtype=np.int64)
    first, last = max(0, min(low, red.min(initial=low)) - 1), min(n, max(high, red.max(initial=high)) + 1)
    first = max(first, low - 2 * (high - low) - 2)  # counts far out are not to be seen anyway
    k = np.arange(first, last + 1)
    colours = np.where(np.isin(k, red), RED, SKY)
    ax.bar(k, stats.binom.pmf(k, n, p), width=1.0, color=list(colours), linewidth=0)
    ax.set(xlabel=across, ylabel="probability", title=title, xlim=(first - 0.5, last + 0.5))
    sns.despine(ax=ax)
    return ax


@style()
def named_bars(
    values: Mapping[str, float],
    *,
    line: float,
    says: str,
    title: str,
    across: str,
    least: float | None = None,
) -> Axes:
    """A bar for each name, and a vertical line that says what it stands for; bars short of `least` in red."""
    ax = new_axes(None, WIDTH, 0.9 + 0.32 * len(values))
    short = [least is not None and value < least for value in values.values()]
    ax.barh([*values], [*values.values()], color=[RED if one else SKY for one in short], height=0.6)
    ax.axvline(line, color=BLACK, linestyle="--", linewidth=1.4, label=says)
    ax.set(xlabel=across, title=title)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return _with_legend(ax)


@style()
def answer_along(
    distance: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    at: float,
    says: str,
    up: str,
    title: str,
    level: tuple[str, float] | None = None,
    across: str = "distance",
) -> Axes:
    """Curves (D,) along a distance (D,), a level that matters, by its name, and where an answer stands."""
    ax = new_axes(None, WIDTH, HEIGHT + 0.3)
    x = np.asarray(distance, dtype=np.float64)
    for (name, values), colour, line in zip(curves.items(), (BLUE, ORANGE, GREY), LINES, strict=False):
        ax.plot(x, np.asarray(values, dtype=np.float64), line, color=colour, label=name)
    if level is not None:
        ax.axhline(level[1], color=RED, linestyle="--", linewidth=1.2, label=level[0])
    if np.isfinite(at):
        ax.axvline(at, color=BLACK, linewidth=1.4, label=says)
    ax.set(xlabel=across, ylabel=up, title=title)
    ax.set_xlim(min(x[0], at) if np.isfinite(at) else x[0], x[-1])
    return _with_legend(ax)


@style()
def paired_bars(
    first: ArrayLike,
    second: ArrayLike,
    names: Sequence[str],
    *,
    says: tuple[str, str],
    title: str,
    answer: float | None = None,
) -> Axes:
    """Two bars (K,) for each name, a hatched one and a full one, and a vertical line at an answer."""
    ax = new_axes(None, WIDTH, 1.0 + 0.4 * len(names))
    rows = np.arange(len(names))
    hatched: dict[str, Any] = {"facecolor": "0.93", "edgecolor": "0.45", "hatch": "////"}
    ax.barh(rows - 0.17, np.asarray(first), height=0.3, label=says[0], **hatched)
    ax.barh(rows + 0.17, np.asarray(second), height=0.3, label=says[1], color=SKY)
    if answer is not None:
        ax.axvline(answer, color=BLACK, linewidth=1.4, label="your answer")
    ax.set_yticks(rows, names)
    ax.set(xlabel="distance", title=title)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return _with_legend(ax)


@style()
def spreads(
    groups: Mapping[str, ArrayLike], *, reach: ArrayLike, title: str, across: str, line: float | None = None
) -> Axes:
    """Values of each group as dots, and about their mean a bar of `reach` (G,) to either side, if any."""
    ax = new_axes(None, WIDTH, 0.9 + 0.38 * len(groups))
    lengths = np.broadcast_to(np.asarray(reach, dtype=np.float64), len(groups))
    for row, (values, length) in enumerate(zip(groups.values(), lengths, strict=True)):
        dots = np.atleast_1d(np.asarray(values, dtype=np.float64))
        if length:
            ax.errorbar(dots.mean(), row, xerr=abs(length), color=BLUE, capsize=4, linewidth=2, marker="|")
        ax.plot(dots, np.full(len(dots), row), "o", color=GREY, markersize=4)
    if line is not None:
        ax.axvline(line, color=BLACK, linewidth=1.4)
    ax.set_yticks(range(len(groups)), [*groups])
    ax.set(xlabel=across, title=title, ylim=(len(groups) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    sns.despine(ax=ax)
    return ax


@style()
def heat_row(pictures: Mapping[str, ArrayLike], *, title: str) -> Axes:
    """Pictures (H, W) side by side under their names, each from its own smallest to its largest value."""
    axes = row_of_axes(*[1.7] * len(pictures), height=2.2)
    for ax, (name, values) in zip(axes, pictures.items(), strict=True):
        ax.imshow(np.asarray(values, dtype=np.float64), cmap=matplotlib.colormaps["viridis"])
        ax.set(title=name, xticks=[], yticks=[])
        ax.grid(visible=False)
    axes[0].figure.suptitle(title, fontsize=9)
    return axes[-1]


def _with_legend(ax: Axes) -> Axes:
    # to the right of the axes, where it hides nothing
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    sns.despine(ax=ax)
    return ax
