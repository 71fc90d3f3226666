"""A small denoiser of our own, trained by squared error and, for a given classifier, by stability.

Squared error restores pixels; a classifier may still be misled by what is left. So Salman et al. (2020,
section 3.2) train on for the classifier's own answers: D should make f(D(x + σ n)) what f(x) was. Neither
needs labels. Alone, stability lets the images drift wherever the classifier forgives it, so the squared error
stays in the loss as an anchor.
"""

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dualrs_lab.data.images import Images, as_floats
from dualrs_lab.models.checkpoints import fingerprint, read_info, save_tensors
from dualrs_lab.models.denoised import Denoiser, PixelDenoiser
from dualrs_lab.models.networks import Normalize
from dualrs_lab.models.reading import want_finite
from dualrs_lab.runtime import describe, make_generator
from dualrs_lab.store import making, plain
from dualrs_lab.training.batches import channel_statistics
from dualrs_lab.training.checkpoints import state_path
from dualrs_lab.training.config import TrainConfig, recipe
from dualrs_lab.training.loop import settings, train
from dualrs_lab.training.objectives import add_noise

__all__ = [
    "Denoising",
    "Stability",
    "denoiser_recipe",
    "load_denoiser",
    "noisy_between",
    "squared_error",
    "train_denoiser",
]


def noisy_between(x: Tensor, low: float | Tensor, high: float | Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) with Gaussian noise of a σ of their own, uniform in [low, high]."""
    share = torch.rand((len(x), 1, 1, 1), generator=generator, device=x.device, dtype=x.dtype)
    return add_noise(x, low + (high - low) * share, generator)


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """Squared error in pixel units, at a σ drawn for each image from [low, high]."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high or not self.high > 0:
            raise ValueError(
                f"Denoising: got low {self.low} and high {self.high}; wanted 0 <= low <= high > 0"
            )

    def noisy(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The images (B, C, H, W) with noise of their σ."""
        return noisy_between(x, self.low, self.high, generator)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.mse_loss(model(self.noisy(x, generator)).float(), x)


@dataclass(frozen=True, kw_only=True)
class Stability(Denoising):
    """Cross-entropy of `classifier` on denoised images against its answers on clean ones, and squared error.

    The classifier stays as it is; `anchor` weights the squared error (Salman et al. 2020, section 3.2).
    """

    classifier: nn.Module
    anchor: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        frozen = copy.deepcopy(self.classifier).eval().requires_grad_(False)
        object.__setattr__(self, "classifier", frozen)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            answers = self.classifier(x).argmax(1)
        denoised = model(self.noisy(x, generator)).float()
        told = F.cross_entropy(self.classifier(denoised).float(), answers)
        return told + self.anchor * F.mse_loss(denoised, x)

    def identity(self) -> dict[str, Any]:
        """What the weights depend on, with a digest for the classifier."""
        numbers = {"low": self.low, "high": self.high, "anchor": self.anchor}
        return numbers | {"classifier": fingerprint(self.classifier)}


def denoiser_recipe(images: Images, *, epochs: int, seed: int, stable: bool = False) -> TrainConfig:
    """Sensible settings for a denoiser of these images, by squared error or, if `stable`, for `Stability`.

    Squared errors of pixels are small, and so are their gradients: rates are larger than they look.
    """
    like = recipe(images, epochs=epochs, seed=seed)
    tiny = max(images.shape[1:]) <= 16
    rate = 0.02 if stable else 0.05 if tiny else 0.3
    return dataclasses.replace(like, batch=64 if tiny or stable else 128, lr=rate, weight_decay=1e-5)


def train_denoiser(
    path: Path | str,
    images: Images,
    *,
    objective: Denoising,
    config: TrainConfig,
    device: torch.device,
    start: PixelDenoiser | None = None,
    widths: tuple[int, int] = (64, 128),
    replace: bool = False,
    progress: bool = True,
) -> PixelDenoiser:
    """The denoiser at `path` (.safetensors), trained now unless it is there with the same settings.

    From `start`, or from a fresh U-Net of `widths`, which changes nothing at first. Interrupted training goes
    on where it was; a denoiser of other settings raises ValueError or, with `replace`, is kept under another
    name. In evaluation mode.
    """
    path = Path(path)
    begun = {"start": fingerprint(start)} if start else {"widths": list(widths)}
    made_by = plain(settings(config, objective, images) | begun)
    with making("train_denoiser", [path], made_by, key="training", replace=replace) as there:
        if there:
            return load_denoiser(path, device=device)
        model = copy.deepcopy(start) if start else _fresh(images, widths, config.seed)
        state = state_path(path, made_by)
        history = train(
            model.to(device), images, objective=objective, config=config, state=state, progress=progress
        )
        save_tensors(path, model, {
            "architecture": _architecture(model),
            "data": {"name": images.title, "split": images.split, "shape": list(images.shape)},
            "training": made_by,
            "history": history.to_dict("records"),
            "provenance": describe(device),
        })  # fmt: skip
        state.unlink(missing_ok=True)
    return load_denoiser(path, device=device)


def load_denoiser(path: Path | str, *, device: torch.device | str = "cpu") -> PixelDenoiser:
    """The denoiser that `train_denoiser` kept at `path`, in evaluation mode.

    Raises FileNotFoundError, or ValueError that names the file and what does not fit.
    """
    path = Path(path)
    made = read_info("load_denoiser", path).get("architecture")
    if not isinstance(made, dict) or made.get("name") != "denoiser":
        raise ValueError(
            f"load_denoiser: {path} holds {made!r}; wanted what train_denoiser, or the command dualrs-lab "
            "denoiser, wrote"
        )
    try:
        channels, (first, second) = int(made["channels"]), made["widths"]
        model = PixelDenoiser(
            Normalize([0.0] * channels, [1.0] * channels), Denoiser(channels, (first, second))
        )
        model.load_state_dict(want_finite("load_denoiser", path, load_file(path)))
    except Exception as error:  # whatever a foreign file may hold
        raise ValueError(f"load_denoiser: {path} does not hold the weights it names: {error}") from error
    return model.to(device).eval()


@torch.no_grad()
def squared_error(
    denoiser: nn.Module, images: Images, *, sigma: float, seed: int, device: torch.device
) -> float:
    """Mean squared error, in pixel units, of what `denoiser` makes of one noisy copy of each image."""
    total = 0.0
    for number, first in enumerate(range(0, len(images), 500)):
        some = range(first, min(first + 500, len(images)))
        x, _ = as_floats(images.select(some), device)
        noisy = add_noise(x, sigma, make_generator(seed, "denoised", number, device=device))
        total += len(some) * float(F.mse_loss(denoiser(noisy), x))
    return total / len(images)


def _fresh(images: Images, widths: tuple[int, int], seed: int) -> PixelDenoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PixelDenoiser(Normalize(*channel_statistics(images)), Denoiser(images.shape[0], widths))


def _architecture(model: PixelDenoiser) -> dict[str, Any]:
    stem = cast(nn.Conv2d, model.net.stem[0])
    down = cast(nn.Conv2d, cast(nn.Sequential, model.net.down[1])[0])
    widths = [stem.out_channels, down.out_channels]
    return {"name": "denoiser", "channels": stem.in_channels, "widths": widths}
