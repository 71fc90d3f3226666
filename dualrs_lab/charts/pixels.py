"""Budgets of pixels to move: where they are placed, and accuracy against what an attacker may do."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.charts.chart import Chart, as_data
from dualrs_lab.charts.controls import menu, nearest, slider, tips
from dualrs_lab.charts.curves import ruled_curves
from dualrs_lab.charts.theme import RULER
from dualrs_lab.figures.style import BLACK, BLUE, GREEN, PURPLE, RED, Look

__all__ = ["attacked_chart", "budget_chart"]


SIDE = 170  # of a picture, in pixels of the page


SHARES = 20  # steps of the share of pixels from 0 to 1


LOOKS = [Look(BLACK, ":", "X"), Look(BLUE, "-", "o"), Look(RED, "-.", "D"), Look(GREEN, "--", "s")]


# Of curves beside one that follows a menu and has the colour of the ruler.
BESIDE = [Look(BLACK, "-", "o"), Look(BLUE, "--", "s"), Look(GREEN, "-.", "^"), Look(PURPLE, ":", "D")]


def attacked_chart(
    curves: Mapping[str, ArrayLike],
    budgets: Sequence[float],
    *,
    eps: float,
    dialled: Mapping[float, ArrayLike] | None = None,
    label: str = "dialled",
    dial: str = "setting",
) -> Chart:
    """Accuracy under attack against the attacker's budget, with a ruler, first at `eps`.

    `curves` holds at most four accuracies (B,) by the name of a network or an attack, one for each of
    `budgets` (B,), which start at 0 and are equally spaced. Of `dialled` curves (B,), where there are any, a
    menu called `dial` shows one by its value, at first the first, under the name `label`. Raises ValueError
    for others.
    """
    places = np.asarray(budgets, dtype=np.float64)
    given = {name: np.asarray(curve, dtype=np.float64) for name, curve in curves.items()}
    turned = {f"{value:g}": np.asarray(curve, dtype=np.float64) for value, curve in (dialled or {}).items()}
    named = {f"{label}, {dial} {value}": curve for value, curve in turned.items()}
    _check_curves(given, named, places)
    own = dict(zip(given, BESIDE if turned else LOOKS, strict=False))
    heights = {name: f"ROW.t{i}" for i, name in enumerate(given)}
    if turned:
        own[label], heights[label] = Look(RULER, "-", "*"), "ROW['d' + setting]"
    drawn = pd.concat(
        pd.DataFrame({"table": name, "radius": places, "accuracy": curve}) for name, curve in given.items()
    ).round(5)
    columns = {f"t{i}": curve.round(5) for i, curve in enumerate(given.values())}
    columns |= {f"d{i}": curve.round(5) for i, curve in enumerate(turned.values())}
    at = pd.DataFrame({"radius": places} | columns)
    texts = {name: f"format({height}, '.3f')" for name, height in heights.items()}
    followed = label if turned else None
    view = ruled_curves(
        drawn, at, own, heights, texts, radius=eps, dial=followed, across="budget", up="accuracy under attack"
    )
    shown, where = given, f"{nearest(places, eps):g}"
    if turned:
        view = view.add_params(menu("setting", dial, {value: i for i, value in enumerate(turned)}, 0))
        first = next(iter(turned))
        shown, where = given | {label: turned[first]}, f"{where}, with {dial} {first}"
    here = int(np.abs(places - eps).argmin())
    told = ", ".join(f"{name} {curve[here]:.3f}" for name, curve in shown.items())
    words = f"Accuracy under attack against the attacker's budget for each pixel; at {where}: {told}"
    return Chart(
        name="attacked", alt=words, view=view, values=pd.DataFrame({"budget": places, **given, **named})
    )


def _check_curves(
    given: Mapping[str, NDArray[np.float64]],
    named: Mapping[str, NDArray[np.float64]],
    places: NDArray[np.float64],
) -> None:
    even = len(places) > 1 and places[0] == 0 and np.ptp(np.diff(places)) < 1e-9 < places[1]
    if not even or not 0 < len(given) <= len(LOOKS):
        raise ValueError(
            f"attacked_chart: wanted one to {len(LOOKS)} curves, and budgets from 0 in equal steps; got "
            f"{len(given)} curves and budgets {places.tolist()}"
        )
    for name, curve in {**given, **named}.items():
        if curve.shape != places.shape:
            raise ValueError(
                f"attacked_chart: {name} has {curve.size} accuracies; wanted one for each of the "
                f"{len(places)} budgets"
            )


def budget_chart(
    picture: ArrayLike,
    maps: Mapping[str, ArrayLike],
    *,
    high: float,
    low: float,
    fraction: float = 0.3,
    weights: ArrayLike | None = None,
) -> Chart:
    """A picture (H, W) in [0, 1], a map of what is important, and the budget of each pixel that follows.

    The most important pixels of a map, a `fraction` of all, get `high`, the others `low`; sliders move both,
    and a menu chooses one of `maps` (H, W) by name. The heading says the mean, which is the uniform budget of
    the same total. With the `weights` (H, W) of a linear classifier it says the worst score, too, that these
    budgets allow (never mind [0, 1]). Raises ValueError where shapes differ, and for no maps.
    """
    image = np.asarray(picture, dtype=np.float64)
    given = {name: np.asarray(one, dtype=np.float64) for name, one in maps.items()}
    w = np.zeros_like(image) if weights is None else np.asarray(weights, dtype=np.float64)
    shapes = {image.shape, w.shape, *(one.shape for one in given.values())}
    if not given or len(shapes) > 1 or image.ndim != 2:
        raise ValueError(
            f"budget_chart: wanted a picture, maps and weights of one shape (H, W), got {shapes}"
        )
    ranks = {name: _ranks(one) for name, one in given.items()}
    rows, columns = (part.ravel() for part in np.indices(image.shape))
    table = pd.DataFrame({"row": rows, "column": columns, "v": image.ravel().round(4)})
    for i, (one, rank) in enumerate(zip(given.values(), ranks.values(), strict=True)):
        table[f"m{i}"], table[f"k{i}"] = _stretched(one).ravel().round(4), rank
    share = nearest(np.arange(SHARES + 1) / SHARES, fraction)
    lows = np.round(high * np.arange(SHARES + 1) / SHARES, 9)
    at = nearest(lows, low)
    reach = None if weights is None else [float((w * image).sum()), np.abs(w).ravel(), list(ranks.values())]
    view = _budget_view(table, [*given], image.size, high, at, share, reach)
    kept = [_placed(rank, share, high, at) for rank in ranks.values()]
    values = pd.DataFrame({"map": [*given], "mean budget": [float(eps.mean()) for eps in kept]})
    if weights is not None:
        values["worst score"] = [float((w * image).sum() - eps @ np.abs(w).ravel()) for eps in kept]
    words = (
        f"A picture, the map {next(iter(given))!r}, and budgets of its pixels: {share:.0%} of them get "
        f"{high:g}, the others {at:g}, on average {kept[0].mean():.4f}"
    )
    return Chart(name="budget", alt=words, view=view, values=values)


def _ranks(importance: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place (H * W,) of each pixel from the most important one on; of equals, the first comes first."""
    order = np.argsort(-importance.ravel(), kind="stable")
    return np.asarray(np.argsort(order, kind="stable"))


def _placed(ranks: NDArray[np.int64], share: float, high: float, low: float) -> NDArray[np.float64]:
    return np.where(ranks < np.floor(share * len(ranks) + 0.5), high, low)  # as browsers round


def _stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = float(np.ptp(values))
    return np.asarray((values - values.min()) / spread if spread > 0 else np.zeros_like(values))


def _budget_view(
    table: pd.DataFrame, names: list[str], size: int, high: float, low: float, share: float, reach: Any
) -> Any:
    controls = [
        slider("share", "important pixels", share, 0.0, 1.0, 1 / SHARES),
        slider("low", "budget of the others", low, 0.0, high, round(high / SHARES, 9)),
        menu("place", "important by", {name: i for i, name in enumerate(names)}, 0),
        alt.param(name="count", expr=f"round(share * {size})"),
        alt.param(name="average", expr=f"(count * {high!r} + ({size} - count) * low) / {size}"),
    ]
    told = f"format(share, '.0%') + ' of the pixels get {high:g}, the others ' + format(low, '.3f')"
    told += " + ': on average ' + format(average, '.4f')"
    if reach is not None:
        score, sizes, ranks = reach
        sums = [np.r_[0.0, np.cumsum(sizes[np.argsort(rank)])].round(9).tolist() for rank in ranks]
        worst = f"({score!r} - low * {float(sizes.sum())!r} - ({high!r} - low) * {sums!r}[place][count])"
        told += f" + '; worst score ' + format({worst}, '.4f')"
    controls.append(alt.param(name="readout", expr=told))
    base = alt.Chart(as_data("pixels", table)).transform_calculate(
        m="datum['m' + place]", b=f"datum['k' + place] < count ? {high!r} : low"
    )
    said = tips({
        "pixel": "ROW.row + ', ' + ROW.column", "value": "format(ROW.v, '.2f')",
        "map": "format(ROW.m, '.2f')", "budget": "format(ROW.b, '.3f')",
    })  # fmt: skip
    parts = [
        _heat(base, field, title, scheme, most).encode(tooltip=said)
        for field, title, scheme, most in (
            ("v", "picture", "greys", 1.0), ("m", "map", "magma", 1.0), ("b", "budget", "viridis", high)
        )
    ]  # fmt: skip
    view = alt.hconcat(*parts, spacing=18).resolve_scale(color="independent")
    for control in controls:
        view = view.add_params(control)
    return view.properties(title=alt.TitleParams(text=alt.ExprRef("readout")))


def _heat(base: Any, field: str, title: str, scheme: Any, most: float) -> Any:
    kinds: dict[str, Any] = {"axis": None, "sort": None}
    scale = alt.Scale(scheme=scheme, domain=[0, most], reverse=scheme == "greys")
    squares = base.mark_rect(aria=False).encode(
        x=alt.X("column:O", **kinds), y=alt.Y("row:O", **kinds),
        color=alt.Color(f"{field}:Q", scale=scale, legend=None),
    )  # fmt: skip
    return squares.properties(width=SIDE, height=SIDE, title=title)
