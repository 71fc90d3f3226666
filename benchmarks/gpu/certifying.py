"""What stages share that certify the networks they train: sampling, names of files, waves of images."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.gpu.stage import Clock, halve
from benchmarks.gpu.trainer import Recipe, Trainer
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import every_vote
from dualrs_lab.files import replace_text
from dualrs_lab.models import Classifier, kinds_of, make_model, save_checkpoint
from dualrs_lab.runtime import describe
from dualrs_lab.smoothing import (
    BLOCK,
    FastPath,
    GridNoise,
    NoiseBlocks,
    Spec,
    certify,
    certify_table,
    flops,
    freeze,
)
from dualrs_lab.training import channel_statistics

__all__ = [
    "ALPHA", "HOLD", "RADII", "SEED", "STRENGTH", "Run", "Sampling", "Size", "certified", "fresh", "keep",
    "loaded", "more", "named", "paced", "sampling", "show", "split", "tables",
]  # fmt: skip

STRENGTH = {0.25: 20.0, 0.5: 10.0, 1.0: 10.0, 0.12: 20.0}  # of consistency, as published; 0.12 as 0.25
RADII = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0]
ALPHA, SEED, HOLD = 0.001, 0, 50  # every so many-th training image is never trained on


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything, where time does not say less."""

    network: str
    recipe: Recipe
    steps: int  # of each training, at most
    pace: int  # steps on which the speed is measured
    n: int
    skips: tuple[int, ...]  # every so many-th test image, wave by wave; each holds the one before
    begin: float  # seconds before the first draw of a table
    board: float  # seconds for the comparison, and for the end


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How votes are sampled, and what one costs."""

    dtype: torch.dtype
    fast: FastPath
    seconds: float  # a vote


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all parts share; a `kind` tells networks for the same noise apart, in files and records."""

    size: Size
    clock: Clock
    out: Path
    device: torch.device
    everything: Images  # to train on and held out
    test: Images
    sampling: Sampling
    kind: str = ""

    def stem(self, sigma: float) -> str:
        """What the files of a network begin with."""
        kind = f"_{self.kind.replace(' ', '_')}" if self.kind else ""
        return f"{self.test.title}_{self.size.network}{kind}_sigma{sigma:g}_seed{SEED}"

    def checkpoint(self, sigma: float) -> Path:
        """Where a network is kept."""
        return self.out / f"{self.stem(sigma)}.safetensors"

    def table(self, sigma: float, n: int) -> Path:
        """Where its certificates are kept."""
        return self.out / f"{self.stem(sigma)}_smoothed{sigma:g}_n{n}.tsv"

    def about(self, sigma: float) -> dict[str, Any]:
        """What the records of its certificates say of it."""
        known = {"checkpoint": self.checkpoint(sigma).name, "trained_sigma": sigma}
        return known | ({"kind": self.kind} if self.kind else {})

    def tested(self, skip: int) -> int:
        """How many test images a wave holds."""
        return -(-len(self.test) // skip)

    def vote_seconds(self, skip: int) -> float:
        """Seconds that the votes about so many images want."""
        return self.tested(skip) * (self.size.n + BLOCK) * self.sampling.seconds


def split(images: Images) -> tuple[Tensor, Tensor]:
    """Numbers of the images to train on, and of those that are held out."""
    held = torch.arange(len(images)) % HOLD == HOLD - 1
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


def loaded(arguments: argparse.Namespace, clock: Clock) -> tuple[Images, Images]:
    """Images to train on and held out, and those to test on."""
    data = arguments.data or ("digits" if arguments.toy else "cifar10")
    everything, test = load_images(data, "train"), load_images(data, "test")
    clock.say(
        f"{len(everything)} training and {len(test)} test images of {test.title}; every {HOLD}th of the "
        "former is held out"
    )
    return everything, test


def fresh(images: Images, network: str) -> Classifier:
    """A network for `images`, as it is before training."""
    mean, std = channel_statistics(images)
    shape = {"classes": len(images.classes), "channels": images.shape[0]}
    return make_model(network, **shape, mean=mean, std=std, seed=SEED)


def sampling(model: nn.Module, images: Images, clock: Clock) -> Sampling:
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


def _vote_seconds(model: nn.Module, images: Images, dtype: torch.dtype, fast: FastPath) -> float:
    device, noise = next(model.parameters()).device, GridNoise(0.5)
    classes = kinds_of(model, len(images.classes))
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


def paced(trainer: Trainer, size: Size, say: Callable[[str], None], *, copies: int = 1) -> dict[str, Any]:
    """Capture the step and measure it; `copies` of a batch go through the network."""
    told = {"graph": trainer.capture(), "step_seconds": trainer.pace(size.pace)}
    speed = trainer.recipe.batch / told["step_seconds"]
    shape = (trainer.pixels.shape[3], *trainer.pixels.shape[1:3])
    arithmetic = 3 * copies * speed * flops(trainer.model, shape) / 1e12  # backward is twice forward
    say(
        f"{1e3 * told['step_seconds']:.2f} ms a step of {trainer.recipe.batch} images, {speed:.0f} images a "
        f"second, {arithmetic:.0f} TFLOP/s, graph: {told['graph']}"
    )
    return told


def keep(path: Path, model: Classifier, images: Images, sigma: float | None, how: Mapping[str, Any]) -> None:
    """Write a checkpoint in half precision, with what `images` and training were."""
    data = {
        "name": images.title, "split": images.split, "classes": list(images.classes),
        "shape": list(images.shape), "held_out": f"every {HOLD}th",
    }  # fmt: skip
    training = {key: value for key, value in how.items() if key != "history"}
    told = {"history": how["history"], "provenance": describe(next(model.parameters()).device)}
    save_checkpoint(path, model, data=data, sigma=sigma, training=training, **told)
    halve(path)


def tables(run: Run, models: Mapping[float, nn.Module], skips: Sequence[int]) -> None:
    """Wave by wave through the test images, so that a shortage of time costs images and no noise level.

    A table that fails stops no other. Raises RuntimeError at the end that names those that failed.
    """
    seconds, going = run.sampling.seconds, dict(models)
    done = {sigma: _rows(run.table(sigma, run.size.n)) for sigma in models}
    for skip in skips:
        for sigma, model in list(going.items()):
            votes = max(0, run.tested(skip) - done[sigma]) * (run.size.n + BLOCK)
            need = 1.05 * votes * seconds + run.size.begin + run.size.board
            if not run.clock.enough(need):
                run.clock.say(
                    f"{named(run, sigma)}: {run.tested(skip)} images are left out, they need {need:.0f} s"
                )
                continue
            begin = time.perf_counter()
            try:
                table = certified(run, model, sigma, run.size.n, skip)
            except Exception as error:  # drivers raise what they like
                run.clock.say(f"{named(run, sigma)}: no table, {type(error).__name__}: {error}")
                del going[sigma]
                continue
            took = time.perf_counter() - begin
            right = (every_vote(table)["correct"] == 1).mean()
            if votes * seconds > run.size.begin:  # a few rows tell nothing of what a vote costs
                seconds = max(seconds, (took - run.size.begin) / votes)
            run.clock.say(
                f"{named(run, sigma)}: {len(table)} images, {took:.1f} s, certified right {right:.3f}"
            )
            done[sigma] = len(table)
    if failed := [named(run, sigma) for sigma in models if sigma not in going]:
        raise RuntimeError(f"no table: {'; '.join(failed)}")


def _rows(path: Path) -> int:
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def certified(run: Run, model: nn.Module, sigma: float, n: int, skip: int) -> pd.DataFrame:
    """The table of a network; if a quick way of sampling fails, by the plain network in its precision."""
    how, path, info = run.sampling, run.table(sigma, n), run.about(sigma)
    spec = Spec(noise=GridNoise(sigma), seed=SEED, n=n, alpha=ALPHA, dtype=how.dtype, fast=how.fast)
    try:
        return certify_table(model, run.test, path, spec=spec, skip=skip, progress=False, info=info)
    except Exception as error:  # drivers raise what they like
        run.clock.say(f"{path.name}: {type(error).__name__}: {error}; once more with the plain network")
        spec = replace(spec, fast=FastPath.plain())
        return certify_table(
            model, run.test, path, spec=spec, skip=skip, replace=True, progress=False, info=info
        )


def more(
    run: Run, models: Mapping[float, nn.Module], n: int, skip: int, *, margin: float = 1.2, after: float
) -> None:
    """More draws about fewer images, as far as time goes; `after` so many seconds are wanted."""
    for sigma, model in models.items():
        need = margin * run.tested(skip) * n * run.sampling.seconds + run.size.begin + after
        if run.clock.enough(need):
            certified(run, model, sigma, n, skip)
            run.clock.say(f"{named(run, sigma)}: {run.tested(skip)} images at n = {n}")
        else:
            run.clock.say(f"{named(run, sigma)}: n = {n} is left out, it needs {need:.0f} s")


def named(run: Run, sigma: float) -> str:
    """How a network is called in what is said."""
    return f"σ = {sigma:g}" + (f", {run.kind}" if run.kind else "")


def show(run: Run, board: pd.DataFrame) -> None:
    """Print and write the comparison of the tables."""
    replace_text(run.out / "board.csv", board.round(6).to_csv(lineterminator="\n"))
    print((100 * board.drop(columns="images", errors="ignore")).round(1).to_string(), flush=True)
