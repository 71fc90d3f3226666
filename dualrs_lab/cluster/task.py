"""What runs in a task of an array: commands side by side, ended politely, told to the shared disk."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dualrs_lab.cluster.submission import BEAT, Submission
from dualrs_lab.headless.processes import THREADS, found_by_python
from dualrs_lab.headless.status import TASK, now
from dualrs_lab.locks import LOCK_WAIT

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

__all__ = ["ClusterTask"]


GRACE = 20.0  # seconds in which a command may end when it is asked to; Slurm gives 30 by default


WAIT = (
    180  # seconds for which a command waits for the lock of a file: that of a dead node is given back by then
)


_CHILDREN: list[subprocess.Popen[bytes]] = []  # of the one task of this process


@dataclass(frozen=True, kw_only=True)
class ClusterTask:
    """Task `number` of a submission, as submitit pickles and calls it, again after each preemption.

    All commands go on where they stopped, so calling them once more repeats nothing that was done. With
    `followed` another task waits for this one and judges it by our records, so it ends well for Slurm.
    """

    folder: str
    number: int
    key: str  # the same for all tasks that do this work, in every submission
    commands: tuple[tuple[str, ...], ...]
    cwd: str
    followed: bool

    def __call__(self) -> int:
        """Run the commands; returns the largest of their exit codes, ValueError where that is not 0."""
        told, asked, over = Submission(Path(self.folder)), list[int](), threading.Event()

        def stop(number: int, frame: object) -> None:
            asked.append(number)
            _interrupt()

        signal.signal(signal.SIGTERM, stop)
        told.beat(self.number)
        attempts = int(told.known(self.number).get("attempts", 0)) + 1
        told.note(self.number, state="running", attempts=attempts, host=platform.node(), started=now())
        beats = threading.Thread(target=_beat, args=(told, self.number, over), daemon=True)
        beats.start()
        try:
            environment = self._environment()
            for words in self.commands:
                command = [sys.executable, "-m", "dualrs_lab", *words]
                _CHILDREN.append(
                    subprocess.Popen(command, cwd=self.cwd, env=environment, start_new_session=True)
                )
            codes = [_code(child.wait()) for child in _CHILDREN]
        finally:
            over.set()
        if asked and any(codes):  # Slurm says whether that was the end of it
            told.note(self.number, state="stopped", finished=now())
            return 0 if self.followed else self._failed(max(codes))
        told.note(self.number, state="failed" if any(codes) else "ok", code=max(codes), finished=now())
        return 0 if self.followed or not any(codes) else self._failed(max(codes))

    def checkpoint(self) -> "DelayedSubmission":
        """Before a preemption or the end of its time: stop the commands, and have the same called again."""
        _interrupt()
        until = time.monotonic() + GRACE
        for child in _CHILDREN:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, until - time.monotonic()))
            _signal(child, signal.SIGKILL)
        Submission(Path(self.folder)).note(self.number, state="preempted", finished=now())
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _environment(self) -> dict[str, str]:
        own = os.environ | {TASK: self.key, LOCK_WAIT: str(WAIT), "PYTHONUNBUFFERED": "1"}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        share = int(os.environ.get("SLURM_CPUS_PER_TASK") or cores) // len(self.commands)
        return found_by_python({name: str(max(1, share)) for name in THREADS} | own)

    def _failed(self, code: int) -> int:
        raise ValueError(f"a command of {self.key} ended with {code}; what it said stands above")


def _beat(told: Submission, number: int, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):  # a full disk takes no beat: the next may be taken again
            told.beat(number)


def _interrupt() -> None:
    # as Ctrl-C: notebooks are recorded as interrupted, tables end with a whole row
    for child in _CHILDREN:
        _signal(child, signal.SIGINT)


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)


def _code(code: int) -> int:
    return code if code >= 0 else 128 - code
