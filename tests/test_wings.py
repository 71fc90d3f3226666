"""The house is as planned: arrows that run down, faces that are true, nothing heavy at the door."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dualrs_lab"
WINGS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
FACES = [wing for wing in WINGS if wing not in ("cli", "front")]  # the face of `front` is the package
ROOMS = sorted(path for path in PACKAGE.rglob("*.py") if path.stem not in ("__init__", "__main__"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# What a wing may import, beside `faces`. Anything else is a new arrow: say why in the commit.
GROUND = {
    "faces": "",
    "files": "",
    "settings": "",
    "draws": "",
    "runtime": "files settings",
    "locks": "files",
    "store": "files locks",
    "shards": "files locks settings store",
    "experiment": "adapters evidence files",
}
ARROWS = {
    "afar": "files locks store",
    "data": "settings",
    "models": "afar files settings store",
    "adapters": "afar files models runtime",
    "evidence": "afar files locks settings store",
    "attacks": "afar data draws evidence files locks models runtime settings shards store",
    "pixels": "attacks data draws models runtime",
    "training": "attacks data draws files models pixels runtime settings smoothing store",
    "smoothing": "attacks data evidence files locks models runtime settings shards store",
    "cascade": "data evidence models runtime settings shards smoothing store training",
    "combine": "data evidence files locks models runtime settings shards smoothing store training",
    "mixing": "attacks data evidence files models runtime shards store training",
    "peers": "data evidence models settings smoothing store",
    "dual": "cascade data evidence files models runtime shards smoothing store training",
    "denoising": "afar adapters data experiment models runtime store training",
    "lessons": "combine evidence mixing settings",
    "exercises": "cascade dual evidence figures files headless lessons mixing",  # headless ends processes
    "figures": "cascade combine dual evidence files mixing",
    "charts": "afar cascade combine data dual evidence figures files lessons mixing",
    "panels": "adapters attacks cascade cluster combine data dual evidence figures headless lessons mixing "
    "models pixels runtime smoothing tasks",
    "gallery": "charts files",  # of charts how a page holds them, which knows no method
    "headless": "afar files gallery settings",
    "home": "exercises files gallery headless",  # exercises: lessons without their solutions
    "tasks": "afar files headless locks",
    "cluster": "files headless locks",
    "front": "afar adapters data evidence figures models runtime settings smoothing store",
    "cli": "afar adapters attacks cascade charts cluster combine data denoising evidence exercises "
    "experiment files front headless home mixing models runtime settings shards smoothing store training",
}
# Libraries that belong to one place only.
ONLY = {
    "altair": "charts",
    "fsspec": "afar",
    "ipywidgets": "panels",
    "matplotlib": "figures",
    "papermill": "headless",
    "seaborn": "figures",
    "submitit": "cluster",
    "vl_convert": "charts",
}
TORCHLESS = (
    "evidence", "exercises", "lessons", "figures", "charts", "gallery", "headless", "home", "tasks",
    "cluster",
)  # fmt: skip


def name_of(path: Path) -> str:
    """`evidence.radii` for its file."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def wing_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(path: Path) -> set[str]:
    """What a file imports of the package: `evidence.radii.rs_radius`."""
    names = {name.removeprefix("dualrs_lab.") for name in imports(path) if name.startswith("dualrs_lab.")}
    return names - {"__version__"}


def stub(wing: str) -> dict[str, str]:
    """The public names of a wing, and the room of each, as its stub lists them; "." is the package itself."""
    tree = ast.parse((PACKAGE / wing / "__init__.pyi").read_text())
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    others = {ast.unparse(node) for node in tree.body if node not in froms}
    assert others == ({"__version__: str"} if wing == "." else set()), (
        f"{wing}: wanted `from .room import name`"
    )
    return {alias.name: str(node.module) for node in froms for alias in node.names}


@pytest.mark.parametrize("wing", WINGS)
def test_arrows_between_wings(wing: str) -> None:
    allowed = {wing, "faces", *ARROWS[wing].split()}
    for path in (PACKAGE / wing).rglob("*.py"):
        assert {name.split(".")[0] for name in own(path)} <= allowed, name_of(path)


@pytest.mark.parametrize("module", GROUND)
def test_the_ground_imports_no_wing(module: str) -> None:
    assert {name.split(".")[0] for name in own(PACKAGE / f"{module}.py")} <= {*GROUND[module].split()}


def test_arrows_run_down() -> None:
    every = {name: below.split() for name, below in (GROUND | ARROWS).items()}
    order = [*graphlib.TopologicalSorter(every).static_order()]
    assert set(order) == set(every)


def test_no_circle_between_rooms() -> None:
    rooms = {name_of(path): path for path in ROOMS}
    faces = {wing: stub(wing) for wing in FACES}
    graph: dict[str, set[str]] = {}
    for room, path in rooms.items():
        graph[room] = set()
        for name in own(path):
            first, _, rest = name.partition(".")
            behind = f"{first}.{faces[first][rest]}" if rest in faces.get(first, {}) else name
            graph[room] |= {other for other in rooms if behind == other or behind.startswith(f"{other}.")}
        graph[room] -= {room}
    assert len([*graphlib.TopologicalSorter(graph).static_order()]) == len(rooms)


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_libraries_stay_in_their_place(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)}
    for library, home in ONLY.items():
        assert library not in used or wing_of(path) == home, f"{name_of(path)} imports {library}"


def test_files_and_folders_stay_small() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 330, name_of(path)
    for wing in WINGS:
        assert len([*(PACKAGE / wing).glob("[!_]*.py")]) <= 14, wing
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("wing", FACES)
def test_a_face_lists_what_its_rooms_make_public(wing: str) -> None:
    listed: dict[str, str] = {}
    for path in (PACKAGE / wing).glob("[!_]*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                listed |= dict.fromkeys(ast.literal_eval(node.value), path.stem)
    assert stub(wing) == listed


@pytest.mark.parametrize("wing", FACES)
def test_a_face_gives_each_name_from_its_room(wing: str) -> None:
    face = importlib.import_module(f"dualrs_lab.{wing}")
    for room in stub(wing).values():  # rooms that are loaded first must not hide names of theirs
        importlib.import_module(f"dualrs_lab.{wing}.{room}")
    assert set(face.__all__) == set(stub(wing))
    for name, room in stub(wing).items():
        home = sys.modules[f"dualrs_lab.{wing}.{room}"]
        assert getattr(face, name) is getattr(home, name), f"{wing}.{name}"
    with pytest.raises(AttributeError):
        face.nothing_of_this_name  # noqa: B018


def test_no_public_name_means_two_things() -> None:
    homes: dict[str, list[str]] = {}
    for wing in FACES:
        for name, room in stub(wing).items():
            homes.setdefault(name, []).append(f"{wing}.{room}")
    for module in GROUND:
        for name in getattr(importlib.import_module(f"dualrs_lab.{module}"), "__all__", ()):
            homes.setdefault(name, []).append(module)
    assert {name: rooms for name, rooms in homes.items() if len(rooms) > 1} == {}


def test_tests_mirror_the_wings() -> None:
    for wing in WINGS:
        assert [*(ROOT / "tests" / wing).glob("test_*.py")], f"no tests for {wing}"
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for wing in FACES:
        for room in {*stub(wing).values()}:
            names = [name for name, home in stub(wing).items() if home == room]
            spoken = rf"dualrs_lab\.{wing}(\.| import ){room}\b|\b({'|'.join(names)})\b"
            assert re.search(spoken, tests), f"no test speaks of {wing}.{room}"


def test_outsiders_come_in_by_the_face() -> None:
    inner = re.compile(r"(?:from|import) dualrs_lab\.\w+\.\w+")
    for path in [*NOTEBOOKS, *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]:
        assert not inner.search(path.read_text()), f"{path.name} reaches into a room of a wing"


def test_the_front_door_is_the_package_itself() -> None:
    import dualrs_lab as lab

    public = {}
    for path in (PACKAGE / "front").glob("[!_]*.py"):
        room = importlib.import_module(f"dualrs_lab.front.{path.stem}")
        public |= dict.fromkeys(room.__all__, f"front.{path.stem}")
    public["load_network"] = "adapters.load"  # of which `front` takes names of networks
    listed = stub(".")
    assert set(lab.__all__) == set(listed)
    assert listed.items() <= public.items()
    for name, room in listed.items():
        assert getattr(lab, name) is getattr(sys.modules[f"dualrs_lab.{room}"], name)
    with pytest.raises(AttributeError):
        lab.nothing_of_this_name  # noqa: B018


def test_the_front_door_opens_at_once_and_tables_need_no_torch() -> None:
    code = "import sys, dualrs_lab\nassert not {'torch', 'numpy', 'pandas', 'scipy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    table = ROOT / "data" / "cifar10_systems" / "dual.tsv"
    code = f"import dualrs_lab as lab\ntable = lab.read_table({str(table)!r})\nassert table._repr_html_()"
    code += "\nlab.compare([table, table]), table.plot(), lab.summary(table)"
    subprocess.run([sys.executable, "-c", BLOCKED + code], check=True, cwd=ROOT)


# A process in which torch cannot be imported, as in a browser's Python.
BLOCKED = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"no {name} here")

sys.meta_path.insert(0, NoTorch())
"""


@pytest.mark.parametrize("wing", TORCHLESS)
def test_what_knows_no_torch_starts_without_it(wing: str) -> None:
    # Every public name: nothing hides behind a lazy door.
    code = f"{BLOCKED}import dualrs_lab.{wing} as wing\nfor name in wing.__all__: getattr(wing, name)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_radii_of_every_method_need_no_torch() -> None:
    rooms = [name_of(path) for path in ROOMS if path.stem in ("radii", "certificate", "from_tables")]
    assert {"evidence.radii", "dual.radii", "cascade.radii", "mixing.radii"} <= {*rooms}
    code = BLOCKED + "".join(f"import dualrs_lab.{room}\n" for room in rooms)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_table_is_summarised_without_torch() -> None:
    table = ROOT / "data" / "cifar10_systems" / "dual.tsv"
    code = f"from dualrs_lab.__main__ import main\nraise SystemExit(main(['summary', {str(table)!r}]))"
    command = [sys.executable, "-c", BLOCKED + code]
    found = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert "dual" in found.stdout


def test_a_wing_opens_without_its_rooms() -> None:
    code = "import sys, dualrs_lab.smoothing, dualrs_lab.training\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_what_takes_seconds_to_import_is_not_imported_at_the_start() -> None:
    # torchvision brings torch's compiler, jsonschema a grammar of internationalised URLs.
    code = """
import sys, dualrs_lab.headless.worker
for wing in sys.argv[1:]:
    face = __import__(f"dualrs_lab.{wing}", fromlist=["*"])
    for name in face.__all__: getattr(face, name)
slow = ("torchvision", "torch._dynamo", "sklearn", "rfc3987_syntax")
assert not [name for name in slow if sys.modules.get(name)]
"""
    subprocess.run([sys.executable, "-c", code, *sorted(FACES)], check=True, cwd=ROOT)
