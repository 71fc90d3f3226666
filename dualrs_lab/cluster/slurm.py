"""Slurm through submitit: stages become arrays, which wait for each other; submission returns at once.

What is alive is asked of `squeue` by the name of the jobs, so that nothing is submitted twice, whatever
became of our records. How tasks ended is read from our own records: accounting, which `sacct` needs, may be
missing.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualrs_lab.cluster.submission import Stage, Submission, find_submissions, queue_name
from dualrs_lab.cluster.task import ClusterTask
from dualrs_lab.headless.processes import found_by_python
from dualrs_lab.locks import writing

__all__ = ["Resources", "cancel_jobs", "read_minutes", "read_queue", "submit_stages", "want_slurm"]


LARGEST_ARRAY = 1000  # tasks: Slurm's own default of MaxArraySize is 1001


WARNING = 90  # seconds before the end of its time, or a preemption, at which a task is told


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each task asks of Slurm; None leaves it to the cluster. `more` are options of sbatch by name."""

    minutes: int
    gpus: int | None = None
    cpus: int | None = None
    memory: str | None = None
    partition: str | None = None
    running: int = LARGEST_ARRAY  # tasks of an array at a time, at most
    more: Mapping[str, str] = field(default_factory=dict)


def want_slurm(call: str) -> None:
    """ValueError unless submitit is installed and the commands of Slurm are there."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ValueError(f"{call}: --on slurm needs submitit: pip install 'dualrs-lab[slurm]'") from None
    if missing := [name for name in ("sbatch", "squeue", "scancel", "srun") if not shutil.which(name)]:
        raise ValueError(f"{call}: --on slurm: no {missing[0]} here; call it where jobs are submitted")


def read_minutes(text: str) -> int:
    """Whole minutes of a time as Slurm writes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S; else ValueError."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r}: want a time such as 2:00:00 (hours), 90 (minutes) or 1-12 (days, hours)")
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1, 0)
    seconds = 86400 * int(days or 0) + sum(n * unit for n, unit in zip(numbers, units, strict=False))
    if not seconds:
        raise ValueError(f"{text!r}: want a time above 0")
    return -(-seconds // 60)


def read_queue(home: Path) -> dict[str, str] | None:
    """The state of each job of submissions in `home` that Slurm has; None where it cannot be asked."""
    if not shutil.which("squeue"):
        return None
    command = ["squeue", "--noheader", "--array", "--format=%i|%T", f"--name={queue_name(home)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (line.strip().partition("|") for line in done.stdout.splitlines() if "|" in line)
    return {job: state for job, _, state in lines}


def cancel_jobs(home: Path) -> int:
    """Cancel every job of submissions in `home`; returns how many there were. ValueError without Slurm."""
    queue = read_queue(home)
    if queue is None:
        raise ValueError("cancel: Slurm cannot be asked here (squeue); call it where jobs are submitted")
    jobs = sorted({job.partition("_")[0] for job in queue})
    if jobs:
        _call(["scancel", *jobs])
    return len(queue)


def submit_stages(
    call: str, home: Path, stages: Sequence[Stage], *, words: Sequence[str], cwd: Path, resources: Resources
) -> Submission | None:
    """Submit `stages` as one submission in `home`, and return it; None where one is in the queue already.

    ValueError that tells what Slurm said where it refuses; then nothing of these stages is left in its queue.
    """
    want_slurm(call)
    with writing(call, home / "submission"):
        queue = read_queue(home)
        if queue is None:
            raise ValueError(f"{call}: --on slurm: squeue does not answer; nothing was submitted")
        if queue:
            return None
        before = find_submissions(home)
        told = Submission(home / str(int(before[0].folder.name) + 1 if before else 1))
        told.folder.mkdir(parents=True, exist_ok=True)
        _Sender(call, home, told, stages, words, cwd, resources).send()
        return told


class _Sender:
    """One submission on its way: tasks, numbered over all stages, and the arrays that Slurm has taken."""

    def __init__(
        self,
        call: str,
        home: Path,
        told: Submission,
        stages: Sequence[Stage],
        words: Sequence[str],
        cwd: Path,
        resources: Resources,
    ) -> None:
        self.call, self.home, self.told, self.stages = call, home, told, stages
        self.words, self.cwd, self.resources = words, cwd, resources
        self.tasks = [
            {"name": work.name, "stage": stage.name, "job": ""} for stage in stages for work in stage.works
        ]
        self.arrays: dict[str, list[list[str]]] = {}  # of each stage the jobs, array by array

    def send(self) -> None:
        self.told.write(self.words, self.tasks)
        first = 0
        try:
            for stage in self.stages:
                self.arrays[stage.name] = []
                for part in range(0, len(stage.works), LARGEST_ARRAY):
                    jobs = self._array(stage, part, first + part)
                    self.arrays[stage.name].append(jobs)
                    for number, job in enumerate(jobs, first + part):
                        self.tasks[number]["job"] = job
                    self.told.write(self.words, self.tasks)
                first += len(stage.works)
        except BaseException:
            with contextlib.suppress(ValueError):
                cancel_jobs(self.home)
            raise

    def _array(self, stage: Stage, part: int, first: int) -> list[str]:
        import submitit

        followed = any(other.paired and stage.name in other.after for other in self.stages)
        logs = self.told.folder / "logs"
        executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=10_000, python=_python())
        executor.update_parameters(**self._parameters(stage, part))
        jobs: list[Any] = []
        try:
            # what sbatch says on stderr comes back in the error; submitit prints it besides
            with contextlib.redirect_stderr(io.StringIO()), executor.batch():
                for number, work in enumerate(stage.works[part : part + LARGEST_ARRAY], first):
                    task = ClusterTask(
                        folder=str(self.told.folder.resolve()),
                        number=number,
                        key=f"{queue_name(self.home)}/{work.name}",
                        commands=work.commands,
                        cwd=str(self.cwd),
                        followed=followed,
                    )
                    jobs.append(executor.submit(task))
            return [str(job.job_id) for job in jobs]
        except (
            submitit.core.utils.FailedJobError,
            RuntimeError,
            OSError,
            subprocess.SubprocessError,
        ) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self.call}: --on slurm: Slurm did not take the jobs: {said}") from error

    def _parameters(self, stage: Stage, part: int) -> dict[str, Any]:
        asked = self.resources
        more: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes", **asked.more}
        if waits := self._dependency(stage, part):
            more["dependency"] = waits
        wanted = {
            "job_name": queue_name(self.home),
            "time": asked.minutes,
            "gpus_per_node": asked.gpus,
            "cpus_per_task": asked.cpus,
            "partition": asked.partition,
            "array_parallelism": asked.running,
            "signal_delay_s": WARNING,
            "setup": _setup(),
        }
        if asked.memory:
            more["mem"] = asked.memory
        return {name: value for name, value in wanted.items() if value is not None} | {
            "additional_parameters": more
        }

    def _dependency(self, stage: Stage, part: int) -> str:
        terms = []
        for name in stage.after:
            arrays = self.arrays.get(name, [])
            if stage.paired:
                jobs = arrays[part // LARGEST_ARRAY]
                kind = "aftercorr" if len(jobs) > 1 else "afterany"  # a single task is no array
                terms.append(f"{kind}:{jobs[0].partition('_')[0]}")
            else:
                terms += [f"afterany:{jobs[0].partition('_')[0]}" for jobs in arrays]
        return ",".join(terms)


def _python() -> str:
    # until submitit hears its signal, in the first second, that would kill the task, and Slurm not requeue it
    return f'sh -c \'trap "" USR2; exec "$0" "$@"\' {shlex.quote(sys.executable)}'


def _setup() -> list[str]:
    # of a checkout that is not installed, Python is to find the package on the node as well
    path = found_by_python({}).get("PYTHONPATH")
    return [f"export PYTHONPATH={path!r}${{PYTHONPATH:+:$PYTHONPATH}}"] if path else []


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(
        [*command], capture_output=True, text=True, timeout=60, check=False, env={**os.environ}
    )
    if done.returncode:
        raise ValueError(f"{command[0]}: {' '.join(done.stderr.split()) or done.returncode}")
