"""One run from outside: its process is started in a slot, listened to, ended with its descendants, judged."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualrs_lab.files import replace_json, set_aside
from dualrs_lab.gallery import CARD
from dualrs_lab.headless.log import Log
from dualrs_lab.headless.notebook import normalise_notebook, read_notebook
from dualrs_lab.headless.plan import Run
from dualrs_lab.headless.processes import (
    MARK,
    SCRATCH,
    Slot,
    birth,
    found_by_python,
    kill_marked,
    oom_kills,
)
from dualrs_lab.headless.progress import span
from dualrs_lab.headless.status import STATES, Status, now, write_status
from dualrs_lab.settings import STRICT

__all__ = ["RECORD", "Active", "start"]


PLACES = {"folder", "shipped", "logs", "device"}  # parameters that no claim of a notebook depends on


RECORD = "DUALRS_RECORD"  # environment variable: the file to which a run's results go


WORKER = (sys.executable, "-m", "dualrs_lab.headless.worker")


PAGE_SECONDS = 120  # for writing a page, after the notebook's own time


@dataclass(kw_only=True)
class Active:
    """A run in progress: its process, what it told, and the marks by which all its descendants are found."""

    run: Run
    slot: Slot
    status: Status
    process: subprocess.Popen[bytes]
    mark: str
    scratch: str
    log: Log | None = None
    began: float = field(default_factory=time.monotonic)
    oom_before: int = field(default_factory=oom_kills)
    heard: bytes = b""
    told: dict[str, Any] = field(default_factory=dict)

    def listen(self) -> None:
        """Take in the events that wait in the pipe."""
        assert self.process.stdout is not None
        while chunk := self.process.stdout.read(65536):
            self.heard += chunk
        *lines, self.heard = self.heard.split(b"\n")
        for line in lines:
            self.told |= _event(line)

    def line(self) -> str:
        """Its state for a person who watches."""
        cells = f"cell {self.told['cell']}/{self.told['of']}" if "cell" in self.told else "starting"
        return f"  … {self.run.name}  {cells}  {span(time.monotonic() - self.began)}  {self.slot.device}"

    def over(self, timeout: float | None) -> bool:
        """Whether it has ended, or has had its time and is to be ended."""
        self.listen()
        if self.process.poll() is not None:
            return True
        if self._late(timeout):
            message = f"stopped after {span(timeout or 0)} of wall clock (--timeout)"
            self.told.setdefault("outcome", {"state": "timeout", "message": message})
            return True
        return False

    def cancel(self) -> None:
        """Whatever it tells from now on, it was interrupted."""
        self.told["outcome"] = {"state": "interrupted", "message": "cancelled"}

    def _late(self, timeout: float | None) -> bool:
        """Once the notebook is through, only its page is waited for."""
        if "outcome" in self.told:
            self.told.setdefault("through", time.monotonic())
            return bool(time.monotonic() - self.told["through"] > PAGE_SECONDS)
        return timeout is not None and time.monotonic() - self.began > timeout

    def end(self, *, page: bool = True) -> dict[str, Any]:
        """Kill what is left of it, down to grandchildren in sessions of their own, and return how it ended.

        What a killed run had written is kept, as a page too if `page`.
        """
        leaders = [self.told["kernel"]] if "kernel" in self.told else []
        if self.process.poll() is None:  # else its number may be another's by now
            leaders.append((self.process.pid, birth(self.process.pid)))
        kill_marked(self.mark, leaders, self.log.name if self.log else "")
        code = self.process.wait()
        if self.log:
            self.log.close()
        self.listen()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        _salvage(_job(self.run), page)
        cells = {"cells": [self.told["cell"], self.told["of"]]} if "cell" in self.told else {}
        return cells | {"seconds": round(time.monotonic() - self.began, 2)} | self._verdict(code)

    def _verdict(self, code: int) -> dict[str, Any]:
        """The outcome that it told, or what its silent end means."""
        outcome: dict[str, Any] = self.told.get("outcome", {})
        if outcome.get("state") == "ok" and code:
            return outcome | {
                "state": "error",
                "message": "it ran well, but its page could not be written; see log",
            }
        if outcome:
            return outcome
        if code < 0:
            cause = "out of memory" if oom_kills() > self.oom_before else "by someone, or for want of memory"
            return {"state": "killed", "message": f"its process was killed (signal {-code}): {cause}"}
        return {
            "state": "error",
            "message": f"its process ended with code {code} before any outcome; see its log",
        }


def _event(line: bytes) -> dict[str, Any]:
    """What a run's process tells; nonsense, where somebody else found the pipe, is an outcome too."""
    try:
        told = json.dumps(json.loads(line), ensure_ascii=False)
        event = json.loads(told.encode("utf-8", errors="replace"))  # half a surrogate pair becomes "?"
        outcome = event.get("outcome", {"state": "ok", "message": ""})
        if outcome["state"] in STATES and isinstance(outcome["message"], str):
            return dict(event)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    return {"outcome": {"state": "error", "message": f"its process told nonsense: {line[:80]!r}"}}


def start(run: Run, slot: Slot, status: Status) -> Active:
    """Start the process of one run in a slot, and write that it runs. OSError if the system refuses."""
    for name in (f"{run.notebook.stem}.ipynb", f"{run.notebook.stem}.html", CARD, "log.txt", "records.jsonl"):
        _remove(run.folder / name)  # what an earlier run left would pass for this one's
    if run.files is not None:
        run.files.mkdir(parents=True, exist_ok=True)
    mark, scratch = secrets.token_hex(8), tempfile.mkdtemp(prefix=SCRATCH)
    status |= {"state": "running", "started": now(), "device": slot.describe(), "mark": mark}
    write_status(run, status)
    log = Log(run.folder / "log.txt")
    try:
        process = subprocess.Popen(
            WORKER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.pipe,
            env=_environment(run, slot, mark, scratch),
            start_new_session=True,
        )
    except OSError:
        shutil.rmtree(scratch, ignore_errors=True)
        log.close_pipe()
        log.close()
        raise
    log.close_pipe()
    assert process.stdin is not None
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    with contextlib.suppress(BrokenPipeError):  # it is dead already, which `Active` will find
        process.stdin.write(json.dumps(_job(run)).encode() + b"\n")
        process.stdin.flush()  # and kept open: its end tells the worker that we are gone
    return Active(run=run, slot=slot, status=status, process=process, mark=mark, scratch=scratch, log=log)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        set_aside(path)  # nothing that a runner ever made
    else:
        path.unlink(missing_ok=True)


def _job(run: Run) -> dict[str, Any]:
    name = run.notebook.stem
    return {
        "notebook": str(run.notebook),
        "cwd": str(run.notebook.parent),
        "parameters": dict(run.given),
        "part": str(run.folder / f".{name}.part.ipynb"),
        "output": str(run.folder / f"{name}.ipynb"),
        "page": str(run.folder / f"{name}.html"),
    }


def _environment(run: Run, slot: Slot, mark: str, scratch: str) -> dict[str, str]:
    environment = {**os.environ, **slot.environment}
    environment.pop("MPLBACKEND", None)  # would turn inline figures off
    environment.setdefault("PYTHONHASHSEED", "0")  # sets print in the same order in every run
    environment |= {
        MARK: mark,
        RECORD: str(run.folder / "records.jsonl"),
        STRICT: str(int(run.given.keys() <= PLACES)),
        "JUPYTER_RUNTIME_DIR": scratch,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning about frozen modules in each log
        "PYTHONUNBUFFERED": "1",
    }
    return found_by_python(environment)


def _salvage(job: Mapping[str, Any], page: bool) -> None:
    """Keep what a killed run had written: papermill saves after each cell."""
    part, output = Path(job["part"]), Path(job["output"])
    if not part.is_file():
        return
    try:
        replace_json(output, normalise_notebook(read_notebook(part)))
    except ValueError:  # killed while papermill wrote it: the log is what is left
        page = False
    part.unlink()
    if page:
        text = json.dumps({"page_of": job["output"], "page": job["page"]})
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                WORKER, input=text, text=True, capture_output=True, timeout=PAGE_SECONDS, check=False
            )
