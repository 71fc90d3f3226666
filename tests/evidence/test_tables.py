"""Tables that survive a kill: begun, resumed, refused, put in order."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from dualrs_lab.evidence import (
    COLUMNS,
    LOG_COLUMNS,
    append_groups,
    decide,
    fill,
    finished,
    read_table,
    rows_at,
    sort_rows,
    spread,
    taken_up,
)
from dualrs_lab.files import replace_json
from dualrs_lab.store import read_record

IDENTITY = {"seed": 0, "radii": [0.25, 0.5]}
OTHER = (*LOG_COLUMNS, "method", "gain")


def row(idx: int, **more) -> dict[str, object]:
    said = {"idx": idx, "label": 1, "predict": 1, "radius": 0.5, "correct": 1, "time": 0.1, "method": "m"}
    return said | {"gain": 0.25 * idx} | more


def write(path: Path, *idx: int) -> None:
    """A table of another method, with these rows in groups of two, and its record."""
    replace_json(path.with_suffix(".json"), {"identity": IDENTITY})
    groups = [[row(i) for i in idx[first : first + 2]] for first in range(0, len(idx), 2)]
    append_groups(path, groups, total=len(idx), initial=0, progress=False, columns=OTHER)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.tsv"


def test_a_table_is_begun_resumed_and_put_in_order(path: Path) -> None:
    assert taken_up("call", path, IDENTITY) == set()
    write(path, 4, 2, 8)
    assert taken_up("call", path, IDENTITY) == {2, 4, 8}
    append_groups(path, [[row(6)]], total=4, initial=3, progress=False)
    assert read_table(path)["idx"].tolist() == [4, 2, 8, 6]
    sort_rows(path)
    assert read_table(path)["idx"].tolist() == [2, 4, 6, 8]
    assert rows_at(path, range(3, 7))["gain"].tolist() == [1.0, 1.5]
    before = path.stat().st_mtime_ns
    sort_rows(path)  # nothing to do
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("count", [1, 2, 7, 64, 250, 1000])
def test_every_beginning_lies_evenly_over_all_images(count: int) -> None:
    images = range(0, 40 * count, 40)
    order = spread(images)
    assert sorted(order) == list(images)
    kinds = np.asarray(order) * 10 // (40 * count)  # ten classes, one after the other
    for done in range(1, count + 1):
        seen = np.bincount(kinds[:done], minlength=10)
        assert seen.max() - done / 10 < 4
        assert done / 10 - seen.min() < 4
    assert spread([]) == []


def test_an_unfinished_line_is_cut_and_its_image_is_to_do(path: Path) -> None:
    write(path, 0, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + b"2\t1\t1\t0.")
    assert taken_up("call", path, IDENTITY) == {0, 1}
    assert path.read_bytes() == whole


def test_a_table_cut_in_its_first_row_takes_columns_anew(path: Path) -> None:
    write(path, 0)
    header = path.read_bytes().split(b"\n")[0]
    path.write_bytes(header + b"\n0\t1")
    assert taken_up("call", path, IDENTITY) == set()
    certificate = decide([0, 9], [1, 99], idx=3, label=1, sigma=0.5, alpha=0.001, seed=1, seconds=0.1)
    append_groups(path, [[certificate]], total=1, initial=0, progress=False)
    assert tuple(read_table(path).columns) == COLUMNS


def test_a_kill_between_the_last_row_and_the_end_is_made_good(path: Path) -> None:
    """All rows are there, but neither in order nor sealed: the next call does both, and asks for no image."""
    write(path, 4, 2, 8)
    replace_json(path.with_suffix(".json"), {"identity": IDENTITY, "sha256": None})
    assert finished("call", path, IDENTITY, [2, 4, 8]) is None
    table = fill(
        "call", path, [2, 4, 8], lambda todo: [[row(i) for i in todo]] if todo else [],
        record={"identity": IDENTITY}, disagreement=lambda: pytest.fail("measured before"), replace=False,
        progress=False,
    )  # fmt: skip
    assert table["idx"].tolist() == read_table(path)["idx"].tolist() == [2, 4, 8]
    assert read_record(path)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert finished("call", path, IDENTITY, [4, 8])["idx"].tolist() == [4, 8]
    assert finished("call", path, IDENTITY, [4, 6]) is None
    assert finished("call", path, {"seed": 1}, [4]) is None


def test_another_table_is_refused_or_set_aside(path: Path) -> None:
    write(path, 0, 1)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"call: .*t\.tsv was made with other settings \(seed\): found"
    ) as error:
        taken_up("call", path, IDENTITY | {"seed": 1})
    assert "found {'seed': 0}, wanted {'seed': 1}" in str(error.value)
    assert path.read_bytes() == before
    with pytest.warns(UserWarning, match=r"it is now t_old1\.tsv"):
        assert taken_up("call", path, IDENTITY | {"seed": 1}, replace=True) == set()
    assert path.with_name("t_old1.tsv").read_bytes() == before
    assert not path.exists()
    assert read_record(path) == {}


def test_a_table_without_a_record_is_refused(path: Path) -> None:
    write(path, 0)
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match="no record beside it"):
        taken_up("call", path, IDENTITY)


def test_progress_counts_images_and_says_how_many_are_certified(path: Path, capsys) -> None:
    groups = [[row(0), row(1, predict=-1, correct=0)], [row(2), row(3)]]
    append_groups(path, groups, total=10, initial=6, progress=True, columns=OTHER)
    said = capsys.readouterr().err
    assert "10/10" in said
    assert "certified=0.750" in said
