"""Figures of systems with several noise levels."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from dualrs_lab.cascade.radii import cascade_radius
from dualrs_lab.dual.radii import published_radius, routed_radius
from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.figures.live import Drawing, rounded_up
from dualrs_lab.figures.style import BLACK, GREY, PAGE, RED, level_label, new_axes, sigma_look, style

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CascadeSteps",
    "EntryAndExpertRadii",
    "cascade_steps",
    "entry_and_expert_radii",
    "images_by_level",
]


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
    ax = new_axes(ax, PAGE, 1.2 + 0.45 * len(sigmas))
    return EntryAndExpertRadii(sigmas, ax=ax).show(entry, experts, top=top)


class _TwoBars(Drawing):
    """Two bars for each of K experts, a hatched one above a coloured one, and lines with their numbers."""

    hatched, coloured = "", ""
    lines: ClassVar[dict[str, dict[str, Any]]]

    @style()
    def __init__(self, sigmas: Sequence[float], *, ax: Axes) -> None:
        super().__init__(ax)
        self.sigmas, zeros = sigmas, np.zeros(len(sigmas))
        rows = np.arange(len(sigmas))
        light: dict[str, Any] = {"facecolor": "0.93", "edgecolor": "0.45", "hatch": "////"}
        self.others = ax.barh(rows - 0.17, zeros, height=0.3, **light)
        colours = [sigma_look(sigma).colour for sigma in sigmas]
        self.own = ax.barh(rows + 0.17, zeros, height=0.3, color=colours, linewidth=0)
        self.marks = {name: ax.axvline(0, label=name, **look) for name, look in self.lines.items()}
        self.ends = ax.plot([], [], "D", color=BLACK)[0]
        ax.set_yticks(rows, [level_label(sigma) for sigma in sigmas])
        ax.set(ylim=(len(sigmas) - 0.5, -0.5))
        bars = [Patch(**light, label=self.hatched), Patch(color=GREY, label=self.coloured)]
        self.legend = ax.legend(
            handles=[*bars, *self.marks.values()], loc="lower center", bbox_to_anchor=(0.5, 1.01),
            ncols=2 if len(self.marks) > 1 else 3,
        )  # fmt: skip
        ax.grid(axis="y", visible=False)
        sns.despine(ax=ax)
        self.moving = [*self.others, *self.own, *self.marks.values(), self.ends, self.legend]

    def fill(self, others: ArrayLike, own: ArrayLike, at: Mapping[str, float]) -> tuple[Any, Any]:
        """The lengths as they are drawn, cut at the end of the axis; lines at 0 are not drawn."""
        lengths = [np.asarray(values, dtype=np.float64) for values in (others, own)]
        reach = rounded_up(1.04 * max(0.01, *(one[np.isfinite(one)].max(initial=0.0) for one in lengths)))
        cut = [np.clip(one, 0.0, reach) for one in lengths]
        for bars, values in zip((self.others, self.own), cut, strict=True):
            for bar, value in zip(bars, values, strict=True):
                bar.set_width(value)
                bar.set_visible(value > 0)
        for (name, line), text in zip(self.marks.items(), self.legend.get_texts()[2:], strict=True):
            line.set_xdata([at[name], at[name]])
            line.set_visible(at[name] > 0)
            text.set_text(f"{name} {floor_text(at[name])}")
        self.limits(xlim=(0, reach))
        return cut[0], cut[1]


class EntryAndExpertRadii(_TwoBars):
    """The picture of `entry_and_expert_radii`, which `show` fills."""

    hatched, coloured = "$r_j$: cannot be chosen", "$R_j$: gives the class"
    lines: ClassVar[dict[str, dict[str, Any]]] = {
        "routed": {"color": BLACK},
        "published": {"color": RED, "linestyle": "--"},
    }

    @style()
    def show(
        self, entry: ArrayLike, experts: ArrayLike, *, top: int, where: str = "distance from the point"
    ) -> Axes:
        """These radii (K,) and (K,) about a point where expert `top` is chosen."""
        radii = {"routed": routed_radius(entry, experts), "published": published_radius(entry, experts, top)}
        r, R = self.fill(entry, experts, {name: float(radius) for name, radius in radii.items()})
        rows = np.arange(len(r))
        self.ends.set_data(np.maximum(r, R), np.where(r > R, rows - 0.17, rows + 0.17))
        self.names(
            level_label(sigma) + (" (chosen)" if j == top else "") for j, sigma in enumerate(self.sigmas)
        )
        self.across(where)
        return self.ax


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
    ax = new_axes(ax, PAGE, 1.2 + 0.45 * len(sigmas))
    return CascadeSteps(sigmas, ax=ax).show(accepts, errs, answers=answers)


class CascadeSteps(_TwoBars):
    """The picture of `cascade_steps`, which `show` fills."""

    hatched, coloured = "gives no other class", "gives the class"
    lines: ClassVar[dict[str, dict[str, Any]]] = {"radius": {"color": BLACK}}

    @style()
    def show(self, accepts: ArrayLike, errs: ArrayLike, *, answers: int) -> Axes:
        """These distances (K,) and (K,); expert `answers` is guessed to answer."""
        radius = float(cascade_radius(np.asarray(accepts, dtype=float), np.asarray(errs, dtype=float)))
        self.fill(errs, accepts, {"radius": max(radius, 0.0)})
        self.names(
            level_label(sigma) + (" (answers)" if j == answers else "") for j, sigma in enumerate(self.sigmas)
        )
        self.across("distance from the image")
        return self.ax


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
