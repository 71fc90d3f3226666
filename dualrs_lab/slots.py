"""Places to run in, each with its device and share of threads; and the end of everything that ran in one."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MARK", "SCRATCH", "Slot", "alive", "birth", "kill_marked", "make_slots", "oom_kills"]

MARK = "DUALRS_RUN"  # environment variable that every process of a run inherits, whatever group it moves to
SCRATCH = "dualrs-"  # how the names of the folders for kernel sockets begin
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
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs {jobs}: want at least 1")
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


def kill_marked(mark: str, groups: Iterable[int] = ()) -> int:
    """Kill every process whose environment holds MARK=`mark`, and the groups; returns how many were marked.

    The environment is what a run's grandchildren cannot leave: data-loader workers whose parent died,
    programs in a session of their own. Without /proc (macOS) only the groups are killed.
    """
    for group in groups:
        _signal(os.killpg, group)
    wanted = f"{MARK}={mark}".encode()
    killed: set[int] = set()
    while new := _marked(wanted) - killed:  # again, for what was forked meanwhile
        for pid in new:
            _signal(os.kill, pid)
        killed |= new
    return len(killed)


def _marked(wanted: bytes) -> set[int]:
    found = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in environ.read_bytes().split(b"\0"):
                found.add(int(environ.parent.name))
        except OSError:  # gone, or another person's
            continue
    return found - {os.getpid()}


def _signal(send: Callable[[int, int], None], target: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(target, signal.SIGKILL)


def oom_kills() -> int:
    """How many processes this machine has killed for want of memory; 0 where the system does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def birth(pid: int) -> str:
    """When a process started, in the system's own count, so that a reused number is not taken for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def alive(pid: int, born: str) -> bool:
    """Whether the process that had this number and birth still runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return birth(pid) == born
