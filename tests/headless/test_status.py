"""Records tell the truth, also after the runner itself was killed."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dualrs_lab.headless import Run, all_statuses, begin_run, birth, is_done, read_status, write_status


def a_run(tmp_path: Path, **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "name": "20_train", "notebook": tmp_path / "20_train.ipynb", "point": "",
        "parameters": {"n": 3, "seed": 5},
        "given": {}, "needs": (), "key": "k1", "source": "s", "asked": True, "folder": tmp_path / "20_train",
        "files": None,
    }  # fmt: skip
    return Run(**fields | changes)


def finish(run: Run, state: str = "ok") -> None:
    write_status(run, begin_run(run, profile="quick", provenance={}) | {"state": state})
    (run.folder / run.notebook.name).write_text("{}")


def test_a_record_says_what_ran(tmp_path: Path) -> None:
    status = begin_run(a_run(tmp_path), profile="paper", provenance={"commit": "abc"})
    assert status["state"] == "queued"
    assert status["seed"] == 5
    assert status["profile"] == "paper"
    assert status["provenance"] == {"commit": "abc"}
    assert status["key"] == "k1"


def test_only_the_same_run_that_ended_well_is_done(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert not is_done(run)
    finish(run)
    assert is_done(run)
    assert not is_done(a_run(tmp_path, key="k2"))
    assert not is_done(a_run(tmp_path, files=tmp_path / "files"))  # what it made was deleted
    assert not is_done(a_run(tmp_path, parameters={"folder": "elsewhere"}))
    for state in ("error", "timeout", "killed", "dead-kernel", "interrupted", "blocked", "running"):
        finish(run, state)
        assert not is_done(run)
    finish(run)
    (run.folder / run.notebook.name).unlink()
    assert not is_done(run)


def test_a_dead_runner_s_records_read_as_interrupted(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    runner = {"pid": ended.pid, "born": birth(ended.pid) or "1", "host": platform.node()}
    ended.wait()
    write_status(run, begin_run(run, profile="quick", provenance={}) | {"state": "running", "runner": runner})
    status = read_status(run.folder)
    assert status["state"] == "interrupted"
    assert "its runner ended while it was running" in status["message"]
    assert begin_run(run, profile="quick", provenance={})["state"] == "queued"


def test_two_runners_do_not_share_a_run(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    other = {"pid": os.getppid(), "born": birth(os.getppid()), "host": platform.node()}
    write_status(run, begin_run(run, profile="quick", provenance={}) | {"state": "running", "runner": other})
    assert read_status(run.folder)["state"] == "running"
    with pytest.raises(ValueError, match=f"20_train is in the hands of process {os.getppid()}"):
        begin_run(run, profile="quick", provenance={})


def test_all_records_of_a_folder_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        finish(a_run(tmp_path, name=name, folder=tmp_path / name))
    assert [status["run"] for status in all_statuses(tmp_path)] == ["a", "b"]
    assert read_status(tmp_path / "none") == {}
