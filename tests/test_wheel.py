"""What `pip install` gives outside a clone: the wheel, in an environment that has the dependencies only."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import setuptools
from packaging.version import Version

from dualrs_lab import __version__
from dualrs_lab.headless import workbench_files

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
MOST = 25e6  # bytes

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks, so that nothing else of a checkout gets in."""
    if Version(setuptools.__version__) < Version("77"):
        pytest.skip(f"building wants setuptools >= 77, here is {setuptools.__version__}")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in listed.stdout.splitlines():
        if not name.startswith(("tests/", "docs/", "benchmarks/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    build = [*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    subprocess.run(build, check=True)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Calls a program of the environment, in a folder far from any clone."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    place = Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))
    # Dependencies by their folders alone: what makes an editable install of ours work is in .pth files there.
    others = [path for path in sys.path if path.endswith("-packages")]
    (place / "others.pth").write_text("".join(f"{path}\n" for path in others))
    python = next(programs.glob("python*"))
    install = [*PIP[:3], "--python", str(python), *PIP[3:], "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(programs / words[0]), *words[1:]]
        return subprocess.run(
            command, cwd=folder, env=plain, capture_output=True, text=True, check=False, timeout=500
        )

    return call


@pytest.mark.slow
def test_the_wheel_holds_notebooks_and_data_and_stays_small(wheel: Path) -> None:
    assert wheel.name.startswith(f"dualrs_lab-{__version__}-")
    assert wheel.stat().st_size < MOST
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert {f"dualrs_lab/workbench/{name}" for name in workbench_files()} <= held
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "dualrs_lab").rglob("*.py")} <= held
    assert not [name for name in held if name.endswith(".safetensors")]
    assert not [name for name in held if name.startswith(("tests/", "benchmarks/", "setup"))]


@pytest.mark.slow
def test_commands_work_outside_a_clone(installed: Call, tmp_path: Path) -> None:
    where = installed(tmp_path, "python", "-c", "import dualrs_lab; print(dualrs_lab.__file__)")
    assert str(ROOT) not in where.stdout
    done = installed(tmp_path, "dualrs-lab", "new", "bench")
    assert done.returncode == 0, done.stderr
    bench = tmp_path / "bench"
    names = sorted(path.relative_to(bench).as_posix() for path in bench.rglob("*") if path.is_file())
    assert names == sorted([*workbench_files(), "README.md"])
    tables = [str(path) for path in sorted((bench / "data" / "cifar10_jpeg").glob("*.tsv"))]
    assert installed(tmp_path, "dualrs-lab", "verify", *tables).stdout.count(": certified: rs") == 3
    assert installed(tmp_path, "python", str(bench / "data" / "verify_table.py"), *tables).returncode == 0
    assert installed(tmp_path, "dualrs-lab", "summary", tables[0]).returncode == 0
    shown = installed(tmp_path, "dualrs-lab", "lab", "--version")
    assert "`dualrs-lab new DIR`" in shown.stderr
    assert installed(bench, "dualrs-lab", "lab", "--version").stdout[0].isdigit()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["of the package", "laid out"])
def test_a_notebook_runs_outside_a_clone(installed: Call, tmp_path: Path, place: str) -> None:
    folder = tmp_path
    if place == "laid out":
        assert installed(tmp_path, "dualrs-lab", "new", "bench").returncode == 0
        folder = tmp_path / "bench"
    toy = ["-p", "epochs=4", "-p", "sigmas=0.0,0.5"]
    done = installed(folder, "dualrs-lab", "run", "20_train", *toy)
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads((folder / "runs" / "20_train" / "status.json").read_text())
    assert status["state"] == "ok"
    checkpoint = folder / "runs" / "files" / "digits_digits_narrow_sigma0.5_seed0.safetensors"
    provenance = json.loads(checkpoint.with_suffix(".json").read_text())["provenance"]
    assert (provenance["package"], provenance["commit"]) == (__version__, "unknown")
    words = [
        "--checkpoint",
        str(checkpoint),
        "--data",
        "digits",
        "--sigma",
        "0.5",
        "--max",
        "3",
        "--n",
        "200",
    ]
    assert installed(folder, "dualrs-lab", "certify", *words, "--out", "t.tsv").returncode == 0
    said = installed(folder, "dualrs-lab", "verify", "t.tsv")
    assert ": certified: rs, network " in said.stdout
    assert (folder / "t.json").is_file()


def test_one_version_is_named_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
