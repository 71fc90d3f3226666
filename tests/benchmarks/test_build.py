"""Times that could creep are measured, and told of where they have."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import build
from benchmarks.measure import Row, frame
from benchmarks.score import crept


def ratios(**values: float) -> pd.DataFrame:
    rows = [Row("build", arm, "of torch alone", "times", [value]) for arm, value in values.items()]
    return frame([*rows, Row("build", "slow", "processor time", "s", [99.0 * sum(values.values())])])


def test_a_ratio_that_has_grown_is_told_of_and_times_are_not() -> None:
    before, now = ratios(slow=1.0, same=2.0), ratios(slow=1.4, same=2.1, fresh=9.0)
    assert crept(before, now, most=1.3) == ["slow, of torch alone: 1.4, and 1 in the last table"]
    assert crept(before, now, most=1.5) == []
    assert crept(frame([]), now, most=1.0) == []


@pytest.mark.slow
def test_all_parts_are_measured_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(build, "STARTS", {"torch alone": "import json", "tables": "import json, decimal"})
    options = ["--rows", "3000", "--runs", "5", "--rounds", "2", "--out", str(tmp_path)]
    assert build.main([*options, "--last", str(tmp_path / "none.csv")]) == 0
    table = pd.read_csv(tmp_path / "build.csv")
    assert {"start, tables", "reading 3,000 rows", "report of 20 runs"} <= {*table["arm"]}
    assert (table["median"] > 0).all()
    small = table.assign(median=table["median"] / 100)
    small.to_csv(tmp_path / "last.csv", index=False)
    assert build.main([*options, "--last", str(tmp_path / "last.csv")]) == 1
    assert "in the last table" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="failed with 3"):
        build._child([build.sys.executable, "-c", "raise SystemExit(3)"])


def test_commands_are_timed_anew_and_what_was_measured_stays_where_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "STARTS", {"torch alone": "import json"})
    echo = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    said, fails = tmp_path / "said", [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr(
        build, "COMMANDS", {"make run": [sys.executable, "-c", echo, str(said)], "make test": fails}
    )
    options = ["--rows", "100", "--runs", "2", "--rounds", "1", "--out", str(tmp_path), "--commands"]
    with pytest.raises(RuntimeError, match="failed with 3"):
        build.main([*options, "--last", str(tmp_path / "none.csv")])
    table = pd.read_csv(tmp_path / "build.csv").set_index("arm")
    assert {*table.loc["make run", "quantity"]} == {"processor time", "time on the clock"}
    assert "make test" not in table.index
    option, _, folder = said.read_text().removeprefix("RUN=").partition(" ")
    assert option == "--out"
    assert not Path(folder).exists()  # nothing was there, and nothing is left


def test_make_takes_a_folder_for_its_runs() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "run", "RUN=--out elsewhere"], cwd=build.ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "dualrs-lab run --jobs 2 --out elsewhere" in done.stdout
