"""`--on slurm`, and `--devices` for tables: a command in tasks elsewhere, or in parts on several devices."""

import os
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualrs_lab.afar.address import by_address
from dualrs_lab.cli.cluster.jobs import wait_for
from dualrs_lab.cli.parser import Parser, a_number
from dualrs_lab.headless.status import TASK
from dualrs_lab.settings import Range
from dualrs_lab.shards import Shard, find_parts, is_finished

if TYPE_CHECKING:
    from dualrs_lab.cluster import Resources, Stage
    from dualrs_lab.headless.plan import Run

__all__ = [
    "add_cluster",
    "add_parts",
    "check_cluster",
    "made_elsewhere",
    "submit_runs",
]


_FEW = Range(whole=True, least=1, most=100_000)


def a_time(text: str) -> int:
    """Reads a time as Slurm writes it, in minutes."""
    from dualrs_lab.cluster import read_minutes

    try:
        return read_minutes(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def an_option(text: str) -> tuple[str, str]:
    """Reads NAME=VALUE, an option of sbatch."""
    name, equals, value = text.partition("=")
    if not equals or not name.replace("-", "").isalnum():
        raise ArgumentTypeError(f"{text!r}: want an option of sbatch without its dashes, such as account=ml")
    return name, value


def add_cluster(parser: Parser) -> None:
    """Options for tasks of a cluster."""
    group = parser.add_argument_group("on a cluster (returns at once; see status and cancel)")
    group.add_argument("--on", choices=("here", "slurm"), default="here", help="(default: %(default)s)")
    group.add_argument(
        "--time", type=a_time, metavar="H:M:S", help="for each task; what it has not done goes on in another"
    )
    group.add_argument("--gpus", type=a_number(_FEW), metavar="N", help="for each task")
    group.add_argument("--cpus", type=a_number(_FEW), metavar="N", help="for each task")
    group.add_argument("--mem", metavar="SIZE", help="for each task, such as 32G")
    group.add_argument("--partition", metavar="P", help="where it runs")
    group.add_argument(
        "--max-running", type=a_number(_FEW), metavar="N", help="tasks of an array at a time, at most"
    )
    group.add_argument(
        "--runs-per-gpu",
        type=a_number(Range(whole=True, least=1, most=64)),
        metavar="K",
        help="so many share a task (default: 1)",
    )
    group.add_argument(
        "--sbatch",
        type=an_option,
        action="append",
        metavar="NAME=VALUE",
        help="any other option of sbatch, such as account=ml",
    )
    group.add_argument(
        "--wait", action="store_true", help="until all has ended; ends with 1 if something failed"
    )


def add_parts(parser: Parser) -> None:
    """Options for a table that is made in parts, here or on a cluster."""
    add_cluster(parser)
    parser.add_argument(
        "--shards",
        type=a_number(_FEW),
        metavar="N",
        help="parts on a cluster or on --devices (default: 16 there, one a device here)",
    )
    parser.add_argument(
        "--devices", metavar="D,D", help="parts on all of these, such as cuda:0,cuda:1, then their merger"
    )


def made_elsewhere(options: Namespace) -> int | None:
    """Have the table of `options` made in parts by others; the exit code, None where nobody asks for it."""
    check_cluster(options, ("shards",) if options.devices else ())
    if options.on == "slurm":
        return _submit_table(options)
    return _on_devices(options) if options.devices else None


def check_cluster(options: Namespace, but: Sequence[str] = ()) -> None:
    """ValueError for options of a cluster without one, and for those that it lacks."""
    given = [
        name
        for name in (
            "time",
            "gpus",
            "cpus",
            "mem",
            "partition",
            "max_running",
            "runs_per_gpu",
            "sbatch",
            "wait",
            "shards",
        )
        if getattr(options, name, None)
    ]
    given = [name for name in given if name not in but]
    if options.on == "here" and given and TASK not in os.environ:
        raise ValueError(
            f"{options.name}: --{given[0].replace('_', '-')} is for a cluster; wanted --on slurm with it"
        )
    if options.on == "slurm" and hasattr(options, "shards") and options.shard:
        raise ValueError(
            f"{options.name}: --shard with --on slurm: each task is a shard already; wanted --shards N"
        )
    if options.on == "slurm" and not options.time:
        raise ValueError(
            f"{options.name}: --on slurm: wanted --time H:M:S, how long a task may take at a time"
        )


def _resources(options: Namespace) -> "Resources":
    from dualrs_lab.cluster import Resources

    return Resources(
        minutes=options.time,
        gpus=options.gpus,
        cpus=options.cpus,
        memory=options.mem,
        partition=options.partition,
        more=dict(options.sbatch or ()),
        **({"running": options.max_running} if options.max_running else {}),
    )


def _lacking(table: Path, of: int) -> list[int]:
    return [number for number in range(1, of + 1) if not is_finished(Shard(number, of).part(table))]


def _submit_table(options: Namespace) -> int:
    from dualrs_lab.cluster import stages_of_table, want_slurm

    want_slurm(options.name)
    of, table = options.shards or 16, options.out
    if _is_whole(options):
        return 0
    _one_number(options.name, table, of)
    words = [*options.words, "--on", "here"]
    stages = stages_of_table(words, table, _lacking(table, of), of, at_once=options.runs_per_gpu or 1)
    return _submit(options, table, stages)


def _is_whole(options: Namespace) -> bool:
    if is_finished(options.out):
        print(f"{by_address(options.out)} is finished already; nothing was started")
        return True
    return False


def _one_number(call: str, table: Path, of: int) -> None:
    other = [shard.of for shard in find_parts(table) if shard.of != of]
    if other:
        raise ValueError(
            f"{call}: {table} has parts of {other[0]} already; wanted --shards {other[0]}, or set them aside"
        )


def _on_devices(options: Namespace) -> int:
    from dualrs_lab.cli.cluster.parts import MERGE
    from dualrs_lab.cluster import make_on_devices
    from dualrs_lab.headless.processes import make_slots, raise_on_terminate

    if options.shard:
        raise ValueError(
            f"{options.name}: got --shard and --devices, which makes all parts; wanted one of the two"
        )
    slots, table = make_slots(None, options.devices), options.out
    of = options.shards or len(slots)
    if _is_whole(options):
        return 0
    _one_number(options.name, table, of)
    logs = table.with_suffix(".parts")
    raise_on_terminate()
    words = _without_devices(options.words)
    if failed := make_on_devices(words, _lacking(table, of), of, slots, logs):
        last = (logs / f"part-{failed[0]}-of-{of}.txt").read_text(errors="replace").strip().splitlines()
        raise ValueError(
            f"{options.name}: part {failed[0]}/{of} failed: {last[-1] if last else 'no word'}; see {logs}"
        )
    return MERGE.run(Namespace(name="merge", table=table, remove_parts=False))


def _without_devices(words: Sequence[str]) -> list[str]:
    left, skip = [], False
    for word in words:
        if (
            not skip
            and not word.startswith(("--devices=", "--shards="))
            and word not in ("--devices", "--shards")
        ):
            left.append(word)
        skip = word in ("--devices", "--shards")
    return left


def submit_runs(options: Namespace, plan: "Sequence[Run]") -> int:
    """Submit what is not done of `plan`, each run a task."""
    from dualrs_lab.cluster import stages_of_plan, want_slurm
    from dualrs_lab.headless.status import is_done

    want_slurm(options.name)
    for name in ("update", "junit", "fail_fast", "only", "retry_failed"):
        if getattr(options, name):
            raise ValueError(f"run: --{name.replace('_', '-')} does not go with --on slurm")
    done = {run.name for run in plan if is_done(run) and not (options.force and run.asked)}
    words = [*options.words, "--on", "here"]
    stages = stages_of_plan(plan, words, options.out, done=done, at_once=options.runs_per_gpu or 1)
    if not stages:
        print(f"all {len(plan)} runs are done already (--force runs them again); nothing was submitted")
        return 0
    return _submit(options, options.out, stages)


def _submit(options: Namespace, target: Path, stages: "Sequence[Stage]") -> int:
    from dualrs_lab.cluster import find_submissions, home_of, submit_stages

    home = home_of(target)
    told = submit_stages(
        options.name, home, stages, words=options.words, cwd=Path.cwd(), resources=_resources(options)
    )
    if told is None:
        print(f"{target} is submitted already; nothing was submitted")
        last = find_submissions(home)
        told = last[0] if last else None
    else:
        works = sum(len(stage.works) for stage in stages)
        print(f"{works} tasks in {len(stages)} arrays; dualrs-lab status {target}, or cancel {target}")
    if told and options.wait:
        return wait_for(target)
    return 0
