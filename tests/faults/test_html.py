"""Names that come from data are shown as they are: no browser takes them for HTML."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import pytest
import torch

from dualrs_lab import figures
from dualrs_lab.data import Images
from dualrs_lab.headless import write_report
from dualrs_lab.models import make_model
from dualrs_lab.panels import BlendPanel, CertifiedPanel, ImagePanel, Panel, PixelPanel

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</td></table><svg onload=alert(1)>",
    '"><b onmouseover="alert(1)">&lt;',
    "<a href='javascript:alert(1)'>{0.__class__}{}%s",
)
TAGS = {"b", "span", "table", "thead", "tbody", "tr", "th", "td"}
PAGE = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "h1",
    "h2",
    "p",
    "a",
    "code",
    "pre",
    "header",
    "main",
}
PAGE |= {"details", "summary", "strong", "ul", "li", "dl", "dt", "dd", "div", "article", "footer", "script"}
PAGE |= {"form", "fieldset", "legend", "label", "input", "output"}
WRITTEN = {"lang", "charset", "name", "content", "class", "href", "id", "hidden", "type", "value", "checked"}


class Reader(HTMLParser):
    """What a browser finds in HTML: elements, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def images(name: str) -> Images:
    pixels = torch.randint(0, 256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    classes = (name, f"{name} 1", f"{name} 2")
    return Images(pixels=pixels, labels=torch.arange(3), classes=classes, name="made", split="test")


def network(seed: int = 0) -> Any:
    model = make_model("digits_cnn", classes=3, channels=1, mean=[0.5], std=[0.5], seed=seed)
    with torch.no_grad():
        model.body.fc.weight.abs_()
    return model


def tables(name: str) -> dict[str, pd.DataFrame]:
    rows = pd.DataFrame({"idx": range(3), "label": 0, "predict": 0, "correct": 1, "radius": [0.1, 0.2, 0.3]})
    return {name: rows, f"{name} 1": rows}


PANELS: dict[str, Callable[[str], Panel]] = {
    "pixels": lambda name: PixelPanel(network(), images(name), eps=0.1),
    "blend": lambda name: BlendPanel(network(), network(1), images(name), eps=0.1),
    "image": lambda name: ImagePanel(network(), images(name), n=100),
    "certified": lambda name: CertifiedPanel(tables(name)),
}


@pytest.mark.parametrize("name", HOSTILE[:2])
@pytest.mark.parametrize("panel", PANELS)
def test_names_of_classes_and_tables_are_text(panel: str, name: str) -> None:
    made = PANELS[panel](name)
    found = Reader(made.note.value)
    assert {*found.tags} <= TAGS
    assert found.attributes <= {"style", "border", "class"}
    if panel != "image":  # whose names are in the picture alone
        assert name in found.text
    shown = made._repr_mimebundle_()
    assert "text/html" not in shown
    for control in made.controls.values():
        assert not getattr(control, "description_allow_html", False)


class Talking(Panel):
    """A panel of somebody else, who says something and fails when moved."""

    def __init__(self, said: str) -> None:
        self.said = said
        super().__init__("talking", move=widgets.IntSlider(value=0, max=1))

    def tell(self, state: Any, found: Any) -> str:
        return self.said

    def set_up(self) -> list[figures.Drawing]:
        return [figures.Drawing(figures.row_of_axes(1.0, height=1.0)[0])]

    def show(self, state: Any, found: Any) -> None:
        if state["move"]:
            raise ValueError(f"no {self.said}")


@pytest.mark.parametrize("name", ["".join(HOSTILE)])
def test_what_a_panel_does_not_mark_as_html_is_text_and_so_are_errors(name: str) -> None:
    panel = Talking(name)
    assert (Reader(panel.note.value).tags, Reader(panel.note.value).text) == ([], name)
    panel.controls["move"].value = 1
    assert panel.wait(60)
    found = Reader(panel.status.value)
    assert found.tags == ["span"]
    assert f"ValueError: no {name} (the picture" in found.text


def test_html_for_widgets_is_made_at_one_place() -> None:
    package = Path(__file__).parents[2] / "dualrs_lab"
    making = [path for path in package.rglob("*.py") if "widgets.HTML(" in path.read_text()]
    assert [path.name for path in making] == ["panel.py"]
    filled = [
        line
        for path in (package / "panels").glob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"self\.(note|status|text)\.value = (?!\"\")", line)
    ]
    assert len(filled) == 4
    assert all("as_html(" in line for line in filled)


def run_of(name: str) -> dict[str, Any]:
    """A record in which everything that people and notebooks name is `name`."""
    made = {"package": name, "commit": name, "python": name, "cpu": name}
    parameters = {"text": name, "names": [name], name: 1}
    return {
        "run": "a", "notebook": name, "point": name, "state": "error", "message": name, "key": "",
        "seed": name,
        "parameters": parameters, "given": {"text": name}, "needs": [], "profile": "quick", "queued": name,
        "finished": name, "device": name, "provenance": made, "runner": {"pid": 0, "born": "", "host": ""},
    }  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_the_page_of_the_runs_shows_names_as_they_are(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "status.json").write_text(json.dumps(run_of(name)))
    (tmp_path / "a" / "records.jsonl").write_text(json.dumps({name: name}) + "\n")
    (tmp_path / "a" / "log.txt").write_text(name)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / name.replace("/", "")).write_text("made")
    write_report(tmp_path)
    found = Reader((tmp_path / "index.html").read_text())
    assert {*found.tags} <= TAGS | PAGE
    assert found.attributes <= WRITTEN | {"placeholder"}
    assert found.tags.count("script") == 1
    assert name in found.text
