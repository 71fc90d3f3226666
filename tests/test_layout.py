"""The repository is what README and pyproject.toml say: dependencies, notebooks, nothing foreign."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dualrs_lab.headless import check_notebook
from tests.test_wings import imports

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dualrs_lab"
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem not in ("__init__", "__main__", "worker")
)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()


def test_no_notebook_code_reaches_for_private_names() -> None:
    for path in NOTEBOOKS:
        assert not re.search(r"from dualrs_lab\.\w+ import .*\b_\w", path.read_text()), path.name


def test_every_wing_is_on_the_map() -> None:
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE)) == wings


def test_every_notebook_is_in_the_table_of_the_readme() -> None:
    table = set(re.findall(r"^\| \[`(\d\d_\w+)`\]", README, flags=re.MULTILINE))
    assert table == {path.stem for path in NOTEBOOKS}


def code_cells(path: Path, *, exercises: bool = True) -> list[tuple[str, str, bool]]:
    """Its name, its source, and whether it is the parameters cell; with those of exercises, or without."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    cells = [
        cell
        for cell in cells
        if exercises or not {"exercise", "solution"} & {*cell["metadata"].get("tags", [])}
    ]
    return [
        (
            f"{path.stem}, {cell['id']}",
            "".join(cell["source"]),
            "parameters" in cell["metadata"].get("tags", []),
        )
        for cell in cells
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_define_nothing_that_deserves_a_test(path: Path) -> None:
    """But for exercises, where a reader writes a function, and `check` tests it."""
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for cell, source, _ in code_cells(path, exercises=False):
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, named), f"{cell} defines {node.name}: put it into the package"
            value = getattr(node, "value", None) if isinstance(node, ast.Assign | ast.AnnAssign) else None
            assert not isinstance(value, ast.Lambda), f"{cell} names a lambda: put it into the package"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_say_what_they_check_and_go_on(path: Path) -> None:
    """A bare assert would stop a reader who tries other settings; `expect` says a sentence."""
    for cell, source, _ in code_cells(path):
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, ast.Assert), f"{cell}: line {node.lineno} asserts; use expect"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "expect":
                assert isinstance(node.args[0], ast.Constant | ast.JoinedStr), cell
                assert len(ast.unparse(node.args[0]).split()) >= 2, f"{cell}: {ast.unparse(node.args[0])}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_is_one_claim_of_a_dozen_lines(path: Path) -> None:
    """Parameters may take more: each has its line, with what it means beside it."""
    for cell, source, parameters in code_cells(path):
        assert parameters or len(source.splitlines()) <= 12, f"{cell} has {len(source.splitlines())} lines"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_leave_names_of_files_to_the_experiment(path: Path) -> None:
    for cell, source, _ in code_cells(path):
        found = re.search(r"\S*\.(?:safetensors|tsv)\b", source)
        assert not found, f"{cell} names {found[0]}: see dualrs_lab.experiment"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_are_executed_normalised_and_current(path: Path) -> None:
    assert check_notebook(path) == []


def test_environment_yml_points_at_pyproject_and_adds_nothing() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"][0] == "conda-forge"
    conda = [Requirement(entry) for entry in environment["dependencies"] if isinstance(entry, str)]
    assert {requirement.name for requirement in conda} == {"python", "pip"}
    (python,) = (requirement for requirement in conda if requirement.name == "python")
    assert python.specifier == SpecifierSet(PYPROJECT["project"]["requires-python"])
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    (line,) = pip
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", line)
    assert extras
    assert set(extras[1].split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])


def test_dependencies_have_lower_bounds_and_nothing_more() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    for text in [
        *PYPROJECT["project"]["dependencies"],
        *(line for extra in extras.values() for line in extra),
    ]:
        requirement = Requirement(text)
        if requirement.name != "dualrs-lab":
            assert [clause.operator for clause in requirement.specifier] == [">="], text


def test_every_third_party_import_is_declared() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = list(PYPROJECT["project"]["dependencies"])
    for extra in ("attacks", "int8", "diffusers", "completion", "timm", "hf", "onnx", "slurm", "afar"):
        wanted += extras[extra]
    names = {Requirement(text).name for text in wanted}
    modules = {"pillow": "PIL", "vl-convert-python": "vl_convert"}
    declared = {modules.get(name, name) for name in names}
    for path in PACKAGE.rglob("*.py"):
        used = {name.split(".")[0] for name in imports(path)} - {"dualrs_lab"}
        foreign = used - set(sys.stdlib_module_names)
        # Parts of jupyterlab's and papermill's own dependencies.
        assert foreign <= declared | {
            "nbclient",
            "jupyter_client",
            "jupyter_core",
            "jupyter_server",
            "tornado",
            "traitlets",
            "zmq",
            "IPython",
        }, path.name


def test_no_trace_of_a_machine_in_tracked_files() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    foreign = re.compile(r"/(?:home|Users|root|work|mnt)/\w")
    text = {".py", ".md", ".toml", ".yml", ".json", ".ipynb", ".cff"}
    names = [name for name in listed.stdout.splitlines() if not name.startswith("tests/")]
    for path in (ROOT / name for name in names):
        if path.suffix in text and path.is_file():
            assert not foreign.search(path.read_text()), path.name


def test_importing_the_package_changes_nothing() -> None:
    code = """
import random, sys, warnings, os, importlib
import numpy, torch, matplotlib
def state():
    return (random.getstate(), numpy.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist(),
            warnings.filters[:], torch.get_num_threads(), torch.get_default_dtype(), dict(os.environ),
            # Reading rcParams["backend"] would choose one; the raw entry says whether somebody did.
            {key: dict.__getitem__(matplotlib.rcParams, key) for key in matplotlib.rcParams})
import altair, ipywidgets, jupyter_server.serverapp, mpmath, pandas, safetensors.torch, scipy.stats, seaborn
import torch.fx.experimental.optimization, torch.utils.data, torchvision, tqdm.auto
before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
after = state()
for i, (a, b) in enumerate(zip(before, after)):
    assert a == b, (i, a, b)
"""
    subprocess.run([sys.executable, "-c", code, *MODULES], check=True)
