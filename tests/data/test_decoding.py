"""The cache never gives other pixels than the files; every kind of file becomes the same kind of pixels."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from dualrs_lab.data import Fit, LazyPixels, Listing, decoding, load_images


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALRS_CACHE", str(tmp_path / "decoded"))
    return tmp_path / "decoded"


def save(path, value, size=(4, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def pets(tmp_path):
    for i, name in enumerate(
        ("train/a/0.png", "train/a/1.png", "train/b/0.png", "test/a/0.png", "test/b/0.png")
    ):
        save(tmp_path / "pets" / name, (i, 0, 0))
    return tmp_path / "pets"


def reds(path, split="train"):
    return load_images(f"folder:{path}", split).pixels[:, 0, 0, 0].tolist()


@pytest.fixture
def decodes(monkeypatch):
    """How many times images were decoded rather than read from the cache."""
    count, decode = [], decoding._decode

    def counting(*args, **kwargs):
        count.append(1)
        return decode(*args, **kwargs)

    monkeypatch.setattr(decoding, "_decode", counting)
    return count


# ---- the cache


def test_the_second_load_reads_the_cache(pets, decodes, own_cache, capfd):
    first, second = (load_images(f"folder:{pets}", "train") for _ in range(2))
    assert len(decodes) == 1
    assert first.fingerprint() == second.fingerprint()
    assert len(list(own_cache.iterdir())) == 1
    assert capfd.readouterr().err == ""  # no progress bar where nobody watches


def test_every_split_and_fit_has_its_own_cache(pets, decodes, own_cache):
    for _ in range(2):
        assert reds(pets) == [0, 1, 2]
        assert reds(pets, "test") == [3, 4]
        assert load_images(f"folder:{pets}?size=2", "train").shape == (3, 2, 2)
        assert load_images(f"folder:{pets}?channels=1", "train").shape == (1, 4, 4)
    assert len(decodes) == len(list(own_cache.iterdir())) == 4


def edit(path):
    """Same size in bytes, other pixels, later."""
    size, time = path.stat().st_size, path.stat().st_mtime_ns
    save(path, (77, 0, 0))
    assert path.stat().st_size == size
    os.utime(path, ns=(time + 1, time + 1))


@pytest.mark.parametrize(
    ("change", "want"),
    [
        (lambda path: edit(path / "train/a/1.png"), [0, 77, 2]),
        (lambda path: (path / "train/a/1.png").unlink(), [0, 2]),
        (lambda path: save(path / "train/b/9.png", (9, 0, 0)), [0, 1, 2, 9]),
        (lambda path: (path / "train/a/0.png").rename(path / "train/a/2.png"), [1, 0, 2]),
    ],
)
def test_an_edited_folder_is_decoded_again(pets, decodes, own_cache, change, want):
    reds(pets)
    change(pets)
    assert reds(pets) == want
    assert reds(pets) == want
    assert len(decodes) == 2
    assert len(list(own_cache.iterdir())) == 1  # the outdated pixels are replaced, not kept


def flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "damage", [flip, lambda data: data[:-1], lambda data: data[:50], lambda data: b"", lambda data: b"x" * 99]
)
def test_a_damaged_cache_is_noticed_and_rebuilt(pets, decodes, own_cache, damage):
    reds(pets)
    (cache,) = own_cache.iterdir()
    whole = cache.read_bytes()
    cache.write_bytes(damage(whole))
    assert reds(pets) == [0, 1, 2]
    assert len(decodes) == 2
    assert reds(pets) == [0, 1, 2]
    assert len(decodes) == 2


def test_a_kill_while_writing_leaves_no_cache(pets, own_cache, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            reds(pets)
    assert list(own_cache.iterdir()) == []
    assert reds(pets) == [0, 1, 2]


def test_loading_at_the_same_time_is_safe(pets):
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(reds, [pets] * 8)) == [[0, 1, 2]] * 8


def test_loaded_pixels_may_be_changed_without_changing_the_cache(pets):
    load_images(f"folder:{pets}", "train")
    load_images(f"folder:{pets}", "train").pixels.fill_(9)
    assert reds(pets) == [0, 1, 2]


# ---- many files


def test_files_beyond_one_chunk_keep_their_places(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_CHUNK", 3)
    for i in range(20):
        save(tmp_path / "many" / "train" / "a" / f"{i:02d}.png", (i, 0, 0))
    save(tmp_path / "many" / "test" / "a" / "0.png", (0, 0, 0))
    assert reds(tmp_path / "many") == list(range(20))


def fails(path, split, *texts):
    with pytest.raises(ValueError, match="load_images") as caught:
        load_images(f"folder:{path}", split)
    assert str(caught.value).startswith(f"load_images('folder:{path}', '{split}'): ")
    for text in texts:
        assert text in str(caught.value)


def test_the_first_two_files_that_differ_in_size_are_named(pets, monkeypatch):
    monkeypatch.setattr(decoding, "_CHUNK", 1)
    for i in range(2, 40):
        save(pets / "train" / "a" / f"{i:02d}.png", (0, 0, 0), size=(4, 4) if i < 30 else (5, 3))
    text = f"{pets}/train/a/0.png is 4x4 pixels, {pets}/train/a/30.png is 5x3; resize the files, or"
    fails(pets, "train", text, "folder:PATH?size=4")


def test_a_test_split_of_another_size_is_refused_even_when_cached(pets):
    reds(pets, "test")
    for file in pets.glob("train/*/*"):
        save(file, (0, 0, 0), size=(8, 8))
    text = f"{pets}/train/a/0.png is 8x8 pixels, {pets}/test/a/0.png is 4x4"
    fails(pets, "test", text)
    assert load_images(f"folder:{pets}?size=4", "train").shape == (3, 4, 4)


# ---- file formats


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"<html>not found</html>"]
)
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_a_file_that_cannot_be_decoded_is_named(pets, damage, suffix):
    bad = pets / "train" / "a" / f"bad.{suffix}"
    save(bad, (1, 2, 3), size=(4, 4))
    bad.write_bytes(damage(bad.read_bytes()))
    fails(pets, "train", f"{bad} is no readable image (", "replace or remove the file")


def only_image(tmp_path, image, name="x.png", query="", **options):
    for split in ("train", "test"):
        (tmp_path / "one" / split / "a").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "one" / split / "a" / name, **options)
    pixels = load_images(f"folder:{tmp_path / 'one'}{query}", "train").pixels
    return pixels[0, :, 0, 0].tolist()


def palette(**info):
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.info |= info
    return image


@pytest.mark.parametrize(
    ("image", "want"),
    [
        (Image.new("L", (2, 2), 7), [7, 7, 7]),
        (Image.new("1", (2, 2), 1), [255, 255, 255]),
        (palette(), [10, 20, 30]),
        (palette(transparency=1), [255, 255, 255]),
        (palette(transparency=b"\xff\x00"), [255, 255, 255]),
        (palette(transparency=0), [10, 20, 30]),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), [10, 20, 30]),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), [255, 255, 255]),
        (Image.new("RGBA", (2, 2), (0, 100, 200, 51)), [204, 224, 244]),
        (Image.new("LA", (2, 2), (0, 0)), [255, 255, 255]),
        (Image.new("LA", (2, 2), (9, 255)), [9, 9, 9]),
    ],
)
def test_every_mode_becomes_rgb_and_transparency_white(tmp_path, image, want):
    assert only_image(tmp_path, image) == want


def test_cmyk_becomes_rgb(tmp_path):
    assert only_image(tmp_path, Image.new("CMYK", (2, 2), (0, 0, 0, 0)), name="x.jpg") == [255, 255, 255]


def test_grey_on_request_is_luma(tmp_path):
    assert only_image(tmp_path, Image.new("RGB", (2, 2), (0, 255, 0)), query="?channels=1") == [150]


@pytest.mark.parametrize(("mode", "name"), [("I;16", "x.png"), ("I", "x.tif"), ("F", "x.tif")])
def test_deep_images_are_refused_rather_than_clipped(tmp_path, mode, name):
    with pytest.raises(ValueError, match=r"more than 8 bits per channel, convert it to 8 bits"):
        only_image(tmp_path, Image.new(mode, (2, 2), 300), name=name)


# ---- lazy pixels


def lazy(tmp_path, fit):
    for i in range(3):
        save(tmp_path / f"{i}.png", (i, 0, 0))
    files = tuple(f"{i}.png" for i in range(3))
    return LazyPixels(
        Listing(base=tmp_path, files=files, labels=(0, 0, 0), classes=("a",), reference="0.png", fit=fit)
    )


def test_lazy_pixels_index_like_a_tensor(tmp_path):
    pixels = lazy(tmp_path, Fit(resize=4, crop=2))
    whole = pixels[:]
    assert whole[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert pixels.shape == whole.shape == (3, 3, 2, 2)
    assert pixels.dtype == whole.dtype
    indices = [
        0,
        -1,
        [1],
        [],
        slice(2, 0),
        torch.tensor(1),
        np.array([2, 2]),
        torch.tensor([True, False, True]),
    ]
    for index in indices:
        same = torch.tensor(index, dtype=torch.int64) if isinstance(index, list) else index
        assert torch.equal(pixels[index], whole[same]), index
    for index in (3, -4, [0, 3]):
        with pytest.raises(IndexError):
            pixels[index]


def test_lazy_pixels_need_a_size_in_advance(tmp_path):
    with pytest.raises(ValueError, match="give a Fit with a crop"):
        lazy(tmp_path, Fit())


@pytest.mark.gpu
def test_lazy_pixels_arrive_on_their_device(tmp_path):
    pixels = lazy(tmp_path, Fit(resize=2, crop=2)).to("cuda")
    assert pixels[torch.tensor([1], device="cuda")].is_cuda
    assert pixels.select(torch.tensor([1], device="cuda")).device.type == "cuda"
