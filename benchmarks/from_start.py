"""`python -m benchmarks.from_start --data folder:PATH`: experts that are trained as a system from the start.

Three `fast_narrow`, from fresh weights, for the same seconds of one core: each for itself; with one trunk,
where BatchNorm and head are each expert's own; and through the radius of their cascade, from the first step
on or in the last quarter alone. They are judged by votes about held-out images: each alone, and in cascades
that are chosen by one half of the images and judged by the other. Seventy minutes on one core; a run that was
killed goes on with the arms that are missing, and `--arms` makes some of them.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.gpu.certifying import ALPHA, RADII, SEED, fresh, split
from benchmarks.gpu.trainer import Recipe, Trainer, rounded
from benchmarks.quality import quick
from dualrs_lab.cascade import THRESHOLDS, Cascade, CascadeGoal, CascadeRadius, expected_curve, search_cascade
from dualrs_lab.data import Images, load_images
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.models import Classifier
from dualrs_lab.runtime import describe
from dualrs_lab.smoothing import GridNoise, count_images, freeze
from dualrs_lab.training import Gaussian, JointObjective

__all__ = ["ARMS", "Each", "Experts", "Together", "judged", "main", "taught"]

SIGMAS = (1.0, 0.5, 0.25)  # in the order of asking
SECONDS, DRAWS = 900.0, 200
LAST = 0.25  # the share of the time in which a joint objective comes at the end
RECIPE = Recipe(batch=128, lr=0.1)


class Experts(nn.Module):
    """A network for each noise level; with one `trunk`, they have their kernels in common.

    BatchNorm and the last layer are each expert's own, so that each is an ordinary network on its own.
    """

    def __init__(self, make: Callable[[], Classifier], count: int, *, trunk: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(make() for _ in range(count))
        for member in self.members if trunk else ():
            for name, part in self.members[0].named_modules():
                if isinstance(part, nn.Conv2d):
                    cast(nn.Conv2d, member.get_submodule(name)).weight = part.weight

    def forward(self, copies: Tensor) -> Tensor:
        """Logits (K, B, C) of each expert about its own noisy copies (K, B, C, H, W)."""
        return torch.stack([member(x) for member, x in zip(self.members, copies, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Each:
    """The sum of what each expert of a pool loses under its own noise (Cohen et al. 2019)."""

    sigmas: tuple[float, ...]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        members = cast(Experts, model).members
        losses = [
            Gaussian(sigma=s)(member, x, y, generator) for s, member in zip(self.sigmas, members, strict=True)
        ]
        return torch.stack(losses).sum()


class Together(Trainer):
    """Trains `Experts` by an objective for all of them."""

    def __init__(
        self,
        model: Experts,
        images: Images,
        objective: JointObjective,
        recipe: Recipe,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(cast(Classifier, model), images, recipe, say)
        self.objective = objective

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.objective(self.model, x, y, self.generator)

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        sigmas = torch.tensor(self.objective.sigmas, device=x.device).view(-1, 1, 1, 1, 1)
        noise = torch.randn((len(sigmas), *x.shape), generator=self.generator, device=x.device)
        return x + sigmas * noise


APART, RADIUS = Each(sigmas=SIGMAS), CascadeRadius(sigmas=SIGMAS, accuracy=0.3, draws=2)
ARMS: dict[str, tuple[bool, tuple[tuple[JointObjective, float], ...]]] = {
    "each for itself": (False, ((APART, 1.0),)),
    "one trunk": (True, ((APART, 1.0),)),
    "for their cascade at the end": (False, ((APART, 1 - LAST), (RADIUS, LAST))),
    "for their cascade from the start": (False, ((RADIUS, 1.0),)),
}


def taught(arm: str, images: Images, network: str, seconds: float) -> tuple[list[Classifier], float]:
    """The experts of an arm, rounded to half precision, and how many epochs they had."""
    trunk, courses = ARMS[arm]
    model, epochs = Experts(partial(fresh, images, network), len(SIGMAS), trunk=trunk), 0.0
    for number, (objective, share) in enumerate(courses):
        recipe = replace(RECIPE, lr=RECIPE.lr / (number + 1))  # gentler where it goes on
        trainer = Together(model, images, objective, recipe)
        how: dict[str, Any] = {"steps": 1_000_000, "pace": 9, "seed": SEED}
        trained, told = trainer.within(share * seconds, cast(Classifier, model), **how)
        model, epochs = cast(Experts, trained), epochs + told["epochs"]
    return [rounded(cast(Classifier, member)) for member in model.members], epochs


def judged(counts: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, list[float]]:
    """What votes (N, K, C) promise: of each expert alone, and of cascades that other images chose."""
    silent = np.concatenate([counts, np.zeros_like(counts[:, :, :1])], axis=2)
    curves = {f"σ = {s:g}": _curve(Cascade((s,), (min(THRESHOLDS),)), silent, labels) for s in SIGMAS}
    halves = []
    for side in (0, 1):
        judges = np.arange(len(labels)) % 2 == side
        found = search_cascade(
            counts[~judges], labels[~judges], SIGMAS, goal=CascadeGoal(), stages=len(SIGMAS), alpha=ALPHA
        )
        halves.append(_curve(found.cascade, silent[judges], labels[judges]))
    return curves | {"cascade": np.mean(halves, axis=0).tolist()}


def _curve(cascade: Cascade, votes: NDArray[np.int64], labels: NDArray[np.int64]) -> list[float]:
    each = [votes[:, SIGMAS.index(sigma)] for sigma in cascade.sigmas]
    return [float(at) for at in expected_curve(cascade, each, labels, radii=RADII, alpha=ALPHA)]


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Train and judge the arms that are missing; print, write and return their rows."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.from_start", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)")
    add("--network", default="fast_narrow", help="of each expert (%(default)s)")
    add("--seconds", type=float, default=SECONDS, help="of one core, for each arm (%(default)s)")
    add("--draws", type=int, default=DRAWS, help="of each expert about each image (%(default)s)")
    add("--arms", nargs="+", choices=[*ARMS], metavar="ARM", default=[*ARMS], help=", ".join(ARMS))
    add("--out", type=Path, default=Path("runs/from_start"), help="folder for the results (%(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    everything = load_images(args.data, "train")
    images, held = (everything.select(some) for some in split(everything))
    held, found = held.select(range(0, len(held), 2)), list[pd.DataFrame]()
    for arm in args.arms:
        path = args.out / f"from_start_{[*ARMS].index(arm)}.csv"
        if not path.exists():
            experts, epochs = taught(arm, images, args.network, args.seconds)
            asked = zip(experts, SIGMAS, strict=True)
            counts = np.stack([_counted(*one, held, args.draws) for one in asked], axis=1)
            rows = [
                {"arm": arm, "epochs": epochs, "judged": name}
                | {f"{r:g}": at for r, at in zip(RADII, curve, strict=True)}
                for name, curve in judged(counts, held.labels.numpy()).items()
            ]
            replace_text(path, pd.DataFrame(rows).round(6).to_csv(lineterminator="\n", index=False))
        found.append(pd.read_csv(path))
    rows = pd.concat(found, ignore_index=True)
    replace_text(args.out / "from_start.csv", rows.to_csv(lineterminator="\n", index=False))
    settings = {"seconds": args.seconds, "draws": args.draws, "images": len(held)}
    replace_json(args.out / "from_start.json", settings | {"provenance": describe(torch.device("cpu"))})
    print(rows.round(3).to_string(index=False))
    return rows


def _counted(model: Classifier, sigma: float, images: Images, draws: int) -> NDArray[np.int64]:
    how = {"classes": len(images.classes), "device": torch.device("cpu"), **quick(torch.device("cpu"))}
    voter = freeze(model, GridNoise(sigma), images.shape, **how)  # type: ignore[arg-type]
    return count_images(voter, images, n=draws, seed=SEED, stream="from start", device=torch.device("cpu"))


if __name__ == "__main__":
    main()
