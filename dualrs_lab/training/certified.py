"""Objectives for networks that will be smoothed: what is trained on is an attack, or the radius itself.

SmoothAdv (Salman et al. 2019) attacks the image for all its noisy copies at once; CAT-RS (Jeong et al. 2023)
and Sun et al. (2025) attack each noise by itself; MACER (Zhai et al. 2020) and ours raise a soft radius
without an attack. Attacks see the network in evaluation mode. Nothing here waits for the device or decides on
the host, so that a GPU can hold a whole step as one graph.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.attacks.checks import evaluating
from dualrs_lab.draws import drawn
from dualrs_lab.smoothing.soft import soft_expert_radius
from dualrs_lab.training.objectives import Consistency

__all__ = ["AttackedNoise", "CatRs", "Macer", "OwnRadius", "SmoothAdversarial"]


@dataclass(frozen=True, kw_only=True)
class SmoothAdversarial:
    """SmoothAdv: an l2 attack on the mean probabilities over `draws` noisy copies, which are trained on.

    `eps` is the attack's l2 radius, `sigma` the noise under which the network will be smoothed. With a
    `strength`, attacked copies are trained to agree as well (`Consistency`; Jeong & Shin 2020, section 4.1).
    """

    sigma: float
    eps: float
    draws: int = 2
    steps: int = 4
    strength: float = 0.0
    entropy: float = 0.5

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        noise = _noise(x, self.sigma, self.draws, generator)
        with evaluating(model):
            attacked = _ascend(x, lambda point: self._surprise(model, point + noise, y), self.eps, self.steps)
        logits = _answers(model, attacked + noise)
        told = F.cross_entropy(logits.flatten(0, 1), y.repeat(self.draws))
        return told + Consistency.of(logits, self.strength, self.entropy) if self.strength else told

    def _surprise(self, model: nn.Module, copies: Tensor, y: Tensor) -> Tensor:
        log_p = F.log_softmax(_answers(model, copies), dim=2)
        return F.nll_loss(torch.logsumexp(log_p, dim=0) - math.log(self.draws), y, reduction="sum")


@dataclass(frozen=True, kw_only=True)
class CatRs:
    """Confidence-aware training (Jeong, Kim & Shin 2023, equations 8 to 11).

    An image whose noisy copies are right with a share p costs the K ~ Bin(draws, p) smallest of their
    cross-entropies (one at least); where K = draws, also `strength` times the largest divergence that its
    mean prediction has from that of a copy whose noise an l2 attack within `eps` has moved. As published, an
    attacked noise keeps its mean and its standard deviation; other than there, the mean prediction is that of
    the network itself, not of one that was trained before.
    """

    sigma: float
    strength: float = 1.0
    eps: float = 1.0
    draws: int = 4
    steps: int = 4

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        noise = _noise(x, self.sigma, self.draws, generator)
        logits = _answers(model, x + noise)
        target = logits.detach().softmax(dim=2).mean(dim=0)
        with evaluating(model):
            moved = self._attack(model, x, noise, target)
        worst = _divergence(_answers(model, x + moved), target).amax(dim=0)
        low, sure = self._low(logits, y, generator)
        return (low + self.strength * sure * worst).mean()

    def _low(self, logits: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # the mean over all draws of the K smallest costs (B,), and whether K is all of them
        right = (logits.detach().argmax(dim=2) == y).float().mean(dim=0)
        shape = (self.draws, len(y))
        coins = drawn(torch.rand, shape, images=1, generator=generator, device=y.device)
        accepted = (coins < right).sum(dim=0).clamp(min=1)
        cost, _ = _cross_entropies(logits, y).sort(dim=0)
        rank = torch.arange(self.draws, device=y.device).unsqueeze(1)
        return (cost * (rank < accepted)).mean(dim=0), accepted == self.draws

    def _attack(self, model: nn.Module, x: Tensor, noise: Tensor, target: Tensor) -> Tensor:
        mean = noise.mean(dim=(2, 3, 4), keepdim=True)
        spread = (noise - mean).std(dim=(2, 3, 4), keepdim=True)
        moved = noise
        for _ in range(self.steps):
            slope = _slope(lambda point: _divergence(_answers(model, x + point), target).sum(), moved)
            moved = noise + _within(moved + 2 * self.eps / self.steps * _unit(slope) - noise, self.eps)
            shift = moved.mean(dim=(2, 3, 4), keepdim=True)
            width = (moved - shift).std(dim=(2, 3, 4), keepdim=True)
            moved = mean + (moved - shift) / width * spread
        return moved


@dataclass(frozen=True, kw_only=True)
class AttackedNoise:
    """Cross-entropy on noises that are attacked along the sphere of their length (Sun et al. 2025, 5.3).

    Each noise walks `steps` steps of l2 length `step` and is scaled back to its length; it stops where it
    first fools the network, so that easy images get the hardest noise and hard ones are left as they are.
    """

    sigma: float
    step: float = 0.25
    draws: int = 4
    steps: int = 3

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        noise = _noise(x, self.sigma, self.draws, generator)
        with evaluating(model):
            moved = self._attack(model, x, noise, y)
        return F.cross_entropy(_answers(model, x + moved).flatten(0, 1), y.repeat(self.draws))

    def _attack(self, model: nn.Module, x: Tensor, noise: Tensor, y: Tensor) -> Tensor:
        length, moved = _length(noise), noise
        for _ in range(self.steps):
            wrong: list[Tensor] = []

            def cost(point: Tensor, wrong: list[Tensor] = wrong) -> Tensor:
                logits = _answers(model, x + point)
                wrong.append(logits.detach().argmax(dim=2) != y)
                return _cross_entropies(logits, y).sum()

            ahead = moved + self.step * _unit(_slope(cost, moved))
            stay = wrong[0][:, :, None, None, None]  # and so it fools at the next step again
            moved = torch.where(stay, moved, ahead / _length(ahead) * length)
        return moved


@dataclass(frozen=True, kw_only=True)
class Macer:
    """Cross-entropy of the mean prediction over `draws` noisy copies, and a hinge on its soft radius.

    CE + strength * sigma / 2 * max(0, margin - (Phi^-1(p_y) - Phi^-1(largest other))) where the answer is y,
    with mean probabilities p of logits times `sharpness` (Zhai et al. 2020, equation 11). As published,
    images of which p is 0 or 1 have no slope.
    """

    sigma: float
    strength: float = 12.0
    margin: float = 8.0
    sharpness: float = 16.0
    draws: int = 16

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        logits = _answers(model, x + _noise(x, self.sigma, self.draws, generator))
        log_mean = torch.logsumexp(F.log_softmax(logits, dim=2), dim=0) - math.log(self.draws)
        p = (self.sharpness * logits).softmax(dim=2).mean(dim=0)
        own = p.gather(1, y[:, None]).squeeze(1)
        other = p.scatter(1, y[:, None], 0.0).amax(dim=1)
        ahead = _quantile(own) - _quantile(other)
        hinge = (self.margin - ahead).clamp(min=0) * (own > other)
        return F.nll_loss(log_mean, y) + self.strength * self.sigma / 2 * hinge.mean()


@dataclass(frozen=True, kw_only=True)
class OwnRadius:
    """The radius of a smoothed classifier itself, by soft votes over `draws` noisy copies (ours).

    accuracy * CE - t softplus(radius / t) with t = `temperature`, so that radii below 0 have a slope within
    about t of it. It is the hinge of MACER without a margin, at the sharpness of the network.
    """

    sigma: float
    accuracy: float = 0.2
    draws: int = 4
    temperature: float = 0.05

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        logits = _answers(model, x + _noise(x, self.sigma, self.draws, generator))
        radius = soft_expert_radius(logits.softmax(dim=2).mean(dim=0), y, self.sigma)
        gained = self.temperature * F.softplus(radius / self.temperature)
        return self.accuracy * _cross_entropies(logits, y).mean() - gained.mean()


def _noise(x: Tensor, sigma: float, draws: int, generator: torch.Generator) -> Tensor:
    shape, where = (draws, *x.shape), {"device": x.device, "dtype": x.dtype}
    return sigma * drawn(torch.randn, shape, images=1, generator=generator, **where)


def _answers(model: nn.Module, copies: Tensor) -> Tensor:
    # logits (draws, B, classes) of (draws, B, C, H, W)
    logits: Tensor = model(copies.flatten(0, 1)).float()
    return logits.view(*copies.shape[:2], -1)


def _cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    # (draws, B)
    costs = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)), reduction="none")
    return costs.view(logits.shape[:2])


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    # KL(target || prediction) of every draw, (draws, B)
    entropy: Tensor = torch.special.entr(target).sum(dim=1)
    return -(target * F.log_softmax(logits, dim=2)).sum(dim=2) - entropy


def _ascend(x: Tensor, cost: Callable[[Tensor], Tensor], eps: float, steps: int) -> Tensor:
    """Images within l2 distance `eps` of x and within [0, 1], after steps of 2 eps / steps."""
    point = x
    for _ in range(steps):
        delta = point - x + 2 * eps / steps * _unit(_slope(cost, point))
        point = (x + _within(delta, eps)).clamp(0, 1)
    return point


def _slope(cost: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    with torch.enable_grad():
        point = point.detach().requires_grad_()
        (slope,) = torch.autograd.grad(cost(point), point)
    return slope.detach()


def _length(v: Tensor) -> Tensor:
    # l2 lengths of (…, C, H, W) as (…, 1, 1, 1)
    return v.square().sum(dim=(-3, -2, -1), keepdim=True).sqrt()


def _unit(v: Tensor) -> Tensor:
    return v / (_length(v) + 1e-12)


def _within(delta: Tensor, eps: float) -> Tensor:
    return delta * (eps / (_length(delta) + 1e-12)).clamp(max=1.0)


def _quantile(p: Tensor) -> Tensor:
    # Phi^-1, flat at 0 and 1
    quantile: Tensor = torch.special.ndtri(p.clamp(1e-6, 1 - 1e-6))
    return quantile
