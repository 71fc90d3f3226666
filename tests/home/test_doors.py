"""The front page leads to what is there, says what lies behind each door, and shows no code."""

import json
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup

from dualrs_lab.gallery import Door, Way, front_html, wait_html
from dualrs_lab.home import find_doors

ROOT = Path(__file__).parents[2]


def address(path: str) -> str:
    return f"/lab/tree/{path}"


def write(root: Path, name: str, text: str) -> None:
    cell: dict[str, Any] = {"cell_type": "markdown", "metadata": {}, "source": text}
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    nb = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (root / "notebooks" / f"{name}.ipynb").write_text(json.dumps(nb))


def test_the_doors_of_the_workbench_lead_to_every_notebook() -> None:
    doors = find_doors(ROOT, address=address, base="/")
    assert [door.title for door in doors] == [
        "Explore results", "Learn", "Bring your network", "Run experiments",
    ]  # fmt: skip
    assert all(door.picture and door.alt and door.text for door in doors)
    ways = {way.address for door in doors for way in door.ways}
    notebooks = {f"/lab/tree/notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert ways - {"/files/runs/index.html"} == notebooks | {"/dualrs/board"}
    assert doors[2].ways[0].note.startswith("Set model")
    assert all(way.note for door in doors for way in door.ways)


def test_where_notebooks_run_when_opened_it_is_said_how_long_that_takes(tmp_path: Path) -> None:
    write(tmp_path, "23_pixel", "# 23 · Pixels\n\n**Claim.** It is the smaller budget that pays.")
    write(tmp_path, "21_certify", "# 21 · Certify\n\n**Claim.** Votes become certificates of a network.")
    (tmp_path / "notebooks" / "profiles.toml").write_text(
        '["23_pixel"]\nseconds = 65\n["21_certify"]\nseconds = 5'
    )
    explore, bring, run = find_doors(tmp_path, address=address, base="/b/", waits=True)
    assert [way.address for way in explore.ways] == ["/b/dualrs/board"]
    assert [way.note for way in bring.ways] == ["Votes become certificates of a network."]
    assert run.ways[1].note == "It is the smaller budget that pays. (Takes about 1 min to open.)"


def test_what_cannot_be_read_is_listed_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "10_good", "# 10 · Good")
    (tmp_path / "notebooks" / "11_bad.ipynb").write_text("{")
    (tmp_path / "notebooks" / "profiles.toml").write_text("[")
    doors = {door.title: door for door in find_doors(tmp_path, address=address, base="/", waits=True)}
    assert [way.name for way in doors["Learn"].ways] == ["10 · Good", "11_bad"]


def test_what_ran_is_behind_its_doors(tmp_path: Path) -> None:
    write(tmp_path, "20_train", "# 20 · Train")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "index.html").touch()
    doors = {door.title: door for door in find_doors(tmp_path, address=address, base="/")}
    assert all(doors[name].ways[-1].name == "What ran" for name in ("Explore results", "Run experiments"))


def test_a_page_of_doors_is_whole_and_loads_nothing() -> None:
    way = Way(address="/a?b&c", name="<b>", note="a < b")
    door = Door(
        title="Learn", text="Words.", ways=[way], call="dualrs-lab run", picture="iVBORw==", alt='"alt"'
    )
    html = front_html([door], others=[Way(address="/lab", name="JupyterLab")])
    found = BeautifulSoup(html, "html.parser")
    assert found.article.h2.a["href"] == "/a?b&c"
    assert found.article.li.get_text(" ", strip=True) == "<b> a < b"
    assert found.img["alt"] == '"alt"'
    assert found.script is None
    assert found.link is None
    assert "prefers-color-scheme: dark" in html
    assert found.footer.a["href"] == "/lab"
    assert 'http-equiv="refresh"' in wait_html("Reading")
