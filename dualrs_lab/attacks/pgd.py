"""Projected gradient ascent: inputs within a budget that a network answers differently.

A budget is one number, one per image (N, 1, 1, 1), or one per pixel (N, C or 1, H, W), in the [0, 1] unit;
`attacks.norms` says what it allows. Results are in [0, 1] as well. `pgd` ascends a loss (Madry et al. 2018);
`mma` ascends the margins of the most likely wrong classes one by one (the minimum-margin attack, Gao et al.
2022). Gradients that vanish make a network look robust: that is an error here.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dualrs_lab.attacks.checks import as_budget, check_finite, check_inputs
from dualrs_lab.attacks.norms import LINF, CrossEntropy, Loss, Norm, margins, wide, wrong_logits
from dualrs_lab.attacks.settings import FEW
from dualrs_lab.draws import of_batch
from dualrs_lab.settings import BUDGET, Range, check_settings, setting

__all__ = ["PGD", "Walk", "mma", "pgd"]


_FROM_0 = Range(least=0, most=1e6)


@dataclass(frozen=True, kw_only=True)
class PGD:
    """How `pgd` ascends: the defaults are PGD-20 for 8/255 in linf."""

    steps: int = setting(20, "of an ascent", FEW)
    step: float = setting(
        2 / 255, "in linf of each pixel, in l2 of the whole step (of the pixel with most budget)", BUDGET
    )
    restarts: int = setting(1, "ascents from other starts", FEW)
    start: float = setting(1.0, "random start within this share of the budget; 0: at the image", _FROM_0)
    norm: Norm = LINF
    loss: Loss = CrossEntropy()  # noqa: RUF009
    best: bool = True  # the best input of all steps; False: the last, one forward pass fewer (for training)
    blind: float = setting(0.0, "share of images without any gradient that is no error yet", _FROM_0)

    def __post_init__(self) -> None:
        check_settings(self)

    def walk(self, x: Tensor, budget: Tensor) -> "Walk":
        """One ascent from a start."""
        return Walk(self, x, budget)


class Walk:
    """The points of one ascent of `PGD`: where loss (N,) and slope at a point lead next."""

    def __init__(self, attack: PGD, x: Tensor, budget: Tensor) -> None:
        self.attack, self.x, self.budget = attack, x, budget

    def next(self, point: Tensor, loss: Tensor, slope: Tensor) -> Tensor:
        return self.reach(point, slope, self.attack.step)

    def reach(self, point: Tensor, slope: Tensor, length: float | Tensor) -> Tensor:
        """The point one step along the slope, within the budget."""
        return self.inside(point - self.x + self.attack.norm.step(slope, self.budget, length))

    def inside(self, delta: Tensor) -> Tensor:
        return (self.x + self.attack.norm.project(delta, self.budget)).clamp(0, 1)


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    budget: float | Tensor,
    *,
    attack: PGD,
    generator: torch.Generator,
) -> Tensor:
    """Inputs within `budget` of x (N, C, H, W) in [0, 1] that the loss against y ranks highest.

    With `best`, y are labels (N,); over all steps and restarts, an input that is answered wrongly is
    preferred to one that is not, then the higher loss counts. Otherwise y is what the loss takes, and the
    last step counts.

    Raises ValueError where x is not float in [0, 1], the network is in training mode, a budget is negative or
    does not fit, a gradient is not finite, or more than a share `blind` of the images gets no gradient.
    """
    check_inputs("pgd", model, x, y)
    budget = as_budget("pgd", budget, x)
    reached = _Reached.nothing(x)
    moved, finite = (torch.full((len(x),), value, device=x.device) for value in (False, True))
    for _ in range(attack.restarts):
        delta = (
            attack.start * attack.norm.start(x, budget, generator) if attack.start else torch.zeros_like(x)
        )
        point, walk = (x + delta).clamp(0, 1), attack.walk(x, budget)
        for _ in range(attack.steps):
            point.requires_grad_()
            logits = model(point).float()
            loss = attack.loss(logits, y)
            (slope,) = torch.autograd.grad(loss.sum(), point)
            point = point.detach()
            if attack.best:
                reached = reached.better(point, logits.detach(), loss.detach(), y)
            moved |= slope.flatten(1).any(1)
            finite &= slope.isfinite().flatten(1).all(1)
            point = walk.next(point, loss.detach(), slope)
        if attack.best:
            with torch.no_grad():
                logits = model(point).float()
                reached = reached.better(point, logits, attack.loss(logits, y), y)
    check_finite("pgd", finite)
    fine = moved | reached.fooled | ~(budget > 0).flatten(1).any(1)
    _check_moved("pgd", of_batch(fine, generator), attack)
    return reached.point if attack.best else point


def mma(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    budget: float | Tensor,
    *,
    attack: PGD,
    generator: torch.Generator,
    targets: int = 3,
) -> Tensor:
    """As `pgd`, but ascends z_t - z_y for each of the `targets` most likely wrong classes t at x in turn.

    Returns the input with the largest margin over all targets, whatever `attack.loss` says.
    """
    check_inputs("mma", model, x, y)
    with torch.no_grad():
        logits = model(x).float()
    if not 1 <= targets < logits.shape[1]:
        raise ValueError(f"mma: got {targets} targets for {logits.shape[1]} classes; wanted 1 to all others")
    likely = wrong_logits(logits, y).topk(targets, dim=1).indices
    found, score = x, margins(logits, y)
    for target in likely.unbind(1):

        def towards(logits: Tensor, y: Tensor, target: Tensor = target) -> Tensor:
            return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]

        point = pgd(model, x, y, budget, attack=replace(attack, loss=towards), generator=generator)
        with torch.no_grad():
            value = margins(model(point).float(), y)
        found = torch.where(wide(value > score), point, found)
        score = torch.maximum(value, score)
    return found


@dataclass(frozen=True)
class _Reached:
    """The best input of each image so far: one that fools the network first, then by loss."""

    point: Tensor
    fooled: Tensor
    loss: Tensor

    @classmethod
    def nothing(cls, x: Tensor) -> "_Reached":
        none = torch.zeros(len(x), device=x.device)
        return cls(x, none.bool(), none - torch.inf)

    def better(self, point: Tensor, logits: Tensor, loss: Tensor, y: Tensor) -> "_Reached":
        fooled = margins(logits, y) > 0
        better = (fooled & ~self.fooled) | ((fooled == self.fooled) & (loss > self.loss))
        return _Reached(
            torch.where(wide(better), point, self.point),
            fooled | self.fooled,
            torch.where(better, loss, self.loss),
        )


def _check_moved(call: str, moved: Tensor, attack: PGD) -> None:
    if len(moved) and float((~moved).float().mean()) > attack.blind:
        still = (~moved).nonzero().flatten().tolist()
        raise ValueError(
            f"{call}: {len(still)} of {len(moved)} images got no gradient at any step (images {still[:10]}): "
            "the network is saturated or not differentiable, and robustness measured so means nothing. Try "
            "loss=Margin(), which does not saturate"
        )
