"""Frame or tensor in, matplotlib Axes out: one look for every figure, on the screen and in print.

A function draws into `ax`, or into a new `Page` of a column's or a page's width; nothing enters pyplot's
registry, no style outlives a call. A notebook ends a cell with `certified_accuracy(…).figure` to show it.
Colour stands for the noise level or, where all share one, for the method; line style and marker say the same
in black and white. Radii are l2 in the [0, 1] pixel unit.
"""

import io
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import matplotlib
import matplotlib.colors
import matplotlib.ticker
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.bounds import rs_radius
from dualrs_lab.cascades import cascade_radius
from dualrs_lab.certificates import BOUNDS, Certificate, as_table, confidence_band, floor_text
from dualrs_lab.certificates import certified_accuracy as accuracy_at
from dualrs_lab.claim import ABSTAIN, Claims, reach
from dualrs_lab.routes import published_radius, routed_radius

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "COLUMN",
    "MARKERS",
    "METHODS",
    "PAGE",
    "Choice",
    "Look",
    "Page",
    "Plane",
    "bound_against_n",
    "cascade_steps",
    "certified_accuracy",
    "choice_and_answers",
    "choice_field",
    "draws_against_radius",
    "entry_and_expert_radii",
    "images_by_level",
    "legend_beside",
    "looks",
    "new_axes",
    "noisy_strip",
    "plane_field",
    "png",
    "probability_paths",
    "radius_against_n",
    "radius_histogram",
    "row_of_axes",
    "sigma_look",
    "style",
    "trade_off",
    "training_curves",
    "vote_bars",
]

MARKERS = "osD^vPX*<>hpd8"  # for series that have no look of their own
COLUMN, PAGE = 3.4, 6.8  # widths in inches of a column and of a page of two
RADIUS = r"$\ell_2$ radius (pixels in [0, 1])"
_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _BROWN, _PINK, _GREY, _YELLOW, _SKY = sns.color_palette(
    "colorblind"
).as_hex()
_BLACK = "#303030"


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
    "standard": Look(_BLACK, ":", "X"),
    "gaussian": Look(_BLUE, "-", "o"),
    "rs": Look(_BLUE, "-", "o"),
    "consistency": Look(_ORANGE, "--", "s"),
    "dual": Look(_RED, "-.", "D"),
    "cascade": Look(_PURPLE, "-", "P"),
    "mix": Look(_GREEN, "-", "^"),
    "published": Look(_GREY, "-", "v"),
}
"""Look of each method; the order is that of legends. Other names follow, in the order given."""

_SPARE = [
    Look(colour, line, marker)
    for line, (colour, marker) in itertools.product(
        ["-", "--", "-.", ":"],
        [(_GREEN, "^"), (_PURPLE, "P"), (_BROWN, "<"), (_SKY, ">"), (_PINK, "h"), (_BLACK, "X")],
    )
]
_LINES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2))]
_BARS = 12  # classes in a picture of votes
_BIN_WIDTHS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, float("inf")]
_THIN = (0, (4, 2))  # for what others published
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
    Look(_PINK, "-", "<"),
    Look(_RED, "-", ">"),
    Look(_BROWN, "-", "v"),
    Look(_SKY, "-", "^"),
    Look(_BLUE, "-", "o"),
    Look(_ORANGE, "-", "s"),
    Look(_GREEN, "-", "D"),
    Look(_PURPLE, "-", "P"),
]


Window = tuple[float, float, float, float]  # first and last x, first and last y
_CLASSES = [Look(_SKY, "-", "o"), Look(_YELLOW, "-", "s"), Look(_PURPLE, "-", "^"), Look(_GREEN, "-", "D")]


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


class Page(Figure):
    """A figure in our style that no registry holds; a notebook shows it where it ends a cell."""

    def draw(self, renderer: Any) -> None:
        with style():  # ticks are made, and read the style, only here
            super().draw(renderer)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = self.get_size_inches() * 100
        return png(self, dpi=144), {"width": int(width), "height": int(height)}


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
            choices = [replace(level, line=line) for line in (look.line, *_LINES)]
        chosen[label] = next(choice for choice in choices if choice not in chosen.values())
    return chosen


@style()
def certified_accuracy(
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
    `sigma`, `radius` and `certified_accuracy`, is drawn as points. With `show`, only those labels of `tables`
    are drawn, with the looks and the axis of all.
    """
    ax = new_axes(ax, PAGE, 3.6)
    logs = _tables(published) if isinstance(published, Mapping) else {}
    given = _tables(tables)
    own = looks(given)
    series = [(label, given[label], look, band) for label, look in own.items()]
    for label, look in looks(logs).items():
        thin = replace(own.get(label, look), line=_THIN)
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
    # the accuracy changes just after the radius of a row: a step that holds up to and including it
    x = np.unique(np.concatenate([[0.0, end], reach(table), marks]))
    x = x[(x >= 0) & (x <= end)]
    where = np.searchsorted(x, marks).tolist()
    thin: dict[str, Any] = {"linewidth": 0.9, "markersize": 4, "markerfacecolor": "white"}
    bold: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    ax.plot(
        x, accuracy_at(table, x), color=look.colour, linestyle=look.line, marker=look.marker, markevery=where,
        drawstyle="steps-pre", label=label, **(thin if look.line == _THIN else bold),
    )  # fmt: skip
    if band is not None:
        low, high = confidence_band(table, x, band)
        ax.fill_between(x, low, high, step="pre", color=look.colour, alpha=0.15, linewidth=0)


def _printed(ax: Axes, numbers: pd.DataFrame) -> None:
    for _, rows in numbers.groupby(["method", "sigma"], sort=False):
        method, sigma = rows["method"].iloc[0], float(rows["sigma"].iloc[0])
        look = sigma_look(sigma)
        ax.plot(
            rows["radius"], rows["certified_accuracy"], color=look.colour, linestyle=_THIN, linewidth=0.9,
            marker=look.marker, markersize=4, markerfacecolor="white", label=f"{method}, {_level(sigma)}",
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
    ax.axvline(-0.5 * width, color=_GREY, linewidth=0.8)
    ax.legend(handles, list(chosen))
    sns.despine(ax=ax)
    return ax


@style()
def draws_against_radius(claims: Claims, *, radii: Sequence[float] = (), ax: Axes | None = None) -> Axes:
    """Where the draws went: draws of each image against the radius that its share of votes stands for.

    With early stopping at `radii` (dashed) they pile up there, where the decision is hard. An image whose
    guessed class has no majority of the votes stands at radius 0.
    """
    ax = new_axes(ax, PAGE, 2.8)
    table = as_table(claims)
    share = ((table["successes"] + 0.5) / (table["n"] + 1)).to_numpy(dtype=np.float64)
    estimate = rs_radius(share, table["sigma"].to_numpy(dtype=np.float64))
    right = table["correct"].astype(bool).to_numpy()
    for chosen, colour, marker, label in [
        (right, _BLUE, "o", "right"),
        (~right, _ORANGE, "X", "wrong or abstains"),
    ]:
        ax.plot(
            estimate[chosen],
            table["drawn"][chosen],
            marker,
            color=colour,
            markersize=4,
            alpha=0.6,
            label=label,
        )
    for radius in radii:
        ax.axvline(radius, color=_GREY, linestyle="--", linewidth=0.8)
    mean = float(table["drawn"].mean())
    ax.axhline(mean, color=_BLACK, linestyle=":", linewidth=1.2, label=f"mean {mean:,.0f}")
    ax.set(yscale="log", xlabel="radius that the share of votes stands for", ylabel="draws")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    sns.despine(ax=ax)
    return ax


@style()
def vote_bars(
    certificate: Certificate, *, classes: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Share of the n votes by class, the lower bound of the guessed class's probability, and the 1/2 line.

    It certifies where the bound is beyond the line; ✓ marks the label. Without names (`classes`), only
    classes with votes are shown, and at most the 12 with most votes.
    """
    c, votes = certificate, dict(certificate.votes)
    kinds = list(range(len(classes))) if classes else sorted({*votes, c.guess})
    by_votes = sorted(kinds, key=lambda kind: (kind not in (c.guess, c.label), -votes.get(kind, 0)))
    kinds = sorted(by_votes[:_BARS])
    ax = new_axes(ax, COLUMN, 1.0 + 0.17 * len(kinds))
    colours = [_BLUE if kind == c.guess else _GREY for kind in kinds]
    ax.barh(range(len(kinds)), [votes.get(kind, 0) / c.n for kind in kinds], color=colours, height=0.75)
    low, place = float(BOUNDS[c.bound](c.successes, c.n, c.alpha)), kinds.index(c.guess)
    ax.plot([low, low], [place - 0.5, place + 0.5], color=_BLACK, linewidth=2.2, label="lower bound")
    ax.axvline(0.5, color=_RED, linestyle="--", linewidth=1.2, label="1/2")
    names = [classes[kind] if classes else f"class {kind}" for kind in kinds]
    marked = [f"{name} ✓" if kind == c.label else name for kind, name in zip(kinds, names, strict=True)]
    ax.set_yticks(range(len(kinds)), marked)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "1/2", "0.75", "1"])
    verdict = "abstains" if c.predict == ABSTAIN else f"{names[place]} within radius {floor_text(c.radius)}"
    bound = f"lower bound {floor_text(low)} (alpha = {c.alpha:g})"
    ax.set(xlim=(0, 1.02), ylim=(len(kinds) - 0.4, -0.6), xlabel=f"share of {c.n:,} votes")
    ax.set_title(f"σ = {c.sigma:g}: {verdict}\n{bound}")
    ax.grid(axis="y", visible=False)
    sns.despine(ax=ax)
    return ax


@style()
def noisy_strip(
    images: "Tensor",
    sigmas: Sequence[float],
    *,
    seed: int,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Images at several noise levels, one row each: uint8 or float in [0, 1], (C, H, W) or (N, C, H, W).

    One draw of noise per image, scaled by sigma; values outside [0, 1] are clipped for the eye only.
    """
    import torch  # here, as no other figure needs it

    images = images if images.ndim == 4 else images[None]
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        got = tuple(images.shape)
        raise ValueError(f"noisy_strip: wanted grey or RGB (C, H, W) or (N, C, H, W), got {got}.")
    x = images.cpu().to(torch.float32) / (255 if images.dtype == torch.uint8 else 1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    noisy = torch.stack([(x + sigma * noise).clamp(0, 1) for sigma in sigmas], dim=1)
    rows, columns, channels, height, width = noisy.shape
    gap = max(1, width // 16)
    tiles = torch.nn.functional.pad(noisy, (0, gap, 0, gap), value=1.0)
    sheet = tiles.permute(0, 3, 1, 4, 2).reshape(rows * (height + gap), columns * (width + gap), channels)
    picture = sheet[:-gap, :-gap].numpy()
    ax = new_axes(ax, PAGE, min(9.0, 0.3 + PAGE * picture.shape[0] / picture.shape[1]))
    ax.imshow(picture, vmin=0, vmax=1, cmap="gray", interpolation="nearest")
    ax.set_xticks([i * (width + gap) + width / 2 for i in range(columns)], [_level(s) for s in sigmas])
    ax.set_yticks([i * (height + gap) + height / 2 for i in range(rows)], names or [""] * rows)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, bottom=True)
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
    lines, thin = itertools.cycle(_LINES), itertools.cycle([_THIN, *_LINES[2:]])
    for name, group in groups.items():
        known = name.startswith("published")
        line, width, colour = (next(thin), 0.9, _GREY) if known else (next(lines), 1.4, _BLACK)
        x, y = group[clean], group[certified]
        handles += ax.plot(x, y, color=colour, linestyle=line, linewidth=width, label=name)
        for sigma, at, height in zip(group["sigma"], x, y, strict=True):
            level = sigma_look(sigma)
            face = "white" if known else level.colour
            ax.plot([at], [height], level.marker, color=face, markeredgecolor=level.colour, markersize=6.5)
    for sigma in sorted(points["sigma"].unique()):
        level = sigma_look(sigma)
        dot = Line2D([], [], linestyle="", marker=level.marker, color=level.colour, label=_level(sigma))
        handles.append(dot)
    ax.set(xlabel="clean accuracy", ylabel=label)
    ax.margins(0.06)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    sns.despine(ax=ax)
    return ax


@style()
def bound_against_n(curves: pd.DataFrame, n: int, *, ax: Axes | None = None) -> Axes:
    """What n buys: the lower bound of a probability against the draws, for one share of the votes.

    `curves` has rows of increasing `n`, and `share` and `lower`; a dot marks the row at `n`.
    """
    ax = _against_n(curves, n, "lower", "lower bound", ax)
    ax.plot(curves["n"], curves["share"], color=_BLACK, linestyle=":", label="share of votes")
    ax.axhline(0.5, color=_RED, linestyle="--", linewidth=1.2, label="1/2")
    ax.set(ylabel="probability of the class", ylim=(0.4, 1.02))
    ax.legend(loc="lower right")
    return ax


@style()
def radius_against_n(curves: pd.DataFrame, n: int, *, ax: Axes | None = None) -> Axes:
    """What n buys: the certified radius against the draws, for one share of the votes.

    `curves` also has `ceiling`, the radius if all draws agreed, and `limit`, the radius from infinitely many.
    """
    ax = _against_n(curves, n, "radius", "certified", ax)
    ax.plot(curves["n"], curves["ceiling"], color=_GREY, linestyle="--", label="if all votes agreed")
    ax.plot(curves["n"], curves["limit"], color=_BLACK, linestyle=":", label="with endless draws")
    ax.set(ylabel=RADIUS, ylim=(0, 1.05 * float(curves["ceiling"].max())))
    ax.legend(loc="upper left")
    return ax


def _against_n(curves: pd.DataFrame, n: int, column: str, label: str, ax: Axes | None) -> Axes:
    ax = new_axes(ax, COLUMN, 2.8)
    at = curves.loc[curves["n"] == n, column]
    ax.plot(curves["n"], curves[column], color=_BLUE, label=label)
    ax.plot([n] * len(at), at, "o", color=_BLUE, markersize=7)
    ax.set(xscale="log", xlabel="draws n", xlim=(curves["n"].min(), curves["n"].max()))
    sns.despine(ax=ax)
    return ax


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
        _borders(ax, base, x, y, color=_GREY, linewidth=0.7)
        _borders(ax, shown, x, y, color=_BLACK, linewidth=1.4)
    colours = np.array([matplotlib.colors.to_rgb(look.colour) for look in _CLASSES])[shown % len(_CLASSES)]
    ax.imshow(_paler(colours, strength), extent=window, origin="lower", interpolation="nearest")
    if draws is not None:
        _marks(ax, plane, _points(draws), size=2.8, edge=0.3)
    if points is not None:
        centres = _points(points)
        _circles(ax, centres, radii, linewidth=1.4)
        _circles(ax, centres, exact, linestyle="--", linewidth=0.9)
        _marks(ax, plane, centres, size=6.0, edge=0.8)
    names = [Patch(facecolor=_CLASSES[k % len(_CLASSES)].colour, label=f"class {k}") for k in np.unique(base)]
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
        Patch(color=tuple(colour), label=_level(sigma))
        for colour, sigma in zip(colours, system.sigmas, strict=True)
    ]
    return _square(ax, window, title, names)


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
        ax.plot(min(max(r[j], R[j]), reach), j - 0.17 if r[j] > R[j] else j + 0.17, "D", color=_BLACK)
    published, routed = float(published_radius(r, R, top)), float(routed_radius(r, R))
    lines = [
        ax.axvline(routed, color=_BLACK, label=f"routed {floor_text(routed)}"),
        ax.axvline(published, color=_RED, linestyle="--", label=f"published {floor_text(published)}"),
    ]
    bars = [
        Patch(facecolor="0.93", edgecolor="0.45", hatch="////", label="$r_j$: cannot be chosen"),
        Patch(color=_GREY, label="$R_j$: gives the class"),
    ]
    names = [_level(sigma) + (" (chosen)" if j == top else "") for j, sigma in enumerate(sigmas)]
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
    """Two bars for each of K experts of a cascade, asked from the top: see `cascades`.

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
        Patch(color=_GREY, label="gives the class"),
    ]
    if radius > 0:
        handles.append(ax.axvline(radius, color=_BLACK, label=f"radius {floor_text(radius)}"))
    names = [_level(sigma) + (" (answers)" if j == answers else "") for j, sigma in enumerate(sigmas)]
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
    ax.set_yticks([1.35 * row + 0.5 for row in range(len(known))], [_level(level) for level in known])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


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
            ax.add_patch(Circle((x, y), radius, fill=False, **{"edgecolor": _BLACK, **look}))


def _borders(ax: Axes, kinds: NDArray[np.int64], x: Any, y: Any, **look: Any) -> None:
    for kind in np.unique(kinds)[:-1]:
        ax.contour(x, y, kinds == kind, levels=[0.5], colors=look["color"], linewidths=look["linewidth"])


def _marks(ax: Axes, plane: Plane | Choice, points: NDArray[np.float64], *, size: float, edge: float) -> None:
    kinds = plane.predict(points)
    for kind in np.unique(kinds):
        look, at = _CLASSES[kind % len(_CLASSES)], points[kinds == kind]
        ax.plot(
            at[:, 0], at[:, 1], look.marker, color=look.colour, markersize=size,
            markeredgecolor=_BLACK, markeredgewidth=edge,
        )  # fmt: skip


def _points(points: ArrayLike) -> NDArray[np.float64]:
    return np.atleast_2d(np.asarray(points, dtype=np.float64))


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


def _tables(claims: Mapping[str, Claims]) -> dict[str, pd.DataFrame]:
    return {label: as_table(one) for label, one in claims.items()}


def _method(label: str, table: pd.DataFrame) -> str:
    known = [name for name in METHODS if label.startswith(name)]
    return known[0] if known else str(_only(table, "method") or label)


def _level(sigma: float) -> str:
    return f"σ = {sigma:g}" if sigma else "no noise"


def _only(table: pd.DataFrame, column: str) -> Any:
    # the value on which all rows agree, or None
    return table[column].iloc[0] if column in table and table[column].nunique() == 1 else None


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
        ax.plot(distance, path, color=_SKY, linewidth=1.1, label=label)
    ax.plot(distance, promised, color=_BLACK, linestyle=(0, (4, 1.5)), linewidth=1.8, label="worst case")
    ax.axhline(0.5, color=_RED, linestyle="--", linewidth=1.2, label="1/2")
    if promised.min() < 0.5 < promised.max():
        radius = float(np.interp(-0.5, -promised, distance))
        ax.axvline(radius, color=_BLACK, linestyle=":", linewidth=1.2, label="radius")
    ax.set(xlabel="distance moved", ylabel="probability of the class", ylim=(0, 1.02))
    ax.set_xlim(distance.min(), distance.max())
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    ax.legend(loc="lower left")
    sns.despine(ax=ax)
    return ax
