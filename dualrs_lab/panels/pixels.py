"""The panel of pixels: map, mask, budget, and the attack that uses it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import torch
from markupsafe import Markup
from torch import Tensor

from dualrs_lab import figures
from dualrs_lab.data.images import Images, to_float
from dualrs_lab.data.pictures import Pictures
from dualrs_lab.panels.attacks import watched_attack
from dualrs_lab.panels.latest import Tick, still
from dualrs_lab.panels.networks import images_of, panel_network
from dualrs_lab.panels.panel import LAYOUT, Panel, State, float_slider, whole_slider
from dualrs_lab.pixels.maps import class_maps, grad_cam, layer_cam, normalise, resize, xgrad_cam
from dualrs_lab.pixels.masks import AboveMean, JetMask, Mask, TopFraction, pixel_budget

__all__ = ["PixelPanel"]


METHODS = {"Grad-CAM": grad_cam, "XGrad-CAM": xgrad_cam, "LayerCAM": layer_cam}


RULES: dict[str, Callable[[State], Mask]] = {
    "a share of the pixels": lambda state: TopFraction(fraction=state["fraction"]),
    "mean + k standard deviations": lambda state: AboveMean(k=state["k"]),
    "colours of the published code": lambda state: JetMask(),
}


@dataclass(frozen=True)
class Found:
    """Image (1, C, H, W), its map (1, h, w), mask and budget (1, 1 or 3, H, W), the attacked image."""

    x: Tensor
    maps: Tensor
    mask: Tensor
    budget: Tensor
    attacked: Tensor
    shares: Tensor  # (2, K): what the network says of both images


class PixelPanel(Panel):
    """One image: where its class is found, what budget that gives, and what an attack does with it.

    `eps` is the budget of important pixels. Controls choose the image, the kind of map, which pixels are
    important (a share, or those above the mean of the map, or by the colours of PART's published code), and
    the budget of the others; the attack is PGD-20. `model` is whatever `load_network` takes, with gradients,
    and `weights`, `mean` and `std` are as there; it is copied and left as it is. `images` may be
    `shipped_pictures`. A network that is no `Classifier` needs the name of the `layer` that maps are of, see
    `class_maps`; of several names, one is chosen in the panel.
    """

    def __init__(
        self,
        model: Any,
        images: Images | Pictures,
        *,
        eps: float,
        image: int = 0,
        fraction: float = 0.3,
        low: float | None = None,
        layer: str | Sequence[str] | None = None,
        **how: Any,
    ) -> None:
        self.images, self.places = images_of(images)
        self.model = panel_network("PixelPanel", model, self.images, attacked=True, **how)
        self.eps = eps
        self.layers = [layer] if layer is None or isinstance(layer, str) else list(layer)
        start = eps / 2 if low is None else low
        rules = [*RULES][: 3 if self.images.shape[0] == 3 else 2]  # colours are of three channels
        several = {"layer": _menu("layer", self.layers)} if len(self.layers) > 1 else {}
        super().__init__(
            "pixels",
            image=whole_slider("image", len(self.images) - 1, image),
            **several,
            method=_menu("map", [*METHODS]),
            rule=_menu("important are", rules),
            fraction=float_slider("important share", fraction, 0.05, 1.0, 0.05, ".2f"),
            k=float_slider("k", 1.0, 0.0, 3.0, 0.1, ".1f"),
            low=float_slider("budget elsewhere", start, 0.0, eps, eps / 16, ".3f"),
        )

        self.controls["rule"].observe(self._used, "value")
        self._used()

    def _used(self, _: object = None) -> None:
        # what a rule does not ask for cannot be moved
        for name, rule in zip(("fraction", "k"), RULES, strict=False):
            self.controls[name].disabled = self.state["rule"] != rule

    def find(self, state: State, tick: Tick = still) -> Found:
        """As `Panel.find`."""
        pixels, labels = self.images.batch(torch.tensor([state["image"]]))
        device = next(self.model.parameters()).device
        x, y = to_float(pixels.to(device)), labels.to(device)
        weighting = METHODS[state["method"]]
        maps = class_maps(self.model, x, weighting=weighting, layer=state.get("layer", self.layers[0]))
        mask = RULES[state["rule"]](state)(maps, (x.shape[2], x.shape[3]))
        budget = pixel_budget(mask, high=self.eps, low=min(state["low"], self.eps))
        found = watched_attack(self.model, x, y, budget, eps=self.eps, tick=tick)
        with torch.no_grad():
            shares = torch.softmax(self.model(torch.cat([x, found])).float(), dim=1)
        return Found(x, maps, mask, budget, found, shares)

    def attacked(self, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Image (1, C, H, W), its map (1, h, w), mask and budget (1, 1 or 3, H, W) and the attacked image."""
        found = self.find(state)
        return found.x, found.maps, found.mask, found.budget, found.attacked

    def set_up(self) -> list[figures.Drawing]:
        """As `Panel.set_up`."""
        (ax,) = figures.row_of_axes(8.2, height=1.75)
        self.row = figures.PerturbationRow(ax=ax)
        return [self.row]

    def show(self, state: State, found: Found) -> None:
        """As `Panel.show`."""
        wide = normalise(resize(found.maps, (found.x.shape[2], found.x.shape[3])))
        self.row.show(found.x, wide, found.budget, found.attacked, found.mask)

    def tell(self, state: State, found: Found) -> str:
        """As `Panel.tell`."""
        best = found.shares.max(dim=1)
        names = [self.images.classes[int(k)] for k in best.indices]
        label = self.images.classes[int(self.images.labels[state["image"]])]
        mean = float(found.budget.mean())
        return Markup(
            "label {}; as it is: <b>{}</b> ({:.2f}), attacked: <b>{}</b> ({:.2f}); mean budget {:.4f}, "
            "{:.0%} of {:.4f}; map by {}"
        ).format(
            label, names[0], float(best.values[0]), names[1], float(best.values[1]), mean, mean / self.eps,
            self.eps, state["method"],
        )  # fmt: skip


def _menu(text: str, choices: Sequence[Any]) -> widgets.Dropdown:
    return widgets.Dropdown(options=choices, value=choices[0], description=text, **LAYOUT)
