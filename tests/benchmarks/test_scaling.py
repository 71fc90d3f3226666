"""The model and the simulation of parts on many GPUs: closed forms, and the replayed table."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.scaling import Cost, makespan, predicted, replayed, shares


def test_equal_parts_take_what_the_model_says() -> None:
    draws, cost = np.full(120, 1000.0), Cost(draw=1e-3, start=5.0)
    for workers, parts in ((1, 1), (4, 4), (4, 12), (3, 12)):
        end, idle = makespan(shares(draws, parts), workers, cost)
        assert end == pytest.approx(predicted(draws, parts, workers, cost))
        assert idle == pytest.approx(0)
    assert predicted(draws, 12, 4, cost) == pytest.approx(30 + 15)


def test_a_worker_takes_the_next_part_when_it_is_free() -> None:
    cost = Cost(draw=1.0, start=0.0)
    assert makespan(np.array([6.0, 1.0, 2.0, 3.0]), 2, cost) == (6.0, 0.0)
    end, idle = makespan(np.array([1.0, 1.0, 6.0]), 2, cost)
    assert (end, idle) == (7.0, pytest.approx(1 - 8 / 14))


def test_parts_hold_all_draws_and_strided_ones_are_even() -> None:
    draws = np.repeat([1.0, 3.0], 60)  # two classes, one three times as dear
    for parts in (4, 7):
        assert shares(draws, parts).sum() == shares(draws, parts, strided=False).sum() == draws.sum()
    assert shares(draws, 4).tolist() == [60.0] * 4
    assert shares(draws, 4, strided=False).tolist() == [30.0, 30.0, 90.0, 90.0]


def test_draws_are_those_of_the_table_class_by_class(tmp_path: Path) -> None:
    drawn = replayed(scaling.REPLAYED, 5000, 10_000)
    assert (len(drawn), drawn.min(), drawn.max()) == (5000, 14_300, 34_300)
    assert replayed(scaling.REPLAYED, 5000, 100_000).sum() == pytest.approx(10 * drawn.sum())
    rows = scaling.main(["--images", "600", "--workers", "1", "4", "--out", str(tmp_path)])
    told = json.loads((tmp_path / "scaling.json").read_text())
    assert told["images"] == 600
    assert len(told["rows"]) == len(rows)
    over = [row.values[0] for row in rows if (row.part, row.quantity) == ("strided", "more than the model")]
    assert min(over) > -1e-6
    assert max(over) < 10  # of 150 images a GPU
