"""Figures of votes: bars, bounds, and what more draws are worth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

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

__all__ = ["bound_against_n", "draws_against_radius", "noisy_strip", "radius_against_n", "vote_bars"]


_BARS = 12  # classes in a picture of votes


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
    c, votes = certificate, dict(certificate.votes)
    kinds = list(range(len(classes))) if classes else sorted({*votes, c.guess})
    by_votes = sorted(kinds, key=lambda kind: (kind not in (c.guess, c.label), -votes.get(kind, 0)))
    kinds = sorted(by_votes[:_BARS])
    ax = new_axes(ax, COLUMN, 1.0 + 0.17 * len(kinds))
    colours = [BLUE if kind == c.guess else GREY for kind in kinds]
    ax.barh(range(len(kinds)), [votes.get(kind, 0) / c.n for kind in kinds], color=colours, height=0.75)
    low, high = map(float, ruled_bounds(*c.counted(), **c.how()))  # type: ignore[arg-type]
    place, line = kinds.index(c.guess), 0.5 if np.isclose(high, 1 - low) else high
    ax.plot([low, low], [place - 0.5, place + 0.5], color=BLACK, linewidth=2.2, label="lower bound")
    ax.axvline(
        line, color=RED, linestyle="--", linewidth=1.2, label="1/2" if line == 0.5 else "rival at most"
    )
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
    ax.set_xticks([i * (width + gap) + width / 2 for i in range(columns)], [level_label(s) for s in sigmas])
    ax.set_yticks([i * (height + gap) + height / 2 for i in range(rows)], names or [""] * rows)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


@style()
def bound_against_n(curves: pd.DataFrame, n: int, *, ax: Axes | None = None) -> Axes:
    """What n buys: the bounds of two probabilities against the draws, for shares of the votes.

    `curves` has rows of increasing `n`, `share` and `lower` of the class, `second` and `upper` of its largest
    rival; a dot marks the row at `n`. Two bounds certify where they do not cross, Cohen's rule above 1/2.
    """
    ax = _against_n(curves, n, "lower", "class at least", ax)
    ax.plot(curves["n"], curves["upper"], color=ORANGE, label="rival at most")
    for share in ("share", "second"):
        ax.plot(curves["n"], curves[share], color=BLACK, linestyle=":", label="shares of votes")
    ax.axhline(0.5, color=RED, linestyle="--", linewidth=1.2, label="1/2")
    ax.set(ylabel="probability", ylim=(0, 1.02))
    lines, names = ax.get_legend_handles_labels()
    shown = dict(zip(names, lines, strict=True))  # each name once
    ax.legend(shown.values(), shown, loc="center right")
    return ax


@style()
def radius_against_n(curves: pd.DataFrame, n: int, *, ax: Axes | None = None) -> Axes:
    """What n buys: the certified radius by both rules against the draws, for shares of the votes.

    `curves` has `radius` by two bounds and `cohen` by Cohen's rule, `ceiling`, the most that any rule gives
    if all draws agreed, and `limit`, the radius from infinitely many.
    """
    ax = _against_n(curves, n, "radius", "two bounds", ax)
    ax.plot(curves["n"], curves["cohen"], color=ORANGE, label="Cohen's rule")
    ax.plot(curves["n"], curves["ceiling"], color=GREY, linestyle="--", label="if all votes agreed")
    ax.plot(curves["n"], curves["limit"], color=BLACK, linestyle=":", label="with endless draws")
    ax.set(ylabel=RADIUS, ylim=(0, 1.05 * float(curves["ceiling"].max())))
    ax.legend(loc="upper left")
    return ax


def _against_n(curves: pd.DataFrame, n: int, column: str, label: str, ax: Axes | None) -> Axes:
    ax = new_axes(ax, COLUMN, 2.8)
    at = curves.loc[curves["n"] == n, column]
    ax.plot(curves["n"], curves[column], color=BLUE, label=label)
    ax.plot([n] * len(at), at, "o", color=BLUE, markersize=7)
    ax.set(xscale="log", xlabel="draws n", xlim=(curves["n"].min(), curves["n"].max()))
    sns.despine(ax=ax)
    return ax
