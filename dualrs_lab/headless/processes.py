"""Places to run in, each with its device and share of threads; and the end of everything that ran in one.

As a program (`python -m dualrs_lab.headless.processes`) it is the guard of a runner, see `Guard`.
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader

from dualrs_lab.settings import Range

if TYPE_CHECKING:
    import psutil
else:  # when it is first used: a browser's Python, which runs nothing in processes, has none
    psutil = lazy_loader.load("psutil")

__all__ = [
    "JOBS",
    "MARK",
    "SCRATCH",
    "Guard",
    "Slot",
    "adopt_orphans",
    "alive",
    "birth",
    "found_by_python",
    "kill_marked",
    "make_slots",
    "oom_kills",
]


MARK = "DUALRS_RUN"  # environment variable that every process of a run inherits, whatever group it moves to


SCRATCH = "dualrs-"  # how the names of the folders for kernel sockets begin


JOBS = Range(whole=True, least=1, most=1000)  # each is a process with a kernel


PR_SET_CHILD_SUBREAPER = 36  # of Linux, see prctl(2)


THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Room for one run: `device` as the person wrote it, and the environment that keeps a run to it."""

    device: str
    environment: Mapping[str, str]

    def describe(self) -> str:
        """The device's product name where the driver tells it, for the record."""
        if not self.device.startswith("cuda"):
            return self.device
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        query += [f"--id={self.environment['CUDA_VISIBLE_DEVICES']}"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return self.device
        return f"{self.device} {done.stdout.strip()}"


def make_slots(jobs: int | None, devices: str, environment: Mapping[str, str] = os.environ) -> list[Slot]:
    """One slot for each of `jobs` runs at a time, dealt out over `devices`.

    `devices`: "auto" (whatever the notebooks find), "cpu", or CUDA devices such as "cuda:0,cuda:1", counted
    within CUDA_VISIBLE_DEVICES if that is set. Without `jobs`: one for each device. ValueError for all else.
    """
    names = [name.strip() for name in devices.split(",")]
    if bad := [name for name in names if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name)]:
        raise ValueError(f"--devices {bad[0]!r}: want auto, cpu or a list such as cuda:0,cuda:1")
    if jobs is not None and jobs not in JOBS:
        raise ValueError(f"--jobs {jobs}: want {JOBS}")
    number = jobs or len(names)
    visible = [text for text in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if text]
    return [
        Slot(device=name, environment=_visible(name, visible) | _threads(number, environment))
        for name in (names[i % len(names)] for i in range(number))
    ]


def _visible(device: str, visible: list[str]) -> dict[str, str]:
    if device == "auto":
        return {}
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    index = int(device.partition(":")[2] or 0)
    if not visible:
        return {"CUDA_VISIBLE_DEVICES": str(index)}
    if index >= len(visible):
        raise ValueError(f"--devices {device}: CUDA_VISIBLE_DEVICES={','.join(visible)} has no such device")
    return {"CUDA_VISIBLE_DEVICES": visible[index]}


def _threads(number: int, environment: Mapping[str, str]) -> dict[str, str]:
    """An even share of the cores, or less where the person set less; one run alone keeps what it has."""
    if number == 1:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, cores // number)
    own = {name: environment.get(name, "") for name in THREADS}
    return {name: str(min(share, int(text)) if text.isdigit() else share) for name, text in own.items()}


def found_by_python(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, such that `python -m` finds the package also in a checkout that is not installed."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file():
        return dict(environment)
    paths = [str(checkout), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none gets out of sight (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_marked(mark: str, groups: Iterable[tuple[int, str]] = (), pipe: str = "") -> int:
    """Kill every process of the run MARK=`mark`, and the groups; returns how many processes were found.

    The environment is what a run's grandchildren rarely leave: data-loader workers whose parent died,
    programs in a session of their own. Those without it are found while they descend from one that has it,
    or print into the run's log: `pipe`, as Linux calls it ("pipe:[123]"). A group is known by its leader's
    number and birth, and left alone where another has that number by now.
    """
    for leader, born in groups:
        if birth(leader) in (born, ""):  # without its leader a group keeps its number as long as it lasts
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(leader, signal.SIGKILL)
    killed: set[psutil.Process] = set()
    while new := _members(mark, pipe) - killed:  # again, for what was forked meanwhile
        for process in new:
            with contextlib.suppress(psutil.Error):
                process.kill()  # checks that the number has not passed to another since
        killed |= new
    return len(killed)


def _members(mark: str, pipe: str) -> "set[psutil.Process]":
    """The processes of a run, this one aside; a run started within it has its own mark and its own end."""
    found: set[psutil.Process] = set()
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error):  # gone meanwhile
            process = psutil.Process(pid)
            own = _mark(process)
            if process not in found and (own == mark or (own is None and pipe and _prints_to(pid, pipe))):
                below = process.children(recursive=True)
                found |= {process, *(one for one in below if _mark(one) in (mark, None))}
    return found - {psutil.Process()}


def _prints_to(pid: int, pipe: str) -> bool:
    for number in (1, 2):
        with contextlib.suppress(OSError):  # gone, another person's, or no Linux
            if os.readlink(f"/proc/{pid}/fd/{number}") == pipe:
                return True
    return False


def _mark(process: "psutil.Process") -> str | None:
    try:
        return process.environ().get(MARK)
    except psutil.Error:  # gone, or another person's
        return None


def oom_kills() -> int:
    """How many processes this machine has killed for want of memory; 0 where the system does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def birth(pid: int) -> str:
    """When a process started, so that a reused number is not taken for it; "" where none runs.

    On Linux in seconds since boot: psutil adds the time of boot, which moves when the clock is set.
    """
    boot = psutil.boot_time() if psutil.LINUX else 0.0
    try:
        process = psutil.Process(pid)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return "" if zombie else f"{process.create_time() - boot:.2f}"
    except psutil.Error:
        return ""


def alive(pid: int, born: str) -> bool:
    """Whether the process that had this number and birth still runs."""
    return birth(pid) == born != ""


def raise_on_terminate() -> None:
    """Let a polite kill (SIGTERM) cancel the runs as Ctrl-C does."""

    def cancel(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, cancel)


class Guard:
    """A process that outlives this one, to end its runs if it is gone without a word (as by kill -9).

    Each run's own process does that too; but both may go at once. What is left if the guard goes with them,
    the next runner on the same folder ends: the mark of a run stands in its record.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=found_by_python(os.environ),
            start_new_session=True,
        )

    def watch(self, mark: str, scratch: str, pipe: str) -> None:
        """From now on the run of this mark ends with this process."""
        self._say({"watch": mark, "scratch": scratch, "pipe": pipe})

    def release(self, mark: str) -> None:
        """It has ended."""
        self._say({"release": mark})

    def close(self) -> None:
        """Let the guard go."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, event: Mapping[str, str]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it was killed: then only the next runner would know
            self._process.stdin.write(json.dumps(event).encode() + b"\n")
            self._process.stdin.flush()


def _stand_guard() -> None:
    watched: dict[str, dict[str, str]] = {}
    for line in sys.stdin:  # until the runner is gone, whatever its end
        if not line.endswith("\n"):  # it was killed while it wrote
            break
        event = json.loads(line)
        if "watch" in event:
            watched[event["watch"]] = event
        else:
            watched.pop(event["release"], None)
    for mark, event in watched.items():
        kill_marked(mark, pipe=event["pipe"])
        shutil.rmtree(event["scratch"], ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its runner's to hear
    _stand_guard()
