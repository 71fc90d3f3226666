"""The panel of a mix on one image, as it is or attacked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from dualrs_lab import figures
from dualrs_lab.data.images import Images, to_float
from dualrs_lab.data.pictures import Pictures
from dualrs_lab.mixing.mix import Mix, mix_logits, worst_margin
from dualrs_lab.panels.attacks import watched_attack
from dualrs_lab.panels.latest import Tick, still
from dualrs_lab.panels.networks import images_of, panel_network
from dualrs_lab.panels.panel import LAYOUT, Panel, State, float_slider, whole_slider

__all__ = ["BlendPanel"]


@dataclass(frozen=True)
class Blended:
    """The input (1, C, H, W), and the logits (1, K) of g and of h there."""

    x: Tensor
    g: Tensor
    h: Tensor


class BlendPanel(Panel):
    """One image, as it is or attacked: what g, h and their mix make of it, at any weight.

    `accurate` and `robust` are whatever `load_network` takes, with gradients; where more is to be said of one
    than its source, load it first. `images` may be `shipped_pictures`.
    """

    INPUTS = ("as it is", "attack on g", "attack on h", "attack on the mix")

    def __init__(
        self, accurate: Any, robust: Any, images: Images | Pictures, *, eps: float, weight: float = 0.7
    ) -> None:
        self.images, self.places = images_of(images)
        self.accurate, self.robust = (
            panel_network("BlendPanel", one, self.images, attacked=True) for one in (accurate, robust)
        )
        self.eps = eps
        self._input: tuple[Any, Blended | None] = (None, None)
        super().__init__(
            "blend",
            image=whole_slider("image", len(self.images) - 1),
            weight=float_slider("weight of h", weight, 0.0, 1.0, 0.05, ".2f"),
            input=widgets.Dropdown(options=self.INPUTS, value="attack on g", description="input", **LAYOUT),
        )

    def find(self, state: State, tick: Tick = still) -> Blended:
        """As `Panel.find`; an input that does not depend on the weight is kept while it moves."""
        weight = state["weight"] if state["input"] == self.INPUTS[-1] else None
        key = (state["image"], state["input"], weight)
        kept, found = self._input
        if kept != key or found is None:
            found = Blended(*self.logits(state, tick))
            self._input = (key, found)
        return found

    def logits(self, state: State, tick: Tick = still) -> tuple[Tensor, Tensor, Tensor]:
        """The input (1, C, H, W) of a state, and the logits (1, K) of g and of h there."""
        pixels, labels = self.images.batch(torch.tensor([state["image"]]))
        device = next(self.robust.parameters()).device
        x, y = to_float(pixels.to(device)), labels.to(device)
        mix = Mix(self.accurate, self.robust, state["weight"])
        models = dict(zip(self.INPUTS[1:], (self.accurate, self.robust, mix), strict=True))
        if state["input"] in models:
            x = watched_attack(models[state["input"]], x, y, self.eps, eps=self.eps, tick=tick)
        with torch.no_grad():
            return x, self.accurate(x).float(), self.robust(x).float()

    def set_up(self) -> list[figures.Drawing]:
        """As `Panel.set_up`."""
        picture, bars = figures.row_of_axes(1.9, 6.2, height=2.6)
        self.strip = figures.Strip(1, 1, ax=picture)
        self.bars = figures.ProbabilityBars(["g", "h", "mix"], self.images.classes, ax=bars)
        return [self.strip, self.bars]

    def show(self, state: State, found: Blended) -> None:
        """As `Panel.show`."""
        self.strip.show(found.x[None], [""])
        mix = mix_logits(found.g, found.h, state["weight"])
        three = {"g": found.g.log_softmax(1), "h": found.h.log_softmax(1), "mix": mix}
        shares: Mapping[str, Any] = {name: out[0].exp().cpu().numpy() for name, out in three.items()}
        self.bars.show(shares, label=int(self.images.labels[state["image"]]))

    def tell(self, state: State, found: Blended) -> str:
        """As `Panel.tell`."""
        g, h = found.g, found.h
        a, margin = state["weight"], float(worst_margin(h)[0])
        named = [self.images.classes[int(out.argmax(1))] for out in (g, h, mix_logits(g, h, a))]
        needed = (1 - a) / a if a > 0 else np.inf
        verdict = "so h decides, whatever g says" if margin > needed else "so g may overrule h"
        return Markup(
            "g: <b>{}</b>, h: <b>{}</b>, mix: <b>{}</b>; h's margin {:.3f}, needed (1 - a)/a = {:.3f} (Bai "
            "et al. 2024, lemma 2): {}"
        ).format(*named, margin, needed, verdict)
