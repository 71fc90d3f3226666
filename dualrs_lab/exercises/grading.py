"""A folder of submissions, each worked through by itself; what broke, hung or misbehaved costs its own row.

Each runs in a process of its own (`exercises.sitting`), in a folder that is thrown away, with the files that
its lesson reads beside it, without the environment of who grades, and with limits of time, memory and file
size. What it leaves running is ended. That is a fence against accidents and pranks, not a prison: it can read
what the user can read and use the network, so grade strangers in a container.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import lazy_loader
import pandas as pd

from dualrs_lab.exercises.exercise import exercises
from dualrs_lab.exercises.students import EXERCISE, SOLUTION, tagged, text
from dualrs_lab.headless.processes import MARK, adopt_orphans, kill_marked

if TYPE_CHECKING:
    import psutil
else:  # when it is first used: a browser's Python, which runs nothing in processes, has none
    psutil = lazy_loader.load("psutil")

__all__ = ["Grade", "as_rows", "grade", "grade_one"]


STATES = ("right", "not yet", "open")


_KEPT = ("PATH", "LANG", "SYSTEMROOT", "LD_LIBRARY_PATH")  # of the environment, and nothing else


LARGEST = 50_000_000  # bytes of a submission


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What became of one submission: a state for each exercise of its lesson, and what else to look at."""

    submission: str
    lesson: str = ""
    states: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def right(self) -> int:
        """How many exercises are right."""
        return sum(state == "right" for state in self.states.values())

    def __str__(self) -> str:
        parts = [f"{self.right} of {len(self.states)} right"] if self.states else []
        for state in STATES[1:]:
            if names := [name for name, found in self.states.items() if found == state]:
                parts.append(f"{state}: {', '.join(names)}")
        who = f"{self.submission} ({self.lesson})" if self.lesson else self.submission
        return f"{who}: {'; '.join([*parts, *self.remarks])}"


def grade(
    folder: Path, *, notebooks: Path, seconds: int = 300, memory: int = 4_000_000_000
) -> Iterator[Grade]:
    """Grades of all notebooks below a folder, in the order of their names, one after the other.

    `notebooks` are the lessons that were handed out: what they read lies where they say. `seconds` are on the
    clock and `memory` is in bytes, for each submission. Raises FileNotFoundError where there is none.
    """
    found = sorted(path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    if not found:
        raise FileNotFoundError(f"grade: no notebooks (*.ipynb) in {folder}")
    adopt_orphans()
    for path in found:
        name = path.relative_to(folder).as_posix()
        yield grade_one(path, name, notebooks=notebooks, seconds=seconds, memory=memory)


def as_rows(grades: Iterable[Grade]) -> pd.DataFrame:
    """A row for each submission: lesson, how many are right and of how many, each exercise, and remarks.

    Texts that a spreadsheet would take for a formula begin with a quote.
    """
    rows = [
        {
            "submission": _inert(one.submission),
            "lesson": one.lesson,
            "right": one.right,
            "of": len(one.states),
        }
        | one.states
        | {"remarks": _inert("; ".join(one.remarks))}
        for one in grades
    ]
    table = pd.DataFrame(rows)
    return table[[*(name for name in table if name != "remarks"), "remarks"]]


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def grade_one(path: Path, name: str, *, notebooks: Path, seconds: int, memory: int) -> Grade:
    """The grade of one submission, which goes by this name; whatever it is, this returns."""
    try:
        cells = _cells(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Grade(submission=name, remarks=(f"no notebook: {type(error).__name__}: {error}"[:200],))
    lesson = _lesson("\n".join(map(text, cells)))
    if not lesson:
        return Grade(submission=name, remarks=("checks no exercise of any lesson",))
    states = {one.name: "open" for one in exercises()[lesson]}
    remarks = [*_differs(cells, notebooks / f"{lesson}.ipynb")]
    told, ending = _sitting(path, lesson, notebooks, seconds, memory)
    for line in told:
        if line.get("exercise") in states and line.get("state") in STATES:
            states[line["exercise"]] = line["state"]  # the last word counts
    errors = [line for line in told if "error" in line]
    if errors:
        remarks.append(f"cells that raised: {len(errors)}, first {errors[0]['error']}")
    if any("changed" in line for line in told):
        states = dict.fromkeys(states, "open")
        remarks.append("it changed the judge, and nothing counts")
    if not any("end" in line for line in told):
        last = max((line["cell"] for line in told if "cell" in line), default=0)
        remarks.append(f"{ending} in code cell {last + 1} of {len(cells)}")
    return Grade(submission=name, lesson=lesson, states=states, remarks=tuple(remarks))


def _cells(path: Path) -> list[dict[str, Any]]:
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{size / 1e6:.0f} MB")
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        if not isinstance(text(cell), str):
            raise ValueError("a cell without text")
    return cells


def _lesson(source: str) -> str:
    """The lesson most of whose exercises are checked, or none."""
    asked = {
        lesson: sum(f'check("{one.name}"' in source or f"check('{one.name}'" in source for one in every)
        for lesson, every in exercises().items()
    }
    best = max(asked, key=asked.__getitem__)
    return best if asked[best] else ""


def _differs(cells: list[dict[str, Any]], lesson: Path) -> Iterator[str]:
    # what a teacher may want to look at: an answer is expected in the cells of exercises only
    if any(tagged(cell, SOLUTION) for cell in cells):
        yield "holds the cells of solutions"
    if lesson.is_file():
        own = {text(cell) for cell in _cells(lesson)}
        more = [cell for cell in cells if not tagged(cell, EXERCISE) and text(cell).strip()]
        if added := sum(text(cell) not in own for cell in more):
            yield f"cells beside the exercises that are changed or new: {added}"


def _sitting(
    path: Path, lesson: str, notebooks: Path, seconds: int, memory: int
) -> tuple[list[dict[str, Any]], str]:
    """What the process told, line by line, and how it ended."""
    mark = f"grade-{uuid.uuid4().hex}"
    with TemporaryDirectory(prefix="dualrs-grade-") as place:
        room = Path(place) / "notebooks"
        room.mkdir()
        _bring(lesson, notebooks, room)
        taken = shutil.copyfile(path, room / "submission.ipynb")
        before = {*psutil.Process().children(recursive=True)}
        inlet, outlet = os.pipe()
        module = "dualrs_lab.exercises.sitting"
        words = [sys.executable, "-P", "-m", module, *map(str, (taken, outlet, seconds, memory))]
        process = subprocess.Popen(
            words, cwd=room, env=_environment(mark, Path(place)), pass_fds=[outlet], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(outlet)
        heard: list[bytes] = []
        listener = threading.Thread(target=_listen, args=(inlet, heard), daemon=True)
        listener.start()
        try:
            code = process.wait(timeout=seconds)
            ending = f"it ended with code {code}"
        except subprocess.TimeoutExpired:
            ending = f"it took more than {seconds} s"
        finally:
            kill_marked(mark)
            process.kill()
            process.wait()
            _end({*psutil.Process().children(recursive=True)} - before)
        listener.join(timeout=10)
    return [*_lines(b"".join(heard))], ending


def _end(orphans: "set[psutil.Process]") -> None:
    # what took off its mark and lost its parent: it was adopted
    for process in orphans:
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(5)


def _listen(inlet: int, heard: list[bytes]) -> None:
    with os.fdopen(inlet, "rb", buffering=0) as pipe:
        while part := pipe.read(65536):
            if sum(map(len, heard)) < 10_000_000:
                heard.append(part)


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.split(b"\n"):
        try:
            told = json.loads(line)
        except ValueError:  # cut off, or not of ours
            continue
        if isinstance(told, dict):
            yield told


def _bring(lesson: str, notebooks: Path, room: Path) -> None:
    """The files that the lesson reads, by `profiles.toml`, where it looks for them."""
    profiles = notebooks / "profiles.toml"
    known = tomllib.loads(profiles.read_text("utf-8")) if profiles.is_file() else {}
    for pattern in known.get(lesson, {}).get("inputs", []):
        base = notebooks.parent if pattern.startswith("../") else notebooks
        for source in base.glob(pattern.removeprefix("../")):
            at = room.parent if pattern.startswith("../") else room
            target = at / source.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _environment(mark: str, place: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    own = {"HOME": place, "TMPDIR": place, "IPYTHONDIR": place / "ipython", "MPLBACKEND": "agg"}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    package = str(Path(__file__).resolve().parents[2])
    told = own | threads | {"PYTHONPATH": package, "PYTHONSAFEPATH": "1", MARK: mark}
    return kept | {name: str(value) for name, value in told.items()}
