"""The pictures that ship, and the rows of shipped tables that speak of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dualrs_lab.data import Pictures, shipped_pictures
from dualrs_lab.evidence import read_table

DATA = Path(__file__).parents[2] / "data"
PACK = Path(__file__).parents[3] / "shared" / "data" / "cifar10_jpeg.npz"
TABLES = [*sorted(DATA.glob("cifar10_*/*_n10000.tsv")), DATA / "cifar10_systems" / "dual.tsv"]


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return shipped_pictures(DATA)


def test_there_are_twenty_of_each_class_by_place(pictures: Pictures) -> None:
    assert len(pictures.images) == 200
    assert pictures.images.shape == (3, 32, 32)
    assert np.bincount(pictures.images.labels).tolist() == [20] * 10
    assert pictures.images.classes[6] == "frog"
    assert [place // 1000 for place in pictures.places] == pictures.images.labels.tolist()


def test_they_are_images_of_the_test_set_unchanged(pictures: Pictures, tmp_path: Path) -> None:
    if not PACK.exists():
        pytest.skip("the images of CIFAR-10 are not there")
    with np.load(PACK) as pack:
        header, scans, ends = pack["header"].tobytes(), pack["scans"].tobytes(), pack["offsets"]
        labels, names, first = pack["labels"], pack["names"], int(pack["num_train"])
        test = sorted(range(first, len(labels)), key=lambda i: (labels[i], names[i]))
        for k in (0, 57, 199):
            file, i = tmp_path / f"{k}.jpg", test[pictures.places[k]]
            file.write_bytes(header + scans[ends[i] : ends[i + 1]])
            with Image.open(file) as image:
                whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            assert torch.equal(pictures.images.pixels[k], whole)


@pytest.mark.parametrize("path", TABLES, ids=[path.stem for path in TABLES])
def test_every_table_speaks_of_them(pictures: Pictures, path: Path) -> None:
    found = pictures.rows(read_table(path))
    assert found["idx"].tolist() == list(pictures.places)


def test_a_table_of_others_is_refused(pictures: Pictures) -> None:
    some = pd.DataFrame({"idx": pictures.places[:-3], "label": pictures.images.labels[:-3]})
    with pytest.raises(ValueError, match="no row for image 9680 and 2 others"):
        pictures.rows(some)
    whole = pd.DataFrame({"idx": pictures.places, "label": pictures.images.labels.flip(0)})
    with pytest.raises(ValueError, match="labels image 0 9, and the picture is of class 0"):
        pictures.rows(whole)


def test_where_there_are_none_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cifar10_pictures"):
        shipped_pictures(tmp_path)
