"""`python -m benchmarks.gpu.trunk --data folder:PATH`: experts with one trunk, as long as several take.

The four experts of `benchmarks.gpu.experts` were trained one after the other. Here they have their kernels in
common, and BatchNorm and the last layer each for itself; all are trained at once, by consistency, for as long
as the four took. They are kept as ordinary networks and certified on every tenth test image. A second call
into the same folder goes on where the first one ended.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.from_start import Each, Experts, Together
from benchmarks.gpu import certifying
from benchmarks.gpu.certifying import SEED, STRENGTH, fresh, keep, loaded, sampling, split, tables
from benchmarks.gpu.stage import Clock, parser, parts, stage
from benchmarks.gpu.trainer import Recipe
from dualrs_lab.data import Images
from dualrs_lab.models import Classifier, load_checkpoint
from dualrs_lab.runtime import pick_device
from dualrs_lab.training import Consistency, accuracy

__all__ = ["FULL", "KIND", "SIGMAS", "TOY", "Run", "Size", "Trunk", "main"]

SIGMAS = tuple(sorted(STRENGTH))
KIND = "one trunk"


@dataclass(frozen=True, kw_only=True)
class Size(certifying.Size):
    """How much of everything, where time does not say less."""

    seconds: float  # of training, capture included


FULL = Size(
    network="wide_start", recipe=Recipe(), steps=100_000, pace=20, n=10_000, skips=(40, 20, 10), begin=1.5,
    board=4, seconds=345,  # 84 to 88 each
)  # fmt: skip
TOY = Size(
    network="digits_narrow", recipe=Recipe(batch=64, lr=0.1, crop=1, flip=False, statistics=5), steps=12,
    pace=1, n=200, skips=(100, 50), begin=0.3, board=1, seconds=20,
)  # fmt: skip


class Trunk(Together):
    """All experts under their own noise, each by consistency over two draws (Jeong & Shin 2020)."""

    def __init__(self, model: Experts, images: Images, recipe: Recipe, say: Callable[[str], None]) -> None:
        super().__init__(model, images, Each(sigmas=SIGMAS), recipe, say)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        members = cast(nn.ModuleList, self.model.members)
        losses = []
        for sigma, member in zip(SIGMAS, members, strict=True):
            strength = cast(float, STRENGTH[sigma] * self.ramp)
            losses.append(Consistency(sigma=sigma, strength=strength)(member, x, y, self.generator))
        return torch.stack(losses).sum()


@dataclass(frozen=True, kw_only=True)
class Run(certifying.Run):
    """What all parts share."""

    size: Size

    def after(self) -> float:
        """Seconds that the tables want."""
        begin = self.size.begin * len(self.size.skips)
        return len(SIGMAS) * (1.2 * self.vote_seconds(self.size.skips[-1]) + begin) + self.size.board

    def missing(self) -> list[float]:
        """Noise levels without an expert."""
        return [sigma for sigma in SIGMAS if not self.checkpoint(sigma).exists()]

    def experts(self) -> dict[float, nn.Module]:
        """Those that are there, as they are kept."""
        there = [sigma for sigma in SIGMAS if sigma not in self.missing()]
        return {sigma: load_checkpoint(self.checkpoint(sigma), device=self.device)[0] for sigma in there}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; 0 if nothing failed."""
    return stage("trunk", work, parser(__doc__ or "", minutes=8.5).parse_args(argv))


def work(arguments: argparse.Namespace, clock: Clock, out: Path) -> None:
    """Train all experts, then certify them as far as time goes."""
    size, device = TOY if arguments.toy else FULL, pick_device(arguments.device)
    everything, test = loaded(arguments, clock)
    how = sampling(fresh(everything, size.network).to(device), test, clock)
    run = Run(
        size=size, clock=clock, out=out, device=device, everything=everything, test=test, sampling=how,
        kind=KIND,
    )  # fmt: skip
    ahead = {
        "training": (0.0 if not run.missing() else 2 * size.board, lambda: train(run)),
        "tables": (size.board, lambda: tables(run, run.experts(), size.skips)),
    }
    parts(clock, ahead)
    if missing := run.missing():
        raise RuntimeError(f"no expert for σ = {missing}")


def train(run: Run) -> None:
    """All experts, unless they are there: for the time that is meant for it, or half of what is left."""
    if not run.missing():
        run.clock.say("all experts are there")
        return
    size, say, (trained, held) = run.size, run.clock.say, split(run.everything)
    images, others = run.everything.select(trained), run.everything.select(held)
    start = Experts(partial(fresh, images, size.network), len(SIGMAS), trunk=True).to(run.device)
    torch.backends.cudnn.benchmark = True
    trainer = Trunk(start, images, size.recipe, say)
    begin, whole = run.clock.passed(), trainer.capture()
    seconds = min(size.seconds, max(run.clock.left() - run.after(), run.clock.left() / 2))
    limits: dict[str, Any] = {"steps": size.steps, "pace": size.pace, "seed": SEED}
    left = seconds - (run.clock.passed() - begin)
    model, how = trainer.within(max(left, 0.1), cast(Classifier, start), **limits)
    torch.backends.cudnn.benchmark = False
    say(f"{how['steps']} steps, {how['epochs']:.1f} epochs of all experts at once, graph: {whole}")
    for sigma, member in zip(SIGMAS, cast(nn.ModuleList, model.members), strict=True):
        expert = cast(Classifier, member)
        told = how | {"objective": {"name": "Consistency", "sigma": sigma, "strength": STRENGTH[sigma]}}
        told |= {"graph": whole, "trunk": [*SIGMAS]}
        told |= {"held_out_accuracy": accuracy(expert, others, sigma=sigma, seed=SEED)}
        keep(run.checkpoint(sigma), expert, images, sigma, told)
        say(f"σ = {sigma:g}: right on held-out images, one draw each: {told['held_out_accuracy']:.3f}")


if __name__ == "__main__":
    sys.exit(main())
