"""A process that dies, at a random moment or at any step on the disk, loses nothing and repeats nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def deaths(mode: str, amount: int, folder: Path) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.faults.deaths", mode, str(amount), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_few_kills_lose_no_row(tmp_path: Path) -> None:
    assert deaths("kills", 6, tmp_path)["kills"] >= 6


def test_a_few_steps_at_which_a_process_ends(tmp_path: Path) -> None:
    counted = deaths("crashes", 97, tmp_path)
    assert counted.keys() == {"begun", "resumed", "set aside", "kept"}
    assert sum(counted.values()) >= 4


@pytest.mark.slow
def test_three_hundred_kills_lose_no_row(tmp_path: Path) -> None:
    assert deaths("kills", 300, tmp_path)["kills"] >= 300


@pytest.mark.slow
def test_every_third_step_at_which_a_process_ends(tmp_path: Path) -> None:
    assert sum(deaths("crashes", 3, tmp_path).values()) >= 50
