"""Against a real Slurm of one node: arrays, cancel, requeue, a dead node, a full disk, many tasks.

    pytest -m slow tests/cluster/test_slurm.py

with Debian's slurm-wlm and munge, as root; skipped elsewhere.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dualrs_lab.__main__ import main
from dualrs_lab.cluster import Resources, Stage, Work, find_submissions, home_of, read_queue, submit_stages
from dualrs_lab.evidence import read_table
from dualrs_lab.headless import find_runs
from dualrs_lab.models import make_model, save_checkpoint
from dualrs_lab.shards import Shard, find_parts
from tests.cli.test_main import DIGITS, write_notebook
from tests.cluster.slurm import Slurm, missing, one_node
from tests.test_shards import rows

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]
ROOT = Path(__file__).parents[2]
ON = ["--on", "slurm", "--time", "20", "--cpus", "1"]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, one_node(Path(folder)) as one:
        yield one


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two notebooks, the second of which needs what the first has written; and a network."""
    notebooks = tmp_path / "notebooks"
    head = "n: int = 1\nfolder: str = '../runs/files'"
    write = "from pathlib import Path\nPath(folder, f'{n}.txt').write_text(str(n * n))"
    read = "from pathlib import Path\nfrom dualrs_lab.headless import record\n"
    read += "record(square=int(Path(folder, f'{n}.txt').read_text()))"
    write_notebook(notebooks / "10_write.ipynb", head, write)
    write_notebook(notebooks / "20_read.ipynb", head, read)
    (notebooks / "profiles.toml").write_text('["20_read"]\nneeds = ["10_write"]\n')
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    save_checkpoint(tmp_path / "net.safetensors", model, data=DIGITS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ends(home: Path, during: Callable[[], object] = lambda: None, seconds: float = 400) -> dict[str, str]:
    """The state of each task once Slurm has none any more."""
    until = time.monotonic() + seconds
    while read_queue(home):
        during()
        time.sleep(0.5)
        assert time.monotonic() < until, subprocess.run(["squeue"], capture_output=True, text=True).stdout
    return {task.name: task.state for task in find_submissions(home)[0].tasks(read_queue(home))}


def certify(table: str, n: int = 2000) -> list[str]:
    return ["certify", "--model", "net.safetensors", "--data", "digits", "--sigma", "0.25", "--max", "60",
            "--n", str(n), "--n0", "20", "--no-compile", "--device", "cpu", "--out", table]  # fmt: skip


def disturbing(home: Path, kills: list[float], most: int) -> Callable[[], None]:
    """Every few seconds, `most` times: a task is put back into the queue, or told that its time is over."""

    def disturb() -> None:
        running = sorted(
            job for job, state in (read_queue(home) or {}).items() if state == "RUNNING" and "_" in job
        )
        if running and len(kills) < most and (not kills or time.monotonic() - kills[-1] > 4):
            job = running[len(kills) % len(running)]
            words = ["scontrol", "requeue", job] if len(kills) % 2 else ["scancel", "--signal=USR2", job]
            subprocess.run(words, capture_output=True)  # it may have ended meanwhile
            kills.append(time.monotonic())

    return disturb


def test_a_sweep_whose_tasks_are_killed_ends_with_all_its_results(slurm: Slurm, lab: Path) -> None:
    (lab / "s.toml").write_text("grid.n = [1, 2, 3]\n")
    assert main(["run", "--sweep", "s.toml", *ON]) == 0
    home, kills = home_of(Path("runs")), []
    states = ends(home, disturbing(home, kills, 3))
    assert kills
    assert states == dict.fromkeys(states, "ok")
    found = {one.status["run"]: (one.status["state"], one.records) for one in find_runs(Path("runs"))}
    assert found == {f"10_write@n={n}": ("ok", {}) for n in (1, 2, 3)} | {
        f"20_read@n={n}": ("ok", {"square": n * n}) for n in (1, 2, 3)
    }
    assert Path("runs/index.html").is_file()
    assert main(["run", "--sweep", "s.toml", *ON]) == 0
    assert len(find_submissions(home_of(Path("runs")))) == 1  # all is done, so nothing was submitted
    assert not slurm.steps()


def test_what_needs_a_run_that_failed_is_blocked_and_says_so(slurm: Slurm, lab: Path) -> None:
    (lab / "s.toml").write_text("grid.n = [1, 2]\n")
    path = lab / "notebooks/10_write.ipynb"
    path.write_text(path.read_text().replace("str(n * n))", "str(n * n))\\nassert n == 1"))
    assert main(["run", "--sweep", "s.toml", *ON]) == 0
    states = ends(home_of(Path("runs")))
    assert (states["20_read@n=1"], states["10_write@n=2"], states["20_read@n=2"]) == (
        "ok",
        "failed",
        "failed",
    )
    status = json.loads(Path("runs/20_read@n=2/status.json").read_text())
    assert (status["state"], status["message"]) == ("blocked", "it needs 10_write@n=2, which ended as error")


@pytest.mark.parametrize(("of", "most", "least"), [(4, 6, 4), (16, 40, 12)])
def test_shards_that_are_killed_all_the_time_end_as_the_table_of_one_process(
    slurm: Slurm, lab: Path, of: int, most: int, least: int
) -> None:
    assert main([*certify("c.tsv"), *ON, "--shards", str(of)]) == 0
    home, kills = home_of(Path("c.tsv")), []
    states = ends(home, disturbing(home, kills, most), seconds=1200)
    assert len(kills) >= least
    assert states == dict.fromkeys(states, "ok")
    assert len(states) == of + 1  # and their merger
    attempts = [task.attempts for task in find_submissions(home)[0].tasks()]
    assert max(attempts) >= 2
    assert main([*certify("whole.tsv")]) == 0
    assert rows(Path("c.tsv")) == rows(Path("whole.tsv"))
    print(f"{of} shards: {len(kills)} kills, {sum(attempts)} attempts")


def test_a_node_that_dies_is_noticed_and_its_work_is_done_again(
    slurm: Slurm, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*certify("c.tsv", n=20_000), *ON, "--shards", "2"]) == 0
    home, part = home_of(Path("c.tsv")), Shard(1, 2).part(Path("c.tsv"))
    while not (part.exists() and part.read_bytes().count(b"\n") > 3):
        time.sleep(0.2)
    slurm.kill_node()
    kept = part.read_bytes()
    time.sleep(1)
    assert part.read_bytes() == kept
    until = time.monotonic() + 120
    while "PENDING" not in (read_queue(home) or {}).values():  # Slurm notices
        assert time.monotonic() < until
        time.sleep(0.5)
    slurm.start_node()
    states = ends(home)
    assert states == dict.fromkeys(states, "ok")
    whole = {*kept[: kept.rfind(b"\n") + 1].splitlines()}
    assert whole <= {*part.read_bytes().splitlines()}
    assert main([*certify("whole.tsv", n=20_000)]) == 0
    assert rows(Path("c.tsv")) == rows(Path("whole.tsv"))


def test_what_is_cancelled_is_kept_and_goes_on(
    slurm: Slurm, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*certify("c.tsv", n=20_000), *ON, "--shards", "2"]
    assert main(words) == 0
    home, part = home_of(Path("c.tsv")), Shard(1, 2).part(Path("c.tsv"))
    while not (part.exists() and part.read_bytes().count(b"\n") > 3):
        time.sleep(0.2)
    assert main(["cancel", "c.tsv"]) == 0
    states = ends(home)
    assert {states["1/2"], states["2/2"]} <= {"stopped", "lost"}
    assert main(["status", "c.tsv"]) == 1
    rows_before = part.read_bytes().count(b"\n")
    assert main(words) == 0
    states = ends(home)
    assert states == dict.fromkeys(states, "ok")
    assert len(find_submissions(home)) == 2
    assert part.read_bytes().count(b"\n") >= rows_before
    assert not slurm.steps()


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if (done := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes what room there is."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert not os.statvfs(disk).f_bavail
    return ballast


@pytest.mark.parametrize("records", ["beside the table", "on another disk"])
def test_a_disk_that_is_full_damages_nothing_and_with_room_the_same_command_goes_on(
    slurm: Slurm, lab: Path, capsys: pytest.CaptureFixture[str], records: str
) -> None:
    with small_disk(lab / "small") as disk:
        table = disk / "c.tsv"
        if records == "on another disk":
            (lab / "records").mkdir()
            home_of(table).symlink_to(lab / "records")
        words = certify("small/c.tsv", n=4000)
        words[words.index("--max") + 1] = "160"
        assert main([*words, *ON, "--shards", "2"]) == 0
        home, parts = home_of(table), [Shard(number, 2).part(table) for number in (1, 2)]
        while not all(part.exists() and part.read_bytes().count(b"\n") > 3 for part in parts):
            assert read_queue(home), "it ended before the disk was full"
            time.sleep(0.05)
        ballast = fill(disk)
        states = ends(home)
        assert "ok" not in states.values(), states
        for part in parts:
            assert part.read_bytes().endswith(b"\n")
            assert 3 < len(read_table(part)) < 80
        kept = [{*part.read_bytes().splitlines()} for part in parts]
        if records == "on another disk":
            assert {states["1/2"], states["2/2"]} == {"failed"}
            logs = [log.read_text() for log in home.glob("*/logs/*.err")]
            assert sum("No space left on device; the rows before are kept" in log for log in logs) >= 2, logs
            assert main(["status", "small/c.tsv"]) == 1
            assert "1/2: failed" in capsys.readouterr().out
        assert not table.exists()
        ballast.unlink()
        assert main([*words, *ON, "--shards", "2"]) == 0
        states = ends(home)
        assert states == dict.fromkeys(states, "ok")
        for before, part in zip(kept, parts, strict=True):
            assert before <= {*part.read_bytes().splitlines()}
        words[words.index("small/c.tsv")] = "whole.tsv"
        assert main(words) == 0
        assert rows(table) == rows(Path("whole.tsv"))
        assert not [*disk.glob(".*.tmp")]


def test_of_two_submitters_one_submits(slurm: Slurm, lab: Path) -> None:
    command = [sys.executable, "-m", "dualrs_lab", *certify("c.tsv", n=200), *ON, "--shards", "2"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=os.environ | {"PYTHONPATH": str(ROOT)}) for _ in range(3)]  # fmt: skip
    said = ["".join(one.communicate()) for one in both]
    assert sum("3 tasks in 2 arrays" in one for one in said) == 1, said
    assert all("submitted already" in one or "being written by" in one or "3 tasks" in one for one in said)
    home = home_of(Path("c.tsv"))
    states = ends(home)
    assert states == dict.fromkeys(states, "ok")
    assert len(find_submissions(home)) == 1


def test_several_parts_share_a_task(slurm: Slurm, lab: Path) -> None:
    assert main([*certify("c.tsv", n=200), *ON, "--shards", "4", "--runs-per-gpu", "2", "--wait"]) == 0
    states = ends(home_of(Path("c.tsv")))
    assert states == {"1/4, 2/4": "ok", "3/4, 4/4": "ok", "merge": "ok"}
    assert len(find_parts(Path("c.tsv"))) == 4


def test_five_hundred_tiny_tasks_leave_nothing_behind(slurm: Slurm, lab: Path) -> None:
    works = tuple(Work(name=f"tiny {k}", commands=(("--version",),)) for k in range(500))
    resources, home = Resources(minutes=5, cpus=1), home_of(Path("tiny.tsv"))
    start = time.monotonic()
    told = submit_stages(
        "test", home, [Stage(name="tiny", works=works)], words=["x"], cwd=lab, resources=resources
    )
    assert told is not None
    submitted = time.monotonic() - start
    states = ends(home, seconds=1800)
    taken = time.monotonic() - start
    print(f"500 tasks submitted in {submitted:.1f} s, ended after {taken:.0f} s, {500 / taken:.1f} a second")
    assert {*states.values()} == {"ok"}
    assert len(states) == 500
    assert not slurm.steps()
    assert not [*told.folder.glob("*.tmp")]
