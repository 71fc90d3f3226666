"""`python -m benchmarks.gpu.denoiser --data folder:PATH`: denoised smoothing (Salman et al. 2020) in minutes.

Trains a classifier on clean images and a denoiser for all noise levels by squared error. One behind the other
they are the network off the shelf, of which no part has been trained for certificates; for each of σ = 0.25,
0.5, 1.0 the two are then fine-tuned together by consistency (Jeong & Shin 2020). Both are certified on the
same test images, the fine-tuned ones on more. What was measured decides how much the minutes hold; a second
call into the same folder goes on where the first one ended.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu import certifying
from benchmarks.gpu.adversary import Plain
from benchmarks.gpu.certifying import (
    RADII,
    SEED,
    STRENGTH,
    fresh,
    keep,
    loaded,
    paced,
    sampling,
    show,
    split,
    tables,
)
from benchmarks.gpu.stage import Clock, parser, parts, stage
from benchmarks.gpu.trainer import Consistent, Recipe, Trainer
from dualrs_lab.data import Images, as_floats
from dualrs_lab.denoising import noisy_between
from dualrs_lab.evidence import average_radius, certified_accuracy, read_table, reclaimed
from dualrs_lab.models import Classifier, Denoised, Denoiser, denoise, denoise_first, load_checkpoint
from dualrs_lab.runtime import make_generator, pick_device
from dualrs_lab.training import accuracy

__all__ = [
    "FULL",
    "SHELF",
    "SIGMAS",
    "TOY",
    "TUNED",
    "Blind",
    "Run",
    "Size",
    "board",
    "main",
    "squared_errors",
]

SIGMAS = (0.25, 0.5, 1.0)
SHELF, TUNED = "off the shelf", "fine-tuned"


@dataclass(frozen=True, kw_only=True)
class Size(certifying.Size):
    """How much of everything, where time does not say less; `recipe` is that of the classifier."""

    inner: str  # the network behind the denoiser
    denoising: Recipe
    tuning: Recipe
    anchor: float  # weight of the squared error in fine-tuning
    noise: tuple[float, float]  # from which the denoiser's σ is drawn, image by image
    shares: tuple[float, float, float]  # of the time: the classifier, the denoiser, each fine-tuning


FULL = Size(
    network="denoised_wide_start", inner="wide_start", recipe=Recipe(), denoising=Recipe(lr=0.05),
    tuning=Recipe(lr=0.1), anchor=1.0, noise=(0.12, 1.0), shares=(20, 35, 20), steps=20_000, pace=30,
    n=10_000, skips=(40, 20, 10), begin=1.5, board=8,
)  # fmt: skip
_TOY = Recipe(batch=64, lr=0.1, crop=1, flip=False, statistics=5)
TOY = Size(
    network="denoised_digits_narrow", inner="digits_narrow", recipe=_TOY, denoising=replace(_TOY, lr=0.05),
    tuning=replace(_TOY, batch=32), anchor=1.0, noise=(0.12, 1.0), shares=(20, 35, 20), steps=60, pace=1,
    n=200, skips=(100, 50), begin=0.3, board=3,
)  # fmt: skip


class Blind(Trainer):
    """Squared error of a denoiser, whose answer is an image, at σ from `low` to `high`, drawn image by image.

    The network is the denoiser behind its normalisation; the error is that of normalised images.
    """

    KNOBS = ("low", "high")

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(self.model(self.seen(x, y)).float(), self.model.normalize(x))

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        return noisy_between(x, self.knobs["low"], self.knobs["high"], self.generator)


class Tuned(Consistent):
    """Denoiser and classifier together, by consistency and by what is left of the noise, `anchor` times.

    Without an anchor what the classifier is shown grows without bound: BatchNorm takes it at any scale.
    """

    KNOBS = ("sigma", "strength", "anchor")

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        body, shown = cast(Denoised, self.model.body), list[Tensor]()

        def watched(noisy: Tensor) -> Tensor:
            shown.append(body.denoiser(self.model.normalize(noisy)))
            return body.judge(shown[0])

        told = self.consistency(watched, x, y)
        clean = self.model.normalize(x).repeat(len(shown[0]) // len(x), 1, 1, 1)
        return told + self.knobs["anchor"] * F.mse_loss(shown[0].float(), clean)


@dataclass(frozen=True, kw_only=True)
class Run(certifying.Run):
    """What all parts share; of kind SHELF there is one network for all σ."""

    size: Size

    def checkpoint(self, sigma: float) -> Path:
        if self.kind != SHELF:
            return super().checkpoint(sigma)
        return self.out / f"{self.test.title}_{self.size.network}_off_the_shelf_seed{SEED}.safetensors"

    def classifier(self) -> Path:
        """Where the classifier is kept that the denoiser is put before."""
        return self.out / f"{self.test.title}_{self.size.inner}_clean_seed{SEED}.safetensors"

    def about(self, sigma: float) -> dict[str, Any]:
        known = super().about(sigma)
        return known | ({"trained_sigma": list(self.size.noise)} if self.kind == SHELF else {})

    def of(self, kind: str) -> "Run":
        """The same for networks of another kind."""
        return replace(self, kind=kind)

    def after(self) -> float:
        """Seconds that tables and the comparison want."""
        first, last = self.size.skips[0], self.size.skips[-1]
        begin = self.size.begin * (len(self.size.skips) + 1)
        votes = self.vote_seconds(first) + self.vote_seconds(last)
        return len(SIGMAS) * (1.1 * votes + begin) + self.size.board

    def networks(self) -> dict[float, Classifier]:
        """Those that are there, as they are kept."""
        there = [sigma for sigma in SIGMAS if self.checkpoint(sigma).exists()]
        kept = {path: _loaded(path, self.device) for path in {self.checkpoint(sigma) for sigma in there}}
        return {sigma: kept[self.checkpoint(sigma)] for sigma in there}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; 0 if nothing failed."""
    return stage("denoiser", work, parser(__doc__ or "", minutes=3.3).parse_args(argv))


def work(arguments: argparse.Namespace, clock: Clock, out: Path) -> None:
    """Train, certify, compare: each as far as time goes."""
    size, device = TOY if arguments.toy else FULL, pick_device(arguments.device)
    everything, test = loaded(arguments, clock)
    start = fresh(everything, size.network).to(device)
    run = Run(
        size=size, clock=clock, out=out, device=device, everything=everything, test=test,
        sampling=sampling(start, test, clock), kind=TUNED,
    )  # fmt: skip
    train(run, start)
    shelf, first, rest = run.of(SHELF), size.skips[:1], size.skips[1:]
    ahead = {
        "first tables": (size.board, lambda: tables(run, run.networks(), first)),
        "tables off the shelf": (size.board, lambda: tables(shelf, shelf.networks(), first)),
        "tables": (size.board, lambda: tables(run, run.networks(), rest)),
        "board": (size.board / 4, lambda: compare_all(run)),
    }
    parts(clock, ahead)
    if missing := [sigma for sigma in SIGMAS if not run.checkpoint(sigma).exists()]:
        raise RuntimeError(f"no network for σ = {missing}")


def train(run: Run, start: Classifier) -> None:
    """The networks that are missing, each saved as it is done, within its share of the time."""
    school = School(run, start)
    plain, blind, tuned = run.size.shares
    each: dict[str, tuple[Path, float, Callable[[float], None]]] = {
        "classifier": (run.classifier(), plain, school.classify),
        "denoiser": (run.of(SHELF).checkpoint(0), blind, school.denoise),
    }
    for sigma in SIGMAS:
        each[f"σ = {sigma:g}"] = (run.checkpoint(sigma), tuned, partial(school.tune, sigma))
    missing = {name: one for name, one in each.items() if not one[0].exists()}
    if not missing:
        run.clock.say("all networks are there")
        return
    torch.backends.cudnn.benchmark = True
    share = max(0.5 * run.clock.left(), run.clock.left() - run.after())
    end = run.clock.left() - share
    run.clock.say(f"{share:.0f} s for training, {run.after():.0f} s wanted afterwards")
    waiting = sum(weight for _, weight, _ in missing.values())
    for name, (_, weight, learn) in missing.items():
        left = run.clock.left()
        try:
            learn(left - (left - end) * weight / waiting)
        except Exception as error:  # the others go on
            run.clock.say(f"{name}: not trained, {type(error).__name__}: {error}")
        waiting -= weight
    torch.backends.cudnn.benchmark = False


class School:
    """Where networks are trained, each until so many seconds of the clock are left."""

    def __init__(self, run: Run, start: Classifier) -> None:
        self.run, self.start, self.say = run, start, run.clock.say
        trained, held = split(run.everything)
        self.images, self.others = run.everything.select(trained), run.everything.select(held)

    def classify(self, until: float) -> None:
        """The classifier, on clean images."""
        start = fresh(self.run.everything, self.run.size.inner).to(self.run.device)
        trainer = Plain(start, self.images, self.run.size.recipe, self.say)
        model, how = self._within(trainer, paced(trainer, self.run.size, self.say), start, until)
        how |= {"objective": {"name": "Standard"}, "held_out_accuracy": self._accuracy(model, 0.0)}
        keep(self.run.classifier(), model, self.images, 0.0, how)
        self.say(f"classifier: right on held-out images {how['held_out_accuracy']:.3f}")

    def denoise(self, until: float) -> None:
        """The denoiser; with the classifier behind it, it is kept as the network off the shelf."""
        size, classifier = self.run.size, _loaded(self.run.classifier(), self.run.device)
        alone = Classifier(self.start.normalize, cast(Denoiser, self.start.body.denoiser))
        trainer = Blind(alone, self.images, size.denoising, self.say)
        low, high = size.noise
        told = paced(trainer, size, self.say)
        trained, how = self._within(trainer, told, alone, until, low=low, high=high)
        model = denoise_first(classifier, cast(Denoiser, trained.body))
        how |= {"objective": {"name": "squared error", "sigmas": [low, high]}}
        how |= {"classifier": self.run.classifier().name, "held_out": self._held_out(model, SIGMAS)}
        keep(self.run.of(SHELF).checkpoint(0), model, self.images, None, how)

    def tune(self, sigma: float, until: float) -> None:
        """Denoiser and classifier together, for one noise level."""
        start = _loaded(self.run.of(SHELF).checkpoint(sigma), self.run.device)
        trainer, told = self._tuner
        strength = STRENGTH[sigma]
        knobs = {"sigma": sigma, "strength": strength, "anchor": self.run.size.anchor}
        model, how = self._within(trainer, told, start, until, **knobs)
        how |= {"objective": {"name": "Consistency", "draws": 2, **knobs}}
        how |= {"start": self.run.of(SHELF).checkpoint(sigma).name}
        how |= {"held_out": self._held_out(model, (sigma,))}
        keep(self.run.checkpoint(sigma), model, self.images, sigma, how)

    @cached_property
    def _tuner(self) -> tuple[Trainer, dict[str, Any]]:
        # one captured step for all noise levels
        trainer = Tuned(self.start, self.images, self.run.size.tuning, self.say)
        return trainer, paced(trainer, self.run.size, self.say, copies=2)

    def _within(
        self, trainer: Trainer, told: Mapping[str, Any], start: Classifier, until: float, **knobs: float
    ) -> tuple[Classifier, dict[str, Any]]:
        size = self.run.size
        limits = {"steps": size.steps, "pace": size.pace, "seed": SEED}
        model, how = trainer.within(self.run.clock.left() - until, start, **limits, **knobs)  # type: ignore[arg-type]
        self.say(f"{type(trainer).__name__}: {how['steps']} steps, {how['epochs']:.1f} epochs")
        return model, how | dict(told)

    def _accuracy(self, model: Classifier, sigma: float) -> float:
        return accuracy(model, self.others, sigma=sigma, seed=SEED)

    def _held_out(self, model: Classifier, sigmas: Sequence[float]) -> dict[str, dict[str, float]]:
        """What is left of the noise, and how many are right, on one noisy copy of each held-out image."""
        found = {}
        for sigma in sigmas:
            noisy, denoised = squared_errors(model, self.others, sigma)
            right = self._accuracy(model, sigma)
            self.say(
                f"σ = {sigma:g}: squared error {noisy:.4f}, denoised {denoised:.4f}; right on held-out "
                f"images, one draw each: {right:.3f}"
            )
            found[f"{sigma:g}"] = {"noisy_mse": noisy, "denoised_mse": denoised, "accuracy": right}
        return found


@torch.no_grad()
def squared_errors(model: Classifier, images: Images, sigma: float) -> tuple[float, float]:
    """Mean squared errors, in pixel units, of noisy images and of what their denoiser makes of them."""
    device, found = next(model.parameters()).device, torch.zeros(2, dtype=torch.float64)
    for number, some in enumerate(torch.arange(len(images)).split(500)):
        x, _ = as_floats(images.select(some), device)
        generator = make_generator(SEED, "denoised", number, device=device)
        noisy = x + sigma * torch.randn(x.shape, generator=generator, device=device)
        errors = [F.mse_loss(got, x).double().cpu() for got in (noisy, denoise(model, noisy))]
        found += len(some) * torch.stack(errors)
    before, after = (found / len(images)).tolist()
    return before, after


def _loaded(path: Path, device: torch.device) -> Classifier:
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is not there")
    return load_checkpoint(path, device=device)[0]


def compare_all(run: Run) -> None:
    """Print and write the comparison of all tables that are there."""
    found: dict[str, dict[float, pd.DataFrame]] = {}
    for kind in (SHELF, TUNED):
        files = {sigma: run.of(kind).table(sigma, run.size.n) for sigma in SIGMAS}
        found[kind] = {sigma: read_table(path) for sigma, path in files.items() if path.exists()}
    show(run, board(found))


def board(tables: Mapping[str, Mapping[float, pd.DataFrame]]) -> pd.DataFrame:
    """Certified accuracy at RADII and mean radius of {kind: {σ: table}}, by Cohen's rule and by two bounds.

    Where the kinds of a σ have other images, each comes on those that they share as well.
    """
    rows: dict[str, list[float]] = {}
    for sigma in sorted({sigma for each in tables.values() for sigma in each}):
        there = {kind: each[sigma] for kind, each in tables.items() if sigma in each}
        shared = set.intersection(*(set(table["idx"]) for table in there.values()))
        for kind, table in there.items():
            rows |= _judged(f"σ = {sigma:g}, {kind}", table)
            if shared and shared != set(table["idx"]):
                rows |= _judged(f"σ = {sigma:g}, {kind}, shared images", table[table["idx"].isin(shared)])
    columns = ["images", *(f"{radius:g}" for radius in RADII), "acr"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("network")


def _judged(name: str, table: pd.DataFrame) -> dict[str, list[float]]:
    rows = {}
    for rule, end in (("cohen", ""), ("two-bounds", ", two bounds")):
        claims = reclaimed(table, rule)
        rows[name + end] = [len(claims), *certified_accuracy(claims, RADII), average_radius(claims)]
    return rows


if __name__ == "__main__":
    sys.exit(main())
