"""Margins of a combiner as a differentiable function of soft votes: training raises them, attacks lower them.

Mean probabilities over noisy copies stand in for shares of votes, and everything here is about the ideal
classifier, without bounds, as in `smoothing.soft`. The theory is in `combine.radii`.
"""

import torch
from torch import Tensor

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.smoothing.soft import draw_in

__all__ = ["soft_combined_radius", "soft_margins"]


def soft_combined_radius(
    probabilities: Tensor, y: Tensor, combiner: Combiner, *, temperature: float = 0.0
) -> Tensor:
    """h_y (B,), the least of `soft_margins`: below 0 where y (B,) is not the answer."""
    return soft_margins(probabilities, y, combiner, temperature=temperature).amin(dim=1)


def soft_margins(probabilities: Tensor, y: Tensor, combiner: Combiner, *, temperature: float = 0.0) -> Tensor:
    """M_yc (B, C) of y (B,) and every class by mean probabilities (B, K, C); infinite for y itself.

    They are those of `combine.radii` for probabilities that were drawn in. With a `temperature` t, maximum
    and minima of the lattice are softened, so that every coordinate that could decide has a gradient: that
    moves a margin of A terms of J coordinates by at most t / 2 (log A + log J), and keeps M_yc + M_cy = 0.
    """
    p = draw_in(probabilities)
    sigma = p.new_tensor(combiner.sigmas)[:, None]
    z = (sigma * torch.special.ndtri(p)).transpose(1, 2)  # (B, C, K)
    a = z.gather(1, y[:, None, None].expand(-1, 1, z.shape[2])).expand_as(z)
    half, zero = (a - z) / 2, z.new_zeros((*z.shape[:2], 1))
    forth = _largest(torch.cat([half, a, -z, zero], dim=2), combiner, temperature)
    back = _largest(torch.cat([-half, z, -a, zero], dim=2), combiner, temperature)
    return ((forth - back) / 2).scatter(1, y[:, None], torch.inf)


def _largest(v: Tensor, combiner: Combiner, t: float) -> Tensor:
    # G (B, C) from coordinates (B, C, 3 K + 1)
    terms = []
    for row in combiner.shifts:
        there = [j for j, shift in enumerate(row) if shift < torch.inf]
        terms.append(-_soft_max(-v[..., there] - v.new_tensor([row[j] for j in there]), t))
    return _soft_max(torch.stack(terms, dim=-1), t)


def _soft_max(v: Tensor, t: float) -> Tensor:
    # of the last axis; the maximum itself where t is 0
    return t * torch.logsumexp(v / t, dim=-1) if t else v.amax(dim=-1)
