"""Figures of votes: bars, bounds, and what more draws are worth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from dualrs_lab.evidence.certificate import Certificate
from dualrs_lab.evidence.claim import ABSTAIN, Claims
from dualrs_lab.evidence.radii import margin_radius, ruled_bounds
from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.evidence.table import as_table
from dualrs_lab.evidence.votes import read_column
from dualrs_lab.figures.live import Drawing
from dualrs_lab.figures.style import (
    BLACK,
    BLUE,
    COLUMN,
    GREY,
    ORANGE,
    PAGE,
    RADIUS,
    RED,
    level_label,
    new_axes,
    style,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BARS",
    "BoundsAgainstN",
    "RadiusAgainstN",
    "Strip",
    "VoteBars",
    "bound_against_n",
    "draws_against_radius",
    "noisy_strip",
    "radius_against_n",
    "vote_bars",
]


BARS = 12  # classes in a picture of votes


@style()
def draws_against_radius(claims: Claims, *, radii: Sequence[float] = (), ax: Axes | None = None) -> Axes:
    """Where the draws went: draws of each image against the radius that its share of votes stands for.

    With early stopping at `radii` (dashed) they pile up there, where the decision is hard. An image whose
    guessed class does not lead the votes stands at radius 0.
    """
    ax = new_axes(ax, PAGE, 2.8)
    table = as_table(claims)
    votes, guess = (
        read_column("votes", table["votes"]),
        read_column("selection", table["selection"]).leaders(),
    )
    own, rival = (
        (count + 0.5) / (votes.totals() + 1) for count in (votes.of(guess), votes.most_besides(guess))
    )
    estimate = margin_radius(own, rival, table["sigma"].to_numpy(dtype=np.float64))
    right = table["correct"].astype(bool).to_numpy()
    for chosen, colour, marker, label in [
        (right, BLUE, "o", "right"),
        (~right, ORANGE, "X", "wrong or abstains"),
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
        ax.axvline(radius, color=GREY, linestyle="--", linewidth=0.8)
    mean = float(table["drawn"].mean())
    ax.axhline(mean, color=BLACK, linestyle=":", linewidth=1.2, label=f"mean {mean:,.0f}")
    if table["drawn"].nunique() == 1:  # of which no limits follow
        ax.set_ylim(mean / 2, 2 * mean)
    ax.set(yscale="log", xlabel="radius that the share of votes stands for", ylabel="draws")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    sns.despine(ax=ax)
    return ax


@style()
def vote_bars(
    certificate: Certificate, *, classes: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Share of the n votes by class, the lower bound of the guessed class, and a line to be passed.

    The line is the upper bound of the largest rival, or 1/2 where its votes were not looked at or bound it no
    better. It certifies where the lower bound is beyond the line; ✓ marks the label. Without names
    (`classes`), only classes with votes are shown, and at most the 12 with most votes.
    """
    rows = len(_kinds(certificate, classes))
    ax = new_axes(ax, COLUMN, 1.0 + 0.17 * rows)
    return VoteBars(rows, ax=ax).show(certificate, classes=classes)


def _kinds(c: Certificate, classes: Sequence[str] | None) -> list[int]:
    # the classes that are shown: the guess, the label, those with most votes
    votes = dict(c.votes)
    kinds = list(range(len(classes))) if classes else sorted({*votes, c.guess})
    by_votes = sorted(kinds, key=lambda kind: (kind not in (c.guess, c.label), -votes.get(kind, 0)))
    return sorted(by_votes[:BARS])


class VoteBars(Drawing):
    """The picture of `vote_bars` with a number of `rows`, which `show` fills."""

    @style()
    def __init__(self, rows: int, *, ax: Axes) -> None:
        super().__init__(ax)
        self.bars = ax.barh(range(rows), [0.0] * rows, color=GREY, height=0.75, linewidth=0)
        (self.low,) = ax.plot([0, 0], [0, 1], color=BLACK, linewidth=2.2, label="lower bound")
        self.line = ax.axvline(0.5, color=RED, linestyle="--", linewidth=1.2)
        ax.set_yticks(range(rows))
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "1/2", "0.75", "1"])
        ax.set(xlim=(0, 1.02), ylim=(rows - 0.4, -0.6), xlabel="share of the votes", title=" ")
        ax.grid(axis="y", visible=False)
        sns.despine(ax=ax)
        self.moving = [*self.bars, self.low, self.line, ax.title]

    @style()
    def show(self, c: Certificate, *, classes: Sequence[str] | None = None, of: int | None = None) -> Axes:
        """These votes, as many rows of them as there are; `of` says that they are the first of so many."""
        votes, kinds = dict(c.votes), _kinds(c, classes)
        for bar, kind in zip(self.bars, kinds, strict=True):
            bar.set_width(votes.get(kind, 0) / c.n)
            bar.set_facecolor(BLUE if kind == c.guess else GREY)
        low, high = map(float, ruled_bounds(*c.counted(), **c.how()))  # type: ignore[arg-type]
        place, line = kinds.index(c.guess), 0.5 if np.isclose(high, 1 - low) else high
        self.low.set_data([low, low], [place - 0.5, place + 0.5])
        self.line.set_xdata([line, line])
        self.line.set_label("1/2" if line == 0.5 else "rival at most")
        named = [classes[kind] if classes else f"class {kind}" for kind in kinds]
        self.names(f"{name} ✓" if kind == c.label else name for kind, name in zip(kinds, named, strict=True))
        verdict = (
            "abstains" if c.predict == ABSTAIN else f"{named[place]} within radius {floor_text(c.radius)}"
        )
        drawn = f"{c.n:,} votes" if of is None else f"first {c.n:,} of {of:,} votes: a view"
        bound = f"lower bound {floor_text(low)} (alpha = {c.alpha:g})"
        self.ax.title.set_text(f"σ = {c.sigma:g}: {verdict}\n{bound}\n{drawn}")
        return self.ax


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
    noisy = torch.stack([x + sigma * noise for sigma in sigmas], dim=1)
    rows, columns, _, height, width = noisy.shape
    ratio = rows * (height + 1) / (columns * (width + 1))
    ax = new_axes(ax, PAGE, min(9.0, 0.3 + PAGE * ratio))
    return Strip(rows, columns, names=names, ax=ax).show(noisy, [level_label(sigma) for sigma in sigmas])


class Strip(Drawing):
    """Pictures side by side in `rows` and `columns`, names above and beside; `show` gives others."""

    @style()
    def __init__(self, rows: int, columns: int, *, names: Sequence[str] | None = None, ax: Axes) -> None:
        super().__init__(ax)
        self.pictures = ax.imshow([[0.0]], vmin=0, vmax=1, cmap="gray", interpolation="nearest")
        self.size: tuple[int, int] | None = None
        ax.set_xticks([i + 0.5 for i in range(columns)], [""] * columns)
        ax.set_yticks([i + 0.5 for i in range(rows)], names or [""] * rows)
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.grid(visible=False)
        sns.despine(ax=ax, left=True, bottom=True)
        self.moving = [self.pictures]

    @style()
    def show(self, pictures: "Tensor", above: Sequence[str]) -> Axes:
        """Pictures (rows, columns, C, H, W), clipped to [0, 1], under these names."""
        import torch

        rows, columns, channels, height, width = pictures.shape
        gap = max(1, width // 16)
        tiles = torch.nn.functional.pad(pictures.float().cpu().clamp(0, 1), (0, gap, 0, gap), value=1.0)
        sheet = tiles.permute(0, 3, 1, 4, 2).reshape(rows * (height + gap), columns * (width + gap), channels)
        self.pictures.set_data(sheet[:-gap, :-gap].squeeze(2).numpy())
        right, bottom = columns - gap / (width + gap), rows - gap / (height + gap)
        if self.size != (height, width):
            self.size = (height, width)
            self.pictures.set_extent((0, right, bottom, 0))
            self.ax.set_aspect((height + gap) / (width + gap))
            self.limits(xlim=(0, right), ylim=(bottom, 0))
        self.names(above, axis="x")
        return self.ax


@style()
def bound_against_n(curves: pd.DataFrame, n: int, *, ax: Axes | None = None) -> Axes:
    """What n buys: the bounds of two probabilities against the draws, for shares of the votes.

    `curves` has rows of increasing `n`, `share` and `lower` of the class, `second` and `upper` of its largest
    rival; a dot marks the row at `n`. Two bounds certify where they do not cross, Cohen's rule above 1/2.
    """
    return BoundsAgainstN(ax=new_axes(ax, COLUMN, 2.8)).show(curves, n)


@style()
def radius_against_n(curves: pd.DataFrame, n: int, *, ax: Axes | None = None) -> Axes:
    """What n buys: the certified radius by both rules against the draws, for shares of the votes.

    `curves` has `radius` by two bounds and `cohen` by Cohen's rule, `ceiling`, the most that any rule gives
    if all draws agreed, and `limit`, the radius from infinitely many.
    """
    return RadiusAgainstN(ax=new_axes(ax, COLUMN, 2.8)).show(curves, n)


class _AgainstN(Drawing):
    """Curves against the draws, each a column, and a dot on the first of them."""

    looks: ClassVar[dict[str, dict[str, Any]]]

    @style()
    def __init__(self, *, ax: Axes) -> None:
        super().__init__(ax)
        self.lines = {column: ax.plot([], [], **look)[0] for column, look in self.looks.items()}
        (self.dot,) = ax.plot([], [], "o", color=BLUE, markersize=7)
        ax.set(xscale="log", xlabel="draws n")
        sns.despine(ax=ax)
        self.moving = [*self.lines.values(), self.dot]

    @style()
    def show(self, curves: pd.DataFrame, n: int, *, end: int | None = None) -> Axes:
        """These curves, with the dot at `n`; the axis goes to `end`, or to their last draws."""
        for column, line in self.lines.items():
            line.set_data(curves["n"], curves[column])
        first = next(iter(self.lines))
        at = curves.loc[curves["n"] == n, first]
        self.dot.set_data([n] * len(at), at)
        low, high = min(100, curves["n"].min()), end or curves["n"].max()
        self.limits(xlim=(low, max(high, 1.5 * low)))
        return self.ax


class BoundsAgainstN(_AgainstN):
    """The picture of `bound_against_n`, which `show` fills."""

    looks: ClassVar[dict[str, dict[str, Any]]] = {
        "lower": {"color": BLUE, "label": "class at least"},
        "upper": {"color": ORANGE, "label": "rival at most"},
        "share": {"color": BLACK, "linestyle": ":", "label": "shares of votes"},
        "second": {"color": BLACK, "linestyle": ":"},
    }

    @style()
    def __init__(self, *, ax: Axes) -> None:
        super().__init__(ax=ax)
        ax.axhline(0.5, color=RED, linestyle="--", linewidth=1.2, label="1/2")
        ax.set(ylabel="probability", ylim=(0, 1.02))
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=2)


class RadiusAgainstN(_AgainstN):
    """The picture of `radius_against_n`, which `show` fills."""

    looks: ClassVar[dict[str, dict[str, Any]]] = {
        "radius": {"color": BLUE, "label": "two bounds"},
        "cohen": {"color": ORANGE, "label": "Cohen's rule"},
        "ceiling": {"color": GREY, "linestyle": "--", "label": "if all votes agreed"},
        "limit": {"color": BLACK, "linestyle": ":", "label": "with endless draws"},
    }

    @style()
    def __init__(self, *, ax: Axes) -> None:
        super().__init__(ax=ax)
        ax.set(ylabel=RADIUS)
        ax.legend(loc="upper left")

    @style()
    def show(self, curves: pd.DataFrame, n: int, *, end: int | None = None) -> Axes:
        """These curves, with the dot at `n`; the axis goes to `end`, or to their last draws."""
        self.limits(ylim=(0, 1.05 * float(curves["ceiling"].max())))
        return super().show(curves, n, end=end)
