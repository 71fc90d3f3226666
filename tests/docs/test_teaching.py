"""What teachers and readers are told of the lessons: plans, exercises, symbols; some need no torch."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dualrs_lab.charts import VEGALITE
from dualrs_lab.exercises import EXERCISE, SOLUTION, exercises

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("1?_lesson_*.ipynb"))
TEACHING = (ROOT / "docs" / "teaching.md").read_text()
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
WITHOUT_TORCH = [
    "10_lesson_smoothing",
    "11_lesson_dual",
    "13_lesson_mixing",
    "14_lesson_certificates",
    "15_lesson_attacks",
]
NO_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"there is no {name} here")

sys.meta_path.insert(0, NoTorch())
"""


def source(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_each_term_and_each_symbol_comes_once() -> None:
    terms = re.findall(r"^\*\*(.+?)\.?\*\*", GLOSSARY, flags=re.MULTILINE)
    assert len(terms) > 25
    assert terms == sorted(set(terms), key=str.lower)
    symbols = [
        cell
        for row in re.findall(r"^\| (\$.+?) \|", GLOSSARY, flags=re.MULTILINE)
        for cell in row.split(", ")
    ]
    assert len(symbols) > 25
    assert len(symbols) == len({*symbols})


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_each_lesson_leads_to_the_glossary_and_has_two_plans_and_slides(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert "](../docs/glossary.md)" in "".join("".join(cell["source"]) for cell in cells)
    plan = re.search(rf"^## Lesson {path.stem[:2]}:.*?(?=^## )", TEACHING, flags=re.MULTILINE | re.DOTALL)
    assert plan
    for part in (
        "*By the end:*",
        "**In 50 minutes.**",
        "**In 90 minutes.**",
        "*Ask:*",
        "*What goes wrong:*",
        "*Skip",
    ):
        assert part in plan[0], part
    kinds = {cell["metadata"]["slideshow"]["slide_type"] for cell in cells}
    assert {"slide", "subslide", "-"} <= kinds
    hidden = [cell for cell in cells if SOLUTION in cell["metadata"].get("tags", ())]
    assert all(cell["metadata"]["slideshow"]["slide_type"] == "skip" for cell in hidden)


def test_the_table_of_lessons_counts_their_exercises() -> None:
    rows = re.findall(
        r"^\| \[.*?\]\(\.\./notebooks/(\w+)\.ipynb\) \| .*? \| (\w+)", TEACHING, flags=re.MULTILINE
    )
    assert [name for name, _ in rows] == [path.stem for path in LESSONS]
    assert {name: int(count) for name, count in rows if count.isdigit()} == {
        lesson: len(every) for lesson, every in exercises().items()
    }


def test_exercises_are_judged_where_there_is_no_torch() -> None:
    code = NO_TORCH + (
        "from dualrs_lab.exercises import Formula, check, exercises\n"
        "every = [one for some in exercises().values() for one in some]\n"
        "assert all(one.judge(one.truth).right for one in every if isinstance(one, Formula))\n"
        "assert check('choose a weight', 0.86).right and check('break the naive radius', 3).right is False\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("lesson", WITHOUT_TORCH)
def test_lessons_import_nothing_that_needs_torch(lesson: str) -> None:
    tree = ast.parse(source(ROOT / "notebooks" / f"{lesson}.ipynb"))
    lines = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(lines) >= 10
    subprocess.run([sys.executable, "-c", NO_TORCH + "\n".join(lines)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("lesson", WITHOUT_TORCH)
def test_lessons_run_where_there_is_no_torch(lesson: str) -> None:
    path = ROOT / "notebooks" / f"{lesson}.ipynb"
    code = NO_TORCH + (
        "from pathlib import Path\nfrom dualrs_lab.exercises import sit\ntold = []\n"
        f"sit(Path({str(path)!r}), told.append)\n"
        "assert told[-1] == {'end': True} and not [line for line in told if 'error' in line], told\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=path.parent, stdout=subprocess.PIPE, text=True, check=True
    )
    left_out = "There is no torch here, so section 11 is left out." in told.stdout
    assert left_out == (lesson == "10_lesson_smoothing")  # its pictures; nothing else


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_each_lesson_says_what_it_needs_and_has_two_figures_that_are_dragged(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    first = " ".join("".join(cells[0]["source"]).split())
    for part in ("**What you need:**", "**Time:**", "**Afterwards you will be able to**", "**Claim.**"):
        assert part in first, part
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert text.count("**Predict") >= 4
    charts = [
        output["data"][VEGALITE]
        for cell in cells
        for output in cell.get("outputs", [])
        if VEGALITE in output.get("data", {})
    ]
    moved = [chart for chart in charts if any("bind" in one or "select" in one for one in every_param(chart))]
    assert len(moved) >= 2


def every_param(chart: Any) -> list[dict[str, Any]]:
    """The parameters of a drawing, wherever they stand in it."""
    if isinstance(chart, list):
        return [one for part in chart for one in every_param(part)]
    if not isinstance(chart, dict):
        return []
    return [*chart.get("params", []), *(one for part in chart.values() for one in every_param(part))]


def test_the_robust_classifier_has_one_letter_and_each_symbol_one_meaning() -> None:
    """In 10 and 11 nothing is called g, which is the accurate one of two; F is never a score."""
    for name in ("10_lesson_smoothing", "11_lesson_dual"):
        cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        math = " ".join(re.findall(r"\$([^$]+)\$", text))
        found = re.findall(r"(?<![A-Za-z\\])g(?![A-Za-z])", math)
        assert len(found) == (2 if name.startswith("10") else 0)  # 10 says what others call it, and who g is
        assert not re.search(r"F_[cy]", math)


def test_slides_are_made(tmp_path: Path) -> None:
    """By the exporter of nbconvert, which asks no network for it."""
    lesson = "14_lesson_certificates"
    module = [sys.executable, "-m", "nbconvert", "--to", "slides", "--output-dir", tmp_path]
    subprocess.run([*module, ROOT / "notebooks" / f"{lesson}.ipynb"], check=True, capture_output=True)
    page = (tmp_path / f"{lesson}.slides.html").read_text()
    assert page.count("<section") > 20
    assert "BEGIN SOLUTION" not in page
    assert EXERCISE in page
