"""What a class gets: lessons in which each solution is replaced by a place for an answer.

Teachers write solutions only. In a cell that carries the tag `solution`, the lines between `# BEGIN SOLUTION`
and `# END SOLUTION` are what a student has to find; the cell before it, with the tag `exercise`, is that cell
with a place for an answer instead. So what is asked and what is right never drift apart: `stub` makes the one
from the other.
"""

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualrs_lab.files import replace_text

__all__ = ["EXERCISE", "SOLUTION", "drifted", "for_students", "hand_out", "stub"]

EXERCISE, SOLUTION = "exercise", "solution"  # tags of cells
BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"

Notebook = dict[str, Any]


def stub(source: str) -> str:
    """The cell that a student gets, from that of a solution: one `...` in place of what is to be found.

    What the solution returns or names at last is still returned or named: `return ...`, `found = ...`. Raises
    ValueError where BEGIN and END are not there in turn, once at least.
    """
    lines, hidden, inside, places = list[str](), list[str](), False, 0
    for line in source.splitlines():
        mark = line.strip()
        if mark in (BEGIN, END):
            if inside == (mark == BEGIN):
                raise ValueError(f"stub: {mark!r} comes where {END if inside else BEGIN!r} was wanted")
            if mark == END:
                lines.append(_place(line[: line.index("#")], hidden))
            hidden, inside, places = [], mark == BEGIN, places + 1
        else:
            (hidden if inside else lines).append(line)
    if inside or not places:
        raise ValueError(f"stub: wanted {BEGIN!r} and {END!r} around what is to be found")
    return "\n".join(lines)


def for_students(notebook: Mapping[str, Any]) -> Notebook:
    """The lesson without its solutions and without outputs of exercises; everything else stays as it is."""
    made: Notebook = copy.deepcopy(dict(notebook))
    made["cells"] = [cell for cell in made["cells"] if not tagged(cell, SOLUTION)]
    for cell in made["cells"]:
        if tagged(cell, EXERCISE):
            cell["outputs"], cell["execution_count"] = [], None
    return made


def hand_out(folder: Path) -> list[str]:
    """Take the solutions out of all lessons in a folder, where they lie; the names of those that had some."""
    changed = []
    for path in sorted(folder.glob("*.ipynb")):
        notebook = json.loads(path.read_text("utf-8"))
        if any(tagged(cell, SOLUTION) for cell in notebook["cells"]):
            replace_text(path, json.dumps(for_students(notebook), ensure_ascii=False, indent=1) + "\n")
            changed.append(path.stem)
    return changed


def drifted(notebook: Mapping[str, Any]) -> list[int]:
    """Numbers of the cells with solutions whose exercise, in the cell before, is not the `stub` of them."""
    cells, wrong = notebook["cells"], []
    for number, cell in enumerate(cells):
        if not tagged(cell, SOLUTION):
            continue
        before = cells[number - 1] if number else {}
        if not tagged(before, EXERCISE) or text(before) != stub(text(cell)):
            wrong.append(number)
    return wrong


def _place(indent: str, hidden: list[str]) -> str:
    ways = (re.match(rf"{indent}(return|\w+ =) ", line) for line in reversed(hidden))
    found = next((way[1] + " " for way in ways if way), "")
    return f"{indent}{found}...  # your answer"


def tagged(cell: Mapping[str, Any], tag: str) -> bool:
    """Whether a cell carries the tag."""
    return tag in cell.get("metadata", {}).get("tags", ())


def text(cell: Mapping[str, Any]) -> str:
    """The source of a cell, which a file holds in lines or in one piece."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)
