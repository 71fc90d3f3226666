"""What came out of the runs of a folder: results.csv, results_wide.csv, an index page, and JUnit for CI."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from dualrs_lab.files import replace_text
from dualrs_lab.progress import span
from dualrs_lab.status import Status, all_statuses

__all__ = ["outputs", "read_records", "write_junit", "write_report"]

TIDY = ("notebook", "point", "state", "parameters", "name", "value")
FILES_SHOWN = 300
LOG_SHOWN = 4000  # characters of a failed run's log on the page


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


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a;
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } table.runs { width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888 } td.number { text-align: right; font-variant-numeric: tabular-nums }
.state { font-weight: 600; white-space: nowrap }
.ok { color: #00684a } .bad { color: #a8071a } .open { color: #7a5b00 }
code, pre { font: 13px/1.4 ui-monospace, monospace }
pre { white-space: pre-wrap; background: #f5f5f5; padding: .6rem }
.small { color: #555; font-size: 13px }
@media print {
  body { margin: 0; max-width: none }
  a { color: inherit; text-decoration: none }
  tr { break-inside: avoid }
}
"""


def _page(out: Path, statuses: Sequence[Status], records: Mapping[str, Mapping[str, Any]]) -> str:
    good = sum(status["state"] == "ok" for status in statuses)
    latest = max(statuses, key=_when, default=None)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>DualRS Lab runs</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body><h1>DualRS Lab runs</h1>",
        f"<p>{good} of {len(statuses)} runs ended well.{_origin(latest)}</p>",
        "<h2>Runs</h2><table class=runs><thead><tr><th>Notebook</th><th>State</th><th>Time</th>"
        "<th>Parameters</th><th>Files</th></tr></thead><tbody>",
        *[_run_row(out, status) for status in statuses],
        "</tbody></table>",
        *_results(statuses, records),
        *_files(out),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _when(status: Status) -> str:
    return str(status.get("finished", status["queued"]))


def _origin(status: Status | None) -> str:
    if status is None:
        return ""
    made = status["provenance"]
    parts = [f"package {made['package']}", f"commit {made['commit'][:12]}", f"Python {made['python']}"]
    device = status.get("device", "")
    parts += [device if device != "auto" else "", made["cpu"], _when(status).replace("T", " ")]
    return f' <span class="small">{escape(" · ".join(part for part in parts if part))}</span>'


def _run_row(out: Path, status: Status) -> str:
    kind = {"ok": "ok", "queued": "open", "running": "open"}.get(status["state"], "bad")
    name, run = status["notebook"], quote(status["run"])
    title = escape(name) + (
        f'<br><span class="small">{escape(status["point"])}</span>' if status["point"] else ""
    )
    links = [
        ("page", f"{name}.html"),
        ("notebook", f"{name}.ipynb"),
        ("log", "log.txt"),
        ("record", "status.json"),
    ]
    there = [(text, file) for text, file in links if (out / status["run"] / file).is_file()]
    if there and there[0][0] == "page":
        title = f'<a href="{run}/{quote(name)}.html">{title}</a>'
    cells = status.get("cells")
    state = f'<span class="state {kind}">{escape(status["state"])}</span>'
    if kind == "bad":
        where = f' <span class="small">at cell {cells[0]} of {cells[1]}</span>' if cells else ""
        state += where + _failure(out / status["run"], status)
    shown = "<br>".join(_parameter(status, name) for name in status["parameters"] if name != "folder")
    seconds = span(status["seconds"]) if "seconds" in status else ""
    anchors = " · ".join(f'<a href="{run}/{quote(file)}">{text}</a>' for text, file in there)
    cells_html = [title, state, seconds, shown, anchors]
    return "<tr>" + "".join(f"<td>{one}</td>" for one in cells_html) + "</tr>"


def _parameter(status: Status, name: str) -> str:
    """One line; what differs from the notebook's own value is bold."""
    text = f"<code>{escape(name)} = {escape(_text(status['parameters'][name]))}</code>"
    return f"<strong>{text}</strong>" if name in status["given"] else text


def _failure(folder: Path, status: Status) -> str:
    log = folder / "log.txt"
    tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_SHOWN:] if log.is_file() else ""
    text = f"<br>{escape(status['message'])}"
    return text + (
        f"<details><summary>end of the log</summary><pre>{escape(tail)}</pre></details>" if tail else ""
    )


def _results(statuses: Sequence[Status], records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One table for each notebook: results down, sweep points across as rows."""
    parts: list[str] = [
        '<h2>Results</h2><p class="small">also in <a href="results.csv">results.csv</a> '
        '(one line per value) and <a href="results_wide.csv">results_wide.csv</a></p>'
    ]
    for notebook in dict.fromkeys(status["notebook"] for status in statuses):
        own = [status for status in statuses if status["notebook"] == notebook and records[status["run"]]]
        names = list(dict.fromkeys(name for status in own for name in records[status["run"]]))
        if not own:
            continue
        swept = len(own) > 1 or own[0]["point"]
        rows = [
            [(status["point"] or "–"), *(records[status["run"]].get(n, "") for n in names)] for status in own
        ]
        header = ["point", *names]
        if not swept:
            header, rows = ["result", "value"], [[n, records[own[0]["run"]][n]] for n in names]
        parts += [f"<h3>{escape(notebook)}</h3>", _table(header, rows)]
    return parts if len(parts) > 1 else []


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return f"<td{' class=number' if number else ''}>{escape(_text(value))}</td>"

    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "\n".join("<tr>" + "".join(cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _text(value: object) -> str:
    """A value to read: whole text, numbers with six digits (full precision is in the tables)."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _files(out: Path) -> list[str]:
    paths = outputs(out)
    if not paths:
        return []
    items = [
        f'<li><a href="{quote(path.as_posix())}">{escape(path.as_posix())}</a> '
        f'<span class="small">{(out / path).stat().st_size / 1000:,.1f} kB</span></li>'
        for path in paths[:FILES_SHOWN]
    ]
    more = [f"<li>and {len(paths) - FILES_SHOWN} more</li>"] if len(paths) > FILES_SHOWN else []
    return ["<h2>Files of the experiments</h2><ul>", *items, *more, "</ul>"]


def write_junit(path: Path, statuses: Sequence[Status]) -> None:
    """JUnit XML of a plan: an error in a cell is a failure, an end from outside an error, blocked skipped."""
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
