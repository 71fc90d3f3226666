"""The lessons for a browser alone, whose Python (Pyodide) runs in the page; `home.site` makes a site of them.

What such a Python has, and what it lacks, is known from the lock file of its distribution. From it and from
what the modules of this package import follows which cells of a lesson can run there; the others are left out
of the copies in the site, and a line says so.
"""

import ast
import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dualrs_lab.exercises.students import for_students, tagged, text

__all__ = ["FROM_PYPI", "PYODIDE", "first_cell", "for_browser", "lacking", "lite_lessons", "page_packages"]


PYODIDE = {
    "PIL": "pillow", "altair": "altair", "jinja2": "jinja2", "lazy_loader": "lazy-loader",
    "markupsafe": "markupsafe", "matplotlib": "matplotlib", "mpmath": "mpmath", "numpy": "numpy",
    "packaging": "packaging", "pandas": "pandas", "safetensors": "safetensors", "scipy": "scipy",
    "statsmodels": "statsmodels", "tqdm": "tqdm", "traitlets": "traitlets",
}  # fmt: skip
"""Modules that Pyodide holds, and its names for them: pyodide-lock.json of pyodide 314.0.6 on npm, which
jupyterlite-pyodide-kernel 0.8 takes."""


FROM_PYPI = {"ipywidgets": "ipywidgets", "seaborn": "seaborn"}
"""Pure Python, which the page fetches from PyPI."""


PROVIDED = {"IPython", "ipykernel"}  # by the kernel itself


PROCESSES = {"multiprocessing", "resource", "subprocess"}  # a page starts none; modules are there in part


THREADED = "dualrs_lab.panels"  # follow the hand in a thread, which a page has not


MOST = 1 / 3  # of the cells of a lesson may be left out; else it is no lesson for the browser


NEEDS_TORCH = "torch"  # the tag of a cell that takes torch where its imports do not show it


PACKAGE = Path(__file__).parents[1]


Notebook = dict[str, Any]


def lacking(module: str) -> set[str]:
    """What a module of ours, such as `dualrs_lab.charts.plane`, imports that no page has, at any remove."""
    return {name for name in _closure(module) if not _has(name)}


def page_packages(modules: Iterable[str]) -> list[str]:
    """The distributions that a page installs for these modules of ours, sorted."""
    names = {name for module in modules for name in _closure(module)}
    return sorted((PYODIDE | FROM_PYPI)[name] for name in names if name in PYODIDE | FROM_PYPI)


def for_browser(notebook: Mapping[str, Any]) -> tuple[Notebook, int]:
    """The lesson with the cells that a page can run, and how many of its code cells are left out.

    Left out is a cell that imports what a page lacks, alone or with names that other cells take, that carries
    the tag `torch`, or that reads a name which only such cells bind; imports that are lacking in a cell of
    several are taken out of it. In the place of cells there is a line that says so.
    """
    cells, gone, missing = [*notebook["cells"]], set[int](), set[str]()
    code = {i: ast.parse(text(cell)) for i, cell in enumerate(cells) if cell["cell_type"] == "code"}
    kept = {i: _without_lacking(tree) for i, tree in code.items()}
    while True:
        bound = {name for i, (tree, _) in kept.items() if i not in gone for name in _names(tree, ast.Store)}
        lost = {name for i, (tree, out) in kept.items() for name in _lost(tree, out, i in gone)}
        missing = lost - bound
        more = {
            i
            for i, (tree, _) in kept.items()
            if tagged(cells[i], NEEDS_TORCH) or not tree.body or missing & _names(tree, ast.Load)
        }
        if more <= gone:
            break
        gone |= more
    note = "*(A cell is left out here: it takes what a Python in the browser does not have.)*"
    made = list[dict[str, Any]]()
    for i, cell in enumerate(cells):
        if i in gone:
            if not made or made[-1]["source"] != note:
                made.append(
                    {"cell_type": "markdown", "id": f"{cell['id']}-out", "metadata": {}, "source": note}
                )
        elif i in kept and kept[i][1]:
            made.append({**cell, "source": ast.unparse(kept[i][0])})
        else:
            made.append(cell)
    return {**notebook, "cells": made}, len(gone)


def lite_lessons(notebooks: Path, *, solutions: bool = False) -> dict[str, Notebook]:
    """The lessons that a page can run, by name: without solutions unless asked, each with `first_cell`."""
    found = {}
    for path in sorted(notebooks.glob("*_lesson_*.ipynb")):
        lesson = json.loads(path.read_text("utf-8"))
        made, out = for_browser(lesson if solutions else for_students(lesson))
        if out > MOST * sum(cell["cell_type"] == "code" for cell in lesson["cells"]):
            continue
        made["cells"] = [first_cell(made), *made["cells"]]
        made["metadata"] = {
            **made["metadata"],
            "kernelspec": {"display_name": "Python (Pyodide)", "language": "python", "name": "python"},
        }
        found[path.stem] = made
    return found


def first_cell(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The cell that installs what the notebook's cells import, and this package without its other needs."""
    trees = [ast.parse(text(cell)) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    modules = {name for tree in trees for node in tree.body for name in _imports(node)}
    ours = {name for name in modules if name.startswith("dualrs_lab")}
    direct = {name.split(".")[0] for name in modules} & {*PYODIDE, *FROM_PYPI}
    late = {"jinja2"}  # for tables in colour: pandas loads it when it needs it
    names = sorted({*page_packages(ours), *((PYODIDE | FROM_PYPI)[name] for name in direct), *late})
    source = (
        "# Installs what this lesson takes into the Python of this page; half a minute, once per kernel.\n"
        f'import piplite\n\nawait piplite.install("{" ".join(names)}".split())\n'
        'await piplite.install("dualrs-lab", deps=False)  # the rest of what it names is for other notebooks'
    )
    return {
        "cell_type": "code", "execution_count": None, "id": "install", "outputs": [], "source": source,
        "metadata": {"tags": ["install"]},
    }  # fmt: skip


def _has(name: str) -> bool:
    return name in sys.stdlib_module_names or name in PYODIDE or name in FROM_PYPI or name in PROVIDED


@cache
def _closure(module: str) -> frozenset[str]:
    # top-level names of all that is imported on the way, ours left out
    waiting, seen, found = [module], set[str](), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.split(".")[0] != "dualrs_lab":
            found.add(name.split(".")[0])
        elif path := _file(name):
            waiting += [one for node in ast.parse(path.read_text("utf-8")).body for one in _imports(node)]
    return frozenset(found)


def _file(name: str) -> Path | None:
    base = PACKAGE.joinpath(*name.split(".")[1:])
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(node: ast.stmt) -> list[str]:
    # modules that a statement at the top of a file imports; names of a face by their rooms
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [
            name for alias in node.names for name in (node.module or "", _room(node.module or "", alias.name))
        ]
    if isinstance(node, ast.Try):
        return [one for child in node.body for one in _imports(child)]
    return []


@cache
def _room(module: str, name: str) -> str:
    # where a public name lives: `dualrs_lab.charts.plane` for plane_chart of dualrs_lab.charts
    face = (
        PACKAGE.joinpath(*module.split(".")[1:], "__init__.pyi") if module.startswith("dualrs_lab") else None
    )
    if face is None or not face.is_file():
        return f"{module}.{name}" if _file(f"{module}.{name}") and module.startswith("dualrs_lab") else module
    for node in ast.parse(face.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return f"dualrs_lab.{node.module}" if module == "dualrs_lab" else f"{module}.{node.module}"
    return f"{module}.{name}"


def _unfit(module: str, name: str) -> bool:
    if module.split(".")[0] != "dualrs_lab":
        return module.split(".")[0] in PROCESSES or not _has(module.split(".")[0])
    room = _room(module, name) if name else module
    return room.startswith(THREADED) or bool(lacking(room))


def _without_lacking(tree: ast.Module) -> tuple[ast.Module, set[str]]:
    """The cell without the imports that a page lacks, and the names that these would have bound."""
    body, out = list[ast.stmt](), set[str]()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            bad = [a for a in node.names if _unfit(module or a.name, a.name if module else "")]
            out |= {a.asname or a.name.split(".")[0] for a in bad}
            names = [a for a in node.names if a not in bad]
            if names and bad:
                node = ast.ImportFrom(module, names, 0) if module else ast.Import(names)
            body += [node] if names else []
        else:
            body.append(node)
    return ast.Module(body, []), out


def _lost(tree: ast.Module, out: set[str], gone: bool) -> set[str]:
    return out | (_names(tree, ast.Store) if gone else set())


def _names(tree: ast.Module, how: type[ast.expr_context]) -> set[str]:
    nodes = [*ast.walk(tree)]
    found = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, how)}
    if how is ast.Load:
        return found
    found |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    every = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    return found | {alias.asname or alias.name.split(".")[0] for alias in every}
