"""A command as arrays of tasks: the parts of a table, or the runs of a plan, which keep their order."""

from collections.abc import Collection, Sequence
from pathlib import Path

from dualrs_lab.cluster.submission import Stage, Work
from dualrs_lab.headless.plan import Run

__all__ = ["stages_of_plan", "stages_of_table"]


def stages_of_table(
    words: Sequence[str], table: Path, numbers: Sequence[int], of: int, *, at_once: int = 1
) -> list[Stage]:
    """The parts `numbers` of `of` that the command `words` makes of `table`, then their merger.

    `at_once` parts share a task.
    """
    parts = [(f"{number}/{of}", (*words, "--shard", f"{number}/{of}")) for number in numbers]
    merger = Work(name="merge", commands=(("merge", str(table)),))
    return [
        *([Stage(name="parts", works=_shared(parts, at_once))] if parts else []),
        Stage(name="merge", works=(merger,), after=("parts",) if parts else ()),
    ]


def stages_of_plan(
    plan: Sequence[Run], words: Sequence[str], out: Path, *, done: Collection[str], at_once: int = 1
) -> list[Stage]:
    """An array for each notebook of `plan`, its tasks in the order of the sweep, then the report.

    A task waits for those of the same point where all notebooks have the same points. Points at which all is
    `done` are left out; of others every run has its task, which ends at once if there is nothing to do.
    """
    alive = {run.point for run in plan if run.name not in done}
    chains = [run for run in plan if run.point in alive]
    by_notebook: dict[str, list[Run]] = {}
    for run in chains:
        by_notebook.setdefault(run.notebook.stem, []).append(run)
    wanted = {stem: runs for stem, runs in by_notebook.items() if any(run.name not in done for run in runs)}
    stem_of = {run.name: run.notebook.stem for run in chains}
    stages = []
    for stem, runs in wanted.items():
        needs = dict.fromkeys(stem_of.get(need, "") for run in runs for need in run.needs)
        after = tuple(need for need in needs if need in wanted)
        points = [run.point for run in runs]
        stages.append(
            Stage(
                name=stem,
                works=_shared([(run.name, (*words, "--only", run.name)) for run in runs], at_once),
                after=after,
                paired=bool(after) and all([run.point for run in wanted[need]] == points for need in after),
            )
        )
    report = Work(name="report", commands=(("status", str(out), "--report"),))
    return [*stages, Stage(name="report", works=(report,), after=tuple(wanted))] if stages else []


def _shared(named: Sequence[tuple[str, tuple[str, ...]]], at_once: int) -> tuple[Work, ...]:
    groups = [named[first : first + at_once] for first in range(0, len(named), at_once)]
    return tuple(
        Work(name=", ".join(name for name, _ in group), commands=tuple(words for _, words in group))
        for group in groups
    )
