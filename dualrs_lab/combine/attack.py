"""Attacks on a combiner: each class that could overtake is tried by itself."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.soft import soft_margins
from dualrs_lab.smoothing.attack import SmoothedAttack, attack_route, check_attack, mean_probabilities

__all__ = ["attack_combined"]


Model = Callable[[Tensor], Tensor]


def attack_combined(
    experts: Sequence[Model],
    x: Tensor,
    y: Tensor,
    radii: Tensor,
    *,
    combiner: Combiner,
    attack: SmoothedAttack,
    rivals: int = 3,
) -> Tensor:
    """Inputs (B, rivals, ...) within `radii` (B,) in l2 of x (B, ...), one for each class that may win.

    The j-th comes closest to having the class that is the j-th nearest at x beat y (B,) in its pair, which is
    how a combiner fails (see `combine.radii`). Everything else is as in `attack_dual`.
    """
    check_attack("attack_combined", experts, x, y, radii)
    if len(experts) != len(combiner.sigmas):
        raise ValueError(f"attack_combined: got {len(experts)} experts for the sigmas {combiner.sigmas}")

    def margins(point: Tensor, generator: torch.Generator) -> Tensor:
        pairs = zip(experts, combiner.sigmas, strict=True)
        p = [mean_probabilities(model, point, sigma, attack.draws, generator) for model, sigma in pairs]
        return soft_margins(torch.stack(p, dim=1), y, combiner)

    with torch.no_grad():
        first = margins(x, torch.Generator(x.device).manual_seed(attack.seed))
    nearest = first.argsort(dim=1)[:, : min(rivals, first.shape[1] - 1)]

    def route(j: int) -> Tensor:
        def terms(point: Tensor, generator: torch.Generator) -> list[Tensor]:
            return [margins(point, generator).gather(1, nearest[:, j : j + 1]).squeeze(1)]

        return attack_route(terms, j, x, radii, attack)

    return torch.stack([route(j) for j in range(nearest.shape[1])], dim=1)
