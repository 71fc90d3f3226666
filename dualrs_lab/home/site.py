"""A site of JupyterLite with the lessons that a browser alone can run, for any web server."""

import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from jupyter_core.paths import jupyter_path

from dualrs_lab.files import replace_text
from dualrs_lab.home.lite import lite_lessons

__all__ = ["build_site"]


EXTENSIONS = (  # the kernel, and sliders
    "@jupyterlite/pyodide-kernel-extension",
    "@jupyter-widgets/jupyterlab-manager",
)


def build_site(out: Path, checkout: Path, *, solutions: bool = False) -> list[str]:
    """Build the site into a folder that is new or empty; returns the names of its lessons.

    From a checkout: the wheel of this package (without the notebooks and data that it carries else), the
    lessons, the data that they read, and the glossary. Nothing is fetched. Raises ValueError for a folder
    that holds something, and where JupyterLite is not installed or does not build.
    """
    if not all(map(importlib.util.find_spec, ("jupyterlite_core", "jupyterlite_pyodide_kernel"))):
        raise ValueError("lite: JupyterLite is missing: pip install 'dualrs-lab[lite]'")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"lite: {out} is there and not empty; name another folder")
    lessons = lite_lessons(checkout / "notebooks", solutions=solutions)
    profiles = tomllib.loads((checkout / "notebooks" / "profiles.toml").read_text("utf-8"))
    with TemporaryDirectory(prefix="dualrs-lite-") as place:
        work = Path(place)
        contents, settings = work / "contents", work / "settings"
        (contents / "notebooks").mkdir(parents=True)
        settings.mkdir()
        for name, lesson in lessons.items():
            told = json.dumps(lesson, ensure_ascii=False, indent=1)
            replace_text(contents / "notebooks" / f"{name}.ipynb", told + "\n")
            for pattern in profiles[name].get("inputs", []):
                _copy((checkout / "notebooks").glob(pattern), checkout, contents)
        _copy([checkout / "docs" / "glossary.md"], checkout, contents)
        given = {"output-dir": out.resolve(), "contents": contents, "lite-dir": settings}
        given["piplite-wheels"] = _wheel(checkout, work)
        words = [word for name, path in given.items() for word in (f"--{name}", str(path))]
        words += [f"--LiteBuildConfig.federated_extensions={path}" for path in map(_extension, EXTENSIONS)]
        plain = ["build", "--no-libarchive", "--no-sourcemaps", "--ignore-sys-prefix"]
        _run([sys.executable, "-m", "jupyterlite_core", *plain, *words], work)
    return [*lessons]


def _extension(name: str) -> Path:
    # of JupyterLab, where it is installed
    found = [Path(place) / name for place in jupyter_path("labextensions")]
    for path in found:
        if (path / "package.json").is_file():
            return path
    raise ValueError(f"lite: {name} is in none of {', '.join(str(path.parent.parent) for path in found)}")


def _run(command: list[str], where: Path) -> None:
    ran = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise ValueError(f"lite: {' '.join(command[1:4])} failed:\n{(ran.stdout + ran.stderr)[-2000:]}")


def _wheel(checkout: Path, work: Path) -> Path:
    # of a copy, so that no build folder is left in the checkout, and no workbench is in the wheel
    source, made = work / "source", work / "wheels"
    shutil.copytree(
        checkout / "dualrs_lab",
        source / "dualrs_lab",
        ignore=shutil.ignore_patterns("__pycache__", "workbench"),
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(checkout / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    _run([*pip, "--no-build-isolation", "--no-index", "--wheel-dir", str(made), str(source)], work)
    (wheel,) = made.glob("dualrs_lab-*.whl")
    return wheel


def _copy(paths: Iterable[Path], root: Path, to: Path) -> None:
    for path in paths:
        target = to / path.resolve().relative_to(root.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
