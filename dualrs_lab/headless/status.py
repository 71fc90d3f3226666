"""The truth about each run: one `status.json` in its folder, written whole by the runner and by nobody else.

An executed notebook cannot tell: papermill marks cells of a timed-out or dead kernel as completed. A folder
in which that record, or what the run recorded, cannot be read is a damaged run: it is named and counted,
harms no other, and is made again when it is asked for.
"""

import fcntl
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dualrs_lab.files import replace_json, set_aside
from dualrs_lab.gallery import CARD
from dualrs_lab.headless.plan import FILES, Run
from dualrs_lab.headless.processes import alive, birth
from dualrs_lab.headless.reading import encodable, parse_json, printable, read_text

__all__ = [
    "STATES",
    "TASK",
    "Found",
    "Status",
    "all_statuses",
    "alone",
    "as_of_now",
    "begin_run",
    "damaged",
    "find_runs",
    "is_done",
    "keep_aside",
    "now",
    "read_files",
    "read_records",
    "read_run",
    "read_status",
    "records_fault",
    "run_folders",
    "write_status",
]


OPEN = ("queued", "running")


STATES = (*OPEN, "ok", "error", "timeout", "killed", "dead-kernel", "interrupted", "blocked", "damaged")


WANTED: Mapping[str, type] = {
    "run": str, "notebook": str, "point": str, "state": str, "message": str, "queued": str,
    "parameters": dict, "given": dict, "runner": dict, "provenance": dict,
}  # fmt: skip


IF_PRESENT: Mapping[str, type | tuple[type, ...]] = {
    "key": str, "mark": str, "started": str, "finished": str, "device": str, "traceback": str,
    "seconds": (int, float), "cells": list,
}  # fmt: skip


RECORDS_LIMIT = 64_000_000  # bytes that one run may record


TASK = "DUALRS_TASK"
"""The environment variable of a task of a cluster: whose work it is, the same when it is done again.

There is one task at a time for it, so a run that an earlier one had in hand is taken over.
"""


PATIENCE = 30.0  # seconds to wait for another runner that reads and writes records


Status = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the folder of a run says: its record, and the values that its notebook recorded."""

    folder: Path
    status: Status
    records: Mapping[str, Any]


def now() -> str:
    """The time as the records write it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """No other runner reads or writes records under `out` meanwhile. ValueError if one does not let go."""
    with _lock_file(out).open("ab") as file:
        until = time.monotonic() + PATIENCE
        while not _locked(file.fileno()):
            if time.monotonic() > until:
                raise ValueError(
                    f"another runner holds {out} for {PATIENCE:g} s; is it stopped? End it first"
                )
            time.sleep(0.02)
        yield


def _lock_file(out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    return out / ".lock"


def _locked(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back when the file is closed, or we die
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: the records tell runners of each other, if not at once
        return True
    return True


def begin_run(run: Run, *, profile: str, provenance: Mapping[str, object]) -> Status:
    """The record of a run that is waiting. ValueError if another living runner has the same run."""
    old, task = read_status(run.folder), os.environ.get(TASK, "")
    taken_over = task and old.get("runner", {}).get("task") == task
    if old.get("state") in OPEN and old["runner"]["pid"] != os.getpid() and not taken_over:
        raise ValueError(
            f"run {run.name} is in the hands of process {old['runner']['pid']} on {old['runner']['host']}; "
            f"wait for it, or delete {run.folder} if that runner is gone, or choose another --out"
        )
    return {
        "run": run.name,
        "notebook": run.notebook.stem,
        "point": run.point,
        "state": "queued",
        "message": "",
        "key": run.key,
        "source_hash": run.source,
        "parameters": dict(run.parameters),
        "given": dict(run.given),
        "seed": run.parameters.get("seed"),
        "needs": list(run.needs),
        "profile": profile,
        "queued": now(),
        "runner": {"pid": os.getpid(), "born": birth(os.getpid()), "host": platform.node(), "task": task},
        "provenance": dict(provenance),
    }


def write_status(run: Run, status: Status) -> None:
    """Replace the record; a reader never sees half of it. What is no file or folder there is set aside."""
    path = run.folder / "status.json"
    if os.path.lexists(run.folder) and not run.folder.is_dir():
        set_aside(run.folder)
    if path.is_dir():
        set_aside(path)
    replace_json(path, status)


def keep_aside(run: Run) -> list[Path]:
    """Rename all that a damaged run left, so that it can be made again and nothing is lost."""
    name = run.notebook.stem
    if os.path.lexists(run.folder) and not run.folder.is_dir():
        return set_aside(run.folder)
    names = ("status.json", "records.jsonl", "log.txt", CARD, f"{name}.ipynb", f"{name}.html")
    return set_aside(*(run.folder / one for one in names))


def read_status(folder: Path) -> Status:
    """The record in a run's folder, {} without one. A run whose runner has died reads as interrupted."""
    return read_run(folder).status


def read_records(folder: Path) -> dict[str, Any]:
    """What a run recorded so far, failed or not: the last of each name; unfinished lines are left out."""
    return _records(folder)[0]


def records_fault(folder: Path) -> str:
    """What is wrong with the file of a run's records, or nothing."""
    return _records(folder)[1]


def read_run(folder: Path) -> Found:
    """All that is known of a run; one that cannot be read is "damaged", with what is wrong as its message."""
    found = read_files(folder)
    return replace(found, status=as_of_now(found.status))


def read_files(folder: Path) -> Found:
    """As `read_run`, but a run that is queued or running reads so even if its runner has died."""
    records, fault = _records(folder)
    try:
        status = _checked(parse_json(read_text(folder / "status.json"), "status.json"), folder)
    except FileNotFoundError:
        status = {}
    except ValueError as error:
        status = _unreadable(folder, str(error))
    if fault and status.get("state", "queued") not in OPEN:
        status = damaged(status, fault)
    return Found(folder=folder, status=status, records=records)


def as_of_now(status: Status, *, lives: Callable[[int, str], bool] = alive) -> Status:
    """A record of `read_files` as it is now, when its runner may have died; `lives` tells of a process."""
    runner = status.get("runner", {})
    if status.get("state") not in OPEN or runner["host"] != platform.node():
        return status
    if lives(runner["pid"], runner["born"]):
        return status
    return status | {"state": "interrupted", "message": f"its runner ended while it was {status['state']}"}


def damaged(status: Status, fault: str) -> Status:
    """A record that says what is wrong with the run's files, and how the run itself had ended."""
    if status["state"] == "damaged":
        return status
    ended = f"{status['state']}: {status['message']}" if status["message"] else status["state"]
    return status | {"state": "damaged", "message": f"{fault}; it had ended as {ended}"}


def _unreadable(folder: Path, fault: str) -> Status:
    run = printable(folder.name)
    notebook, _, point = run.partition("@")
    return {
        "run": run, "notebook": notebook, "point": point, "state": "damaged", "message": printable(fault),
        "key": "", "parameters": {}, "given": {}, "needs": [], "queued": "",
        "runner": {"pid": 0, "born": "", "host": ""}, "provenance": {},
    }  # fmt: skip


def _checked(status: Any, folder: Path) -> Status:
    """A record with all that its readers rely on; ValueError for what is none."""
    if not isinstance(status, dict):
        raise ValueError("status.json is no record of a run")
    for key, kind in [*WANTED.items(), *((key, kind) for key, kind in IF_PRESENT.items() if key in status)]:
        if not isinstance(status.get(key), kind):
            raise ValueError(f"status.json is no record of a run: {key} is {_what(status.get(key))}")
    if status["state"] not in STATES:
        raise ValueError(f"status.json is no record of a run: no run ends as {status['state']!r}")
    if status["run"] != folder.name or "/" in status["notebook"]:
        raise ValueError(f"status.json is the record of another run, {status['run']!r}")
    runner, cells = status["runner"], status.get("cells", [0, 0])
    whole = type(runner.get("pid")) is int and 0 <= runner["pid"] < 2**31
    if not whole or not all(isinstance(runner.get(key), str) for key in ("born", "host")):
        raise ValueError("status.json is no record of a run: it does not say who ran it")
    if len(cells) != 2 or not math.isfinite(status.get("seconds", 0)):
        raise ValueError("status.json is no record of a run: its cells or seconds are none")
    return status


def _what(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def _records(folder: Path) -> tuple[dict[str, Any], str]:
    """The values that a run recorded, and what is wrong with the file; its good lines count all the same."""
    values: dict[str, Any] = {}
    fault = ""
    try:
        *lines, _unfinished = read_text(folder / "records.jsonl", largest=RECORDS_LIMIT).split("\n")
    except FileNotFoundError:
        return values, ""
    except ValueError as error:
        return values, str(error)
    for number, line in enumerate(lines, 1):
        try:
            new = parse_json(line, f"line {number} of records.jsonl")
            if not isinstance(new, dict):
                raise ValueError(f"line {number} of records.jsonl holds no values by name")
            values |= new
        except ValueError as error:
            fault = fault or str(error)
    return values, encodable(fault)


def run_folders(out: Path) -> list[Path]:
    """The folders under `out` in which a runner keeps a record, readable or not, by name."""
    try:
        folders = sorted(out.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder for folder in folders if folder.name != FILES and _holds_record(folder)]


def _holds_record(folder: Path) -> bool:
    try:
        os.lstat(f"{folder}/status.json")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # a folder that may not be looked into
        return True
    return True


def find_runs(out: Path) -> list[Found]:
    """Every run under an output folder, by name."""
    found = [read_run(folder) for folder in run_folders(out)]
    return [one for one in found if one.status]  # its record may just have been removed


def all_statuses(out: Path) -> list[Status]:
    """The records of every run under an output folder, by name."""
    return [found.status for found in find_runs(out)]


def is_done(run: Run) -> bool:
    """Whether exactly this run (by its key) has ended well, and what it left is still there."""
    status = read_status(run.folder)
    kept = (run.folder / f"{run.notebook.stem}.ipynb").is_file() and (run.files is None or run.files.is_dir())
    same_place = status.get("parameters", {}).get("folder") == run.parameters.get("folder")
    return status.get("state") == "ok" and status.get("key") == run.key and same_place and kept
