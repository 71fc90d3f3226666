"""Images from strangers: nothing but decoding happens, nothing hangs, nothing is taken for what it is not."""

import os
import signal
import socket
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from dualrs_lab.data import MOST_PIXELS, Fit, LazyPixels, Listing, decoding, load_images


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DUALRS_CACHE", str(tmp_path / "decoded"))
    return tmp_path / "decoded"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of good images; the tests put a bad one beside them."""
    for split in ("train", "test"):
        for label in ("a", "b"):
            place = tmp_path / "images" / split / label
            place.mkdir(parents=True)
            Image.new("RGB", (4, 4), (1, 2, 3)).save(place / "good.png")
    return tmp_path / "images"


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """An error in place of a test that hangs."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refused(folder: Path, *texts: str, query: str = "") -> None:
    """Loading names the folder and says these texts; it takes seconds at most."""
    with within(20), pytest.raises(ValueError, match="load_images") as caught:
        load_images(f"folder:{folder}{query}", "train")
    for text in texts:
        assert text in str(caught.value)


# ---- formats


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.ppm"])
def test_no_other_program_is_started_for_an_image(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **_: started.append(given))
    (folder / "train" / "a" / name).write_bytes(EPS)
    refused(folder, f"{name} is no readable image (it begins as no BMP, JPEG, PNG")
    assert started == []


@pytest.mark.parametrize("kind", ["GIF", "ICO", "TGA", "PCX", "DDS", "SGI", "MSP"])
def test_formats_that_are_not_listed_are_refused_whatever_the_file_is_called(folder: Path, kind: str) -> None:
    image = Image.new("1" if kind == "MSP" else "RGB", (4, 4))
    image.save(folder / "train" / "a" / "x.png", format=kind)
    refused(folder, "x.png is no readable image")


@pytest.mark.parametrize(
    ("name", "kind"),
    [(f"x.{suffix}", kind) for suffix in ("png", "webp")
     for kind in ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "MPO")],
)  # fmt: skip
def test_formats_that_are_listed_are_read_as_pillow_reads_them(folder: Path, name: str, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path = folder / "train" / "a" / name
    Image.fromarray(pixels).save(path, format=kind)
    read = load_images(f"folder:{folder}", "train").pixels
    wanted = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)
    assert any(torch.equal(image, wanted) for image in read)


# ---- sizes


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    """A PNG of this header; its pixels are `rows`, filtered lines."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(width: int, height: int, bits: int, pixels: bytes = b"") -> bytes:
    """A little-endian, uncompressed RGB TIFF."""
    # tag, type (3: 16 bits, 4: 32 bits), count, value or where it is
    end = 8 + 2 + 9 * 12 + 4
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, end), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, end + 6), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    listed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + listed + struct.pack("<I", 0)
    return head + struct.pack("<HHH", bits, bits, bits) + pixels


BOMBS = {
    "warned.png": png(10_000, 10_000),
    "refused.png": png(100_000, 100_000),
    "wide.png": png(2**31 - 1, 1),
    "grey.png": png(60_000, 60_000, depth=1, colour=0),
    "bomb.tif": tiff(40_000, 40_000, 8),
    "bomb.ppm": b"P6 40000 40000 255\n",
    "bomb.pgm": b"P5 40000 40000 255\n",
    "bomb.bmp": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 40_000, 40_000, 1, 24, 0, 0, 0, 0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("query", ["", "?size=4"])
def test_a_small_file_with_many_pixels_is_not_decoded(folder: Path, name: str, query: str) -> None:
    (folder / "train" / "a" / name).write_bytes(BOMBS[name])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        refused(
            folder,
            f"{name} is no readable image",
            f"{MOST_PIXELS:,} are the most that is decoded",
            query=query,
        )
    assert told == []


# ---- depth


DEEP = {
    "rgb.png": png(4, 4, depth=16, rows=(b"\0" + b"\x12\x34" * 12) * 4),
    "rgba.png": png(4, 4, depth=16, colour=6, rows=(b"\0" + b"\x12\x34" * 16) * 4),
    "la.png": png(4, 4, depth=16, colour=4, rows=(b"\0" + b"\x12\x34" * 8) * 4),
    "grey.png": png(4, 4, depth=16, colour=0, rows=(b"\0" + b"\x12\x34" * 4) * 4),
    "rgb.tif": tiff(4, 4, 16, b"\x12\x34" * 48),
    "rgb.ppm": b"P6 4 4 65535\n" + b"\x12\x34" * 48,
    "short.ppm": b"P6 4 4 1023\n" + b"\x02\x34" * 48,
    "text.ppm": b"P3 4 4 1023\n" + b" 700" * 48,
    "grey.pgm": b"P5 4 4 1023\n" + b"\x02\x34" * 16,
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_eight_bits_a_channel_are_refused_in_colour_too(folder: Path, name: str) -> None:
    (folder / "train" / "a" / name).write_bytes(DEEP[name])
    refused(folder, f"{name} is no readable image", "more than 8 bits per channel, convert it to 8 bits")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rgb.png", png(4, 4, rows=(b"\0" + b"\x12" * 12) * 4)),
        ("rgb.tif", tiff(4, 4, 8, b"\x12" * 48)),
        ("rgb.ppm", b"P6 4 4 255\n" + b"\x12" * 48),
    ],
)
def test_eight_bits_made_by_hand_as_those_above_are_read(folder: Path, name: str, data: bytes) -> None:
    (folder / "train" / "a" / name).write_bytes(data)
    assert (load_images(f"folder:{folder}", "train").pixels == 0x12).flatten(1).all(1).any()


# ---- what is no file


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket has at most 107 characters
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


ODD: dict[str, Callable[[Path], object]] = {
    "pipe": lambda path: os.mkfifo(path),
    "socket": a_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "circle": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nothing"),
    "pipe behind a link": lambda path: (os.mkfifo(path.with_suffix("")), path.symlink_to(path.stem)),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("query", ["", "?size=4"])
def test_what_is_no_regular_file_is_named_and_nothing_hangs(folder: Path, kind: str, query: str) -> None:
    ODD[kind](folder / "train" / "a" / "odd.png")
    refused(folder, "train/a/odd.png", "remove it", query=query)


@pytest.mark.parametrize("kind", ODD)
def test_images_on_demand_are_as_careful(tmp_path: Path, kind: str) -> None:
    ODD[kind](tmp_path / "odd.png")
    fit = Fit(resize=4, crop=4)
    listing = Listing(
        base=tmp_path, files=("odd.png",), labels=(0,), classes=("a",), reference="odd.png", fit=fit
    )
    with within(20), pytest.raises(ValueError, match=r"odd\.png"):
        LazyPixels(listing)[0]


def test_a_link_to_a_good_image_is_that_image(folder: Path) -> None:
    (folder / "train" / "a" / "link.png").symlink_to(folder / "test" / "b" / "good.png")
    assert len(load_images(f"folder:{folder}", "train")) == 3


def test_a_circle_of_folders_is_named(folder: Path) -> None:
    (folder / "train" / "around").symlink_to("around")
    refused(folder, "train/around", "check the path")
    (folder.parent / "self").symlink_to("self")
    with pytest.raises(FileNotFoundError, match=r"no folder .*self"):
        load_images(f"folder:{folder.parent / 'self'}", "train")


@pytest.mark.parametrize("where", ["train/a/\udcff.png", "train/\udcff", "\udcff"])
def test_a_name_that_is_no_text_is_named(folder: Path, where: str) -> None:
    if where.endswith(".png"):
        (folder / where).write_bytes((folder / "train" / "a" / "good.png").read_bytes())
    else:
        (folder / where).mkdir()
    refused(folder, "'\\udcff", "a name that is not UTF-8; rename it")


def test_the_home_of_nobody_is_a_folder_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*~no_such_person/images"):
        load_images("folder:~no_such_person/images", "train")


# ---- the cache


@pytest.mark.parametrize("kind", ["a file", "below a file", "of a device", "taken by a folder"])
def test_images_are_decoded_without_a_cache_that_cannot_be_written(
    folder: Path, own_cache: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = load_images(f"folder:{folder}", "train").pixels
    (cache,) = own_cache.iterdir()
    cache.unlink()
    if kind == "taken by a folder":
        (cache / "of mine").mkdir(parents=True)
    else:
        own_cache.rmdir()
        own_cache.write_text("mine")
        below = {
            "a file": own_cache,
            "below a file": own_cache / "deeper",
            "of a device": Path("/dev/null/x"),
        }
        monkeypatch.setenv("DUALRS_CACHE", str(below[kind]))
    with pytest.warns(UserWarning, match=r"cannot be kept as .*; set \$DUALRS_CACHE to a folder with room"):
        assert torch.equal(load_images(f"folder:{folder}", "train").pixels, wanted)
    assert cache.is_dir() if kind == "taken by a folder" else own_cache.read_text() == "mine"


def test_a_full_disk_costs_the_cache_alone(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoding, "save_file", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert len(load_images(f"folder:{folder}", "train")) == 2
    assert list(own_cache.iterdir()) == []


def test_a_pipe_in_place_of_the_cache_is_replaced(folder: Path, own_cache: Path) -> None:
    load_images(f"folder:{folder}", "train")
    (cache,) = own_cache.iterdir()
    cache.unlink()
    os.mkfifo(cache)
    with within(20):
        assert len(load_images(f"folder:{folder}", "train")) == 2
    assert cache.is_file()
