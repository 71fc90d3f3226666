"""Student versions come from solutions by a marker, so that the two never drift."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from dualrs_lab.exercises import check, drifted, exercises, for_students, stub

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

SOLVED = """def bound(k, n):
    # BEGIN SOLUTION
    if not k:
        return 0
    return k / n
    # END SOLUTION


check("lower bound", bound)"""
ASKED = """def bound(k, n):
    return ...  # your answer


check("lower bound", bound)"""


def cell(source: str, *tags: str) -> dict[str, object]:
    made = {"cell_type": "code", "metadata": {"tags": [*tags]}, "source": source.splitlines(keepends=True)}
    return made | {"outputs": [{"output_type": "stream"}], "execution_count": 3}


def test_a_stub_has_one_place_for_an_answer() -> None:
    assert stub(SOLVED) == ASKED
    assert stub("# BEGIN SOLUTION\nx = 1\n# END SOLUTION\ny = 2\n# BEGIN SOLUTION\n# END SOLUTION") == (
        "x = ...  # your answer\ny = 2\n...  # your answer"
    )
    assert stub("# BEGIN SOLUTION\nz = 1\nx = {\n    1: 2,\n}\n# END SOLUTION") == "x = ...  # your answer"


@pytest.mark.parametrize(
    "source",
    ["x = 1", "# BEGIN SOLUTION\nx = 1", "# END SOLUTION\n# BEGIN SOLUTION", "# BEGIN SOLUTION\n" * 2],
)
def test_marks_out_of_turn_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"stub: .*SOLUTION"):
        stub(source)


def test_students_get_no_solution_and_no_outputs_of_exercises() -> None:
    lesson = {"cells": [cell("a = 1"), cell(ASKED, "exercise"), cell(SOLVED, "solution")], "nbformat": 4}
    made = for_students(lesson)
    assert [c["metadata"]["tags"] for c in made["cells"]] == [[], ["exercise"]]
    assert made["cells"][0]["outputs"] == lesson["cells"][0]["outputs"]
    assert (made["cells"][1]["outputs"], made["cells"][1]["execution_count"]) == ([], None)
    assert "SOLUTION" not in json.dumps(made)
    assert len(lesson["cells"]) == 3  # the lesson itself is left alone


def test_an_exercise_that_drifted_is_found() -> None:
    good = [cell(ASKED, "exercise"), cell(SOLVED, "solution")]
    assert drifted({"cells": good}) == []
    assert drifted({"cells": [cell(ASKED + " ", "exercise"), good[1]]}) == [1]
    assert drifted({"cells": [good[1]]}) == [0]
    assert drifted({"cells": [cell(ASKED), good[1]]}) == [1]


@pytest.mark.parametrize("lesson", exercises())
def test_lessons_hold_their_exercises_with_solutions_that_pass(lesson: str) -> None:
    """Each exercise of the registry comes in its notebook, in order; the shown verdicts are right."""
    path = NOTEBOOKS / f"{lesson}.ipynb"
    notebook = json.loads(path.read_text())
    assert drifted(notebook) == []
    solved = [c for c in notebook["cells"] if "solution" in c["metadata"].get("tags", ())]
    asked = [one.name for one in exercises()[lesson]]
    assert [name for c in solved for name in asked if f'check("{name}"' in "".join(c["source"])] == asked
    for one in solved:
        assert one["metadata"]["jupyter"]["source_hidden"]
        shown = json.dumps(one["outputs"])
        assert ": right." in shown
    for name in asked:
        assert check(name, None).right is None


@pytest.mark.parametrize("lesson", exercises())
def test_a_lesson_goes_on_without_its_solutions(lesson: str) -> None:
    """No cell but those of exercises reads what only a solution names."""
    cells = json.loads((NOTEBOOKS / f"{lesson}.ipynb").read_text())["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    plain = [c for c in code if not {"exercise", "solution"} & {*c["metadata"].get("tags", ())}]
    stored, read = names(plain, ast.Store), names(plain, ast.Load)
    solved = names([c for c in code if c not in plain], ast.Store)
    assert not read & (solved - stored)


def names(cells: list[dict[str, Any]], how: type[ast.expr_context]) -> set[str]:
    """What these cells name, or read."""
    nodes = [node for c in cells for node in ast.walk(ast.parse("".join(c["source"])))]
    found = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, how)}
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    imported = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return found | (defined | imported if how is ast.Store else set())
