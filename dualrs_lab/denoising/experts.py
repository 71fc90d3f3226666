"""The networks of an experiment, one for each noise level: trained there, or the same one from elsewhere."""

from collections.abc import Iterable

import torch
from torch import nn

from dualrs_lab.adapters.load import load_network
from dualrs_lab.adapters.network import one_or_many
from dualrs_lab.denoising.behind import in_front
from dualrs_lab.experiment import Experiment
from dualrs_lab.models.checkpoints import load_checkpoint

__all__ = ["load_experts"]


def load_experts(
    lab: Experiment, sigmas: Iterable[float], *, classes: int, device: torch.device
) -> dict[float, nn.Module]:
    """The network of each noise level that has one, in evaluation mode on `device`; see `Experiment`.

    Those above 0 come first. One that is given is read once, and is the same module at all levels, unless a
    denoiser is in front. Raises FileNotFoundError that says what makes a checkpoint, or as `load_network` and
    `in_front`.
    """
    levels = lab.levels_of(sigmas)
    if not lab.given:
        return {sigma: load_checkpoint(lab.made.expert(sigma), device=device)[0] for sigma in levels}
    network = load_network(
        lab.model,
        weights=lab.weights or None,
        mean=one_or_many(lab.mean),
        std=one_or_many(lab.std),
        classes=classes,
        device=device,
    )
    if not lab.denoiser:
        return dict.fromkeys(levels, network)
    return {sigma: in_front(lab.denoiser, network, sigma=sigma) for sigma in levels}
