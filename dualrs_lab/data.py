"""Data sets as `Images`: uint8 pixels at rest, labels, class names.

A data set is a name: "digits" (embedded), "cifar10", "cifar100", "svhn", "fashion_mnist" (downloaded on first
use), "tiny_imagenet", "imagenet" (their published folders), or "folder:PATH".
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import datasets

from dualrs_lab.decoding import Fit, LazyPixels, Listing, decode_cached
from dualrs_lab.folders import list_folder, list_imagenet, list_tiny_imagenet

__all__ = ["SPLITS", "Group", "Images", "as_floats", "hold_out", "load_images", "take_waves", "to_float"]

SPLITS = ("train", "test")
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
        if count < 1:
            raise ValueError(f"Images.stride: got {count}; wanted at least one image")
        return max(1, len(self) // count)

    def spread(self, count: int) -> "Images":
        """About `count` images, evenly spaced: every `stride(count)`-th."""
        return self.select(range(0, len(self), self.stride(count)))

    def batch(self, indices: Index) -> tuple[Tensor, Tensor]:
        """Pixels uint8 (B, C, H, W) and labels int64 (B,) at `indices`, on the device of this object."""
        index = self._index(indices)
        return self.pixels[index], self.labels[index]

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


def load_images(name: str, split: str, *, root: str | Path | None = None) -> Images:
    """The "train" or "test" images of the data set `name`.

    folder:PATH reads PATH/train and PATH/test with a folder per class; where PATH itself holds the class
    folders, a fifth of each class is the test split, chosen by a hash of the file names. All images must
    have one size; folder:PATH?size=32 scales the shorter side to 32 and crops the centre, and
    folder:PATH?channels=1 loads grey instead of RGB. Decoded images are kept in $DUALRS_CACHE (default
    ~/.cache/dualrs-lab/decoded) until a file changes.

    `root` (default $DUALRS_DATA, else ~/.cache/dualrs-lab/data) holds what the other data sets need on disk.
    Raises ValueError or FileNotFoundError that names the file and the remedy.
    """
    call = f"load_images({name!r}, {split!r})"
    if split not in SPLITS:
        raise ValueError(f'{call}: split must be "train" or "test"')
    kind, _, rest = name.partition(":")
    if kind not in _LOADERS or (kind == "folder") != bool(rest):
        raise ValueError(f"{call}: no such data set; choose from {', '.join(_LOADERS)}:PATH")
    base = Path(root or os.environ.get("DUALRS_DATA") or "~/.cache/dualrs-lab/data").expanduser()
    try:
        return _LOADERS[kind](name, split, base)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{call}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{call}: {error}") from error


def hold_out(images: Images, count: int) -> tuple[Images, Images]:
    """`count` images held out, and the others: in one random order that is always the same."""
    if not 0 < count < len(images):
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


def _digits(name: str, split: str, root: Path) -> Images:
    """scikit-learn's 1797 digits, 8x8, levels 0..16 spread over 0..255; 500, stratified, are the test."""
    from sklearn.datasets import load_digits  # here: the import takes a second, for this data set alone
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    parts = train_test_split(np.arange(len(pixels)), test_size=500, random_state=0, stratify=bunch.target)
    chosen = np.sort(parts[SPLITS.index(split)])
    labels = bunch.target[chosen]
    return _images(pixels[chosen], labels, [str(digit) for digit in range(10)], name, split)


def _cifar(name: str, split: str, root: Path) -> Images:
    maker = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    found = _published(maker, root, train=split == "train")
    return _images(found.data.transpose(0, 3, 1, 2), found.targets, found.classes, name, split)


def _svhn(name: str, split: str, root: Path) -> Images:
    found = _published(datasets.SVHN, root / "SVHN", split=split)
    return _images(found.data, found.labels, [str(digit) for digit in range(10)], name, split)


def _fashion_mnist(name: str, split: str, root: Path) -> Images:
    found = _published(datasets.FashionMNIST, root, train=split == "train")
    return _images(found.data[:, None], found.targets, found.classes, name, split)


def _published(maker: Callable[..., Any], root: Path, **options: object) -> Any:
    """A torchvision data set, from the files in `root` where they are complete, else downloaded there."""
    try:
        return maker(root, download=True, **options)
    except (
        OSError,
        RuntimeError,
        AssertionError,
        ValueError,
    ) as error:  # what torchvision raises, on any damage
        raise FileNotFoundError(
            f"{maker.__name__} is not whole in {root} and could not be downloaded to it ({error}); connect "
            "to the network and repeat, or copy its published files there in place of damaged ones, or give "
            "the folder that holds them as root or $DUALRS_DATA"
        ) from error


def _images(pixels: object, labels: object, classes: Sequence[str], name: str, split: str) -> Images:
    held = pixels if isinstance(pixels, LazyPixels) else torch.as_tensor(pixels).contiguous()
    long = torch.as_tensor(labels, dtype=torch.int64)
    return Images(pixels=held, labels=long, classes=tuple(classes), name=name, split=split)


def _folder(name: str, split: str, root: Path) -> Images:
    text, _, query = name.removeprefix("folder:").partition("?")
    path = Path(text).expanduser().resolve()
    return _decoded(list_folder(path, split, _fit(query)), path.name, name, split)


def _tiny_imagenet(name: str, split: str, root: Path) -> Images:
    return _decoded(list_tiny_imagenet(root.resolve(), split), name, name, split)


def _imagenet(name: str, split: str, root: Path) -> Images:
    listing = list_imagenet(root.resolve(), split)
    return _images(LazyPixels(listing), listing.labels, listing.classes, name, split)


def _fit(query: str) -> Fit:
    """The options after folder:PATH?"""
    match = re.fullmatch(r"(?:size=([1-9]\d{0,3}))?&?(?:channels=([13]))?", query)
    if not match:
        raise ValueError(
            f"cannot read the options {query!r}; wanted ?size=32, ?channels=1 or ?size=32&channels=1"
        )
    size = int(match[1] or 0)
    return Fit(resize=size, crop=size, channels=int(match[2] or 3))


def _decoded(listing: Listing, stem: str, name: str, split: str) -> Images:
    """One cache file for each folder, split and fit: an edited folder replaces it."""
    folder = Path(os.environ.get("DUALRS_CACHE") or "~/.cache/dualrs-lab/decoded").expanduser()
    place = hashlib.sha256(repr((str(listing.base), split, listing.fit)).encode()).hexdigest()[:16]
    cache = folder / f"{stem}-{split}-{place}.safetensors"
    pixels = decode_cached(listing, cache, label=f"decoding {stem}/{split}")
    return _images(pixels, listing.labels, listing.classes, name, split)


_LOADERS: dict[str, Callable[[str, str, Path], Images]] = {
    "digits": _digits,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "svhn": _svhn,
    "fashion_mnist": _fashion_mnist,
    "tiny_imagenet": _tiny_imagenet,
    "imagenet": _imagenet,
    "folder": _folder,
}
