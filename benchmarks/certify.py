"""`python -m benchmarks.certify`: how fast certificates are made on this machine, and what each step adds.

Everything that is compared is measured in this one run, in interleaved rounds. Without `--data`, draws are
timed on random pixels (what a draw costs does not depend on them) and images are certified with a network for
the embedded digits, trained on the spot. Writes bench.json (every value, settings, provenance), bench.csv
(medians and quartiles), bench.md (the tables) and bench.png (the figure) into `--out`.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines import art_version
from benchmarks.growth import growth
from benchmarks.measure import Row, frame
from benchmarks.memory import memory
from benchmarks.per_draw import Steps, disagree, ladder, per_draw, prepare, split
from benchmarks.per_image import per_image
from benchmarks.report import figure, table
from benchmarks.score import judged
from benchmarks.subjects import SHIPPED, Subject, digits, labelled_images, shipped, untrained
from dualrs_lab.figures import png
from dualrs_lab.files import replace_bytes, replace_json, replace_text
from dualrs_lab.models import MODELS
from dualrs_lab.runtime import describe, pick_device, pick_dtype
from dualrs_lab.smoothing import images_together

__all__ = ["main"]

LAST = Path(__file__).resolve().parent.parent / "data" / "benchmarks"
PARTS = ("per_draw", "split", "growth", "disagreement", "per_image", "memory")
# What `--short` changes, so that two CPU cores finish within ten minutes.
SHORT = {
    "draws": 1000,
    "rounds": 3,
    "images": 96,
    "compare": 12,
    "full": 1,
    "growth_draws": [300, 1000, 3000],
    "growth_images": [1, 4, 16],
}


@dataclass
class Findings:
    """What the parts have found so far; remarks are printed as they come, tables when a part is done."""

    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, found: Iterable[Row | str]) -> None:
        rows = []
        for item in found:
            if isinstance(item, Row):
                rows.append(item)
            else:
                self.remarks.append(item)
                print(f"note: {item}", flush=True)
        self.rows += rows
        for part in dict.fromkeys(row.part for row in rows):
            print(f"\n{table(rows, part)}\n", flush=True)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the parts asked for, print and write what they found, and return it."""
    args = _options(argv)
    start, device = time.perf_counter(), pick_device(args.device)
    dtype = pick_dtype(device) if args.dtype == "auto" else getattr(torch, args.dtype)
    steps, findings, parts = ladder(device, dtype, compiled=args.compile), Findings(), set(args.parts)
    subjects = {}
    labelled = _labelled(args, device) if args.data or parts & {"disagreement", "per_image"} else None
    if parts & {"per_draw", "split", "growth"}:
        timed = _timed(args, device, labelled)
        subjects["draws are timed with"] = timed.name
        _time_draws(args, timed, steps, findings)
    if labelled and parts & {"disagreement", "per_image"}:
        subjects["images are certified with"] = labelled.name
        _certify_images(args, labelled, steps, findings)
    if "memory" in parts:
        findings.add(memory(device, draws=args.memory_draws, pixels=16))
    for name, value in subjects.items():
        print(f"{name} {value}")
    taken = round(time.perf_counter() - start)
    ended = time.strftime("%Y-%m-%d", time.gmtime())
    provenance = describe(device) | {"toolbox": art_version(), "seconds": taken, "finished": ended}
    _write(args, subjects, findings, provenance)
    return findings.rows


def _time_draws(args: argparse.Namespace, timed: Subject, steps: Steps, findings: Findings) -> None:
    voters, found = prepare(timed, steps, "to time draws", every="per_draw" in args.parts)
    findings.add(found)
    if "per_draw" in args.parts:
        findings.add(per_draw(timed, voters, n=args.draws, rounds=args.rounds))
    fastest = list(voters.values())[-1]
    if "split" in args.parts:
        findings.add(split(timed, fastest, draws=args.draws, rounds=args.rounds))
    if "growth" in args.parts:
        axes = {name: getattr(args, f"growth_{name}") for name in ("draws", "images", "sizes", "sigmas")}
        few, (fast, _) = timed.repeated(max(4, fastest.units)), steps[list(voters)[-1]]
        findings.add(growth(few, fastest, fast, n=min(500, args.draws), rounds=args.rounds, **axes))


def _certify_images(args: argparse.Namespace, labelled: Subject, steps: Steps, findings: Findings) -> None:
    voters, found = prepare(labelled, steps, "to certify", every="disagreement" in args.parts)
    findings.add(found)
    if "disagreement" in args.parts:
        findings.add(disagree(labelled, voters, draws=20 * args.draws))
    if "per_image" in args.parts:
        radii = args.radii or [labelled.sigma * share for share in (0.5, 1.0, 1.5, 2.0)]
        settings = {name: getattr(args, name) for name in ("n", "draws", "rounds", "compare", "full")}
        findings.add(per_image(labelled, list(voters.values())[-1], radii=radii, **settings))


def _labelled(args: argparse.Namespace, device: torch.device) -> Subject:
    settings = _settings(args) | {"images": args.images}
    if args.data:
        return labelled_images(args.data, args.checkpoint, device, sigma=args.sigma or 0.5, **settings)
    return digits(device, sigma=args.sigma or 0.25, epochs=args.epochs, **settings)


def _timed(args: argparse.Namespace, device: torch.device, labelled: Subject | None) -> Subject:
    images = args.together or max(8, images_together((3, 32, 32), device, args.engine_batch))
    if labelled and args.data and not args.model:
        return labelled.repeated(images)
    settings = _settings(args) | {"images": images, "sigma": args.sigma or 0.5}
    if args.model:
        return untrained(args.model, device, **settings)
    return shipped(args.checkpoint, device, **settings)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("seed", "n0", "alpha", "batch", "engine_batch")}


def _write(
    args: argparse.Namespace, subjects: dict[str, str], findings: Findings, provenance: dict[str, object]
) -> None:
    rows, out = findings.rows, args.out
    record = {"options": _record(args), "subjects": subjects, "remarks": findings.remarks}
    replace_json(
        out / "bench.json", record | {"provenance": provenance, "rows": [asdict(row) for row in rows]}
    )
    replace_text(out / "bench.csv", frame(rows).to_csv(index=False, lineterminator="\n"))
    told = [f"{name} {value}" for name, value in subjects.items()] + findings.remarks
    tables = [table(rows, part) for part in dict.fromkeys(row.part for row in rows)]
    replace_text(out / "bench.md", "\n\n".join(told + tables) + "\n")
    if page := figure(rows):
        replace_bytes(out / "bench.png", png(page, dpi=200))
    print(f"{provenance['seconds']} s; bench.json, .csv, .md and .png are in {out}")
    print(*judged(args.last, record | {"provenance": provenance}, frame(rows), least=args.least), sep="\n")


def _record(args: argparse.Namespace) -> dict[str, Any]:
    # names of files and folders without parent folders, which mean nothing elsewhere
    named = {"checkpoint": args.checkpoint.name, "out": args.out.name, "last": args.last.name}
    kind, colon, path = args.data.partition(":")
    return vars(args) | named | {"data": f"{kind}{colon}{Path(path).name}"}


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.certify", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--short", action="store_true", help="everything in small: under 10 minutes on two CPU cores")
    add("--parts", type=_names, default=list(PARTS), help=f"of {','.join(PARTS)} (all)")
    add("--data", default="", help="images to certify, folder:PATH or another data set (the embedded digits)")
    add(
        "--checkpoint", type=Path, default=SHIPPED, help="the network (a shipped one for CIFAR-10, sigma 0.5)"
    )
    add("--model", choices=list(MODELS), help="time draws of an untrained network instead")
    add("--sigma", type=float, help="of the noise (0.5; 0.25 for the digits)")
    add("--n0", type=int, default=100, help="draws to guess the class (%(default)s)")
    add("--n", type=int, default=100_000, help="draws for an image's certificate (%(default)s)")
    add("--alpha", type=float, default=0.001, help="failure probability of a certificate (%(default)s)")
    add("--radii", type=_numbers, help="radii of interest (1/2, 1, 3/2, 2 sigma)")
    add("--images", type=int, default=100, help="images under early stopping (%(default)s)")
    add("--compare", type=int, default=30, help="of them with every draw, too (%(default)s)")
    add("--full", type=int, default=2, help="of them by the baselines with all n draws (%(default)s)")
    add("--draws", type=int, default=2000, help="draws an image where a draw is timed (%(default)s)")
    add("--rounds", type=int, default=5, help="rounds of a measurement (%(default)s)")
    add("--together", type=int, help="images in a call where a draw is timed (8, or what fills a GPU)")
    add("--batch", type=int, default=400, help="noisy images a pass of the baselines (%(default)s)")
    add("--engine-batch", type=int, help="noisy images a pass of the engine (as suits the device)")
    add("--epochs", type=int, default=12, help="of training on the digits (%(default)s)")
    add(
        "--growth-draws",
        type=_whole,
        default=[1000, 3000, 10_000],
        help="n, where cost against n is measured",
    )
    add("--growth-images", type=_whole, default=[1, 4, 16, 64], help="numbers of images, likewise")
    add("--growth-sizes", type=_whole, default=[16, 32, 64], help="pixels a side, likewise")
    add("--growth-sigmas", type=_whole, default=[1, 2, 4], help="numbers of noise levels, likewise")
    add("--memory-draws", type=_whole, default=[1000, 10_000, 100_000], help="n, where memory is measured")
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    add("--no-compile", dest="compile", action="store_false", help="leave the compiled step out")
    add("--seed", type=int, default=0)
    add("--last", type=Path, default=LAST, help="folder of the tables to compare with (data/benchmarks)")
    add("--least", type=float, default=0.8, help="share of a ratio there that is no loss (%(default)s)")
    add("--out", type=Path, default=Path("runs/bench"), help="folder for the results (%(default)s)")
    if parser.parse_known_args(argv)[0].short:
        parser.set_defaults(**SHORT)
    return parser.parse_args(argv)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(PARTS)):
        raise argparse.ArgumentTypeError(f"got {', '.join(unknown)}; wanted some of {', '.join(PARTS)}")
    return names


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _whole(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
