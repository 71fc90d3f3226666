"""Figures of mixes: accuracy against the weight, margins that explain it, radii, and the trade-off.

As in `figures.style`: frame or array in, matplotlib Axes out, in the same style.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from dualrs_lab.evidence.radii import rs_radius, smoothed_slope
from dualrs_lab.figures.live import Drawing
from dualrs_lab.figures.style import MARKERS, PAGE, legend_beside, new_axes, style
from dualrs_lab.mixing.radii import mix_radius_closed, mix_radius_lipschitz, mix_radius_smoothing

__all__ = [
    "MixRadii",
    "PointOnCurve",
    "ProbabilityBars",
    "margin_along",
    "margin_histogram",
    "mix_radius_curves",
    "natural_against_robust",
    "probability_bars",
    "weight_curves",
]


_COLOURS = sns.color_palette("colorblind").as_hex()


_BLACK = "#303030"


_KINDS = {
    "natural": ("clean", _COLOURS[0], "-", "o"),
    "on_accurate": ("attack on g", _COLOURS[1], "--", "s"),
    "on_robust": ("attack on h", _COLOURS[2], "-.", "^"),
    "end_to_end": ("attack on the mix", _COLOURS[4], ":", "D"),
    "worst": ("worst case of all", _COLOURS[3], "-", "v"),
}


@style()
def weight_curves(summary: pd.DataFrame, *, weight: float | None = None, ax: Axes | None = None) -> Axes:
    """Accuracy of mixes against the weight of h, clean and under each attack.

    `summary` has rows as from `mixing.summarise_systems`, of mixes with a weight; `weight` draws a
    line. Up to 1/2 (grey) nothing can be certified.
    """
    ax = new_axes(ax, PAGE, 3.2)
    rows = summary.dropna(subset=["weight"]).sort_values("weight")
    for column, (label, colour, line, marker) in _KINDS.items():
        if column in rows:
            ax.plot(
                rows["weight"], rows[column], line, color=colour, marker=marker, markersize=4.5, label=label
            )
    ax.axvspan(0, 0.5, color="0.94", zorder=0)
    if weight is not None:
        ax.axvline(weight, color=_BLACK, linewidth=1)
    ax.set(xlabel="weight a of the robust network", ylabel="accuracy", xlim=(-0.02, 1.02), ylim=(0, 1.02))
    legend_beside(ax)
    return ax


@style()
def natural_against_robust(
    curves: Mapping[str, pd.DataFrame],
    *,
    ends: bool = True,
    robust: str = "worst",
    label: str = "worst-case accuracy",
    ax: Axes | None = None,
) -> Axes:
    """Natural against robust accuracy: a line for a frame of several rows, a marker for a single row.

    With `ends`, a dashed line joins the first and the last row of the first frame: what choosing between the
    two networks by lot, image by image, would give. A mix is worth something above it.
    """
    if missing := [name for name, rows in curves.items() if not {"natural", robust} <= {*rows}]:
        raise ValueError(f"natural_against_robust: no natural or {robust} in {missing}")
    ax = new_axes(ax, PAGE, 3.4)
    if ends:
        first = next(iter(curves.values()))
        ax.plot(
            *first.iloc[[0, -1]][["natural", robust]].to_numpy().T,
            "--",
            color="0.5",
            label="one or the other, by lot",
        )
    markers = MARKERS
    for number, (name, rows) in enumerate(curves.items()):
        colour, marker = _COLOURS[number % len(_COLOURS)], markers[number % len(markers)]
        line, size = ("-", 4.5) if len(rows) > 1 else ("", 8)
        ax.plot(
            rows["natural"], rows[robust], line, color=colour, marker=marker, markersize=size,
            markeredgecolor="white", markeredgewidth=0.5, label=name,
        )  # fmt: skip
    ax.set(xlabel="natural accuracy", ylabel=label)
    ax.margins(0.06)
    legend_beside(ax)
    return ax


class PointOnCurve(Drawing):
    """Natural against robust accuracy of mixes, joined by weight, and a star at one of them.

    `curve` has columns weight, natural and `robust`.
    """

    @style()
    def __init__(self, curve: pd.DataFrame, *, robust: str = "worst", ax: Axes) -> None:
        super().__init__(ax)
        self.robust = robust
        ax.plot(
            curve["natural"], curve[robust], "-o", color=_COLOURS[0], markersize=4, markeredgecolor="white"
        )
        (self.star,) = ax.plot(
            [], [], "*", color=_COLOURS[3], markersize=13, markeredgecolor="white", clip_on=False
        )
        ax.set(xlabel="natural accuracy", ylabel=f"robust accuracy ({robust})")
        ax.margins(0.08)
        ax.set_title(" ")
        sns.despine(ax=ax)
        self.moving = [self.star, ax.title]

    @style()
    def show(self, point: pd.Series) -> Axes:
        """The star at a row of the curve."""
        self.star.set_data([point["natural"]], [point[self.robust]])
        self.ax.title.set_text(f"weight a = {point['weight']:g}")
        return self.ax


@style()
def margin_histogram(
    groups: Mapping[str, ArrayLike],
    *,
    lines: Mapping[str, float] | None = None,
    label: str = "margin: first less second probability",
    ax: Axes | None = None,
) -> Axes:
    """Shares of values in [0, 1] for several groups, their means (triangles), lines at given values."""
    ax = new_axes(ax, PAGE, 2.6)
    edges = np.linspace(0, 1, 21)
    for (name, values), colour, line in zip(
        groups.items(), _COLOURS, ["-", "--", "-.", ":"] * 3, strict=False
    ):
        inside = np.clip(np.asarray(values, dtype=np.float64), 0, 1)
        shares = np.histogram(inside, bins=edges)[0] / max(1, len(inside))
        ax.stairs(shares, edges, color=colour, linestyle=line, linewidth=1.5, label=name)
        ax.stairs(shares, edges, color=colour, alpha=0.12, fill=True)
        if len(inside):
            ax.plot([inside.mean()], [0], "^", color=colour, markersize=8, clip_on=False, zorder=5)
    for name, value in (lines or {}).items():
        ax.axvline(value, color=_BLACK, linestyle=(0, (4, 2)), linewidth=1.1, label=name)
    ax.set(xlabel=label, ylabel="share", xlim=(0, 1))
    ax.set_ylim(bottom=0)
    legend_beside(ax)
    return ax


@style()
def mix_radius_curves(
    weight: float, *, sigma: float = 1.0, p_lower: float | None = None, ax: Axes | None = None
) -> Axes:
    """Certified radius against the probability of h's class: Cohen's for h, and three for the mix.

    The other classes have what this class leaves, so the sharp radius is Cohen's less a constant. A dotted
    line marks `p_lower`.
    """
    return MixRadii(ax=new_axes(ax, PAGE, 3.0)).show(weight, sigma=sigma, p_lower=p_lower)


class MixRadii(Drawing):
    """The picture of `mix_radius_curves`, which `show` fills."""

    looks: ClassVar[dict[str, tuple[str, str]]] = {
        "h alone (Cohen)": (_BLACK, "-"),
        "mix, sharp": (_COLOURS[3], "-"),
        "mix, Bai et al., theorem 5": (_COLOURS[0], "--"),
        "mix, Bai et al., theorem 4": (_COLOURS[2], "-."),
    }

    @style()
    def __init__(self, *, ax: Axes) -> None:
        super().__init__(ax)
        self.lines = [
            ax.plot([], [], line, color=colour, label=name)[0] for name, (colour, line) in self.looks.items()
        ]
        self.mark = ax.axvline(0.5, color=_BLACK, linestyle=":", linewidth=1)
        ax.set(
            xlabel="lower bound of the probability of h's class", ylabel="certified l2 radius", xlim=(0.5, 1)
        )
        ax.set_title(" ")
        ax.legend(loc="upper left")
        sns.despine(ax=ax)
        self.moving = [*self.lines, self.mark, ax.title]

    @style()
    def show(self, weight: float, *, sigma: float = 1.0, p_lower: float | None = None) -> Axes:
        """The radii at this weight, and a line at `p_lower`."""
        p = 1 - np.geomspace(0.5, 1e-4, 400)
        radii = [
            rs_radius(p, sigma),
            mix_radius_closed(p, weight, sigma),
            mix_radius_smoothing(p, 1 - p, weight, sigma),
            mix_radius_lipschitz(p, 1 - p, weight, smoothed_slope(sigma)),
        ]
        for line, radius in zip(self.lines, radii, strict=True):
            line.set_data(p, radius)
        self.mark.set_visible(p_lower is not None)
        self.mark.set_xdata([p_lower or 0.5] * 2)
        self.ax.title.set_text(f"σ = {sigma:g}, weight a = {weight:g}")
        self.limits(ylim=(0, 1.02 * float(rs_radius(1 - 1e-4, sigma))))
        return self.ax


@style()
def probability_bars(
    probabilities: Mapping[str, ArrayLike],
    names: Sequence[str],
    *,
    label: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Class probabilities (K,) of several networks side by side, a group per class; ✓ marks the label."""
    ax = new_axes(ax, PAGE, 2.4)
    return ProbabilityBars([*probabilities], names, ax=ax).show(probabilities, label=label)


class ProbabilityBars(Drawing):
    """The picture of `probability_bars` of the networks `of`, which `show` fills."""

    @style()
    def __init__(self, of: Sequence[str], classes: Sequence[str], *, ax: Axes) -> None:
        super().__init__(ax)
        self.classes, width = classes, 0.8 / max(1, len(of))
        hatches = ["", "///", "...", "xxx"]
        self.bars = {}
        for number, name in enumerate(of):
            at = np.arange(len(classes)) + (number - (len(of) - 1) / 2) * width
            colour, hatch = _COLOURS[number % len(_COLOURS)], hatches[number % len(hatches)]
            heights = np.zeros(len(classes))
            self.bars[name] = ax.bar(
                at, heights, width, label=name, color=colour, edgecolor="white", hatch=hatch
            )
        ax.set_xticks(range(len(classes)), classes)
        if max(map(len, classes)) > 3:
            ax.tick_params(axis="x", rotation=35)
        ax.set(ylabel="probability", ylim=(0, 1.02))
        ax.grid(axis="x", visible=False)
        legend_beside(ax)
        self.moving = [bar for bars in self.bars.values() for bar in bars]

    @style()
    def show(self, probabilities: Mapping[str, ArrayLike], *, label: int | None = None) -> Axes:
        """Probabilities (K,) of each network; ✓ marks the label."""
        for name, values in probabilities.items():
            for bar, value in zip(self.bars[name], np.asarray(values), strict=True):
                bar.set_height(float(value))
        marked = (f"{name} ✓" if kind == label else name for kind, name in enumerate(self.classes))
        self.names(marked, axis="x")
        return self.ax


@style()
def margin_along(
    distance: ArrayLike,
    margins: Mapping[str, ArrayLike],
    needed: Mapping[str, float],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Margins (D,) of h as an input moves, and what mixes need of them; a dot where the first falls short.

    Left of its dot, such a mix answers as h does, whatever g says.
    """
    ax = new_axes(ax, PAGE, 2.8)
    moved = np.asarray(distance, dtype=np.float64)
    for (name, values), colour, line in zip(
        margins.items(), _COLOURS, ["-", "--", "-.", ":"] * 3, strict=False
    ):
        ax.plot(moved, np.asarray(values), line, color=colour, label=name)
    first = np.asarray(next(iter(margins.values())), dtype=np.float64)
    for (name, least), shade in zip(needed.items(), np.linspace(0.1, 0.6, len(needed)), strict=True):
        ax.axhline(least, color=str(shade), linestyle=(0, (4, 2)), linewidth=1.1)
        ax.text(moved[-1], least, f" {name}", va="center", fontsize=8, color=str(shade))
        if first[0] > least > first[-1]:
            ax.plot([np.interp(-least, -first, moved)], [least], "o", color=str(shade), markersize=6)
    ax.set(xlabel="distance moved towards the other class", ylabel="margin of h", xlim=(moved[0], moved[-1]))
    ax.legend(loc="lower left")
    sns.despine(ax=ax)
    return ax
