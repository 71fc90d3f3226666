"""`Images`: uint8 pixels at rest, labels, class names."""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualrs_lab.data.decoding import LazyPixels
from dualrs_lab.settings import COUNT

__all__ = ["Group", "Images", "as_floats", "hold_out", "pixel_digests", "take_waves", "to_float"]


Index = Tensor | NDArray[np.integer] | NDArray[np.bool_] | Sequence[int] | range


Group = tuple[Tensor, Sequence[int], Sequence[int]]  # images (B, ...), labels, indices


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Images:
    """A split of a data set: `pixels` uint8 (N, C, H, W), `labels` int64 (N,) that index `classes`.

    `pixels` is a tensor, or, for a set too large for memory, a `LazyPixels` that indexes like one. `name` and
    `split` say where the images came from.
    """

    pixels: Tensor | LazyPixels
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    split: str

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        if pixels.dtype != torch.uint8 or len(pixels.shape) != 4:
            raise ValueError(
                f"Images: pixels must be uint8 (N, C, H, W), got {pixels.dtype} {tuple(pixels.shape)}; "
                "multiply floats in [0, 1] by 255, round and convert with .to(torch.uint8)"
            )
        if labels.dtype != torch.int64 or tuple(labels.shape) != (len(pixels),):
            raise ValueError(
                f"Images: labels must be int64 ({len(pixels)},), one per image, got {labels.dtype} "
                f"{tuple(labels.shape)}; convert with torch.as_tensor(labels, dtype=torch.int64)"
            )
        if labels.device != pixels.device:
            raise ValueError(
                f"Images: pixels are on {pixels.device}, labels on {labels.device}; move with .to(device)"
            )
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        if low < 0 or high >= max(1, len(self.classes)):
            raise ValueError(
                f"Images: labels run from {low} to {high}, but there are {len(self.classes)} classes; "
                "name every class, and count labels from 0"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"Images({self.name!r}, {self.split!r}, {len(self)} of {size}, {len(self.classes)} classes)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def title(self) -> str:
        """The name without parent folders, which mean nothing elsewhere; fit for file names."""
        kind, _, path = self.name.partition(":")
        return re.sub(r"[^\w.-]", "_", Path(path.partition("?")[0]).name) if path else kind

    def select(self, indices: Index) -> "Images":
        """The images at `indices` (positions or a mask), in that order."""
        index = self._index(indices)
        pixels = self.pixels.select(index) if isinstance(self.pixels, LazyPixels) else self.pixels[index]
        return replace(self, pixels=pixels, labels=self.labels[index])

    def stride(self, count: int) -> int:
        """Every so-many-th image makes about `count` that are evenly spaced: the `skip` of tables."""
        if count not in COUNT:
            raise ValueError(f"Images.stride: got {count}; wanted at least one image")
        return max(1, len(self) // count)

    def spread(self, count: int) -> "Images":
        """About `count` images, evenly spaced: every `stride(count)`-th."""
        return self.select(range(0, len(self), self.stride(count)))

    def at_once(self, most: int) -> int:
        """How many to hold in memory together: `most`, and above 64x64 as many numbers as these would be."""
        return max(1, min(most, most * 3 * 64 * 64 // math.prod(self.shape)))

    def batch(self, indices: Index) -> tuple[Tensor, Tensor]:
        """Pixels uint8 (B, C, H, W) and labels int64 (B,) at `indices`, on the device of this object."""
        index = self._index(indices)
        return self.pixels[index], self.labels[index]

    def digests(self, indices: Sequence[int]) -> list[str]:
        """`pixel_digests` of the images at `indices`; lazy pixels are decoded some at a time."""
        some = (indices[first : first + 500] for first in range(0, len(indices), 500))
        return [digest for part in some for digest in pixel_digests(self.batch(part)[0])]

    def to(self, device: torch.device | str) -> "Images":
        """The same on `device`; lazy pixels stay on disk and arrive there batch by batch."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def fingerprint(self) -> str:
        """16 hex digits over pixels, labels and classes; for lazy pixels over file names and sizes."""
        if isinstance(self.pixels, LazyPixels):
            return self.pixels.listing.digest(times=False)[:16]
        hasher = hashlib.sha256(repr((tuple(self.pixels.shape), self.classes)).encode())
        for tensor in (self.pixels, self.labels):
            hasher.update(tensor.cpu().contiguous().numpy().data)
        return hasher.hexdigest()[:16]

    def _index(self, indices: Index) -> Tensor:
        index = torch.as_tensor(indices if isinstance(indices, Tensor | np.ndarray) else list(indices))
        if not len(index):
            index = index.long()
        return index.to(self.labels.device)


def take_waves(images: Images, positions: Sequence[int], size: int, device: torch.device) -> Iterator[Group]:
    """Images at these positions, `size` at a time, on the device."""
    for first in range(0, len(positions), size):
        idx = positions[first : first + size]
        pixels, labels = images.batch(torch.tensor(idx))
        yield pixels.to(device), labels.tolist(), idx


def pixel_digests(pixels: Tensor) -> list[str]:
    """16 hex digits for each of uint8 images (N, C, H, W), by which a row of a table knows its image."""
    shape, each = repr(tuple(pixels.shape[1:])).encode(), pixels.cpu().contiguous().numpy()
    return [hashlib.sha256(shape + image.tobytes()).hexdigest()[:16] for image in each]


def hold_out(images: Images, count: int) -> tuple[Images, Images]:
    """`count` images held out, and the others: in one random order that is always the same."""
    if count not in COUNT or count >= len(images):
        raise ValueError(f"hold_out: got {count} of {len(images)} images; wanted some, and some left")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.select(order[:count]), images.select(order[count:])


def as_floats(images: Images, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """All of a small set at once: float32 (N, C, H, W) in [0, 1] and labels (N,), on `device`."""
    pixels, labels = images.batch(range(len(images)))
    return to_float(pixels.to(device)), labels.to(device)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1], any shape, same device."""
    if pixels.dtype != torch.uint8:
        raise ValueError(
            f"to_float: wanted uint8 pixels, got {pixels.dtype}; floats are to be in [0, 1] already"
        )
    return pixels.to(torch.float32) / 255
