"""`dualrs-lab new | run | status | gallery | lab`: notebooks laid out, headless, as pages, in JupyterLab."""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualrs_lab.cli.cluster.jobs import say_submission
from dualrs_lab.cli.cluster.parts import a_shard
from dualrs_lab.cli.cluster.submit import add_cluster, check_cluster, submit_runs
from dualrs_lab.cli.parser import Command, Parser, a_new_file, a_number, a_run_folder

if TYPE_CHECKING:
    from dualrs_lab.headless.plan import Run
    from dualrs_lab.headless.runner import Options
    from dualrs_lab.headless.status import Status

__all__ = ["GALLERY", "LAB", "NEW", "RUN", "STATUS"]

OUT = Path("runs")


def _run_options(parser: Parser) -> None:
    from dualrs_lab.cli.options import add_option
    from dualrs_lab.headless.plan import Request
    from dualrs_lab.headless.processes import JOBS
    from dualrs_lab.headless.runner import Options

    parser.add_argument(
        "notebooks", nargs="*", metavar="NOTEBOOK", help="names or paths; default: all notebooks"
    )
    add_option(parser, Request, "profile")
    parser.add_argument(
        "-p", dest="settings", action="append", default=[], metavar="NAME=VALUE",
        help="a parameter, for every notebook of the run that has it",
    )  # fmt: skip
    add_option(parser, Request, "sweep", metavar="FILE")
    add_option(
        parser, Request, "out", default=OUT, type=a_run_folder, metavar="DIR", help="everything goes there"
    )
    parser.add_argument(
        "--jobs", type=a_number(JOBS), metavar="N",
        help="runs at a time; default: one for each device",
    )  # fmt: skip
    parser.add_argument(
        "--devices", default="auto", help="auto, cpu, or a list such as cuda:0,cuda:1 (default: %(default)s)"
    )
    add_option(parser, Options, "timeout", metavar="SECONDS")
    add_option(parser, Options, "force")
    parser.add_argument(
        "--retry-failed", action="store_true", help="only what was tried before and did not end well"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--shard", type=a_shard, metavar="I/N",
        help="only part I of N; runs that need each other stay together; auto: as the scheduler says",
    )  # fmt: skip
    ending = parser.add_mutually_exclusive_group()
    ending.add_argument(
        "--keep-going", action="store_true", help="after a failure run what does not need it (default)"
    )
    add_option(ending, Options, "fail_fast")
    parser.add_argument("--junit", type=a_new_file, metavar="FILE", help="write a JUnit XML report")
    parser.add_argument(
        "--update", action="store_true", help="replace the source notebooks by their executed form"
    )
    add_option(parser, Options, "only", metavar="RUN")
    add_cluster(parser)


def _run(options: Namespace) -> int:
    from dualrs_lab.headless.processes import make_slots, raise_on_terminate
    from dualrs_lab.headless.progress import Progress
    from dualrs_lab.headless.runner import Options, execute
    from dualrs_lab.headless.workbench import are_installed

    _check_places(options)
    check_cluster(options)
    plan = _plan(options)
    if options.retry_failed and not plan:
        print(f"nothing to retry in {options.out}: no run of this plan has failed")
        return 0
    if options.update and (changed := [run for run in plan if set(run.given) - {"folder"} or run.point]):
        raise ValueError(
            f"--update commits a notebook at its own parameters, but {changed[0].name} got others"
        )
    how = Options(
        slots=make_slots(options.jobs, options.devices),
        profile=options.profile,
        timeout=options.timeout,
        force=options.force,
        fail_fast=options.fail_fast,
        only=options.only,
        report=not options.only,
    )
    if options.dry_run:
        return _show_plan(plan, how)
    if options.on == "slurm":
        return submit_runs(options, plan)
    if options.update and any(are_installed(run.notebook.parent) for run in plan):
        raise ValueError("--update: these notebooks belong to the installed package; see `dualrs-lab new`")
    raise_on_terminate()
    statuses = execute(plan, options.out, how, Progress())
    if options.only:
        statuses = [status for status in statuses if status.get("run") == options.only]
    _finish(options, plan, statuses)
    return 0 if all(status["state"] == "ok" for status in statuses) else 1


def _check_places(options: Namespace) -> None:
    """Where results are to go, before hours are spent on them."""
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out}: it is a file; name a folder")
    if options.junit and options.junit.is_dir():
        raise ValueError(f"--junit {options.junit}: it is a folder; name a file")


def _plan(options: Namespace) -> "list[Run]":
    from dualrs_lab.headless.plan import Request, make_plan, take_only, take_shard
    from dualrs_lab.headless.runner import only_failed
    from dualrs_lab.headless.workbench import find_notebooks

    here = [name for name in options.notebooks if not (name.endswith(".ipynb") or "/" in name)]
    request = Request(
        folder=find_notebooks() if here or not options.notebooks else Path.cwd(),
        out=options.out,
        notebooks=options.notebooks,
        profile=options.profile,
        settings=_settings(options.settings),
        sweep=options.sweep,
    )
    plan = make_plan(request)
    if options.shard is not None:
        plan = take_shard(plan, options.shard.number, options.shard.of)
    if options.only:
        plan = take_only(plan, options.only)
    return only_failed(plan) if options.retry_failed else plan


def _settings(texts: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"-p {text!r}: want name=value")
        if name in settings:
            raise ValueError(f"-p {name} is given twice; use --sweep for several values")
        settings[name] = _from_here(value)
    return settings


def _from_here(value: str) -> str:
    # Notebooks run in their own folder; a relative path on the command line means the user's.
    kind, colon, path = value.partition(":")
    return f"folder:{Path(path).expanduser().absolute()}" if kind == "folder" and colon and path else value


def _show_plan(plan: "Sequence[Run]", how: "Options") -> int:
    from dualrs_lab.headless.status import is_done

    for run in plan:
        done = is_done(run) and not (how.force and run.asked)
        given = " ".join(f"{name}={value!r}" for name, value in run.given.items())
        needs = f" after {', '.join(run.needs)}" if run.needs else ""
        needs += f" without {', '.join(run.without)}" if run.without else ""
        print(f"{'done' if done else 'run ':4}  {run.name}{needs}  {given}".rstrip())
    devices = ", ".join(slot.device for slot in how.slots)
    print(f"{len(plan)} runs, {len(how.slots)} at a time on {devices}; nothing was started (--dry-run)")
    return 0


def _finish(options: Namespace, plan: "Sequence[Run]", statuses: "Sequence[Status]") -> None:
    from dualrs_lab.headless.report import write_junit

    if options.junit:
        write_junit(options.junit, statuses)
    _say_where(options.out, statuses)
    if options.update:
        _update(plan, statuses)


def _say_where(out: Path, statuses: "Sequence[Status]") -> None:
    from dualrs_lab.headless.report import outputs

    good = sum(status["state"] == "ok" for status in statuses)
    print(f"\n{good} of {len(statuses)} runs ended well")
    print(f"  pages    {out / 'index.html'}")
    print(f"  results  {out / 'results.csv'}")
    if tables := [path for path in outputs(out) if path.suffix in (".tsv", ".csv")]:
        print(f"  tables   {out / 'files'} ({len(tables)} files)")


def _update(plan: "Sequence[Run]", statuses: "Sequence[Status]") -> None:
    from dualrs_lab.headless.runner import update_source

    for run, status in zip(plan, statuses, strict=True):
        if status["state"] == "ok":
            update_source(run)
            print(f"  updated  {run.notebook.name}")


def _status_options(parser: Parser) -> None:
    parser.add_argument(
        "folder", type=a_run_folder, nargs="?", default=OUT, metavar="DIR",
        help="the --out folder of runs, or a TABLE.tsv that was submitted (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--report", action="store_true", help="write the pages and results.csv anew")


def _status(options: Namespace) -> int:
    from dualrs_lab.headless.progress import span
    from dualrs_lab.headless.reading import printable
    from dualrs_lab.headless.status import find_runs

    submitted = say_submission(options.folder)
    if options.folder.suffix == ".tsv" and submitted:
        return 0 if submitted == "ok" else 1
    runs = find_runs(options.folder)
    if options.report and runs:
        from dualrs_lab.headless.report import write_report

        write_report(options.folder)
    if not runs and submitted:
        return 0 if submitted == "ok" else 1
    if not runs:
        raise FileNotFoundError(f"no runs in {options.folder}; want the --out folder of `dualrs-lab run`")
    width = max(len(run.status["run"]) for run in runs)
    for status, records in ((run.status, run.records) for run in runs):
        results = ", ".join(f"{k}={v}" for k, v in records.items())
        detail = printable(results if status["state"] == "ok" else status["message"])
        seconds = span(status["seconds"]) if "seconds" in status else ""
        name = printable(status["run"])
        print(f"{name:{width}}  {status['state']:11}  {seconds:>8}  {detail[:100]}".rstrip())
    states = [run.status["state"] for run in runs]
    if number := states.count("damaged"):
        print(f"{number} of {len(runs)} damaged; `run` makes them again and keeps what is there aside")
    return 0 if set(states) == {"ok"} else 1


def _gallery(options: Namespace) -> int:
    from dualrs_lab.headless.report import write_gallery

    count = write_gallery(options.folder)
    print(f"{count} pages; all of them: {options.folder / 'index.html'}")
    return 0


def _lab_options(parser: Parser) -> None:
    """All else goes to JupyterLab, --help too."""
    parser.add_argument("--app", action="store_true", help="without code, through Voilà")


def _lab(options: Namespace) -> int:
    from dualrs_lab.headless.workbench import are_installed, find_notebooks
    from dualrs_lab.home.launch import launch

    folder = find_notebooks()
    if are_installed(folder):
        raise ValueError(
            "no notebooks/ here; `dualrs-lab new DIR` lays out a workbench, for `dualrs-lab lab` in it"
        )
    command, environment = launch(folder, options.rest, app=options.app)
    os.execvpe(command[0], command, environment)


def _new_options(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that is not there, or empty")
    parser.add_argument("--students", action="store_true", help="for a class: lessons without solutions")


def _new(options: Namespace) -> int:
    from dualrs_lab.exercises import hand_out
    from dualrs_lab.headless.workbench import lay_out

    count = lay_out(options.folder)
    if options.students:
        print(f"without solutions: {', '.join(hand_out(options.folder / 'notebooks'))}")
    print(f"{count} files in {options.folder}; next: cd {options.folder} && dualrs-lab lab")
    return 0


NEW = Command(
    name="new",
    help="lay out a workbench: notebooks and the data that they read",
    options=_new_options,
    run=_new,
    example="dualrs-lab new bench && cd bench && dualrs-lab lab",
)
RUN = Command(
    name="run",
    help="run notebooks headless",
    description="Runs each notebook in a process of its own, needs first, and skips what is done: same "
    "source, parameters, package and needs. Without NOTEBOOK all of them. Everything goes to "
    "the --out folder.",
    options=_run_options,
    run=_run,
    example="dualrs-lab run 20_train 21_certify -p dataset=folder:photos -p epochs=30 --jobs 2",
)
STATUS = Command(
    name="status",
    help="how the runs of a folder ended",
    options=_status_options,
    run=_status,
    example="dualrs-lab status runs",
)
GALLERY = Command(
    name="gallery",
    help="write the pages of a folder of runs anew, and the page of all of them",
    options=_status_options,
    run=_gallery,
    example="dualrs-lab gallery runs",
)
LAB = Command(
    name="lab",
    help="open the front page, and JupyterLab behind it; with --app without code; ARGS go to Jupyter",
    takes_rest=True,
    options=_lab_options,
    run=_lab,
    example="dualrs-lab lab --no-browser --port 9999",
)
