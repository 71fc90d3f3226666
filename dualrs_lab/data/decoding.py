"""Image files to uint8 tensors: decoded once into a cache file, or on demand.

Every file becomes 8-bit RGB, or grey where asked: palettes are expanded, grey is repeated, transparency is
laid over white, and EXIF rotation is ignored (as in torchvision). More than 8 bits per channel is refused,
and so is what `opening` does not let in. Errors state the file and the remedy; `data.load_images` puts the
call in front.
"""

import hashlib
import os
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from dualrs_lab.data.opening import open_image, regular

__all__ = ["Fit", "LazyPixels", "Listing", "decode_cached"]


_CHUNK = 256  # files per task of a thread: enough to make the cost of handing tasks over negligible


_THREADS = min(32, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """From file to tensor: scale the shorter side to `resize` (bilinear), crop the centre; 0: neither."""

    resize: int = 0
    crop: int = 0
    channels: int = 3


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of one split, relative to `base`, in an order that does not depend on the file system.

    `labels` index `classes`; all images must have the size of `reference`, which need not be among `files`.
    """

    base: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    reference: str
    fit: Fit

    def digest(self, *, times: bool) -> str:
        """sha256 over names, labels, sizes and, with `times`, modification times, which show an edit."""
        hasher = hashlib.sha256(repr((self.fit, self.classes)).encode())
        for file, label in zip(self.files, self.labels, strict=True):
            stat = regular(f"{self.base}/{file}")
            hasher.update(f"{file}\0{label}\0{stat.st_size}\0{stat.st_mtime_ns * times}\n".encode())
        return hasher.hexdigest()


def decode_cached(listing: Listing, cache: Path, *, label: str) -> Tensor:
    """All images as uint8 (N, C, H, W), from the file `cache` or decoded into it, with a bar named `label`.

    The cache carries a digest of the listing and one of its pixels: after an edit of the folder, or damage to
    the cache, the images are decoded again. There is no bar where stderr is not a terminal. A cache that
    cannot be written is no error: a warning says that the images will be decoded again.
    """
    key = listing.digest(times=True)
    shape = (len(listing.files), *_read(listing, listing.reference).shape)
    pixels = _read_cache(cache, key)
    if pixels is None or tuple(pixels.shape) != shape:
        pixels = _decode(listing, shape, label=label)
        _keep(cache, key, pixels)
    return pixels


class LazyPixels:
    """Pixels that stay on disk: indexes like a uint8 tensor (N, C, H, W), decodes in threads.

    `device` is where the decoded images are put.
    """

    dtype = torch.uint8

    def __init__(self, listing: Listing, device: torch.device | str = "cpu") -> None:
        if not listing.fit.crop:
            raise ValueError("LazyPixels: read on demand, images need a known size; give a Fit with a crop")
        self.listing, self.device = listing, torch.device(device)

    def __len__(self) -> int:
        return len(self.listing.files)

    @property
    def shape(self) -> torch.Size:
        fit = self.listing.fit
        return torch.Size((len(self), fit.channels, fit.crop, fit.crop))

    def __getitem__(self, index: Any) -> Tensor:
        """What a tensor gives for an integer, slice, index list or mask along its first axis."""
        chosen = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
        files = [self.listing.files[i] for i in chosen.reshape(-1).tolist()]
        pixels = np.empty((len(files), *self.shape[1:]), dtype=np.uint8)
        with ThreadPoolExecutor(_THREADS) as pool:
            for i, image in enumerate(pool.map(lambda file: _read(self.listing, file), files)):
                pixels[i] = image
        return torch.from_numpy(pixels).reshape(*chosen.shape, *self.shape[1:]).to(self.device)

    def select(self, index: Tensor) -> "LazyPixels":
        """The files at `index`; nothing is decoded."""
        chosen = torch.arange(len(self))[index.cpu()].tolist()
        files, labels = self.listing.files, self.listing.labels
        kept = replace(
            self.listing, files=tuple(files[i] for i in chosen), labels=tuple(labels[i] for i in chosen)
        )
        return LazyPixels(kept, self.device)

    def to(self, device: torch.device | str) -> "LazyPixels":
        return LazyPixels(self.listing, device)


def _read(listing: Listing, file: str) -> NDArray[np.uint8]:
    """One file as uint8 (C, H, W)."""
    path, fit = f"{listing.base}/{file}", listing.fit
    try:
        with open_image(path) as opened:
            image = _eight_bit(opened, fit.channels)
        if fit.crop:
            from torchvision.transforms import functional  # here: torchvision takes seconds to import

            image = functional.center_crop(functional.resize(image, fit.resize), [fit.crop, fit.crop])
        pixels: NDArray[np.uint8] = np.asarray(image, dtype=np.uint8)
    except Exception as error:  # Pillow raises a different type for each way in which a file can be broken
        raise ValueError(f"{path} is no readable image ({error}); replace or remove the file") from error
    return pixels[None] if fit.channels == 1 else pixels.transpose(2, 0, 1)


def _eight_bit(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _decode(listing: Listing, shape: tuple[int, ...], *, label: str) -> Tensor:
    pixels = np.empty(shape, dtype=np.uint8)

    def fill(start: int) -> int:
        files = listing.files[start : start + _CHUNK]
        for i, file in enumerate(files, start):
            image = _read(listing, file)
            if image.shape != shape[1:]:
                raise ValueError(_mixed_sizes(listing, file, shape[1:], image.shape))
            pixels[i] = image
        return len(files)

    # map gives results and errors in order, so of several bad files the first is named
    bar = tqdm(total=shape[0], desc=label, unit="img", disable=None)
    with ThreadPoolExecutor(_THREADS) as pool, bar:
        for done in pool.map(fill, range(0, shape[0], _CHUNK)):
            bar.update(done)
    return torch.from_numpy(pixels)


def _mixed_sizes(listing: Listing, file: str, want: tuple[int, ...], got: tuple[int, ...]) -> str:
    return (
        f"the images differ in size: {listing.base / listing.reference} is {want[2]}x{want[1]} pixels, "
        f"{listing.base / file} is {got[2]}x{got[1]}; resize the files, or scale and centre-crop all of "
        f"them with folder:PATH?size={min(want[1:])} (any side length)"
    )


def _checksum(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.numpy().data).hexdigest()


def _read_cache(cache: Path, key: str) -> Tensor | None:
    """The cached pixels; None where the file is absent, unreadable or damaged, or holds other images."""
    try:
        if not cache.is_file():
            return None
        with safe_open(cache, "pt") as stored:
            meta = stored.metadata() or {}
            if meta.get("key") != key:
                return None
            pixels: Tensor = stored.get_tensor("pixels")
    except (OSError, SafetensorError):
        return None
    whole = pixels.dtype == torch.uint8 and meta.get("sha256") == _checksum(pixels)
    return pixels if whole else None


def _keep(cache: Path, key: str, pixels: Tensor) -> None:
    try:
        _write_cache(cache, key, pixels)
    except (OSError, SafetensorError) as error:
        warnings.warn(
            f"the decoded images cannot be kept as {cache} ({error}), so that they will be decoded again; "
            "set $DUALRS_CACHE to a folder with room that may be written",
            stacklevel=3,
        )


def _write_cache(cache: Path, key: str, pixels: Tensor) -> None:
    """Atomic, and from the tensor straight to disk: large sets must not be in memory twice."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent, prefix=".new-") as scratch:
        fresh = Path(scratch) / cache.name
        fresh.touch()
        mode = fresh.stat().st_mode  # what the umask gives; safetensors would make the file private
        save_file({"pixels": pixels}, fresh, metadata={"key": key, "sha256": _checksum(pixels)})
        fresh.chmod(mode)
        os.replace(fresh, cache)
