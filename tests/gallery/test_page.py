"""The page of all runs: cards, filters and folded results; small, whatever there is; nothing is loaded."""

import re
from typing import Any

from bs4 import BeautifulSoup

from dualrs_lab.gallery import Card, Entry, gallery_html


def entry(
    notebook: str, point: str = "", *, state: str = "ok", card: Card | None = None, **records: Any
) -> Entry:
    run = f"{notebook}@{point}" if point else notebook
    status = {
        "run": run, "notebook": notebook, "point": point, "state": state, "message": "",
        "parameters": {"n": 100, "folder": "x"}, "given": {"folder": "x"},
    }  # fmt: skip
    kind = {"ok": "ok", "running": "open"}.get(state, "bad")
    files = {"page": f"{run}/{notebook}.html"}
    return Entry(
        status=status, kind=kind, files=files, took="1.0 s", log="", card=card or Card(), records=records
    )


def page(*entries: Entry) -> BeautifulSoup:
    return BeautifulSoup(
        gallery_html(entries, origin=["cpu"], files=[("files/a b.tsv", 1234)]), "html.parser"
    )


def test_a_card_has_title_claim_picture_time_and_state() -> None:
    card = Card(title="20 · Train", claim="It learns.", picture="iVBORw==", alt="a curve")
    found = page(entry("20_train", card=card, acc=0.123456, rows=[{"a": 1}])).article
    assert (found["id"], found["class"]) == ("20_train", ["ok"])
    assert found.h2.get_text(strip=True) == "20 · Train"
    assert found.h2.a["href"] == "20_train/20_train.html"
    assert (found.img["alt"], found.img["src"]) == ("a curve", "data:image/png;base64,iVBORw==")
    text = found.get_text(" ", strip=True)
    assert "It learns. ok 1.0 s page" in text
    assert "0.1235" in text
    assert [one.summary.get_text(" ", strip=True) for one in found("details")] == [
        "2 results",
        "1 parameter",
    ]
    assert not any("open" in one.attrs for one in found("details"))  # folded away


def test_without_a_card_the_name_is_there() -> None:
    found = page(entry("mine")).article
    assert found.h2.get_text(strip=True) == "mine"
    assert found.img is None


def test_filters_count_what_there_is() -> None:
    found = page(entry("a"), entry("b", state="error"), entry("c", state="running"))
    labels = [label.get_text(strip=True) for label in found.form("label")]
    assert labels == ["all", "ended well (1)", "failed (1)", "waiting or running (1)", "Find"]
    assert "hidden" in found.form.attrs  # until its script runs
    assert [one["class"] for one in found("article")] == [["ok"], ["bad"], ["open"]]
    assert page().form is None


def test_points_of_a_sweep_stand_side_by_side_and_are_found_by_links() -> None:
    found = page(entry("a", "n=1", acc=0.5, curve=[1]), entry("a", "n=2", acc=0.75), entry("b", acc=1))
    assert [one["id"] for one in found("article")] == ["a", "a@n=2", "b"]
    (table,) = found("table")
    assert [cell.get_text() for cell in table("td")] == ["n=1", "0.5", "n=2", "0.75"]


def test_a_thousand_runs_with_pictures_stay_below_three_megabytes() -> None:
    card = Card(title="t", claim="c" * 200, picture="A" * 20_000, alt="words")
    many = [entry("a", f"seed={k}", card=card, acc=0.5, found=[{"a": 0.5}] * 3) for k in range(400)]
    html = gallery_html(many, origin=[], files=[("files/x", 1)] * 1000)
    assert len(html.encode()) < 3e6
    assert html.count("<img") == 75  # as many as there is room for


def test_nothing_is_loaded() -> None:
    html = gallery_html([entry("a")], origin=[], files=[])
    assert not re.search(r"https?:|@import|url\(|<script[^>]+src|<link", html)
    assert re.findall(r"\son\w+=", html) == []
