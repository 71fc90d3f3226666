"""What a batch should cost: clean, under Gaussian noise, with consistency over several copies.

An objective maps (model, x, y, generator) to a scalar loss, x float `(B, C, H, W)` in [0, 1] and y int64
`(B,)`. It draws its own noise from the generator, so that all training shares one loop. It is a mean over
images, each of which depends on itself alone (but for BatchNorm), and draws by `draws.drawn`: then several
processes may share a batch.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.draws import drawn

__all__ = ["Consistency", "Gaussian", "Objective", "Standard", "Warmup"]


def noisy_copies(x: Tensor, sigma: float, draws: int, generator: torch.Generator) -> Tensor:
    # (draws * B, C, H, W), all images of a draw together
    copies = x.repeat(draws, 1, 1, 1)
    return add_noise(copies, sigma, generator)


class Objective(Protocol):
    """The loss of a batch.

    Frozen dataclasses, so that their fields can be recorded beside the weights; where fields are no plain
    values, a method `identity()` says what is recorded instead.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Cross-entropy on the images themselves."""

    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(x).float(), y, label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Cross-entropy on images with Gaussian noise of standard deviation `sigma` (Cohen et al. 2019)."""

    sigma: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(add_noise(x, self.sigma, generator)).float(), y)


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Gaussian training plus consistency of the predictions across noise (Jeong & Shin 2020, equation 8).

    CE + strength * mean_i KL(mean || f_i) + entropy * H(mean) over `draws` noisy copies; the mean of the
    predictions is taken in the log domain, where a probability of 0 gives no NaN gradient.
    """

    sigma: float
    strength: float = 10.0
    entropy: float = 0.5
    draws: int = 2

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        logits = model(add_noise(x.repeat(self.draws, 1, 1, 1), self.sigma, generator)).float()
        told = F.cross_entropy(logits, y.repeat(self.draws))
        return told + self.of(logits.view(self.draws, len(x), -1), self.strength, self.entropy)

    @staticmethod
    def of(logits: Tensor, strength: float, entropy: float) -> Tensor:
        """What predictions that should agree cost beside their cross-entropy, of logits (draws, B, C)."""
        log_p = F.log_softmax(logits, dim=2)
        log_mean = torch.logsumexp(log_p, dim=0) - math.log(len(log_p))
        mean = log_mean.exp()
        divergence = (mean * (log_mean - log_p)).sum(-1).mean()
        spread = -(mean * log_mean).sum(-1).mean()
        return strength * divergence + entropy * spread


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """`first` for so many epochs, then `then`, on one learning-rate schedule."""

    epochs: int
    first: Objective
    then: Objective

    def at(self, epoch: int) -> Objective:
        """The objective of an epoch, counted from 0."""
        return self.first if epoch < self.epochs else self.then


def add_noise(x: Tensor, sigma: float | Tensor, generator: torch.Generator) -> Tensor:
    return x + sigma * drawn(torch.randn, x.shape, generator=generator, device=x.device, dtype=x.dtype)
