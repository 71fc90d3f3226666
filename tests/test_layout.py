"""The repository is what README and pyproject.toml say: imports, dependencies, notebooks, nothing foreign."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dualrs_lab.notebook import check_notebook

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dualrs_lab"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
CLI = sorted(f"cli/{path.stem}" for path in (PACKAGE / "cli").glob("*.py") if path.stem != "__init__")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()

# What a module may import from the package. Anything else is a new arrow: say why in the commit.
ARROWS = {
    "files": "",
    "settings": "",
    "runtime": "files",
    "bounds": "",
    "routes": "bounds",
    "claim": "",
    "certificates": "bounds claim files",
    "plane": "",
    "decoding": "",
    "folders": "decoding",
    "data": "folders decoding",
    "models": "files",
    "stopping": "bounds sampling",
    "sampling": "runtime",
    "fastpath": "sampling settings",
    "tables": "certificates files",
    "estimators": "routes",
    "dual_certificates": "certificates estimators routes",
    "cascades": "bounds certificates",
    "cascade_tables": "bounds cascades certificates data experts fastpath runtime sampling settings "
    "smoothing tables",
    "experts": "certificates data fastpath sampling smoothing stopping tables",
    "dual": "bounds certificates data dual_certificates estimators experts fastpath routes runtime sampling "
    "smoothing stopping tables",
    "comparison": "bounds cascade_tables cascades certificates",
    "smoothing": "bounds certificates data fastpath files runtime sampling settings stopping tables",
    "training": "data files models runtime tables",
    "soft": "estimators",
    "routing": "bounds data fastpath files models runtime sampling smoothing soft store training",
    "alternation": "data estimators fastpath models routing sampling smoothing training",
    "cam": "models",
    "attacks": "runtime",
    "adversarial": "attacks cam data runtime",
    "mixing": "",
    "mix_certificates": "bounds certificates claim",
    "adaptive": "adversarial attacks data mixing models runtime smoothing store training",
    "nuts": "mixing",
    "mix_evaluation": "attacks data evaluation runtime smoothing",
    "evaluation": "attacks data files runtime settings smoothing tables",
    "smoothed_attacks": "attacks cascades estimators runtime soft",
    "plots": "bounds cascades certificates claim routes",
    "pixel_plots": "plots",
    "mix_plots": "bounds plots",
    "walks": "mixing plane",
    "board": "certificates files plots",
    "widgets": "mix_certificates mix_plots mixing pixel_plots plots attacks bounds cam cascade_tables "
    "cascades certificates claim plane routes fastpath models runtime sampling smoothing data",
    "parameters": "",
    "notebook": "files parameters",
    "sweep": "files parameters",
    "plan": "files notebook parameters settings sweep",
    "slots": "",
    "status": "files plan slots",
    "progress": "",
    "report": "files progress status",
    "worker": "files notebook slots",
    "supervision": "files notebook plan progress slots status",
    "runner": "files notebook plan progress report settings slots status supervision",
    "cli/parser": "",
    "cli/options": "",
    "cli/inputs": "cli models runtime",
    "cli/run": "cli plan progress report runner slots status",
    "cli/certify": "certificates cli data fastpath runtime sampling smoothing stopping",
    "cli/attack": "attacks cli data evaluation runtime",
    "cli/tables": "cascade_tables cascades certificates cli files mix_certificates settings",
}
# Libraries that belong to one place only.
ONLY = {
    "psutil": {"slots"},
    "jinja2": {"report"},
    "graphlib": {"plan"},
    "argparse": {*CLI},
    "matplotlib": {"plots", "pixel_plots", "mix_plots", "board"},
    "seaborn": {"plots", "pixel_plots", "mix_plots", "board"},
    "ipywidgets": {"widgets"},
    "papermill": {"worker"},
}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(path: Path) -> set[str]:
    known = {*MODULES, "cli"}
    return {name.split(".")[1] for name in imports(path) if name.startswith("dualrs_lab.")} & known


@pytest.mark.parametrize("module", [module for module in [*MODULES, *CLI] if module != "__main__"])
def test_arrows_between_modules(module: str) -> None:
    assert own(PACKAGE / f"{module}.py") <= set(ARROWS[module].split())


@pytest.mark.parametrize("module", [*MODULES, *CLI])
def test_libraries_stay_in_their_place(module: str) -> None:
    used = {name.split(".")[0] for name in imports(PACKAGE / f"{module}.py")}
    for library, homes in ONLY.items():
        assert library not in used or module in homes, f"{module} imports {library}"


def test_no_notebook_code_reaches_for_private_names() -> None:
    for path in NOTEBOOKS:
        assert not re.search(r"from dualrs_lab\.\w+ import .*\b_\w", path.read_text()), path.name


def test_every_wing_is_on_the_map_and_every_module_has_tests() -> None:
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert wings <= set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert set(MODULES) - tested == {"__main__"}  # tests/test_main.py


def test_every_notebook_is_in_the_table_of_the_readme() -> None:
    table = set(re.findall(r"^\| \[`(\d\d_\w+)`\]", README, flags=re.MULTILINE))
    assert table == {path.stem for path in NOTEBOOKS}


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
    extra = PYPROJECT["project"]["optional-dependencies"]["attacks"]
    names = {Requirement(text).name for text in [*PYPROJECT["project"]["dependencies"], *extra]}
    modules = {"scikit-learn": "sklearn", "pillow": "PIL"}
    declared = {modules.get(name, name) for name in names}
    for path in PACKAGE.rglob("*.py"):
        used = {name.split(".")[0] for name in imports(path)} - {"dualrs_lab"}
        foreign = used - set(__import__("sys").stdlib_module_names)
        # Parts of jupyterlab's and papermill's own dependencies.
        assert foreign <= declared | {"nbclient", "jupyter_client", "traitlets", "zmq", "IPython"}, path.name


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
import ipywidgets, mpmath, pandas, safetensors.torch, scipy.stats, seaborn, sklearn.datasets
import sklearn.model_selection, torch.fx.experimental.optimization, torch.utils.data, torchvision, tqdm.auto
before = state()
for name in sys.argv[1:]:
    importlib.import_module("dualrs_lab." + name)
after = state()
for i, (a, b) in enumerate(zip(before, after)):
    assert a == b, (i, a, b)
"""
    names = [name.replace("/", ".") for name in [*MODULES, *CLI] if name not in ("__main__", "worker")]
    subprocess.run([__import__("sys").executable, "-c", code, *names], check=True)
