"""Commands that go on when the notebook that started them does not: start, watch, stop, resume.

A task is a `dualrs-lab` command in a folder of its own: task.json says what it is and how it ended, log.txt
what it printed. Any process can find it again, such as a kernel that was started anew. Commands go on where
they stopped, so resuming a task is calling its command once more.
"""

import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualrs_lab.afar.address import want_no_secret
from dualrs_lab.files import replace_json
from dualrs_lab.headless.processes import alive, birth, found_by_python
from dualrs_lab.headless.reading import parse_json, printable, read_tail, read_text
from dualrs_lab.headless.status import now
from dualrs_lab.locks import writing
from dualrs_lab.tasks.bars import TAIL, Bar, bars_of

__all__ = ["TASK_STATES", "Task", "find_tasks", "start_task"]


TASK_STATES = ("running", "ok", "failed", "stopped", "interrupted", "damaged")
"""How a task is: `interrupted` ended without a word, as by kill -9; `damaged` cannot be read."""


@dataclass(frozen=True)
class Task:
    """The command whose record lies in `folder`; what it says is read anew each time."""

    folder: Path

    @property
    def name(self) -> str:
        """Its folder's."""
        return self.folder.name

    @property
    def record(self) -> dict[str, Any]:
        """What task.json says, with `state` as it is now; a file that is none reads as a damaged task."""
        try:
            found = parse_json(read_text(self.folder / "task.json"), "task.json")
            if found["state"] not in TASK_STATES or not all(
                isinstance(word, str) for word in found["command"]
            ):
                raise ValueError("task.json is no record of a task")
            if found["state"] == "running" and not (_lives(found["keeper"]) or _lives(found.get("child"))):
                return dict(found) | {"state": "interrupted"}
            return dict(found)
        except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
            return {"state": "damaged", "command": [], "message": str(error)}

    @property
    def state(self) -> str:
        """One of `TASK_STATES`."""
        return str(self.record["state"])

    @property
    def command(self) -> list[str]:
        """The words after `dualrs-lab`."""
        return list(self.record["command"])

    @property
    def bars(self) -> list[Bar]:
        """How far it is, one bar for each thing that it does."""
        return bars_of(self.folder)

    def tail(self, lines: int = 12) -> str:
        """The last lines that it printed; of a line that a bar overwrote, the last state."""
        whole = read_tail(self.folder / "log.txt", TAIL).rstrip().split("\n")
        return "\n".join(printable(line.rstrip("\r").rpartition("\r")[2]) for line in whole[-lines:])

    def stop(self) -> None:
        """Ask it to stop, as Ctrl-C does: what is done is kept. ValueError where it does not run."""
        record = self.record
        if record["state"] != "running":
            raise ValueError(f"Task.stop: {self.name} does not run, it is {record['state']}")
        if _lives(record["keeper"]):
            os.kill(record["keeper"]["pid"], signal.SIGINT)
        else:  # it was killed, and the command goes on without it
            os.killpg(record["child"]["pid"], signal.SIGINT)

    def resume(self) -> "Task":
        """Call its command once more, where it was called; it goes on. ValueError while it runs."""
        record = self.record
        if record["state"] == "damaged":
            raise ValueError(f"Task.resume: {self.name} cannot be read: {record['message']}; start it anew")
        return start_task(record["command"], name=self.name, out=self.folder.parent, cwd=record["cwd"])

    def wait(self, seconds: float = 60.0) -> str:
        """Until it has ended, at most so long; returns its state."""
        until = time.monotonic() + seconds
        while (state := self.state) == "running" and time.monotonic() < until:
            time.sleep(0.05)
        return state


def start_task(
    command: Sequence[str], *, name: str = "", out: str | Path = "runs/tasks", cwd: str | Path | None = None
) -> Task:
    """Start `dualrs-lab` with these words, and return at once; it goes on when this process ends.

    `name` is that of its folder under `out` (default: the command and the next free number), `cwd` where it
    is called (default: here). Raises ValueError for a name that is none, and where a task of that name runs.
    """
    words = [str(word) for word in command]
    if not words:
        raise ValueError("start_task: got no command; wanted words such as certify --checkpoint FILE …")
    want_no_secret("start_task", words, "the record of the task")
    folder = Path(out).resolve() / (name or _free_name(Path(out), words[0]))
    if not re.fullmatch(r"[\w@=+-][\w.@=+-]*", folder.name) or folder.parent != Path(out).resolve():
        raise ValueError(f"start_task: got the name {name!r}; wanted letters, digits and .-_=@+ only")
    folder.mkdir(parents=True, exist_ok=True)
    task = Task(folder)
    with writing("start_task", folder / "task.json"):
        if (folder / "task.json").exists() and task.state == "running":
            raise ValueError(f"start_task: {folder.name} runs; stop it first, or choose another name")
        keeper = _keeper(folder)  # it waits for a record that names it
        told = {"pid": keeper, "born": birth(keeper), "host": platform.node()}
        record = {"command": words, "cwd": str(Path(cwd or Path.cwd()).resolve()), "keeper": told}
        replace_json(folder / "task.json", record | {"state": "running", "started": now()})
    return task


def _lives(process: dict[str, Any] | None) -> bool:
    if process is None:
        return False
    # of another machine nobody can tell
    return process["host"] != platform.node() or alive(process["pid"], process["born"])


def _keeper(folder: Path) -> int:
    # No child of this process, which need not wait for it: a child of one that ends at once.
    code = (
        "import subprocess as s, sys; silent = dict.fromkeys(('stdin', 'stdout', 'stderr'), s.DEVNULL); "
        "keeper = [sys.executable, '-m', 'dualrs_lab.tasks.keeper', sys.argv[1]]; "
        "print(s.Popen(keeper, **silent, start_new_session=True).pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        check=True,
        capture_output=True,
        text=True,
        env=found_by_python(os.environ),
    )
    return int(done.stdout)


def _free_name(out: Path, command: str) -> str:
    taken = {path.name for path in out.iterdir()} if out.is_dir() else set()
    return next(name for k in range(1, len(taken) + 2) if (name := f"{command}-{k}") not in taken)


def find_tasks(out: str | Path = "runs/tasks") -> list[Task]:
    """Every task under `out`, the one that was started last first."""
    folder = Path(out).resolve()
    found = [Task(path.parent) for path in folder.glob("*/task.json")]
    return sorted(found, key=lambda task: (str(task.record.get("started", "")), task.name), reverse=True)
