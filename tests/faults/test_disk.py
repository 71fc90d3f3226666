"""A disk that is full: one error names the file, nothing that was there is lost, and the call goes on."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from dualrs_lab.attacks import Threat, evaluate_table, read_evaluation
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import append_rows, keep_table, read_table, repair_table, write_table
from dualrs_lab.files import replace_bytes
from dualrs_lab.smoothing import label_votes
from tests.faults.deaths import COUNT, certificate, make, whole
from tests.faults.trees import tree
from tests.test_store import G, H


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: a write beyond is taken in part, and the next is an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 60, 200, 600, 1000, 1500, 1900])
def test_a_table_stops_between_rows_and_goes_on(tmp_path: Path, size: int) -> None:
    path = tmp_path / "t.tsv"
    with full_at(size), pytest.raises(OSError, match="File too large") as error:
        make(path)
    assert error.value.errno == errno.EFBIG
    assert str(error.value.filename).startswith(str(path.with_suffix("")))
    assert "\n" not in str(error.value)
    if path.exists():
        data = path.read_bytes()
        assert not data or data.endswith(b"\n")
        assert repair_table(path) == max(0, data.count(b"\n") - 1)
    assert not [one.name for one in tmp_path.iterdir() if one.suffix in (".tmp", ".lock")]
    make(path)
    whole(path)


def test_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    make(path)
    before, table = tree(tmp_path), read_table(path)
    with full_at(1000):
        for call in (
            lambda: write_table(path, table),
            lambda: append_rows(path, [certificate(COUNT)]),
            lambda: replace_bytes(path.with_suffix(".json"), b"x" * 2000),
            lambda: keep_table("call", tmp_path / "new.tsv", table, {"identity": {"x": "y" * 2000}}),
        ):
            with pytest.raises(OSError, match="File too large") as error:
                call()
            assert Path(error.value.filename).parent == tmp_path
            assert tree(tmp_path) == before


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "test").select(range(8))


def attacked(images: Images, path: Path) -> pd.DataFrame:
    threat = Threat(eps=0.1, seed=0, steps=1, mma=False, auto=(), batch=2)
    return evaluate_table(G, images, path, threat=threat, progress=False)


def test_answers_under_attack_go_on(tmp_path: Path, images: Images) -> None:
    path = tmp_path / "t.tsv"
    undisturbed = attacked(images, tmp_path / "u.tsv")
    size = (tmp_path / "u.tsv").stat().st_size * 2 // 3
    with full_at(max(size, 430)), pytest.raises(OSError, match="File too large"):
        attacked(images, path)
    kept = len(read_evaluation(path)) if path.exists() else 0
    assert kept < 8
    answers = ["idx", "predict", "natural", "pgd", "worst", "image"]
    pd.testing.assert_frame_equal(attacked(images, path)[answers], undisturbed[answers])


def test_votes_for_labels_are_whole_or_absent(tmp_path: Path, images: Images) -> None:
    path = tmp_path / "t.safetensors"

    def votes() -> torch.Tensor:
        return label_votes([G, H], images, path, sigmas=(0.25, 0.5), n=10, seed=0)

    with full_at(50), pytest.raises(OSError, match="File too large"):
        votes()
    assert not [*tmp_path.iterdir()]
    made = votes()
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"label_votes: .* is not the file that was finished"):
        votes()
    assert isinstance(G, nn.Module)
    assert made.shape == (8, 2)
