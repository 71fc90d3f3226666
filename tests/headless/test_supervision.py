"""What a process tells, and what its silence means."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualrs_lab.headless import Active, Run, Slot

OUTCOME = 'print(\'{"cell": 1, "of": 2}\\n{"outcome": {"state": "%s", "message": "m"}}\', flush=True)\n'


@pytest.fixture
def launch(tmp_path: Path) -> Callable[[str], Active]:
    """A run whose process executes this code instead of a notebook."""

    def begin(code: str) -> Active:
        folder = tmp_path / "run"
        folder.mkdir()
        run = Run(
            name="nb", notebook=tmp_path / "nb.ipynb", point="", parameters={}, given={}, needs=(), key="",
            source="", asked=True, folder=folder, files=None,
        )  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        slot = Slot(device="cpu", environment={})
        scratch = str(tmp_path / "scratch")
        return Active(run=run, slot=slot, status={}, process=process, mark=str(tmp_path), scratch=scratch)

    return begin


def outcome(active: Active, *, timeout: float | None = None) -> dict[str, Any]:
    while not active.over(timeout):
        pass
    return active.end()


@pytest.mark.parametrize(
    ("code", "state", "message"),
    [
        (OUTCOME % "ok", "ok", "m"),
        (OUTCOME % "error" + "raise SystemExit(1)", "error", "m"),
        (OUTCOME % "ok" + "raise SystemExit(1)", "error", "it ran well, but its page could not be written"),
        ("raise SystemExit(7)", "error", "ended with code 7 before any outcome"),
        ("import os; os.kill(os.getpid(), 15)", "killed", "its process was killed (signal 15)"),
    ],
)
def test_the_end_of_a_process(launch: Callable[[str], Active], code: str, state: str, message: str) -> None:
    active = launch(code)
    active.began -= 1  # a process may be over before anybody looks
    ended = outcome(active)
    assert ended["state"] == state
    assert message in ended["message"]
    assert 1 <= ended["seconds"] < 60
    assert ended.get("cells") == ([1, 2] if "cell" in code else None)


def test_time_is_up_for_the_notebook_but_not_for_its_page(launch: Callable[[str], Active]) -> None:
    active = launch(OUTCOME % "ok" + "import sys; sys.stdin.read()")
    while "outcome" not in active.told:
        active.listen()
    assert not active.over(0.0)
    assert active.process.stdin is not None
    active.process.stdin.close()
    assert outcome(active, timeout=0.0)["state"] == "ok"


def test_time_is_up(launch: Callable[[str], Active]) -> None:
    active = launch("import time; time.sleep(300)")
    ended = outcome(active, timeout=0.3)
    assert ended == {"state": "timeout", "message": "stopped after 0.3 s of wall clock (--timeout)",
                     "seconds": ended["seconds"]}  # fmt: skip
    assert active.process.returncode == -9


def test_a_cancelled_run_was_interrupted_whatever_it_said(launch: Callable[[str], Active]) -> None:
    active = launch("import time; time.sleep(300)")
    active.cancel()
    assert active.end(page=False)["state"] == "interrupted"


def test_a_half_written_notebook_of_a_killed_run_is_dropped(launch: Callable[[str], Active]) -> None:
    active = launch("import time; time.sleep(300)")
    part = active.run.folder / ".nb.part.ipynb"
    part.write_text('{"cells": [')
    active.end()
    assert not list(active.run.folder.iterdir())
