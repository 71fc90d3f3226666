"""Images are checked, data sets come out as published, and every failure says what to do."""

import gzip
import hashlib
import importlib.util
import pickle
import tarfile
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from scipy.io import savemat
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision import datasets

from dualrs_lab.data import SPLITS, Images, as_floats, hold_out, load_images, to_float

PACK = Path(__file__).parents[3] / "shared" / "data" / "unpack_cifar10.py"


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALRS_CACHE", str(tmp_path / "decoded"))
    monkeypatch.setenv("DUALRS_DATA", str(tmp_path / "data"))


def some_images(**changes):
    values = {
        "pixels": torch.arange(4 * 3 * 2 * 5).reshape(4, 3, 2, 5).to(torch.uint8),
        "labels": torch.tensor([0, 1, 1, 0]),
        "classes": ("cat", "dog"),
        "name": "pets",
        "split": "train",
    }
    return Images(**values | changes)


# ---- Images


def test_images_describe_themselves():
    images = some_images()
    assert len(images) == 4
    assert images.shape == (3, 2, 5)
    assert repr(images) == "Images('pets', 'train', 4 of 3x2x5, 2 classes)"


@pytest.mark.parametrize(("count", "wanted"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2, 3]), (9, [0, 1, 2, 3])])
def test_images_are_spread_evenly_as_tables_skip_them(count, wanted):
    images = some_images()
    assert list(range(0, len(images), images.stride(count))) == wanted
    assert torch.equal(images.spread(count).pixels, images.pixels[wanted])


def test_no_images_cannot_be_spread():
    with pytest.raises(ValueError, match=r"stride: got 0; wanted at least one"):
        some_images().spread(0)


def test_held_out_images_and_the_rest_are_all_of_them_and_always_the_same():
    images = load_images("digits", "test")
    held, rest = hold_out(images, 50)
    assert (len(held), len(rest)) == (50, 450)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))  # as runs begun earlier have it
    assert held.fingerprint() == images.select(order[:50]).fingerprint()
    assert rest.fingerprint() == images.select(order[50:]).fingerprint()
    with pytest.raises(ValueError, match="got 500 of 500 images; wanted some, and some left"):
        hold_out(images, 500)


def test_all_images_come_as_floats_with_their_labels():
    x, y = as_floats(some_images())
    assert torch.equal(x, some_images().pixels / 255)
    assert y.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"pixels": torch.rand(4, 3, 2, 5)},
            r"uint8 \(N, C, H, W\), got torch.float32 \(4, 3, 2, 5\); multiply",
        ),
        ({"pixels": torch.zeros(4, 2, 5, dtype=torch.uint8)}, r"got torch.uint8 \(4, 2, 5\)"),
        ({"labels": torch.tensor([0, 1, 1])}, r"int64 \(4,\), one per image, got torch.int64 \(3,\)"),
        ({"labels": torch.tensor([0, 1, 1, 0], dtype=torch.uint8)}, r"got torch.uint8 \(4,\); convert"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, "run from 0 to 2, but there are 2 classes"),
        ({"labels": torch.tensor([0, -1, 1, 0])}, "run from -1 to 1, but there are 2 classes"),
        ({"labels": torch.zeros(4, dtype=torch.int64, device="meta")}, "pixels are on cpu, labels on meta"),
    ],
)
def test_images_refuse_what_does_not_fit(changes, text):
    with pytest.raises(ValueError, match=text):
        some_images(**changes)


def test_images_are_frozen_and_keyword_only():
    with pytest.raises(AttributeError):
        some_images().name = "other"
    with pytest.raises(TypeError):
        Images(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    "indices",
    [
        [2, 0, -1],
        (2, 0, 3),
        torch.tensor([2, 0, 3]),
        np.array([2, 0, 3]),
        torch.tensor([2, 0, 3], dtype=torch.int32),
    ],
)
def test_select_and_batch_keep_the_order_asked_for(indices):
    images = some_images()
    pixels, labels = images.batch(indices)
    assert torch.equal(pixels, images.pixels[[2, 0, 3]])
    assert labels.tolist() == [1, 0, 0]
    chosen = images.select(indices)
    assert torch.equal(chosen.pixels, pixels)
    assert torch.equal(chosen.labels, labels)
    assert (chosen.classes, chosen.name, chosen.split) == (images.classes, images.name, images.split)


def test_select_by_mask_range_and_nothing():
    images = some_images()
    assert images.select(images.labels == 1).labels.tolist() == [1, 1]
    assert images.select(np.array([True, False, False, False])).labels.tolist() == [0]
    assert images.select([False, True, False, False]).labels.tolist() == [1]
    assert images.select(range(0, 4, 2)).labels.tolist() == [0, 1]
    assert images.select([]).pixels.shape == (0, 3, 2, 5)
    with pytest.raises(IndexError):
        images.select([4])


def test_fingerprint_sees_every_part_and_nothing_else():
    images = some_images()
    pixels = images.pixels.clone()
    pixels[3, 2, 1, 4] += 1
    others = [
        some_images(pixels=pixels),
        some_images(labels=torch.tensor([0, 1, 0, 0])),
        some_images(classes=("cat", "cow")),
        some_images(pixels=images.pixels.reshape(4, 3, 5, 2)),
        images.select([1, 0, 2, 3]),
    ]
    assert images.fingerprint() == some_images(name="renamed", split="test").fingerprint()
    assert len({one.fingerprint() for one in [images, *others]}) == 6
    # a view laid out differently in memory holds the same images
    turned = images.pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert some_images(pixels=turned).fingerprint() == images.fingerprint()


def test_to_moves_pixels_and_labels():
    moved = some_images().to(torch.device("cpu"))
    assert moved.fingerprint() == some_images().fingerprint()


@pytest.mark.gpu
def test_batches_come_from_the_device_of_the_images():
    images = some_images().to("cuda")
    pixels, labels = images.batch(torch.tensor([2, 0]))
    assert pixels.is_cuda
    assert labels.is_cuda
    assert images.fingerprint() == some_images().fingerprint()
    assert torch.equal(pixels.cpu(), some_images().batch([2, 0])[0])


def test_to_float_is_the_unit_interval():
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_float(every.reshape(4, 1, 8, 8))
    assert floats.dtype == torch.float32
    assert floats.shape == (4, 1, 8, 8)
    assert torch.equal(floats.flatten(), torch.arange(256, dtype=torch.float32) / 255)
    with pytest.raises(ValueError, match=r"to_float: wanted uint8 pixels, got torch.float32"):
        to_float(floats)


# ---- names


@pytest.mark.parametrize("name", ["cifar", "folder", "folder:", "digits:x", ""])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(ValueError, match=r"no such data set; choose from digits, cifar10, .*, folder:PATH"):
        load_images(name, "train")


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match=r"load_images\('digits', 'val'\): split must be"):
        load_images("digits", "val")


@pytest.mark.parametrize(
    "query", ["size=0", "size=-3", "size=a", "grey=1", "channels=2", "channels=1&size=8"]
)
def test_unknown_folder_options_are_refused(query, tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the options .*; wanted \?size=32"):
        load_images(f"folder:{tmp_path}?{query}", "train")


# ---- digits


def test_digits_are_all_there_once_and_stratified():
    train, test = (load_images("digits", split) for split in SPLITS)
    assert (len(train), len(test)) == (1297, 500)
    assert train.shape == test.shape == (1, 8, 8)
    assert train.classes == tuple("0123456789")
    bunch = load_digits()

    def rows(pixels, labels):
        return [(*row, label) for row, label in zip(pixels, labels.tolist(), strict=True)]

    scaled = [[int(v * 255 / 16 + 0.5) for v in image] for image in bunch.data]
    ours = [row for part in (train, test) for row in rows(part.pixels.flatten(1).tolist(), part.labels)]
    assert sorted(ours) == sorted(rows(scaled, bunch.target))
    share = test.labels.bincount() / torch.tensor(bunch.target).bincount()
    assert (share - 500 / 1797).abs().max() < 0.01
    by_sklearn = train_test_split(range(1797), test_size=500, random_state=0, stratify=bunch.target)[1]
    assert (test.pixels.flatten(1).numpy() == np.array(scaled)[sorted(by_sklearn)]).all()


def test_digits_are_the_same_everywhere():
    """The split is part of every published number: pinned, and deaf to the global seeds."""
    seen = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = np.random.get_state()[1].tolist()  # noqa: NPY002
        seen.append([load_images("digits", split).fingerprint() for split in SPLITS])
        assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert seen == [["4e331bda7d7eaf93", "526ab26aa0839e1f"]] * 2


# ---- torchvision's readers, on small files in the published formats


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder and the address at which this machine serves it to itself."""
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setenv("NO_PROXY", "*")
    handler = partial(Quiet, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def old_pickle(path, value):
    """As Python 2 wrote the CIFAR files: protocol 2, NumPy's old module, dtype flags as integers."""
    data = pickle.dumps(value, protocol=2)
    for new, old in ((b"\x89\x88\x87", b"K\x00K\x01\x87"), (b"numpy._core.", b"numpy.core.")):
        assert (new in data or old in data) == ("data" in value)
        data = data.replace(new, old)
    path.write_bytes(data)


def cifar_files(folder, address, maker, monkeypatch, *, labels_key, names_key, names):
    """An archive of one tiny CIFAR, its checksums in place of the published ones; returns pixels by split."""
    rng = np.random.default_rng(0)
    work = folder / maker.base_folder
    work.mkdir(parents=True)
    made = {}
    for split, listed in (("train", maker.train_list), ("test", maker.test_list)):
        parts = []
        for file, _ in listed:
            rows = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
            old_pickle(work / file, {"data": rows, labels_key: [0, 1, 2, 1]})
            parts.append(rows)
        made[split] = np.concatenate(parts).reshape(-1, 3, 32, 32)
    old_pickle(work / maker.meta["filename"], {names_key: names})
    archive = folder / maker.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(work, maker.base_folder)
    for attribute in ("train_list", "test_list"):
        listed = [[file, md5(work / file)] for file, _ in getattr(maker, attribute)]
        monkeypatch.setattr(maker, attribute, listed)
    monkeypatch.setattr(maker, "meta", maker.meta | {"md5": md5(work / maker.meta["filename"])})
    monkeypatch.setattr(maker, "tgz_md5", md5(archive))
    monkeypatch.setattr(maker, "url", f"{address}/{archive.name}")
    return made


@pytest.mark.parametrize(
    ("name", "maker", "labels_key", "names_key", "count"),
    [
        ("cifar10", datasets.CIFAR10, "labels", "label_names", 20),
        ("cifar100", datasets.CIFAR100, "fine_labels", "fine_label_names", 4),
    ],
)
def test_cifar_is_downloaded_and_read(name, maker, labels_key, names_key, count, server, monkeypatch):
    source, address = server
    names = ["airplane", "bird", "cat"]
    keys = {"labels_key": labels_key, "names_key": names_key, "names": names}
    made = cifar_files(source, address, maker, monkeypatch, **keys)
    train = load_images(name, "train")
    assert np.array_equal(train.pixels.numpy(), made["train"])
    assert train.labels.tolist() == [0, 1, 2, 1] * (count // 4)
    assert train.classes == tuple(names)
    monkeypatch.setattr(maker, "url", "file:///nowhere")  # what is whole on disk is not fetched again
    assert np.array_equal(load_images(name, "test").pixels.numpy(), made["test"])
    assert np.array_equal(load_images(name, "test", root=source).pixels.numpy(), made["test"])


def test_svhn_is_downloaded_and_read(server, monkeypatch):
    folder, address = server
    source = folder / "test_32x32.mat"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    savemat(source, {"X": pixels, "y": np.array([[10], [1], [2], [9], [10]], dtype=np.uint8)})
    entry = [f"{address}/{source.name}", source.name, md5(source)]
    monkeypatch.setattr(datasets.SVHN, "split_list", datasets.SVHN.split_list | {"test": entry})
    images = load_images("svhn", "test")
    assert np.array_equal(images.pixels.numpy(), pixels.transpose(3, 2, 0, 1))
    assert images.labels.tolist() == [0, 1, 2, 9, 0]  # the file says 10 for the digit 0
    assert images.classes == tuple("0123456789")


def fashion_files(folder, count):
    """MNIST's idx format: type and rank, big-endian sizes, bytes."""
    rng = np.random.default_rng(0)
    made = {}
    for prefix in ("train", "t10k"):
        made[prefix] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        sizes = np.array([count, 28, 28], dtype=">i4").tobytes()
        labels = np.arange(count, dtype=np.uint8).tobytes()
        files = {
            "images-idx3-ubyte": b"\0\0\x08\x03" + sizes + made[prefix].tobytes(),
            "labels-idx1-ubyte": b"\0\0\x08\x01" + sizes[:4] + labels,
        }
        for suffix, data in files.items():
            (folder / f"{prefix}-{suffix}.gz").write_bytes(gzip.compress(data))
    return made


def test_fashion_mnist_is_downloaded_and_read(server, tmp_path, monkeypatch):
    folder, address = server
    made = fashion_files(folder, 7)
    resources = [(file, md5(folder / file)) for file, _ in datasets.FashionMNIST.resources]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"{address}/"])
    train, test = (load_images("fashion_mnist", split) for split in SPLITS)
    assert np.array_equal(train.pixels.numpy()[:, 0], made["train"])
    assert np.array_equal(test.pixels.numpy()[:, 0], made["t10k"])
    assert train.shape == (1, 28, 28)
    assert train.labels.tolist() == list(range(7))
    assert train.classes[:2] == ("T-shirt/top", "Trouser")

    damaged = tmp_path / "data" / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with pytest.raises(FileNotFoundError, match=r"FashionMNIST is not whole in .* in place of damaged ones"):
        load_images("fashion_mnist", "test")


@pytest.mark.parametrize(
    ("name", "maker", "attribute", "value"),
    [
        ("cifar10", datasets.CIFAR10, "url", "file:///nowhere/cifar-10-python.tar.gz"),
        ("cifar100", datasets.CIFAR100, "url", "file:///nowhere/cifar-100-python.tar.gz"),
        ("svhn", datasets.SVHN, "split_list", {"train": ["file:///nowhere/a.mat", "a.mat", "0" * 32]}),
        ("fashion_mnist", datasets.FashionMNIST, "mirrors", ["file:///nowhere/"]),
    ],
)
def test_a_failed_download_says_what_to_do(name, maker, attribute, value, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(maker, attribute, value)
    with pytest.raises(FileNotFoundError) as caught:
        load_images(name, "train")
    text = str(caught.value)
    assert text.startswith(
        f"load_images('{name}', 'train'): {maker.__name__} is not whole in {tmp_path / 'data'}"
    )
    assert "connect to the network" in text
    assert "DUALRS_DATA" in text


# ---- the real thing


@pytest.mark.slow
@pytest.mark.skipif(not PACK.exists(), reason="the CIFAR-10 pack is not at ../shared/data")
def test_sixty_thousand_jpegs_load_within_a_minute_then_two_seconds(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("unpack_cifar10", PACK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["unpack", str(tmp_path / "cifar")])
    module.main()
    seconds, prints = [], []
    for _ in range(2):
        start = time.perf_counter()
        train, test = (load_images(f"folder:{tmp_path / 'cifar'}", split) for split in SPLITS)
        seconds.append(time.perf_counter() - start)
        prints.append((train.fingerprint(), test.fingerprint()))
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    assert train.shape == test.shape == (3, 32, 32)
    assert train.classes[:2] == ("airplane", "automobile")
    assert prints[0] == prints[1]
    assert seconds[0] < 60
    assert seconds[1] < 2
