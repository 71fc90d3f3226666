"""APGD: projected gradient ascent that finds its steps itself (Croce and Hein 2020, algorithm 1)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dualrs_lab.attacks.norms import wide
from dualrs_lab.attacks.pgd import PGD, Walk

__all__ = ["APGD"]


@dataclass(frozen=True, kw_only=True)
class APGD(PGD):
    """PGD that adapts its step, image by image (Croce and Hein 2020, algorithm 1).

    It moves with momentum. At checkpoints that come ever closer, an image on which the ascent has stalled
    gets half its step and goes on from its best point. `step` is the first one, in the paper twice the
    budget.
    """

    momentum: float = 0.25  # share of the last move that is added
    enough: float = 0.75  # share of the steps since the last check that must have raised the loss

    def walk(self, x: Tensor, budget: Tensor) -> Walk:
        return _Adapting(self, x, budget)


class _Adapting(Walk):
    attack: APGD

    def __init__(self, attack: APGD, x: Tensor, budget: Tensor) -> None:
        super().__init__(attack, x, budget)
        none = torch.zeros(len(x), device=x.device)
        self.taken, self.checks = 0, _checks(attack.steps)
        self.length = wide(none + attack.step)
        self.rises, self.last = none, none - torch.inf  # since the last check; at the last point
        self.best, self.checked, self.halved = none - torch.inf, none - torch.inf, none.bool()
        self.top = self.slope = self.before = x

    def next(self, point: Tensor, loss: Tensor, slope: Tensor) -> Tensor:
        better = loss > self.best
        self.best = torch.maximum(loss, self.best)
        self.top, self.slope = (
            torch.where(wide(better), new, old) for new, old in ((point, self.top), (slope, self.slope))
        )
        self.rises, self.last = self.rises + (loss > self.last), loss
        if self.taken in self.checks:
            point, slope = self._checked(point, slope)
        moved = self.reach(point, slope, self.length)
        if self.taken:
            keep = self.attack.momentum
            moved = self.inside((1 - keep) * (moved - point) + keep * (point - self.before) + point - self.x)
        self.taken, self.before = self.taken + 1, point
        return moved

    def _checked(self, point: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        since = self.checks[self.taken]
        stalled = self.rises < self.attack.enough * since
        stalled |= ~self.halved & (self.checked >= self.best)
        self.rises, self.checked, self.halved = torch.zeros_like(self.rises), self.best, stalled
        back = wide(stalled)
        self.length = torch.where(back, self.length / 2, self.length)
        return torch.where(back, self.top, point), torch.where(back, self.slope, slope)


def _checks(steps: int) -> dict[int, int]:
    # step at which progress is checked -> steps since the previous check
    found, last, share, gap = dict[int, int](), 0, 0.22, 0.22
    while (at := math.ceil(round(share * steps, 6))) < steps:
        if at > last:
            found[at] = at - last
        last, gap = at, max(gap - 0.03, 0.06)
        share += gap
    return found
