"""Figures of attacks: slopes as arrows, a step in its budget, images before and after, tables of answers."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from dualrs_lab.figures.plane import Plane, Window, plane_field
from dualrs_lab.figures.style import BLACK, GREEN, GREY, ORANGE, RED, SKY, new_axes, row_of_axes, style

__all__ = ["answers_grid", "moved_images", "slope_arrows", "step_in_budget"]


@style()
def slope_arrows(
    plane: Plane,
    point: ArrayLike,
    slopes: Mapping[str, ArrayLike],
    *,
    length: float = 0.2,
    draws: ArrayLike | None = None,
    window: Window = (0, 1, 0, 1),
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The base classifier around a point (2,), and arrows of one length along slopes (M, 2), by their names.

    A slope of 0 has no arrow. `draws` (D, 2) are noisy copies of the point, in the colours of their classes.
    """
    at = np.asarray(point, dtype=np.float64)
    ax = plane_field(plane, points=[at], draws=draws, window=window, title=title, ax=ax)
    names = ax.get_legend()
    handles = [] if names is None else list(names.legend_handles)
    for colour, (name, given) in zip((RED, BLACK, GREEN), slopes.items(), strict=False):
        slope = np.atleast_2d(np.asarray(given, dtype=np.float64))
        norms = np.linalg.norm(slope, axis=1, keepdims=True)
        arrow = length * slope[norms[:, 0] > 0] / norms[norms[:, 0] > 0]
        handles.append(
            ax.quiver(
                *np.broadcast_to(at, arrow.shape).T, *arrow.T, angles="xy", scale_units="xy", scale=1,
                color=colour, width=0.009, alpha=1.0 if len(slope) == 1 else 0.55, label=name, zorder=4,
            )
        )  # fmt: skip
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    return ax


@style()
def step_in_budget(
    start: ArrayLike, at: ArrayLike, moved: ArrayLike, eps: float, *, ax: Axes | None = None
) -> Axes:
    """Two pixels as a plane: the budget around `start`, the square of images, and a step from `at`."""
    ax = new_axes(ax, 5.2, 2.8)
    first, here, there = (np.asarray(one, dtype=np.float64) for one in (start, at, moved))
    ax.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor=BLACK, linewidth=1.6, label="images, [0, 1]"))
    corner = (first[0] - eps, first[1] - eps)
    ax.add_patch(Rectangle(corner, 2 * eps, 2 * eps, color=SKY, alpha=0.35, label="budget", linewidth=0))
    ax.plot(*first, "o", color=GREY, markersize=8, label="the image", linestyle="none")
    ax.plot(*here, "o", color=BLACK, markersize=5, label="where the attack is", linestyle="none")
    ax.plot(*there, "X", color=RED, markersize=8, label="your step", linestyle="none")
    ax.plot(*np.stack([here, there]).T, color=RED, linewidth=1.2)
    every = np.stack([first - eps, first + eps, here, there])
    low, high = every.min(axis=0) - 0.08, every.max(axis=0) + 0.08
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="a pixel", ylabel="another pixel")
    ax.set_aspect("equal")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    ax.grid(visible=False)
    return ax


@style()
def moved_images(images: Mapping[str, ArrayLike], *, side: float = 1.5) -> Axes:
    """Grey images (H, W) in [0, 1] in a row, each below its name; the Axes returned are the last."""
    axes = row_of_axes(*[side] * len(images), height=side + 0.35)
    for ax, (name, image) in zip(axes, images.items(), strict=True):
        ax.imshow(np.asarray(image), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(name)
        ax.set(xticks=[], yticks=[])
    return axes[-1]


@style()
def answers_grid(rows: Mapping[str, ArrayLike], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Right (pale) and wrong (orange, crossed) answers: a row for each of the names, a column per image."""
    table = np.stack([np.asarray(row, dtype=bool) for row in rows.values()])
    names: Sequence[str] = [*rows]
    ax = new_axes(ax, 1.6 + 0.32 * table.shape[1], 0.8 + 0.3 * len(names))
    for (row, column), right in np.ndenumerate(table):
        colour = SKY if right else ORANGE
        where = (column - 0.5, row - 0.5)
        ax.add_patch(
            Rectangle(where, 1, 1, facecolor=colour, alpha=0.35 if right else 0.9, edgecolor="white")
        )
        ax.text(column, row, "" if right else "×", ha="center", va="center", color=BLACK)
    ax.set(
        xlim=(-0.5, table.shape[1] - 0.5), ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)),
        yticklabels=names, xticks=range(table.shape[1]), xlabel="image", title=title,
    )  # fmt: skip
    ax.set_aspect("equal")
    ax.grid(visible=False)
    return ax
