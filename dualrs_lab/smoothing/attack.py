"""Attacks on smoothed classifiers: inputs nearby where the answer is another.

A certificate says that none exists within its radius, so an attack inside that ball must fail. An attack that
fails further out as well would be a weak test: both are tested.

The attack follows gradients of expectations over noise (SmoothAdv, Salman et al. 2019). On systems of several
experts it takes each way of failing by itself: see `dual.attack_dual` and `cascade.attack_cascade`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dualrs_lab.attacks.checks import check_evaluating, check_range
from dualrs_lab.runtime import make_generator
from dualrs_lab.smoothing.soft import soft_expert_radius

__all__ = ["SmoothedAttack", "attack_smoothed"]


Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class SmoothedAttack:
    """The effort of an attack: gradient steps, noisy copies per step, starts (first the input itself)."""

    seed: int
    steps: int = 20
    draws: int = 32
    starts: int = 1
    step: float = 2.5  # length of all steps together, in radii of the ball
    temperature: float = 0.05  # of the softened maximum, relative to the radius of the ball

    def __post_init__(self) -> None:
        if (
            min(self.steps, self.draws, self.starts) < 1
            or min(self.step, self.temperature) <= 0
            or self.seed < 0
        ):
            raise ValueError(
                "SmoothedAttack: wanted steps, draws, starts >= 1, step and temperature > 0, seed >= 0; got "
                f"{self}"
            )


def attack_smoothed(
    model: Model, x: Tensor, y: Tensor, radii: Tensor, *, sigma: float, attack: SmoothedAttack
) -> Tensor:
    """Inputs (B, ...) within l2 distance `radii` (B,) of x (B, ...) where `model`, smoothed, favours y least.

    x is float in [0, 1]; the inputs may leave that range, as the ball of a certificate does. The network
    gives logits and has to be in evaluation mode on the device of x. Whether an input is adversarial is for
    votes to say. Raises ValueError where shapes do not fit, x is not float in [0, 1], the network is in
    training mode or no gradient arrives at some input.
    """
    check_attack("attack_smoothed", [model], x, y, radii)

    def terms(point: Tensor, generator: torch.Generator) -> list[Tensor]:
        answers = mean_probabilities(model, point, sigma, attack.draws, generator)
        return [soft_expert_radius(answers, y, sigma)]

    return attack_route(terms, 0, x, radii, attack)


def attack_route(
    terms: Callable[[Tensor, torch.Generator], Sequence[Tensor]],
    number: int,
    x: Tensor,
    radii: Tensor,
    attack: SmoothedAttack,
) -> Tensor:
    # Descends the largest of the terms (B,): where all are below 0, the answer has changed.
    best, least = x.clone(), torch.full((len(x),), torch.inf, device=x.device)
    moved = radii <= 0
    t = (attack.temperature * radii).clamp(min=1e-6)
    for start in range(attack.starts):
        generator = make_generator(attack.seed, "attack", number, start, device=x.device)
        point = _anywhere(x, radii, generator) if start else x.clone()
        for step in range(attack.steps + 1):
            point = point.detach().requires_grad_()
            each = torch.stack([*terms(point, generator)])
            (slope,) = torch.autograd.grad((t * torch.logsumexp(each / t, dim=0)).sum(), point)
            moved = moved | slope.flatten(1).any(1)
            value = each.detach().amax(dim=0)
            closer = value < least
            best[closer], least[closer] = point.detach()[closer], value[closer]
            if step < attack.steps:
                point = _descend(point, slope, x, radii, attack.step / attack.steps)
    if not moved.all():
        raise ValueError(
            f"attack: no gradient reaches {int((~moved).sum())} of {len(x)} inputs at any step; they would "
            "look robust. Are the networks differentiable, and not saturated there?"
        )
    return best


def mean_probabilities(
    model: Model, x: Tensor, sigma: float, draws: int, generator: torch.Generator
) -> Tensor:
    # (B, C): mean probabilities over noisy copies
    noise = torch.randn((draws, *x.shape), generator=generator, device=x.device, dtype=x.dtype)
    logits = model((x + sigma * noise).flatten(0, 1)).float()
    return torch.softmax(logits, dim=1).view(draws, len(x), -1).mean(dim=0)


def _descend(point: Tensor, slope: Tensor, x: Tensor, radii: Tensor, step: float) -> Tensor:
    moved = point.detach() - step * _wide(radii, x) * slope / _norm(slope).clamp(min=1e-30)
    return _project(moved, x, radii)


def _anywhere(x: Tensor, radii: Tensor, generator: torch.Generator) -> Tensor:
    # in the ball
    direction = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    reach = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype) * radii
    return x + _wide(reach, x) * direction / _norm(direction)


def _project(point: Tensor, x: Tensor, radii: Tensor) -> Tensor:
    away = point - x
    return x + away * (_wide(radii, x) / _norm(away).clamp(min=1e-30)).clamp(max=1)


def _norm(x: Tensor) -> Tensor:
    # (B, 1, ...)
    return _wide(x.flatten(1).norm(dim=1), x)


def _wide(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.ndim - 1))


def check_attack(call: str, networks: Sequence[Model], x: Tensor, y: Tensor, radii: Tensor) -> None:
    if not x.is_floating_point() or not x.shape[:1] == y.shape == radii.shape:
        raise ValueError(
            f"{call}: got x {x.dtype} {tuple(x.shape)}, y {tuple(y.shape)}, radii {tuple(radii.shape)}; "
            "wanted float images (B, ...) in [0, 1], and one y and one radius each"
        )
    check_range(call, x)
    check_evaluating(call, *(model for model in networks if isinstance(model, nn.Module)))
