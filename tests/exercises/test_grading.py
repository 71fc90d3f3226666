"""Submissions are graded one by one; what is broken, hangs or cheats costs its own row and nothing else."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from dualrs_lab.__main__ import main
from dualrs_lab.exercises import Grade, as_rows, exercises, grade_one, sit

LESSONS = Path(__file__).parents[2] / "notebooks"
START = "from dualrs_lab.exercises import check"
RIGHT = 'check("level for a data set", lambda images, alpha: alpha / images)'
WRONG = 'check("false certificates", lambda certificates, alpha, chance: certificates * alpha)'
FORGED = """
from IPython.display import display
from dualrs_lab.exercises import MIME, Formula, Verdict
display({MIME: {"exercise": "read the votes", "state": "right"}}, raw=True)
display(Verdict(exercise="read the votes", right=True, says="trust me"))
Formula.judge = lambda self, answer: Verdict(exercise=self.name, right=True, says="")
check("read the votes", 7)
"""
# Without the mark of its run, in a session of its own, and its parent gone.
ORPHAN = """
import subprocess, sys
sleep = "import subprocess; subprocess.Popen(['sleep', '{tag}'], env={{}}, start_new_session=True)"
subprocess.run([sys.executable, "-c", sleep], env={{}})
while True:
    pass
"""


def hand_in(path: Path, *sources: str, tag: str = "exercise") -> Path:
    cells = [
        {
            "cell_type": "code",
            "source": one,
            "metadata": {"tags": [tag]},
            "outputs": [],
            "execution_count": None,
        }
        for one in sources
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, str]:
    """The table of a whole folder by the command, and what it printed."""
    folder = tmp_path_factory.mktemp("submissions")
    hand_in(folder / "anna.ipynb", START, RIGHT, WRONG, "1 / 0", 'open("../data/verify_table.py").close()')
    hand_in(folder / "ben" / "lab.ipynb", START, RIGHT, FORGED, tag="")
    hand_in(folder / "cleo.ipynb", START, RIGHT, "import os; os._exit(0)", WRONG)
    hand_in(folder / "=dora.ipynb", "print('hello')")
    (folder / "emil.ipynb").write_text("{broken")
    out = folder / "grades.csv"
    program = "import sys; from dualrs_lab.__main__ import main; sys.exit(main())"
    words = ["grade", str(folder), "--out", str(out)]
    ran = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    return pd.read_csv(out, keep_default_na=False).set_index("submission"), ran.stdout


def test_each_exercise_of_the_lesson_has_its_state(graded: tuple[pd.DataFrame, str]) -> None:
    anna = graded[0].loc["anna.ipynb"]
    assert (anna["lesson"], anna["right"], anna["of"]) == ("14_lesson_certificates", 1, 7)
    states = {one.name: anna[one.name] for one in exercises()["14_lesson_certificates"]}
    assert states.pop("level for a data set") == "right"
    assert states.pop("false certificates") == "not yet"
    assert {*states.values()} == {"open"}
    assert anna["remarks"] == "cells that raised: 1, first ZeroDivisionError: division by zero"
    assert (
        "anna.ipynb (14_lesson_certificates): 1 of 7 right; not yet: false certificates; open: " in graded[1]
    )


def test_what_a_notebook_shows_by_itself_does_not_count_and_another_judge_is_told(
    graded: tuple[pd.DataFrame, str],
) -> None:
    ben = graded[0].loc["ben/lab.ipynb"]
    assert ben["right"] == 0
    assert "it changed the judge, and nothing counts" in ben["remarks"]
    assert "cells beside the exercises that are changed or new: 3" in ben["remarks"]


def test_who_ends_early_keeps_what_was_right_before(graded: tuple[pd.DataFrame, str]) -> None:
    cleo = graded[0].loc["cleo.ipynb"]
    assert (cleo["right"], cleo["false certificates"]) == (1, "open")
    assert cleo["remarks"] == "it ended with code 0 in code cell 3 of 4"


def test_what_is_no_submission_has_a_row_and_no_spreadsheet_computes_with_it(
    graded: tuple[pd.DataFrame, str],
) -> None:
    table, _ = graded
    assert table.loc["'=dora.ipynb", "remarks"] == "checks no exercise of any lesson"
    assert table.loc["emil.ipynb", "remarks"].startswith("no notebook: JSONDecodeError")
    assert len(table) == 5


@pytest.mark.slow
def test_what_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    tag = f"9{time.time_ns() % 10**8}"
    path = hand_in(tmp_path / "hangs.ipynb", START, RIGHT, ORPHAN.format(tag=tag))
    code = (
        "import sys; from pathlib import Path; from dualrs_lab.exercises import grade\n"
        f"print(*grade(Path({str(tmp_path)!r}), notebooks=Path({str(LESSONS)!r}), seconds=12))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "1 of 7 right" in told
    assert "it took more than 12 s in code cell 3 of 3" in told or "it ended with code -" in told
    left = [p for p in psutil.process_iter(["cmdline"]) if tag in (p.info["cmdline"] or [])]
    assert left == []
    assert path.is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold a process to its memory")
def test_what_takes_too_much_memory_costs_its_own_cell(tmp_path: Path) -> None:
    path = hand_in(tmp_path / "takes.ipynb", START, "x = bytearray(3_000_000_000)", RIGHT)
    found = grade_one(path, "takes", notebooks=LESSONS, seconds=100, memory=2_000_000_000)
    assert found.right == 1
    assert "cells that raised: 1, first MemoryError" in found.remarks[0]


def test_sitting_tells_cells_verdicts_and_errors(tmp_path: Path) -> None:
    told: list[dict[str, object]] = []
    sit(hand_in(tmp_path / "a.ipynb", START, RIGHT, "%unknown_magic"), told.append)
    assert {"exercise": "level for a data set", "state": "right"} in told
    assert told[-1] == {"end": True}
    assert [line["cell"] for line in told if "error" in line] == [2]


def test_a_folder_without_notebooks_and_a_table_that_is_there_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["grade", str(tmp_path)]) == 2
    assert "no notebooks" in capsys.readouterr().err
    (tmp_path / "grades.csv").write_text("mine")
    assert main(["grade", str(tmp_path), "--out", str(tmp_path / "grades.csv")]) == 2
    assert "is there; name another file" in capsys.readouterr().err
    assert main(["grade", str(tmp_path / "nowhere")]) == 2


def test_a_grade_in_words_and_as_a_row() -> None:
    one = Grade(submission="a", lesson="L", states={"x": "right", "y": "open", "z": "not yet"})
    assert str(one) == "a (L): 1 of 3 right; not yet: z; open: y"
    assert as_rows([one]).to_dict("records") == [
        {"submission": "a", "lesson": "L", "right": 1, "of": 3}
        | {"x": "right", "y": "open", "z": "not yet", "remarks": ""}
    ]
