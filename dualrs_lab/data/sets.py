"""Data sets by name.

"digits" (embedded), "cifar10", "cifar100", "svhn", "fashion_mnist" (downloaded on first use),
"tiny_imagenet", "imagenet" (their published folders), or "folder:PATH".
"""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualrs_lab.data.decoding import Fit, LazyPixels, Listing, decode_cached
from dualrs_lab.data.folders import list_folder, list_imagenet, list_tiny_imagenet
from dualrs_lab.data.images import Images

__all__ = ["SPLITS", "load_images"]


SPLITS = ("train", "test")


def load_images(name: str, split: str, *, root: str | Path | None = None) -> Images:
    """The "train" or "test" images of the data set `name`.

    folder:PATH reads PATH/train and PATH/test with a folder per class; where PATH itself holds the class
    folders, a fifth of each class is the test split, chosen by a hash of the file names. Its split "all" is
    every image; those that lie in PATH itself, without a class folder, have one class without a name. All
    images must have one size; folder:PATH?size=32 scales the shorter side to 32 and crops the centre, and
    folder:PATH?channels=1 loads grey instead of RGB. Decoded images are kept in $DUALRS_CACHE (default
    ~/.cache/dualrs-lab/decoded) until a file changes.

    `root` (default $DUALRS_DATA, else ~/.cache/dualrs-lab/data) holds what the other data sets need on disk.
    Raises ValueError or FileNotFoundError that names the file and the remedy.
    """
    call = f"load_images({name!r}, {split!r})"
    if not isinstance(name, str):
        raise ValueError(f"{call}: a data set is named by a text, such as digits or folder:PATH")
    if split not in SPLITS and not (split == "all" and name.startswith("folder:")):
        raise ValueError(f'{call}: split must be "train" or "test", or "all" of a folder:PATH')
    kind, _, rest = name.partition(":")
    if kind not in _LOADERS or (kind == "folder") != bool(rest):
        raise ValueError(f"{call}: no such data set; choose from {', '.join(_LOADERS)}:PATH")
    if "://" in rest:
        raise ValueError(
            f"{call}: a folder of images is one of this machine, since thousands of small files would each "
            "be fetched alone; copy it here first"
        )
    base = _placed(root or os.environ.get("DUALRS_DATA") or "~/.cache/dualrs-lab/data")
    try:
        return _LOADERS[kind](name, split, base)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{call}: {error}") from error
    except OSError as error:  # no right to read, a circle of links, …
        where = f"{error.filename}: " if error.filename else ""
        raise ValueError(
            f"{call}: {where}{error.strerror or error}; check the path and its rights"
        ) from error
    except ValueError as error:
        raise ValueError(f"{call}: {error}") from error


def _digits(name: str, split: str, root: Path) -> Images:
    """1797 handwritten digits, 8x8, levels 0..16 spread over 0..255; 500, stratified, are the test.

    The images of scikit-learn's `load_digits`: the test set of Alpaydin and Kaynak's "Optical Recognition of
    Handwritten Digits" (1998), UCI Machine Learning Repository, CC BY 4.0. They lie beside this module, since
    importing scikit-learn takes seconds.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as digits:
        levels, labels, test = digits["levels"], digits["labels"], digits["test"]
    chosen = test if split == "test" else np.setdiff1d(np.arange(len(labels)), test)
    pixels = np.rint(levels[chosen, None] * (255 / 16)).astype(np.uint8)
    return _images(pixels, labels[chosen], [str(digit) for digit in range(10)], name, split)


def _cifar(name: str, split: str, root: Path) -> Images:
    found = _published(name.upper(), root, train=split == "train")
    return _images(found.data.transpose(0, 3, 1, 2), found.targets, found.classes, name, split)


def _svhn(name: str, split: str, root: Path) -> Images:
    found = _published("SVHN", root / "SVHN", split=split)
    return _images(found.data, found.labels, [str(digit) for digit in range(10)], name, split)


def _fashion_mnist(name: str, split: str, root: Path) -> Images:
    found = _published("FashionMNIST", root, train=split == "train")
    return _images(found.data[:, None], found.targets, found.classes, name, split)


def _published(kind: str, root: Path, **options: object) -> Any:
    """A torchvision data set, from the files in `root` where they are complete, else downloaded there."""
    from torchvision import datasets  # here: it takes seconds to import

    try:
        return getattr(datasets, kind)(root, download=True, **options)
    except (
        OSError,
        RuntimeError,
        AssertionError,
        ValueError,
    ) as error:  # what torchvision raises, on any damage
        raise FileNotFoundError(
            f"{kind} is not whole in {root} and could not be downloaded to it ({error}); connect "
            "to the network and repeat, or copy its published files there in place of damaged ones, or give "
            "the folder that holds them as root or $DUALRS_DATA"
        ) from error


def _images(pixels: object, labels: object, classes: Sequence[str], name: str, split: str) -> Images:
    held = pixels if isinstance(pixels, LazyPixels) else torch.as_tensor(pixels).contiguous()
    long = torch.as_tensor(labels, dtype=torch.int64)
    return Images(pixels=held, labels=long, classes=tuple(classes), name=name, split=split)


def _folder(name: str, split: str, root: Path) -> Images:
    text, _, query = name.removeprefix("folder:").partition("?")
    path = _placed(text)
    return _decoded(list_folder(path, split, _fit(query)), path.name, name, split)


def _tiny_imagenet(name: str, split: str, root: Path) -> Images:
    return _decoded(list_tiny_imagenet(root, split), name, name, split)


def _imagenet(name: str, split: str, root: Path) -> Images:
    listing = list_imagenet(root, split)
    return _images(LazyPixels(listing), listing.labels, listing.classes, name, split)


def _placed(path: str | Path) -> Path:
    """A path that people gave, without ~ and links; pathlib fails where ~name is unknown or links circle."""
    return Path(os.path.realpath(os.path.expanduser(path)))


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
    folder = _placed(os.environ.get("DUALRS_CACHE") or "~/.cache/dualrs-lab/decoded")
    place = hashlib.sha256(repr((str(listing.base), split, listing.fit)).encode()).hexdigest()[:16]
    cache = folder / f"{stem[:40]}-{split}-{place}.safetensors"
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
