"""Networks with normalisation as their first layer, by name.

Every network takes float images `(B, C, H, W)` in [0, 1] and returns logits `(B, classes)`, so noise, budgets
and radii stay in pixel units. A network is `Classifier(normalize, body)`; a body shows its feature maps
through `stages(x)` and ends in global average pooling and one linear layer, which class activation maps and
mixing heads rely on.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from dualrs_lab.models.residual import Body, CifarResNet, ResNet, WideResNet, WideStart, run_stages
from dualrs_lab.settings import SEED, Range

__all__ = ["MODELS", "Classifier", "Normalize", "make_model", "pick_model", "suggest_model", "with_head"]


class Normalize(nn.Module):
    """(x - mean) / std per channel, as buffers, so that checkpoints and `.to()` carry them."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        fine = all(-math.inf < m < math.inf and 0 < s < math.inf for m, s in zip(mean, std, strict=False))
        if len(mean) != len(std) or not mean or not fine:
            raise ValueError(
                f"Normalize: got mean {tuple(mean)} and std {tuple(std)}; wanted as many positive stds as "
                "means"
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Classifier(nn.Module):
    """Images in [0, 1] `(B, C, H, W)` -> logits `(B, classes)`."""

    def __init__(self, normalize: Normalize, body: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.body = body
        self.architecture: dict[str, Any] = {}

    def stages(self, x: Tensor) -> list[Tensor]:
        """Images in [0, 1] -> the body's feature maps, first stage first."""
        return cast(Body, self.body).stages(self.normalize(x))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.body(self.normalize(x)))


class DigitsCnn(Body):
    """Three convolutions for 8x8 digits: 0.1 M parameters, seconds on a CPU."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.layer1 = _conv_block(channels, 32)
        self.layer2 = nn.Sequential(_conv_block(32, 64), nn.MaxPool2d(2))
        self.layer3 = _conv_block(64, 128)
        self.fc = nn.Linear(128, classes)

    def stages(self, x: Tensor) -> list[Tensor]:
        return run_stages((self.layer1, self.layer2, self.layer3), x)


def _conv_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class FastNet(Body):
    """A few wide layers for 32x32 images, in the spirit of airbench (Jordan 2024).

    A 2x2 stem and three blocks of two convolutions; the first of a block is pooled before its BatchNorm, so
    most of the arithmetic runs on small maps. Convolutions start as identities on their first channels.
    """

    def __init__(self, classes: int, channels: int, widths: tuple[int, int, int] = (64, 256, 256)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 24, 2, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        )
        inputs = (24, *widths[:-1])
        self.layer1, self.layer2, self.layer3 = (
            _fast_block(*pair) for pair in zip(inputs, widths, strict=True)
        )
        self.fc = nn.Linear(widths[-1], classes)

    def stages(self, x: Tensor) -> list[Tensor]:
        return run_stages((self.layer1, self.layer2, self.layer3), self.stem(x))


def _fast_block(inputs: int, outputs: int) -> nn.Sequential:
    first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
    for conv in (first, second):
        nn.init.dirac_(conv.weight[: conv.in_channels])
    return nn.Sequential(
        first, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        second, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
    )  # fmt: skip


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "digits_cnn": lambda classes, channels: DigitsCnn(classes, channels),
    "fast": lambda classes, channels: FastNet(classes, channels),
    "fast_narrow": lambda classes, channels: FastNet(classes, channels, (32, 128, 128)),
    "wide_start": lambda classes, channels: WideStart(classes, channels),
    "resnet20": lambda classes, channels: CifarResNet(classes, channels, 20),
    "resnet56": lambda classes, channels: CifarResNet(classes, channels, 56),
    "resnet110": lambda classes, channels: CifarResNet(classes, channels, 110),
    "resnet18": lambda classes, channels: ResNet(classes, channels, BasicBlock, [2, 2, 2, 2], small=True),
    "wrn34_10": lambda classes, channels: WideResNet(classes, channels),
    "resnet50": lambda classes, channels: ResNet(classes, channels, Bottleneck, [3, 4, 6, 3], small=False),
}
"""Name -> body from (classes, channels).

`digits_cnn` is meant for 8x8, `resnet50` for 224x224, the others for 32x32.
"""


_SOME = Range(whole=True, least=1, most=1_000_000)


def suggest_model(shape: tuple[int, int, int]) -> str:
    """A network that suits images of this shape (C, H, W) on a CPU within minutes."""
    side = max(shape[1:])
    return "digits_cnn" if side <= 16 else "fast_narrow" if side <= 64 else "resnet50"


def pick_model(name: str, shape: tuple[int, int, int]) -> str:
    """`name`; for "auto" the one that `suggest_model` gives."""
    return suggest_model(shape) if name == "auto" else name


def make_model(
    name: str, *, classes: int, channels: int, mean: Sequence[float], std: Sequence[float], seed: int
) -> Classifier:
    """A fresh network; `mean` and `std` are per channel in [0, 1] pixel units.

    The global random state is untouched. Raises ValueError for an unknown name or a number of channels that
    does not fit.
    """
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(f"make_model: got name {name!r}; wanted one of {', '.join(MODELS)}")
    for what, value, within in (
        ("classes", classes, _SOME),
        ("channels", channels, _SOME),
        ("seed", seed, SEED),
    ):
        if value not in within:
            raise ValueError(f"make_model: got {what} {value!r}; wanted {within}")
    if len(mean) != channels:
        raise ValueError(
            f"make_model: got {len(mean)} channel means for {channels} channels; wanted one a channel"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(Normalize(mean, std), MODELS[name](classes, channels))
    model.architecture = {"name": name, "classes": classes, "channels": channels}
    return model


def with_head(model: Classifier, *, classes: int, seed: int) -> Classifier:
    """A copy of `model` with a fresh last layer for `classes`; everything before it stays as learned."""
    made = make_model(
        model.architecture["name"],
        classes=classes,
        channels=model.architecture["channels"],
        mean=model.normalize.mean.flatten().tolist(),
        std=model.normalize.std.flatten().tolist(),
        seed=seed,
    )
    learned = {name: tensor for name, tensor in model.state_dict().items() if ".fc." not in name}
    made.load_state_dict({**made.state_dict(), **learned})
    return made
