"""A published ImageNet network from the package index, and the benchmark that certifies it, at toy size."""

from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

import dualrs_lab as lab
from benchmarks import imagenet as bench
from dualrs_lab.adapters import load_network
from dualrs_lab.data import load_images
from dualrs_lab.evidence import read_table
from dualrs_lab.store import read_record
from dualrs_lab.training import accuracy

LACKING = [name for name in bench.PACKAGES if find_spec(name) is None]
real = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")


def run(out: Path, *parts: str) -> pd.DataFrame:
    return bench.main(["--toy", "--device", "cpu", "--out", str(out), "--parts", *parts])


@pytest.mark.slow
def test_certificates_are_made_once_at_toy_size(tmp_path: Path) -> None:
    certify = [part for part in bench.PARTS if part.startswith("certify")]
    board = run(tmp_path, *certify, "board")
    slow = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tsv")}
    assert len(slow) == len(bench.SIGMAS) + 1  # one for each level, and the cascade
    assert "cascade, routed" in board.index
    pd.testing.assert_frame_equal(run(tmp_path, *certify, "board"), board)
    assert {path: path.stat().st_mtime_ns for path in slow} == slow
    images = load_images("imagenet", "test", root=tmp_path / "images")
    assert len(images.classes) == bench.CLASSES
    table = read_table(next(path for path in slow if "0.12" in path.name))
    assert table["label"].tolist() == images.labels.tolist()


@pytest.mark.slow
def test_cost_and_memory_are_measured_at_toy_size(tmp_path: Path) -> None:
    run(tmp_path, "cost", "memory")
    memory, cost = (pd.read_csv(tmp_path / f"{part}.csv") for part in ("memory", "cost"))
    streamed = memory[memory["arm"] == "streamed"]
    assert streamed["at"].tolist() == [2, 4]
    assert (streamed["median"] > 100).all()
    assert cost["arm"].nunique() == 2
    assert (cost["median"] > 0).all()


@real
def test_the_photographs_lie_in_the_layout_of_imagenet(tmp_path: Path) -> None:
    bench.lay_out(tmp_path, bench.photographs())
    images = load_images("imagenet", "test", root=tmp_path)
    assert len(images) == 20
    assert images.classes[243] == "bull mastiff"
    assert sorted(images.labels.tolist()) == sorted(label for _, label in bench.photographs())


@pytest.mark.slow
@real
def test_a_published_network_is_certified_at_its_size(tmp_path: Path) -> None:
    """Through the front door, on one photograph; without noise it tells most of all 20."""
    bench.lay_out(tmp_path, bench.photographs())
    images = load_images("imagenet", "test", root=tmp_path)
    network = load_network(
        f"benchmarks.imagenet:{bench.NAME}", weights=bench.weights(), mean=bench.MEAN, std=bench.STD
    )
    assert accuracy(network, images, seed=0) >= 0.8
    few = images.select([4])
    table = lab.certify(network, few, sigma=0.05, n=100, n0=100, alpha=0.01, seed=0, progress=False)
    assert table.frame["label"].tolist() == few.labels.tolist()
    assert (table.frame["n"] == 100).all()
    assert table.frame["radius"].max() > 0.05
    table.save(tmp_path / "mine.tsv")
    assert read_record(tmp_path / "mine.tsv")["info"]["classes"] == bench.CLASSES
