"""Figures of the plane of the lessons, where exact answers are known."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import matplotlib.ticker
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Patch
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.figures.live import Drawing
from dualrs_lab.figures.style import (
    BLACK,
    COLUMN,
    GREEN,
    GREY,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    Look,
    level_label,
    new_axes,
    row_of_axes,
    sigma_look,
    style,
)

__all__ = [
    "Choice",
    "MovingPoint",
    "Plane",
    "choice_and_answers",
    "choice_field",
    "plane_field",
    "probability_paths",
]


Window = tuple[float, float, float, float]  # first and last x, first and last y


CLASS_LOOKS = [Look(SKY, "-", "o"), Look(YELLOW, "-", "s"), Look(PURPLE, "-", "^"), Look(GREEN, "-", "D")]


class Plane(Protocol):
    """Classes of points (N, 2), and exact probabilities (N, K) of classes under Gaussian noise."""

    def predict(self, points: NDArray[np.float64]) -> NDArray[np.int64]: ...
    def probabilities(self, points: NDArray[np.float64], sigma: float) -> NDArray[np.float64]: ...


class Choice(Protocol):
    """A system that chooses at each of the points (N, 2) which of `sigmas` answers there, and its answers."""

    @property
    def sigmas(self) -> Sequence[float]: ...
    @property
    def choose(self) -> Callable[[NDArray[np.float64]], NDArray[np.int64]]: ...
    def predict(self, points: NDArray[np.float64]) -> NDArray[np.int64]: ...


@style()
def plane_field(
    plane: Plane,
    sigma: float | None = None,
    *,
    points: ArrayLike | None = None,
    radii: ArrayLike | None = None,
    exact: ArrayLike | None = None,
    draws: ArrayLike | None = None,
    window: Window = (0, 1, 0, 1),
    title: str | None = None,
    resolution: int = 240,
    ax: Axes | None = None,
) -> Axes:
    """The unit square by class: of the base classifier, or smoothed at `sigma`, paler where less probable.

    Where smoothed, black lines separate its classes and grey ones the base classes. `points` (N, 2) carry the
    mark of their base class, discs of certified `radii` (N,), and dashed circles of `exact` ones (infinite:
    none). `draws` (M, 2) are noisy copies of a point, each in the colour of its base class. `window` is the
    part to show: first and last x, first and last y.
    """
    ax = new_axes(ax, 4.4, 3.6)
    x, y, grid = _pixels(window, resolution)
    base = plane.predict(grid).reshape(x.shape)
    shown, strength = base, np.full(x.shape, 0.45)
    if sigma is not None:
        p = plane.probabilities(grid, sigma)
        shown = p.argmax(axis=1).reshape(x.shape)
        strength = np.clip(1.4 * (p.max(axis=1) - 0.4), 0.12, 0.8).reshape(x.shape)
        _borders(ax, base, x, y, color=GREY, linewidth=0.7)
        _borders(ax, shown, x, y, color=BLACK, linewidth=1.4)
    colours = np.array([matplotlib.colors.to_rgb(look.colour) for look in CLASS_LOOKS])[
        shown % len(CLASS_LOOKS)
    ]
    ax.imshow(_paler(colours, strength), extent=window, origin="lower", interpolation="nearest")
    if draws is not None:
        _marks(ax, plane, _points(draws), size=2.8, edge=0.3)
    if points is not None:
        centres = _points(points)
        _circles(ax, centres, radii, linewidth=1.4)
        _circles(ax, centres, exact, linestyle="--", linewidth=0.9)
        _marks(ax, plane, centres, size=6.0, edge=0.8)
    names = [
        Patch(facecolor=CLASS_LOOKS[k % len(CLASS_LOOKS)].colour, label=f"class {k}") for k in np.unique(base)
    ]
    usual = "base classifier" if sigma is None else f"smoothed at σ = {sigma:g}"
    return _square(ax, window, title or usual, names)


@style()
def choice_field(
    system: Choice,
    *,
    points: ArrayLike | None = None,
    radii: ArrayLike | None = None,
    entry: ArrayLike | None = None,
    window: Window = (0, 1, 0, 1),
    title: str = "chosen noise level",
    resolution: int = 240,
    ax: Axes | None = None,
) -> Axes:
    """Which noise level a system chooses at each place of the unit square, each in its own colour.

    `points` (N, 2) carry the mark of the system's answer there, and discs of `radii` (N,). Around the first
    point are dashed circles of the entry radii `entry` (K,), in the colour of their level.
    """
    ax = new_axes(ax, 4.4, 3.6)
    x, _, grid = _pixels(window, resolution)
    chosen, levels = system.choose(grid).reshape(x.shape), [sigma_look(sigma) for sigma in system.sigmas]
    colours = _paler([matplotlib.colors.to_rgb(level.colour) for level in levels], 0.6)
    ax.imshow(colours[chosen], extent=window, origin="lower", interpolation="nearest")
    if points is not None:
        centres = _points(points)
        for radius, level in zip(() if entry is None else np.asarray(entry), levels, strict=False):
            _circles(ax, centres[:1], radius, edgecolor="white", linewidth=4.0)
            _circles(ax, centres[:1], radius, edgecolor=level.colour, linestyle=(0, (2, 1)), linewidth=2.2)
        _circles(ax, centres, radii, linewidth=1.4)
        _marks(ax, system, centres, size=6.0, edge=0.8)
    names = [
        Patch(color=tuple(colour), label=level_label(sigma))
        for colour, sigma in zip(colours, system.sigmas, strict=True)
    ]
    return _square(ax, window, title, names)


class MovingPoint(Drawing):
    """A point over a `plane_field` or `choice_field`, circles about it and draws of it; `show` moves them.

    `circles` are their looks, by name.
    """

    @style()
    def __init__(self, circles: Mapping[str, Mapping[str, Any]], *, ax: Axes) -> None:
        super().__init__(ax)
        self.circles = {
            name: ax.add_patch(Circle((0, 0), 0.0, fill=False, **{"edgecolor": BLACK, **look}))
            for name, look in circles.items()
        }
        self.dots, self.points = (
            [
                ax.plot([], [], look.marker, color=look.colour, markersize=size, markeredgecolor=BLACK,
                        markeredgewidth=edge)[0]
                for look in CLASS_LOOKS
            ]
            for size, edge in ((2.8, 0.3), (6.0, 0.8))
        )  # fmt: skip
        self.moving = [*self.dots, *self.circles.values(), *self.points]

    def clear(self) -> None:
        """Take the ground away, for another one."""
        for artist in (*self.ax.images, *self.ax.collections):
            artist.remove()

    @style()
    def show(
        self,
        plane: Plane | Choice,
        point: ArrayLike,
        radii: Mapping[str, float],
        draws: ArrayLike | None = None,
    ) -> Axes:
        """The point (2,), marked by its class; a circle of radius 0 or without end is not drawn."""
        for lines, points in ((self.points, point), (self.dots, draws)):
            at = np.empty((0, 2)) if points is None else _points(points)
            kinds = plane.predict(at) % len(CLASS_LOOKS) if len(at) else np.empty(0)
            for kind, line in enumerate(lines):
                line.set_data(*at[kinds == kind].T)
        x, y = _points(point)[0]
        for name, circle in self.circles.items():
            drawn = 0 < radii[name] < np.inf
            circle.set_visible(drawn)
            circle.set(center=(x, y), radius=radii[name] if drawn else 0.0)
        return self.ax


@style()
def choice_and_answers(
    system: Choice,
    *,
    points: ArrayLike | None = None,
    radii: ArrayLike | None = None,
    window: Window = (0, 1, 0, 1),
) -> Axes:
    """Side by side, which noise level a system chooses and what it answers; arguments as of `choice_field`.

    The Axes returned are those on the right.
    """
    part: dict[str, Any] = {"points": points, "radii": radii, "window": window}
    left, right = row_of_axes(3.4, 3.4, height=2.6)
    choice_field(system, **part, ax=left)
    answers = cast(Plane, system)  # asked for classes only, as no sigma is given
    return plane_field(answers, **part, title="what the system answers", ax=right)


def _square(ax: Axes, window: Window, title: str, names: Sequence[Patch]) -> Axes:
    # What all pictures of the plane have in common: its window, and names beside it.
    ax.set(xlim=window[:2], ylim=window[2:], xlabel="$x_1$", ylabel="$x_2$", title=title)
    ax.legend(handles=list(names), loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    ax.grid(visible=False)
    return ax


def _pixels(window: Window, resolution: int) -> tuple[Any, Any, NDArray[np.float64]]:
    # The middles of resolution x resolution pixels, as x and y (R, R) and as points (R * R, 2).
    middles = (np.arange(resolution) + 0.5) / resolution
    across, up = (low + (high - low) * middles for low, high in (window[:2], window[2:]))
    x, y = np.meshgrid(across, up)
    return x, y, np.stack([x.ravel(), y.ravel()], axis=1)


def _paler(colours: ArrayLike, strength: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(1 - np.asarray(strength)[..., None] * (1 - np.asarray(colours)))


def _circles(ax: Axes, centres: NDArray[np.float64], radii: ArrayLike | None, **look: Any) -> None:
    lengths = np.zeros(len(centres)) if radii is None else np.atleast_1d(np.asarray(radii, dtype=np.float64))
    for (x, y), radius in zip(centres, lengths, strict=True):
        if 0 < radius < np.inf:
            ax.add_patch(Circle((x, y), radius, fill=False, **{"edgecolor": BLACK, **look}))


def _borders(ax: Axes, kinds: NDArray[np.int64], x: Any, y: Any, **look: Any) -> None:
    for kind in np.unique(kinds)[:-1]:
        ax.contour(x, y, kinds == kind, levels=[0.5], colors=look["color"], linewidths=look["linewidth"])


def _marks(ax: Axes, plane: Plane | Choice, points: NDArray[np.float64], *, size: float, edge: float) -> None:
    kinds = plane.predict(points)
    for kind in np.unique(kinds):
        look, at = CLASS_LOOKS[kind % len(CLASS_LOOKS)], points[kinds == kind]
        ax.plot(
            at[:, 0], at[:, 1], look.marker, color=look.colour, markersize=size,
            markeredgecolor=BLACK, markeredgewidth=edge,
        )  # fmt: skip


def _points(points: ArrayLike) -> NDArray[np.float64]:
    return np.atleast_2d(np.asarray(points, dtype=np.float64))


@style()
def probability_paths(
    moved: ArrayLike, along: ArrayLike, worst: ArrayLike, *, ax: Axes | None = None
) -> Axes:
    """Probability of a class as its point moves: `along` (D, P) on P paths, `worst` (D,) what is promised.

    `moved` (D,) are the distances. The class is promised up to where `worst` falls to 1/2: the radius.
    """
    ax = new_axes(ax, COLUMN, 3.0)
    distance, promised = np.asarray(moved, dtype=np.float64), np.asarray(worst, dtype=np.float64)
    paths = np.atleast_2d(np.asarray(along, dtype=np.float64).T)
    for number, path in enumerate(paths):
        label = "a path" if number == 0 else None
        ax.plot(distance, path, color=SKY, linewidth=1.1, label=label)
    ax.plot(distance, promised, color=BLACK, linestyle=(0, (4, 1.5)), linewidth=1.8, label="worst case")
    ax.axhline(0.5, color=RED, linestyle="--", linewidth=1.2, label="1/2")
    if promised.min() < 0.5 < promised.max():
        radius = float(np.interp(-0.5, -promised, distance))
        ax.axvline(radius, color=BLACK, linestyle=":", linewidth=1.2, label="radius")
    ax.set(xlabel="distance moved", ylabel="probability of the class", ylim=(0, 1.02))
    ax.set_xlim(distance.min(), distance.max())
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    ax.legend(loc="lower left")
    sns.despine(ax=ax)
    return ax
