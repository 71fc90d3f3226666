"""`python -m benchmarks.gpu.checks --data folder:PATH`: does all of it run on a GPU, and vote as it should?

The tests that need a GPU, three notebooks through the runner, and how often each frozen copy votes otherwise
than the network in strict float32. The first two run beside the third, each in a process of its own, so that
none stops another. Writes checks.csv (a row a check), disagreement.csv and whole logs.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks.gpu.stage import Clock, parser, parts, stage
from benchmarks.per_draw import Steps, ladder, prepare
from benchmarks.subjects import SHIPPED, Subject, labelled_images, shipped
from dualrs_lab.files import replace_text
from dualrs_lab.runtime import pick_device, pick_dtype
from dualrs_lab.smoothing import FastPath, FrozenVoter, NoiseBlocks, Voter, images_together

__all__ = ["disagreements", "main", "steps"]

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = ("20_train", "21_certify", "22_dual")
TOY = {"-k": "law or alone", "notebooks": ("20_train",), "settings": ("epochs=1", "sigmas=0.25")}
SIGMAS = (0.25, 0.5, 1.0)  # of the shipped networks
MARGIN = 8.0  # seconds kept for reading what the others left
Row = dict[str, object]


@dataclass
class Checks:
    """Rows as they come; the file is whole after each."""

    path: Path
    rows: list[Row] = field(default_factory=list)

    def add(self, rows: Sequence[Row]) -> None:
        self.rows += rows
        replace_text(self.path, pd.DataFrame(self.rows).to_csv(index=False, lineterminator="\n"))


@dataclass(frozen=True)
class Beside:
    """A process that runs beside this one, into a log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def begin(cls, name: str, command: Sequence[str], out: Path, **environment: str) -> "Beside":
        log = out / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **environment}, stdout=file, stderr=subprocess.STDOUT
            )
        return cls(name, process, log)

    def end(self, seconds: float) -> int:
        """Its exit code; TimeoutError, with it ended, after so many seconds."""
        try:
            return self.process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait(20)
            raise TimeoutError(f"{self.name}: stopped after its time; see {self.log.name}") from None
        finally:
            print(f"--- {self.log.name}\n{_tail(self.log)}\n---", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; its exit code."""
    options = parser(__doc__ or "", minutes=2.5)
    options.add_argument(
        "--parts", type=lambda text: text.split(","), default=["tests", "notebooks", "copies"]
    )
    return stage("checks", _work, options.parse_args(argv))


def _work(arguments: argparse.Namespace, clock: Clock, out: Path) -> None:
    device = pick_device(arguments.device)
    checks = Checks(out / "checks.csv")
    begun: dict[str, Beside] = {}
    for name, seconds, begin in (("tests", 5.0, _begin_tests), ("notebooks", 10.0, _begin_notebooks)):
        if name in arguments.parts and clock.enough(seconds):
            begun[name] = begin(arguments, device, clock, out)
        elif name in arguments.parts:
            clock.say(f"{name}: left out, {clock.left():.0f} s left of {seconds:.0f} s that it needs")
    clock.say(f"begun: {', '.join(begun) or 'nothing'}, on {device}")
    works: dict[str, tuple[float, Callable[[], None]]] = {}
    if "copies" in arguments.parts:
        works["copies"] = (3.0, lambda: _copies(arguments, device, clock, out, checks))
    if "tests" in begun:
        works["tests"] = (-math.inf, lambda: checks.add(_tested(begun["tests"], clock, out)))
    if "notebooks" in begun:
        works["notebooks"] = (-math.inf, lambda: checks.add(_ran(begun["notebooks"], clock, out, device)))
    try:
        parts(clock, works)
    finally:
        for one in begun.values():
            one.process.kill()
    _raise_on_failures(checks)


def _raise_on_failures(checks: Checks) -> None:
    failed = [f"{row['part']} {row['name']}" for row in checks.rows if row["outcome"] != "ok"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(checks.rows)} checks did not pass: {', '.join(failed)}")


# Tests.


def _begin_tests(arguments: argparse.Namespace, device: torch.device, _: Clock, out: Path) -> Beside:
    files = sorted(
        path for path in (ROOT / "tests").glob("test_*.py") if "pytest.mark.gpu" in path.read_text()
    )
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider"]
    command += ["--durations=10", f"--junitxml={out.resolve() / 'tests.xml'}"]
    command += ["-k", TOY["-k"]] if arguments.toy else ["-n", "4"]
    names = [str(path.relative_to(ROOT)) for path in files]
    return Beside.begin("tests", [*command, *names], out, DUALRS_TEST_DEVICE=device.type)


def _tested(one: Beside, clock: Clock, out: Path) -> list[Row]:
    code = one.end(clock.left() - MARGIN)
    file = out / "tests.xml"
    if not file.exists():
        raise RuntimeError(f"pytest ended with code {code} and wrote no report; see tests.log")
    rows = [_test_row(case) for case in ET.parse(file).iter("testcase")]
    counts = pd.Series([row["outcome"] for row in rows]).value_counts()
    clock.say(f"tests: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    return [row for row in rows if row["outcome"] != "skipped"]


def _test_row(case: ET.Element) -> Row:
    kinds = {
        kind: found for kind in ("failure", "error", "skipped") if (found := case.find(kind)) is not None
    }
    outcome = next(iter(kinds), "ok")
    detail = kinds[outcome].get("message", "")[:300] if kinds else ""
    return _row("tests", case.get("name", ""), outcome, seconds=float(case.get("time", 0)), detail=detail)


# Notebooks.


def _begin_notebooks(arguments: argparse.Namespace, device: torch.device, clock: Clock, out: Path) -> Beside:
    names = TOY["notebooks"] if arguments.toy else NOTEBOOKS
    command = [sys.executable, "-m", "dualrs_lab", "run", *names, "--out", str(out.resolve() / "notebooks")]
    command += ["--devices", "cuda:0" if device.type == "cuda" else "cpu"]
    command += ["--timeout", f"{max(5.0, clock.left() - MARGIN):.0f}"]
    for setting in TOY["settings"] if arguments.toy else ():
        command += ["-p", setting]
    return Beside.begin("notebooks", command, out)


def _ran(one: Beside, clock: Clock, out: Path, device: torch.device) -> list[Row]:
    rows: list[Row] = []
    try:
        one.end(clock.left() - MARGIN / 2)
    finally:
        for path in sorted((out / "notebooks").glob("*/status.json")):
            status = json.loads(path.read_text())
            outcome = "ok" if status["state"] == "ok" else status["state"]
            detail = f"slot {status.get('device', '')}; {status.get('message', '')}"
            rows.append(
                _row("notebooks", status["run"], outcome, seconds=status.get("seconds"), detail=detail)
            )
    made_on = dict(_devices(out / "notebooks"))
    if not rows or not made_on:
        raise RuntimeError("no notebook left a record of its device; see notebooks.log")
    wrong = {name: where for name, where in made_on.items() if not where.startswith(device.type)}
    told = ", ".join(sorted(set(made_on.values())))
    return [*rows, _row("notebooks", "device auto", "failure" if wrong else "ok", detail=told)]


def _devices(folder: Path) -> Iterator[tuple[str, str]]:
    # what the networks and tables that the notebooks made say about where they were made
    for path in sorted(folder.rglob("*.json")):
        record = json.loads(path.read_text())
        found = record.get("provenance", {}) if isinstance(record, dict) else {}
        if "device" in found and path.name != "status.json":
            yield str(path.relative_to(folder)), str(found["device"])


# Frozen copies.


def steps(device: torch.device, dtype: torch.dtype, *, compiled: bool) -> Steps:
    """Every copy that is worth a look: step by step, the last ones with and without compiling."""
    made = ladder(device, dtype, compiled=False)
    if compiled:
        made |= {"+ compiled": (FastPath(compile=True, cuda_graph=False), dtype)}
        if device.type == "cuda":
            made |= {"+ compiled, CUDA graph": (FastPath(compile=True, cuda_graph=True), dtype)}
    return made


def _copies(
    arguments: argparse.Namespace, device: torch.device, clock: Clock, out: Path, checks: Checks
) -> None:
    made: list[pd.DataFrame] = []
    for sigma in sorted(SIGMAS[:1] if arguments.toy else SIGMAS, key=lambda s: abs(s - 0.5)):
        if made and not clock.enough(3 * MARGIN):
            clock.say(f"copies at sigma {sigma}: left out")
            continue
        subject = _subject(arguments, device, sigma)
        wanted = steps(device, pick_dtype(device), compiled=sigma == 0.5 and clock.enough(60))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            voters, found = prepare(subject, wanted, "to compare")
        made.append(disagreements(subject, voters, blocks=1 if arguments.toy else 10))
        for told in [str(w.message) for w in caught] + [text for text in found if isinstance(text, str)]:
            clock.say(f"sigma {sigma}: {told}")
        replace_text(out / "disagreement.csv", pd.concat(made).to_csv(index=False, lineterminator="\n"))
        checks.add([_copy_row(name, sigma, made[-1]) for name in wanted])
    print(pd.concat(made).to_string(index=False), flush=True)


def _copy_row(name: str, sigma: float, found: pd.DataFrame) -> Row:
    own = found[found["copy"] == name]
    if not len(own):
        return _row("copies", f"{name}, sigma {sigma}", "left out", detail="a step failed here; see the log")
    share = float(own["otherwise_percent"].iloc[0])
    return _row(
        "copies", f"{name}, sigma {sigma}", "ok" if share < 3 else "failure", value=share, unit="% of votes"
    )


def _subject(arguments: argparse.Namespace, device: torch.device, sigma: float) -> Subject:
    path = SHIPPED.with_name(SHIPPED.name.replace("sigma0.5", f"sigma{sigma:g}"))
    engine_batch = 200 if arguments.toy else None
    settings = {"images": images_together((3, 32, 32), device, engine_batch), "sigma": sigma, "seed": 0}
    if arguments.data:
        return labelled_images(arguments.data, path, device, engine_batch=engine_batch, **settings)
    return shipped(path, device, engine_batch=engine_batch, **settings)


@torch.inference_mode()
def disagreements(subject: Subject, voters: Mapping[str, FrozenVoter], *, blocks: int) -> pd.DataFrame:
    """How often each copy votes otherwise than the network in float32 without TF32, on the same noise."""
    rows = []
    for number in range(blocks):
        reference, x, noise = _reference(subject, voters, number)
        for name, voter in voters.items():
            votes = voter(x, noise)[: len(reference)]
            rows.append({"copy": name, "otherwise": int((votes != reference).sum()), "votes": votes.numel()})
    found = pd.DataFrame(rows).groupby("copy", sort=False).sum().reset_index()
    found["otherwise_percent"] = 100 * found["otherwise"] / found["votes"]
    return found.assign(network=subject.name, sigma=subject.sigma)


def _reference(
    subject: Subject, voters: Mapping[str, FrozenVoter], number: int
) -> tuple[Tensor, Tensor, Tensor]:
    # votes (N, BLOCK) of the N images there are; images and noise (units, …) of a full pass
    units = next(iter(voters.values())).units
    drawn = NoiseBlocks(
        next(iter(voters.values())).noise, subject.shape, seed=0, stream="disagreement", device=subject.device
    )
    x, noise = subject.repeated(units).x, drawn.stack([number] * units)
    plain = Voter(subject.network, drawn.noise, classes=subject.classes, units=units)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        return plain(x, noise)[: len(subject.x)], x, noise
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _row(
    part: str,
    name: str,
    outcome: str,
    *,
    value: float | None = None,
    unit: str = "",
    seconds: float | None = None,
    detail: str = "",
) -> Row:
    return {
        "part": part, "name": name, "outcome": outcome, "value": value, "unit": unit,
        "seconds": seconds, "detail": detail.replace("\n", " "),
    }  # fmt: skip


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


if __name__ == "__main__":
    sys.exit(main())
