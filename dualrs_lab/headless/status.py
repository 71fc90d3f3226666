"""The truth about each run: one `status.json` in its folder, written whole by the runner and by nobody else.

An executed notebook cannot tell: papermill marks cells of a timed-out or dead kernel as completed.
"""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dualrs_lab.files import replace_json
from dualrs_lab.headless.plan import Run
from dualrs_lab.headless.processes import alive, birth

__all__ = [
    "STATES",
    "Status",
    "all_statuses",
    "begin_run",
    "is_done",
    "now",
    "read_status",
    "write_status",
]


STATES = ("queued", "running", "ok", "error", "timeout", "killed", "dead-kernel", "interrupted", "blocked")


Status = dict[str, Any]


def now() -> str:
    """The time as the records write it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def begin_run(run: Run, *, profile: str, provenance: Mapping[str, object]) -> Status:
    """The record of a run that is waiting. ValueError if another living runner has the same run."""
    old = read_status(run.folder)
    if old.get("state") in ("queued", "running") and old["runner"]["pid"] != os.getpid():
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
        "runner": {"pid": os.getpid(), "born": birth(os.getpid()), "host": platform.node()},
        "provenance": dict(provenance),
    }


def write_status(run: Run, status: Status) -> None:
    """Replace the record; a reader never sees half of it."""
    replace_json(run.folder / "status.json", status)


def read_status(folder: Path) -> Status:
    """The record in a run's folder, {} without one. A run whose runner has died reads as interrupted."""
    path = folder / "status.json"
    if not path.is_file():
        return {}
    status: Status = json.loads(path.read_text(encoding="utf-8"))
    runner = status["runner"]
    here = runner["host"] == platform.node()
    if status["state"] in ("queued", "running") and here and not alive(runner["pid"], runner["born"]):
        return status | {
            "state": "interrupted",
            "message": f"its runner ended while it was {status['state']}",
        }
    return status


def all_statuses(out: Path) -> list[Status]:
    """The records of every run under an output folder, by name."""
    return [read_status(path.parent) for path in sorted(out.glob("*/status.json"))]


def is_done(run: Run) -> bool:
    """Whether exactly this run (by its key) has ended well, and what it left is still there."""
    status = read_status(run.folder)
    kept = (run.folder / f"{run.notebook.stem}.ipynb").is_file() and (run.files is None or run.files.is_dir())
    same_place = status.get("parameters", {}).get("folder") == run.parameters.get("folder")
    return status.get("state") == "ok" and status["key"] == run.key and same_place and kept
