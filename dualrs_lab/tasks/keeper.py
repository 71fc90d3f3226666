"""The process that keeps a task: it runs the command of a folder to its end and writes down what that was.

It is in a session of its own, so it goes on when the notebook that started it is closed. SIGINT asks the
command to stop, as Ctrl-C does in a terminal; who does not within `GRACE` seconds is killed.
"""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from dualrs_lab.files import replace_json
from dualrs_lab.headless.log import Log
from dualrs_lab.headless.processes import birth, found_by_python
from dualrs_lab.headless.reading import parse_json, read_text
from dualrs_lab.headless.status import now

__all__ = ["GRACE", "PATIENCE", "keep_task"]


GRACE = 30.0  # seconds


PATIENCE = 10.0  # seconds until there must be a record


def keep_task(folder: Path) -> int:
    """Run the command that `folder`/task.json tells; returns its exit code, which is written there.

    ValueError where no record comes that names this process: who started it died before writing one.
    """
    record = _own_record(folder)
    asked: list[float] = []
    log = Log(folder / "log.txt")
    # SIGINT that is ignored, as by what a script starts with &, is ignored by all that begin under it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(
        [sys.executable, "-m", "dualrs_lab", *record["command"]],
        cwd=record["cwd"],
        stdin=subprocess.DEVNULL,
        stdout=log.pipe,
        stderr=log.pipe,
        env=found_by_python(os.environ | {"PYTHONUNBUFFERED": "1"}),
        start_new_session=True,
    )
    log.close_pipe()
    record |= {"child": {"pid": child.pid, "born": birth(child.pid), "host": platform.node()}}
    replace_json(folder / "task.json", record)

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        _tell(child.pid, signal.SIGINT)
        if len(asked) == 1:
            signal.setitimer(signal.ITIMER_REAL, GRACE)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, lambda number, frame: _tell(child.pid, signal.SIGKILL))
    code = child.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    _tell(child.pid, signal.SIGKILL)  # what it left behind
    log.close()
    state = "stopped" if asked and code else "ok" if code == 0 else "failed"
    replace_json(folder / "task.json", record | {"state": state, "code": code, "finished": now()})
    return code


def _own_record(folder: Path) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            record: dict[str, Any] = parse_json(read_text(folder / "task.json"), "task.json")
            if record["keeper"]["pid"] == os.getpid():
                return record
        time.sleep(0.02)
    raise ValueError(f"keep_task: {folder.name} is not for process {os.getpid()} to keep")


def _tell(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    keep_task(Path(sys.argv[1]))
