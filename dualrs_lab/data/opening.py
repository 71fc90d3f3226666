"""One image file, opened without trust: a regular file, in a format of this list, of a bearable size.

Left to itself, Pillow tries every format that it knows, whatever a file is called, and hands some of them to
other programs (EPS to Ghostscript). Here the first bytes choose one reader, and each of these only decodes.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

__all__ = ["MOST_PIXELS", "open_image", "regular"]


MOST_PIXELS = 50_000_000
"""Width times height of the largest image that is decoded: a file of kilobytes can claim gigabytes."""


_READERS: dict[bytes, type[ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"BM": BmpImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"RIFF": WebPImageFile,
    **{b"P%d" % kind: PpmImageFile for kind in range(1, 7)},
}


_BITS_PER_SAMPLE = 258  # the tag of TIFF


def regular(path: str) -> os.stat_result:
    """What the system says of the file at `path`; ValueError where it is a device, a pipe, a folder, …"""
    try:
        found = os.stat(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); replace or remove it") from error
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is no regular file, as images are; remove it")
    return found


@contextmanager
def open_image(path: str) -> Iterator[ImageFile]:
    """The image at `path`, not decoded yet.

    Raises ValueError where it is no regular file, of a format that is not read here, has more than
    `MOST_PIXELS`, or more than 8 bits per channel; and whatever Pillow raises for damaged files.
    """
    with _open(path) as file:
        head = file.read(8)
        file.seek(0)
        reader = next((reader for start, reader in _READERS.items() if head.startswith(start)), None)
        if reader is None:
            raise ValueError("it begins as no BMP, JPEG, PNG, PGM, PPM, TIFF or WebP does")
        with reader(file) as image:
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.width}x{image.height}"
                raise ValueError(f"{size} pixels, {MOST_PIXELS:,} are the most that is decoded")
            if _deep(image):
                raise ValueError(f"mode {image.mode} has more than 8 bits per channel, convert it to 8 bits")
            yield image


def _open(path: str) -> BinaryIO:
    regular(path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that took its place would wait for a writer
    file = os.fdopen(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise ValueError("no regular file, as images are")
    return file


def _deep(image: ImageFile) -> bool:
    # Pillow itself says so of grey images alone; of 16-bit colour it would keep the upper half
    if image.mode[0] in "IF":
        return True
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))
        return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)
    arguments = image.tile[0][3] if image.tile else ""
    if isinstance(image, PpmImageFile):
        return isinstance(arguments, tuple) and arguments[-1] > 255
    return isinstance(image, PngImageFile) and ";16" in str(arguments)
