"""Radii as differentiable functions of soft votes, which training raises and attacks lower.

The mean probability over noisy copies stands in place of the share of votes. Everything here is about the
ideal system of `routes`, without bounds; where `routes` has 0, negative values say how far beyond it one is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dualrs_lab.estimators import Cuts, Estimator, Plurality

__all__ = [
    "draw_in",
    "soft_cascade_radius",
    "soft_choice_radii",
    "soft_entry_radii",
    "soft_expert_radius",
    "soft_steps",
]

FLOOR = 2e-3  # of a soft probability: certainty beyond 2.9 standard deviations brings nothing more


def draw_in(probabilities: Tensor) -> Tensor:
    """Probabilities moved a little away from 0 and 1, not clamped: a certain error still has a gradient."""
    return FLOOR + (1 - 2 * FLOOR) * probabilities


def soft_entry_radii(probabilities: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Entry radii (B, K) from probabilities (B, K - 1) of "at most k", below 0 where the expert is chosen.

    As in `routes`, but without the maximum with 0, which would leave the chosen expert without a gradient.
    """
    reach = torch.special.ndtri(probabilities) * probabilities.new_tensor(list(sigmas))
    earlier = torch.cummax(reach, dim=1).values
    first, last = -reach[:, :1], earlier[:, -1:]
    return torch.cat([first, torch.maximum(earlier[:, :-1], -reach[:, 1:]), last], dim=1)


def soft_choice_radii(estimator: Estimator, probabilities: Sequence[Tensor]) -> Tensor:
    """Entry radii (B, K) from the mean probabilities (B, C) of each stream of `estimator`."""
    drawn = [draw_in(p) for p in probabilities]
    if isinstance(estimator, Cuts):
        return soft_entry_radii(torch.stack([p[:, 0] for p in drawn], dim=1), estimator.sigmas)
    p = drawn[0]
    if p.shape[1] == 1:
        return torch.full_like(p, -torch.inf)
    if isinstance(estimator, Plurality):
        ahead: Tensor = torch.special.ndtri(_rivals(p)) - torch.special.ndtri(p)
        return estimator.sigma / 2 * ahead
    at_most = torch.cumsum(p, dim=1)[:, :-1] / p.sum(dim=1, keepdim=True)
    return soft_entry_radii(at_most, [estimator.sigma] * at_most.shape[1])


def soft_expert_radius(probabilities: Tensor, y: Tensor, sigma: float) -> Tensor:
    """sigma / 2 (Phi^-1(p_y) - Phi^-1(largest other)) (B,) of (B, C): below 0 where y is not the answer."""
    p = draw_in(probabilities)
    own = p.gather(1, y[:, None])
    others = p.scatter(1, y[:, None], 0.0).amax(dim=1, keepdim=True)
    ahead: Tensor = torch.special.ndtri(own) - torch.special.ndtri(others)
    return sigma / 2 * ahead.squeeze(1)


def soft_steps(probabilities: Tensor, y: Tensor, sigma: float, limit: float) -> tuple[Tensor, Tensor]:
    """Both distances (B,) of an expert in a cascade for y (B,), from (B, C): see `cascades`."""
    p = draw_in(probabilities)
    own = sigma * torch.special.ndtri(p.gather(1, y[:, None]).squeeze(1))
    rival = sigma * torch.special.ndtri(p.scatter(1, y[:, None], 0.0).amax(dim=1))
    half = (own - rival) / 2
    return torch.minimum(own - limit, half), torch.maximum(limit - rival, half)


def soft_cascade_radius(probabilities: Tensor, y: Tensor, sigmas: Sequence[float], t: float) -> Tensor:
    """Radius (B,) of a cascade with thresholds 0 for class y (B,), from (B, K, C) in the order of asking.

    As in `cascades`, with minimum and maximum softened by `t`; below 0 where the answer is another class.
    """
    p = draw_in(probabilities)
    at = y[:, None, None].expand(-1, p.shape[1], 1)
    sigma = p.new_tensor(list(sigmas))
    own = sigma * torch.special.ndtri(p.gather(2, at).squeeze(2))
    others = -sigma * torch.special.ndtri(p.scatter(2, at, 0.0).amax(dim=2))
    accepts, radius = own[:, 0], others[:, 0]
    for j in range(1, p.shape[1]):
        radius = -t * torch.logaddexp(-radius / t, -_soft_max(others[:, j], accepts, t) / t)
        accepts = _soft_max(accepts, own[:, j], t)
    return -t * torch.logaddexp(-radius / t, -accepts / t)


def _soft_max(a: Tensor, b: Tensor, t: float) -> Tensor:
    return t * torch.logaddexp(a / t, b / t)


def _rivals(p: Tensor) -> Tensor:
    # (B, K): the largest of the others
    leading = p.topk(2, dim=1).values
    best, second = leading[:, :1], leading[:, 1:]
    return torch.where(p == best, second, best)
