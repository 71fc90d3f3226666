"""Tables and pages show what was recorded, escaped, also for runs that failed."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from dualrs_lab.headless import outputs, read_records, write_gallery, write_junit, write_report


def add(out: Path, run: str, state: str, records: str = "", **fields: Any) -> dict[str, Any]:
    notebook, _, point = run.partition("@")
    status = {
        "run": run, "notebook": notebook, "point": point, "state": state, "message": "",
        "queued": "2026-01-01",
        "parameters": {"sigma": 0.5, "fast": True, "folder": "../runs/files"}, "given": {"sigma": 0.5},
        "provenance": {"package": "0.1", "commit": "abcdef", "python": "3.11", "cpu": "a cpu"},
        "runner": {"pid": 1, "born": "", "host": "elsewhere"}, "seconds": 61.0,
    } | fields  # fmt: skip
    (out / run).mkdir(parents=True)
    (out / run / "status.json").write_text(json.dumps(status))
    (out / run / "records.jsonl").write_text(records)
    return status


@pytest.fixture
def out(tmp_path: Path) -> Path:
    add(tmp_path, "20_train", "ok", '{"acc": 0.123456789012}\n{"curve": [1, 2], "acc": 0.75}\n{"lost": 1')
    add(
        tmp_path,
        "21_certify@sigma=0.5",
        "error",
        '{"before": "<b>"}\n',
        message="ValueError: a < b",
        cells=[2, 5],
    )
    (tmp_path / "21_certify@sigma=0.5" / "log.txt").write_text("<last words>")
    (tmp_path / "20_train" / "20_train.html").write_text("page")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "table.tsv").write_text("x")
    write_report(tmp_path)
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_last_value_counts_and_an_unfinished_line_does_not(out: Path) -> None:
    assert read_records(out / "20_train") == {"acc": 0.75, "curve": [1, 2]}
    assert read_records(out / "none") == {}


def test_results_hold_every_value_of_every_run(out: Path) -> None:
    table = rows(out / "results.csv")
    assert [(row["notebook"], row["point"], row["state"], row["name"], row["value"]) for row in table] == [
        ("20_train", "", "ok", "acc", "0.75"),
        ("20_train", "", "ok", "curve", "[1, 2]"),
        ("21_certify", "sigma=0.5", "error", "before", "<b>"),
    ]
    assert json.loads(table[0]["parameters"]) == {"sigma": 0.5, "fast": True}


def test_the_wide_table_has_a_row_for_each_run(out: Path) -> None:
    first, second = rows(out / "results_wide.csv")
    assert list(first) == [
        "notebook", "point", "state", "seconds", "sigma", "fast",
        "result.acc", "result.curve", "result.before",
    ]  # fmt: skip
    assert first["result.acc"] == "0.75"
    assert second["result.acc"] == ""
    assert second["fast"] == "true"


def test_the_page_shows_and_links_all_without_the_network(out: Path) -> None:
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "1 of 2 runs ended well" in page
    assert 'href="20_train/20_train.html"' in page
    assert "ValueError: a &lt; b" in page
    assert "&lt;last words&gt;" in page
    assert "at cell 2 of 5" in page
    assert "sigma = 0.5" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert 'href="files/table.tsv"' in page
    assert "1:01" in page
    assert "http" not in page
    assert page.count("<script>") == 1  # of its filters; nothing is loaded


VOID = {"meta", "input"}


class Outline(HTMLParser):
    """Checks that every element is closed where it was opened, and keeps tags, links and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name == "href"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_link_of_the_page_leads_to_a_file(out: Path) -> None:
    links = Outline((out / "index.html").read_text(encoding="utf-8")).links
    assert len(links) == 8
    assert all((out / unquote(link)).is_file() for link in links)


HOSTILE = "\"'><img src=x onerror=f()></td></table></style><script>g()</script>{{ 7 * 7 }}&amp;#?%41"


def test_names_and_values_cannot_become_markup(out: Path) -> None:
    plain = Outline((out / "index.html").read_text(encoding="utf-8"))
    names = HOSTILE.replace("/", "∕")  # for files: a slash would be a folder
    values = json.dumps({HOSTILE: HOSTILE, "list": [HOSTILE]}) + "\n"
    where = {"package": HOSTILE, "commit": HOSTILE, "python": HOSTILE, "cpu": HOSTILE}
    add(
        out, f"{names}@{names}", "error", values, message=HOSTILE, queued=f"9{HOSTILE}", device=HOSTILE,
        parameters={HOSTILE: HOSTILE, "classes": [HOSTILE]}, given={HOSTILE: HOSTILE}, provenance=where,
    )  # fmt: skip
    add(out, "strange", "error", values, message=HOSTILE)
    for file in (f"{names}.html", f"{names}.ipynb", "log.txt"):
        (out / f"{names}@{names}" / file).write_text(HOSTILE)
    (out / "files" / names).write_text("x")
    write_report(out)
    page = Outline((out / "index.html").read_text(encoding="utf-8"))
    assert page.tags == plain.tags
    assert page.attributes == plain.attributes
    assert page.text.count(HOSTILE) == 17  # 5 in the first line, 6 in two rows, 6 in two tables of results
    assert page.text.count("49") == 0
    assert all((out / unquote(link)).is_file() for link in page.links)


def test_a_gallery_is_made_of_executed_notebooks_again(out: Path) -> None:
    cell = {
        "cell_type": "markdown",
        "metadata": {},
        "source": "# 20 · Train\n\n**Claim.** " + "It learns. " * 5,
    }
    nb = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (out / "20_train" / "20_train.ipynb").write_text(json.dumps(nb))
    assert write_gallery(out) == 1
    page = (out / "index.html").read_text()
    assert "20 · Train</a>" in page.replace("\n", "")
    assert "It learns. It learns." in page
    assert "← All notebooks" in (out / "20_train" / "20_train.html").read_text()
    with pytest.raises(FileNotFoundError, match=r"no runs in .*none; want the --out folder"):
        write_gallery(out / "none")


def test_an_empty_folder_has_a_page_too(tmp_path: Path) -> None:
    write_report(tmp_path)
    assert "0 of 0 runs" in (tmp_path / "index.html").read_text()
    assert outputs(tmp_path) == []


def test_junit_counts_by_kind(tmp_path: Path) -> None:
    states = ["ok", "error", "timeout", "dead-kernel", "killed", "blocked", "interrupted"]
    statuses = [add(tmp_path, f"n{i}", state, message="\x1b[0;31mred\x00") for i, state in enumerate(states)]
    statuses[1]["traceback"] = "line <1>\x07"
    write_junit(tmp_path / "out" / "j.xml", statuses)
    suite = ElementTree.parse(tmp_path / "out" / "j.xml").getroot()
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "7", "failures": "1", "errors": "3", "skipped": "2",
    }  # fmt: skip
    assert [child.tag for case in suite for child in case] == [
        "failure", "error", "error", "error", "skipped", "skipped",
    ]  # fmt: skip
    failure = suite[1][0]
    assert failure.text == "line <1>"
    assert failure.get("message") == "error: [0;31mred"
