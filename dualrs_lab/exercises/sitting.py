"""One submission, worked through from its first cell to its last, in a process of its own.

As a program, `python -m dualrs_lab.exercises.sitting NOTEBOOK FD SECONDS MEMORY`, it runs the code cells as a
notebook would, without a kernel, within limits that it cannot raise again, and writes a line of JSON for each
thing that happened to the file descriptor FD. What counts is what `check` said when it was called: what a
notebook displays, it may display without it. See `exercises.grading` for who asks.
"""

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dualrs_lab.exercises.verdict import Verdict

__all__ = ["sit"]


FILE_BYTES = 200_000_000  # the largest file that a submission may write


Tell = Callable[[dict[str, Any]], None]


def sit(notebook: Path, tell: Tell) -> None:
    """Run all code cells of the notebook, and tell each cell, each verdict of `check` and each error."""
    from IPython.core.interactiveshell import InteractiveShell

    cells = [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    shell: Any = InteractiveShell.instance()
    with _heard(tell):
        judge = _judges()
        for number, cell in enumerate(cells):
            tell({"cell": number})
            found = shell.run_cell("".join(cell["source"]), store_history=False)
            if error := found.error_before_exec or found.error_in_exec:
                tell({"error": f"{type(error).__name__}: {error}"[:200], "cell": number})
        if _judges() != judge:
            tell({"changed": True})
    tell({"end": True})


@contextlib.contextmanager
def _heard(tell: Tell) -> Iterator[None]:
    # `check` as notebooks import it, which tells what it said
    face, room = (importlib.import_module(f"dualrs_lab.exercises{name}") for name in ("", ".exercise"))
    own: Callable[[str, Any], Verdict] = room.check

    def check(name: str, answer: Any) -> Verdict:
        verdict = own(name, answer)
        tell({"exercise": verdict.exercise, "state": verdict.state})
        return verdict

    places = {face: getattr(face, "check", None), room: own}
    for place in places:
        place.check = check  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for place, before in places.items():
            place.check = before  # type: ignore[attr-defined]


def _judges() -> dict[str, int]:
    # who judges, by identity: a notebook that puts another in its place has not solved anything
    room = importlib.import_module("dualrs_lab.exercises.exercise")
    kinds = {kind: vars(room)[kind] for kind in ("Formula", "Find")}
    found = {f"{kind}.{name}": id(part) for kind, one in kinds.items() for name, part in vars(one).items()}
    found |= {name: id(part) for name, part in vars(room).items() if callable(part)}
    for one in (one for every in room.exercises().values() for one in every):
        found |= {f"{one.name}, {name}": id(part) for name, part in vars(one).items()}
    return found


def _limit(seconds: int, memory: int) -> None:
    try:
        import resource
    except ImportError:  # not on this system: the time on the clock is what is left
        return
    limits = {"CPU": seconds, "DATA": memory, "FSIZE": FILE_BYTES, "CORE": 0}
    for name, most in limits.items():
        with contextlib.suppress(ValueError, OSError):  # a lower limit of the system holds
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


def main() -> None:
    """Sit as the words of the command line say."""
    notebook, pipe, seconds, memory = sys.argv[1:]
    _limit(int(seconds), int(memory))
    with os.fdopen(int(pipe), "w", encoding="utf-8") as out:

        def tell(what: dict[str, Any]) -> None:
            out.write(json.dumps(what) + "\n")
            out.flush()

        sit(Path(notebook), tell)


if __name__ == "__main__":
    main()
