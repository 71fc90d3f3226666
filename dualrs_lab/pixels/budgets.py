"""How far each pixel may go: the same everywhere, by region, or by a class activation map (PART).

A budget is a small frozen object; `OtherImages` and `RandomPixels` are the controls that tell whether it
matters which pixels a map chooses (Zhang et al. 2024).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dualrs_lab.attacks.checks import evaluating
from dualrs_lab.data.images import Images, to_float
from dualrs_lab.draws import drawn, of_batch, of_slice
from dualrs_lab.pixels.maps import Weighting, class_maps, grad_cam
from dualrs_lab.pixels.masks import Mask, pixel_budget
from dualrs_lab.runtime import make_generator

__all__ = ["Budget", "OtherImages", "Pixels", "RandomPixels", "Region", "Uniform", "mean_budget"]


class Budget(Protocol):
    """How far pixels of a batch x (B, C, H, W) may move: (1 or B, 1 or C, 1 or H, 1 or W) in [0, 1] units."""

    def __call__(self, model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """The same for all pixels."""

    eps: float = 8 / 255

    def __call__(self, model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.new_full((1, 1, 1, 1), self.eps)


@dataclass(frozen=True, kw_only=True)
class Region:
    """`low` from `top`, `left` up to `bottom`, `right` (shares of height and width), `high` elsewhere.

    The four quadrants of PART's proof of concept are regions.
    """

    high: float
    low: float
    top: float = 0.0
    left: float = 0.0
    bottom: float = 1.0
    right: float = 1.0

    def __call__(self, model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        height, width = x.shape[2:]
        budget = x.new_full((1, 1, height, width), self.high)
        rows = slice(round(self.top * height), round(self.bottom * height))
        budget[:, :, rows, round(self.left * width) : round(self.right * width)] = self.low
        return budget


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """PART: `high` where `mask` finds the map of the network's own answer important, `low` elsewhere.

    `layer` is as in `pixels.class_maps`; None, the last stage, costs one forward pass.
    """

    mask: Mask
    high: float = 8 / 255
    low: float = 7 / 255
    weighting: Weighting = grad_cam
    layer: str | None = None

    def masked(self, model: nn.Module, x: Tensor) -> Tensor:
        """The important pixels, bool (B, 1 or 3, H, W)."""
        maps = class_maps(model, x, weighting=self.weighting, layer=self.layer)
        return self.mask(maps, (x.shape[2], x.shape[3]))

    def __call__(self, model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return pixel_budget(self.masked(model, x), high=self.high, low=self.low)


@dataclass(frozen=True, kw_only=True)
class OtherImages:
    """Control: each image gets the mask that `of` has for another image of the batch."""

    of: Pixels

    def __call__(self, model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        every = of_batch(self.of(model, x, generator), generator)
        return of_slice(every.roll(1, dims=0), generator)


@dataclass(frozen=True, kw_only=True)
class RandomPixels:
    """Control: as many pixels as `of` finds important in an image get `high`, but chosen at random."""

    of: Pixels

    def __call__(self, model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        mask = self.of.masked(model, x).flatten(2)
        anywhere = drawn(torch.rand, mask.shape, generator=generator, device=x.device).argsort(2)
        mask = mask.gather(2, anywhere).view(*mask.shape[:2], *x.shape[2:])
        return pixel_budget(mask, high=self.of.high, low=self.of.low)


def mean_budget(
    model: nn.Module, images: Images, budget: Budget, *, seed: int, batch: int | None = None
) -> float:
    """The mean of `budget` over pixels and images: what a uniform budget of equal size would be.

    They pass 500 at a time, above 64x64 fewer, or `batch`.
    """
    device = next(model.parameters()).device
    batch = batch or images.at_once(500)
    total, generator = 0.0, make_generator(seed, "mean budget", device=device)
    with evaluating(model):
        for first in range(0, len(images), batch):
            pixels, _ = images.batch(torch.arange(first, min(first + batch, len(images))))
            x = to_float(pixels.to(device))
            total += float(budget(model, x, generator).mean()) * len(x)
    return total / len(images)
