"""The board: natural against robust accuracy of every method, under one threat at a time.

A point is a row with the columns COLUMNS. `robust` is accuracy under the named attacks (an upper bound on the
truth) or certified accuracy (a lower bound); `threat` tells the two apart, so they are never put on one
plane.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from dualrs_lab.evidence.summary import certified_accuracy
from dualrs_lab.figures.style import MARKERS, PAGE, legend_beside, new_axes, style
from dualrs_lab.files import replace_text

__all__ = [
    "POINT_COLUMNS",
    "board",
    "by_certified",
    "certified_points",
    "front",
    "on_front",
    "points",
    "points_at",
    "read_points",
    "write_points",
]


POINT_COLUMNS = ("threat", "family", "label", "natural", "robust", "attack")


def points(
    table: pd.DataFrame,
    *,
    threat: str,
    family: str | Sequence[str],
    attack: str,
    robust: str = "worst",
    natural: str = "natural",
) -> pd.DataFrame:
    """Points of a summary: a row for each system, its label as index, columns `natural` and `robust`.

    `family` is one for all, or one for each row.
    """
    columns = {"natural": table[natural].to_numpy(), "robust": table[robust].to_numpy(), "attack": attack}
    found = pd.DataFrame({"threat": threat, "family": family, "label": table.index.astype(str), **columns})
    _check("points", found)
    return found


def points_at(
    table: pd.DataFrame, radius: float, *, family: str | Sequence[str], natural: str = "natural"
) -> pd.DataFrame:
    """Points of certificates at an l2 radius, from certified accuracies in columns "0", "0.25", … by label.

    With `natural` "0" the plane is that of `certified_points`: certified there against certified at all.
    """
    threat, robust = f"l2 {radius:g} certified", f"{radius:g}"
    return points(table, threat=threat, family=family, attack="certificate", robust=robust, natural=natural)


def by_certified(found: pd.DataFrame, radius: float) -> pd.DataFrame:
    """Points at l2 `radius` with what each certifies at radius 0, also in `found`, for natural accuracy."""
    here, at_0 = (
        found[found["threat"] == f"l2 {r:g} certified"].set_index(["family", "label"]) for r in (radius, 0)
    )
    return here.assign(natural=at_0["robust"].loc[here.index]).reset_index()[list(POINT_COLUMNS)]


def certified_points(tables: Mapping[str, pd.DataFrame], *, family: str, radius: float) -> pd.DataFrame:
    """Points of tables of certificates: certified accuracy at `radius` (l2) against that at 0."""
    rows = [
        {
            "label": label,
            "natural": float(certified_accuracy(table, 0)),
            "robust": float(certified_accuracy(table, radius)),
        }
        for label, table in tables.items()
    ]
    found = pd.DataFrame(rows).assign(threat=f"l2 {radius:g} certified", family=family, attack="certificate")
    return found[list(POINT_COLUMNS)]


def write_points(path: Path | str, found: pd.DataFrame) -> None:
    """Replace the file at `path` (csv) by these points, checked."""
    _check("write_points", found)
    replace_text(Path(path), found[list(POINT_COLUMNS)].to_csv(index=False, lineterminator="\n"))


def read_points(paths: Sequence[Path | str]) -> pd.DataFrame:
    """All points of these files, checked."""
    parts = [pd.read_csv(path, dtype={"label": str}) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        _check(f"read_points({path})", part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(POINT_COLUMNS))


def front(found: pd.DataFrame) -> "pd.Series[bool]":
    """Whether no other point is at least as good in both accuracies and better in one: the Pareto front."""
    x, y = (found[name].to_numpy(dtype=np.float64) for name in ("natural", "robust"))
    better = (
        (x[None] >= x[:, None]) & (y[None] >= y[:, None]) & ((x[None] > x[:, None]) | (y[None] > y[:, None]))
    )
    return pd.Series(~better.any(axis=1), index=found.index)


def on_front(found: pd.DataFrame, *, published: str = "published") -> pd.DataFrame:
    """Family, label, natural, robust of the points that nobody measured here beats, by natural accuracy."""
    own = found[~found["family"].str.startswith(published)]
    return own[front(own)].sort_values("natural")[["family", "label", "natural", "robust"]]


@style()
def board(
    found: pd.DataFrame,
    *,
    published: str = "published",
    accuracy: str = "natural accuracy",
    ax: Axes | None = None,
) -> Axes:
    """Points of one threat, a colour and marker per family, and the Pareto front of what was measured here.

    Families whose name begins with `published` are drawn hollow, for reference, and stay off the front.
    `accuracy` says what the column `natural` holds: it has to be the same for all points.
    """
    if found["threat"].nunique() != 1:
        raise ValueError(f"board: got points of threats {sorted(set(found['threat']))}; wanted those of one")
    ax = new_axes(ax, PAGE, 3.8)
    known = found["family"].str.startswith(published)
    own = found[~known]
    best = own[front(own)].sort_values(["natural", "robust"])
    ax.plot(
        best["natural"],
        best["robust"],
        color="0.7",
        linewidth=4,
        alpha=0.6,
        zorder=0,
        label="Pareto front (here)",
    )
    colours, markers = sns.color_palette("colorblind").as_hex(), MARKERS
    for number, (family, rows) in enumerate(found.groupby("family", sort=False)):
        colour, hollow = colours[number % len(colours)], str(family).startswith(published)
        ax.plot(
            rows["natural"], rows["robust"], markers[number % len(markers)], color=colour, markersize=6,
            markerfacecolor="none" if hollow else colour, markeredgecolor=colour if hollow else "white",
            markeredgewidth=1.1 if hollow else 0.5, label=str(family),
        )  # fmt: skip
    attacks = " / ".join(dict.fromkeys((own if len(own) else found)["attack"]))
    ax.set(xlabel=accuracy, ylabel="robust accuracy", title=f"{found['threat'].iloc[0]}: {attacks}")
    ax.margins(0.06)
    legend_beside(ax)
    return ax


def _check(call: str, found: pd.DataFrame) -> None:
    if missing := [name for name in POINT_COLUMNS if name not in found]:
        raise ValueError(f"{call}: no {', '.join(missing)} in the points; they have {list(found)}")
    inside = found[["natural", "robust"]].ge(0) & found[["natural", "robust"]].le(1)
    bad = found[~inside.all(axis=1) | (found["robust"] > found["natural"] + 1e-9)]
    if len(bad):
        raise ValueError(
            f"{call}: {bad['label'].tolist()[:10]} are not shares, or more robust than they are accurate; no "
            "classifier is: the numbers are of different images or networks"
        )
