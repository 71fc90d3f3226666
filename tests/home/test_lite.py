"""Lessons for a browser alone: what its Python lacks is left out, and what is left in runs without it."""

import ast
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from dualrs_lab.__main__ import main
from dualrs_lab.charts import VEGALITE, votes_chart
from dualrs_lab.exercises import SOLUTION
from dualrs_lab.home import (
    FROM_PYPI,
    PYODIDE,
    build_site,
    first_cell,
    for_browser,
    lacking,
    lite_lessons,
    page_packages,
)

ROOT = Path(__file__).parents[2]
LESSONS = lite_lessons(ROOT / "notebooks")
MODULES = {"pillow": "PIL", "vl-convert-python": "vl_convert"}  # where they are not called as their project
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = [
    *PROJECT["dependencies"],
    *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
]
# What this project names and a page has not: no import of it may succeed.
MISSING = sorted(
    {MODULES.get(name, name.replace("-", "_")) for name in (Requirement(text).name for text in WANTED)}
    - {*PYODIDE, *FROM_PYPI, "dualrs_lab", "ipykernel", "setuptools"}
)
PAGE = f"""
import sys

class Page:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        return None if name.split(".")[0] in {MISSING!r} else self.finder.find_spec(name, *rest)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Page(finder) for finder in sys.meta_path]
"""


def lesson(*sources: str, tag: str = "") -> dict[str, Any]:
    cells = [
        {"cell_type": "code", "id": f"c{i}", "source": source, "metadata": {"tags": []}, "outputs": []}
        for i, source in enumerate(sources)
    ]
    if tag:
        cells[-1]["metadata"] = {"tags": [tag]}
    return {"cells": cells, "metadata": {}}


def sources(notebook: dict[str, Any], kind: str = "code") -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_what_a_page_lacks_is_found_through_all_imports() -> None:
    assert {"torch", "psutil", "papermill", "vl_convert"} <= {*MISSING}
    assert "torch" in lacking("dualrs_lab.models.networks")
    assert "torch" in lacking("dualrs_lab.smoothing.certify")  # by what it imports
    for module in (
        "charts.plane",
        "lessons.strikes",
        "exercises.exercise",
        "headless.runner",
        "figures.votes",
    ):
        assert lacking(f"dualrs_lab.{module}") == set(), module
    assert {"matplotlib", "numpy", "seaborn"} <= {*page_packages(["dualrs_lab.figures.plane"])}
    assert page_packages(["dualrs_lab.files"]) == ["lazy-loader"]  # of the package itself


def test_cells_that_a_page_cannot_run_are_left_out_with_what_follows_from_them() -> None:
    made, out = for_browser(
        lesson(
            "import numpy as np\nimport torch\nfrom dualrs_lab.mixing import mix_radius_closed, mix_logits",
            "a = torch.ones(3)",
            "b = a + 1",
            "c = np.ones(3)",
            "from dualrs_lab.panels import PlanePanel\nPlanePanel()",
            "import subprocess",
            "mix_radius_closed(0.9, 0.8, c)",
        )
    )
    assert out == 4
    assert sources(made) == [
        "import numpy as np\nfrom dualrs_lab.mixing import mix_radius_closed",
        "c = np.ones(3)",
        "mix_radius_closed(0.9, 0.8, c)",
    ]
    (first, second) = sources(made, "markdown")
    assert first == second
    assert "left out" in first
    assert for_browser(lesson("x = 1", "y = 2", tag="torch"))[1] == 1
    whole = lesson("import math\nx = math.pi", "x")
    assert for_browser(whole) == (whole, 0)


def test_a_name_that_another_cell_binds_is_not_lost() -> None:
    made, out = for_browser(lesson("import torch\nx = torch.ones(2)", "x = 1", "x + 1"))
    assert out == 1
    assert sources(made) == ["x = 1", "x + 1"]


def test_lessons_that_need_no_torch_are_served_and_those_that_train_are_not() -> None:
    assert {"11_lesson_dual", "14_lesson_certificates", "15_lesson_attacks"} <= {*LESSONS}
    assert "12_lesson_pixels" not in LESSONS
    assert for_browser(json.loads((ROOT / "notebooks" / "15_lesson_attacks.ipynb").read_text()))[1] == 0
    for made in LESSONS.values():
        assert not [cell for cell in made["cells"] if SOLUTION in cell["metadata"].get("tags", ())]
        assert made["metadata"]["kernelspec"]["name"] == "python"
    solved = lite_lessons(ROOT / "notebooks", solutions=True)["15_lesson_attacks"]
    assert sum(SOLUTION in cell["metadata"].get("tags", ()) for cell in solved["cells"]) == 8


@pytest.mark.parametrize("name", LESSONS)
def test_the_first_cell_installs_what_the_lesson_takes_and_the_package_without_the_rest(name: str) -> None:
    first = LESSONS[name]["cells"][0]
    assert first == first_cell({"cells": LESSONS[name]["cells"][1:]})
    assert 'await piplite.install("dualrs-lab", deps=False)' in first["source"]
    ast.parse(first["source"].replace("await ", ""))
    (listed,) = (line for line in first["source"].splitlines() if ".split()" in line)
    names = listed.split('"')[1].split()
    assert {"altair", "lazy-loader", "matplotlib", "numpy", "pandas", "scipy"} <= {*names}
    assert {*names} <= {*PYODIDE.values(), *FROM_PYPI.values()}


def test_lessons_import_nothing_that_a_page_lacks() -> None:
    """In a Python that has what a page has: every import of every lesson that is served."""
    lines = [
        ast.unparse(node)
        for made in LESSONS.values()
        for source in sources(made)[1:]
        for node in ast.parse(source).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert len(lines) > 30
    subprocess.run([sys.executable, "-c", PAGE + "\n".join(lines)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_runs_as_it_is_served_where_a_page_lacks_things(name: str, tmp_path: Path) -> None:
    made = lite_lessons(ROOT / "notebooks", solutions=True)[name]
    made["cells"] = [cell for cell in made["cells"][1:] if "exercise" not in cell["metadata"].get("tags", ())]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "notebooks" / f"{name}.ipynb").write_text(json.dumps(made))
    code = PAGE + (
        "from pathlib import Path\nfrom dualrs_lab.exercises import sit\ntold = []\n"
        f"sit(Path({name + '.ipynb'!r}), told.append)\n"
        "wrong = [line for line in told if 'error' in line or line.get('state') not in (None, 'right')]\n"
        "assert told[-1] == {'end': True} and not wrong, wrong\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path / "notebooks")


def test_a_chart_without_a_converter_is_drawn_by_its_page_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    data, _ = votes_chart()._repr_mimebundle_()
    assert {*data} == {VEGALITE, "text/plain"}


def test_a_site_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    if build_possible():
        (tmp_path / "mine").write_text("kept")
        assert main(["lite", str(tmp_path)]) == 2
        assert f"lite: {tmp_path} is there and not empty" in capsys.readouterr().err
        assert (tmp_path / "mine").read_text() == "kept"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"JupyterLite is missing: pip install 'dualrs-lab\[lite\]'"):
        build_site(tmp_path / "new", ROOT)
    monkeypatch.setattr("dualrs_lab.headless.workbench.find_notebooks", lambda: tmp_path / "notebooks")
    assert main(["lite", str(tmp_path / "new")]) == 2
    assert "is no checkout of this package" in capsys.readouterr().err


def build_possible() -> bool:
    import importlib.util

    return all(map(importlib.util.find_spec, ("jupyterlite_core", "jupyterlite_pyodide_kernel")))


@pytest.mark.slow
def test_the_site_is_built_without_a_network_and_holds_what_lessons_need(tmp_path: Path) -> None:
    if not build_possible():
        pytest.skip("JupyterLite is missing: pip install -e '.[lite]'")
    site, offline = (
        tmp_path / "site",
        {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
    )
    code = (
        "from pathlib import Path\nfrom dualrs_lab.home import build_site\n"
        f"build_site(Path({str(site)!r}), Path({str(ROOT)!r}))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | offline)
    for name, made in LESSONS.items():
        assert json.loads((site / "files" / "notebooks" / f"{name}.ipynb").read_text()) == made
    assert (site / "files" / "docs" / "glossary.md").is_file()
    assert list((site / "files" / "data" / "cifar10_jpeg").glob("*_smoothed0.5_*.tsv"))
    extensions = {path.name for path in (site / "extensions").glob("*/*")}
    assert extensions == {"pyodide-kernel-extension", "jupyterlab-manager"}
    (wheel,) = (site / "pypi").glob("dualrs_lab-*-py3-none-any.whl")
    held = zipfile.ZipFile(wheel).namelist()
    assert "dualrs_lab/data/digits.npz" in held
    assert not [name for name in held if "/workbench/" in name]
    config = json.loads((site / "jupyter-lite.json").read_text())["jupyter-config-data"]
    settings = config["litePluginSettings"]["@jupyterlite/pyodide-kernel-extension:kernel"]
    assert any(url.startswith("./pypi/all.json") for url in settings["pipliteUrls"])
