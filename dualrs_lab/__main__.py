"""The command line: `dualrs-lab run | status | certify | attack | cascade | mix | summary | lab`.

Ends with 0 if all is well, 1 if a run failed, 2 with one line on stderr for bad input, 130 after Ctrl-C.
Heavy modules are imported by the commands that need them: help, a dry run or a typo answer at once.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dualrs_lab import __version__

if TYPE_CHECKING:
    import torch
    from pandas import DataFrame

    from dualrs_lab.plan import Run
    from dualrs_lab.runner import Options
    from dualrs_lab.status import Status
    from dualrs_lab.stopping import Stopping

    _Commands = argparse._SubParsersAction["_Parser"]

__all__ = ["main"]

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
RUN_HELP = (
    "Runs each notebook in a process of its own, needs first, and skips what is done: same source, "
    "parameters, package and needs. Without NOTEBOOK all of them. Everything goes to the --out folder."
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    try:
        options, rest = _parser().parse_known_args(arguments)
        if options.name == "lab":
            return _lab(rest)
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r} (see dualrs-lab --help)")
        code: int = options.command(options)
        return code
    except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        text = " ".join(str(error).split())
        print(f"dualrs-lab: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dualrs-lab: cancelled", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dualrs-lab", description="The accuracy-robustness trade-off on one bench.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")
    _add_run(commands)
    _add_status(commands)
    _add_certify(commands)
    _add_attack(commands)
    _add_cascade(commands)
    _add_mix(commands)
    _add_summary(commands)
    commands.add_parser("lab", help="open JupyterLab on the notebooks; ARGS go to it", add_help=False)
    return parser


def _add_run(commands: "_Commands") -> None:
    run = commands.add_parser("run", help="run notebooks headless", description=RUN_HELP)
    run.add_argument(
        "notebooks", nargs="*", metavar="NOTEBOOK", help="names or paths; default: all notebooks"
    )
    run.add_argument(
        "--profile", default="quick", help="quick (default) or paper, see notebooks/profiles.toml"
    )
    run.add_argument("-p", dest="settings", action="append", default=[], metavar="NAME=VALUE",
                     help="a parameter, for every notebook of the run that has it")  # fmt: skip
    run.add_argument("--sweep", type=Path, metavar="FILE", help="TOML or JSON with grid, zip, list or seeds")
    run.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    run.add_argument("--jobs", type=int, metavar="N", help="runs at a time; default: one for each device")
    run.add_argument("--devices", default="auto", help="auto (default), cpu, or a list such as cuda:0,cuda:1")
    run.add_argument("--timeout", type=float, metavar="SECONDS", help="wall clock that one run may take")
    run.add_argument("--force", action="store_true", help="run what was asked for even if it is done")
    run.add_argument(
        "--retry-failed", action="store_true", help="only what was tried before and did not end well"
    )
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    run.add_argument(
        "--shard", metavar="I/N", help="only part I of N; runs that need each other stay together"
    )
    ending = run.add_mutually_exclusive_group()
    ending.add_argument(
        "--keep-going", action="store_true", help="after a failure run what does not need it (default)"
    )
    ending.add_argument("--fail-fast", action="store_true", help="after a failure start nothing more")
    run.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit XML report")
    run.add_argument(
        "--update", action="store_true", help="replace the source notebooks by their executed form"
    )
    run.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from dualrs_lab.plan import Request, find_notebooks, make_plan, take_shard
    from dualrs_lab.progress import Progress
    from dualrs_lab.runner import Options, execute, only_failed, raise_on_terminate
    from dualrs_lab.slots import make_slots

    here = [name for name in options.notebooks if not (name.endswith(".ipynb") or "/" in name)]
    folder = find_notebooks() if here or not options.notebooks else Path.cwd()
    request = Request(
        folder=folder,
        out=options.out,
        notebooks=options.notebooks,
        profile=options.profile,
        settings=_settings(options.settings),
        sweep=options.sweep,
    )
    plan = make_plan(request)
    if options.shard:
        plan = take_shard(plan, *_shard(options.shard))
    if options.retry_failed:
        plan = only_failed(plan)
        if not plan:
            print(f"nothing to retry in {options.out}: no run of this plan has failed")
            return 0
    if options.update and (changed := [run for run in plan if set(run.given) - {"folder"} or run.point]):
        raise ValueError(
            f"--update commits a notebook at its own parameters, but {changed[0].name} got others"
        )
    how = Options(
        slots=make_slots(options.jobs, options.devices),
        profile=options.profile,
        timeout=_positive(options.timeout),
        force=options.force,
        fail_fast=options.fail_fast,
    )
    if options.dry_run:
        return _show_plan(plan, how)
    raise_on_terminate()
    statuses = execute(plan, options.out, how, Progress())
    if options.junit:
        from dualrs_lab.report import write_junit

        write_junit(options.junit, statuses)
    _say_where(options.out, statuses)
    if options.update:
        _update(plan, statuses)
    return 0 if all(status["state"] == "ok" for status in statuses) else 1


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


def _shard(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not slash or not number.isdecimal() or not of.isdecimal():
        raise ValueError(f"--shard {text!r}: want I/N, for example 1/4")
    return int(number), int(of)


def _positive(seconds: float | None) -> float | None:
    if seconds is not None and not seconds > 0:
        raise ValueError(f"--timeout {seconds}: want a positive number of seconds")
    return seconds


def _show_plan(plan: "Sequence[Run]", how: "Options") -> int:
    from dualrs_lab.status import is_done

    for run in plan:
        done = is_done(run) and not (how.force and run.asked)
        given = " ".join(f"{name}={value!r}" for name, value in run.given.items())
        needs = f" after {', '.join(run.needs)}" if run.needs else ""
        print(f"{'done' if done else 'run ':4}  {run.name}{needs}  {given}".rstrip())
    devices = ", ".join(slot.device for slot in how.slots)
    print(f"{len(plan)} runs, {len(how.slots)} at a time on {devices}; nothing was started (--dry-run)")
    return 0


def _say_where(out: Path, statuses: "Sequence[Status]") -> None:
    from dualrs_lab.report import outputs

    good = sum(status["state"] == "ok" for status in statuses)
    print(f"\n{good} of {len(statuses)} runs ended well")
    print(f"  pages    {out / 'index.html'}")
    print(f"  results  {out / 'results.csv'}")
    if tables := [path for path in outputs(out) if path.suffix in (".tsv", ".csv")]:
        print(f"  tables   {out / 'files'} ({len(tables)} files)")


def _update(plan: "Sequence[Run]", statuses: "Sequence[Status]") -> None:
    from dualrs_lab.runner import update_source

    for run, status in zip(plan, statuses, strict=True):
        if status["state"] == "ok":
            update_source(run)
            print(f"  updated  {run.notebook.name}")


def _add_status(commands: "_Commands") -> None:
    status = commands.add_parser("status", help="how the runs of a folder ended")
    status.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), metavar="DIR", help="default: runs"
    )
    status.set_defaults(command=_status)


def _status(options: argparse.Namespace) -> int:
    from dualrs_lab.progress import span
    from dualrs_lab.report import read_records
    from dualrs_lab.status import all_statuses

    statuses = all_statuses(options.folder)
    if not statuses:
        raise FileNotFoundError(f"no runs in {options.folder}; want the --out folder of `dualrs-lab run`")
    width = max(len(status["run"]) for status in statuses)
    for status in statuses:
        results = ", ".join(f"{k}={v}" for k, v in read_records(options.folder / status["run"]).items())
        detail = results if status["state"] == "ok" else status["message"]
        seconds = span(status["seconds"]) if "seconds" in status else ""
        print(f"{status['run']:{width}}  {status['state']:11}  {seconds:>8}  {detail[:100]}".rstrip())
    return 0 if all(status["state"] == "ok" for status in statuses) else 1


def _add_certify(commands: "_Commands") -> None:
    certify = commands.add_parser("certify", help="certify a checkpoint; goes on where it was stopped")
    certify.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .safetensors of this package, or a published .pth.tar",
    )
    certify.add_argument("--data", required=True, help="digits, cifar10, …, or folder:PATH")
    certify.add_argument("--split", default="test")
    certify.add_argument(
        "--sigma", type=float, required=True, help="noise standard deviation in [0, 1] pixel units"
    )
    certify.add_argument(
        "--n", type=int, default=10_000, help="noisy copies that estimate the top class's share, at most"
    )
    certify.add_argument("--n0", type=int, default=100, help="noisy copies that guess the top class")
    certify.add_argument("--alpha", type=float, default=0.001, help="failure probability of each certificate")
    certify.add_argument("--skip", type=int, default=1, help="certify every SKIP-th image")
    certify.add_argument("--max", type=int, default=-1, help="certify at most MAX images; -1: all")
    certify.add_argument("--seed", type=int, default=0)
    certify.add_argument(
        "--batch", type=int, help="noisy images in the model at a time; default: as suits the device"
    )
    certify.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    certify.add_argument(
        "--noise", choices=("grid", "gaussian"), default="grid", help="default: grid, safe in floats"
    )
    certify.add_argument("--out", type=Path, required=True, metavar="TABLE.tsv")
    fewer = certify.add_argument_group("fewer copies, same guarantee (default: n for every image)")
    rule = fewer.add_mutually_exclusive_group()
    rule.add_argument("--at-radii", metavar="R,R,…", help="stop an image once these radii are decided")
    rule.add_argument(
        "--loss", type=float, metavar="X", help="give an image as few copies as cost X * sigma of its radius"
    )
    fast = certify.add_argument_group("steps to the network that is sampled (default: all that repay)")
    fast.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    for step, explained in _STEPS.items():
        fast.add_argument(f"--{step}", action=argparse.BooleanOptionalAction, help=explained)
    certify.set_defaults(command=_certify)


_STEPS = {
    "fold": "BatchNorm into the convolutions",
    "channels-last": "memory layout",
    "compile": "noise, network and votes as one program",
    "cuda-graph": "a pass launched as one, on a GPU",
}


def _certify(options: argparse.Namespace) -> int:
    if options.skip < 1 or (options.max < 1 and options.max != -1):
        raise ValueError(
            f"certify: --skip {options.skip} --max {options.max}: want skip >= 1, max >= 1 or -1"
        )
    if not options.checkpoint.is_file():
        raise FileNotFoundError(f"certify: checkpoint {options.checkpoint} not found")
    from dualrs_lab import certificates, data, fastpath, models, runtime, sampling, smoothing

    noise_type = sampling.GridNoise if options.noise == "grid" else sampling.GaussianNoise
    device = runtime.pick_device(options.device)
    spec = smoothing.Spec(
        noise=noise_type(sigma=options.sigma),
        n0=options.n0,
        n=options.n,
        alpha=options.alpha,
        seed=options.seed,
        stop=_stopping(options),
        dtype=_dtype(options.dtype, device),
        fast=fastpath.FastPath(**_chosen_steps(options)),
        batch=options.batch,
    )
    ours = options.checkpoint.suffix == ".safetensors"
    model, info = (models.load_checkpoint if ours else models.import_checkpoint)(options.checkpoint)
    images = data.load_images(options.data, options.split).to(device)
    table = smoothing.certify_table(
        model.to(device),
        images,
        options.out,
        spec=spec,
        skip=options.skip,
        max_images=options.max,
        info={"checkpoint": options.checkpoint.name, "trained_sigma": info.get("sigma", options.sigma)},
    )
    print(_as_text(certificates.summarise({options.out.stem: table}, RADII)))
    return 0


def _stopping(options: argparse.Namespace) -> "Stopping":
    from dualrs_lab.stopping import AllDraws, AtRadii, InputSpecific

    if options.at_radii is not None:
        return AtRadii(radii=tuple(_numbers("--at-radii", options.at_radii)))
    return AllDraws() if options.loss is None else InputSpecific(loss=options.loss)


def _dtype(name: str, device: "torch.device") -> "torch.dtype":
    import torch

    from dualrs_lab.runtime import pick_dtype

    return pick_dtype(device) if name == "auto" else getattr(torch, name)


def _chosen_steps(options: argparse.Namespace) -> dict[str, bool]:
    chosen = {step.replace("-", "_"): getattr(options, step.replace("-", "_")) for step in _STEPS}
    return {step: choice for step, choice in chosen.items() if choice is not None}


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r}: want numbers separated by commas") from None


def _add_attack(commands: "_Commands") -> None:
    attack = commands.add_parser(
        "attack", help="natural and attacked accuracy of a checkpoint; goes on where it was stopped"
    )
    attack.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="as for certify")
    attack.add_argument("--data", required=True, help="digits, cifar10, …, or folder:PATH")
    attack.add_argument("--split", default="test")
    attack.add_argument("--eps", required=True, help="the attacker's budget in [0, 1] units, such as 8/255")
    attack.add_argument("--norm", choices=["linf", "l2"], default="linf")
    attack.add_argument("--restarts", type=int, default=1, help="of PGD-20 and MMA")
    attack.add_argument("--no-auto", dest="auto", action="store_false", help="leave AutoAttack out: minutes")
    attack.add_argument("--skip", type=int, default=1, help="attack every SKIP-th image")
    attack.add_argument("--max", type=int, default=-1, help="attack at most MAX images; -1: all")
    attack.add_argument("--seed", type=int, default=0)
    attack.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    attack.add_argument("--batch", type=int, default=250)
    attack.add_argument("--out", type=Path, required=True, metavar="TABLE.tsv")
    attack.set_defaults(command=_attack)


def _attack(options: argparse.Namespace) -> int:
    eps = _fraction("--eps", options.eps)
    if options.auto and not importlib.util.find_spec("pyautoattack"):
        raise ValueError(
            "attack: AutoAttack needs pyautoattack: pip install 'dualrs-lab[attacks]', or --no-auto"
        )
    if not options.checkpoint.is_file():
        raise FileNotFoundError(f"attack: checkpoint {options.checkpoint} not found")
    from dualrs_lab import attacks, data, evaluation, models, runtime

    device = runtime.pick_device(options.device)
    threat = evaluation.Threat(
        eps=eps,
        seed=options.seed,
        norm=attacks.L2() if options.norm == "l2" else attacks.LINF,
        restarts=options.restarts,
        auto=attacks.STANDARD if options.auto else (),
        batch=options.batch,
    )
    ours = options.checkpoint.suffix == ".safetensors"
    model, _ = (models.load_checkpoint if ours else models.import_checkpoint)(options.checkpoint)
    images = data.load_images(options.data, options.split)
    table = evaluation.evaluate_table(
        model.to(device).eval(), images, options.out, threat=threat, skip=options.skip, max_images=options.max
    )
    print(_as_text(evaluation.summarise_attacks(table).round(4)))
    return 0


def _fraction(option: str, text: str) -> float:
    try:
        above, _, below = text.partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{option} {text}: want a number or a fraction such as 8/255") from None


def _add_cascade(commands: "_Commands") -> None:
    cascade = commands.add_parser(
        "cascade", help="certify a cascade of experts from their tables, without drawing anything"
    )
    cascade.add_argument(
        "tables", nargs="+", type=Path, metavar="TABLE", help="one per noise level, with all draws"
    )
    cascade.add_argument(
        "--thresholds", help="radius from which each accepts, from the largest sigma on (0: a majority)"
    )
    cascade.add_argument("--alpha", type=float, default=0.001, help="failure probability (%(default)s)")
    cascade.add_argument("--radii", default=",".join(map(str, RADII)), help="l2 radii, comma separated")
    cascade.add_argument("--out", type=Path, required=True, metavar="TSV", help="where the table goes")
    cascade.set_defaults(command=_cascade)


def _cascade(options: argparse.Namespace) -> int:
    radii = _numbers("--radii", options.radii)
    limits = tuple(_numbers("--thresholds", options.thresholds)) if options.thresholds else ()
    if missing := [path for path in options.tables if not path.is_file()]:
        raise FileNotFoundError(f"cascade: table {missing[0]} not found")
    if options.out.exists():
        raise ValueError(f"cascade: {options.out} is there already; choose another file or remove it")
    from dualrs_lab import cascade_tables, certificates
    from dualrs_lab.cascades import Cascade
    from dualrs_lab.files import digest, provenance, replace_json, replace_text

    tables = {}
    for path in options.tables:
        table = certificates.read_table(path)
        levels = sorted(set(table["sigma"]))
        if len(levels) != 1 or levels[0] in tables:
            raise ValueError(f"cascade: {path} is of sigma {levels}; wanted one table for each of several")
        tables[levels[0]] = table
    cascade = Cascade(tuple(sorted(tables, reverse=True)), limits)
    found = cascade_tables.from_tables(tables, cascade=cascade, alpha=options.alpha)
    made_from = {path.name: digest(path.read_text()) for path in options.tables}
    identity = {"method": "cascade", "tables": made_from, "sigmas": cascade.sigmas, "alpha": options.alpha}
    record = {"identity": identity | {"thresholds": cascade.limits}, "provenance": provenance()}
    replace_json(options.out.with_suffix(".json"), record)
    replace_text(options.out, found.to_csv(sep="\t", index=False, lineterminator="\n"))
    singles = {f"σ = {sigma:g}": table for sigma, table in sorted(tables.items())}
    print(_as_text(certificates.summarise(singles | {"cascade": found}, radii)))
    return 0


def _add_mix(commands: "_Commands") -> None:
    mix = commands.add_parser(
        "mix", help="certificates of a mix from the table of its robust network, without drawing anything"
    )
    mix.add_argument("table", type=Path, metavar="TABLE", help="of the smoothed network, or a published log")
    mix.add_argument(
        "--weight", type=float, required=True, help="of the robust network; nothing is certified up to 0.5"
    )
    mix.add_argument(
        "--form", choices=["closed", "exact", "smoothing", "lipschitz"], default="closed",
        help="closed (default) and exact are sharp, smoothing and lipschitz are theorems 5 and 4",
    )  # fmt: skip
    mix.add_argument(
        "--classes", type=int, metavar="K", help="bound each of the K - 1 other classes by its votes (exact)"
    )
    mix.add_argument("--sigma", type=float, help="of a log that has no column sigma")
    mix.add_argument("--radii", default=",".join(map(str, RADII)), help="l2 radii, comma separated")
    mix.add_argument("--out", type=Path, required=True, metavar="TSV", help="where the table goes")
    mix.set_defaults(command=_mix)


def _mix(options: argparse.Namespace) -> int:
    radii = _numbers("--radii", options.radii)
    if not 0 <= options.weight <= 1:
        raise ValueError(f"mix: --weight {options.weight}: want a share in [0, 1]")
    if not options.table.is_file():
        raise FileNotFoundError(f"mix: table {options.table} not found")
    if options.out.exists():
        raise ValueError(f"mix: {options.out} is there already; choose another file or remove it")
    from dualrs_lab import certificates
    from dualrs_lab.files import digest, provenance, replace_json
    from dualrs_lab.mix_certificates import check_mixed, mixed, noise_of

    if options.classes is not None and options.form == "closed":
        raise ValueError("mix: --classes counts the votes of each class; wanted it with --form exact")
    table = certificates.read_table(options.table)
    sigma = noise_of(table, sigma=options.sigma)
    others = "rest" if options.classes is None else "votes"
    how = {"form": options.form, "others": others, "classes": options.classes}
    found = mixed(table, options.weight, **how, sigma=options.sigma)
    # h with the same votes; without them, its own table is the evidence
    check_mixed(found, table if others == "rest" else mixed(table, 1.0, **how, sigma=options.sigma))
    identity = {"method": "mix", "weight": options.weight, **how, "sigma": sigma}
    identity |= {"table": {options.table.name: digest(options.table.read_text())}}
    replace_json(options.out.with_suffix(".json"), {"identity": identity, "provenance": provenance()})
    certificates.write_table(options.out, found)
    shown = {"the robust network": table, f"mix, weight {options.weight:g}": found}
    print(_as_text(certificates.summarise(shown, radii)))
    return 0


def _add_summary(commands: "_Commands") -> None:
    summary = commands.add_parser("summary", help="certified accuracy and ACR of tables or published logs")
    summary.add_argument("tables", nargs="+", type=Path, metavar="TABLE")
    summary.add_argument("--radii", default=",".join(map(str, RADII)), help="l2 radii, comma separated")
    summary.set_defaults(command=_summary)


def _summary(options: argparse.Namespace) -> int:
    radii = _numbers("--radii", options.radii)
    if missing := [path for path in options.tables if not path.is_file()]:
        raise FileNotFoundError(f"summary: table {missing[0]} not found")
    from dualrs_lab import certificates

    short = len({path.stem for path in options.tables}) == len(options.tables)
    tables = {path.stem if short else str(path): certificates.read_table(path) for path in options.tables}
    print(_as_text(certificates.summarise(tables, radii)))
    return 0


def _as_text(summary: "DataFrame") -> str:
    from dualrs_lab.certificates import floor_text

    return summary.to_string(float_format=floor_text)


def _lab(rest: Sequence[str]) -> int:
    from dualrs_lab.plan import find_notebooks

    folder = find_notebooks()
    start = "/00_start_here.ipynb" if (folder / "00_start_here.ipynb").is_file() else ""
    settings = str(Path(__file__).parent)  # holds labconfig/: widget callbacks on the main thread, see there
    paths = [settings, *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.parent}"]
    command += [f"--LabApp.default_url=/lab/tree/{folder.name}{start}", *rest]
    os.execvpe(command[0], command, {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)})


if __name__ == "__main__":
    sys.exit(main())
