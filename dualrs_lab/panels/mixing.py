"""Panels of mixes: what a weight certifies, and what it makes of one image."""

from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from markupsafe import Markup
from torch import Tensor

from dualrs_lab import figures
from dualrs_lab.attacks.pgd import PGD, pgd
from dualrs_lab.data.images import Images, to_float
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.summary import certified_accuracy
from dualrs_lab.evidence.table import as_table
from dualrs_lab.mixing.certificate import FORMS, mixed, noise_of
from dualrs_lab.mixing.mix import Mix, mix_logits, worst_margin
from dualrs_lab.panels.networks import panel_network
from dualrs_lab.panels.panel import LAYOUT, Panel, State, float_slider, page_of, whole_slider
from dualrs_lab.runtime import make_generator

__all__ = ["BlendPanel", "MixPanel"]


class MixPanel(Panel):
    """What the weight of the robust network certifies: curves of h and of the mix, and the radii behind.

    `table` is that of the smoothed h, whose votes bound its class and the largest rival; of a log without
    votes, Cohen's rule remains. A log that does not say its noise needs `sigma`.
    """

    def __init__(
        self,
        table: Claims,
        *,
        weight: float = 0.76,
        sigma: float | None = None,
    ) -> None:
        self.rows = as_table(table)
        self.sigma = noise_of(self.rows, sigma=sigma)
        sharp = [f"{form}, two-bounds" for form in FORMS if form != "closed" and "votes" in self.rows]
        forms = [*sharp, *(f"{form}, cohen" for form in FORMS)]
        super().__init__(
            "mix",
            weight=float_slider("weight of h", weight, 0.5, 1.0, 0.01, ".2f"),
            form=widgets.Dropdown(options=forms, value=forms[0], description="certificate", **LAYOUT),
        )

    def certified(self, state: State) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Tables of h alone and of the mix, on the same evidence."""
        form, _, rule = state["form"].partition(", ")
        how: dict[str, Any] = {"form": form, "rule": rule, "sigma": self.sigma}
        alone = mixed(self.rows, 1.0, **how).assign(method="rs")
        return alone, mixed(self.rows, state["weight"], **how)

    def render(self, state: State) -> figures.Page:
        left, right = figures.row_of_axes(4.3, 3.4, height=3.0)
        alone, mix = self.once(state, self.certified)
        figures.certified_curves({"h alone": alone, "mix": mix}, band=None, ax=left)
        return page_of(figures.mix_radius_curves(state["weight"], sigma=self.sigma, ax=right))

    def describe(self, state: State) -> str:
        alone, mix = self.once(state, self.certified)
        at = [share * self.sigma for share in (0.0, 0.5, 1.0, 2.0)]
        rows = {name: certified_accuracy(table, at) for name, table in {"h alone": alone, "mix": mix}.items()}
        shown = pd.DataFrame(rows, index=[f"r = {radius:g}" for radius in at]).T
        return Markup(shown.map("{:.3f}".format).to_html(border=0, col_space="6em", justify="left"))


class BlendPanel(Panel):
    """One image, as it is or attacked: what g, h and their mix make of it, at any weight.

    `accurate` and `robust` are whatever `load_network` takes, with gradients; where more is to be said of one
    than its source, load it first.
    """

    INPUTS = ("as it is", "attack on g", "attack on h", "attack on the mix")

    def __init__(
        self, accurate: Any, robust: Any, images: Images, *, eps: float, weight: float = 0.7
    ) -> None:
        self.accurate, self.robust = (
            panel_network("BlendPanel", one, images, attacked=True) for one in (accurate, robust)
        )
        self.images, self.eps = images, eps
        super().__init__(
            "blend",
            image=whole_slider("image", len(images) - 1),
            weight=float_slider("weight of h", weight, 0.0, 1.0, 0.05, ".2f"),
            input=widgets.Dropdown(options=self.INPUTS, value="attack on g", description="input", **LAYOUT),
        )

    def logits(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """The input (1, C, H, W) of a state, and the logits (1, K) of g and of h there."""
        pixels, labels = self.images.batch(torch.tensor([state["image"]]))
        device = next(self.robust.parameters()).device
        x, y = to_float(pixels.to(device)), labels.to(device)
        mix = Mix(self.accurate, self.robust, state["weight"])
        models = dict(zip(self.INPUTS[1:], (self.accurate, self.robust, mix), strict=True))
        if state["input"] in models:
            attack, generator = PGD(step=self.eps / 4, blind=1.0), make_generator(0, "panel", device=device)
            x = pgd(models[state["input"]], x, y, self.eps, attack=attack, generator=generator)
        with torch.no_grad():
            return x, self.accurate(x).float(), self.robust(x).float()

    def render(self, state: State) -> figures.Page:
        picture, bars = figures.row_of_axes(1.9, 6.2, height=2.6)
        x, g, h = self.once(state, self.logits)
        figures.noisy_strip(x, [0.0], seed=0, ax=picture).set_xticks([])
        three = {"g": g.log_softmax(1), "h": h.log_softmax(1), "mix": mix_logits(g, h, state["weight"])}
        shares = {name: out[0].exp().cpu().numpy() for name, out in three.items()}
        label = int(self.images.labels[state["image"]])
        return page_of(figures.probability_bars(shares, self.images.classes, label=label, ax=bars))

    def describe(self, state: State) -> str:
        _, g, h = self.once(state, self.logits)
        a, margin = state["weight"], float(worst_margin(h)[0])
        named = [self.images.classes[int(out.argmax(1))] for out in (g, h, mix_logits(g, h, a))]
        needed = (1 - a) / a if a > 0 else np.inf
        verdict = "so h decides, whatever g says" if margin > needed else "so g may overrule h"
        return Markup(
            "g: <b>{}</b>, h: <b>{}</b>, mix: <b>{}</b>; h's margin {:.3f}, needed (1 - a)/a = {:.3f}: {}"
        ).format(*named, margin, needed, verdict)
