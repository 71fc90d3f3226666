"""Notebooks headless: a plan becomes processes, each watched to its end, each with a truthful record.

`record(name=value)` is for the notebooks; `execute` for the command line. Starts without torch and papermill:
those live in the process of each run (`worker`).
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualrs_lab.files import provenance, replace_json
from dualrs_lab.notebook import as_source, normalise, read_notebook, source_hash
from dualrs_lab.plan import Run
from dualrs_lab.progress import Progress, span
from dualrs_lab.report import write_report
from dualrs_lab.slots import MARK, Slot, kill_marked, oom_kills
from dualrs_lab.status import Status, begin, is_done, now, read_status, write_status

__all__ = ["Options", "execute", "log_tail", "only_failed", "record", "update_source"]

RECORD = "DUALRS_RECORD"  # environment variable: the file to which a run's results go
STAGGER = 0.3  # seconds between two starts: kernels that start at once slow each other's start
PERIOD = 0.05  # seconds between two looks at the running processes
PAGE_SECONDS = 120


def record(**values: object) -> None:
    """Hand results of a notebook to the runner's table: numbers, text, bool, None, lists and dicts of these.

    numpy and torch scalars and arrays become numbers and lists. Outside a run the values are only checked.
    A name recorded twice keeps the last value. Raises ValueError for what a table cannot hold.
    """
    plain = {name: _plain(value, name) for name, value in values.items()}
    path = os.environ.get(RECORD)
    if path and plain:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _plain(value: object, name: str) -> object:
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(one, name) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, name) for one in value]
    if hasattr(value, "tolist"):  # numpy, torch and pandas alike
        return _plain(value.tolist(), name)
    raise ValueError(
        f"record({name}=…): got {type(value).__name__}; want numbers, text, lists or dicts of these "
        "(write anything larger to a file in `folder`)"
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run a plan. `timeout` in seconds of wall clock for each run."""

    slots: Sequence[Slot]
    profile: str = "quick"
    timeout: float | None = None
    force: bool = False
    fail_fast: bool = False


@dataclass(kw_only=True)
class _Active:
    """A run in progress: its process, what it told, and the marks by which all its descendants are found."""

    run: Run
    slot: Slot
    status: Status
    process: subprocess.Popen[bytes]
    mark: str
    scratch: str
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
            self.told |= json.loads(line)

    def line(self) -> str:
        cells = f"cell {self.told['cell']}/{self.told['of']}" if "cell" in self.told else "starting"
        return f"  … {self.run.name}  {cells}  {span(time.monotonic() - self.began)}  {self.slot.device}"

    def late(self, timeout: float | None) -> bool:
        """Whether it is over its time; once the notebook is through, only its page is waited for."""
        if "outcome" in self.told:
            self.told.setdefault("through", time.monotonic())
            return bool(time.monotonic() - self.told["through"] > PAGE_SECONDS)
        return timeout is not None and time.monotonic() - self.began > timeout

    def end(self) -> int:
        """Kill what is left of it, down to grandchildren in sessions of their own; returns the exit code."""
        groups = [self.told["kernel"]] if "kernel" in self.told else []
        if self.process.poll() is None:  # else its number may be another's by now
            groups.append(self.process.pid)
        kill_marked(self.mark, groups)
        code = self.process.wait()
        self.listen()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        return code

    def verdict(self, code: int) -> dict[str, Any]:
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


def execute(runs: Sequence[Run], out: Path, options: Options, progress: Progress) -> list[Status]:
    """Run what is not done, needs first, and return the record of every run of the plan, in its order.

    Records and the report under `out` are kept up to date meanwhile. Ctrl-C ends what runs and records it as
    interrupted, then goes on as KeyboardInterrupt.
    """
    todo = [run for run in runs if (options.force and run.asked) or not is_done(run)]
    made_by = provenance()
    finished = {run.name: read_status(run.folder) | {"earlier": True} for run in runs if run not in todo}
    queued = {run.name: begin(run, profile=options.profile, provenance=made_by) for run in todo}
    for run in todo:
        write_status(run, queued[run.name])
    if finished:
        progress.event(f"{len(finished)} of {len(runs)} runs are done already (--force runs them again)")
    active: list[_Active] = []
    free, next_start = list(options.slots), 0.0
    try:
        while todo or active:
            for one in [one for one in active if _over(one, options.timeout)]:
                active.remove(one)
                free.append(one.slot)
                finished[one.run.name] = _close(one, len(finished) + 1, len(runs), progress)
                write_report(out)
            for run, reason in _hopeless(todo, finished, options.fail_fast):
                todo.remove(run)
                finished[run.name] = _settle(run, queued[run.name], state="blocked", message=reason)
                progress.event(f"[{len(finished)}/{len(runs)}] {run.name}: blocked, {reason}")
            ready = [run for run in todo if all(_ok(finished.get(need)) for need in run.needs)]
            if ready and free and time.monotonic() >= next_start:
                todo.remove(ready[0])
                active.append(_start(ready[0], free.pop(0), queued[ready[0].name]))
                progress.event(f"        {ready[0].name}: started ({active[-1].slot.device})")
                next_start = time.monotonic() + STAGGER
            progress.draw([one.line() for one in active])
            time.sleep(PERIOD)
    except KeyboardInterrupt:
        for one in active:
            one.told = {**one.told, "outcome": {"state": "interrupted", "message": "cancelled"}}
            _close(one, len(finished), len(runs), progress, page=False)
        for run in todo:
            _settle(run, queued[run.name], state="interrupted", message="cancelled before it started")
        raise
    finally:
        write_report(out)
    return [finished[run.name] for run in runs]


def _ok(status: Status | None) -> bool:
    return status is not None and status["state"] == "ok"


def _hopeless(todo: Sequence[Run], finished: Mapping[str, Status], fail_fast: bool) -> list[tuple[Run, str]]:
    """The waiting runs that will not start, each with the reason."""
    failed = {name: status["state"] for name, status in finished.items() if not _ok(status)}
    bad = {run.name: [need for need in run.needs if need in failed] for run in todo}
    if fail_fast and failed:
        name, state = next(iter(failed.items()))
        return [(run, f"not started because {name} ended as {state} (--fail-fast)") for run in todo]
    return [(run, f"it needs {n[0]}, which ended as {failed[n[0]]}") for run in todo if (n := bad[run.name])]


def _start(run: Run, slot: Slot, status: Status) -> _Active:
    for name in (f"{run.notebook.stem}.ipynb", f"{run.notebook.stem}.html", "log.txt", "records.jsonl"):
        (run.folder / name).unlink(missing_ok=True)  # what an earlier run left would pass for this one's
    if run.files is not None:
        run.files.mkdir(parents=True, exist_ok=True)
    mark, scratch = secrets.token_hex(8), tempfile.mkdtemp(prefix="dualrs-")
    status |= {"state": "running", "started": now(), "device": slot.describe()}
    write_status(run, status)
    with (run.folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dualrs_lab.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(run, slot, mark, scratch),
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    process.stdin.write(json.dumps(_job(run)).encode() + b"\n")
    process.stdin.flush()  # and kept open: its end tells the worker that we are gone
    return _Active(run=run, slot=slot, status=status, process=process, mark=mark, scratch=scratch)


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
        "JUPYTER_RUNTIME_DIR": scratch,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a warning about frozen modules in each log
        "PYTHONUNBUFFERED": "1",
    }
    checkout = Path(__file__).resolve().parent.parent
    if (
        checkout / "pyproject.toml"
    ).is_file():  # a checkout that was not installed must be found from notebooks/
        paths = [str(checkout), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def _over(one: _Active, timeout: float | None) -> bool:
    one.listen()
    if one.process.poll() is not None:
        return True
    if one.late(timeout):
        message = f"stopped after {span(timeout or 0)} of wall clock (--timeout)"
        one.told.setdefault("outcome", {"state": "timeout", "message": message})
        return True
    return False


def _close(one: _Active, number: int, of: int, progress: Progress, *, page: bool = True) -> Status:
    code = one.end()
    seconds = time.monotonic() - one.began
    outcome = one.verdict(code)
    _salvage(_job(one.run), page)
    cells = {"cells": [one.told["cell"], one.told["of"]]} if "cell" in one.told else {}
    status = _settle(one.run, one.status, seconds=round(seconds, 2), **cells, **outcome)
    head = f"[{number}/{of}] {one.run.name}: {status['state']} after {span(seconds)}"
    if status["state"] == "ok":
        progress.event(head)
    else:
        progress.event(f"{head}: {status['message']}\n{log_tail(one.run.folder)}")
    return status


def _settle(run: Run, status: Status, **fields: Any) -> Status:
    status = status | fields | {"finished": now()}
    write_status(run, status)
    return status


def _salvage(job: Mapping[str, Any], page: bool) -> None:
    """Keep what a killed run had written: papermill saves after each cell."""
    part, output = Path(job["part"]), Path(job["output"])
    if not part.is_file():
        return
    try:
        replace_json(output, normalise(read_notebook(part)))
    except ValueError:  # killed while papermill wrote it: the log is what is left
        page = False
    part.unlink()
    if page:
        command = [sys.executable, "-m", "dualrs_lab.worker"]
        text = json.dumps({"page_of": job["output"], "page": job["page"]})
        subprocess.run(command, input=text, text=True, capture_output=True, timeout=PAGE_SECONDS, check=False)


def log_tail(folder: Path, lines: int = 15) -> str:
    """The last lines of a run's log, indented, for a person who wants to know what went wrong."""
    path = folder / "log.txt"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return "\n".join(f"    | {line}" for line in text.rstrip().splitlines()[-lines:])


def only_failed(runs: Sequence[Run]) -> list[Run]:
    """The runs that were tried and did not end well, and what they need (if done, that is skipped)."""
    states = {run.name: read_status(run.folder).get("state", "ok") for run in runs}
    wanted: set[str] = set()
    for run in reversed(runs):
        if states[run.name] != "ok" or run.name in wanted:
            wanted |= {run.name, *run.needs}
    return [run for run in runs if run.name in wanted]


def update_source(run: Run) -> None:
    """Replace the source notebook by its executed form, stamped. ValueError if it was edited while it ran."""
    if source_hash(read_notebook(run.notebook)) != run.source:
        raise ValueError(f"{run.notebook.name} was edited while it ran; run it again with --update")
    replace_json(run.notebook, as_source(read_notebook(run.folder / run.notebook.name)))


def raise_on_terminate() -> None:
    """Let a polite kill (SIGTERM) cancel the runs as Ctrl-C does."""

    def cancel(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, cancel)
