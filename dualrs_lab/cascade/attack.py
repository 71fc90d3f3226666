"""Attacks on a cascade: each way in which it can fail is tried by itself.

The ways are those of the proof in `cascade.radii`: an expert errs while those before it are silent, or all
are silent.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dualrs_lab.cascade.radii import Cascade
from dualrs_lab.cascade.training import soft_steps
from dualrs_lab.smoothing.attack import SmoothedAttack, attack_route, check_attack, mean_probabilities

__all__ = ["attack_cascade"]


Model = Callable[[Tensor], Tensor]


def attack_cascade(
    experts: Sequence[Model], x: Tensor, y: Tensor, radii: Tensor, *, cascade: Cascade, attack: SmoothedAttack
) -> Tensor:
    """Inputs (B, K + 1, ...) within `radii` (B,) in l2 of x (B, ...), one for each way to lose y.

    The first K come closest to having expert j accept another class than y (B,) while all before it are
    silent; at the last one, all are. Everything else is as in `attack_dual`.
    """
    check_attack("attack_cascade", experts, x, y, radii)
    if len(experts) != len(cascade.sigmas):
        raise ValueError(f"attack_cascade: got {len(experts)} experts for the sigmas {cascade.sigmas}")

    def terms(j: int, point: Tensor, generator: torch.Generator) -> list[Tensor]:
        asked = zip(experts[: j + 1], cascade.sigmas, cascade.limits, strict=False)
        pairs = [
            soft_steps(
                mean_probabilities(model, point, sigma, attack.draws, generator)[:, : cascade.answers],
                y,
                sigma,
                limit,
            )
            for model, sigma, limit in asked
        ]
        accepts = [own for own, _ in pairs]
        return accepts if j == len(experts) else [*accepts[:j], pairs[j][1]]

    found = [attack_route(partial(terms, j), j, x, radii, attack) for j in range(len(experts) + 1)]
    return torch.stack(found, dim=1)
