"""Notebooks headless: a plan becomes processes, each watched to its end, each with a truthful record.

`record(name=value)` is for the notebooks; `execute` for the command line. Starts without torch and papermill:
those live in the process of each run (`worker`), which `watch` starts and ends.
"""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualrs_lab.files import provenance, replace_json
from dualrs_lab.headless.log import log_tail
from dualrs_lab.headless.notebook import as_source, read_notebook, source_hash
from dualrs_lab.headless.plan import Request, Run
from dualrs_lab.headless.processes import Guard, Slot, kill_marked
from dualrs_lab.headless.progress import Progress, span
from dualrs_lab.headless.reading import encodable, printable
from dualrs_lab.headless.report import Report
from dualrs_lab.headless.status import (
    RECORDS_LIMIT,
    Status,
    alone,
    begin_run,
    damaged,
    is_done,
    keep_aside,
    now,
    read_status,
    records_fault,
    write_status,
)
from dualrs_lab.headless.watch import RECORD, Active, start
from dualrs_lab.settings import SECONDS, setting

__all__ = ["Options", "execute", "only_failed", "record", "update_source"]


STAGGER = 0.3  # seconds between two starts: kernels that start at once slow each other's start


PERIOD = 0.05  # seconds between two looks at the running processes


def record(**values: object) -> None:
    """Hand results of a notebook to the runner's table: numbers, text, bool, None, lists and dicts of these.

    numpy and torch scalars and arrays become numbers and lists. Outside a run the values are only checked.
    A name recorded twice keeps the last value. Raises ValueError for what a table cannot hold, and OSError
    where the disk does not take it; then nothing of these values is recorded.
    """
    plain = {name: _plain(value, name) for name, value in values.items()}
    path = os.environ.get(RECORD)
    if path and plain:
        _append_line(path, json.dumps(plain).encode("ascii") + b"\n")


def _append_line(path: str, line: bytes) -> None:
    """One write, so that lines of several processes do not mix; a half one, of a full disk, is taken back."""
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        if before + len(line) > RECORDS_LIMIT:
            raise ValueError(
                f"record: with this the run has recorded more than {RECORDS_LIMIT / 1e6:g} MB; "
                "write anything large to a file in `folder`"
            )
        if file.write(line) != len(line):
            file.truncate(before)
            raise OSError(f"record: the disk has no room for {len(line)} bytes in {path}")
        os.fsync(file.fileno())


def _plain(value: object, name: str) -> object:
    if isinstance(value, str) and encodable(value) != value:
        raise ValueError(
            f"record({name}=…): got {value!r}, with half a surrogate pair, which no file can hold"
        )
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, Mapping):
        return {str(_plain(str(key), name)): _plain(one, name) for key, one in value.items()}
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
    """How to run a plan."""

    slots: Sequence[Slot]
    profile: str = Request.profile
    timeout: float | None = setting(
        None, "wall clock in seconds that one run may take (default: no limit)", SECONDS
    )
    force: bool = setting(False, "run what was asked for even if it is done")
    fail_fast: bool = setting(False, "after a failure start nothing more")
    only: str = setting("", "of the plan only this run; what it needs has to be done")
    report: bool = True  # write one; many runners on one folder leave that to the last


def execute(runs: Sequence[Run], out: Path, options: Options, progress: Progress) -> list[Status]:
    """Run what is not done, needs first, and return the record of every run of the plan, in its order.

    Records and the report under `out` are kept up to date meanwhile. Ctrl-C ends what runs and records it as
    interrupted, then goes on as KeyboardInterrupt. ValueError if another runner has one of the runs, or if
    none can be recorded.
    """
    execution = _Execution(runs, out, options, progress)
    execution.claim()
    return execution.go()


class _Execution:
    """A plan in progress: what is to do, what runs in which slot, what has finished."""

    def __init__(self, runs: Sequence[Run], out: Path, options: Options, progress: Progress) -> None:
        self.runs, self.out, self.options, self.progress = runs, out, options, progress
        self.report = Report(out)
        self.finished: dict[str, Status] = {}
        self.queued: dict[str, Status] = {}
        self.todo: list[Run] = []
        self.active: list[Active] = []
        self.free = list(options.slots)
        self.judged = 0  # how many had finished when it was last asked what they make impossible
        self.next_start = 0.0
        self.guard: Guard | None = None
        self.fault = ""  # of the report, as it was written last

    def claim(self) -> None:
        """See which runs are done, and write of all others that they are ours, before another runner does."""
        force, made_by = self.options.force, provenance()
        try:
            with alone(self.out):
                for run in _longest_first(self.runs):
                    others = self.options.only not in ("", run.name)
                    if (others or not (force and run.asked)) and is_done(run):
                        self.finished[run.name] = read_status(run.folder) | {"earlier": True}
                    elif others:
                        self.finished[run.name] = read_status(run.folder) or {"state": "not run"}
                    else:
                        self.queued[run.name] = begin_run(
                            run, profile=self.options.profile, provenance=made_by
                        )
                        self.todo.append(run)
                done = len(self.finished)
                for run in [*self.todo]:
                    self._begin(run)
        except OSError as error:
            raise ValueError(f"runs cannot be recorded in {self.out}: {error}") from None
        if done and not self.options.only:
            self.progress.event(f"{done} of {len(self.runs)} runs are done already (--force runs them again)")

    def _begin(self, run: Run) -> None:
        """Make room for a run: what a dead runner or a damaged run left in its place."""
        old = read_status(run.folder)
        if old.get("mark") and "finished" not in old and old["runner"]["host"] == platform.node():
            kill_marked(old["mark"])
        if old.get("state") == "damaged":
            try:
                kept = ", ".join(path.name for path in keep_aside(run)) or "nothing"
            except OSError as error:
                self.todo.remove(run)
                self.finished[run.name] = old
                self.progress.event(f"{run.name}: {old['message']}; it cannot be made again: {error}")
                return
            self.progress.event(f"{run.name}: {printable(old['message'])}; made again, kept: {kept}")
        write_status(run, self.queued[run.name])

    def go(self) -> list[Status]:
        """Run to the end of the plan, or until something stops us; then all that runs is ended."""
        try:
            self._write_report()
            while self.todo or self.active:
                self._step()
                time.sleep(PERIOD)
        except BaseException:
            self._cancel()
            raise
        finally:
            if self.guard:
                self.guard.close()
            self._write_report()
        if self.fault:
            raise ValueError(f"all runs have ended and are recorded, but {self.fault}")
        return [self.finished[run.name] for run in self.runs]

    def _step(self) -> None:
        for one in [one for one in self.active if one.over(self.options.timeout)]:
            self.active.remove(one)
            self.free.append(one.slot)
            self.finished[one.run.name] = self._close(one, len(self.finished) + 1)
        if len(self.finished) != self.judged:
            self._block()
        if self.free and time.monotonic() >= self.next_start:
            ready = (run for run in self.todo if all(_ok(self.finished.get(need)) for need in run.needs))
            if first := next(ready, None):
                self.todo.remove(first)
                self._start(first)
                self.next_start = time.monotonic() + STAGGER
        self.progress.draw([one.line() for one in self.active])
        if self.report.due():
            self._write_report()

    def _block(self) -> None:
        """Settle what cannot run any more after what has finished."""
        self.judged = len(self.finished)
        for run, reason in _hopeless(self.todo, self.finished, self.options.fail_fast):
            self.todo.remove(run)
            self.finished[run.name] = self._settle(run, state="blocked", message=reason)
            self.progress.event(self._event(run, f"blocked, {reason}"))

    def _start(self, run: Run) -> None:
        try:
            self.guard = self.guard or Guard()
            one = start(run, self.free[0], self.queued[run.name])
        except OSError as error:
            message = f"it could not be started: {error}"
            self.finished[run.name] = self._settle(run, state="error", message=message)
            self.progress.event(self._event(run, message))
            return
        self.guard.watch(one.mark, one.scratch, one.log.name if one.log else "")
        self.active.append(one)
        self.free.pop(0)
        self.progress.event(f"        {run.name}: started ({one.slot.device})")

    def _close(self, one: Active, number: int, *, page: bool = True) -> Status:
        try:
            ended = one.end(page=page)
        except OSError as error:
            ended = {"state": "error", "message": f"what it left could not be kept: {error}"}
        if self.guard:
            self.guard.release(one.mark)
        status = self._settle(one.run, **ended)
        took = f" after {span(status['seconds'])}" if "seconds" in status else ""
        head = f"[{number}/{len(self.runs)}] {one.run.name}: {status['state']}{took}"
        if status["state"] == "ok":
            self.progress.event(head)
        else:
            self.progress.event(f"{head}: {printable(status['message'])}\n{log_tail(one.run.folder)}")
        return status

    def _settle(self, run: Run, **fields: Any) -> Status:
        """Write how a run ended. Where that is not possible it is no good run: its record says "running"."""
        status = self.queued[run.name] | fields | {"finished": now()}
        if fault := records_fault(run.folder):
            status = damaged(status, fault)
        try:
            write_status(run, status)
        except OSError as error:
            status = damaged(status, f"its record could not be written: {error}")
        return status

    def _cancel(self) -> None:
        for one in self.active:
            one.cancel()
            self._close(one, len(self.finished), page=False)
        for run in self.todo:
            self._settle(run, state="interrupted", message="cancelled before it started")

    def _write_report(self) -> None:
        """Bring the report up to date; a disk that does not take it must not end the runs."""
        if not self.options.report:
            return
        before, self.fault = self.fault, ""
        try:
            self.report.write()
        except (OSError, ValueError) as error:
            self.fault = f"the report could not be written: {error}"
        if self.fault != before:
            self.progress.event(self.fault or "the report is written again")

    def _event(self, run: Run, text: str) -> str:
        return f"[{len(self.finished)}/{len(self.runs)}] {run.name}: {text}"


def _longest_first(runs: Sequence[Run]) -> list[Run]:
    """First what begins the longest way to the end: then jobs seldom wait, for each other or for the last."""
    way: dict[str, float] = {}  # seconds from the start of a run to the end of the last that waits for it
    for run in reversed(runs):  # needs come first
        way[run.name] = run.seconds + way.get(run.name, 0.0)
        for need in run.needs:
            way[need] = max(way.get(need, 0.0), way[run.name])
    return sorted(runs, key=lambda run: -way[run.name])


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
