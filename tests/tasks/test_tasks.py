"""Tasks end, fail, are stopped and go on, and are found by whoever comes later."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tqdm import tqdm

from dualrs_lab.headless import read_status
from dualrs_lab.tasks import Bar, Task, find_tasks, keeper, read_bars, start_task

TABLE = Path(__file__).parents[2] / "data" / "published_logs" / "cohen2019_cifar10_resnet110_sigma_0.50.tsv"
SLEEPER = {  # a notebook that waits, unless it has waited before
    "cells": [
        {
            "cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "outputs": [],
            "execution_count": None, "source": "seconds: float = 60.0  # to wait at first",
        },
        {
            "cell_type": "code", "id": "b", "metadata": {}, "outputs": [], "execution_count": None,
            "source": "import pathlib, time\nbegun = pathlib.Path('begun')\nfirst = not begun.exists()\n"
            "begun.touch()\ntime.sleep(seconds if first else 0)",
        },
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}  # fmt: skip


def soon(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def test_the_last_state_of_each_bar_is_read() -> None:
    printed = io.StringIO()
    for name, done in (("train", 3), ("certify t.tsv", 5)):
        with tqdm(total=8, desc=name, unit="image", file=printed, mininterval=0, ncols=80) as bar:
            for _ in range(done):
                bar.update()
    text = printed.getvalue() + "a line: 50% of it\n"
    first, second = read_bars(text)
    assert (first.name, first.done, first.total, first.share) == ("train", 3, 8, 3 / 8)
    assert (second.name, second.done) == ("certify t.tsv", 5)
    assert first.rate.endswith("image/s")
    assert first.left == 0
    begun = "train:   0%|          | 0/15 [00:00<?, ?epoch/s]\r"
    later = "train:  40%|####      | 6/15 [1:01:05<02:10, 9.1s/it, loss=1]"
    assert read_bars(begun + later) == [Bar("train", 6, 15, 3665, 130, "9.1s/it")]
    assert read_bars(begun) == [Bar("train", 0, 15, 0, None, "")]
    assert read_bars("\x1b[0m|||| 3/4 [") == []


def test_a_job_ends_and_says_how(tmp_path: Path) -> None:
    good = start_task(["summary", TABLE], out=tmp_path)
    bad = start_task(["summary", tmp_path / "none.tsv"], out=tmp_path)
    assert (good.name, bad.name) == ("summary-1", "summary-2")
    assert good.wait() == "ok"
    assert "500" in good.tail()
    assert bad.wait() == "failed"
    assert bad.record["code"] == 2
    assert "none.tsv" in bad.tail()
    assert [task.name for task in find_tasks(tmp_path)] == ["summary-2", "summary-1"]


def test_the_last_lines_are_shown_as_a_terminal_shows_them(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "log.txt").write_text("one\n 1/9\r 2/9\r 9/9\r\nlast\x1b\n")
    tail = Task(tmp_path / "mine").tail(2)
    assert tail.split("\n")[0] == " 9/9"
    assert "\x1b" not in tail


def test_who_started_it_may_be_gone(tmp_path: Path) -> None:
    code = "from dualrs_lab.tasks import start_task; import sys; "
    code += "start_task(['summary', sys.argv[1]], out=sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(TABLE), str(tmp_path)], check=True)
    (task,) = find_tasks(tmp_path)
    assert task.wait() == "ok"


@pytest.fixture
def sleeping(tmp_path: Path) -> Task:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "10_sleeper.ipynb").write_text(json.dumps(SLEEPER))
    task = start_task(["run", "10_sleeper"], name="sleep", out=tmp_path / "tasks", cwd=tmp_path)
    assert soon((tmp_path / "notebooks" / "begun").exists), task.tail()
    return task


def test_a_job_is_stopped_and_goes_on(sleeping: Task, tmp_path: Path) -> None:
    assert sleeping.state == "running"
    with pytest.raises(ValueError, match="sleep runs; stop it first"):
        sleeping.resume()
    sleeping.stop()
    assert sleeping.wait() == "stopped"
    assert read_status(tmp_path / "runs" / "10_sleeper")["state"] == "interrupted"
    with pytest.raises(ValueError, match="sleep does not run, it is stopped"):
        sleeping.stop()
    assert sleeping.resume().wait() == "ok", sleeping.tail()
    assert read_status(tmp_path / "runs" / "10_sleeper")["state"] == "ok"


def test_a_job_is_stopped_that_was_started_where_an_interrupt_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "10_sleeper.ipynb").write_text(json.dumps(SLEEPER))
    code = "from dualrs_lab.tasks import start_task; import signal, sys; "
    code += "signal.signal(signal.SIGINT, signal.SIG_IGN); "
    code += "start_task(['run', '10_sleeper'], name='sleep', out=sys.argv[1], cwd=sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "tasks"), str(tmp_path)], check=True)
    (task,) = find_tasks(tmp_path / "tasks")
    assert soon((tmp_path / "notebooks" / "begun").exists), task.tail()
    task.stop()
    assert task.wait(20) == "stopped"  # well before it would be killed
    assert read_status(tmp_path / "runs" / "10_sleeper")["state"] == "interrupted"


def test_a_job_whose_keeper_was_killed_is_still_known(sleeping: Task) -> None:
    os.kill(sleeping.record["keeper"]["pid"], signal.SIGKILL)
    time.sleep(0.2)
    assert sleeping.state == "running"  # the command goes on

    def ended() -> bool:  # asked again, as a person would, where a signal came when it could not be heard
        with contextlib.suppress(ValueError):
            sleeping.stop()
        return sleeping.wait(5) == "interrupted"

    assert soon(ended)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"state": "running", "command": ["run"], "keeper": {}}'])
def test_a_record_that_is_none_is_a_damaged_job(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "task.json").write_text(text)
    (task,) = find_tasks(tmp_path)
    assert task.state == "damaged"
    with pytest.raises(ValueError, match=r"Task.resume: mine cannot be read"):
        task.resume()


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "with space"])
def test_a_job_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start_task: got the name"):
        start_task(["status"], name=name, out=tmp_path / "tasks")
    with pytest.raises(ValueError, match="got no command"):
        start_task([], out=tmp_path / "tasks")


def test_a_keeper_leaves_the_task_of_another_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "PATIENCE", 0.1)
    record = {"command": ["status"], "cwd": str(tmp_path), "keeper": {"pid": 1}}
    (tmp_path / "task.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"is not for process {os.getpid()} to keep"):
        keeper.keep_task(tmp_path)
    assert not (tmp_path / "log.txt").exists()
