"""Panels of sliders around the plots: what is found for a state, drawn by artists that are made once.

A panel shows itself where it ends a cell. The first picture is drawn without interaction and comes along as a
PNG, so that an executed notebook shows it where no kernel runs. Later ones are drawn in a thread, and one
lock guards all drawing, as matplotlib is not made for several; an error is told in red below the picture.

Names of classes and tables come from files, and a browser runs what HTML says. So a note is text, whatever is
in it, but for what a panel itself marks as HTML (`Markup`), which escapes all that is put into it.
"""

import base64
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from markupsafe import Markup, escape

from dualrs_lab import figures
from dualrs_lab.evidence.claim import ABSTAIN
from dualrs_lab.panels.latest import Ended, Latest, Tick, still

__all__ = ["Panel", "State"]


State = Mapping[str, Any]


_LOCK = threading.RLock()  # matplotlib is not thread-safe, and its settings are global


PATIENCE = 0.12  # seconds before a bar appears


BETWEEN = 0.15  # seconds between two pictures of what is still being computed


GUESS = 100  # draws of a guess


ALPHAS = (0.0001, 0.001, 0.01, 0.05, 0.1)


DRAWS = (100, 200, 400, 1000, 2000, 4000, 10_000, 20_000, 40_000, 100_000)


class Panel(ABC):
    """Controls, a picture and a note that follow them.

    `controls` are ipywidgets by name, `view` holds everything, `state` has their values. The first picture is
    there when the panel is, and raises what goes wrong. After that a thread draws: the newest state counts,
    what takes longer than a moment shows a bar and can be stopped, and a failure leaves the last picture and
    is told in `status`. `wait` waits for the picture of the state that was set last.

    A kind of panel says what is drawn (`set_up`, once, and `show`), what is computed for a state (`find`, or
    `views` where there is something to see on the way), and what is told (`tell`).
    """

    def __init__(self, name: str, **controls: widgets.ValueWidget) -> None:
        self.controls = controls
        self._kept: tuple[dict[str, Any], Any] = ({}, None)
        self._live: figures.Live | None = None
        self._latest = Latest(self._follow)
        self.picture = widgets.Image(format="png").add_class("dualrs-picture")
        self.note, self.status = html_widget("note"), html_widget("status")
        self.bar = widgets.IntProgress(
            max=1000, layout={"width": "30em"}, style={"description_width": "12em"}
        ).add_class("dualrs-bar")
        self.stop_button = widgets.Button(description="Stop", icon="stop", layout={"width": "7em"})
        self.stop_button.add_class("dualrs-stop").on_click(lambda _: self.stop())
        self.busy = widgets.HBox([self.bar, self.stop_button], layout={"visibility": "hidden"})
        for key, control in controls.items():
            control.add_class(f"dualrs-{key}").observe(self._changed, "value")
        self.view = widgets.VBox([*controls.values(), self.busy, self.picture, self.note, self.status])
        self.view.add_class("dualrs-panel").add_class(f"dualrs-{name}")
        self._paint(self.state, self.found(self.state))
        assert self._live is not None
        self.picture.layout = {"width": f"{self._live.width}px", "max_width": "100%", "height": "auto"}

    @property
    def state(self) -> dict[str, Any]:
        """The controls' values by name."""
        return {key: control.value for key, control in self.controls.items()}

    @abstractmethod
    def set_up(self) -> Sequence[figures.Drawing]:
        """What is drawn, all on one page, still empty."""

    @abstractmethod
    def show(self, state: State, found: Any) -> None:
        """Give the drawings what was found for a state: that alone decides how they look."""

    def find(self, state: State, tick: Tick = still) -> Any:
        """What is shown of a state; tells `tick` how far it is, where it takes long."""
        return None

    def views(self, state: State, tick: Tick) -> Iterator[Any]:
        """What there is to see of a state, ever more of it; the last is what was found."""
        yield self.find(state, tick)

    def tell(self, state: State, found: Any) -> str:
        """What to say below the picture: text, or `Markup`, which is HTML."""
        return ""

    def offer(self, found: Any) -> None:  # noqa: B027
        """Let the controls offer what there is to choose from, after they were moved."""

    def found(self, state: State) -> Any:
        """The last of `views`, kept until the state is another."""
        if self._kept[0] != dict(state):
            *_, last = self.views(state, still)
            self._kept = (dict(state), last)
        return self._kept[1]

    def render(self, state: State) -> figures.Page:
        """The panel's page as it shows `state`; the panel goes on drawing on it."""
        self._frame(state, self.found(state))
        assert self._live is not None
        return self._live.page

    def frame(self, state: State) -> bytes:
        """The picture of `state` as a PNG; the same state gives the same bytes, whatever came before."""
        return self._frame(state, self.found(state))

    def describe(self, state: State) -> str:
        """What is said below the picture of `state`."""
        return self.tell(state, self.found(state))

    def wait(self, seconds: float | None = None) -> bool:
        """Until the picture is that of the controls; whether it is, after at most so many seconds."""
        return self._latest.wait(seconds)

    def stop(self) -> None:
        """End what is being computed; what was seen of it stays."""
        self._latest.stop()

    def _frame(self, state: State, found: Any) -> bytes:
        with _LOCK:
            if self._live is None:
                self._drawings = self.set_up()
                self.show(state, found)
                self._live = figures.Live(self._drawings)
            else:
                self.show(state, found)
            return self._live.png()

    def _paint(self, state: State, found: Any) -> None:
        picture, said = self._frame(state, found), self.tell(state, found)
        self.picture.value = picture
        self.note.value = as_html(said)

    def _changed(self, _: object) -> None:
        self._latest.give(self.state)

    def _follow(self, state: State, ended: Callable[[], bool]) -> None:
        # in the thread: all views of a state, or those until it is no longer wanted
        busy = Busy(self.busy, self.bar, ended)
        said = ""
        try:
            with busy:
                self._see(state, busy)
        except Ended:
            if self._latest.stopped:
                said = "stopped: the picture shows what there was to see until then, which proves nothing"
        except Exception as error:  # otherwise nobody would see it
            said = f"{type(error).__name__}: {error} (the picture is the one before)"
        self.status.value = as_html(
            Markup('<span style="color: #b00020">{}</span>').format(said) if said else ""
        )

    def _see(self, state: State, busy: "Busy") -> None:
        view, painted = None, time.monotonic()
        for view in self.views(state, busy.tick):
            if time.monotonic() - painted > BETWEEN:  # the last one is painted anyhow
                self._paint(state, view)
                painted = time.monotonic()
        busy.check()
        self._kept = (dict(state), view)
        self._paint(state, view)
        self.offer(view)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], Any]:
        self.wait()
        bundle: dict[str, Any] = self.view._repr_mimebundle_()
        text = ", ".join(f"{key}={value}" for key, value in self.state.items())
        assert self._live is not None
        shown = {"width": self._live.width, "alt": self._live.page.in_words()}
        return bundle | {
            "text/plain": f"{type(self).__name__}({text})",
            "image/png": base64.b64encode(self.picture.value).decode("ascii"),
        }, {"image/png": shown}


class Busy:
    """The bar and the button of a panel, seen while something takes longer than a moment."""

    def __init__(self, box: widgets.Box, bar: widgets.IntProgress, ended: Callable[[], bool]) -> None:
        self.box, self.bar, self.ended = box, bar, ended
        self._timer = threading.Timer(PATIENCE, self._appear)
        self._told = 0.0

    def check(self) -> None:
        """Raises `Ended` where nobody waits any more."""
        if self.ended():
            raise Ended

    def tick(self, done: int, total: int) -> None:
        """As `Tick`."""
        self.check()
        if time.monotonic() - self._told > BETWEEN / 2:
            self.bar.value = round(1000 * done / total)
            self.bar.description = f"{done:,} of {total:,}"
            self._told = time.monotonic()

    def _appear(self) -> None:
        self.box.layout.visibility = "visible"

    def __enter__(self) -> "Busy":
        self.bar.value, self.bar.description = 0, ""
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        self.box.layout.visibility = "hidden"


def html_widget(name: str) -> widgets.HTML:
    """For text of a panel; what goes there goes through `as_html`."""
    return widgets.HTML().add_class(f"dualrs-{name}")


def as_html(text: str) -> str:
    """For `widgets.HTML`, the one way there: whatever is not marked as HTML is escaped."""
    return str(escape(text))


_MOVES: dict[str, Any] = {"continuous_update": True}  # the picture follows the hand: the newest counts


LAYOUT: dict[str, Any] = {
    "style": {"description_width": "10em"},
    "layout": {"width": "34em"},
}


def float_slider(
    text: str, value: float, low: float, high: float, step: float, shown: str
) -> widgets.FloatSlider:
    return widgets.FloatSlider(
        value=value, min=low, max=high, step=step, description=text, readout_format=shown, **_MOVES, **LAYOUT
    )


def whole_slider(text: str, last: int, value: int = 0) -> widgets.IntSlider:
    return widgets.IntSlider(value=value, max=last, description=text, **_MOVES, **LAYOUT)


def dropdown(text: str, values: Sequence[float], value: float, shown: str) -> widgets.SelectionSlider:
    options = [(shown.format(option), option) for option in sorted({*values, value})]
    return widgets.SelectionSlider(options=options, value=value, description=text, **_MOVES, **LAYOUT)


def _claim(predict: int) -> str:
    return "abstains" if predict == ABSTAIN else f"class {predict}"
