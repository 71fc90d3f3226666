"""Attacks on a dual system, one route at a time.

For each expert j it looks for a point where the estimator chooses j *and* j gives another class, by
descending max(entry radius, expert radius), both of them soft. This is the quantity whose minimum over j the
routed certificate bounds at x.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dualrs_lab.dual.choice import Estimator
from dualrs_lab.dual.objectives import soft_choice_radii
from dualrs_lab.smoothing.attack import SmoothedAttack, attack_route, check_attack, mean_probabilities
from dualrs_lab.smoothing.soft import soft_expert_radius

__all__ = ["attack_dual"]


Model = Callable[[Tensor], Tensor]


def attack_dual(
    estimators: Sequence[Model],
    experts: Sequence[Model],
    x: Tensor,
    y: Tensor,
    radii: Tensor,
    *,
    estimator: Estimator,
    sigmas: Sequence[float],
    attack: SmoothedAttack,
) -> Tensor:
    """Inputs (B, K, ...) within l2 distance `radii` (B,) of x (B, ...), one for each of K routes.

    The one for route j comes closest to being sent to expert j and not answered `y` (B,) there. x is float in
    [0, 1]; the inputs may leave that range, as the ball of a certificate does. Networks give logits and have
    to be in evaluation mode on the device of x. Whether an input is adversarial is for votes to decide.
    Raises ValueError where shapes do not fit, x is not float in [0, 1], a network is in training mode or no
    gradient reaches some input.
    """
    check_attack("attack_dual", (*estimators, *experts), x, y, radii)
    if (len(estimators), len(experts)) != (len(estimator.sigmas), len(sigmas)):
        raise ValueError(
            f"attack_dual: got {len(estimators)} estimators and {len(experts)} experts; {estimator} and the "
            f"sigmas {tuple(sigmas)} want {len(estimator.sigmas)} and {len(sigmas)}"
        )

    def terms(j: int, point: Tensor, generator: torch.Generator) -> list[Tensor]:
        votes = [
            mean_probabilities(model, point, sigma, attack.draws, generator)
            for model, sigma in zip(estimators, estimator.sigmas, strict=True)
        ]
        enters = soft_choice_radii(estimator, votes)[:, j]
        answers = mean_probabilities(experts[j], point, sigmas[j], attack.draws, generator)
        return [enters, soft_expert_radius(answers, y, sigmas[j])]

    found = [attack_route(partial(terms, j), j, x, radii, attack) for j in range(len(experts))]
    return torch.stack(found, dim=1)
