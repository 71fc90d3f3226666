"""What was submitted: how it is, waiting for it, and `dualrs-lab cancel`."""

import time
from argparse import Namespace
from collections import Counter
from pathlib import Path

from dualrs_lab.cli.parser import Command, Parser, a_path

__all__ = ["CANCEL", "say_submission", "wait_for"]


_LOOK = 2.0  # seconds between two looks


def wait_for(target: Path) -> int:
    """Until Slurm has none of its tasks any more; 1 where one did not end well, else 0."""
    from dualrs_lab.cluster import find_submissions, home_of, read_queue

    home = home_of(target)
    while read_queue(home):
        time.sleep(_LOOK)
    say_submission(target)
    return int(any(task.state != "ok" for task in find_submissions(home)[0].tasks(read_queue(home))))


def say_submission(target: Path) -> str:
    """Print how the tasks of the last submission for `target` are; returns the worst state, or "" of none."""
    from dualrs_lab.cluster import find_submissions, home_of, read_queue

    home = home_of(target)
    submissions = find_submissions(home)
    if not submissions:
        return ""
    tasks = submissions[0].tasks(read_queue(home))
    count = Counter(task.state for task in tasks)
    print(
        f"submission {submissions[0].folder}: "
        + ", ".join(f"{number} {state}" for state, number in sorted(count.items()))
    )
    for task in tasks:
        if task.state in ("failed", "lost", "stopped"):
            where = f" on {task.host}" if task.host else ""
            log = submissions[0].folder / "logs" / f"{task.job}_0_log.err"
            print(f"  {task.name}: {task.state}{where}; see {log}")
    return next(
        (state for state in ("failed", "lost", "stopped", "running", "queued", "preempted") if count[state]),
        "ok",
    )


def _cancel_options(parser: Parser) -> None:
    parser.add_argument(
        "target",
        type=a_path,
        nargs="?",
        default=Path("runs"),
        metavar="DIR|TABLE.tsv",
        help="the --out of what was submitted (default: %(default)s)",
    )


def _cancel(options: Namespace) -> int:
    from dualrs_lab.cluster import cancel_jobs, find_submissions, home_of

    home = home_of(options.target)
    if not find_submissions(home):
        raise FileNotFoundError(
            f"nothing was submitted for {options.target}; wanted the --out of a command with --on slurm"
        )
    print(
        f"{cancel_jobs(home)} tasks cancelled; what is done is kept, and the same command goes on from there"
    )
    return 0


CANCEL = Command(
    name="cancel",
    help="cancel what was submitted to a cluster; what is done is kept",
    options=_cancel_options,
    run=_cancel,
    example="dualrs-lab cancel runs\ndualrs-lab cancel c.tsv",
)
