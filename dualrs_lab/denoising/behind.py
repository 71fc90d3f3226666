"""Denoised smoothing (Salman et al. 2020): any classifier behind a denoiser is one network to certify.

The pair h(x) = f(D(x)) is smoothed as it stands, so its certificate is that of any smoothed classifier and
needs nothing of D: a poor denoiser costs votes, never validity. Images are in [0, 1] pixel units before and
after the denoiser; what it gives back is not clipped, unless it clips itself.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualrs_lab.denoising.sources import find_denoiser
from dualrs_lab.models.suited import MadeFor

__all__ = ["Behind", "in_front"]


class Behind(nn.Module):
    """`classifier` of what `denoiser` makes of an image: (B, C, H, W) in pixel units -> logits.

    In evaluation mode when both are; gradients flow through both. Its classes and `info` are those of the
    classifier.
    """

    made_for: MadeFor | None

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.classifier = denoiser, classifier
        self.info: dict[str, Any] = dict(getattr(classifier, "info", {}))
        self.made_for = getattr(classifier, "made_for", None)
        self.train(denoiser.training and classifier.training)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.denoiser(x))
        return logits


def in_front(denoiser: Path | str, network: nn.Module, *, sigma: float) -> Behind:
    """`network` behind the denoiser of that name, for noise `sigma`, on its device and in evaluation mode.

    `denoiser` is one that `find_denoiser` takes; `info` says which it was. Raises as `find_denoiser`.
    """
    device = next((part.device for part in network.parameters()), torch.device("cpu"))
    found, told = find_denoiser(denoiser, sigma=sigma, device=device)
    made = Behind(found, network).eval()
    made.info["denoiser"] = told["source"]
    return made
