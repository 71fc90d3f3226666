"""Denoised smoothing: networks that remove noise from an image before they classify it.

Salman et al. (2020, "Denoised Smoothing: A Provable Defense for Pretrained Classifiers") put a denoiser in
front of a classifier and smooth the two together, so that a classifier that never saw noise gets
certificates. Together they are one `Classifier` here, which everything of the lab trains, certifies and maps.
"""

from collections.abc import Mapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.models.body import Body
from dualrs_lab.models.networks import MODELS, Classifier, Normalize, make_model

__all__ = ["Denoised", "Denoiser", "PixelDenoiser", "denoise", "denoise_first"]

_FIRST = "denoised_"  # how names of networks with a denoiser begin


class Denoiser(nn.Module):
    """x - net(x) for normalised images (B, C, H, W), of which net learns the noise; H and W divide by 4.

    A small U-Net (Ronneberger et al. 2015) at half and a quarter of the resolution, where products are large
    and cheap: residual blocks of `widths` channels, one at half the resolution on the way down, two at a
    quarter, one on the way up. The last layer begins as 0, so a fresh denoiser changes nothing.
    """

    def __init__(self, channels: int, widths: tuple[int, int] = (64, 128)) -> None:
        super().__init__()
        first, second = widths
        self.stem = _normed(nn.Conv2d(channels, first, 6, 2, padding=2, bias=False))
        self.down = nn.Sequential(
            _Block(first), _normed(nn.Conv2d(first, second, 3, 2, padding=1, bias=False))
        )
        self.middle = nn.Sequential(_Block(second), _Block(second), nn.Conv2d(second, first, 1))
        self.up = _Block(first)
        self.noise = nn.Conv2d(first, 4 * channels, 3, padding=1)
        nn.init.zeros_(self.noise.weight)
        nn.init.zeros_(cast(Tensor, self.noise.bias))

    def forward(self, x: Tensor) -> Tensor:
        half = self.stem(x)
        quarter = self.middle(self.down(half))
        half = self.up(half + F.interpolate(quarter, scale_factor=2.0))
        return x - F.pixel_shuffle(self.noise(half), 2)


class PixelDenoiser(nn.Module):
    """A `Denoiser` of images (B, C, H, W) in pixel units, which it normalises and brings back."""

    def __init__(self, normalize: Normalize, net: Denoiser) -> None:
        super().__init__()
        self.normalize, self.net = normalize, net

    def forward(self, x: Tensor) -> Tensor:
        denoised: Tensor = self.net(self.normalize(x))
        return denoised * self.normalize.std + self.normalize.mean


class Denoised(Body):
    """The body of the network `inner` behind a `Denoiser`: its stages and its head, of the denoised image."""

    def __init__(self, classes: int, channels: int, inner: str, widths: tuple[int, int] = (64, 128)) -> None:
        super().__init__()
        self.denoiser = Denoiser(channels, widths)
        self.inner = cast(Body, MODELS[inner](classes, channels))
        self.fc = self.inner.fc
        del self.inner.fc  # a layer has one place in a checkpoint

    def stages(self, x: Tensor) -> list[Tensor]:
        return self.inner.stages(self.denoiser(x))

    def judge(self, denoised: Tensor) -> Tensor:
        """Logits (B, classes) of what the denoiser made of normalised images."""
        return cast(Tensor, self.fc(F.adaptive_avg_pool2d(self.inner.stages(denoised)[-1], 1).flatten(1)))


class _Block(nn.Module):
    """Residual block of two convolutions (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def _normed(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True))


def denoise(model: Classifier, x: Tensor) -> Tensor:
    """Noisy images (B, C, H, W) -> what the classifier within `model` is shown of them, both in pixel units.

    Raises ValueError for a network that has no denoiser.
    """
    body = model.body
    if not isinstance(body, Denoised):
        raise ValueError(
            f"denoise: got a network {model.architecture.get('name')!r}, which has no denoiser; wanted one "
            f"of {', '.join(_named())}"
        )
    return cast(Tensor, PixelDenoiser(model.normalize, body.denoiser)(x))


def denoise_first(model: Classifier, denoiser: Denoiser) -> Classifier:
    """A copy of `model` behind a copy of `denoiser`, which meets images as `model` normalises them.

    Raises ValueError where `MODELS` has no such network, or where the denoiser is not of its size.
    """
    name = f"{_FIRST}{model.architecture.get('name')}"
    if name not in MODELS:
        raise ValueError(
            f"denoise_first: got a network {model.architecture.get('name')!r}; wanted one of "
            f"{', '.join(each.removeprefix(_FIRST) for each in _named())}"
        )
    normalize = {part: getattr(model.normalize, part).flatten().tolist() for part in ("mean", "std")}
    sizes = {size: model.architecture[size] for size in ("classes", "channels")}
    made = make_model(name, **sizes, **normalize, seed=0)
    body = cast(Denoised, made.body)
    try:
        body.denoiser.load_state_dict(denoiser.state_dict())
    except RuntimeError as error:
        raise ValueError(f"denoise_first: got another denoiser than that of a {name}: {error}") from error
    known = model.state_dict()
    body.fc.load_state_dict(_below("body.fc.", known))
    inner = _below("body.", {key: part for key, part in known.items() if not key.startswith("body.fc.")})
    body.inner.load_state_dict(inner)
    made.made_for = model.made_for
    return made.to(next(model.parameters()).device).train(model.training)


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): part for key, part in state.items() if key.startswith(prefix)}


def _named() -> list[str]:
    return [name for name in MODELS if name.startswith(_FIRST)]
