"""The radius of a smoothed classifier as a differentiable function of soft votes.

The mean probability over noisy copies stands in place of the share of votes. Training raises such radii and
attacks lower them; everything here is about the ideal classifier, without bounds.
"""

import torch
from torch import Tensor

__all__ = ["draw_in", "soft_expert_radius"]


FLOOR = 2e-3  # of a soft probability: certainty beyond 2.9 standard deviations brings nothing more


def draw_in(probabilities: Tensor) -> Tensor:
    """Probabilities moved a little away from 0 and 1, not clamped: a certain error still has a gradient."""
    return FLOOR + (1 - 2 * FLOOR) * probabilities


def soft_expert_radius(probabilities: Tensor, y: Tensor, sigma: float) -> Tensor:
    """sigma / 2 (Phi^-1(p_y) - Phi^-1(largest other)) (B,) of (B, C): below 0 where y is not the answer."""
    p = draw_in(probabilities)
    own = p.gather(1, y[:, None])
    others = p.scatter(1, y[:, None], 0.0).amax(dim=1, keepdim=True)
    ahead: Tensor = torch.special.ndtri(own) - torch.special.ndtri(others)
    return sigma / 2 * ahead.squeeze(1)
