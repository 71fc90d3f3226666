"""Figures of systems with several noise levels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from dualrs_lab.cascade.radii import cascade_radius
from dualrs_lab.dual.radii import published_radius, routed_radius
from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.figures.style import BLACK, GREY, PAGE, RED, level_label, new_axes, sigma_look, style

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["cascade_steps", "entry_and_expert_radii", "images_by_level"]


@style()
def entry_and_expert_radii(
    entry: ArrayLike,
    experts: ArrayLike,
    sigmas: Sequence[float],
    *,
    top: int,
    ax: Axes | None = None,
) -> Axes:
    """Two bars for each of K experts: up to r_j it cannot be chosen, up to R_j it gives the class.

    The longer one is how far expert j does no harm. The shortest of these is the routed radius (solid line);
    the dashed one is the published radius, of `top`, the expert that is chosen at the point.
    """
    r, R = (np.asarray(values, dtype=np.float64) for values in (entry, experts))
    ax = new_axes(ax, PAGE, 1.2 + 0.45 * len(sigmas))
    reach = 1.08 * max(0.01, *(values[np.isfinite(values)].max(initial=0.0) for values in (r, R)))
    for j, sigma in enumerate(sigmas):
        ax.barh(j - 0.17, min(r[j], reach), height=0.3, facecolor="0.93", edgecolor="0.45", hatch="////")
        ax.barh(j + 0.17, min(R[j], reach), height=0.3, color=sigma_look(sigma).colour)
        ax.plot(min(max(r[j], R[j]), reach), j - 0.17 if r[j] > R[j] else j + 0.17, "D", color=BLACK)
    published, routed = float(published_radius(r, R, top)), float(routed_radius(r, R))
    lines = [
        ax.axvline(routed, color=BLACK, label=f"routed {floor_text(routed)}"),
        ax.axvline(published, color=RED, linestyle="--", label=f"published {floor_text(published)}"),
    ]
    bars = [
        Patch(facecolor="0.93", edgecolor="0.45", hatch="////", label="$r_j$: cannot be chosen"),
        Patch(color=GREY, label="$R_j$: gives the class"),
    ]
    names = [level_label(sigma) + (" (chosen)" if j == top else "") for j, sigma in enumerate(sigmas)]
    ax.set_yticks(range(len(sigmas)), names)
    ax.set(xlim=(0, reach), ylim=(len(sigmas) - 0.5, -0.5), xlabel="distance from the point")
    ax.legend(handles=[*bars, *lines], loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=2)
    ax.grid(axis="y", visible=False)
    sns.despine(ax=ax)
    return ax


@style()
def cascade_steps(
    accepts: ArrayLike,
    errs: ArrayLike,
    sigmas: Sequence[float],
    *,
    answers: int,
    ax: Axes | None = None,
) -> Axes:
    """Two bars for each of K experts of a cascade, asked from the top: see `cascade.radii`.

    Up to the coloured bar the expert gives the class, up to the hatched one it gives no other. The line is
    the radius that follows; `answers` is the expert that is guessed to answer, -1 for none.
    """
    own, other = (np.asarray(values, dtype=np.float64) for values in (accepts, errs))
    ax = new_axes(ax, PAGE, 1.2 + 0.45 * len(sigmas))
    radius = float(cascade_radius(own, other))
    finite = [values[np.isfinite(values)].max(initial=0.0) for values in (own, other)]
    reach = 1.08 * max(0.01, *finite)
    for j, sigma in enumerate(sigmas):
        hatched: dict[str, Any] = {"facecolor": "0.93", "edgecolor": "0.45", "hatch": "////"}
        ax.barh(j - 0.17, np.clip(other[j], 0, reach), height=0.3, **hatched)
        ax.barh(j + 0.17, np.clip(own[j], 0, reach), height=0.3, color=sigma_look(sigma).colour)
    handles: list[Any] = [
        Patch(facecolor="0.93", edgecolor="0.45", hatch="////", label="gives no other class"),
        Patch(color=GREY, label="gives the class"),
    ]
    if radius > 0:
        handles.append(ax.axvline(radius, color=BLACK, label=f"radius {floor_text(radius)}"))
    names = [level_label(sigma) + (" (answers)" if j == answers else "") for j, sigma in enumerate(sigmas)]
    ax.set_yticks(range(len(sigmas)), names)
    ax.set(xlim=(0, reach), ylim=(len(sigmas) - 0.5, -0.5), xlabel="distance from the image")
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=3)
    ax.grid(axis="y", visible=False)
    sns.despine(ax=ax)
    return ax


@style()
def images_by_level(
    images: "Tensor",
    levels: Sequence[float],
    radii: Sequence[float],
    *,
    columns: int = 12,
    ax: Axes | None = None,
) -> Axes:
    """Which images get which noise level: a row for each level, images (N, C, H, W) uint8 by radius.

    `columns` images of each level, evenly spaced from the smallest radius to the largest; radii stand below.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images) == len(levels) == len(radii):
        raise ValueError(
            f"images_by_level: wanted grey or RGB (N, C, H, W) and a level and a radius each, got "
            f"{tuple(images.shape)}, {len(levels)} and {len(radii)}."
        )
    known, _, height, width = sorted(set(levels)), *images.shape[1:]
    ax = new_axes(ax, PAGE, 0.2 + len(known) * 1.35 * (PAGE - 0.7) / (1.1 * columns))
    for row, level in enumerate(known):
        own = sorted((i for i in range(len(images)) if levels[i] == level), key=lambda i: radii[i])
        few = [own[k] for k in np.unique(np.linspace(0, len(own) - 1, columns).round().astype(int))]
        for place, i in enumerate(few):
            left, top = 1.1 * place, 1.35 * row
            picture = images[i].permute(1, 2, 0).cpu().numpy()
            ax.imshow(
                picture, extent=(left, left + 1, top + height / width, top), cmap="gray", vmin=0, vmax=255
            )
            ax.text(left + 0.5, top + 1.02, floor_text(radii[i], 2), ha="center", va="top", fontsize=7)
    ax.set(xlim=(-0.05, 1.1 * columns), ylim=(1.35 * len(known), -0.05))
    ax.set_yticks([1.35 * row + 0.5 for row in range(len(known))], [level_label(level) for level in known])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, bottom=True)
    return ax
