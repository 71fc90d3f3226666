"""What came out of the runs of a folder: results.csv, results_wide.csv, an index page, and JUnit for CI."""

import contextlib
import csv
import io
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from dualrs_lab.files import replace_text
from dualrs_lab.gallery import CARD, Card, Entry, as_card, gallery_html, show_run
from dualrs_lab.headless.notebook import read_notebook
from dualrs_lab.headless.plan import FILES
from dualrs_lab.headless.processes import alive
from dualrs_lab.headless.progress import span
from dualrs_lab.headless.reading import encodable, parse_json, read_tail, read_text
from dualrs_lab.headless.status import (
    OPEN,
    Found,
    Status,
    alone,
    as_of_now,
    find_runs,
    read_files,
    run_folders,
)

__all__ = ["Report", "outputs", "write_gallery", "write_junit", "write_report"]


TIDY = ("notebook", "point", "state", "parameters", "name", "value")


LOG_SHOWN = 4000  # characters of a failed run's log on the page


CARD_LIMIT = 1_000_000  # bytes


PAUSE, SHARE = 1.0, 0.05  # at least this many seconds between two reports, at most this share of the time


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A run as it was seen last: what its files said, what that meant then, and how the page shows it."""

    sign: object
    files: Found
    found: Found
    entry: Entry


class Report:
    """The tables and the index page of every run that has a record under `out`, while runs come and go.

    Runs that have not changed are not read again, and whoever writes when it is `due` spends a small share of
    the time on it however many runs there are: a sweep of thousands is not spent on its report.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._seen: dict[Path, _Seen] = {}
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() >= self._next

    def write(self) -> None:
        """Write now. OSError where the disk does not take it, ValueError if another runner is in the way."""
        began = time.monotonic()
        try:
            with alone(self._out):  # else a runner could overwrite a page that knows more than its own
                self._look()
                for name, text in self._texts():
                    replace_text(self._out / name, encodable(text))
        finally:
            ended = time.monotonic()
            self._next = ended + max(PAUSE, (ended - began) / SHARE)

    def _texts(self) -> Iterator[tuple[str, str]]:
        found = [seen.found for seen in self._seen.values()]
        yield "results.csv", _tidy(found)
        yield "results_wide.csv", _wide(found)
        yield "index.html", _page(self._out, found, [seen.entry for seen in self._seen.values()])

    def _look(self) -> None:
        """See all runs as they are now; files that have not changed are not read again."""
        lives, before, self._seen = cache(alive), self._seen, {}
        for folder in run_folders(self._out):
            old, sign = before.get(folder), _signature(folder)
            same = old is not None and old.sign == sign
            files = old.files if old and same else read_files(folder)
            found = replace(files, status=as_of_now(files.status, lives=lives))
            if old and same and old.found.status == found.status and found.status["state"] != "running":
                self._seen[folder] = old
            elif found.status:  # else its record was removed while we looked
                self._seen[folder] = _Seen(sign=sign, files=files, found=found, entry=_entry(found))


def _signature(folder: Path) -> object:
    """Differs after any change of the files that a run is read from."""
    signs: list[object] = []
    for name in ("status.json", "records.jsonl"):
        try:
            seen = os.lstat(folder / name)
            signs.append((seen.st_ino, seen.st_size, seen.st_mtime_ns))
        except OSError:
            signs.append(None)
    return signs


def write_report(out: Path) -> None:
    """Write the tables and the index page once, see `Report`."""
    Report(out).write()


def write_gallery(out: Path) -> int:
    """Write the page of every executed notebook under `out` anew, and the report; returns how many pages.

    FileNotFoundError where nothing ran, ValueError for a notebook that cannot be read.
    """
    if not (found := find_runs(out)):
        raise FileNotFoundError(f"no runs in {out}; want the --out folder of `dualrs-lab run`")
    notebooks = [path for one in found if (path := _executed(one)).is_file()]
    for path in notebooks:
        show_run(path, read_notebook(path), path.with_suffix(".html"))
    write_report(out)
    return len(notebooks)


def _executed(found: Found) -> Path:
    return found.folder / f"{found.status['notebook']}.ipynb"


def outputs(out: Path) -> list[Path]:
    """The files that the notebooks exchanged or left for people, as paths below `out`."""
    return [Path(path) for path, _ in _outputs(out)]


def _outputs(out: Path) -> list[tuple[str, int]]:
    """Each, as its path below `out`, with its size in bytes; people may move them while we look."""
    found = []
    for folder, _, names in os.walk(out / FILES):
        inner = os.path.relpath(folder, out)
        for name in names:
            with contextlib.suppress(OSError):
                seen = os.stat(os.path.join(folder, name))
                if stat.S_ISREG(seen.st_mode):
                    found.append((os.path.join(inner, name), seen.st_size))
    return sorted(found)


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | bool) else value


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue()


def _tidy(found: Sequence[Found]) -> str:
    rows = []
    for one in found:
        status = one.status
        own = {name: value for name, value in status["parameters"].items() if name != "folder"}
        head = [status["notebook"], status["point"], status["state"], own]
        rows += [[*head, name, value] for name, value in one.records.items()]
    return _csv(TIDY, rows)


def _wide(found: Sequence[Found]) -> str:
    """One row for each run; parameters are columns as `name`, results as `result.name`."""
    parameters = list(
        dict.fromkeys(name for one in found for name in one.status["parameters"] if name != "folder")
    )
    results = list(dict.fromkeys(name for one in found for name in one.records))
    rows = []
    for status, values in ((one.status, one.records) for one in found):
        row = [status["notebook"], status["point"], status["state"], status.get("seconds", "")]
        row += [status["parameters"].get(name, "") for name in parameters]
        rows.append(row + [values.get(name, "") for name in results])
    return _csv(
        ["notebook", "point", "state", "seconds", *parameters, *(f"result.{n}" for n in results)], rows
    )


def _page(out: Path, found: Sequence[Found], entries: Sequence[Entry]) -> str:
    latest = max((one.status for one in found if one.status["provenance"]), key=_when, default=None)
    return gallery_html(entries, origin=_origin(latest) if latest else [], files=_outputs(out))


def _when(status: Status) -> str:
    return str(status.get("finished", status["queued"]))


def _origin(status: Status) -> list[str]:
    made, device = status["provenance"], status.get("device", "")
    parts = [f"package {made.get('package', '')}", f"commit {str(made.get('commit', ''))[:12]}"]
    parts += [f"Python {made.get('python', '')}"]
    parts += [device if device != "auto" else "", str(made.get("cpu", "")), _when(status).replace("T", " ")]
    return [part for part in parts if part]


def _entry(found: Found) -> Entry:
    """What the page shows of a run besides its record: how to colour it, what there is to open, the log."""
    status, folder = found.status, found.folder
    name, state = status["notebook"], status["state"]
    files = {"page": f"{name}.html", "notebook": f"{name}.ipynb", "log": "log.txt", "record": "status.json"}
    files = {text: file for text, file in files.items() if os.path.isfile(f"{folder}/{file}")}
    kind = "ok" if state == "ok" else "open" if state in OPEN else "bad"
    return Entry(
        status=status,
        kind=kind,
        files={text: f"{folder.name}/{file}" for text, file in files.items()},
        took=span(status["seconds"]) if "seconds" in status else "",
        log=read_tail(folder / "log.txt", LOG_SHOWN) if kind == "bad" else "",
        card=_card(folder),
        records=found.records,
    )


def _card(folder: Path) -> Card:
    """As the run left it; an empty one where it left none that can be read."""
    try:
        return as_card(parse_json(read_text(folder / CARD, largest=CARD_LIMIT), CARD))
    except (FileNotFoundError, ValueError):
        return Card()


def write_junit(path: Path, statuses: Sequence[Status]) -> None:
    """JUnit XML of a plan: an error in a cell is a failure, an end from outside an error, blocked skipped."""
    from xml.etree import ElementTree

    bad = [status["state"] for status in statuses]
    suite = ElementTree.Element("testsuite", name="dualrs-lab", tests=str(len(statuses)))
    suite.set("failures", str(bad.count("error")))
    suite.set("errors", str(sum(state in ("timeout", "killed", "dead-kernel", "damaged") for state in bad)))
    suite.set("skipped", str(sum(state in ("blocked", "interrupted") for state in bad)))
    suite.set("time", str(round(sum(status.get("seconds", 0.0) for status in statuses), 2)))
    for status in statuses:
        name, seconds = status["point"] or status["notebook"], str(status.get("seconds", 0.0))
        case = ElementTree.SubElement(
            suite, "testcase", classname=status["notebook"], name=name, time=seconds
        )
        tags = {"error": "failure", "blocked": "skipped", "interrupted": "skipped"}
        if status["state"] != "ok":
            message = f"{status['state']}: {status['message']}"
            detail = ElementTree.SubElement(case, tags.get(status["state"], "error"), message=_xml(message))
            detail.text = _xml(status.get("traceback", ""))
    ElementTree.indent(suite)
    replace_text(
        path, '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, "unicode") + "\n"
    )


def _xml(text: str) -> str:
    """Without the control characters that XML 1.0 cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)
