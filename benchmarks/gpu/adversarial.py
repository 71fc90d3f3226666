"""`python -m benchmarks.gpu.adversarial --data folder:PATH`: PART and its controls at ResNet-18 size.

Trains an accurate network and, from one adversarially trained start, plain adversarial training, PART at two
budgets and uniform controls of equal mean, all at 8/255, and a pair of small networks for mixes that run on a
CPU; attacks them by PGD-20 on all test images and by AutoAttack on some; mixes the accurate network with the
plain robust one. What was measured decides how many steps and images the minutes hold; a second call into the
same folder goes on where the first one ended.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks.gpu.adversary import Attacked, Plain
from benchmarks.gpu.certifying import SEED, fresh, keep, loaded, split
from benchmarks.gpu.stage import Clock, parser, parts, stage
from benchmarks.gpu.trainer import Recipe, Trainer
from dualrs_lab.attacks import PGD, STANDARD, Threat, evaluate_table, pgd, read_evaluation
from dualrs_lab.data import Images, to_float
from dualrs_lab.files import replace_bytes, replace_json, replace_text
from dualrs_lab.mixing import (
    Mix,
    NutsMix,
    answer_margins,
    attacked_logits,
    evaluate_systems_table,
    fit_nuts,
    summarise_systems,
)
from dualrs_lab.models import Classifier, load_checkpoint, read_info
from dualrs_lab.pixels import Pixels, TopFraction, Uniform, mean_budget
from dualrs_lab.runtime import describe, make_generator, pick_device

__all__ = ["ARMS", "FULL", "PLANS", "TOY", "Plan", "Size", "judged", "main", "work"]

EPS, FRACTION = 8 / 255, 0.3
JUDGED = {
    "attacked": {"natural": "natural", "pgd": "pgd"},
    "apgd": {"autoattack": "apgd"},
    "autoattack": {"autoattack": "autoattack"},
}  # table -> its columns in arms.csv
WEIGHTS = (0.0, 0.3, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the robust network in mixes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A network to train: budgets in 1/255 where the map is largest (`high`) and elsewhere."""

    share: float  # of the time for training
    high: float = 0.0
    low: float = 0.0
    start: str = ""  # the network that it goes on from
    small: bool = False

    @property
    def budget(self) -> Uniform | Pixels:
        """A uniform one has the mean of its PART."""
        if self.high == self.low:
            return Uniform(eps=self.high / 255)
        return Pixels(mask=TopFraction(fraction=FRACTION), high=self.high / 255, low=self.low / 255)


PLANS = {
    "accurate": Plan(share=0.07),
    "warmup": Plan(share=0.28, high=8, low=8),
    "at": Plan(share=0.10, high=8, low=8, start="warmup"),
    "part4": Plan(share=0.10, high=8, low=4, start="warmup"),
    "uniform4": Plan(share=0.10, high=5.2, low=5.2, start="warmup"),
    "part7": Plan(share=0.10, high=8, low=7, start="warmup"),
    "uniform7": Plan(share=0.10, high=7.3, low=7.3, start="warmup"),
    "small_at": Plan(share=0.11, high=8, low=8, small=True),
    "small_accurate": Plan(share=0.04, small=True),
}
ARMS = tuple(name for name, plan in PLANS.items() if plan.high and name != "warmup")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything, where time does not say less."""

    network: str
    small: str
    plain: Recipe  # of the accurate network
    warmup: Recipe
    arm: Recipe
    attack: PGD  # in training
    steps: int  # of each network, at most
    pace: int  # steps on which the speed is measured
    skip: int  # every so many-th test image under PGD-20
    apgd: tuple[str, ...]  # parts of AutoAttack that follow gradients
    auto: tuple[str, ...]  # what is called AutoAttack
    some: int  # every so many-th test image under APGD, AutoAttack and attacks on mixes
    image: Mapping[str, float]  # seconds an image under each of them, where nothing has been measured
    together: int  # images attacked at once
    after: float  # seconds that must be left for attacks when training ends


FULL = Size(
    network="resnet18",
    small="wide_start",
    plain=Recipe(batch=256, lr=0.2, ramp=0.0),
    warmup=Recipe(batch=256, lr=0.2, ramp=0.2),
    arm=Recipe(batch=256, lr=0.1, warmup=0.1, ramp=0.0, average=0.08),
    attack=PGD(steps=3, step=1.25 * EPS / 3, best=False, blind=1.0),
    steps=20_000, pace=10, skip=1, apgd=("apgd-ce", "apgd-t"), auto=STANDARD, some=10,
    image={"apgd": 0.015, "autoattack": 0.08},
    together=1000, after=230,
)  # fmt: skip
TOY = Size(
    network="digits_narrow",
    small="digits_narrow",
    plain=Recipe(batch=64, lr=0.1, crop=1, flip=False, statistics=5, ramp=0.0),
    warmup=Recipe(batch=64, lr=0.1, crop=1, flip=False, statistics=5, ramp=0.2),
    arm=Recipe(batch=64, lr=0.05, crop=1, flip=False, statistics=5, ramp=0.0),
    attack=PGD(steps=2, step=EPS / 2, best=False, blind=1.0),
    steps=20, pace=1, skip=10, apgd=("apgd-ce",), auto=("apgd-ce",), some=100,
    image={"apgd": 0.05, "autoattack": 0.05},
    together=250, after=5,
)  # fmt: skip


@dataclass(kw_only=True)
class Run:
    """What all parts share."""

    size: Size
    clock: Clock
    out: Path
    device: torch.device
    images: Images  # to train on
    held_out: Images
    test: Images
    image: dict[str, float] = field(init=False)  # seconds an image under each strong attack

    def __post_init__(self) -> None:
        self.image = dict(self.size.image)

    def stem(self, name: str) -> str:
        """What the files of a network begin with."""
        return f"{self.test.title}_{self.named(name)}_{name}_seed{SEED}"

    def named(self, name: str) -> str:
        """The network of a plan."""
        return self.size.small if PLANS[name].small else self.size.network

    def checkpoint(self, name: str) -> Path:
        """Where a network is kept."""
        return self.out / f"{self.stem(name)}.safetensors"

    def networks(self) -> dict[str, Classifier]:
        """Those that are there, as they are kept."""
        there = [name for name in PLANS if self.checkpoint(name).exists()]
        made = {name: load_checkpoint(self.checkpoint(name), device=self.device)[0] for name in there}
        for network in made.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return made

    def count(self, skip: int) -> int:
        """How many test images every `skip`-th is."""
        return -(-len(self.test) // skip)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; 0 if nothing failed."""
    return stage("adversarial", work, parser(__doc__ or "", minutes=9).parse_args(argv))


def work(arguments: argparse.Namespace, clock: Clock, out: Path) -> None:
    """Train, attack, mix: each as far as time goes."""
    size, device = TOY if arguments.toy else FULL, pick_device(arguments.device)
    everything, test = loaded(arguments, clock)
    trained, held = split(everything)
    run = Run(
        size=size, clock=clock, out=out, device=device, test=test,
        images=everything.select(trained), held_out=everything.select(held),
    )  # fmt: skip
    train(run)
    networks = run.networks()
    robust = {name: networks[name] for name in ARMS if name in networks}
    ahead: dict[str, tuple[float, Callable[[], None]]] = {"pgd": (0, lambda: by_pgd(run, networks))}
    if {"accurate", "at"} <= {*networks}:
        ahead |= {
            "logits": (12, lambda: logits(run, networks["accurate"], networks["at"])),
            "mixes": (25, lambda: mixes(run, networks["accurate"], networks["at"])),
        }
    ahead["apgd"] = (0, lambda: by_auto(run, robust, "apgd", size.apgd))
    ahead["autoattack"] = (0, lambda: by_auto(run, robust, "autoattack", size.auto))
    parts(clock, ahead | {"table": (-math.inf, lambda: summarise(run, robust))})
    if missing := set(PLANS) - set(networks):
        raise RuntimeError(f"no network for {sorted(missing)}")


# Training.


def train(run: Run) -> None:
    """The networks that are missing, each saved as it is done, each with its share of the time."""
    missing = [name for name in PLANS if not run.checkpoint(name).exists()]
    if not missing:
        run.clock.say("all networks are there")
        return
    torch.backends.cudnn.benchmark = True
    end = run.clock.left() - max(0.5 * run.clock.left(), run.clock.left() - run.size.after)
    made: dict[tuple[bool, bool], tuple[Trainer, Classifier]] = {}
    for place, name in enumerate(missing):
        plan = PLANS[name]
        kind = (bool(plan.high), plan.small)
        try:
            if kind not in made:
                made.clear()  # one captured graph at a time
                network = fresh(run.images, run.named(name)).to(run.device)
                made[kind] = _trainer(run, network, attacked=bool(plan.high)), network
            trainer, start = made[kind]
            if plan.start:
                trainer.recipe = run.size.arm
                start, _ = load_checkpoint(run.checkpoint(plan.start), device=run.device)
            _fit(run, trainer, name, start, _seconds(run.clock.left() - end, missing[place:]))
        except Exception as error:  # the others go on
            run.clock.say(f"{name}: no network, {type(error).__name__}: {error}")
    torch.backends.cudnn.benchmark = False


def _seconds(left: float, names: Sequence[str]) -> float:
    """What the first of `names` gets of the seconds `left` for training all of them."""
    return left * PLANS[names[0]].share / sum(PLANS[name].share for name in names)


def _trainer(run: Run, network: Classifier, *, attacked: bool) -> Trainer:
    size, say = run.size, run.clock.say
    if attacked:
        how = {"attack": size.attack, "fraction": FRACTION}
        trainer: Trainer = Attacked(network, run.images, size.warmup, say, **how)
    else:
        trainer = Plain(network, run.images, size.plain, say)
    graph, seconds = trainer.capture(), trainer.pace(size.pace)
    speed, images = trainer.recipe.batch / seconds, trainer.recipe.batch
    say(f"{1e3 * seconds:.1f} ms a step of {images} images, {speed:.0f} images a second, graph: {graph}")
    return trainer


def _fit(run: Run, trainer: Trainer, name: str, start: Classifier, seconds: float) -> None:
    run.clock.say(f"{name}: {seconds:.0f} s")
    plan = PLANS[name]
    limits = {"steps": run.size.steps, "pace": run.size.pace, "seed": SEED}
    knobs = {"high": plan.high / 255, "low": plan.low / 255} if plan.high else {}
    model, how = trainer.within(seconds, start, **limits, **knobs)
    objective: dict[str, Any] = {"name": "Standard"}
    if plan.high:
        attack = asdict(run.size.attack) | {"norm": "Linf", "loss": "CrossEntropy"}
        objective = {"name": "Adversarial", "attack": attack, "fraction": FRACTION, **knobs}
    keep(run.checkpoint(name), model, run.images, 0.0, how | {"objective": objective})
    run.clock.say(f"{name}: {how['steps']} steps, {how['epochs']:.1f} epochs in {how['seconds']:.0f} s")


# Attacks.


def by_pgd(run: Run, networks: Mapping[str, Classifier]) -> None:
    """PGD-20 at 8/255 on all test images."""
    threat = Threat(eps=EPS, seed=SEED, mma=False, auto=(), batch=run.size.together)
    for name in (*ARMS, "accurate", "small_accurate"):
        if name not in networks or not run.clock.enough(run.size.after / 20):
            run.clock.say(f"{name}: PGD-20 is left out")
            continue
        path = run.out / f"{run.stem(name)}_attacked.tsv"
        how = {"threat": threat, "skip": run.size.skip, "progress": False}
        table = evaluate_table(networks[name], run.test, path, **how)
        found = table[["natural", "pgd"]].mean()
        run.clock.say(
            f"{name}: {len(table)} images, natural {found['natural']:.4f}, PGD-20 {found['pgd']:.4f}"
        )


def by_auto(run: Run, robust: Mapping[str, Classifier], what: str, attacks: tuple[str, ...]) -> None:
    """Parts of AutoAttack on some test images, one network after the other, as far as time goes."""
    threat = Threat(eps=EPS, seed=SEED, mma=False, auto=attacks, batch=run.size.together)
    for name, model in robust.items():
        path = run.out / f"{run.stem(name)}_{what}.tsv"
        images = run.count(run.size.some) - (len(read_evaluation(path)) if path.exists() else 0)
        if not run.clock.enough(need := 1.2 * images * run.image[what] + 3):
            run.clock.say(f"{name}: {what} on {images} images is left out, it needs {need:.0f} s")
            continue
        begin = time.perf_counter()
        table = evaluate_table(model, run.test, path, threat=threat, skip=run.size.some, progress=False)
        if images:
            run.image[what] = (time.perf_counter() - begin) / images
        found = table[["natural", "pgd", "autoattack"]].mean()
        run.clock.say(
            f"{name}: {len(table)} images, {what} {found['autoattack']:.4f}, PGD-20 {found['pgd']:.4f}, "
            f"{run.image[what]:.3f} s each"
        )


# Mixes.


def logits(run: Run, g: Classifier, h: Classifier) -> None:
    """Logits of both networks for all test images, as they are and where PGD-20 against either one ends.

    `logits.safetensors` holds {g, h}_{clean, by_g, by_h} (N, K) in half precision, and labels (N,): from them
    follow natural accuracy and accuracy under transferred attacks of a mix with any weight.
    """
    path = run.out / "logits.safetensors"
    if path.exists():
        return
    attack, found = PGD(steps=20, step=EPS / 4, blind=1.0), dict[str, list[Tensor]]()
    for first in range(0, len(run.test), run.size.together):
        pixels, labels = run.test.batch(range(first, min(first + run.size.together, len(run.test))))
        x, y = to_float(pixels.to(run.device)), labels.to(run.device)
        points = {"clean": x}
        for name, network in (("by_g", g), ("by_h", h)):
            generator = make_generator(SEED, name, first, device=run.device)
            points[name] = pgd(network, x, y, EPS, attack=attack, generator=generator)
        with torch.no_grad():
            for what, point in points.items():
                found.setdefault(f"g_{what}", []).append(g(point).half().cpu())
                found.setdefault(f"h_{what}", []).append(h(point).half().cpu())
        found.setdefault("labels", []).append(labels.cpu())
    replace_bytes(path, save({name: torch.cat(some) for name, some in found.items()}))


def mixes(run: Run, g: Classifier, h: Classifier) -> None:
    """Mixes at all weights and MixedNUTS under attacks on each network and end to end; margins of both."""
    table = answer_margins(
        {"accurate": g, "robust": h},
        run.test.select(range(0, len(run.test), run.size.some)),
        eps=EPS,
        seed=SEED,
    )
    replace_text(run.out / "margins.csv", table.round(6).to_csv(index=False, lineterminator="\n"))
    fit = fit_nuts(**attacked_logits(h, run.held_out, eps=EPS, seed=SEED))
    replace_json(run.out / "nuts.json", {
        "curve": vars(fit.curve), "weight": fit.weight, "kept": fit.kept, "lost": fit.lost,
        "images": len(run.held_out), "provenance": describe(run.device),
    })  # fmt: skip
    systems: dict[str, nn.Module] = {f"weight {a:g}": Mix(g, h, a) for a in WEIGHTS}
    systems["MixedNUTS"] = NutsMix(g, h, fit.curve, fit.weight)
    threat = Threat(eps=EPS, seed=SEED, auto=(), mma=False, batch=run.size.together)
    table = evaluate_systems_table(
        g, h, systems, run.test, run.out / "systems.tsv", threat=threat, skip=run.size.some, progress=False
    )
    found = summarise_systems(table)
    replace_text(run.out / "systems.csv", found.round(6).to_csv(lineterminator="\n"))
    print(found.to_string(), flush=True)


def judged(folder: Path, stem: str) -> dict[str, float]:
    """Accuracies of a network as it is and under each attack, from its tables, and of how many images."""
    found: dict[str, float] = {}
    for what, columns in JUDGED.items():
        path = folder / f"{stem}_{what}.tsv"
        if path.exists():
            table = read_evaluation(path)
            found |= {new: float(table[old].mean()) for old, new in columns.items()}
            found[f"{what}_images"] = len(table)
    return found


def summarise(run: Run, robust: Mapping[str, Classifier]) -> None:
    """`arms.csv`: a row a network, from its tables."""
    rows, some = [], run.test.select(range(0, len(run.test), 10))
    for name, model in robust.items():
        told = read_info("adversarial", run.checkpoint(name))["training"]
        row: dict[str, Any] = {"arm": name, "seed": SEED, "network": run.named(name)}
        row |= {what: told[what] for what in ("epochs", "seconds")}
        row["budget"] = 255 * mean_budget(model, some, PLANS[name].budget, seed=SEED)
        rows.append(row | judged(run.out, run.stem(name)))
    table = pd.DataFrame(rows)
    replace_text(run.out / "arms.csv", table.round(6).to_csv(index=False, lineterminator="\n"))
    print(table.to_string(index=False), flush=True)


if __name__ == "__main__":
    sys.exit(main())
