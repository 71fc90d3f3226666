"""The stage of a level between on the CPU at toy size."""

from pathlib import Path

import pytest

from benchmarks import silence, silent_votes
from benchmarks.between import LEVEL
from benchmarks.dial import BETWEEN, network_of
from benchmarks.gpu import between
from benchmarks.pages.text import read_info
from dualrs_lab.combine import read_image_votes
from dualrs_lab.evidence import Certificate, confidences_of, read_table

CALL = ["--toy", "--device", "cpu", "--minutes", "60", "--out"]
NAME = network_of(LEVEL, BETWEEN).name.replace("cifar10_jpeg_wide_start", "digits_digits_narrow")


@pytest.mark.slow
def test_a_network_is_trained_votes_and_is_certified_once(tmp_path: Path) -> None:
    assert between.main([*CALL, str(tmp_path)]) == 0
    network = tmp_path / NAME
    told = read_info(network.with_suffix(".json"))
    assert told["sigma"] == LEVEL
    assert told["training"]["objective"]["name"] == "CatRs"
    assert told["training"]["objective"]["sigma"] == LEVEL
    votes = tmp_path / silent_votes.votes_name(network)
    counts, labels, about = read_image_votes(votes, [LEVEL])
    assert (counts.sum(axis=2) == between.TOY.draws).all()
    assert len(labels) == 25
    assert about["sure"]["confidences"] == [*silent_votes.CONFIDENCES]
    rows = read_table(tmp_path / silence.graded_name(network, LEVEL, between.TOY.n))
    assert confidences_of(rows) == silent_votes.CONFIDENCES
    again = [Certificate.from_row(row) for row in rows.to_dict("records")]
    assert [one.recomputed() for one in again] == pytest.approx(rows["radius"].tolist(), rel=1e-9)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "record.json"}
    assert between.main([*CALL, str(tmp_path)]) == 0
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "record.json"}
    assert after == before


def test_without_time_nothing_is_made_and_that_is_an_error(tmp_path: Path) -> None:
    call = ["--toy", "--device", "cpu", "--minutes", "1e-4", "--out", str(tmp_path)]
    assert between.main(call) == 1
    assert "no expert" in str(read_info(tmp_path / "record.json")["error"])
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
