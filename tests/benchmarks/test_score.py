"""A loss of speed is told of, where runs can be compared at all."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.measure import Row, frame
from benchmarks.score import fell, judged, last_table


def speeds(**times: float) -> pd.DataFrame:
    rows = [Row("per_draw", arm, "textbook / this", "times", [value]) for arm, value in times.items()]
    rows += [Row("per_draw", arm, "time per draw", "µs", [value]) for arm, value in times.items()]
    return frame([*rows, Row("growth", "ours", "of n = 1", "times", [times["folded"]], setting="n = 4")])


def record(instructions: str = "AVX2", finished: str = "2026-01-01", **subjects: str) -> dict[str, object]:
    made = {"device_name": "cpu", "instructions": instructions, "finished": finished}
    return {"subjects": subjects or {"draws are timed with": "fast_narrow"}, "provenance": made}


def keep(folder: Path, name: str, table: pd.DataFrame, told: dict[str, object]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(told))
    table.to_csv(folder / f"{name}.csv", index=False)


def test_a_ratio_that_fell_is_told_of_and_times_and_costs_are_not() -> None:
    before, now = speeds(folded=2.0, compiled=10.0), speeds(folded=1.9, compiled=7.0)
    assert fell(before, now, least=0.8) == ["compiled, textbook / this: 7 times, and 10 in the last table"]
    assert fell(before, now, least=0.5) == []
    assert fell(frame([]), now, least=1.0) == []


def test_a_run_is_compared_with_the_newest_table_from_such_a_machine(tmp_path: Path) -> None:
    keep(tmp_path, "old", speeds(folded=9.0), record(finished="2026-01-01"))
    keep(tmp_path, "new", speeds(folded=2.0), record(finished="2026-05-01"))
    keep(tmp_path, "other", speeds(folded=9.0), record("AVX512 BF16", finished="2026-09-01"))
    keep(tmp_path, "else", speeds(folded=9.0), record(finished="2026-09-01", network="resnet110"))
    assert last_table(tmp_path, record()) == tmp_path / "new.json"
    (said,) = judged(tmp_path, record(), speeds(folded=1.9), least=0.8)
    assert said == "as quick as in new, of cpu with AVX2"
    said, which = judged(tmp_path, record(), speeds(folded=1.0), least=0.8)
    assert said.startswith("slower than in new")
    assert which == "folded, textbook / this: 1 times, and 2 in the last table"


@pytest.mark.parametrize("told", [record("AVX512"), record(""), record(network="another")])
def test_where_nothing_can_be_compared_this_is_said(tmp_path: Path, told: dict[str, object]) -> None:
    keep(tmp_path, "last", speeds(folded=9.0), record())
    keep(tmp_path, "untold", speeds(folded=9.0), record(""))
    (said,) = judged(tmp_path, told, speeds(folded=1.0), least=0.8)
    assert said.startswith("nothing to compare with")
