"""What the engine is compared with: certification as the paper writes it, and as a library ships it.

`Textbook` is Cohen, Rosenfeld & Kolter's CERTIFY (2019, section 3.2) the way public code runs it: one image
at a time, the network as it is in float32, fresh noise for every batch, votes counted in a Python loop. `Art`
is PyTorchRandomizedSmoothing of the Adversarial Robustness Toolbox. Both get network, noise level, n0, n,
alpha and batch from the comparison, and answer (class or ABSTAIN, l2 radius in [0, 1] pixel units).
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

from dualrs_lab.evidence import ABSTAIN

__all__ = ["Art", "Textbook", "art_missing", "art_reason", "art_version"]


@dataclass(frozen=True, kw_only=True)
class Textbook:
    """Certify one float image (C, H, W) in [0, 1] at a time, on the device where it lives."""

    network: Callable[[Tensor], Tensor]  # (B, C, H, W) -> logits (B, classes); in evaluation mode
    classes: int
    sigma: float
    n0: int
    n: int
    alpha: float
    batch: int
    generator: torch.Generator

    def certify(self, image: Tensor) -> tuple[int, float]:
        """Guess the class on n0 draws, bound its probability on n others (Clopper–Pearson, one-sided)."""
        selection = self.count(image, self.n0)
        top = selection.index(max(selection))
        successes = self.count(image, self.n)[top]
        p_lower = float(stats.beta.ppf(self.alpha, successes, self.n - successes + 1)) if successes else 0.0
        if p_lower <= 0.5:
            return ABSTAIN, 0.0
        return top, self.sigma * float(stats.norm.ppf(p_lower))

    @torch.no_grad()
    def count(self, image: Tensor, draws: int) -> list[int]:
        """Votes by class."""
        counts = [0] * self.classes
        for first in range(0, draws, self.batch):
            size = min(self.batch, draws - first)
            shape = (size, *image.shape)
            noise = self.sigma * torch.randn(shape, generator=self.generator, device=image.device)
            for vote in self.network(image + noise).argmax(1).tolist():
                counts[vote] += 1
        return counts


def art_missing() -> list[str]:
    """Packages that this arm needs and that are not installed: `pip install -e .[bench]` installs them."""
    needed = {"art": "adversarial-robustness-toolbox", "statsmodels": "statsmodels"}
    return [package for module, package in needed.items() if importlib.util.find_spec(module) is None]


def art_version() -> str:
    """Version of the toolbox, "" where it is not installed."""
    return "" if art_missing() else metadata.version("adversarial-robustness-toolbox")


def art_reason(n: int, shape: tuple[int, ...], free_bytes: int) -> str:
    """Why the toolbox cannot certify at n here, or "".

    It holds all n noisy copies at once: noise in float64 and float32, the image repeated and the sum.
    """
    if missing := art_missing():
        return f"not installed: {', '.join(missing)} (pip install -e '.[bench]')"
    needed = 20 * n * torch.Size(shape).numel()
    return f"would take about {needed / 1e9:.1f} GB" if needed > 0.8 * free_bytes else ""


class Art:
    """The toolbox's classifier around a network on `device`; it draws from NumPy's global generator.

    Raises ModuleNotFoundError where it is not installed, see `art_missing`.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        *,
        classes: int,
        sigma: float,
        n0: int,
        alpha: float,
        device: torch.device,
    ) -> None:
        from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

        # Loss and optimiser are for training only, but the constructor needs a loss.
        self.classifier: Any = PyTorchRandomizedSmoothing(
            model=network,
            loss=nn.CrossEntropyLoss(),
            input_shape=shape,
            nb_classes=classes,
            device_type="gpu" if device.type == "cuda" else "cpu",
            sample_size=n0,
            scale=sigma,
            alpha=alpha,
        )

    def certify(self, image: Tensor, *, n: int, batch: int) -> tuple[int, float]:
        """Certify one float image (C, H, W) in [0, 1]."""
        classes, radii = self.classifier.certify(image.unsqueeze(0).cpu().numpy(), n=n, batch_size=batch)
        return int(classes[0]), float(radii[0])
