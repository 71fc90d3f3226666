"""Big Transfer (Kolesnikov et al. 2020): ResNets with group norm and standardised weights, told by names.

The accurate networks of adaptive smoothing and MixedNUTS on CIFAR are such, a ResNet-152 of double width that
was fine-tuned on images of 128 x 128: say the size, as their code does, with `FILE?size=128`.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BigTransfer", "big_transfer"]


class _Standardised(nn.Conv2d):
    # weights of each output with mean 0 and variance 1 (Qiao et al. 2019)

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        weight = (self.weight - mean) / torch.sqrt(var + 1e-10)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class _Unit(nn.Module):
    # a bottleneck whose shortcut leaves behind the first activation

    def __init__(self, inputs: int, middle: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * middle
        self.gn1, self.gn2, self.gn3 = (nn.GroupNorm(32, width) for width in (inputs, middle, middle))
        self.conv1 = _Standardised(inputs, middle, 1, bias=False)
        self.conv2 = _Standardised(middle, middle, 3, stride, padding=1, bias=False)
        self.conv3 = _Standardised(middle, outputs, 1, bias=False)
        same = stride == 1 and inputs == outputs
        self.downsample = None if same else _Standardised(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.gn1(x))
        kept = x if self.downsample is None else self.downsample(active)
        out = self.conv2(F.relu(self.gn2(self.conv1(active))))
        return cast(Tensor, kept + self.conv3(F.relu(self.gn3(out))))


class BigTransfer(nn.Module):
    """Normalised images (B, channels, H, W) -> logits; `units` a block, `width` channels in the first one."""

    def __init__(self, classes: int, channels: int, units: list[int], width: int) -> None:
        super().__init__()
        self.root = nn.ModuleDict({"conv": _Standardised(channels, width, 7, 2, padding=3, bias=False)})
        widths = [width, *(4 * width * 2**block for block in range(4))]
        self.body = nn.ModuleDict({
            f"block{block}": _block(inputs, outputs // 4, units[block - 1], 1 if block == 1 else 2)
            for block, (inputs, outputs) in enumerate(pairwise(widths), start=1)
        })  # fmt: skip
        self.head = nn.ModuleDict({
            "gn": nn.GroupNorm(32, widths[-1]), "conv": nn.Conv2d(widths[-1], classes, 1),
        })  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.pad(self.root["conv"](x), (1, 1, 1, 1)), 3, 2)
        for block in self.body.values():
            x = block(x)
        x = F.adaptive_avg_pool2d(F.relu(self.head["gn"](x)), 1)
        return cast(Tensor, self.head["conv"](x).flatten(1))


def _block(inputs: int, middle: int, units: int, stride: int) -> nn.Sequential:
    made = nn.Sequential()
    for unit in range(1, units + 1):
        made.add_module(
            f"unit{unit:02d}", _Unit(inputs if unit == 1 else 4 * middle, middle, stride if unit == 1 else 1)
        )
    return made


def big_transfer(held: Mapping[str, Tensor]) -> BigTransfer | None:
    """The network that weights of these names and sizes are for, still empty; None for others."""
    first, last = held.get("root.conv.weight"), held.get("head.conv.weight")
    if first is None or last is None or "body.block4.unit01.conv1.weight" not in held:
        return None
    units = [
        len({found[1] for name in held if (found := re.match(rf"body\.block{block}\.(unit\d+)\.", name))})
        for block in range(1, 5)
    ]
    return BigTransfer(len(last), first.shape[1], units, len(first))
