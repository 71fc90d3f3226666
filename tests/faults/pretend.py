"""Notebooks run by a small stand-in for papermill and a kernel, so that hundreds of runs take seconds."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dualrs_lab.headless import (
    Options,
    Progress,
    Request,
    Run,
    Status,
    execute,
    make_plan,
    make_slots,
    runner,
    watch,
)

# Runs the last cell in its own process, keeps the notebook and tells how it ended, as `headless.worker` does.
WORKER = """
import json, os, sys
job = json.loads(sys.stdin.readline())
nb = json.load(open(job["notebook"]))
outcome = {"state": "ok", "message": ""}
try:
    exec(nb["cells"][-1]["source"], {"home": os.path.dirname(os.environ["DUALRS_RECORD"])})
except Exception as error:
    outcome = {"state": "error", "message": f"{type(error).__name__}: {error}"}
os.makedirs(os.path.dirname(job["output"]), exist_ok=True)
with open(job["output"] + ".new", "w") as file:
    json.dump(nb, file)
os.replace(job["output"] + ".new", job["output"])
print(json.dumps({"outcome": outcome}), flush=True)
"""
COMMAND = (sys.executable, "-S", "-c", WORKER)

# The command line with the stand-in: arguments as for `dualrs-lab`.
MAIN = f"""
import sys
from dualrs_lab.headless import runner, watch
watch.WORKER, runner.STAGGER, runner.PERIOD = {COMMAND!r}, 0.0, 0.01
from dualrs_lab.__main__ import main
sys.exit(main())
"""


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `execute` use the stand-in."""
    monkeypatch.setattr(watch, "WORKER", COMMAND)
    monkeypatch.setattr(runner, "STAGGER", 0.0)
    monkeypatch.setattr(runner, "PERIOD", 0.01)


def write_notebook(path: Path, *sources: str) -> None:
    """Code cells, the first of which holds the parameters, in the least that nbformat 4 may look like."""
    cells = [{"cell_type": "code", "source": source} for source in sources]
    cells[0]["metadata"] = {"tags": ["parameters"]}  # type: ignore[assignment]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "nbformat": 4}), encoding="utf-8")


def plan(folder: Path, out: Path | None = None, names: Sequence[str] = ()) -> list[Run]:
    """Of `folder`/notebooks into `folder`/runs."""
    return make_plan(Request(folder=folder / "notebooks", out=out or folder / "runs", notebooks=names))


def run(runs: Sequence[Run], jobs: int = 4) -> tuple[dict[str, Status], str]:
    """How each ended, and what was said meanwhile."""
    said = io.StringIO()
    statuses = execute(runs, runs[0].folder.parent, Options(slots=make_slots(jobs, "cpu")), Progress(said))
    return {status["run"]: status for status in statuses}, said.getvalue()
