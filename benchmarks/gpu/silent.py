"""`python -m benchmarks.gpu.silent --data folder:PATH`: votes of the larger experts, told apart by how sure.

For cascades whose experts are silent where they are not sure (`benchmarks.silence`): the shipped networks by
CAT-RS, the one for a level between theirs, the means of both recipes, and those by consistency vote about the
held-out training images, from which a cascade learns, and are certified on every tenth test image, from which
it is certified; last come more draws of the first about fewer images. A second call into the same folder goes
on where the first one ended.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

from benchmarks.dial import BETWEEN, CAT_RS, CONSISTENCY, SOUP, network_of
from benchmarks.gpu import certifying
from benchmarks.gpu.certifying import SEED, fresh, loaded, more, sampling, split, tables
from benchmarks.gpu.stage import Clock, parser, parts, stage
from benchmarks.gpu.trainer import Recipe
from benchmarks.silence import SILENT, graded_name
from benchmarks.silent_votes import CONFIDENCES, votes_name
from dualrs_lab.data import Images
from dualrs_lab.models import Graded, load_checkpoint
from dualrs_lab.runtime import pick_device
from dualrs_lab.smoothing import FastPath, image_votes
from dualrs_lab.training import Gaussian, TrainConfig, train_checkpoint

__all__ = ["FULL", "SIGMAS", "TOY", "Run", "Size", "main"]

SIGMAS = {  # in order of worth
    CAT_RS: (0.5, 1.0, 0.25),
    BETWEEN: SILENT[BETWEEN][:1],
    SOUP: SILENT[SOUP],
    CONSISTENCY: (0.5, 1.0, 0.25, 0.12),
}


@dataclass(frozen=True, kw_only=True)
class Size(certifying.Size):
    """How much of everything, where time does not say less."""

    draws: int  # of each expert about each held-out image
    more: tuple[int, int]  # (n, skip) of a last wave


FULL = Size(
    network="wide_start", recipe=Recipe(), steps=0, pace=0, n=10_000, skips=(40, 20, 10), begin=1.5, board=2,
    draws=2000, more=(100_000, 50),
)  # fmt: skip
TOY = Size(
    network="digits_narrow", recipe=Recipe(batch=64, crop=1, flip=False), steps=1, pace=0, n=200,
    skips=(100, 50), begin=0.3, board=0.5, draws=50, more=(300, 250),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run(certifying.Run):
    """What the parts about networks of one kind share."""

    size: Size
    networks: Mapping[float, Path]

    @cached_property
    def experts(self) -> dict[float, Graded]:
        """The networks, as those whose votes are told apart."""
        found = {s: load_checkpoint(path, device=self.device)[0] for s, path in self.networks.items()}
        return {sigma: Graded(model, CONFIDENCES) for sigma, model in found.items()}

    @property
    def votes(self) -> Path:
        """Where votes about held-out images are kept."""
        return self.out / votes_name(next(iter(self.networks.values())))

    @property
    def counting(self) -> float:
        """Seconds that they want, unless they are there."""
        count = len(split(self.everything)[1]) * len(self.networks) * self.size.draws
        wanted = 1.1 * count * self.sampling.seconds + self.size.begin * len(self.networks)
        return self.size.board + (0.0 if self.votes.exists() else wanted)

    def checkpoint(self, sigma: float) -> Path:
        """Where a network is."""
        return self.networks[sigma]

    def table(self, sigma: float, n: int) -> Path:
        """Where its certificates are kept, as `benchmarks.silence` calls them."""
        return self.out / graded_name(self.networks[sigma], sigma, n)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; 0 if nothing failed."""
    return stage("silent", work, parser(__doc__ or "", minutes=2.5).parse_args(argv))


def work(arguments: argparse.Namespace, clock: Clock, out: Path) -> None:
    """Votes and tables of one kind of networks, then of the other, then more draws: as far as time goes."""
    size, device = TOY if arguments.toy else FULL, pick_device(arguments.device)
    everything, test = loaded(arguments, clock)
    like = Graded(fresh(everything, size.network).to(device), CONFIDENCES)
    how = sampling(like, test, clock)
    toys = out / "networks"
    best, *others = (
        Run(
            size=size, clock=clock, out=out, device=device, everything=everything, test=test, sampling=how,
            kind=kind,
            networks=_toys(kind, everything, toys, device) if arguments.toy else _networks(kind),
        )
        for kind in SIGMAS
    )  # fmt: skip
    last = {"margin": 1.1, "after": size.board}
    ahead = dict[str, tuple[float, Callable[[], None]]]()
    for run in (best, *others):
        ahead[f"votes, {run.kind}"] = (run.counting, partial(votes, run))
        ahead[f"tables, {run.kind}"] = (size.board, partial(_tables, run))
    ahead["more draws"] = (size.board, lambda: more(best, best.experts, *size.more, **last))
    parts(clock, ahead)


def _tables(run: Run) -> None:
    tables(run, run.experts, run.size.skips)


def votes(run: Run) -> None:
    """Votes about held-out images, as `smoothing.image_votes` keeps them."""
    held, size, how = run.everything.select(split(run.everything)[1]), run.size, run.sampling
    order = sorted(run.experts, reverse=True)
    experts = [run.experts[sigma] for sigma in order]

    def count(fast: FastPath, *, replace: bool = False) -> None:
        settings = {"sigmas": order, "n": size.draws, "seed": SEED, "dtype": how.dtype, "progress": False}
        image_votes(experts, held, run.votes, fast=fast, replace=replace, **settings)  # type: ignore[arg-type]

    try:
        count(how.fast)
    except Exception as error:  # drivers raise what they like
        run.clock.say(f"{run.votes.name}: {type(error).__name__}: {error}; once more with the plain networks")
        count(FastPath.plain(), replace=True)
    run.clock.say(f"{run.kind}: {len(held)} held-out images, {size.draws} draws of each expert")


def _networks(kind: str) -> dict[float, Path]:
    return {sigma: network_of(sigma, kind) for sigma in SIGMAS[kind]}


def _toys(kind: str, images: Images, folder: Path, device: torch.device) -> dict[float, Path]:
    # networks like these for small images, which are soon trained
    begin = f"{images.title}_{TOY.network}"
    made = {}
    for sigma, path in _networks(kind).items():
        made[sigma] = folder / path.name.replace("cifar10_jpeg_wide_start", begin)
        how = {
            "objective": Gaussian(sigma=sigma),
            "config": TrainConfig(epochs=4, seed=SEED, batch=64, lr=0.1, crop=1, flip=False),
        }
        train_checkpoint(
            made[sigma], lambda: fresh(images, TOY.network), images, device=device, progress=False, **how
        )  # type: ignore[arg-type]
    return made


if __name__ == "__main__":
    sys.exit(main())
