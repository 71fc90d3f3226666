"""Figures of tables: certified accuracy, radii, training curves, the trade-off."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib.ticker
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from dualrs_lab.evidence.claim import ABSTAIN, Claims, reach
from dualrs_lab.evidence.summary import certified_accuracy as accuracy_at
from dualrs_lab.evidence.summary import confidence_band
from dualrs_lab.evidence.table import as_table
from dualrs_lab.figures.live import Drawing
from dualrs_lab.figures.style import (
    BLACK,
    GREY,
    LINES,
    PAGE,
    RADIUS,
    THIN,
    Look,
    level_label,
    looks,
    new_axes,
    sigma_look,
    style,
)

__all__ = [
    "ChosenCurves",
    "MovingCurves",
    "certified_curves",
    "radius_histogram",
    "trade_off",
    "training_curves",
]


_BIN_WIDTHS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, float("inf")]


@style()
def certified_curves(
    tables: Mapping[str, Claims],
    radii: Sequence[float] | None = None,
    *,
    band: float | None = 0.95,
    published: Mapping[str, Claims] | pd.DataFrame | None = None,
    show: Collection[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Certified accuracy against radius, as steps that are exact at every radius, not interpolated on a grid.

    Markers stand at `radii`, by default every quarter, and the axis ends at the last. `band` is the level of
    the exact pointwise confidence bands (None for none). `published` tables are drawn thin and dashed, in the
    colour of the table of the same label if there is one; a frame of printed numbers, with columns `method`,
    `sigma` (NaN: a system that chooses), `radius` and `certified_accuracy`, is drawn as points. With `show`,
    only those labels of `tables` are drawn, with the looks and the axis of all.
    """
    ax = new_axes(ax, PAGE, 3.6)
    logs = _tables(published) if isinstance(published, Mapping) else {}
    given = _tables(tables)
    own = looks(given)
    series = [(label, given[label], look, band) for label, look in own.items()]
    for label, look in looks(logs).items():
        thin = replace(own.get(label, look), line=THIN)
        series.append((f"{label} (published)", logs[label], thin, None))
    last = max(float(table["radius"].max()) for _, table, _, _ in series)
    marks = np.asarray(np.arange(0, last, 0.25) if radii is None else radii, dtype=np.float64)
    end = float(marks.max()) if radii is not None else 1.03 * last or 1.0
    for label, table, look, level in series:
        if label in own and show is not None and label not in show:
            continue
        _steps(ax, table, label, look, marks, end, level)
    if isinstance(published, pd.DataFrame):
        _printed(ax, published)
    ax.set(xlabel=RADIUS, ylabel="certified accuracy", xlim=(0, end), ylim=(0, 1))
    ax.legend(loc="upper right")
    sns.despine(ax=ax)
    return ax


def _steps(
    ax: Axes,
    table: pd.DataFrame,
    label: str,
    look: Look,
    marks: NDArray[np.float64],
    end: float,
    band: float | None,
) -> None:
    x, where = _places(table, marks, end)
    thin: dict[str, Any] = {"linewidth": 0.9, "markersize": 4, "markerfacecolor": "white"}
    bold: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    ax.plot(
        x, accuracy_at(table, x), color=look.colour, linestyle=look.line, marker=look.marker, markevery=where,
        drawstyle="steps-pre", label=label, gid=label, **(thin if look.line == THIN else bold),
    )  # fmt: skip
    if band is not None:
        low, high = confidence_band(table, x, band)
        ax.fill_between(x, low, high, step="pre", color=look.colour, alpha=0.15, linewidth=0, gid=label)


def _places(
    table: pd.DataFrame, marks: NDArray[np.float64], end: float
) -> tuple[NDArray[np.float64], list[int]]:
    # the accuracy changes just after the radius of a row: a step that holds up to and including it
    x = np.unique(np.concatenate([[0.0, end], reach(table), marks]))
    x = x[(x >= 0) & (x <= end)]
    return x, np.searchsorted(x, marks[marks <= end]).tolist()


class MovingCurves(Drawing):
    """The curves `labels` of `certified_curves` in `ax`, which `show` gives other tables."""

    def __init__(self, *labels: str, ax: Axes) -> None:
        super().__init__(ax)
        self.lines = {str(line.get_label()): line for line in ax.lines if line.get_label() in labels}
        self.end = ax.get_xlim()[1]
        self.moving = [*self.lines.values()]

    def show(self, tables: Mapping[str, pd.DataFrame]) -> Axes:
        """The curves of these tables; the axis is longer where they reach further than those at first."""
        furthest = max(float(reach(table).max(initial=0.0)) for table in tables.values())
        end = max(self.end, 1.03 * furthest)
        self.limits(xlim=(0, end))
        for label, table in tables.items():
            x, where = _places(table, np.arange(0, end, 0.25), end)
            self.lines[label].set_data(x, accuracy_at(table, x))
            self.lines[label].set_markevery(where)
        return self.ax


class ChosenCurves(Drawing):
    """Those curves of `certified_curves` in `ax` that `show` names, and a ruler at a radius."""

    def __init__(self, *, ax: Axes) -> None:
        super().__init__(ax)
        self.curves = [one for one in (*ax.lines, *ax.collections) if one.get_gid()]
        self.ruler = ax.axvline(0, color=BLACK, linewidth=1)
        legend = ax.get_legend()
        assert legend is not None
        self.legend = legend
        self.moving = [*self.curves, self.ruler, legend]

    def show(self, labels: Collection[str], *, radius: float) -> Axes:
        """Names in the legend are pale where their curve is not shown."""
        for curve in self.curves:
            curve.set_visible(curve.get_gid() in labels)
        for text, handle in zip(self.legend.get_texts(), self.legend.legend_handles, strict=True):
            for part in filter(None, (text, handle)):
                part.set_alpha(1.0 if text.get_text() in labels else 0.25)
        self.ruler.set_xdata([radius, radius])
        return self.ax


def _printed(ax: Axes, numbers: pd.DataFrame) -> None:
    for _, rows in numbers.groupby(["method", "sigma"], sort=False, dropna=False):
        method, sigma = rows["method"].iloc[0], float(rows["sigma"].iloc[0])
        level = f", {level_label(sigma)}" if np.isfinite(sigma) else ""  # a system chooses its own
        look = sigma_look(sigma) if level else Look(BLACK, THIN, "X")
        ax.plot(
            rows["radius"], rows["certified_accuracy"], color=look.colour, linestyle=THIN, linewidth=0.9,
            marker=look.marker, markersize=4, markerfacecolor="white", label=f"{method}{level}",
        )  # fmt: skip


@style()
def radius_histogram(
    tables: Mapping[str, Claims], *, width: float | None = None, ax: Axes | None = None
) -> Axes:
    """Share of images by certified radius, in bins of `width` (default: a round one, at most 25).

    Images that abstain or are certified as a wrong class stand apart on the left; each table sums to 1.
    """
    ax = new_axes(ax, PAGE, 3.2)
    given = _tables(tables)
    last = max(float(table["radius"].max()) for table in given.values()) or 1.0
    width = width or next(step for step in _BIN_WIDTHS if last <= 25 * step)
    edges = np.arange(0, last + width, width)
    hatches = itertools.cycle(["", "///", "...", "xxx", "---"])
    slots, chosen = [-5 * width, -2 * width], looks(given)
    handles: list[Any] = []
    for number, (label, look) in enumerate(chosen.items()):
        reached, abstained = reach(given[label]), given[label]["predict"].to_numpy() == ABSTAIN
        right = reached >= 0
        shares = np.histogram(reached[right], bins=edges)[0] / len(reached)
        ax.stairs(shares, edges, color=look.colour, linestyle=look.line, linewidth=1.4)
        ax.stairs(shares, edges, color=look.colour, alpha=0.12, fill=True)
        middles = (edges[:-1] + edges[1:])[shares > 0] / 2
        (dots,) = ax.plot(middles, shares[shares > 0], look.marker, color=look.colour, markersize=4)
        each = 2 * width / len(tables)
        at = [slot + (number - (len(tables) - 1) / 2) * each for slot in slots]
        bars = ax.bar(
            at, [float(abstained.mean()), float((~right & ~abstained).mean())], width=each,
            color=look.colour, alpha=0.75, edgecolor="white", hatch=next(hatches),
        )  # fmt: skip
        handles.append((bars, dots))
    ticks = [tick for tick in ax.get_xticks() if 0 <= tick <= last]
    ax.set_xticks([*slots, *ticks], ["abstained", "wrong", *(f"{tick:g}" for tick in ticks)])
    ax.set(xlabel=RADIUS, ylabel="share of images", xlim=(-6.5 * width, edges[-1]))
    ax.axvline(-0.5 * width, color=GREY, linewidth=0.8)
    ax.legend(handles, list(chosen))
    sns.despine(ax=ax)
    return ax


@style()
def training_curves(
    histories: Mapping[str, pd.DataFrame], column: str = "loss", *, ax: Axes | None = None
) -> Axes:
    """A column of each history against the epoch: "loss", "validation" (accuracy on held-out images), "lr".

    A history with a single `sigma` has the colour of that noise level.
    """
    ax = new_axes(ax, PAGE, 2.8)
    for label, look in looks(histories).items():
        history = histories[label]
        if column not in history:
            raise ValueError(
                f"training_curves: no {column!r} in the history {label!r}; it has {list(history)}."
            )
        ax.plot(
            history["epoch"], history[column], color=look.colour, linestyle=look.line, marker=look.marker,
            markevery=max(1, len(history) // 8), label=label,
        )  # fmt: skip
    ylabel = {"loss": "training loss", "validation": "validation accuracy", "lr": "learning rate"}
    ax.set(xlabel="epoch", ylabel=ylabel.get(column, column))
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    sns.despine(ax=ax)
    return ax


@style()
def trade_off(
    points: pd.DataFrame,
    *,
    clean: str = "clean",
    certified: str = "certified",
    label: str = "certified accuracy",
    ax: Axes | None = None,
) -> Axes:
    """What robustness costs: `certified` (accuracy at a radius, or ACR) against `clean`, a marker per sigma.

    A row of `points` is a classifier, with columns `method`, `sigma` and the two named; the points of a
    method are joined in the order of sigma. A method whose name begins with "published" is drawn thin and
    dashed.
    """
    if missing := [name for name in ("method", "sigma", clean, certified) if name not in points]:
        raise ValueError(f"trade_off: no {', '.join(missing)} in the points; they have {list(points)}.")
    ax = new_axes(ax, PAGE, 3.6)
    groups = {str(name): group.sort_values("sigma") for name, group in points.groupby("method", sort=False)}
    handles = []
    lines, thin = itertools.cycle(LINES), itertools.cycle([THIN, *LINES[2:]])
    for name, group in groups.items():
        known = name.startswith("published")
        line, width, colour = (next(thin), 0.9, GREY) if known else (next(lines), 1.4, BLACK)
        x, y = group[clean], group[certified]
        handles += ax.plot(x, y, color=colour, linestyle=line, linewidth=width, label=name)
        for sigma, at, height in zip(group["sigma"], x, y, strict=True):
            level = sigma_look(sigma)
            face = "white" if known else level.colour
            ax.plot([at], [height], level.marker, color=face, markeredgecolor=level.colour, markersize=6.5)
    for sigma in sorted(points["sigma"].unique()):
        level = sigma_look(sigma)
        dot = Line2D([], [], linestyle="", marker=level.marker, color=level.colour, label=level_label(sigma))
        handles.append(dot)
    ax.set(xlabel="clean accuracy", ylabel=label)
    ax.margins(0.06)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    sns.despine(ax=ax)
    return ax


def _tables(claims: Mapping[str, Claims]) -> dict[str, pd.DataFrame]:
    return {label: as_table(one) for label, one in claims.items()}
