"""Notebooks are found here, in the checkout or in the installed package, and laid out for work."""

import tomllib
from pathlib import Path

import pytest

from dualrs_lab.headless import are_installed, find_notebooks, lay_out, workbench, workbench_files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As the wheel leaves it: a package that holds a workbench, and no checkout around it."""
    package = tmp_path / "site" / "dualrs_lab"
    for name in ("notebooks/a.ipynb", "notebooks/profiles.toml", "data/part/t.tsv"):
        (package / "workbench" / name).parent.mkdir(parents=True, exist_ok=True)
        (package / "workbench" / name).write_text(name)
    monkeypatch.setattr(workbench, "__file__", str(package / "headless" / "workbench.py"))
    return package / "workbench"


def test_notebooks_here_come_first_and_those_of_the_package_last(installed: Path, tmp_path: Path) -> None:
    assert find_notebooks(tmp_path) == installed / "notebooks"
    assert are_installed(find_notebooks(tmp_path))
    (tmp_path / "notebooks").mkdir()
    assert find_notebooks(tmp_path) == (tmp_path / "notebooks").resolve()
    assert not are_installed(find_notebooks(tmp_path))


def test_a_checkout_has_its_own() -> None:
    assert find_notebooks(ROOT / "docs") == ROOT / "notebooks"
    assert not are_installed(ROOT / "notebooks")


def test_a_package_without_any_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "__file__", str(tmp_path / "site" / "dualrs_lab" / "headless" / "w.py"))
    with pytest.raises(FileNotFoundError, match=r"no notebooks folder.*dualrs-lab new DIR"):
        find_notebooks(tmp_path)
    with pytest.raises(FileNotFoundError, match="no workbench in"):
        lay_out(tmp_path / "bench")
    assert not (tmp_path / "bench").exists()


def test_a_workbench_holds_all_that_notebooks_declare_and_no_network() -> None:
    files = workbench_files()
    kinds = {".ipynb", ".toml", ".md", ".py", ".csv", ".json", ".tsv", ".jpg"}
    assert {Path(name).suffix for name in files} == kinds
    profiles = tomllib.loads((ROOT / "notebooks" / "profiles.toml").read_text())
    declared = {
        path.resolve().relative_to(ROOT.resolve()).as_posix()
        for table in profiles.values()
        for pattern in table.get("inputs", [])
        for path in (ROOT / "notebooks").glob(pattern)
    }
    assert len(declared) > 50
    assert declared <= set(files)
    assert sum(path.stat().st_size for path in files.values()) < 25e6


@pytest.mark.parametrize("there", [False, True])
def test_it_is_laid_out_into_a_folder_that_is_new_or_empty(
    installed: Path, tmp_path: Path, there: bool
) -> None:
    folder = tmp_path / "my" / "bench"
    if there:
        folder.mkdir(parents=True)
    assert lay_out(folder) == 4
    assert (folder / "data" / "part" / "t.tsv").read_text() == "data/part/t.tsv"
    assert len((folder / "README.md").read_text().splitlines()) == 2
    assert find_notebooks(folder) == (folder / "notebooks").resolve()
    (folder / "notebooks" / "a.ipynb").write_text("mine")
    with pytest.raises(ValueError, match="is there and not empty; name another folder"):
        lay_out(folder)
    assert (folder / "notebooks" / "a.ipynb").read_text() == "mine"
    with pytest.raises(ValueError, match="is there and not empty"):
        lay_out(folder / "README.md")
    del installed
