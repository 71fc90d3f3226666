"""Adversarial training, plain and pixel-reweighted.

An objective attacks the batch and trains the network to answer the result correctly: PGD-AT (Madry et al.
2018), TRADES (Zhang et al. 2019), MART (Wang et al. 2020). How far a pixel may move is a budget
(`pixels.budgets`): uniform in plain adversarial training, by a class activation map in PART (Zhang et al.
2024). So PART is `Adversarial(budget=Pixels(...))`; PART-T and PART-M are `Trades` and `Mart` with it.
Attacks and maps see the network in evaluation mode; then it is trained in training mode.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.attacks.checks import evaluating
from dualrs_lab.attacks.norms import Divergence
from dualrs_lab.attacks.pgd import PGD, mma, pgd
from dualrs_lab.pixels.budgets import Budget, Uniform

__all__ = ["INNER", "Adversarial", "Mart", "Trades"]


INNER = PGD(steps=10, step=2 / 255, best=False, blind=0.99)
"""Ten steps for 8/255, whose last input is trained on; batches may hold images without a gradient."""


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Cross-entropy on attacked images: by `mma` with `targets` classes or, where this is 0, by `pgd`."""

    budget: Budget = Uniform()  # noqa: RUF009
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

    budget: Budget = Uniform()  # noqa: RUF009
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

    budget: Budget = Uniform()  # noqa: RUF009
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


def _divergence(natural: Tensor, adversarial: Tensor) -> Tensor:
    return Divergence()(adversarial, natural)
