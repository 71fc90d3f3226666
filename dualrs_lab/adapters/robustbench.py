"""State dicts in the layouts of RobustBench, read without that package: names of weights tell the network.

Five families of 32x32 networks: wide ones of TRADES, wide and pre-activation ones of DeepMind, ResNets with a
small stem, and pre-activation ResNets; and Big Transfer, see `adapters.bit`. Normalisation that a state dict
holds (`mu` and `sigma`, `mean` and `std`, `normalize.…`) is taken from it; that of the others is in the code
of RobustBench, not in the file. So is the activation of DeepMind's networks, see `robustbench_network`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.adapters.bit import BigTransfer, big_transfer
from dualrs_lab.adapters.choices import Choices, read_choices
from dualrs_lab.adapters.network import Found
from dualrs_lab.adapters.weights import fill_in, read_weights

__all__ = ["DeepMindWide", "robustbench_network"]


_STATISTICS = (("mu", "sigma"), ("mean", "std"), ("normalize.mean", "normalize.std"))


_KNOWN = (
    "wide ResNets (block1.layer.0.conv1, fc), those of DeepMind (init_conv or conv_2d, logits), ResNets "
    "(conv1, linear), pre-activation ResNets of 18 layers and Big Transfer (root.conv, head.conv)"
)


class PreActivation(nn.Module):
    """The pre-activation ResNet of two convolutions a block (He et al. 2016), as RobustBench lays it out.

    With a `last` BatchNorm before the linear layer, all of its networks have shortcuts behind the activation.
    """

    def __init__(self, classes: int, channels: int, blocks: list[int], *, last: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        widths = [64, 64, 128, 256, 512]
        for stage, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            first = _PreBlock(inputs, outputs, 1 if stage == 1 else 2, last)
            rest = (_PreBlock(outputs, outputs, 1, last) for _ in range(blocks[stage - 1] - 1))
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
        self.bn = nn.BatchNorm2d(512) if last else None
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in range(1, 5):
            x = cast(nn.Module, getattr(self, f"layer{stage}"))(x)
        x = x if self.bn is None else F.relu(self.bn(x))
        return cast(Tensor, self.linear(F.avg_pool2d(x, 4).flatten(1)))


class _PreBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activated: bool) -> None:
        super().__init__()
        self.activated = activated
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        other = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False)) if other else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        residual = x if self.shortcut is None else self.shortcut(active if self.activated else x)
        return cast(Tensor, self.conv2(F.relu(self.bn2(self.conv1(active)))) + residual)


class DeepMindWide(nn.Module):
    """The wide ResNet of Gowal et al. (2020): swish, and strides that pad on one side."""

    def __init__(self, classes: int, channels: int, blocks: int, widen: int, *, relu: bool) -> None:
        super().__init__()
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.init_conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        stages = zip(widths, widths[1:], (1, 2, 2), strict=False)
        self.relu = nn.ReLU() if relu else nn.SiLU()
        self.layer = nn.Sequential(*(_DeepMindStage(*one, blocks, relu) for one in stages))
        self.batchnorm = nn.BatchNorm2d(widths[-1])
        self.logits = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.batchnorm(self.layer(self.init_conv(x))))
        return cast(Tensor, self.logits(F.avg_pool2d(x, 8).flatten(1)))


class _DeepMindStage(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, blocks: int, relu: bool) -> None:
        super().__init__()
        rest = (_DeepMindBlock(outputs, outputs, 1, relu) for _ in range(blocks - 1))
        self.block = nn.Sequential(_DeepMindBlock(inputs, outputs, stride, relu), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.block(x))


class _DeepMindBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, relu: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU() if relu else nn.SiLU()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None
        self.padding = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.batchnorm_0(x))
        out = self.conv_0(F.pad(active, self.padding))
        out = self.conv_1(self.relu(self.batchnorm_1(out)))
        return cast(Tensor, out + (x if self.shortcut is None else self.shortcut(active)))


class DeepMindPreActivation(nn.Module):
    """The pre-activation ResNet of Gowal et al. (2020), whose shortcuts see 3x3 pixels."""

    def __init__(self, classes: int, channels: int, blocks: list[int], *, relu: bool) -> None:
        super().__init__()
        self.conv_2d = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        widths = [64, 64, 128, 256, 512]
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            first = _DeepMindPreBlock(inputs, outputs, 2 if stage else 1, relu)
            rest = (_DeepMindPreBlock(outputs, outputs, 1, relu) for _ in range(blocks[stage] - 1))
            setattr(self, f"layer_{stage}", nn.Sequential(first, *rest))
        self.batchnorm = nn.BatchNorm2d(512)
        self.relu = nn.ReLU() if relu else nn.SiLU()
        self.logits = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_2d(x)
        for stage in range(4):
            x = cast(nn.Module, getattr(self, f"layer_{stage}"))(x)
        return cast(Tensor, self.logits(F.avg_pool2d(self.relu(self.batchnorm(x)), 4).flatten(1)))


class _DeepMindPreBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, relu: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU() if relu else nn.SiLU()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_2d_1 = nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_2d_2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        other = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 3, stride, bias=False) if other else None
        self.padding = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.shortcut is None else self.shortcut(F.pad(x, self.padding))
        out = self.conv_2d_1(F.pad(self.relu(self.batchnorm_0(x)), self.padding))
        return cast(Tensor, self.conv_2d_2(self.relu(self.batchnorm_1(out))) + residual)


def robustbench_network(name: str) -> Found:
    """The network whose state dict, in a layout of RobustBench, is in the file `name`.

    What weights do not tell is said behind it, in any order and joined by `&`: `FILE?activation=relu`, of
    DeepMind's networks, else swish; `size=128`, the side to which images are brought; `mean=X,X,X` and
    `std=X,X,X`, by which it normalises.
    """
    path, choices = read_choices(name)
    if not path.exists():
        raise FileNotFoundError(f"load_network: no file {path}, which robustbench:{name} names")
    found = by_names(read_weights(path).state, path.name, choices)
    if found is None:
        raise ValueError(
            f"load_network: {path} holds the weights of none of {_KNOWN}; name a module:factory for it"
        )
    size = None if choices.size is None else (choices.size, choices.size)
    said: dict[str, Any] = {"mean": choices.mean, "std": choices.std, "size": size}
    return replace(found, **{key: value for key, value in said.items() if value is not None})


def by_names(state: Mapping[str, Tensor], source: str, choices: Choices = Choices()) -> Found | None:  # noqa: B008  # frozen
    """The network of these weights, if it is of a known family."""
    held = _unwrapped(state)
    mean, std = _statistics(held)
    held = {name: tensor for name, tensor in held.items() if not name.startswith("sub_block1.")}
    body = (
        _wide(held, source)
        or _deepmind(held, source, relu=choices.relu)
        or _residual(held, source)
        or _transferred(held, source)
    )
    if body is None:
        return None
    if isinstance(body, BigTransfer) and mean is None:
        mean = std = [0.5]  # of all that was published
    first = next(iter(part for part in body.modules() if isinstance(part, nn.Conv2d)))
    last = [part for part in body.modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]
    return Found(
        body=body,
        kind="RobustBench",
        mean=mean,
        std=std,
        outputs=last.out_features if isinstance(last, nn.Linear) else last.out_channels,
        channels=first.in_channels,
        hint="RobustBench keeps it in the code of this network: look there for mu and sigma, or mean and std",
        info={"network": type(body).__name__, "choices": ["activation=relu"] if choices.relu else []},
    )


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # of files of those who trained a network: alone, or behind its normalisation, in a Sequential
    places = {name.partition(".")[0] for name in state}
    behind = {"0.mean", "0.std"} == {name for name in state if name.startswith("0.")}
    if places == {"0"} or (places == {"0", "1"} and behind):
        return {name.partition(".")[2]: tensor for name, tensor in state.items()}
    return dict(state)


def _statistics(held: dict[str, Tensor]) -> tuple[list[float] | None, list[float] | None]:
    for names in _STATISTICS:
        if {*names} <= {*held}:
            mean, std = (held.pop(name).flatten().tolist() for name in names)
            return mean, std
    return None, None


def _wide(held: Mapping[str, Tensor], source: str) -> nn.Module | None:
    from dualrs_lab.models.residual import WideResNet

    first = held.get("block1.layer.0.conv1.weight")
    if first is None or "fc.weight" not in held:
        return None
    blocks = _count(held, r"block1\.layer\.(\d+)\.")
    body = WideResNet(
        len(held["fc.weight"]),
        held["conv1.weight"].shape[1],
        depth=6 * blocks + 4,
        widen=len(first) // 16,
    )
    plain = {
        name.replace(".layer.", ".").replace(".convShortcut.", ".shortcut."): tensor
        for name, tensor in held.items()
    }
    return fill_in(body, {"fc.bias": torch.zeros(len(held["fc.weight"])), **plain}, source)


def _transferred(held: Mapping[str, Tensor], source: str) -> nn.Module | None:
    body = big_transfer(held)
    return None if body is None else fill_in(body, held, source)


def _deepmind(held: Mapping[str, Tensor], source: str, *, relu: bool) -> nn.Module | None:
    first = held.get("layer.0.block.0.conv_0.weight")
    if {"conv_2d.weight", "logits.weight", "layer_3.0.conv_2d_1.weight"} <= {*held}:
        each = [_count(held, rf"layer_{stage}\.(\d+)\.") for stage in range(4)]
        channels = held["conv_2d.weight"].shape[1]
        return fill_in(
            DeepMindPreActivation(len(held["logits.weight"]), channels, each, relu=relu), held, source
        )
    if first is None or not {"init_conv.weight", "logits.weight"} <= {*held}:
        return None
    blocks = _count(held, r"layer\.0\.block\.(\d+)\.")
    channels = held["init_conv.weight"].shape[1]
    body = DeepMindWide(len(held["logits.weight"]), channels, blocks, len(first) // 16, relu=relu)
    return fill_in(body, held, source)


def _residual(held: Mapping[str, Tensor], source: str) -> nn.Module | None:
    stem, last = held.get("conv1.weight"), held.get("linear.weight")
    if stem is None or last is None or "layer4.0.bn1.weight" not in held:
        return None
    blocks = [_count(held, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5)]
    if len(held["layer2.0.bn1.weight"]) == 64 and "bn1.weight" not in held:
        body = PreActivation(len(last), stem.shape[1], blocks, last="bn.weight" in held)
        return fill_in(body, held, source)
    return fill_in(_small_stem(held, blocks, len(last), stem.shape[1]), _as_torchvision(held), source)


def _small_stem(held: Mapping[str, Tensor], blocks: list[int], classes: int, channels: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    block = Bottleneck if "layer1.0.conv3.weight" in held else BasicBlock
    body = ResNet(block, blocks, num_classes=classes)
    body.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    body.maxpool = nn.Identity()
    return cast(nn.Module, body)


def _as_torchvision(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        re.sub(r"^linear\.", "fc.", name.replace(".shortcut.", ".downsample.")): tensor
        for name, tensor in held.items()
    }


def _count(held: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in held if (found := re.match(pattern, name))})
