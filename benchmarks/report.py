"""Rows as a table in text and as a figure fit for print."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.measure import Row, frame
from dualrs_lab.figures import METHODS, PAGE, Look, Page, sigma_look, style

__all__ = ["figure", "table"]

LOOKS = {
    "textbook": METHODS["standard"],
    "ART": METHODS["published"],
    "ours": METHODS["gaussian"],
    "all draws": METHODS["gaussian"],
    "at radii": METHODS["dual"],
    "at radii, n/2": METHODS["dual"],
    "input-specific": METHODS["consistency"],
}
_HATCHES = ["", "///", "...", "xxx"]


def table(rows: Sequence[Row], part: str) -> str:
    """A part as a Markdown table: medians, with the quartiles of the rounds where there were several."""
    found = frame([row for row in rows if row.part == part])
    found["what"] = [
        ", ".join(filter(None, [q, s])) + (f" ({u})" if u else "")
        for q, s, u in zip(found["quantity"], found["setting"], found["unit"], strict=True)
    ]
    found["cell"] = [
        _number(m) + (f" [{_number(a)}, {_number(b)}]" if count > 1 else "")
        for m, a, b, count in zip(found["median"], found["q1"], found["q3"], found["values"], strict=True)
    ]
    arms, quantities = found["arm"].unique(), found["what"].unique()
    wide = found.pivot(index="arm", columns="what", values="cell").reindex(index=arms, columns=quantities)
    wide = (wide if len(arms) >= len(quantities) else wide.T).fillna("")
    lines = [[part, *map(str, wide.columns)], *([str(name), *cells] for name, *cells in wide.itertuples())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _number(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


@style()
def figure(rows: Sequence[Row]) -> Page | None:
    """A panel for each part that was measured; None where there is nothing to draw."""
    found = frame(rows) if rows else pd.DataFrame({"part": []})
    panels: dict[str, Callable[[Axes, pd.DataFrame], None]] = {
        "per_draw": _per_draw,
        "split": _split,
        "per_image": _per_image,
        "accuracy": _accuracy,
        "growth": _growth,
        "memory": _memory,
    }
    found = found.assign(panel=found["part"])
    found.loc[found.get("quantity", found["part"]).str.startswith("certified accuracy, the"), "panel"] = (
        "accuracy"
    )
    drawn = [name for name in panels if (found["panel"] == name).any()]
    if not drawn:
        return None
    lines = -(-len(drawn) // 2)
    page = Page(figsize=(PAGE, 2.45 * lines), layout="constrained")
    axes = page.subplots(lines, 2, squeeze=False).flatten()
    for ax, name in zip(axes, drawn, strict=False):
        panels[name](ax, found[found["panel"] == name])
        sns.despine(ax=ax)
    for ax in axes[len(drawn) :]:
        ax.remove()
    return page


def _per_draw(ax: Axes, found: pd.DataFrame) -> None:
    costs = found[found["quantity"] == "time per draw"]
    factors = found[found["quantity"] == "textbook / this"].set_index("arm")["median"]
    labels = [f"{factors[arm]:.3g}×" for arm in costs["arm"]]
    _bars(ax, costs, labels, lambda arm: LOOKS.get(arm, LOOKS["ours"]))
    ax.set(xlabel="µs per draw (×: textbook / this)", title="time per draw")


def _per_image(ax: Axes, found: pd.DataFrame) -> None:
    costs = found[found["quantity"].str.startswith("time per image")]
    whole = costs["quantity"].str.startswith("time per image, in full")
    costs = costs[~(whole & (costs["arm"] == "textbook"))]
    factors = found[found["quantity"].str.endswith("/ this")].set_index("arm")["median"]
    measured = {"textbook": "per draw × n", "ART": "in full"}
    labels = [f"{factors[arm]:.3g}×" if arm in factors else measured[arm] for arm in costs["arm"]]
    _bars(ax, costs, labels, lambda arm: LOOKS[arm])
    ax.set(xlabel="s per image (×: textbook / this)", title="time per certified image")


def _bars(ax: Axes, costs: pd.DataFrame, labels: Sequence[str], look: Callable[[str], Look]) -> None:
    y = np.arange(len(costs))
    error = np.abs(costs[["q1", "q3"]].to_numpy().T - costs["median"].to_numpy())
    colours = [look(arm).colour for arm in costs["arm"]]
    ax.barh(y, costs["median"], xerr=error, color=colours, height=0.7, error_kw={"elinewidth": 0.8})
    for place, value, label in zip(y, costs["q3"], labels, strict=True):
        ax.annotate(label, (value, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    ax.set_yticks(y, costs["arm"])
    ax.set(ylim=(len(costs) - 0.4, -0.6), xlim=(costs["median"].min() / 2, costs["median"].max() * 8))
    _log(ax, "x")
    ax.grid(axis="y", visible=False)


def _log(ax: Axes, *names: str) -> None:
    for name in names:
        getattr(ax, f"set_{name}scale")("log")
        axis = getattr(ax, f"{name}axis")
        low, high = getattr(ax, f"get_{name}lim")()
        axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 3.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        axis.set_minor_formatter(NullFormatter())


def _split(ax: Axes, found: pd.DataFrame) -> None:
    shades = dict(zip(["noise", "add", "network", "count"], sns.color_palette("colorblind"), strict=False))
    costs = found[found["quantity"].isin(shades)].pivot(index="arm", columns="quantity", values="median")
    costs = costs.reindex(index=found["arm"].unique(), columns=list(shades))
    shares = 100 * costs.div(costs.sum(axis=1), axis=0)
    left = np.zeros(len(costs))
    for (piece, colour), hatch in zip(shades.items(), _HATCHES, strict=True):
        bars = ax.barh(range(len(costs)), shares[piece], left=left, height=0.5, color=colour, label=piece)
        for bar in bars:
            bar.set(hatch=hatch, edgecolor="white")
        left += shares[piece].to_numpy()
    names = [f"{arm}\n{_number(total)} µs" for arm, total in costs.sum(axis=1).items()]
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="share of a draw (%), piece by piece", title="where the time goes", xlim=(0, 100))
    ax.set_ylim(len(names) - 0.1, -0.5)
    ax.legend(loc="lower center", ncols=4, fontsize=7, columnspacing=1, handlelength=1.2)
    ax.grid(axis="y", visible=False)


def _accuracy(ax: Axes, found: pd.DataFrame) -> None:
    for arm, rows in found.groupby("arm", sort=False):
        look = LOOKS[str(arm)]
        ax.plot(
            rows["at"], rows["median"], color=look.colour, linestyle=look.line, marker=look.marker, label=arm
        )
    ax.set(
        xlabel=r"$\ell_2$ radius",
        ylabel="certified accuracy (%)",
        title=_count(str(found["quantity"].iloc[0])),
    )
    ax.set_ylim(0, 104)
    ax.legend()


def _count(quantity: str) -> str:
    return quantity.partition(", ")[2].replace("the compared", "the same")


def _growth(ax: Axes, found: pd.DataFrame) -> None:
    ours = found[found["arm"] == "ours"]
    looks = map(sigma_look, (0.25, 0.5, 1.0, 2.0))  # four looks that no arm has in this figure
    for look, (quantity, rows) in zip(looks, ours.groupby("quantity", sort=False), strict=False):
        x, y = rows["at"] / rows["at"].iloc[0], rows["median"] / rows["median"].iloc[0]
        name = str(quantity).rpartition(" against ")[2]
        ax.plot(x, y, color=look.colour, linestyle=look.line, marker=look.marker, label=name)
    ax.set(xlabel="times the least", ylabel="times the cost per image", title="how our cost grows with")
    _log(ax, "x", "y")
    ax.legend(fontsize=7)


def _memory(ax: Axes, found: pd.DataFrame) -> None:
    for arm, rows in found.groupby("arm", sort=False):
        look = LOOKS[str(arm)]
        ax.plot(
            rows["at"], rows["median"], color=look.colour, linestyle=look.line, marker=look.marker, label=arm
        )
    ax.set(xscale="log", xlabel="draws n", ylabel="peak memory (MB)", title="memory", ylim=(0, None))
    ax.legend()
