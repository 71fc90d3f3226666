"""From a class activation map to the pixels that count as important.

A mask is one bool per pixel; PART (Zhang et al. 2024) gives masked pixels the whole budget and others less.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from dualrs_lab.pixels.maps import normalise, resize

__all__ = ["AboveMean", "Everywhere", "JetMask", "Mask", "TopFraction", "pixel_budget"]


class Mask(Protocol):
    """Which pixels are important: maps (N, h, w) and a size (H, W) -> bool (N, 1 or 3, H, W).

    A constant map tells nothing: all pixels of its image are important.
    """

    def __call__(self, maps: Tensor, size: tuple[int, int]) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class TopFraction:
    """The pixels with the largest values, `fraction` of each image: the same number in every image.

    Of equal values at the threshold, some are taken.
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"TopFraction: wanted a fraction in (0, 1], got {self.fraction}")

    def __call__(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        values = resize(maps, size).flatten(1)
        count = max(1, round(self.fraction * values.shape[1]))
        mask = torch.zeros_like(values, dtype=torch.bool)
        mask.scatter_(1, values.topk(count, sorted=False).indices, True)
        return (mask | _flat(maps)[:, None]).view(-1, 1, *size)


@dataclass(frozen=True, kw_only=True)
class AboveMean:
    """Pixels above mean + k standard deviations of their image's map."""

    k: float = 1.0

    def __call__(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        values = resize(maps, size)
        std, mean = torch.std_mean(values, dim=(1, 2), keepdim=True)
        return ((values > mean + self.k * std) | _flat(maps)[:, None, None])[:, None]


@dataclass(frozen=True, kw_only=True)
class JetMask:
    """The rule of PART's published code, for comparison: (N, 3, H, W), a mask for each colour channel.

    The map, in [0, 1] and squared, is painted with the colour map "jet"; a channel of a pixel is important
    where its *colour* exceeds mean + one standard deviation of all colours of the picture. So a pixel where
    the map is largest (dark red) is important in no channel.
    """

    def __call__(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        colours = _jet(resize(normalise(maps), size) ** 2)
        std, mean = torch.std_mean(colours, dim=(1, 2, 3), keepdim=True)
        return (colours > mean + std) | _flat(maps)[:, None, None, None]


@dataclass(frozen=True, kw_only=True)
class Everywhere:
    """All pixels are important."""

    def __call__(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.ones((len(maps), 1, *size), dtype=torch.bool, device=maps.device)


def pixel_budget(mask: Tensor, *, high: float, low: float) -> Tensor:
    """`high` where `mask` is true, `low` elsewhere: float32 of the mask's shape, in [0, 1] pixel units."""
    if mask.dtype != torch.bool or not 0 <= low <= high:
        raise ValueError(
            f"pixel_budget: got a mask {mask.dtype}, high {high} and low {low}; wanted bool and "
            "0 <= low <= high"
        )
    return torch.where(mask, high, low)


def _flat(maps: Tensor) -> Tensor:
    return maps.amax((1, 2)) == maps.amin((1, 2))


# Corners (value, intensity) of the colour map "jet", red, green, blue.
_JET = (
    ((0.35, 0.0), (0.66, 1.0), (0.89, 1.0), (1.0, 0.5)),
    ((0.125, 0.0), (0.375, 1.0), (0.64, 1.0), (0.91, 0.0)),
    ((0.0, 0.5), (0.11, 1.0), (0.34, 1.0), (0.65, 0.0)),
)


def _jet(values: Tensor) -> Tensor:
    # (N, H, W) -> (N, 3, H, W), with 256 levels of value and of intensity, as in pictures
    levels = (values.double() * 256).floor().clamp(0, 255) / 255
    channels = []
    for corners in _JET:
        colour = torch.full_like(levels, corners[0][1])
        for (left, start), (right, end) in pairwise(corners):
            share = ((levels - left) / (right - left)).clamp(0, 1)
            colour = colour + (end - start) * share
        channels.append(colour)
    return (torch.stack(channels, dim=1) * 255).floor()
