"""`python -m benchmarks.gpu.between --data folder:PATH`: an expert for a level between those of the others.

It goes on by CAT-RS from the shipped expert for σ = 0.5, for longer than `benchmarks.between` can on a CPU.
Then it votes about the held-out training images, told apart by how sure it is, and is certified on every
tenth test image, as far as time goes. A second call into the same folder goes on where the first one ended.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.between import LEVEL, STARTS
from benchmarks.dial import BETWEEN, CAT_RS, network_of
from benchmarks.gpu import recipes, silent
from benchmarks.gpu.certifying import fresh, keep, loaded, sampling, split, tables
from benchmarks.gpu.stage import Clock, parser, parts, stage
from benchmarks.gpu.trainer import Recipe
from benchmarks.silent_votes import CONFIDENCES
from dualrs_lab.models import Classifier, Graded, load_checkpoint
from dualrs_lab.runtime import pick_device

__all__ = ["BEGUN", "FULL", "TOY", "Run", "main"]

BEGUN = network_of(STARTS[0], CAT_RS)


# `trial` is seconds of training.
FULL = recipes.Size(
    network="wide_start", recipe=Recipe(lr=0.05), steps=20_000, pace=20, n=10_000, skips=(40, 20, 10),
    begin=1.5, board=2, judged=LEVEL, trial=120, counts=8, threshold=0.4, judge=1000, draws=2000,
    more=(100_000, 50),
)  # fmt: skip
TOY = recipes.Size(
    network="digits_narrow", recipe=Recipe(batch=64, lr=0.1, crop=1, flip=False, statistics=5), steps=12,
    pace=1, n=200, skips=(100, 50), begin=0.3, board=0.5, judged=LEVEL, trial=2, counts=4, threshold=0.0,
    judge=50, draws=50, more=(300, 250),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run(recipes.Run):
    """What all parts share; training goes on from the neighbour, if there is a folder to go on from."""

    def start(self, sigma: float) -> Classifier:
        if self.begun is None:
            return super().start(sigma)
        return load_checkpoint(self.begun / BEGUN.name, device=self.device)[0]


def main(argv: list[str] | None = None) -> int:
    """Run the stage; 0 if nothing failed."""
    return stage("between", work, parser(__doc__ or "", minutes=4).parse_args(argv))


def work(arguments: argparse.Namespace, clock: Clock, out: Path) -> None:
    """Train, vote, certify: each as far as time goes."""
    size, device = TOY if arguments.toy else FULL, pick_device(arguments.device)
    everything, test = loaded(arguments, clock)
    how = sampling(Graded(fresh(everything, size.network).to(device), CONFIDENCES), test, clock)
    about = {
        "size": size, "clock": clock, "out": out, "device": device, "everything": everything, "test": test,
        "sampling": how, "kind": BETWEEN,
    }  # fmt: skip
    path = out / network_of(LEVEL, BETWEEN).name.replace(
        "cifar10_jpeg_wide_start", f"{test.title}_{size.network}"
    )
    told = silent.Run(**about, networks={LEVEL: path})  # type: ignore[arg-type]
    trainer = Run(**about, begun=None if arguments.toy else BEGUN.parent)  # type: ignore[arg-type]
    ahead = {
        "training": (2 * size.board, lambda: train(trainer, path)),
        "votes": (told.counting, lambda: silent.votes(told)),
        "tables": (size.board, lambda: tables(told, told.experts, size.skips)),
    }
    parts(clock, ahead)
    if not path.exists():
        raise RuntimeError(f"no expert for σ = {LEVEL:g}")


def train(run: Run, path: Path) -> None:
    """The expert, unless it is there: for the time that is meant for it, or half of what is left."""
    if path.exists():
        run.clock.say(f"{path.name} is there")
        return
    torch.backends.cudnn.benchmark = True
    model, how = recipes.taught(run, CAT_RS, LEVEL, min(run.size.trial, run.clock.left() / 2))
    torch.backends.cudnn.benchmark = False
    how |= {"start": BEGUN.name if run.begun else "fresh"}
    keep(path, model, run.everything.select(split(run.everything)[0]), LEVEL, how)
    found = recipes.ideal_curve(run, model, LEVEL)
    run.clock.say(f"σ = {LEVEL:g}: {how['steps']} steps, {how['epochs']:.1f} epochs, {found}")


if __name__ == "__main__":
    sys.exit(main())
