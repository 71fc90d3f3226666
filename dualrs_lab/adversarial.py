"""Adversarial training, its pixel-reweighted form, and the controls that tell whether the pixels matter.

An objective attacks the batch and trains the network to answer the result correctly: PGD-AT (Madry et al.
2018), TRADES (Zhang et al. 2019), MART (Wang et al. 2020), SmoothAdv (Salman et al. 2019) for experts that
are smoothed. How far a pixel may move is a budget, a small frozen object: `Uniform` in plain adversarial
training, `Pixels` in PART (Zhang et al. 2024), which lowers it where the class activation map of the
augmented batch itself says that pixels matter less. So PART is `Adversarial(budget=Pixels(...))`; PART-T and
PART-M are `Trades` and `Mart` with it. Attacks and maps see the network in evaluation mode; then it is
trained in training mode.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.attacks import L2, PGD, Divergence, mma, pgd
from dualrs_lab.cam import Mask, Weighting, class_maps, grad_cam, pixel_budget
from dualrs_lab.data import Images, to_float
from dualrs_lab.runtime import make_generator

__all__ = [
    "INNER",
    "Adversarial",
    "Budget",
    "Mart",
    "OtherImages",
    "Pixels",
    "RandomPixels",
    "Region",
    "SmoothAdversarial",
    "Trades",
    "Uniform",
    "evaluating",
    "mean_budget",
]

INNER = PGD(steps=10, step=2 / 255, best=False, blind=0.99)
"""Ten steps for 8/255, whose last input is trained on; batches may hold images without a gradient."""


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

    `layer` is as in `cam.class_maps`; None, the last stage, costs one forward pass.
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
        return self.of(model, x, generator).roll(1, dims=0)


@dataclass(frozen=True, kw_only=True)
class RandomPixels:
    """Control: as many pixels as `of` finds important in an image get `high`, but chosen at random."""

    of: Pixels

    def __call__(self, model: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        mask = self.of.masked(model, x).flatten(2)
        anywhere = torch.rand(mask.shape, generator=generator, device=x.device).argsort(2)
        mask = mask.gather(2, anywhere).view(*mask.shape[:2], *x.shape[2:])
        return pixel_budget(mask, high=self.of.high, low=self.of.low)


def mean_budget(model: nn.Module, images: Images, budget: Budget, *, seed: int, batch: int = 500) -> float:
    """The mean of `budget` over pixels and images: what a uniform budget of equal size would be."""
    device = next(model.parameters()).device
    total, generator = 0.0, make_generator(seed, "mean budget", device=device)
    with evaluating(model):
        for first in range(0, len(images), batch):
            pixels, _ = images.batch(torch.arange(first, min(first + batch, len(images))))
            x = to_float(pixels.to(device))
            total += float(budget(model, x, generator).mean()) * len(x)
    return total / len(images)


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Cross-entropy on attacked images: by `mma` with `targets` classes or, where this is 0, by `pgd`."""

    budget: Budget = Uniform()
    attack: PGD = INNER
    targets: int = 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        with evaluating(model):
            budget = self.budget(model, x, generator)
            if self.targets:
                attacked = mma(
                    model, x, y, budget, attack=self.attack, targets=self.targets, generator=generator
                )
            else:
                attacked = pgd(model, x, y, budget, attack=self.attack, generator=generator)
        return F.cross_entropy(model(attacked).float(), y)


@dataclass(frozen=True, kw_only=True)
class Trades:
    """CE(f(x), y) + strength * KL(f(x) || f(x')), where x' ascends this divergence (Zhang et al. 2019).

    The attack starts at random in the budget, not at x + 0.001 noise as in the published code.
    """

    budget: Budget = Uniform()
    attack: PGD = INNER
    strength: float = 6.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        with evaluating(model):
            budget = self.budget(model, x, generator)
            with torch.no_grad():
                reference = model(x).float()
            attack = replace(self.attack, loss=Divergence(), best=False)  # best needs labels
            attacked = pgd(model, x, reference, budget, attack=attack, generator=generator)
        natural, adversarial = model(x).float(), model(attacked).float()
        return F.cross_entropy(natural, y) + self.strength * _divergence(natural, adversarial).mean()


@dataclass(frozen=True, kw_only=True)
class Mart:
    """CE(f(x'), y) - log(1 - max wrong f(x')) + strength * KL(f(x) || f(x')) (1 - f(x)_y).

    Wang et al. 2020; x' ascends the cross-entropy.
    """

    budget: Budget = Uniform()
    attack: PGD = INNER
    strength: float = 6.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        with evaluating(model):
            budget = self.budget(model, x, generator)
            attacked = pgd(model, x, y, budget, attack=self.attack, generator=generator)
        natural, adversarial = model(x).float(), model(attacked).float()
        own = F.one_hot(y, natural.shape[1]).bool()
        wrong = F.softmax(adversarial, dim=1).masked_fill(own, 0).amax(1)
        boosted = F.cross_entropy(adversarial, y) - torch.log(1.0001 - wrong).mean()  # as published: no log 0
        unsure = 1 - F.softmax(natural, dim=1)[own]
        return boosted + self.strength * (_divergence(natural, adversarial) * unsure).mean()


@dataclass(frozen=True, kw_only=True)
class SmoothAdversarial:
    """SmoothAdv: an l2 attack on the mean probabilities over `draws` noisy copies, which are trained on.

    `eps` is the attack's l2 radius, `sigma` the noise under which the network will be smoothed.
    """

    sigma: float
    eps: float
    draws: int = 2
    steps: int = 4

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        shape = (self.draws, *x.shape)
        noise = self.sigma * torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        attack = PGD(
            steps=self.steps, step=2 * self.eps / self.steps, start=0.0, norm=L2(), best=False, blind=0.99
        )
        with evaluating(model):
            smoothed = _Smoothed(model, noise).eval()
            attacked = pgd(smoothed, x, y, self.eps, attack=attack, generator=generator)
        logits = model((attacked + noise).flatten(0, 1)).float()
        return F.cross_entropy(logits, y.repeat(self.draws))


class _Smoothed(nn.Module):
    """Log of the mean probabilities under fixed noise (draws, B, C, H, W)."""

    def __init__(self, model: nn.Module, noise: Tensor) -> None:
        super().__init__()
        self.model, self.noise = model, noise

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model((x + self.noise).flatten(0, 1)).float()
        log_p = F.log_softmax(logits, dim=1).view(len(self.noise), len(x), -1)
        return torch.logsumexp(log_p, dim=0) - math.log(len(log_p))


def _divergence(natural: Tensor, adversarial: Tensor) -> Tensor:
    return Divergence()(adversarial, natural)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context; afterwards every module is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
