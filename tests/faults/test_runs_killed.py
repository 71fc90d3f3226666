"""Whatever is killed, whoever else runs, however full the disk: no process stays and no record lies."""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dualrs_lab.headless import (
    Report,
    Request,
    Run,
    Slot,
    Status,
    find_runs,
    make_plan,
    read_records,
    read_status,
    runner,
    write_status,
)
from tests.faults.pretend import MAIN, plan, pretend, run, write_notebook

TOKEN = "DUALRS_TEST_TOKEN"  # in the environment of all that a test starts, guards too

# A notebook's children: one in a session of its own, two that have lost their environment as well, the last
# of them also its parent. Each tells its number, then the notebook waits for ever.
CHILDREN = """
import os, subprocess, sys, time
if not os.path.exists(home + "/../go"):
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(300)"]
    away = subprocess.Popen(sleep, start_new_session=True)
    bare = subprocess.Popen(["env", "-i", "setsid", *sleep], stdout=subprocess.DEVNULL)
    last = f"import subprocess as s; print(s.Popen({sleep!r}, stdout=-3, env={{}}, process_group=0).pid)"
    orphan = int(subprocess.run([sys.executable, "-c", last], stdout=subprocess.PIPE).stdout)
    with open(home + "/../pids.new", "w") as file:
        print(os.getpid(), away.pid, bare.pid, orphan, file=file)
    os.rename(home + "/../pids.new", home + "/../pids")
    time.sleep(300)
"""


def wait_for(condition: Callable[[], bool], seconds: float = 40) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def lives(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def all_of(token: str) -> list[psutil.Process]:
    """Every living process that a test started, at whatever remove."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(TOKEN) == token and lives(process.pid):
                found.append(process)
    return found


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start the command line on tmp_path, with the stand-in for a kernel unless told otherwise."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, code: str = MAIN, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", code, "run", "--devices", "cpu", *arguments],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, TOKEN: str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}, **options,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    wait_for(lambda: not all_of(str(tmp_path)), 5)
    for left in all_of(str(tmp_path)):
        left.kill()


@pytest.fixture
def family(tmp_path: Path, begin: Callable[..., "subprocess.Popen[str]"]) -> Iterator[list[int]]:
    """A runner, its guard, the process of its one run, and what that started: their numbers in this order."""
    write_notebook(tmp_path / "notebooks" / "20_family.ipynb", "", CHILDREN)
    process = begin()
    pids = tmp_path / "runs" / "pids"
    assert wait_for(pids.is_file)
    below = [int(word) for word in pids.read_text().split()]
    (guard,) = {child.pid for child in psutil.Process(process.pid).children()} - {below[0]}
    yield [process.pid, guard, *below]
    for pid in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("killed", [[0], [0, 2], [2]], ids=["runner", "runner and run", "run"])
def test_nothing_outlives_what_was_killed(tmp_path: Path, family: list[int], killed: list[int]) -> None:
    for number in killed:
        os.kill(family[number], signal.SIGKILL)
    assert wait_for(lambda: not any(lives(pid) for pid in family), 15), [lives(pid) for pid in family]
    state = read_status(tmp_path / "runs" / "20_family")["state"]
    assert state == ("killed" if killed == [2] else "interrupted")


def test_what_is_left_when_the_guard_dies_too_is_ended_by_the_next_runner(
    tmp_path: Path, family: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 0, 2):
        os.kill(family[number], signal.SIGKILL)
    assert wait_for(lambda: not any(lives(pid) for pid in family[:3]), 15)
    assert lives(family[3])
    pretend(monkeypatch)
    (tmp_path / "runs" / "go").touch()
    statuses, _ = run(plan(tmp_path))
    assert statuses["20_family"]["state"] == "ok"
    assert not lives(family[3])


WORK = """
import json, subprocess, sys, time
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(300)"], start_new_session=True)
for number in range(3):
    with open(home + "/records.jsonl", "a") as file:
        file.write(json.dumps({"step": number, "text": "x" * 10_000}) + "\\n")
    time.sleep(0.02)
"""


def kill_somebody(token: str, leader: int, chance: random.Random) -> None:
    """The runner, one of the others, all but the guards, or every process."""
    everybody = all_of(token)
    others = [process for process in everybody if process.pid != leader]
    guards = [one for one in others if "dualrs_lab.headless.processes" in one.cmdline()]
    choices = [
        [one for one in everybody if one.pid == leader],
        [chance.choice(others)] if others else [],
        [one for one in everybody if one not in guards],
        everybody,
    ]
    for process in chance.choice(choices):
        with contextlib.suppress(psutil.Error):
            process.kill()


def check_truth(out: Path) -> int:
    """How many runs ended well; that each record can be read, and says no more than is true."""
    good = 0
    for one in find_runs(out):
        assert one.status["state"] in ("ok", "killed", "interrupted", "blocked", "error"), one.status
        if one.status["state"] == "ok":
            assert read_records(one.folder)["step"] == 2
            assert json.loads((one.folder / f"{one.folder.name}.ipynb").read_text())["nbformat"] == 4
            good += 1
    return good


def kills(
    folder: Path, begin: Callable[..., "subprocess.Popen[str]"], number: int, seed: int, longest: float
) -> None:
    """Start, kill at a random moment, look; and in the end all is made, and nothing twice."""
    chance = random.Random(seed)
    for _ in range(number):
        process = begin("--jobs", "2")
        time.sleep(chance.uniform(0.2, longest))
        with contextlib.suppress(psutil.Error):
            kill_somebody(str(folder), process.pid, chance)
        process.kill()
        process.communicate()
        for left in all_of(str(folder)):  # a guard at work, or what it would have ended had it lived
            if not wait_for(lambda left=left: not lives(left.pid), 10):  # type: ignore[misc]
                left.kill()
        good = check_truth(folder / "runs")
        done = {one.folder: one.status["started"] for one in find_runs(folder / "runs")
                if one.status["state"] == "ok"}  # fmt: skip
        assert len(done) == good
    out, errors = begin("--jobs", "2").communicate(timeout=120)
    assert errors == ""
    runs = find_runs(folder / "runs")
    assert check_truth(folder / "runs") == len(runs) == 5, out
    assert all(one.status["started"] == done[one.folder] for one in runs if one.folder in done)
    assert wait_for(lambda: not all_of(str(folder)), 10)
    assert "5 of 5 runs ended well" in (folder / "runs" / "index.html").read_text()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for number in range(5):
        write_notebook(tmp_path / "notebooks" / f"2{number}_work.ipynb", "", WORK)
    return tmp_path


def test_kills_at_random_moments(work: Path, begin: Callable[..., "subprocess.Popen[str]"]) -> None:
    kills(work, begin, 3, seed=1, longest=0.8)


@pytest.mark.slow
def test_forty_kills_at_random_moments(work: Path, begin: Callable[..., "subprocess.Popen[str]"]) -> None:
    for seed in range(5):
        for path in (work / "runs").glob("*/status.json"):
            path.unlink()
        kills(work, begin, 8, seed=seed, longest=1.5)


@pytest.mark.slow
def test_kills_with_real_kernels(work: Path, begin: Callable[..., "subprocess.Popen[str]"]) -> None:
    for path in (work / "notebooks").glob("*.ipynb"):
        write_notebook(path, "", "import os\nhome = os.path.dirname(os.environ['DUALRS_RECORD'])" + WORK)
    real = "import sys; from dualrs_lab.__main__ import main; sys.exit(main())"
    kills(work, lambda *arguments: begin(*arguments, code=real), 8, seed=7, longest=12)


# Two runners come to the point where both have seen that nobody has the runs.
SLOW_CLAIM = MAIN.replace(
    "from dualrs_lab.__main__",
    """
import time
real = runner.begin_run
def begin_run(*arguments, **options):
    status = real(*arguments, **options)
    time.sleep(0.2)
    return status
runner.begin_run = begin_run
from dualrs_lab.__main__""",
)


def test_two_runners_at_once_run_nothing_twice(
    tmp_path: Path, begin: Callable[..., "subprocess.Popen[str]"]
) -> None:
    for name in ("20_one", "21_two"):
        source = f"import time\nopen(home + '/../count', 'a').write('{name}\\n')\ntime.sleep(0.5)"
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", "", source)
    both = [begin(code=SLOW_CLAIM) for _ in range(2)]
    errors = sorted(process.communicate(timeout=60)[1] for process in both)
    assert sorted((tmp_path / "runs" / "count").read_text().split()) == ["20_one", "21_two"]
    codes = sorted(process.returncode for process in both)
    if codes == [0, 2]:  # else the second came when all was done
        assert errors[1].count("\n") == 1
        assert "is in the hands of process" in errors[1]
    else:
        assert (codes, errors) == ([0, 0], ["", ""])
    assert [one.status["state"] for one in find_runs(tmp_path / "runs")] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("room", "complaint", "states"),
    [
        (4000, "all runs have ended and are recorded, but the report could not be written", ["ok"]),
        (300, "runs cannot be recorded in", []),
    ],
)
def test_a_disk_that_is_full_for_all(
    tmp_path: Path,
    begin: Callable[..., "subprocess.Popen[str]"],
    room: int,
    complaint: str,
    states: list[str],
) -> None:
    values = json.dumps({"text": "x" * 3500}) + "\n"  # fits alone, but not beside what a page holds as well
    source = f"open(home + '/records.jsonl', 'w').write({values!r})"
    write_notebook(tmp_path / "notebooks" / "20_train.ipynb", "", source)
    process = begin(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert complaint in errors
    assert [one.status["state"] for one in find_runs(tmp_path / "runs")] == states


class MadeUp:
    """A run that has ended well as soon as it is looked at."""

    mark = scratch = "none"
    log = None

    def __init__(self, run: Run, slot: Slot, status: Status) -> None:
        self.run, self.slot = run, slot
        status |= {"state": "running"}
        write_status(run, status)
        (run.folder / "records.jsonl").write_text('{"accuracy": 0.5}\n{"radius": 0.25}\n')

    def over(self, timeout: float | None) -> bool:
        return True

    def end(self, *, page: bool) -> Status:
        return {"state": "ok", "message": "", "seconds": 1.0}

    def line(self) -> str:
        return ""


@pytest.mark.slow
def test_three_thousand_runs_are_reported_in_a_small_share_of_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up runs that end at once, so that nothing but the runner itself takes time."""
    write_notebook(tmp_path / "notebooks" / "20_train.ipynb", "seed: int = 0", "1")
    spent, number = 0.0, 3000
    real = Report.write

    def timed(self: Report) -> None:
        nonlocal spent
        began = time.monotonic()
        real(self)
        spent += time.monotonic() - began

    monkeypatch.setattr(Report, "write", timed)
    monkeypatch.setattr(runner, "start", MadeUp)
    monkeypatch.setattr(runner, "STAGGER", 0.0)
    monkeypatch.setattr(runner, "PERIOD", 0.0)
    (tmp_path / "sweep.toml").write_text(f"seeds = {number}")
    runs = make_plan(
        Request(folder=tmp_path / "notebooks", out=tmp_path / "runs", sweep=tmp_path / "sweep.toml")
    )
    began = time.monotonic()
    statuses, _ = run(runs, jobs=2)
    took = time.monotonic() - began
    assert len(statuses) == number
    print(f"{number} runs in {took:.0f} s, {spent:.1f} s of it for the report")
    assert spent < 0.1 * took + 20
