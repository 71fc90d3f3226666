"""`python -m benchmarks.recipes --data folder:PATH`: what a recipe is worth at equal time, on one CPU core.

Each goes on from the shipped `fast_narrow` for σ = 0.5, which saw Gaussian noise for 12 epochs, for the same
seconds of this process. What a GPU does with larger networks is `benchmarks.gpu.recipes`, whose comparison
this is. Half an hour; a run that was killed goes on with the recipes that are missing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from benchmarks.gpu.certifying import Sampling, loaded
from benchmarks.gpu.recipes import Run, Size, compared
from benchmarks.gpu.stage import Clock
from benchmarks.gpu.teaching import RECIPES
from benchmarks.gpu.trainer import Recipe
from benchmarks.quality import SHIPPED, SIGMAS, quick
from dualrs_lab.files import replace_json
from dualrs_lab.runtime import describe

__all__ = ["BEGUN", "PLAIN", "SMALL", "main"]

BEGUN = SHIPPED.expert(SIGMAS[1]).parent
# Counting votes about all images, to choose among them, would take longer than all of the training.
PLAIN = tuple(name for name, choice in RECIPES.items() if not choice.easy)
SMALL = Size(
    network="fast_narrow", recipe=Recipe(batch=128, lr=0.05), steps=20_000, pace=9, n=0, skips=(), begin=0,
    board=0, judged=0.5, trial=240, counts=4, threshold=0.4, judge=100, draws=0, more=(0, 1),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Try what is missing; print, write and return a row a recipe."""
    args = _options(argv)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    device, clock = torch.device("cpu"), Clock(minutes=0)
    everything, test = loaded(args, clock)
    run = Run(
        size=SMALL, clock=clock, out=args.out, device=device, everything=everything, test=test, begun=BEGUN,
        sampling=Sampling(**quick(device), seconds=0),
    )  # fmt: skip
    found = compared(run, PLAIN)
    replace_json(args.out / "recipes.json", {"seconds": SMALL.trial, "provenance": describe(device)})
    print((100 * found.drop(columns=["seconds", "graph"], errors="ignore")).round(1).to_string())
    return found


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)")
    add("--out", type=Path, default=Path("runs/recipes"), help="folder for the results (%(default)s)")
    args = parser.parse_args(argv)
    args.toy = False
    return args


if __name__ == "__main__":
    main()
