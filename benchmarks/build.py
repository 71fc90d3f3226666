"""`python -m benchmarks.build`: what starting, reading a table, reporting and the main commands take.

So that they cannot creep: what is compared with the last table (`--last`) are ratios, which depend little on
the machine, and one that has grown by more than `--most` is told of and ends the command with 1. Times of
commands are processor seconds of their processes. `--commands` adds `make run` and `make test`, which take
minutes each. Writes build.json (every value), .csv and .md into `--out`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import Row, frame, ratio
from benchmarks.report import table
from benchmarks.score import TIMES, crept
from dualrs_lab.evidence import decide, write_table
from dualrs_lab.evidence import frame as as_frame
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.headless import write_report
from dualrs_lab.runtime import describe, pick_device

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
PART = "build"

COMMANDS = {"make run": ["make", "run"], "make test": ["make", "test"]}

STARTS = {
    "torch alone": "import torch",
    "smoothing": "from dualrs_lab.smoothing import Spec, certify_table, freeze",
    "tables": "from dualrs_lab.evidence import read_table, summarise",
    "the front door": "import dualrs_lab",
}
# Peak memory as Linux keeps it for the process: getrusage starts from the parent's peak.
READ = """
import pathlib, sys, time
from dualrs_lab.evidence import read_table
began = time.process_time()
read_table(sys.argv[1])
taken = time.process_time() - began
status = pathlib.Path("/proc/self/status").read_text().split()
print(taken, int(status[status.index("VmHWM:") + 1]) * 1024 / 1e6)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write and compare; 1 where something has crept."""
    args = _options(argv)
    before = pd.read_csv(args.last) if args.last.is_file() else frame([])
    rows = [*_starts(args.rounds), *_reading(args.rows, args.rounds), *_reports(args.runs)]
    _keep(rows, args)
    for part in _commands() if args.commands else ():  # what is measured stays where one fails
        rows.extend(part)
        _keep(rows, args)
    print(table(rows, PART))
    grown = crept(before, frame(rows), most=args.most)
    print(*grown, sep="\n")
    return int(bool(grown))


def _keep(rows: Sequence[Row], args: argparse.Namespace) -> None:
    settings = {"rows": args.rows, "runs": args.runs, "rounds": args.rounds}
    record = settings | {"provenance": describe(pick_device("cpu")), "rows": [asdict(row) for row in rows]}
    replace_json(args.out / "build.json", record)
    replace_text(args.out / "build.csv", frame(rows).to_csv(index=False, lineterminator="\n"))
    replace_text(args.out / "build.md", table(rows, PART) + "\n")


def _commands() -> Iterator[list[Row]]:
    with tempfile.TemporaryDirectory() as folder:  # in one that is there already, nothing is left to run
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            taken = _child([*command, f"RUN=--out {folder}/runs"])
            seconds = time.perf_counter() - began
            yield [
                Row(PART, name, "processor time", "s", [taken]),
                Row(PART, name, "time on the clock", "s", [seconds]),
            ]


def _starts(rounds: int) -> Iterator[Row]:
    taken: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(rounds + 1):  # the first warms the disk
        for name, code in STARTS.items():
            taken[name].append(_child([sys.executable, "-c", code]))
    alone = taken["torch alone"][1:]
    for name, each in taken.items():
        yield Row(PART, f"start, {name}", "processor time", "s", each[1:])
        yield Row(PART, f"start, {name}", "of torch alone", TIMES, ratio(each[1:], alone))


def _reading(count: int, rounds: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.tsv"
        _certificates(path, count)
        size, found = path.stat().st_size / 1e6, []
        for _ in range(rounds):
            said = _said([sys.executable, "-c", READ, str(path)])
            found.append([float(number) for number in said.split()])
    seconds, peak = (list(each) for each in zip(*found, strict=True))
    name = f"reading {count:,} rows"
    yield Row(PART, name, "size of the file", "MB", [size])
    yield Row(PART, name, "processor time", "s", seconds)
    yield Row(PART, name, "peak memory", "MB", peak)
    yield Row(PART, name, "peak memory, of the file", TIMES, [each / size for each in peak])


def _certificates(path: Path, count: int) -> None:
    chance, different = np.random.default_rng(0), min(count, 20_000)
    some = [
        decide(
            *(np.roll([*chance.multinomial(n, [p, 1 - p]), *[0] * 8], i % 10) for n in (100, 10_000)),
            idx=i, label=i % 10, sigma=0.5, alpha=0.001, seed=0, seconds=0.1,
        )
        for i, p in enumerate(chance.beta(0.5, 0.5, different))
    ]  # fmt: skip
    rows = as_frame(some).iloc[np.arange(count) % different].reset_index(drop=True)
    write_table(path, rows.assign(idx=np.arange(count), time=chance.random(count).round(4)))


def _reports(runs: int) -> Iterator[Row]:
    each = {}
    for count in (runs, 4 * runs):
        with tempfile.TemporaryDirectory() as folder:
            for number in range(count):
                _run(Path(folder), number)
            began = time.process_time()
            write_report(Path(folder))
            each[count] = 1e3 * (time.process_time() - began) / count
        yield Row(PART, f"report of {count:,} runs", "processor time per run", "ms", [each[count]])
    growth = each[4 * runs] / each[runs]
    yield Row(PART, f"report of {4 * runs:,} runs", f"per run, of {runs:,} runs", TIMES, [growth])


def _run(out: Path, number: int) -> None:
    status = {
        "run": f"20_train@sigma={number}", "notebook": "20_train", "point": f"sigma={number}", "state": "ok",
        "message": "", "queued": "2026-01-01", "finished": "2026-01-02", "given": {}, "seconds": 1.0,
        "parameters": {"sigma": number}, "provenance": {"package": "0"},
        "runner": {"pid": 1, "born": "", "host": "elsewhere"},
    }  # fmt: skip
    folder = out / str(status["run"])
    folder.mkdir()
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "records.jsonl").write_text("".join(f'{{"value{k}": {number}}}\n' for k in range(8)))


def _child(command: Sequence[str]) -> float:
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    _said(command)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"build: {command} failed with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.build", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--commands", action="store_true", help="`make run` and `make test` as well, minutes each")
    add("--rows", type=int, default=1_000_000, help="of the table that is read (%(default)s)")
    add("--runs", type=int, default=500, help="of a report, and four times as many (%(default)s)")
    add("--rounds", type=int, default=5, help="rounds (%(default)s)")
    add("--last", type=Path, default=ROOT / "data/benchmarks/build.csv", help="the last table (%(default)s)")
    add("--most", type=float, default=1.3, help="times that a ratio may grow (%(default)s)")
    add("--out", type=Path, default=Path("runs/build"), help="folder for the results (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
