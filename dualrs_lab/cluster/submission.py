"""What was submitted, and how each task is: records on the shared disk, which no scheduler is asked for.

The submissions of one thing, such as `c.tsv` or the runs of a folder, lie in one folder (`home_of`), by
number. `submission.json` says what was asked, and `task-K.json` how task K is, written by that task alone.
While it runs it touches `task-K.beat`: a node that dies, or a kill -9, is noticed because that stops.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualrs_lab.files import digest, replace_json
from dualrs_lab.headless.reading import parse_json, read_text
from dualrs_lab.headless.status import now

__all__ = [
    "BEAT",
    "LOST_AFTER",
    "TASK_ENDS",
    "Stage",
    "Submission",
    "Submitted",
    "Work",
    "find_submissions",
    "home_of",
    "queue_name",
]


BEAT = 10.0  # seconds between two touches


LOST_AFTER = 90.0  # seconds without one


TASK_ENDS = ("ok", "failed")
"""How a task can have ended; one that was stopped or preempted begins again if it is still in the queue."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One task of an array: commands of `dualrs-lab` that run side by side, and what to call it."""

    name: str
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """An array of tasks. It begins when those of the stages `after` have ended, well or not.

    With `paired` its K-th task waits for the K-th of each of them only.
    """

    name: str
    works: tuple[Work, ...]
    after: tuple[str, ...] = ()
    paired: bool = False


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A task as it is: `state` is queued, running, ok, failed, stopped, preempted or lost."""

    name: str
    job: str
    state: str
    attempts: int
    host: str


def home_of(target: Path) -> Path:
    """The folder of the submissions that make `target`: a table, or the folder of runs."""
    return target.with_suffix(".slurm") if target.suffix == ".tsv" else target / ".slurm"


def queue_name(home: Path) -> str:
    """What all jobs of submissions in `home` are called, so that they are found whatever was recorded."""
    return f"dualrs-{digest(str(home.resolve()))}"


@dataclass(frozen=True)
class Submission:
    """One submission, by its folder."""

    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        """What submission.json says; ValueError for a file that is none."""
        found = parse_json(read_text(self.folder / "submission.json"), "submission.json")
        if not isinstance(found, dict) or not isinstance(found.get("tasks"), list):
            raise ValueError(f"{self.folder}: submission.json is no record of a submission")
        return found

    def write(self, words: Sequence[str], tasks: Sequence[Mapping[str, Any]]) -> None:
        """Record what was asked for and the tasks, each with its name and job ("" before it has one)."""
        path = self.folder / "submission.json"
        since = self.record["submitted"] if path.exists() else now()
        replace_json(path, {"command": [*words], "submitted": since, "tasks": [dict(task) for task in tasks]})

    def note(self, number: int, **fields: Any) -> None:
        """Change what is known of a task; for the task itself."""
        replace_json(self.folder / f"task-{number}.json", self.known(number) | fields)

    def known(self, number: int) -> dict[str, Any]:
        """What task `number` wrote last; empty before it began, and where that cannot be read."""
        try:
            found = parse_json(read_text(self.folder / f"task-{number}.json"), "task")
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def beat(self, number: int) -> None:
        """Tell that task `number` lives."""
        (self.folder / f"task-{number}.beat").touch()

    def tasks(self, queue: Mapping[str, str] | None = None) -> list[Submitted]:
        """Every task as it is now; `queue` tells the state of each job that Slurm has, None: not asked."""
        clock = self._clock()
        found = []
        for number, told in enumerate(self.record["tasks"]):
            known = self.known(number)
            job = str(told["job"])
            queued = None if queue is None else _in_queue(job, queue)
            state = _state(known, self._beaten(number, clock), queued)
            host = str(known.get("host", ""))
            found.append(
                Submitted(
                    name=told["name"], job=job, state=state, attempts=known.get("attempts", 0), host=host
                )
            )
        return found

    def _clock(self) -> float:
        # of the disk, not of this machine: the clocks of two may differ by more than a beat
        mark = self.folder / f".clock-{os.getpid()}"
        try:
            mark.touch()
            return mark.stat().st_mtime
        finally:
            mark.unlink(missing_ok=True)

    def _beaten(self, number: int, clock: float) -> bool:
        try:
            return clock - (self.folder / f"task-{number}.beat").stat().st_mtime < LOST_AFTER
        except FileNotFoundError:
            return False


def _in_queue(job: str, queue: Mapping[str, str]) -> str:
    # what Slurm says of a job, "" if it has none; a task that has not begun may stand for its array
    return queue.get(job, queue.get(job.partition("_")[0], "") if job else "")


def _state(known: Mapping[str, Any], beaten: bool, queued: str | None) -> str:
    state = str(known.get("state", "queued"))
    if state in TASK_ENDS:
        return state
    if state == "running" and beaten and queued != "PENDING":
        return "running"
    if queued == "" or (queued is None and state == "running"):
        return "lost" if state in ("queued", "running") else state
    return "lost" if state == "running" and queued == "RUNNING" else "queued"


def find_submissions(home: Path) -> list[Submission]:
    """All submissions in `home`, the last one first."""
    if not home.is_dir():
        return []
    numbers = sorted(
        (int(path.name) for path in home.iterdir() if re.fullmatch(r"\d{1,9}", path.name)), reverse=True
    )
    return [
        Submission(home / str(number))
        for number in numbers
        if (home / str(number) / "submission.json").is_file()
    ]
