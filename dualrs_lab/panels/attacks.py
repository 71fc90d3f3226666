"""Attacks in panels: on one image, step by step, so that a newer wish ends them."""

from typing import Any

from torch import Tensor, nn

from dualrs_lab.attacks.norms import CrossEntropy
from dualrs_lab.attacks.pgd import PGD, pgd
from dualrs_lab.panels.latest import Tick
from dualrs_lab.runtime import make_generator

__all__ = ["watched_attack"]


STEPS = 20


def watched_attack(model: nn.Module, x: Tensor, y: Tensor, budget: Any, *, eps: float, tick: Tick) -> Tensor:
    """PGD-20 within `budget`, at most `eps`, from one random start that is always the same.

    Tells `tick` of its steps, which may end it.
    """
    usual, done = CrossEntropy(), 0

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        nonlocal done
        tick(min(done, STEPS), STEPS)
        done += 1
        return usual(logits, labels)

    attack = PGD(steps=STEPS, step=eps / 4, blind=1.0, loss=loss)
    return pgd(model, x, y, budget, attack=attack, generator=make_generator(0, "panel", device=x.device))
