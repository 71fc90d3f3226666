"""`python -m benchmarks.gpu.experts --data folder:PATH`: experts at four noise levels within minutes.

Trains a network of at most 2 M parameters for each of σ = 0.12, 0.25, 0.5, 1.0 by consistency (Jeong & Shin
2020), certifies them on every tenth test image, and counts their votes about training images, from which a
router or combiner learns. What was measured decides how many steps, images and labels the minutes hold; a
second call into the same folder goes on where the first one ended.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor

from benchmarks.gpu import certifying
from benchmarks.gpu.certifying import (
    ALPHA,
    HOLD,
    RADII,
    SEED,
    STRENGTH,
    Sampling,
    fresh,
    keep,
    loaded,
    more,
    paced,
    sampling,
    show,
    split,
    tables,
)
from benchmarks.gpu.stage import Clock, parser, parts, stage
from benchmarks.gpu.trainer import Consistent, Recipe
from dualrs_lab.cascade import Cascade, from_tables
from dualrs_lab.data import Images
from dualrs_lab.dual import compare, curves
from dualrs_lab.evidence import read_table
from dualrs_lab.files import replace_bytes, replace_json
from dualrs_lab.models import Classifier, fingerprint, load_checkpoint
from dualrs_lab.runtime import describe, pick_device
from dualrs_lab.smoothing import BLOCK, GridNoise, count_images, freeze
from dualrs_lab.store import plain
from dualrs_lab.training import accuracy

__all__ = [
    "ALPHA", "FULL", "HOLD", "SEED", "SIGMAS", "TOY", "Size", "board", "compare_all", "count_labels", "main",
    "split",
]  # fmt: skip

SIGMAS = tuple(sorted(STRENGTH))


@dataclass(frozen=True, kw_only=True)
class Size(certifying.Size):
    """How much of everything, where time does not say less."""

    more: tuple[int, int]  # (n, skip) of a last wave
    labels: int  # training images that the plan counts on; five times as many if time is left
    draws: int  # of each expert about each of them


FULL = Size(
    network="wide_start", recipe=Recipe(), steps=20_000, pace=30,
    n=10_000, skips=(40, 20, 10), more=(100_000, 50), labels=10_000, draws=200, begin=1.5, board=20,
)  # fmt: skip
TOY = Size(
    network="digits_narrow", recipe=Recipe(batch=64, lr=0.1, crop=1, flip=False, statistics=5),
    steps=20, pace=1, n=200, skips=(100, 50), more=(300, 250), labels=5, draws=100, begin=0.3, board=3,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run(certifying.Run):
    """What all parts share."""

    size: Size

    def after(self) -> float:
        """Seconds that tables, labels and the comparison want."""
        votes = self.tested(self.size.skips[-1]) * (self.size.n + BLOCK) + self.size.labels * self.size.draws
        begin = self.size.begin * (len(self.size.skips) + 1)
        return len(SIGMAS) * (1.2 * votes * self.sampling.seconds + begin) + self.size.board

    def experts(self) -> dict[float, Classifier]:
        """Those that are there, as they are kept."""
        there = [sigma for sigma in SIGMAS if self.checkpoint(sigma).exists()]
        return {sigma: load_checkpoint(self.checkpoint(sigma), device=self.device)[0] for sigma in there}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; 0 if nothing failed."""
    return stage("experts", work, parser(__doc__ or "", minutes=7).parse_args(argv))


def work(arguments: argparse.Namespace, clock: Clock, out: Path) -> None:
    """Train, certify, label, compare: each as far as time goes."""
    size, device = TOY if arguments.toy else FULL, pick_device(arguments.device)
    everything, test = loaded(arguments, clock)
    start = fresh(everything, size.network).to(device)
    run = Run(
        size=size, clock=clock, out=out, device=device, everything=everything, test=test,
        sampling=sampling(start, test, clock),
    )  # fmt: skip
    train(run, start)
    experts = run.experts()
    ahead = {
        "tables": (size.board, lambda: tables(run, experts, size.skips)),
        "labels": (size.board, lambda: labels(run, experts)),
        "more draws": (size.board, lambda: more(run, experts, *size.more, after=size.board)),
        "board": (size.board / 4, lambda: compare_all(run)),
    }
    parts(clock, ahead)
    if missing := set(SIGMAS) - set(experts):
        raise RuntimeError(f"no expert for σ = {sorted(missing)}")


def train(run: Run, start: Classifier) -> None:
    """The experts that are missing, each saved as it is done; all get the same share of the time."""
    missing = [sigma for sigma in STRENGTH if not run.checkpoint(sigma).exists()]
    if not missing:
        run.clock.say("all experts are there")
        return
    size, say, (trained, held) = run.size, run.clock.say, split(run.everything)
    images, others = run.everything.select(trained), run.everything.select(held)
    torch.backends.cudnn.benchmark = True
    trainer = Consistent(start, images, size.recipe, say)
    told = paced(trainer, size, say, copies=2)
    share = max(0.5 * run.clock.left(), run.clock.left() - run.after())
    end = run.clock.left() - share
    say(f"{share:.0f} s for training, {run.after():.0f} s wanted afterwards")
    for number, sigma in enumerate(missing):
        try:
            seconds = (run.clock.left() - end) / (len(missing) - number)
            knobs = {"sigma": sigma, "strength": STRENGTH[sigma]}
            limits = {"steps": size.steps, "pace": size.pace, "seed": SEED}
            model, how = trainer.within(seconds, start, **limits, **knobs)
        except Exception as error:  # the others go on
            say(f"σ = {sigma:g}: no expert, {type(error).__name__}: {error}")
            continue
        objective = {"name": "Consistency", "sigma": sigma, "strength": STRENGTH[sigma], "draws": 2}
        how |= told | {"objective": objective}
        how |= {"held_out_accuracy": accuracy(model, others, sigma=sigma, seed=SEED)}
        keep(run.checkpoint(sigma), model, images, sigma, how)
        say(f"σ = {sigma:g}: {how['steps']} steps, {how['epochs']:.1f} epochs")
        say(f"σ = {sigma:g}: right on held-out images, one draw each: {how['held_out_accuracy']:.3f}")
    torch.backends.cudnn.benchmark = False


def labels(run: Run, experts: Mapping[float, Classifier]) -> None:
    """Votes about held-out images, and about as many of the others as time allows, in a random order."""
    trained, held = split(run.everything)
    order = torch.randperm(len(trained), generator=torch.Generator().manual_seed(SEED))
    each = len(experts) * run.size.draws * 1.2 * run.sampling.seconds
    for what, index in (("held_out", held), ("trained", trained[order][: 5 * run.size.labels])):
        path = run.out / f"{run.test.title}_{run.size.network}_votes_{what}.safetensors"
        if path.exists():
            continue
        found = count_labels(
            experts,
            run.everything,
            index,
            path,
            draws=run.size.draws,
            sampling=run.sampling,
            enough=lambda images: run.clock.enough(run.size.board + images * each),
        )
        run.clock.say(f"labels, {what}: {found} images, {run.size.draws} draws of each expert")


def count_labels(
    experts: Mapping[float, Classifier],
    images: Images,
    index: Tensor,
    path: Path,
    *,
    draws: int,
    sampling: Sampling,
    enough: Callable[[int], bool],
) -> int:
    """Write what `smoothing.label_votes` of the images at `index` would, which takes the file for its own.

    Beside `votes` are `counts` (N, K, C) of all classes, and `index`. Counts some hundred images at a time
    while there is time `enough` for so many, and returns how many there are.
    """
    device = next(next(iter(experts.values())).parameters()).device
    how = {"classes": len(images.classes), "device": device, "dtype": sampling.dtype, "fast": sampling.fast}
    voters = [freeze(model, GridNoise(sigma), images.shape, **how) for sigma, model in experts.items()]
    counted: list[Tensor] = []
    for part in index.split(500):
        if not enough(len(part)):
            break
        some, settings = images.select(part), {"n": draws, "seed": SEED, "stream": "labels", "device": device}
        each = [torch.from_numpy(count_images(voter, some, **settings)) for voter in voters]
        counted.append(torch.stack(each, dim=1))
    if not counted:
        return 0
    counts = torch.cat(counted)
    index = index[: len(counts)]
    chosen = images.select(index)
    own = chosen.labels.cpu().view(-1, 1, 1).expand(-1, len(voters), 1)
    identity = {
        "experts": [fingerprint(model) for model in experts.values()],
        "images": chosen.fingerprint(),
        "sigmas": list(experts),
        "n": draws,
        "seed": SEED,
        "dtype": str(sampling.dtype).removeprefix("torch."),
    }
    record = {"identity": plain(identity), "fast": [voter.steps for voter in voters]}
    replace_json(path.with_suffix(".json"), record | {"provenance": describe(device)})
    votes = {"votes": counts.gather(2, own).squeeze(2), "counts": counts, "index": index}
    replace_bytes(path, save({name: tensor.to(torch.int32) for name, tensor in votes.items()}))
    return len(counts)


def compare_all(run: certifying.Run) -> None:
    """Print and write the comparison of all tables that are there."""
    files = {sigma: run.table(sigma, run.size.n) for sigma in SIGMAS}
    show(run, board({sigma: read_table(path) for sigma, path in files.items() if path.exists()}))


def board(tables: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    """Certified accuracy and mean radius of experts, oracle and envelope by both rules, and of cascades."""
    order = tuple(sorted(tables, reverse=True))
    dials = {
        f"cascade, routed, t = {limit:g}": Cascade(order, (limit,) + (0.0,) * (len(order) - 1))
        for limit in (0.15, 0.3)
    }
    others = {name: from_tables(tables, cascade=dial, alpha=ALPHA) for name, dial in dials.items()}
    return curves(compare(tables, others=others), RADII).rename_axis("rule")


if __name__ == "__main__":
    sys.exit(main())
