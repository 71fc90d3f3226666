"""Networks with normalisation as their first layer, by name.

Every network takes float images `(B, C, H, W)` in [0, 1] and returns logits `(B, classes)`, so noise, budgets
and radii stay in pixel units. A network is `Classifier(normalize, body)`; a body shows its feature maps
through `stages(x)` and ends in global average pooling and one linear layer, which class activation maps and
mixing heads rely on.
"""

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.models.body import Body
from dualrs_lab.models.suited import MadeFor
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
    """Images in [0, 1] `(B, C, H, W)` -> logits `(B, classes)`.

    `made_for` says which data it was trained for, once it was: see `models.suited`.
    """

    made_for: MadeFor | None

    def __init__(self, normalize: Normalize, body: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.body = body
        self.architecture: dict[str, Any] = {}
        self.made_for = None

    def stages(self, x: Tensor) -> list[Tensor]:
        """Images in [0, 1] -> the body's feature maps, first stage first."""
        return cast(Body, self.body).stages(self.normalize(x))

    def look(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The feature maps after the first two stages, and the logits, from one pass."""
        stages = self.stages(x)
        pooled = F.adaptive_avg_pool2d(stages[-1], 1).flatten(1)
        return stages[:2], cast(Tensor, cast(Body, self.body).fc(pooled))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.body(self.normalize(x)))


def _body(room: str, name: str, *settings: Any) -> Callable[[int, int], nn.Module]:
    # a room is imported when its network is made: torchvision, on which `residual` rests, takes seconds
    def make(classes: int, channels: int) -> nn.Module:
        kind = getattr(import_module(f"dualrs_lab.models.{room}"), name)
        return cast(nn.Module, kind(classes, channels, *settings))

    return make


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "digits_cnn": _body("small", "DigitsCnn"),
    "digits_narrow": _body("small", "DigitsCnn", (16, 32, 64)),
    "fast": _body("small", "FastNet"),
    "fast_narrow": _body("small", "FastNet", (32, 128, 128)),
    "wide_start": _body("residual", "WideStart"),
    "denoised_digits_narrow": _body("denoised", "Denoised", "digits_narrow", (16, 32)),
    "denoised_wide_start": _body("denoised", "Denoised", "wide_start"),
    "resnet20": _body("residual", "CifarResNet", 20),
    "resnet56": _body("residual", "CifarResNet", 56),
    "resnet110": _body("residual", "CifarResNet", 110),
    "resnet18": _body("residual", "ResNet18"),
    "wrn34_10": _body("residual", "WideResNet"),
    "resnet50": _body("residual", "ResNet50"),
}
"""Name -> body from (classes, channels).

Those of digits are meant for 8x8, `resnet50` for 224x224, the others for 32x32. `denoised_…` begin with a
denoiser.
"""


_SOME = Range(whole=True, least=1, most=1_000_000)


def suggest_model(shape: tuple[int, int, int]) -> str:
    """A network that suits images of this shape (C, H, W) on a CPU within minutes."""
    side = max(shape[1:])
    return "digits_narrow" if side <= 16 else "fast_narrow" if side <= 64 else "resnet50"


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
