"""Panels of systems of several experts: the whole curve, and image by image who answers and what it costs."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from dualrs_lab import figures
from dualrs_lab.data.pictures import Pictures
from dualrs_lab.evidence.claim import ABSTAIN, reach
from dualrs_lab.evidence.summary import average_radius, floor_text
from dualrs_lab.figures.style import Axes
from dualrs_lab.panels.latest import Tick, still
from dualrs_lab.panels.panel import LAYOUT, Panel, State, whole_slider

__all__ = ["SystemPanel", "Verdicts"]


KEPT = 32  # settings of the dials


ORDERS = ("number", "regret", "gain", "radius")


@dataclass(frozen=True)
class Verdicts:
    """A system at one setting: its table, the expert of each image (-1: none), and the order of images."""

    table: pd.DataFrame
    who: NDArray[np.int64]
    order: NDArray[np.int64]
    regret: NDArray[np.float64]
    gain: NDArray[np.float64]
    more: Any = None

    def at(self, state: State) -> int:
        """The row of the image that a state shows: the last one where the slider goes beyond."""
        return int(self.order[min(state["image"], len(self.order) - 1)])


class SystemPanel(Panel):
    """Curves of a system and of its experts, and one image; `singles` are the experts' tables by sigma.

    "shown" filters the images by the expert that answers, "by" sorts them. The regret of an image is how much
    further the best expert for it reaches, were it known, and its gain how much further the system reaches
    than the one level with the largest average radius. Where no dial changes `who` answers, by place in
    `order`, only those are offered. With `pictures`, those images are shown, one by one.
    """

    kind = ""  # of panel, for style sheets and tests
    system, verb = "", "answered"

    def __init__(
        self,
        singles: Mapping[float, pd.DataFrame],
        order: Sequence[float],
        *,
        image: int,
        pictures: Pictures | None,
        who: ArrayLike | None = None,
        **dials: widgets.ValueWidget,
    ) -> None:
        self.order, self.pictures = tuple(order), pictures
        self.singles = {f"σ = {sigma:g}": singles[sigma] for sigma in sorted(singles)}
        self.idx = next(iter(self.singles.values()))["idx"].to_numpy()
        self.reaches = {label: np.maximum(reach(table), 0.0) for label, table in self.singles.items()}
        held = self.idx if pictures is None else np.intersect1d(self.idx, pictures.places)
        if not len(held):
            raise ValueError(
                f"{type(self).__name__}: none of the {len(self.idx)} images of the tables is among the "
                "pictures; give pictures of the same data set, or none"
            )
        self.shown = np.isin(self.idx, held)
        self._done: dict[Any, tuple[pd.DataFrame, NDArray[np.int64], Any]] = {}
        some = range(len(order)) if who is None else np.unique(np.asarray(who)[self.shown]).tolist()
        self.choices = {"all images": -1} | {f"{self.verb} at σ = {order[j]:g}": j for j in some}
        super().__init__(
            self.kind,
            **dials,
            shown=widgets.Dropdown(
                options=[*self.choices], value="all images", description="shown", **LAYOUT
            ),
            by=widgets.Dropdown(options=ORDERS, value=ORDERS[0], description="sorted by", **LAYOUT),
            image=whole_slider("image", int(self.shown.sum()) - 1, image),
        )

    @abstractmethod
    def certified(self, state: State) -> tuple[pd.DataFrame, NDArray[np.int64], Any]:
        """The system's table at the dials of a state, the expert of each image, and what else is shown."""

    @abstractmethod
    def bars_in(self, ax: Axes) -> figures.Drawing:
        """The drawing of one image."""

    @abstractmethod
    def show_image(self, state: State, found: Verdicts, i: int) -> None:
        """Fill it with row i."""

    def table(self, state: State) -> pd.DataFrame:
        """The columns of the published logs without the time, and the method."""
        return self.certified(state)[0]

    def find(self, state: State, tick: Tick = still) -> Verdicts:
        """As `Panel.find`."""
        table, who, more = self._at_dials(state)
        own, best = np.maximum(reach(table), 0.0), np.max(list(self.reaches.values()), axis=0)
        single = max(self.reaches.values(), key=lambda values: float(values.mean()))
        regret, gain = best - own, own - single
        wanted = self.choices[state["shown"]]
        kept = np.flatnonzero(self.shown & ((who == wanted) if wanted >= 0 else True))
        keys = {"number": np.arange(len(own)), "regret": -regret, "gain": -gain, "radius": -own}
        order = kept[np.argsort(keys[state["by"]][kept], kind="stable")]
        if not len(order):
            raise ValueError(f"{type(self).__name__}: no image is {state['shown']}; choose others")
        return Verdicts(table, who, order, regret, gain, more)

    def _at_dials(self, state: State) -> tuple[pd.DataFrame, NDArray[np.int64], Any]:
        # kept: images are looked at one after another, and dials go to and fro
        key = tuple(value for name, value in state.items() if name not in ("shown", "by", "image"))
        if key not in self._done:
            self._done[key] = self.certified(state)
            while len(self._done) > KEPT:
                del self._done[next(iter(self._done))]
        return self._done[key]

    def set_up(self) -> list[figures.Drawing]:
        """As `Panel.set_up`."""
        wide = () if self.pictures is None else (1.4,)
        curves, bars, *rest = figures.row_of_axes(3.9, 3.7, *wide, height=3.0)
        first = self.found(self.state).table
        figures.certified_curves(self.singles | {self.system: first}, band=None, ax=curves)
        self.curve = figures.MovingCurves(self.system, ax=curves)
        self.bars = self.bars_in(bars)
        self.strip = figures.Strip(1, 1, ax=rest[0]) if rest else None
        return [self.curve, self.bars, *([self.strip] if self.strip else [])]

    def show(self, state: State, found: Verdicts) -> None:
        """As `Panel.show`."""
        i = found.at(state)
        self.curve.show({self.system: found.table})
        self.show_image(state, found, i)
        if self.strip is not None and self.pictures is not None:
            pixels, _ = self.pictures.images.batch([self.pictures.places.index(int(self.idx[i]))])
            self.strip.show(pixels[None].float() / 255, [""])  # its number is in the note

    def offer(self, found: Verdicts) -> None:
        """As `Panel.offer`: the images that are left."""
        self.controls["image"].max = len(found.order) - 1

    def tell(self, state: State, found: Verdicts) -> str:
        """As `Panel.tell`."""
        i, table = found.at(state), found.table
        acr, average = floor_text(average_radius(table), 4), {k: v.mean() for k, v in self.reaches.items()}
        best = max(average, key=lambda label: average[label])
        idx, label, predict = (int(table[name].iloc[i]) for name in ("idx", "label", "predict"))
        expert = "by none" if found.who[i] < 0 else f"at σ = {self.order[found.who[i]]:g}"
        mean_regret, regret, gain = found.regret.mean(), found.regret[i], found.gain[i]
        return Markup(
            "average certified radius <b>{}</b> (best single {}: {}; the best expert of each image, were it "
            "known: {:.4f} more); <br>image {} ({} of {} by {}): {}, label {}, {} {}; radius <b>{}</b>, "
            "regret {:.3f}, gain {:+.3f}"
        ).format(
            acr, best, floor_text(float(average[best]), 4), mean_regret, idx,
            min(state["image"], len(found.order) - 1) + 1, len(found.order), state["by"],
            self._named(predict), self._named(label), self.verb, expert,
            floor_text(float(table["radius"].iloc[i])), regret, gain,
        )  # fmt: skip

    def _named(self, kind: int) -> str:
        if kind == ABSTAIN:
            return "abstains"
        return f"class {kind}" if self.pictures is None else self.pictures.images.classes[kind]
