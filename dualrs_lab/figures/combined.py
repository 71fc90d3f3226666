"""Figures of combiners: who was surest about an image, and who was overruled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.figures.live import Drawing, rounded_up
from dualrs_lab.figures.style import BLACK, PAGE, level_label, new_axes, sigma_look, style

__all__ = ["Reaches", "expert_reaches"]


@style()
def expert_reaches(
    reaches: ArrayLike, sigmas: Sequence[float], *, radius: float, ax: Axes | None = None
) -> Axes:
    """A bar for each of K experts: how far it keeps the class by itself; to the left, it says another one.

    The line is the certified radius of the combiner. An expert that was not asked has no bar.
    """
    ax = new_axes(ax, PAGE, 1.2 + 0.4 * len(sigmas))
    return Reaches(sigmas, ax=ax).show(reaches, radius=radius)


class Reaches(Drawing):
    """The picture of `expert_reaches`, which `show` fills."""

    @style()
    def __init__(self, sigmas: Sequence[float], *, ax: Axes) -> None:
        super().__init__(ax)
        rows = range(len(sigmas))
        self.bars = ax.barh(
            rows,
            [0.0] * len(sigmas),
            height=0.6,
            edgecolor="white",
            color=[sigma_look(s).colour for s in sigmas],
        )
        self.unasked = [ax.text(0, j, " not asked", va="center", fontsize=8) for j in rows]
        self.line = ax.axvline(0, label="combiner", color=BLACK, linestyle="--")
        ax.axvline(0, color=BLACK, linewidth=0.8)
        handles: list[Any] = [
            Patch(facecolor="0.4", label="keeps the class"),
            Patch(facecolor="0.75", hatch="///", edgecolor="white", label="overruled"),
            self.line,
        ]
        ax.set_yticks(rows, [level_label(sigma) for sigma in sigmas])
        ax.set(ylim=(len(sigmas) - 0.5, -0.5), xlabel="distance that the bounds give")
        self.legend = ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=3)
        ax.grid(axis="y", visible=False)
        sns.despine(ax=ax, left=True)
        self.moving = [*self.bars, *self.unasked, self.line, self.legend]

    @style()
    def show(self, reaches: ArrayLike, *, radius: float) -> Axes:
        """These reaches (K,), and the combiner's radius."""
        values = np.asarray(reaches, dtype=np.float64)
        known = np.abs(values) < 1e3  # not asked: as far as can be
        span = rounded_up(1.12 * max(0.05, radius, *np.abs(values[known]).tolist()))
        for bar, text, value, asked in zip(self.bars, self.unasked, values, known, strict=True):
            bar.set_width(value if asked else 0.0)
            bar.set(alpha=0.45 if value < 0 else 1.0, hatch="///" if value < 0 else "")
            text.set_visible(not asked)
        self.line.set_xdata([radius, radius])
        self.line.set_visible(radius > 0)
        label = f"combiner {floor_text(radius)}" if radius > 0 else "combiner abstains"
        self.legend.get_texts()[-1].set_text(label)
        self.limits(xlim=(-span, span))
        return self.ax
