"""Tables of answers are believed only after they were checked, and belong to the images of their rows."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from dualrs_lab.attacks import Threat, evaluate_table, read_evaluation
from dualrs_lab.data import Images, load_images
from dualrs_lab.smoothing import GridNoise, Spec, certify_table
from dualrs_lab.store import read_record
from tests.test_store import G

HEADER = ["idx", "label", "predict", "natural", "pgd", "worst", "pgd_seconds", "image"]
GOOD = ["3", "1", "1", "1", "0", "0", "0.30000000000000004", "0123456789abcdef"]


def write(path: Path, *rows: list[str], header: list[str] = HEADER) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in (header, *rows)))
    return path


def changed(**cells: str) -> list[str]:
    return [cells.get(name, cell) for name, cell in zip(HEADER, GOOD, strict=True)]


def test_cells_are_read_exactly(tmp_path: Path) -> None:
    table = read_evaluation(write(tmp_path / "t.tsv", GOOD, changed(idx="4", predict="0", natural="0")))
    assert table["pgd_seconds"].tolist() == [0.30000000000000004] * 2
    assert table["natural"].tolist() == [True, False]
    assert table["image"].tolist() == ["0123456789abcdef"] * 2


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"idx": "3"}, r"image 3 \(line 3\): wanted each image once"),
        ({"idx": "-1"}, "wanted idx >= 0"),
        ({"idx": "1_0"}, "column idx: not a whole number in plain digits"),
        ({"label": "-2"}, "wanted label >= -1"),
        ({"natural": "2"}, "wanted 1 or 0"),
        ({"natural": "True"}, "column natural: not a whole number"),
        ({"natural": ""}, "wanted something in natural"),
        ({"natural": "0"}, "wanted natural 1 where predict is label"),
        ({"predict": "0", "natural": "0", "pgd": "1"}, "wanted right only where natural is"),
        ({"worst": "1"}, "wanted at least worst in pgd"),
        ({"pgd_seconds": "nan"}, "wanted something in pgd_seconds"),
        ({"pgd_seconds": "-1"}, "wanted seconds >= 0"),
        ({"image": "xyz"}, "hexadecimal"),
    ],
)
def test_answers_that_cannot_be_are_refused(tmp_path: Path, cells: dict[str, str], said: str) -> None:
    path = write(tmp_path / "t.tsv", GOOD, changed(**{"idx": "4"} | cells))
    with pytest.raises(ValueError, match=said):
        read_evaluation(path)


def test_an_image_comes_once_for_each_system(tmp_path: Path) -> None:
    header = ["idx", "label", "system", "weight", "natural", "worst"]
    rows = [["0", "1", name, "", "1", "0"] for name in ("1", "0.50")]
    table = read_evaluation(write(tmp_path / "t.tsv", *rows, header=header))
    assert table["system"].tolist() == ["1", "0.50"]
    with pytest.raises(ValueError, match="each image once"):
        read_evaluation(write(tmp_path / "t.tsv", *rows, rows[0], header=header))


def test_what_is_no_table_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"read_evaluation\(.*no\.tsv\): no such file"):
        read_evaluation(tmp_path / "no.tsv")
    path = write(tmp_path / "t.tsv", GOOD)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="unfinished"):
        read_evaluation(path)


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "test").select(range(6))


def attacked(images: Images, path: Path, **more: int) -> pd.DataFrame:
    threat = Threat(eps=0.1, seed=0, steps=1, mma=False, auto=())
    return evaluate_table(G, images, path, threat=threat, progress=False, **more)


def certified(images: Images, path: Path, **more: int) -> pd.DataFrame:
    spec = Spec(noise=GridNoise(0.25), seed=0, n0=10, n=20)
    return certify_table(G, images, path, spec=spec, progress=False, **more)


@pytest.mark.parametrize("make", [attacked, certified])
@pytest.mark.parametrize("more", [3, 5])
def test_rows_of_other_pixels_are_not_gone_on_with(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make, more: int
) -> None:
    """A folder too large for memory is known by names and sizes of files: digests of images see more."""
    path = tmp_path / "t.tsv"
    make(images, path, max_images=3)
    before = path.read_bytes()
    pixels = images.pixels.clone()
    pixels[1, 0, 0, 0] += 1
    known = images.fingerprint()
    monkeypatch.setattr(Images, "fingerprint", lambda _: known)
    with pytest.raises(ValueError, match=r"t\.tsv is about other pixels: image 1 is not the one of its row"):
        make(replace(images, pixels=pixels), path, max_images=more)
    assert path.read_bytes() == before
    assert len(make(images, path, max_images=more)) == more
    assert read_record(path)["sha256"]


@pytest.mark.parametrize("make", [attacked, certified])
def test_an_edited_row_is_not_handed_back(images: Images, tmp_path: Path, make) -> None:
    """Neither of a finished table, nor of one that a kill has left."""
    path = tmp_path / "t.tsv"
    make(images, path)
    record, lines = read_record(path), path.read_text().splitlines()
    column = lines[0].split("\t").index("radius" if make is certified else "worst")
    cells = lines[2].split("\t")
    cells[column] = "9.5" if make is certified else str(1 - int(cells[column]))
    path.write_text("\n".join([*lines[:2], "\t".join(cells), *lines[3:], ""]))
    with pytest.raises(ValueError, match="is not the file that was finished"):
        make(images, path)
    path.with_suffix(".json").write_text(pd.Series(record | {"sha256": None}).to_json())
    with pytest.raises(ValueError, match=r"its votes give|wanted .* worst|worst is not the worst case"):
        make(images, path)
