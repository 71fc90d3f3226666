"""Slots keep runs to their device and threads; nothing that a run started outlives it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dualrs_lab.headless import MARK, alive, birth, kill_marked, make_slots, oom_kills
from dualrs_lab.headless.processes import THREADS


def devices(jobs: int | None, text: str, **environment: str) -> list[str | None]:
    return [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in make_slots(jobs, text, environment)]


def test_devices_are_dealt_out() -> None:
    assert devices(None, "auto") == [None]
    assert devices(2, "cpu") == ["", ""]
    assert devices(None, "cuda:0,cuda:1") == ["0", "1"]
    assert devices(3, "cuda:0,cuda:1") == ["0", "1", "0"]
    assert devices(1, "cuda") == ["0"]


def test_devices_count_within_what_is_visible() -> None:
    assert devices(None, "cuda:0,cuda:1", CUDA_VISIBLE_DEVICES="4,GPU-abc") == ["4", "GPU-abc"]
    with pytest.raises(ValueError, match="--devices cuda:2: CUDA_VISIBLE_DEVICES=4,5 has no such device"):
        devices(None, "cuda:2", CUDA_VISIBLE_DEVICES="4,5")


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:a", "", "cpu;cuda"])
def test_unknown_devices_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="want auto, cpu or a list"):
        make_slots(None, text, {})


def test_no_jobs_is_refused() -> None:
    with pytest.raises(ValueError, match="--jobs 0: want a whole number >= 1"):
        make_slots(0, "cpu", {})


def test_threads_are_shared_but_never_raised() -> None:
    cores = len(os.sched_getaffinity(0))
    assert make_slots(1, "cpu", {"OMP_NUM_THREADS": "7"})[0].environment == {"CUDA_VISIBLE_DEVICES": ""}
    shared = make_slots(2, "cpu", {})[0].environment
    assert {shared[name] for name in THREADS} == {str(max(1, cores // 2))}
    assert make_slots(2, "cpu", {"OMP_NUM_THREADS": "1"})[0].environment["OMP_NUM_THREADS"] == "1"
    assert make_slots(99, "cpu", {})[0].environment["OMP_NUM_THREADS"] == "1"


def test_a_device_that_the_driver_does_not_know_keeps_its_name() -> None:
    assert make_slots(None, "cpu", {})[0].describe() == "cpu"
    assert make_slots(None, "cuda:7", {})[0].describe().startswith("cuda:7")


ESCAPE = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
open(sys.argv[1], "w").write(str(child.pid))
"""


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether the process ends in time; a zombie that nobody waits for has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_an_orphan_in_its_own_session_is_found_by_its_mark(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    mark = f"test-{os.getpid()}"
    subprocess.run([sys.executable, "-c", ESCAPE, str(file)], env={**os.environ, MARK: mark}, check=True)
    pid = int(file.read_text())
    assert kill_marked(mark + "0") == 0
    assert not gone(pid, 0.2)
    assert kill_marked(mark) == 1
    assert gone(pid)


def test_groups_are_killed_and_missing_ones_are_no_error() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    leader = process.pid, birth(process.pid)
    kill_marked("no such mark", [leader])
    assert process.wait(10) == -9
    kill_marked("no such mark", [leader])


def test_a_group_whose_number_is_another_s_by_now_is_spared() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    try:
        assert kill_marked("no such mark", [(process.pid, birth(process.pid) + "0")]) == 0
        assert process.poll() is None
        assert not gone(process.pid, 0.2)
    finally:
        process.kill()
        process.wait()


FAMILY = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
bare = subprocess.Popen(sleep, start_new_session=True, env={})
other = subprocess.Popen(sleep, start_new_session=True, env={sys.argv[2]: "another run"})
print(bare.pid, other.pid, file=open(sys.argv[1], "w"), flush=True)
time.sleep(300)
"""


def test_descendants_without_a_mark_end_too_but_not_those_of_another_run(tmp_path: Path) -> None:
    file, mark = tmp_path / "pids", f"family-{os.getpid()}"
    command = [sys.executable, "-c", FAMILY, str(file), MARK]
    parent = subprocess.Popen(command, env={**os.environ, MARK: mark})
    while not (file.is_file() and file.read_text().endswith("\n")):
        assert parent.poll() is None
        time.sleep(0.02)
    bare, other = (int(text) for text in file.read_text().split())
    try:
        assert kill_marked(mark) == 2
        assert parent.wait(10) == -9
        assert gone(bare)
        assert not gone(other, 0.2)
    finally:
        os.kill(other, 9)


def test_a_reused_number_is_another_process() -> None:
    assert alive(os.getpid(), birth(os.getpid()))
    process = subprocess.Popen([sys.executable, "-c", ""])
    born = birth(process.pid)
    process.wait()
    assert not alive(process.pid, born)
    assert not alive(os.getpid(), birth(os.getpid()) + "0")
    assert not alive(process.pid, "")


def test_a_process_that_nobody_waits_for_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    born = birth(process.pid)
    assert alive(process.pid, born)
    process.kill()
    assert gone(process.pid)
    assert Path(f"/proc/{process.pid}").exists()  # as a zombie
    assert not alive(process.pid, born)
    process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="counts from boot on Linux only")
def test_a_birth_is_counted_from_boot_whatever_the_clock_says() -> None:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert float(birth(os.getpid())) == pytest.approx(ticks / os.sysconf("SC_CLK_TCK"), abs=0.006)


def test_the_count_of_memory_kills_is_a_number() -> None:
    assert oom_kills() >= 0
