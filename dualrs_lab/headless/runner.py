"""Notebooks headless: a plan becomes processes, each watched to its end, each with a truthful record.

`record(name=value)` is for the notebooks; `execute` for the command line. Starts without torch and papermill:
those live in the process of each run (`worker`), which `watch` starts and ends.
"""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualrs_lab.files import provenance, replace_json
from dualrs_lab.headless.notebook import as_source, read_notebook, source_hash
from dualrs_lab.headless.plan import Request, Run
from dualrs_lab.headless.processes import Slot
from dualrs_lab.headless.progress import Progress, span
from dualrs_lab.headless.report import write_report
from dualrs_lab.headless.status import Status, begin_run, is_done, now, read_status, write_status
from dualrs_lab.headless.watch import RECORD, Active, start
from dualrs_lab.settings import SECONDS, setting

__all__ = ["Options", "execute", "log_tail", "only_failed", "record", "update_source"]


STAGGER = 0.3  # seconds between two starts: kernels that start at once slow each other's start


PERIOD = 0.05  # seconds between two looks at the running processes


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
    """How to run a plan."""

    slots: Sequence[Slot]
    profile: str = Request.profile
    timeout: float | None = setting(
        None, "wall clock in seconds that one run may take (default: no limit)", SECONDS
    )
    force: bool = setting(False, "run what was asked for even if it is done")
    fail_fast: bool = setting(False, "after a failure start nothing more")


def execute(runs: Sequence[Run], out: Path, options: Options, progress: Progress) -> list[Status]:
    """Run what is not done, needs first, and return the record of every run of the plan, in its order.

    Records and the report under `out` are kept up to date meanwhile. Ctrl-C ends what runs and records it as
    interrupted, then goes on as KeyboardInterrupt.
    """
    todo = [run for run in _most_waited_for(runs) if (options.force and run.asked) or not is_done(run)]
    made_by = provenance()
    finished = {run.name: read_status(run.folder) | {"earlier": True} for run in runs if run not in todo}
    queued = {run.name: begin_run(run, profile=options.profile, provenance=made_by) for run in todo}
    for run in todo:
        write_status(run, queued[run.name])
    write_report(out)
    if finished:
        progress.event(f"{len(finished)} of {len(runs)} runs are done already (--force runs them again)")
    active: list[Active] = []
    free, next_start = list(options.slots), 0.0
    try:
        while todo or active:
            for one in [one for one in active if one.over(options.timeout)]:
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
                active.append(start(ready[0], free.pop(0), queued[ready[0].name]))
                progress.event(f"        {ready[0].name}: started ({active[-1].slot.device})")
                next_start = time.monotonic() + STAGGER
            progress.draw([one.line() for one in active])
            time.sleep(PERIOD)
    except KeyboardInterrupt:
        for one in active:
            one.cancel()
            _close(one, len(finished), len(runs), progress, page=False)
        for run in todo:
            _settle(run, queued[run.name], state="interrupted", message="cancelled before it started")
        raise
    finally:
        write_report(out)
    return [finished[run.name] for run in runs]


def _most_waited_for(runs: Sequence[Run]) -> list[Run]:
    """First what most others need, also through others: then jobs seldom wait for each other."""
    needed: dict[str, set[str]] = {}
    for run in runs:
        needed[run.name] = {*run.needs}.union(*(needed.get(need, set()) for need in run.needs))
    waiting = Counter(name for names in needed.values() for name in names)
    return sorted(runs, key=lambda run: -waiting[run.name])


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


def _close(one: Active, number: int, of: int, progress: Progress, *, page: bool = True) -> Status:
    status = _settle(one.run, one.status, **one.end(page=page))
    head = f"[{number}/{of}] {one.run.name}: {status['state']} after {span(status['seconds'])}"
    if status["state"] == "ok":
        progress.event(head)
    else:
        progress.event(f"{head}: {status['message']}\n{log_tail(one.run.folder)}")
    return status


def _settle(run: Run, status: Status, **fields: Any) -> Status:
    status = status | fields | {"finished": now()}
    write_status(run, status)
    return status


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
