"""What came out of the runs of a folder: results.csv, results_wide.csv, an index page, and JUnit for CI."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualrs_lab.files import replace_text
from dualrs_lab.headless.progress import span
from dualrs_lab.headless.status import Status, all_statuses

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["outputs", "read_records", "write_junit", "write_report"]


TIDY = ("notebook", "point", "state", "parameters", "name", "value")


FILES_SHOWN = 300


LOG_SHOWN = 4000  # characters of a failed run's log on the page


_Table = tuple[str, Sequence[str], Sequence[Sequence[object]]]  # notebook, header, rows


def write_report(out: Path) -> None:
    """Write the tables and the index page for every run that has a record under `out`."""
    statuses = all_statuses(out)
    records = {status["run"]: read_records(out / status["run"]) for status in statuses}
    replace_text(out / "results.csv", _tidy(statuses, records))
    replace_text(out / "results_wide.csv", _wide(statuses, records))
    replace_text(out / "index.html", _page(out, statuses, records))


def read_records(folder: Path) -> dict[str, Any]:
    """What a run recorded so far, failed or not: the last of each name; unfinished lines are left out."""
    path = folder / "records.jsonl"
    values: dict[str, Any] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                values |= json.loads(line)
    return values


def outputs(out: Path) -> list[Path]:
    """The files that the notebooks exchanged or left for people, as paths below `out`."""
    return [path.relative_to(out) for path in sorted((out / "files").rglob("*")) if path.is_file()]


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | bool) else value


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue()


def _tidy(statuses: Sequence[Status], records: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for status in statuses:
        own = {name: value for name, value in status["parameters"].items() if name != "folder"}
        head = [status["notebook"], status["point"], status["state"], own]
        rows += [[*head, name, value] for name, value in records[status["run"]].items()]
    return _csv(TIDY, rows)


def _wide(statuses: Sequence[Status], records: Mapping[str, Mapping[str, Any]]) -> str:
    """One row for each run; parameters are columns as `name`, results as `result.name`."""
    parameters = list(
        dict.fromkeys(name for status in statuses for name in status["parameters"] if name != "folder")
    )
    results = list(dict.fromkeys(name for values in records.values() for name in values))
    rows = []
    for status in statuses:
        values = records[status["run"]]
        row = [status["notebook"], status["point"], status["state"], status.get("seconds", "")]
        row += [status["parameters"].get(name, "") for name in parameters]
        rows.append(row + [values.get(name, "") for name in results])
    return _csv(
        ["notebook", "point", "state", "seconds", *parameters, *(f"result.{n}" for n in results)], rows
    )


def _page(out: Path, statuses: Sequence[Status], records: Mapping[str, Mapping[str, Any]]) -> str:
    latest = max(statuses, key=_when, default=None)
    return _template().render(
        good=sum(status["state"] == "ok" for status in statuses),
        runs=[_run(out / status["run"], status) for status in statuses],
        origin=_origin(latest) if latest else [],
        results=list(_results(statuses, records)),
        files=[(path.as_posix(), f"{(out / path).stat().st_size / 1000:,.1f}") for path in outputs(out)],
        most=FILES_SHOWN,
    )


@cache
def _template() -> "Template":
    """The page's form. Jinja2 is loaded with it, for pages alone: notebooks that record need none."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"span": span, "shown": _shown}
    return environment.get_template("runs.html.j2")


def _when(status: Status) -> str:
    return str(status.get("finished", status["queued"]))


def _origin(status: Status) -> list[str]:
    made, device = status["provenance"], status.get("device", "")
    parts = [f"package {made['package']}", f"commit {made['commit'][:12]}", f"Python {made['python']}"]
    parts += [device if device != "auto" else "", made["cpu"], _when(status).replace("T", " ")]
    return [part for part in parts if part]


def _run(folder: Path, status: Status) -> dict[str, Any]:
    """What a row of the page shows besides the record: how to colour it, what there is to open, the log."""
    name, log = status["notebook"], folder / "log.txt"
    files = {"page": f"{name}.html", "notebook": f"{name}.ipynb", "log": log.name, "record": "status.json"}
    return {
        "status": status,
        "kind": {"ok": "ok", "queued": "open", "running": "open"}.get(status["state"], "bad"),
        "files": {text: file for text, file in files.items() if (folder / file).is_file()},
        "log": log.read_text(encoding="utf-8", errors="replace")[-LOG_SHOWN:] if log.is_file() else "",
    }


def _results(statuses: Sequence[Status], records: Mapping[str, Mapping[str, Any]]) -> Iterator[_Table]:
    """One table for each notebook: a row for each sweep point, or for each result where it ran once."""
    for notebook in dict.fromkeys(status["notebook"] for status in statuses):
        own = {
            status["point"]: values
            for status in statuses
            if status["notebook"] == notebook and (values := records[status["run"]])
        }
        names = list(dict.fromkeys(name for values in own.values() for name in values))
        if list(own) == [""]:
            yield notebook, ["result", "value"], list(own[""].items())
        elif own:
            rows = [(point or "–", *(values.get(n, "") for n in names)) for point, values in own.items()]
            yield notebook, ["point", *names], rows


def _shown(value: object) -> str:
    """A value to read: whole text, numbers with six digits (full precision is in the tables)."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def write_junit(path: Path, statuses: Sequence[Status]) -> None:
    """JUnit XML of a plan: an error in a cell is a failure, an end from outside an error, blocked skipped."""
    from xml.etree import ElementTree

    bad = [status["state"] for status in statuses]
    suite = ElementTree.Element("testsuite", name="dualrs-lab", tests=str(len(statuses)))
    suite.set("failures", str(bad.count("error")))
    suite.set("errors", str(sum(state in ("timeout", "killed", "dead-kernel") for state in bad)))
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
