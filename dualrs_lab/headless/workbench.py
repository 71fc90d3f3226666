"""Where the notebooks are, and a workbench to work in: notebooks and the small data that they read.

In a checkout both lie beside the package. An installed package holds copies (`setup.py` puts them there, by
the patterns of `[tool.dualrs-lab]` in pyproject.toml): they are run from where they are, and are not to be
edited; `lay_out` puts a set into a folder of one's own. Standard library only.
"""

import shutil
import tomllib
from pathlib import Path

from dualrs_lab.files import replace_text

__all__ = ["are_installed", "find_notebooks", "lay_out", "workbench_files"]


README = (
    "Notebooks and the data that they read: `dualrs-lab lab` opens them, `dualrs-lab run` runs them.\n"
    "`dualrs-lab --help` lists all commands; data/README.md says what the data are, and what is left out.\n"
)


def find_notebooks(start: Path | None = None) -> Path:
    """The notebooks folder: `notebooks/` here, else in the checkout, else in the installed package."""
    here = (start or Path.cwd()) / "notebooks"
    if here.is_dir():
        return here.resolve()
    for root in (_checkout(), _installed()):
        if (root / "notebooks").is_dir() and (root == _installed() or (root / "pyproject.toml").is_file()):
            return root / "notebooks"
    raise FileNotFoundError(
        f"no notebooks folder: neither {here} nor in the package; go where notebooks/ is, or make one with "
        "`dualrs-lab new DIR`"
    )


def are_installed(folder: Path) -> bool:
    """Whether these notebooks are the copies within the package, which are not to be written to."""
    return folder.resolve() == (_installed() / "notebooks").resolve()


def workbench_files() -> dict[str, Path]:
    """What a workbench is made of: where each file goes, and where it lies now.

    FileNotFoundError where the package has none, as after a copy of its folder alone.
    """
    checkout, installed = _checkout(), _installed()
    if installed.is_dir():
        every = [path for path in sorted(installed.rglob("*")) if path.is_file()]
        found = [path for path in every if path.parent.name != "__pycache__"]  # which pip leaves
        return {path.relative_to(installed).as_posix(): path for path in found}
    if not (checkout / "pyproject.toml").is_file():
        raise FileNotFoundError(
            f"no workbench in {installed}; install the package by pip, or from a checkout"
        )
    patterns = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["tool"]["dualrs-lab"][
        "workbench"
    ]
    found = [path for pattern in patterns for path in sorted(checkout.glob(pattern))]
    return {path.relative_to(checkout).as_posix(): path for path in found}


def lay_out(folder: Path) -> int:
    """Put notebooks, their data and a README into `folder`, which is new or empty; returns how many files.

    ValueError where something is there: nothing is ever overwritten.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"new: {folder} is there and not empty; name another folder")
    files = workbench_files()
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)  # not its mode: the package may be read-only
    replace_text(folder / "README.md", README)
    return len(files) + 1


def _checkout() -> Path:
    return Path(__file__).resolve().parents[2]


def _installed() -> Path:
    return Path(__file__).resolve().parents[1] / "workbench"
