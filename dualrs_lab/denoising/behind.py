"""Denoised smoothing (Salman et al. 2020): any classifier behind a denoiser is one network to certify.

The pair h(x) = f(D(x)) is smoothed as it stands, so its certificate is that of any smoothed classifier and
needs nothing of D: a poor denoiser costs votes, never validity. Images are in [0, 1] pixel units before and
after the denoiser; what it gives back is not clipped, unless it clips itself.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualrs_lab.denoising.diffusion import diffusion_denoiser
from dualrs_lab.denoising.training import load_denoiser

__all__ = ["Behind", "in_front"]


_LIBRARY = "diffusers:"


class Behind(nn.Module):
    """`classifier` of what `denoiser` makes of an image: (B, C, H, W) in pixel units -> logits.

    In evaluation mode when both are; gradients flow through both. `info` is that of the classifier.
    """

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.classifier = denoiser, classifier
        self.info: dict[str, Any] = dict(getattr(classifier, "info", {}))
        self.train(denoiser.training and classifier.training)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.denoiser(x))
        return logits


def in_front(denoiser: Path | str, network: nn.Module, *, sigma: float) -> Behind:
    """`network` behind the denoiser of that name, for noise `sigma`, on its device and in evaluation mode.

    `denoiser` is the path of one that `train_denoiser` kept, or `diffusers:NAME`, a diffusion model in one
    call (Carlini et al. 2023), NAME a folder or one of the hub; only this one depends on `sigma`. `info` says
    which it was. Raises as `load_denoiser` and `diffusion_denoiser`, ValueError for another scheme.
    """
    text = str(denoiser)
    name = text.removeprefix(_LIBRARY)
    of_library = name != text and not Path(text).exists()
    if not of_library and re.match(r"\w{2,}:", text) and not Path(text).exists():
        raise ValueError(
            f"in_front: got the denoiser {text!r}; wanted a file of train_denoiser, or {_LIBRARY}NAME"
        )
    found: nn.Module = diffusion_denoiser(name, sigma=sigma) if of_library else load_denoiser(denoiser)
    shown = name if of_library and not Path(name).is_dir() else Path(name).name
    device = next((part.device for part in network.parameters()), torch.device("cpu"))
    made = Behind(found.to(device), network).eval()
    made.info["denoiser"] = f"{_LIBRARY}{shown}" if of_library else shown
    return made
