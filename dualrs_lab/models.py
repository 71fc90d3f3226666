"""Networks with normalisation as their first layer, and checkpoints that say where they come from.

Every network takes float images `(B, C, H, W)` in [0, 1] and returns logits `(B, classes)`, so noise, budgets
and radii stay in pixel units. A network is `Classifier(normalize, body)`; a body shows its feature maps
through `stages(x)` and ends in global average pooling and one linear layer, which class activation maps and
mixing heads rely on.
"""

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from dualrs_lab.files import replace_bytes, replace_json

__all__ = [
    "MODELS",
    "Classifier",
    "Normalize",
    "import_checkpoint",
    "load_checkpoint",
    "make_model",
    "pick_model",
    "read_info",
    "save_checkpoint",
    "save_tensors",
    "suggest_model",
    "with_head",
]


class Normalize(nn.Module):
    """(x - mean) / std per channel, as buffers, so that checkpoints and `.to()` carry them."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(
                f"Normalize: got mean {tuple(mean)} and std {tuple(std)}; wanted as many positive stds as "
                "means"
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Body(nn.Module):
    """Feature maps stage by stage, then global average pooling and a linear layer `fc`."""

    fc: nn.Linear

    def stages(self, x: Tensor) -> list[Tensor]:
        """Normalised images `(B, C, H, W)` -> the feature map after each stage, the last before pooling."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc(F.adaptive_avg_pool2d(self.stages(x)[-1], 1).flatten(1)))


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


def _run_stages(layers: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    maps = []
    for layer in layers:
        x = layer(x)
        maps.append(x)
    return maps


class DigitsCnn(Body):
    """Three convolutions for 8x8 digits: 0.1 M parameters, seconds on a CPU."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.layer1 = _conv_block(channels, 32)
        self.layer2 = nn.Sequential(_conv_block(32, 64), nn.MaxPool2d(2))
        self.layer3 = _conv_block(64, 128)
        self.fc = nn.Linear(128, classes)

    def stages(self, x: Tensor) -> list[Tensor]:
        return _run_stages((self.layer1, self.layer2, self.layer3), x)


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
        return _run_stages((self.layer1, self.layer2, self.layer3), self.stem(x))


def _fast_block(inputs: int, outputs: int) -> nn.Sequential:
    first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
    for conv in (first, second):
        nn.init.dirac_(conv.weight[: conv.in_channels])
    return nn.Sequential(
        first, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        second, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
    )  # fmt: skip


class CifarResNet(Body):
    """ResNet-20/56/110 for 32x32 images (He et al. 2016, section 4.2), with Cohen et al.'s 1x1 shortcuts."""

    def __init__(self, classes: int, channels: int, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _residual_stage(16, 16, blocks, stride=1)
        self.layer2 = _residual_stage(16, 32, blocks, stride=2)
        self.layer3 = _residual_stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, x: Tensor) -> list[Tensor]:
        return _run_stages((self.layer1, self.layer2, self.layer3), F.relu(self.bn1(self.conv1(x))))


class WideStart(Body):
    """A residual network that begins wide and at half the resolution: large products, which a GPU likes.

    The stem sees 6x6 pixels in steps of 2; two stages of two blocks follow, 1.9 M parameters for 10 classes.
    """

    def __init__(self, classes: int, channels: int, widths: tuple[int, int] = (128, 192)) -> None:
        super().__init__()
        first, second = widths
        self.stem = nn.Sequential(
            nn.Conv2d(channels, first, 6, 2, padding=2, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
        )
        self.layer1 = _residual_stage(first, first, 2, stride=1)
        self.layer2 = _residual_stage(first, second, 2, stride=2)
        self.fc = nn.Linear(second, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, x: Tensor) -> list[Tensor]:
        return _run_stages((self.layer1, self.layer2), self.stem(x))


def _residual_stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


class ResNet(TorchvisionResNet):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's ResNet; `small` replaces the stride-4 stem by one 3x3 convolution, as usual at 32x32."""

    def __init__(
        self,
        classes: int,
        channels: int,
        block: type[BasicBlock | Bottleneck],
        layers: list[int],
        *,
        small: bool,
    ) -> None:
        super().__init__(block, layers, num_classes=classes)
        if small:
            self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.maxpool = cast(nn.MaxPool2d, nn.Identity())
        elif channels != 3:
            raise ValueError(
                f"make_model: this network takes 3 colour channels, got {channels}; use 'resnet18' instead"
            )

    def stages(self, x: Tensor) -> list[Tensor]:
        stem = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return _run_stages((self.layer1, self.layer2, self.layer3, self.layer4), stem)


class WideBlock(nn.Module):
    """Pre-activation residual block (Zagoruyko & Komodakis 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        residual = x if self.shortcut is None else self.shortcut(activated)
        return cast(Tensor, residual + self.conv2(F.relu(self.bn2(self.conv1(activated)))))


class WideResNet(Body):
    """WRN-34-10 for 32x32 and 64x64 images: three stages of five pre-activation blocks, ten times as wide."""

    def __init__(self, classes: int, channels: int, depth: int = 34, widen: int = 10) -> None:
        super().__init__()
        blocks, widths = (depth - 4) // 6, [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1, self.block2, self.block3 = (
            _wide_stage(widths[i], widths[i + 1], blocks, stride=1 if i == 0 else 2) for i in range(3)
        )
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, x: Tensor) -> list[Tensor]:
        last = nn.Sequential(self.block3, self.bn1, nn.ReLU())
        return _run_stages((self.block1, self.block2, last), self.conv1(x))


def _wide_stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = (WideBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(WideBlock(inputs, outputs, stride), *rest)


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
    if name not in MODELS:
        raise ValueError(f"make_model: got name {name!r}; wanted one of {', '.join(MODELS)}")
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


def save_checkpoint(path: Path | str, model: Classifier, **info: Any) -> None:
    """Write `path` (safetensors) and its `.json` twin (architecture and `info`), each replaced atomically."""
    save_tensors(Path(path), model, {"architecture": model.architecture, **info})


def save_tensors(path: Path, module: nn.Module, info: Mapping[str, Any]) -> None:
    """What `module` holds at `path`, and `info` in its `.json` twin, each replaced atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    replace_json(path.with_suffix(".json"), dict(info))
    replace_bytes(path, save(tensors))


def read_info(call: str, path: Path) -> dict[str, Any]:
    """The json beside `path`; FileNotFoundError names the file that is missing, if one of the two is."""
    for needed in (path, path.with_suffix(".json")):
        if not needed.is_file():
            raise FileNotFoundError(
                f"{call}: {needed} is missing; a checkpoint is a .safetensors with its .json"
            )
    return dict(json.loads(path.with_suffix(".json").read_text()))


def load_checkpoint(
    path: Path | str, *, device: torch.device | str = "cpu"
) -> tuple[Classifier, dict[str, Any]]:
    """The network in evaluation mode and its json.

    Raises FileNotFoundError or ValueError that names the file.
    """
    path = Path(path)
    info = read_info("load_checkpoint", path)
    shape = info["architecture"]
    channels = int(shape["channels"])
    model = make_model(
        shape["name"],
        classes=shape["classes"],
        channels=channels,
        mean=[0.0] * channels,
        std=[1.0] * channels,
        seed=0,
    )
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise different types for a damaged or foreign file
        raise ValueError(f"load_checkpoint: {path} does not hold a {shape['name']}: {error}") from error
    return model.to(device).eval(), info


_PUBLISHED_NAMES = {
    "cifar_resnet20": "resnet20",
    "cifar_resnet56": "resnet56",
    "cifar_resnet110": "resnet110",
    "resnet50": "resnet50",
}
_CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def import_checkpoint(
    path: Path | str, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> tuple[Classifier, dict[str, Any]]:
    """Read a checkpoint that the field publishes into our network, with the same outputs.

    The layout is that of Cohen et al. 2019, shared by SmoothAdv, MACER, Consistency and CAT-RS: a dict with
    `arch` and `state_dict`, a normalisation layer in front of the network, `module.` prefixes where it was
    trained on several GPUs. Normalisation comes from `mean` and `std`, else from the checkpoint, else from
    the statistics that these repositories hard-code for CIFAR-10 and ImageNet (they do not save them). Only
    tensors and plain values are unpickled.

    Returns the network in evaluation mode and its info (architecture, origin, epoch where given).
    Raises FileNotFoundError or ValueError that names the file and what does not fit.
    """
    path = Path(path)
    published = _read_published(path)
    weights = _strip_prefixes(published["state_dict"])
    stored_mean, stored_std = (weights.pop(key, None) for key in ("means", "sds"))
    default = _IMAGENET_STATISTICS if published["arch"] == "resnet50" else _CIFAR10_STATISTICS
    means = mean if mean is not None else _channel_values(stored_mean, default[0])
    stds = std if std is not None else _channel_values(stored_std, default[1])
    try:
        classes, channels = len(weights["fc.weight"]), weights["conv1.weight"].shape[1]
        model = make_model(
            _PUBLISHED_NAMES[published["arch"]],
            classes=classes,
            channels=channels,
            mean=means,
            std=stds,
            seed=0,
        )
        model.body.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"import_checkpoint: {path} (arch {published['arch']!r}) does not hold the weights of a "
            f"{_PUBLISHED_NAMES[published['arch']]}: {error}"
        ) from error
    info = {"architecture": model.architecture, "origin": path.name, "arch": published["arch"]}
    if isinstance(published.get("epoch"), int):
        info["epoch"] = published["epoch"]
    return model.eval(), info


def _read_published(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"import_checkpoint: no file {path}")
    try:
        published = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"import_checkpoint: {path} cannot be read as plain tensors; code inside checkpoints is never "
            f"run: {error}"
        ) from error
    if not isinstance(published, Mapping) or not {"arch", "state_dict"} <= set(published):
        raise ValueError(f"import_checkpoint: {path} is not a dict with 'arch' and 'state_dict'")
    if published["arch"] not in _PUBLISHED_NAMES:
        raise ValueError(
            f"import_checkpoint: {path} has arch {published['arch']!r}; wanted one of "
            f"{', '.join(_PUBLISHED_NAMES)}"
        )
    return dict(published)


def _strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop leading `module.` and positions ("0." normalisation, "1." network) of an nn.Sequential."""
    plain = {}
    for name, tensor in state.items():
        parts = name.split(".")
        while parts and (parts[0] == "module" or parts[0] in ("0", "1")):
            parts = parts[1:]
        plain[".".join(parts)] = tensor
    return plain


def _channel_values(stored: Tensor | None, default: Sequence[float]) -> list[float]:
    return list(default) if stored is None else [float(value) for value in stored.flatten()]
