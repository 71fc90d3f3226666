"""`python -m benchmarks.gpu.recipes --data folder:PATH --start FOLDER`: which recipe makes the best experts?

Each recipe of `dualrs_lab.training` goes on for the same time from the expert for σ = 0.5 that stage 3 left
in FOLDER; the one whose held-out images have the largest radii then trains an expert for each of σ = 0.25,
0.5 and 1.0 from its own. They are certified on every tenth test image, and their votes about held-out images
are counted, from which a combiner learns. A second call into the same folder goes on where the first ended.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from benchmarks.gpu import certifying
from benchmarks.gpu.certifying import (
    RADII,
    SEED,
    fresh,
    keep,
    loaded,
    more,
    paced,
    sampling,
    split,
    tables,
)
from benchmarks.gpu.experts import compare_all, count_labels
from benchmarks.gpu.stage import Clock, parser, parts, stage
from benchmarks.gpu.teaching import RECIPES, Taught
from benchmarks.gpu.trainer import Recipe, stopwatch
from dualrs_lab.files import replace_text
from dualrs_lab.models import Classifier, load_checkpoint
from dualrs_lab.runtime import pick_device
from dualrs_lab.smoothing import GridNoise, count_images, freeze

__all__ = ["FULL", "SIGMAS", "TOY", "Run", "Size", "compared", "ideal_curve", "main", "taught"]

SIGMAS = (0.25, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Size(certifying.Size):
    """How much of everything, where time does not say less."""

    judged: float  # σ at which recipes are compared
    trial: float  # seconds of training for each of them
    counts: int  # draws about each image, by which images are weighted, at each quarter of the training
    threshold: float  # share of them that must be right
    judge: int  # draws about each held-out image by which recipes are judged
    draws: int  # of each expert about each held-out image, for a combiner
    more: tuple[int, int]  # (n, skip) of a last wave


FULL = Size(
    network="wide_start", recipe=Recipe(lr=0.1), steps=20_000, pace=20, n=10_000, skips=(20, 10), begin=1.5,
    board=15, judged=0.5, trial=24, counts=8, threshold=0.4, judge=1000, draws=2000, more=(100_000, 50),
)  # fmt: skip
TOY = Size(
    network="digits_narrow", recipe=Recipe(batch=64, lr=0.1, crop=1, flip=False, statistics=5), steps=12,
    pace=1, n=200, skips=(100, 50), begin=0.3, board=3, judged=0.5, trial=1, counts=4, threshold=0.0,
    judge=50, draws=50, more=(300, 250),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run(certifying.Run):
    """What all parts share."""

    size: Size
    begun: Path | None  # folder of the experts to go on from

    def start(self, sigma: float) -> Classifier:
        """The expert from which training goes on; in a toy run a fresh one."""
        if self.begun is None:
            return fresh(self.everything, self.size.network).to(self.device)
        path = self.begun / f"{self.test.title}_{self.size.network}_sigma{sigma:g}_seed{SEED}.safetensors"
        return load_checkpoint(path, device=self.device)[0]

    def of(self, kind: str) -> "Run":
        """The same for networks by this recipe."""
        return replace(self, kind=kind.replace(",", ""))

    def after(self) -> float:
        """Seconds that tables, votes and the comparison want."""
        votes = self.vote_seconds(self.size.skips[-1]) + 0.1 * self.vote_seconds(1)
        return len(SIGMAS) * (1.2 * votes + 2 * self.size.begin) + self.size.board


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; 0 if nothing failed."""
    options = parser(__doc__ or "", minutes=9)
    options.add_argument("--start", type=Path, help="folder of the experts of stage 3 to go on from")
    options.add_argument("--recipe", choices=[*RECIPES], help="train by this one, without a comparison")
    options.add_argument("--later", action="store_true", help="leave certificates to a second call")
    return stage("recipes", work, options.parse_args(argv))


def work(arguments: argparse.Namespace, clock: Clock, out: Path) -> None:
    """Compare, train, certify: each as far as time goes."""
    size, device = TOY if arguments.toy else FULL, pick_device(arguments.device)
    if not (arguments.start or arguments.toy):
        raise ValueError("recipes: --start FOLDER is missing: where the experts of stage 3 are")
    everything, test = loaded(arguments, clock)
    run = Run(
        size=size, clock=clock, out=out, device=device, everything=everything, test=test,
        begun=arguments.start, sampling=sampling(fresh(everything, size.network).to(device), test, clock),
    )  # fmt: skip
    torch.backends.cudnn.benchmark = True
    best = arguments.recipe or str(compared(run)["score"].idxmax())
    clock.say(f"the recipe: {best}")
    run = run.of(best)
    train(run, best, 0.0 if arguments.later else run.after())
    torch.backends.cudnn.benchmark = False
    if arguments.later:
        return
    experts = {sigma: load_checkpoint(run.checkpoint(sigma), device=device)[0] for sigma in SIGMAS}
    best_first = {s: experts[s] for s in sorted(experts, key=lambda sigma: sigma != size.judged)}
    ahead = {
        "votes": (size.board, lambda: votes(run, experts)),
        "tables": (size.board, lambda: tables(run, experts, size.skips)),
        "board": (size.board / 4, lambda: compare_all(run)),
        "more draws": (size.board, lambda: more(run, best_first, *size.more, margin=1.1, after=3)),
    }
    parts(clock, ahead)


def compared(run: Run, names: Sequence[str] = tuple(RECIPES)) -> pd.DataFrame:
    """A row a recipe: its speed, and what held-out images have of it at the end of its time."""
    path, size, rows = run.out / "recipes.csv", run.size, dict[str, dict[str, Any]]()
    if path.exists():
        rows = pd.read_csv(path, index_col="recipe").to_dict("index")  # type: ignore[assignment]
    sigma = size.judged
    start = {"as it began": lambda: (run.start(sigma), {"seconds": 0.0, "epochs": 0.0})}
    tried = {name: lambda name=name: taught(run, name, sigma, size.trial) for name in names}
    for name, make in (start | tried).items():
        if name in rows:
            continue
        try:
            model, how = make()
        except Exception as error:  # the others go on
            run.clock.say(f"{name}: {type(error).__name__}: {error}")
            continue
        told = {key: how[key] for key in ("seconds", "epochs", "step_seconds", "graph") if key in how}
        rows[name] = told | ideal_curve(run, model, sigma)
        run.clock.say(f"{name}: {how['epochs']:.1f} epochs, score {rows[name]['score']:.4f}")
        frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("recipe")
        replace_text(path, frame.to_csv(lineterminator="\n"))
    return pd.DataFrame.from_dict(rows, orient="index").loc[lambda told: told.index.isin(RECIPES)]


def taught(run: Run, name: str, sigma: float, seconds: float) -> tuple[Classifier, dict[str, Any]]:
    """A network by a recipe, within so many seconds, capture and counting included."""
    clock = stopwatch(run.device)
    begin, choice, size = clock(), RECIPES[name], run.size
    trained, _ = split(run.everything)
    start, objective = run.start(sigma), choice.make(sigma)
    trainer = Taught(
        start, run.everything.select(trained), size.recipe, run.clock.say,
        objective=objective, counts=size.counts if choice.easy else 0, threshold=size.threshold,
    )  # fmt: skip
    told = paced(trainer, size, run.clock.say, copies=getattr(objective, "draws", 1))
    before = clock()
    if choice.easy:  # what counting costs, four times
        trainer.start(start, seed=SEED)
        trainer.weighed(0)
    counting = 4 * (clock() - before)
    left = seconds - (clock() - begin) - counting
    model, how = trainer.within(max(left, 0.1), start, steps=size.steps, pace=size.pace, seed=SEED)
    settings = {"name": type(objective).__name__} | asdict(objective)  # type: ignore[call-overload]
    how |= told | {"objective": settings, "easy_images": size.counts if choice.easy else 0, "name": name}
    return model, how | {"seconds": clock() - begin}


def ideal_curve(run: Run, model: Classifier, sigma: float) -> dict[str, float]:
    """Shares of held-out images with radii above RADII, as if shares of votes were probabilities.

    They are for choosing and no certificates. `score` is their mean from 0.25 to 1.5.
    """
    _, held = split(run.everything)
    images, n = run.everything.select(held), run.size.judge
    how = {"classes": len(images.classes), "device": run.device}
    how |= {"dtype": run.sampling.dtype, "fast": run.sampling.fast}
    voter = freeze(model, GridNoise(sigma), images.shape, **how)  # type: ignore[arg-type]
    counts = count_images(voter, images, n=n, seed=SEED, stream="trial", device=run.device)
    own = np.take_along_axis(counts, images.labels.numpy()[:, None], axis=1)[:, 0]
    others = counts.copy()
    np.put_along_axis(others, images.labels.numpy()[:, None], -1, axis=1)
    share = np.clip(np.stack([own, others.max(axis=1)]) / n, 0.5 / n, 1 - 0.5 / n)
    radius = sigma / 2 * (stats.norm.ppf(share[0]) - stats.norm.ppf(share[1]))
    curve = {f"{r:g}": float((radius > 0).mean() if r == 0 else (radius >= r).mean()) for r in RADII}
    return curve | {"score": float(np.mean([curve[f"{r:g}"] for r in RADII[1:7]]))}


def train(run: Run, name: str, after: float) -> None:
    """The experts that are missing; each gets the same share of the time."""
    missing = [sigma for sigma in SIGMAS if not run.checkpoint(sigma).exists()]
    end = min(max(after, 0.0), 0.5 * run.clock.left())
    for number, sigma in enumerate(missing):
        seconds = (run.clock.left() - end) / (len(missing) - number)
        model, how = taught(run, name, sigma, seconds - 1.0)
        how |= {"start": f"sigma{sigma:g}"}
        keep(run.checkpoint(sigma), model, run.everything.select(split(run.everything)[0]), sigma, how)
        told = ideal_curve(run, model, sigma) if run.clock.enough(10) else {}
        run.clock.say(f"σ = {sigma:g}: {how['steps']} steps, {how['epochs']:.1f} epochs, {told}")


def votes(run: Run, experts: Mapping[float, Classifier]) -> None:
    """Votes about held-out images, from which a combiner learns."""
    path = run.out / f"{run.test.title}_{run.size.network}_{run.kind.replace(' ', '_')}_votes.safetensors"
    if not path.exists():
        _, held = split(run.everything)
        how = {"draws": run.size.draws, "sampling": run.sampling}
        found = count_labels(experts, run.everything, held, path, **how, enough=lambda images: True)  # type: ignore[arg-type]
        run.clock.say(f"{found} held-out images, {run.size.draws} draws of each expert")


if __name__ == "__main__":
    sys.exit(main())
