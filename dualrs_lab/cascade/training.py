"""Training the experts of a cascade together, for the radius that it certifies.

The radius is a differentiable function of soft votes: mean probabilities over noisy copies stand in for
shares of votes. The theory is in `cascade.radii`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.smoothing.soft import draw_in
from dualrs_lab.training.together import soft_votes

__all__ = ["CascadeRadius", "soft_cascade_radius", "soft_steps"]


@dataclass(frozen=True, kw_only=True)
class CascadeRadius:
    """Raises the mean certified radius of a cascade of experts (see `cascade.radii`), from soft votes.

    The experts, in a `Pool` and in the order in which they are asked, are trained together: each learns to
    certify what reaches it, and to stay silent where a later one does better. `accuracy` weights the
    cross-entropy of all experts under their own noise, which trades large radii for accuracy. Radii below 0
    have a slope within about `temperature`, which also softens minimum and maximum.
    """

    sigmas: tuple[float, ...]
    accuracy: float = 0.2
    draws: int = 4
    temperature: float = 0.05

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        p, cost = soft_votes(model, x, y, sigmas=self.sigmas, draws=self.draws, generator=generator)
        radius = soft_cascade_radius(p, y, self.sigmas, self.temperature)
        gained = self.temperature * F.softplus(radius / self.temperature)
        return self.accuracy * cost - gained.mean()


def soft_steps(probabilities: Tensor, y: Tensor, sigma: float, limit: float) -> tuple[Tensor, Tensor]:
    """Both distances (B,) of an expert in a cascade for y (B,), from (B, C): see `cascade.radii`."""
    p = draw_in(probabilities)
    own = sigma * torch.special.ndtri(p.gather(1, y[:, None]).squeeze(1))
    rival = sigma * torch.special.ndtri(p.scatter(1, y[:, None], 0.0).amax(dim=1))
    half = (own - rival) / 2
    return torch.minimum(own - limit, half), torch.maximum(limit - rival, half)


def soft_cascade_radius(probabilities: Tensor, y: Tensor, sigmas: Sequence[float], t: float) -> Tensor:
    """Radius (B,) of a cascade with thresholds 0 for class y (B,), from (B, K, C) in the order of asking.

    As in `cascade.radii`, with minimum and maximum softened by `t`; below 0 where another class is answered.
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
