"""What an attack refuses: images out of range, networks in training mode, gradients that mean nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["check_evaluating", "check_range", "evaluating"]


def check_inputs(call: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
    check_evaluating(call, model)
    if not x.is_floating_point() or x.ndim != 4:
        raise ValueError(
            f"{call}: got x {x.dtype} {tuple(x.shape)}; wanted float images (N, C, H, W) in [0, 1], "
            "see data.to_float"
        )
    if len(y) != len(x) or y.device != x.device:
        raise ValueError(
            f"{call}: got y {tuple(y.shape)} on {y.device} for {len(x)} images on {x.device}; wanted one each"
        )
    check_range(call, x)


def check_evaluating(call: str, *models: nn.Module) -> None:
    """ValueError where a network, or a part of one, is in training mode."""
    if any(module.training for model in models for module in model.modules()):
        raise ValueError(f"{call}: the network is in training mode; call .eval() first")


def check_range(call: str, x: Tensor) -> None:
    """ValueError where images leave [0, 1], as NaN does."""
    low, high = x.aminmax() if len(x) else (x.sum(), x.sum())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{call}: got x from {float(low):g} to {float(high):g}; wanted [0, 1], normalisation is the "
            "network's first layer"
        )


def as_budget(call: str, budget: float | Tensor, x: Tensor) -> Tensor:
    # (N, C or 1, H or 1, W or 1)
    given = torch.as_tensor(budget, device=x.device, dtype=x.dtype)
    shaped = given.view(1, 1, 1, 1) if given.ndim == 0 else given
    sizes = zip(shaped.shape, x.shape, strict=False)
    fits = shaped.ndim == 4 and all(size in (1, wanted) for size, wanted in sizes)
    if not fits or not bool(((shaped >= 0) & shaped.isfinite()).all()):
        raise ValueError(
            f"{call}: got a budget {tuple(given.shape)} for images {tuple(x.shape)}; wanted one number, or "
            "one per image or pixel as (N, 1 or C, 1 or H, 1 or W), none negative, all finite"
        )
    return shaped.expand(len(x), -1, -1, -1)


def check_finite(call: str, finite: Tensor) -> None:
    if not finite.all():
        broken = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"{call}: gradients of images {broken[:10]} are not finite, and where they lead means nothing; "
            "look for a logarithm or a quotient of 0 in the network, and mix probabilities in the log domain"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context; afterwards every module is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
