"""`python -m benchmarks.gpu.experts --data folder:PATH`: experts at four noise levels within minutes.

Trains a network of at most 2 M parameters for each of σ = 0.12, 0.25, 0.5, 1.0 by consistency (Jeong & Shin
2020), certifies them on every tenth test image, and counts their votes about training images, from which a
router or combiner learns. What was measured decides how many steps, images and labels the minutes hold; a
second call into the same folder goes on where the first one ended.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor

from benchmarks.gpu.stage import Clock, halve, parser, parts, stage
from benchmarks.gpu.trainer import Consistent, Recipe
from dualrs_lab.cascade import Cascade, from_tables
from dualrs_lab.data import Images, load_images
from dualrs_lab.dual import compare, curves
from dualrs_lab.evidence import read_table
from dualrs_lab.files import replace_bytes, replace_json, replace_text
from dualrs_lab.models import Classifier, fingerprint, load_checkpoint, make_model, save_checkpoint
from dualrs_lab.runtime import describe, pick_device
from dualrs_lab.smoothing import (
    BLOCK,
    FastPath,
    GridNoise,
    NoiseBlocks,
    Spec,
    certify,
    certify_table,
    count_images,
    flops,
    freeze,
)
from dualrs_lab.store import plain
from dualrs_lab.training import accuracy, channel_statistics

__all__ = ["FULL", "SIGMAS", "TOY", "Size", "board", "count_labels", "main", "split"]

STRENGTH = {0.25: 20.0, 0.5: 10.0, 1.0: 10.0, 0.12: 20.0}  # of consistency, as published; 0.12 as 0.25
SIGMAS = tuple(sorted(STRENGTH))
RADII = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0]
ALPHA, SEED, HOLD = 0.001, 0, 50  # every so many-th training image is never trained on


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything, where time does not say less."""

    network: str
    recipe: Recipe
    steps: int  # of each expert, at most
    pace: int  # steps on which the speed is measured
    n: int
    skips: tuple[int, ...]  # every so many-th test image, wave by wave; each holds the one before
    more: tuple[int, int]  # (n, skip) of a last wave
    labels: int  # training images that the plan counts on; five times as many if time is left
    draws: int  # of each expert about each of them
    begin: float  # seconds before the first draw of a table
    board: float  # seconds for the comparison, and for the end


FULL = Size(
    network="wide_start", recipe=Recipe(), steps=20_000, pace=30,
    n=10_000, skips=(40, 20, 10), more=(100_000, 50), labels=10_000, draws=200, begin=1.5, board=20,
)  # fmt: skip
TOY = Size(
    network="digits_narrow", recipe=Recipe(batch=64, lr=0.1, crop=1, flip=False, statistics=5),
    steps=20, pace=1, n=200, skips=(100, 50), more=(300, 250), labels=5, draws=100, begin=0.3, board=3,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How votes are sampled, and what one costs."""

    dtype: torch.dtype
    fast: FastPath
    seconds: float  # a vote


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all parts share."""

    size: Size
    clock: Clock
    out: Path
    device: torch.device
    everything: Images  # to train on and held out
    test: Images
    sampling: Sampling

    def stem(self, sigma: float) -> str:
        """What the files of an expert begin with."""
        return f"{self.test.title}_{self.size.network}_sigma{sigma:g}_seed{SEED}"

    def checkpoint(self, sigma: float) -> Path:
        """Where an expert is kept."""
        return self.out / f"{self.stem(sigma)}.safetensors"

    def table(self, sigma: float, n: int) -> Path:
        """Where its certificates are kept."""
        return self.out / f"{self.stem(sigma)}_smoothed{sigma:g}_n{n}.tsv"

    def tested(self, skip: int) -> int:
        """How many test images a wave holds."""
        return -(-len(self.test) // skip)

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
    data = arguments.data or ("digits" if arguments.toy else "cifar10")
    everything, test = load_images(data, "train"), load_images(data, "test")
    clock.say(f"{everything} and {test}; every {HOLD}th training image is held out")
    fresh = _fresh(everything, size.network).to(device)
    sampling = _sampling(fresh, test, clock)
    run = Run(
        size=size, clock=clock, out=out, device=device, everything=everything, test=test, sampling=sampling
    )
    train(run, fresh)
    experts = run.experts()
    ahead = {
        "tables": (size.board, lambda: tables(run, experts)),
        "labels": (size.board, lambda: labels(run, experts)),
        "more draws": (size.board, lambda: more(run, experts)),
        "board": (size.board / 4, lambda: compare_all(run)),
    }
    parts(clock, ahead)
    if missing := set(SIGMAS) - set(experts):
        raise RuntimeError(f"no expert for σ = {sorted(missing)}")


def split(images: Images) -> tuple[Tensor, Tensor]:
    """Numbers of the images to train on, and of those that are held out."""
    held = torch.arange(len(images)) % HOLD == HOLD - 1
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


def _fresh(images: Images, network: str) -> Classifier:
    mean, std = channel_statistics(images)
    shape = {"classes": len(images.classes), "channels": images.shape[0]}
    return make_model(network, **shape, mean=mean, std=std, seed=SEED)


def _sampling(model: Classifier, images: Images, clock: Clock) -> Sampling:
    """The first way of sampling that works here, and what a vote costs by it; what does not is said."""
    cuda = next(model.parameters()).is_cuda
    low = torch.bfloat16 if cuda else torch.float32
    quick, plainest = FastPath(compile=False, cuda_graph=cuda), FastPath.plain()
    for dtype, fast in ((low, quick), (low, plainest), (torch.float32, plainest)):
        try:
            seconds = _vote_seconds(model, images, dtype, fast)
        except Exception as error:  # drivers raise what they like
            clock.say(f"sampling with {fast.steps(dtype)} fails: {type(error).__name__}: {error}")
            continue
        speed = flops(model, images.shape) / seconds / 1e12
        clock.say(f"sampling with {fast.steps(dtype)}: {1 / seconds:.0f} votes a second, {speed:.1f} TFLOP/s")
        return Sampling(dtype=dtype, fast=fast, seconds=seconds)
    raise RuntimeError("no way of sampling works on this device")


def _vote_seconds(model: Classifier, images: Images, dtype: torch.dtype, fast: FastPath) -> float:
    device, noise = next(model.parameters()).device, GridNoise(0.5)
    classes = len(images.classes)
    voter = freeze(model, noise, images.shape, classes=classes, device=device, dtype=dtype, fast=fast)
    x = images.batch(torch.arange(voter.units) % len(images))[0].to(device)
    certify(voter, x[:2], classes=classes, spec=Spec(noise=noise, seed=SEED, n=BLOCK))  # the engine as well
    blocks = NoiseBlocks(noise, images.shape, seed=SEED, stream="pace", device=device)
    with torch.inference_mode():
        several = blocks.stack([0] * voter.units)
        voter(x, several).sum().item()
        begin = time.perf_counter()
        for _ in range(5):
            votes = voter(x, several)
        votes.sum().item()
    return (time.perf_counter() - begin) / (5 * BLOCK * voter.units)


def train(run: Run, fresh: Classifier) -> None:
    """The experts that are missing, each saved as it is done; all get the same share of the time."""
    missing = [sigma for sigma in STRENGTH if not run.checkpoint(sigma).exists()]
    if not missing:
        run.clock.say("all experts are there")
        return
    size, say, (trained, held) = run.size, run.clock.say, split(run.everything)
    images, others = run.everything.select(trained), run.everything.select(held)
    torch.backends.cudnn.benchmark = True
    trainer = Consistent(fresh, images, size.recipe, say)
    told = {"graph": trainer.capture(), "step_seconds": trainer.pace(size.pace)}
    speed = size.recipe.batch / told["step_seconds"]
    arithmetic = 6 * speed * flops(fresh, images.shape) / 1e12  # two copies; backward is twice forward
    say(
        f"{1e3 * told['step_seconds']:.2f} ms a step of {size.recipe.batch} images, {speed:.0f} images a "
        f"second, {arithmetic:.0f} TFLOP/s, graph: {told['graph']}"
    )
    share = max(0.5 * run.clock.left(), run.clock.left() - run.after())
    end = run.clock.left() - share
    say(f"{share:.0f} s for training, {run.after():.0f} s wanted afterwards")
    for number, sigma in enumerate(missing):
        try:
            seconds = (run.clock.left() - end) / (len(missing) - number)
            knobs = {"sigma": sigma, "strength": STRENGTH[sigma]}
            limits = {"steps": size.steps, "pace": size.pace, "seed": SEED}
            model, how = trainer.within(seconds, fresh, **limits, **knobs)
        except Exception as error:  # the others go on
            say(f"σ = {sigma:g}: no expert, {type(error).__name__}: {error}")
            continue
        objective = {"name": "Consistency", "sigma": sigma, "strength": STRENGTH[sigma], "draws": 2}
        how |= told | {"objective": objective}
        how |= {"held_out_accuracy": accuracy(model, others, sigma=sigma, seed=SEED)}
        _keep(run.checkpoint(sigma), model, images, sigma, how)
        say(f"σ = {sigma:g}: {how['steps']} steps, {how['epochs']:.1f} epochs")
        say(f"σ = {sigma:g}: right on held-out images, one draw each: {how['held_out_accuracy']:.3f}")
    torch.backends.cudnn.benchmark = False


def _keep(path: Path, model: Classifier, images: Images, sigma: float, how: Mapping[str, Any]) -> None:
    data = {
        "name": images.title, "split": images.split, "classes": list(images.classes),
        "shape": list(images.shape), "held_out": f"every {HOLD}th",
    }  # fmt: skip
    training = {key: value for key, value in how.items() if key != "history"}
    told = {"history": how["history"], "provenance": describe(next(model.parameters()).device)}
    save_checkpoint(path, model, data=data, sigma=sigma, training=training, **told)
    halve(path)


def tables(run: Run, experts: Mapping[float, Classifier]) -> None:
    """Wave by wave through the test images, so that a shortage of time costs images and no noise level."""
    seconds, done = run.sampling.seconds, 0
    for skip in run.size.skips:
        for sigma, model in experts.items():
            votes = (run.tested(skip) - done) * (run.size.n + BLOCK)
            need = 1.05 * votes * seconds + run.size.begin + run.size.board
            if not run.clock.enough(need):
                run.clock.say(
                    f"σ = {sigma:g}: {run.tested(skip)} images are left out, they need {need:.0f} s"
                )
                continue
            begin = time.perf_counter()
            table = certified(run, model, sigma, run.size.n, skip)
            took, right = time.perf_counter() - begin, (table["correct"] == 1).mean()
            seconds = max(seconds, (took - run.size.begin) / votes)
            run.clock.say(f"σ = {sigma:g}: {len(table)} images, {took:.1f} s, certified right {right:.3f}")
        done = run.tested(skip)


def more(run: Run, experts: Mapping[float, Classifier]) -> None:
    """More draws about fewer images, as far as time goes."""
    n, skip = run.size.more
    for sigma, model in experts.items():
        need = 1.2 * run.tested(skip) * n * run.sampling.seconds + run.size.begin + run.size.board
        if run.clock.enough(need):
            certified(run, model, sigma, n, skip)
            run.clock.say(f"σ = {sigma:g}: {run.tested(skip)} images at n = {n}")
        else:
            run.clock.say(f"σ = {sigma:g}: n = {n} is left out, it needs {need:.0f} s")


def certified(run: Run, model: Classifier, sigma: float, n: int, skip: int) -> pd.DataFrame:
    """The table of an expert; if a quick way of sampling fails, by the plain network in its precision."""
    how, path = run.sampling, run.table(sigma, n)
    info = {"checkpoint": run.checkpoint(sigma).name, "trained_sigma": sigma}
    spec = Spec(noise=GridNoise(sigma), seed=SEED, n=n, alpha=ALPHA, dtype=how.dtype, fast=how.fast)
    try:
        return certify_table(model, run.test, path, spec=spec, skip=skip, progress=False, info=info)
    except Exception as error:  # drivers raise what they like
        run.clock.say(f"{path.name}: {type(error).__name__}: {error}; once more with the plain network")
        spec = replace(spec, fast=FastPath.plain())
        return certify_table(
            model, run.test, path, spec=spec, skip=skip, replace=True, progress=False, info=info
        )


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


def compare_all(run: Run) -> None:
    """Print and write the comparison of all tables that are there."""
    files = {sigma: run.table(sigma, run.size.n) for sigma in SIGMAS}
    found = board({sigma: read_table(path) for sigma, path in files.items() if path.exists()})
    replace_text(run.out / "board.csv", found.round(6).to_csv(lineterminator="\n"))
    print((100 * found).round(1).to_string(), flush=True)


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
