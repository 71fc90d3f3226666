"""Anyone's images as they are certified: uint8 (N, C, H, W) on the 8-bit grid, or floats in [0, 1].

Arrays and tensors with channels first or last, PIL images, a folder, the name of a data set, `Images`. What
can be read in two ways is refused with the remedy: a certificate of the wrong reading would be true, and of
no use.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dualrs_lab.data import sets
from dualrs_lab.data.decoding import LazyPixels
from dualrs_lab.data.images import Group, Images, pixel_digests

__all__ = ["Pictures", "as_pictures", "by_name", "load_images"]


_CHANNELS = (1, 3)


LAYOUTS = ("NCHW", "NHWC")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """What is certified: `pixels` uint8 or float32 in [0, 1] (N, C, H, W), and labels (N,) where known."""

    pixels: Tensor | LazyPixels
    labels: tuple[int, ...] | None
    classes: tuple[str, ...] | None  # names, where the source tells them
    name: str

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the pixels are put."""
        return self.pixels.device

    @property
    def on_grid(self) -> bool:
        """Whether pixels are 8-bit, so that noise can be drawn on their grid."""
        return self.pixels.dtype == torch.uint8

    def floats(self, idx: Sequence[int]) -> Tensor:
        """Images at `idx` as a network sees them: float32 (B, C, H, W) in [0, 1]."""
        some = self.pixels[torch.as_tensor(list(idx), dtype=torch.long)]
        return some.to(torch.float32) / 255 if self.on_grid else some

    def labels_at(self, idx: Sequence[int]) -> list[int]:
        """Labels at `idx`, -1 where they are unknown."""
        return [-1 if self.labels is None else self.labels[i] for i in idx]

    def waves(self, idx: Sequence[int], size: int, device: torch.device) -> Iterator[Group]:
        """Images at `idx`, `size` at a time, on the device."""
        for first in range(0, len(idx), size):
            some = list(idx[first : first + size])
            pixels = self.pixels[torch.as_tensor(some, dtype=torch.long)]
            yield pixels.to(device), self.labels_at(some), some

    def digests(self, idx: Sequence[int]) -> list[str]:
        """16 hex digits for each image at `idx`; of floats over their bytes."""
        some = (self.pixels[torch.as_tensor(list(idx[at : at + 500]))] for at in range(0, len(idx), 500))
        each = pixel_digests if self.on_grid else _float_digests
        return [digest for part in some for digest in each(part)]

    def fingerprint(self) -> str:
        """16 hex digits over pixels, labels and names."""
        if isinstance(self.pixels, LazyPixels):
            return self.pixels.listing.digest(times=False)[:16]
        told = repr((tuple(self.pixels.shape), str(self.pixels.dtype), self.labels, self.classes))
        hasher = hashlib.sha256(told.encode())
        hasher.update(self.pixels.cpu().contiguous().numpy().data)
        return hasher.hexdigest()[:16]


def load_images(source: str | Path, split: str | None = None) -> Images:
    """Labelled images by the name of a data set (digits, cifar10, …) or from a folder.

    Of a folder of class folders all images are taken, of one with train/ and test/ the second, unless `split`
    ("train", "test", "all") says otherwise; PATH?size=64 scales the shorter side and crops, PATH?channels=1
    loads grey. Raises ValueError or FileNotFoundError with the remedy, as `data.load_images`.
    """
    found = _loaded(source, split)
    if found.classes == ("",):
        raise ValueError(
            f"load_images({str(source)!r}): the images lie in no class folders, so they have no labels; sort "
            "them into a folder per class, or give the folder itself to certify or predict, which need none"
        )
    return found


def as_pictures(call: str, images: Any, labels: Any = None, *, layout: str | None = None) -> Pictures:
    """`images` of any kind, with `labels` (N,) or those that the source has.

    Raises ValueError that says what came and what to do: for shapes that can be read in two ways (unless
    `layout` is "NCHW" or "NHWC"), numbers out of range, images of several sizes.
    """
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"{call}: got layout {layout!r}; wanted one of {', '.join(LAYOUTS)}, or none")
    if isinstance(images, Pictures):
        return images
    if isinstance(images, str | Path):
        images = _loaded(images, None)
    if isinstance(images, Images):
        own = None if images.classes == ("",) else tuple(images.labels.tolist())
        given = own if labels is None else _labels(call, labels, len(images))
        names = images.classes if own is not None and labels is None else None
        return Pictures(pixels=images.pixels, labels=given, classes=names, name=images.title)
    pixels = _pixels(call, images, layout)
    if not len(pixels):
        raise ValueError(f"{call}: got no images; wanted at least one")
    given = None if labels is None else _labels(call, labels, len(pixels))
    return Pictures(pixels=pixels, labels=given, classes=None, name="images")


def by_name(call: str, pictures: Pictures, names: Sequence[str]) -> Pictures:
    """`pictures` with labels that are places in `names`, where their source names its own classes.

    Raises ValueError for a class that `names` lacks, or holds twice.
    """
    own, names = pictures.classes, tuple(map(str, names))
    if own is None or own == names:
        return pictures
    if lacking := [name for name in own if names.count(name) != 1]:
        raise ValueError(
            f"{call}: the images have the class {lacking[0]!r}, which is not once among the classes "
            f"{', '.join(names[:6])}{', …' if len(names) > 6 else ''}; wanted the name of each output of the "
            "network, as the images have them"
        )
    places = [names.index(name) for name in own]
    labels = None if pictures.labels is None else tuple(places[label] for label in pictures.labels)
    return replace(pictures, labels=labels, classes=names)


def _loaded(source: str | Path, split: str | None) -> Images:
    text = str(source)
    path, _, query = text.removeprefix("folder:").partition("?")
    if not text.startswith("folder:") and not Path(path).expanduser().is_dir():
        if Path(path).is_file() or any(sign in text for sign in "/\\."):
            raise FileNotFoundError(
                f"load_images: {text} is no folder; wanted a folder of images, or a name such as digits"
            )
        return sets.load_images(text, split or "test")
    parts = {part for part in ("train", "test") if (Path(path).expanduser() / part).is_dir()}
    name = f"folder:{path}" + (f"?{query}" if query else "")
    return sets.load_images(name, split or ("test" if parts else "all"))


def _pixels(call: str, images: Any, layout: str | None) -> Tensor:
    if isinstance(images, Image.Image):
        images = [images]
    if isinstance(images, Sequence):
        layout = "NHWC" if any(isinstance(one, Image.Image) for one in images) else layout
        images = _stacked(call, images)
    if isinstance(images, np.ndarray):
        if images.dtype.kind not in "uifb":
            raise ValueError(f"{call}: got an array of {images.dtype}; {_KINDS}")
        images = torch.from_numpy(np.ascontiguousarray(images.astype(images.dtype.newbyteorder("="))))
    if not isinstance(images, Tensor):
        raise ValueError(
            f"{call}: got images of type {type(images).__name__}; {_KINDS}. Of a data set of pairs: "
            "certify(network, [image for image, _ in dataset], [label for _, label in dataset], …)"
        )
    return _in_range(call, _channels_first(call, images.detach(), layout))


_KINDS = (
    "wanted uint8 (N, C, H, W) or (N, H, W, C), floats in [0, 1] of such a shape, PIL images, a folder, or "
    "Images"
)


def _stacked(call: str, images: Sequence[Any]) -> Any:
    if not images:
        raise ValueError(f"{call}: got no images; wanted at least one")
    arrays = [_array(call, image) for image in images]
    shapes = sorted({tuple(array.shape) for array in arrays})
    if len(shapes) > 1:
        raise ValueError(
            f"{call}: got images of different shapes, such as {shapes[0]} and {shapes[-1]}; wanted one size "
            "and one number of channels: [image.convert('RGB').resize((64, 64)) for image in images]"
        )
    if len({array.dtype for array in arrays}) > 1:
        raise ValueError(f"{call}: got images of different kinds of numbers; {_KINDS}")
    return np.stack(arrays)


def _array(call: str, image: Any) -> Any:
    if isinstance(image, Image.Image):
        if image.mode[0] in "IF":
            raise ValueError(
                f"{call}: got a PIL image of mode {image.mode}, which has more than 8 bits per channel; "
                "convert it to 8 bits, or give floats in [0, 1]"
            )
        array = np.asarray(image if image.mode == "L" else image.convert("RGB"))
        return array[..., None] if array.ndim == 2 else array
    if isinstance(image, Tensor):
        return image.detach().cpu().numpy()
    if isinstance(image, np.ndarray):
        return image
    raise ValueError(f"{call}: got a list of {type(image).__name__}; {_KINDS}")


def _channels_first(call: str, x: Tensor, layout: str | None) -> Tensor:
    shape = tuple(x.shape)
    if x.ndim == 3:
        raise ValueError(
            f"{call}: got images {shape}, which may be one image or several grey ones; wanted four axes: "
            "images[None] for one image, images[:, None] for grey ones"
        )
    if x.ndim != 4:
        raise ValueError(f"{call}: got images {shape}; {_KINDS}")
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if layout is None and first == last:
        why = (
            "may have their channels first or last"
            if first
            else "have neither 1 nor 3 channels first or last"
        )
        raise ValueError(
            f'{call}: images {shape} {why}; say layout="NCHW" for (N, channels, height, width) or '
            'layout="NHWC" for (N, height, width, channels)'
        )
    at_end = layout == "NHWC" or (layout is None and last)
    return (x.permute(0, 3, 1, 2) if at_end else x).contiguous()


def _in_range(call: str, x: Tensor) -> Tensor:
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise ValueError(
            f"{call}: got images of {str(x.dtype).removeprefix('torch.')}; wanted uint8 or floats in [0, 1]: "
            "images.astype('uint8') where they run from 0 to 255, images / largest where they do not"
        )
    x = x.to(torch.float32)
    if not bool(x.isfinite().all()):
        raise ValueError(
            f"{call}: got images that hold NaN or infinity; wanted floats in [0, 1]: repair them"
        )
    low, high = (float(x.min()), float(x.max())) if x.numel() else (0.0, 0.0)
    if low < 0 or high > 1:
        remedy = (
            "are they normalised? Give the images as they were before, and put the normalisation into the "
            "network: lambda x: network((x - mean) / std)"
            if low < 0 or high < 30
            else "are they of 0 to 255? (images).round().astype('uint8') is certified on the 8-bit grid"
        )
        raise ValueError(f"{call}: got floats from {low:.3g} to {high:.3g}; wanted [0, 1]: {remedy}")
    return x


def _labels(call: str, labels: Any, count: int) -> tuple[int, ...]:
    array = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if array.shape != (count,):
        one_hot = array.ndim == 2 and len(array) == count
        remedy = "; of one-hot rows: labels.argmax(1)" if one_hot else ""
        raise ValueError(f"{call}: got labels {array.shape} for {count} images; wanted ({count},){remedy}")
    whole = array.dtype.kind in "iu" or (array.dtype.kind == "f" and bool((array == np.rint(array)).all()))
    if not whole:
        raise ValueError(
            f"{call}: got labels such as {array.tolist()[0]!r}; wanted whole numbers, the place of each "
            "class in the outputs of the network: [names.index(label) for label in labels]"
        )
    if count and array.min() < 0:
        raise ValueError(
            f"{call}: got the label {int(array.min())}; wanted classes from 0 on. Where labels are unknown, "
            "leave them out"
        )
    return tuple(int(label) for label in array.tolist())


def _float_digests(pixels: Tensor) -> list[str]:
    shape, each = repr(tuple(pixels.shape[1:])).encode(), pixels.cpu().contiguous().numpy()
    return [hashlib.sha256(b"float32" + shape + image.tobytes()).hexdigest()[:16] for image in each]
