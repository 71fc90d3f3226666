"""What an attack ascends, and the set in which it may move.

In linf a pixel moves by its budget at most. In l2 the allowed set is the ellipsoid sum (delta / budget)^2 <=
1, which for one number is the usual ball; a pixel with budget 0 stays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dualrs_lab.draws import drawn

__all__ = ["L2", "LINF", "CrossEntropy", "Divergence", "Linf", "Margin", "Norm", "margins"]


class Norm(Protocol):
    """Which set a budget allows, and the direction of steepest ascent in it."""

    def step(self, slope: Tensor, budget: Tensor, length: float | Tensor) -> Tensor: ...
    def project(self, delta: Tensor, budget: Tensor) -> Tensor: ...
    def start(self, x: Tensor, budget: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class Linf:
    """|delta| <= budget, pixel by pixel."""

    def step(self, slope: Tensor, budget: Tensor, length: float | Tensor) -> Tensor:
        return length * slope.sign()

    def project(self, delta: Tensor, budget: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(delta, -budget), budget)

    def start(self, x: Tensor, budget: Tensor, generator: torch.Generator) -> Tensor:
        uniform = drawn(torch.rand, x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (2 * uniform - 1) * budget


@dataclass(frozen=True)
class L2:
    """Sum (delta / budget)^2 <= 1."""

    def step(self, slope: Tensor, budget: Tensor, length: float | Tensor) -> Tensor:
        relative = budget / budget.amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
        scaled = relative * slope
        return length * relative * scaled / _norm(scaled).clamp(min=1e-30)

    def project(self, delta: Tensor, budget: Tensor) -> Tensor:
        inside = delta.where(budget > 0, 0)
        reach = _norm(inside / budget.where(budget > 0, 1))
        return inside / reach.clamp(min=1)

    def start(self, x: Tensor, budget: Tensor, generator: torch.Generator) -> Tensor:
        # uniform in the ellipsoid
        direction = drawn(torch.randn, x.shape, generator=generator, device=x.device, dtype=x.dtype)
        one = (len(x), 1, 1, 1)
        reach = drawn(torch.rand, one, generator=generator, device=x.device, dtype=x.dtype)
        return budget * direction / _norm(direction) * reach ** (1 / x[0].numel())


LINF = Linf()


def _norm(x: Tensor) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True).sqrt()


Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (N, K) and what they are compared with, mostly labels (N,) -> what is ascended, (N,)."""


@dataclass(frozen=True)
class CrossEntropy:
    """Of the labels."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")


@dataclass(frozen=True)
class Margin:
    """Largest wrong logit minus that of the label: above 0, the answer is wrong. Never saturates."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return margins(logits, y)


@dataclass(frozen=True)
class Divergence:
    """KL from the probabilities of reference logits (N, K) to those here: what TRADES ascends."""

    def __call__(self, logits: Tensor, reference: Tensor) -> Tensor:
        p, q = F.log_softmax(reference, dim=1), F.log_softmax(logits, dim=1)
        return F.kl_div(q, p, reduction="none", log_target=True).sum(1)


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Largest logit of a class other than y (N,), minus the one of y: (N,)."""
    return wrong_logits(logits, y).amax(1) - logits.gather(1, y[:, None])[:, 0]


def wrong_logits(logits: Tensor, y: Tensor) -> Tensor:
    # (N, K), without those of the label
    return logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -torch.inf)


def wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
