"""The panel of pixels: map, mask, budget, and the attack that uses it."""

from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from dualrs_lab import figures
from dualrs_lab.attacks.pgd import PGD, pgd
from dualrs_lab.data.images import Images, to_float
from dualrs_lab.panels.networks import panel_network
from dualrs_lab.panels.panel import Panel, State, float_slider, page_of, whole_slider
from dualrs_lab.pixels.maps import class_maps, normalise, resize
from dualrs_lab.pixels.masks import TopFraction, pixel_budget
from dualrs_lab.runtime import make_generator

__all__ = ["PixelPanel"]


class PixelPanel(Panel):
    """One image: where its class is found, what budget that gives, and what an attack does with it.

    `eps` is the budget of important pixels. Sliders choose the image, the share of pixels that are important
    and the budget of the others; the attack is PGD-20. `model` is whatever `load_network` takes, with
    gradients, and `weights`, `mean` and `std` are as there; it is copied and left as it is. A network that is
    no `Classifier` needs the name of the `layer` that maps are of, see `class_maps`.
    """

    def __init__(
        self,
        model: Any,
        images: Images,
        *,
        eps: float,
        image: int = 0,
        fraction: float = 0.3,
        low: float | None = None,
        layer: str | None = None,
        **how: Any,
    ) -> None:
        self.model = panel_network("PixelPanel", model, images, attacked=True, **how)
        self.images, self.eps, self.layer = images, eps, layer
        start = eps / 2 if low is None else low
        super().__init__(
            "pixels",
            image=whole_slider("image", len(images) - 1, image),
            fraction=float_slider("important share", fraction, 0.05, 1.0, 0.05, ".2f"),
            low=float_slider("budget elsewhere", start, 0.0, eps, eps / 16, ".3f"),
        )

    def attacked(self, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Image (1, C, H, W), its map (1, h, w), mask and budget (1, 1, H, W) and the attacked image."""
        pixels, labels = self.images.batch(torch.tensor([state["image"]]))
        device = next(self.model.parameters()).device
        x, y = to_float(pixels.to(device)), labels.to(device)
        maps = class_maps(self.model, x, layer=self.layer)
        mask = TopFraction(fraction=state["fraction"])(maps, (x.shape[2], x.shape[3]))
        budget = pixel_budget(mask, high=self.eps, low=min(state["low"], self.eps))
        attack = PGD(step=self.eps / 4, blind=1.0)
        generator = make_generator(0, "panel", device=device)
        return x, maps, mask, budget, pgd(self.model, x, y, budget, attack=attack, generator=generator)

    def render(self, state: State) -> figures.Page:
        x, maps, mask, budget, found = self.once(state, self.attacked)
        wide = normalise(resize(maps, (x.shape[2], x.shape[3])))
        return page_of(figures.map_to_perturbation(x, wide, budget, found, masks=mask))

    def describe(self, state: State) -> str:
        x, _, _, budget, found = self.once(state, self.attacked)
        with torch.no_grad():
            shares = torch.softmax(self.model(torch.cat([x, found])).float(), dim=1)
        best = shares.max(dim=1)
        names = [self.images.classes[int(k)] for k in best.indices]
        label = self.images.classes[int(self.images.labels[state["image"]])]
        mean = float(budget.mean())
        return Markup(
            "label {}; as it is: <b>{}</b> ({:.2f}), attacked: <b>{}</b> ({:.2f}); mean budget {:.4f}, "
            "{:.0%} of {:.4f}"
        ).format(
            label, names[0], float(best.values[0]), names[1], float(best.values[1]), mean, mean / self.eps,
            self.eps,
        )  # fmt: skip
