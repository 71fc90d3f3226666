"""What people move: sliders, menus, and a ruler that is dragged, or moved by the keys of its slider.

Every control is an element of the page with a label, so that keys and screen readers work as in any form.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["menu", "ruler", "slider", "ticks", "tips"]


DRAG = "pointerdown, [pointerdown, window:pointerup] > pointermove"


STEPS = [step * 10.0**power for power in range(-6, 6) for step in (1, 2, 5)]


def ticks(last: float, most: int = 150) -> NDArray[np.float64]:
    """At most `most` + 1 round numbers at equal steps from 0 on, the last of them at or above `last`."""
    step = next(step for step in STEPS if last <= step * most)
    return np.round(step * np.arange(np.ceil(round(last / step, 9)) + 1), 9)


def nearest(values: ArrayLike, wish: float) -> float:
    """The one of `values` that is nearest to a wish: a ruler and a slider stand at one of theirs."""
    known = np.asarray(values, dtype=np.float64)
    return float(known[np.abs(known - wish).argmin()])


def slider(name: str, label: str, value: float, low: float, high: float, step: float) -> Any:
    """A number between `low` and `high`, by mouse, finger or keys."""
    return alt.param(name=name, value=value, bind=alt.binding_range(min=low, max=high, step=step, name=label))


def menu(name: str, label: str, options: Mapping[str, Any], value: Any) -> Any:
    """One of several values, by their texts."""
    bind = alt.binding_select(options=list(options.values()), labels=list(options), name=label)
    return alt.param(name=name, value=value, bind=bind)


def ruler(name: str, field: str, label: str, values: Sequence[float], at: float) -> Any:
    """A place among `values` of a field, equally spaced: dragged over the marks that carry it, or by slider.

    It belongs to the view whose marks hold a row for each of the values; wherever one presses or drags, the
    nearest mark is taken. Rows at the ruler are those that it filters.
    """
    step = round(float(values[1] - values[0]), 9)
    bind: Any = {field: alt.binding_range(min=float(values[0]), max=float(values[-1]), step=step, name=label)}
    return alt.selection_point(
        name=name, fields=[field], on=DRAG, nearest=True, toggle=False, clear=False, empty=False,
        value=[{field: nearest(values, at)}], bind=bind,
    )  # fmt: skip


def tips(told: Mapping[str, str]) -> Any:
    """What a mark says when it is pointed at: expressions by their titles, over the row ROW.

    Where marks are found by the nearest, the row is a step further in, which Vega-Lite 6 forgets for texts.
    """
    row = "(datum.datum || datum)"
    parts = ", ".join(f"{title!r}: {text.replace('ROW', row)}" for title, text in told.items())
    return alt.value(alt.ExprRef(f"{{{parts}}}"))
