"""Student versions come from solutions by a marker, so that the two never drift."""

import json

import pytest

from dualrs_lab.exercises import drifted, for_students, stub

SOLVED = """def bound(k, n):
    # BEGIN SOLUTION
    if not k:
        return 0
    return k / n
    # END SOLUTION


check("lower bound", bound)"""
ASKED = """def bound(k, n):
    ...  # your answer


check("lower bound", bound)"""


def cell(source: str, *tags: str) -> dict[str, object]:
    made = {"cell_type": "code", "metadata": {"tags": [*tags]}, "source": source.splitlines(keepends=True)}
    return made | {"outputs": [{"output_type": "stream"}], "execution_count": 3}


def test_a_stub_has_one_place_for_an_answer() -> None:
    assert stub(SOLVED) == ASKED
    assert stub("# BEGIN SOLUTION\nx = 1\n# END SOLUTION\ny = 2\n# BEGIN SOLUTION\n# END SOLUTION") == (
        "...  # your answer\ny = 2\n...  # your answer"
    )


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
