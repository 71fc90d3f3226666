"""Networks that choose the weight of a mix from the features of both of its networks."""

import copy
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["HEADS", "PooledHead", "PublishedHead", "look_into", "make_head"]


Pair = tuple[Tensor, Tensor]  # a feature map of g and the one of h


class PooledHead(nn.Module):
    """(N,) from mean and deviation of each channel in stages 1 and 2 of both networks.

    `channels` are those of (stage 1, stage 2) of g, then of h. At most 1 M parameters for every network here.
    """

    def __init__(self, channels: Sequence[tuple[int, int]], width: int = 256) -> None:
        super().__init__()
        inputs = 2 * sum(first + second for first, second in channels)
        self.layers = nn.Sequential(
            nn.BatchNorm1d(inputs),
            nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, 1, bias=False),
        )  # fmt: skip

    def forward(self, first: Pair, second: Pair) -> Tensor:
        maps = [one.float().flatten(2) for one in (*first, *second)]
        pooled = [part for one in maps for part in (one.mean(2), (one.var(2, correction=0) + 1e-6).sqrt())]
        return cast(Tensor, self.layers(torch.cat(pooled, dim=1))[:, 0])


class PublishedHead(nn.Module):
    """The authors' mixing network V3: 44 M parameters beside two ResNet-18s, twice as many as both together.

    A pre-activation ResNet-18 of double width, whose first stage consists of the networks' own first stages,
    side by side; their second stages are added to its second stage.
    """

    def __init__(self, channels: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        one, two = (sum(stage) for stage in zip(*channels, strict=True))
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(_PreActivated(inputs, outputs, 2), _PreActivated(outputs, outputs, 1))
            for inputs, outputs in ((one, two), (two, 2 * two), (2 * two, 4 * two))
        )
        self.last = nn.Linear(4 * two, 1, bias=False)

    def forward(self, first: Pair, second: Pair) -> Tensor:
        known = _side_by_side(second)
        x = F.adaptive_avg_pool2d(self.stage2(_side_by_side(first)), _size(known)) + known
        x = self.stage4(self.stage3(x))
        return cast(Tensor, self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))[:, 0])


class _PreActivated(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        return cast(Tensor, kept + self.conv2(F.relu(self.bn2(self.conv1(active)))))


def _side_by_side(maps: Pair) -> Tensor:
    # stages may differ in size: both at the size of the first
    size = _size(maps[0])
    return torch.cat([one if _size(one) == size else F.adaptive_avg_pool2d(one, size) for one in maps], dim=1)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


HEADS = {"pooled": PooledHead, "published": PublishedHead}


def look_into(network: nn.Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Feature maps after two stages of a network, and its logits; ValueError for one that shows none."""
    look = getattr(network, "look", None)
    if look is None:
        raise ValueError(
            f"look_into: a {type(network).__name__} shows no feature maps, which the head of an adaptive mix "
            "looks at; wanted a network of ours, or one that load_network gives"
        )
    return cast(tuple[list[Tensor], Tensor], look(x))


def make_head(
    kind: str, accurate: nn.Module, robust: nn.Module, *, shape: Sequence[int], seed: int
) -> nn.Module:
    """A fresh head, one of HEADS, for images of `shape` (C, H, W); the global random state is untouched."""
    if kind not in HEADS:
        raise ValueError(f"make_head: got kind {kind!r}; wanted one of {', '.join(HEADS)}")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        channels = []
        for network in (accurate, robust):
            like = next(network.parameters())
            blank = torch.zeros(1, *shape, device=like.device, dtype=like.dtype)
            (first, second), _ = look_into(copy.deepcopy(network).eval(), blank)
            channels.append((first.shape[1], second.shape[1]))
        return cast(nn.Module, HEADS[kind](channels))
