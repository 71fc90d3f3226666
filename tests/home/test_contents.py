"""A notebook that is looked at stays as it was: it is served with what JupyterLab would write into it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dualrs_lab.home import NotebookContents


def save(path: Path, metadata: dict[str, Any]) -> None:
    path.write_text(json.dumps({"cells": [], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))


def get(root: Path, path: str, **options: Any) -> Any:
    return asyncio.run(NotebookContents(root_dir=str(root)).get(path, **options))


def test_the_metadata_of_the_kernel_that_will_run_is_filled_in(tmp_path: Path) -> None:
    save(tmp_path / "a.ipynb", {"kernelspec": {"name": "python3"}, "mine": 1})
    metadata = get(tmp_path, "a.ipynb")["content"]["metadata"]
    assert metadata["kernelspec"]["display_name"] == "Python 3 (ipykernel)"
    assert metadata.language_info.version == sys.version.split()[0]  # as an attribute, which Voilà reads
    assert metadata["mine"] == 1


def test_it_is_what_a_kernel_of_ipykernel_says_of_itself() -> None:
    kernel = pytest.importorskip("ipykernel.ipkernel").IPythonKernel
    from dualrs_lab.home.contents import LANGUAGE

    assert kernel.language_info == LANGUAGE


def test_everything_else_is_served_as_it_is(tmp_path: Path) -> None:
    save(tmp_path / "r.ipynb", {"kernelspec": {"name": "ir", "display_name": "R"}})
    (tmp_path / "a.txt").write_text("text")
    assert get(tmp_path, "r.ipynb")["content"]["metadata"] == {
        "kernelspec": {"name": "ir", "display_name": "R"}
    }
    assert get(tmp_path, "a.txt")["content"] == "text"
    assert get(tmp_path, "r.ipynb", content=False)["content"] is None
    assert {one["name"] for one in get(tmp_path, "")["content"]} == {"a.txt", "r.ipynb"}
