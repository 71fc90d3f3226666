"""Figures of combiners: who was surest about an image, and who was overruled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.figures.style import BLACK, PAGE, level_label, new_axes, sigma_look, style

__all__ = ["expert_reaches"]


@style()
def expert_reaches(
    reaches: ArrayLike, sigmas: Sequence[float], *, radius: float, ax: Axes | None = None
) -> Axes:
    """A bar for each of K experts: how far it keeps the class by itself; to the left, it says another one.

    The line is the certified radius of the combiner. An expert that was not asked has no bar.
    """
    values = np.asarray(reaches, dtype=np.float64)
    ax = new_axes(ax, PAGE, 1.2 + 0.4 * len(sigmas))
    known = np.abs(values) < 1e3  # not asked: as far as can be
    span = 1.12 * max(0.05, radius, *np.abs(values[known]).tolist())
    for j, sigma in enumerate(sigmas):
        if known[j]:
            against = values[j] < 0
            look: dict[str, Any] = {"color": sigma_look(sigma).colour, "alpha": 0.45 if against else 1.0}
            ax.barh(j, values[j], height=0.6, hatch="///" if against else "", edgecolor="white", **look)
        else:
            ax.text(0, j, " not asked", va="center", fontsize=8)
    ax.axvline(0, color=BLACK, linewidth=0.8)
    handles: list[Any] = [
        Patch(facecolor="0.4", label="keeps the class"),
        Patch(facecolor="0.75", hatch="///", edgecolor="white", label="overruled"),
    ]
    if radius > 0:
        label = f"combiner {floor_text(radius)}"
        handles.append(ax.axvline(radius, color=BLACK, linestyle="--", label=label))
    ax.set_yticks(range(len(sigmas)), [level_label(sigma) for sigma in sigmas])
    ax.set(xlim=(-span, span), ylim=(len(sigmas) - 0.5, -0.5), xlabel="distance that the bounds give")
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=3)
    ax.grid(axis="y", visible=False)
    sns.despine(ax=ax, left=True)
    return ax
