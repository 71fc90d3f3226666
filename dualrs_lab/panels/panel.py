"""Panels of sliders around the plots: a pure function from state to figure, and a little glue.

A panel shows itself where it ends a cell. The first frame is drawn without interaction and comes along as a
PNG, so that an executed notebook shows it where no kernel runs. Callbacks may come from other threads: one
lock guards all drawing, and an error in a callback is shown in a red line below the picture.

Names of classes and tables come from files, and a browser runs what HTML says. So a note is text, whatever is
in it, but for what a panel itself marks as HTML (`Markup`), which escapes all that is put into it.
"""

import base64
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ipywidgets as widgets
from markupsafe import Markup, escape

from dualrs_lab import figures
from dualrs_lab.evidence.claim import ABSTAIN

__all__ = ["Panel", "State"]


State = Mapping[str, Any]


Found = TypeVar("Found")


_LOCK = threading.RLock()  # matplotlib is not thread-safe, and its settings are global


GUESS = 100  # draws of a guess


DRAWS = (100, 200, 400, 1000, 2000, 4000, 10_000, 20_000, 40_000, 100_000)


class Panel(ABC):
    """Controls, a picture and a note that follow them.

    `controls` are ipywidgets by name, `view` holds everything, `state` has their values. Raises what the
    first frame raises; later failures leave the last picture and are shown in `status`.
    """

    def __init__(self, name: str, **controls: widgets.ValueWidget) -> None:
        self.controls = controls
        self._kept: tuple[dict[str, Any], Any] = ({}, None)
        self.picture = widgets.Image(format="png").add_class("dualrs-picture")
        self.note, self.status = html_widget("note"), html_widget("status")
        for key, control in controls.items():
            control.add_class(f"dualrs-{key}").observe(self._changed, "value")
        self.view = widgets.VBox([*controls.values(), self.picture, self.note, self.status])
        self.view.add_class("dualrs-panel").add_class(f"dualrs-{name}")
        self._draw()

    @property
    def state(self) -> dict[str, Any]:
        """The controls' values by name."""
        return {key: control.value for key, control in self.controls.items()}

    @abstractmethod
    def render(self, state: State) -> figures.Page:
        """The figure of a state; the same state gives the same figure, whatever came before."""

    def describe(self, state: State) -> str:
        """What to show below the picture: text, or `Markup`, which is HTML."""
        return ""

    def once(self, state: State, compute: Callable[[State], Found]) -> Found:
        """`compute(state)`, kept until the state changes: picture and note share what is slow."""
        if self._kept[0] != dict(state):
            self._kept = (dict(state), compute(state))
        found: Found = self._kept[1]
        return found

    def _draw(self) -> None:
        with _LOCK:
            state = self.state
            self.note.value = as_html(self.describe(state))
            self.picture.value = figures.png(self.render(state), dpi=96)

    def _changed(self, _: object) -> None:
        try:
            self._draw()
            self.status.value = ""
        except Exception as error:  # otherwise nobody would see it
            red = Markup('<span style="color: #b00020">{}: {} (the picture is the one before)</span>')
            self.status.value = as_html(red.format(type(error).__name__, error))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = self.view._repr_mimebundle_()
        text = ", ".join(f"{key}={value}" for key, value in self.state.items())
        return bundle | {
            "text/plain": f"{type(self).__name__}({text})",
            "image/png": base64.b64encode(self.picture.value).decode("ascii"),
        }


def html_widget(name: str) -> widgets.HTML:
    """For text of a panel; what goes there goes through `as_html`."""
    return widgets.HTML().add_class(f"dualrs-{name}")


def as_html(text: str) -> str:
    """For `widgets.HTML`, the one way there: whatever is not marked as HTML is escaped."""
    return str(escape(text))


_CALM: dict[str, Any] = {"continuous_update": False}  # one frame per move, not per pixel


LAYOUT: dict[str, Any] = {
    "style": {"description_width": "8em"},
    "layout": {"width": "32em"},
}


def float_slider(
    text: str, value: float, low: float, high: float, step: float, shown: str
) -> widgets.FloatSlider:
    return widgets.FloatSlider(
        value=value, min=low, max=high, step=step, description=text, readout_format=shown, **_CALM, **LAYOUT
    )


def whole_slider(text: str, last: int, value: int = 0) -> widgets.IntSlider:
    return widgets.IntSlider(value=value, max=last, description=text, **_CALM, **LAYOUT)


def dropdown(text: str, values: Sequence[float], value: float, shown: str) -> widgets.SelectionSlider:
    options = [(shown.format(option), option) for option in sorted({*values, value})]
    return widgets.SelectionSlider(options=options, value=value, description=text, **_CALM, **LAYOUT)


def _claim(predict: int) -> str:
    return "abstains" if predict == ABSTAIN else f"class {predict}"


def page_of(ax: Any) -> figures.Page:
    page = ax.figure
    assert isinstance(page, figures.Page)
    return page
