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

__all__ = ["BEGUN", "PLAIN", "SMALL", "main", "on_one_core"]

BEGUN = SHIPPED.expert(SIGMAS[1]).parent
# Counting votes about all images, to choose among them, would take longer than all of the training.
PLAIN = tuple(name for name, choice in RECIPES.items() if not choice.easy)
SMALL = Size(
    network="fast_narrow", recipe=Recipe(batch=128, lr=0.05), steps=20_000, pace=9, n=0, skips=(), begin=0,
    board=0, judged=0.5, trial=240, counts=4, threshold=0.4, judge=100, draws=0, more=(0, 1),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Try what is missing; print, write and return a row a recipe."""
    run = on_one_core("recipes", __doc__ or "", SMALL, argv)
    found = compared(run, PLAIN)
    replace_json(run.out / "recipes.json", {"seconds": SMALL.trial, "provenance": describe(run.device)})
    print((100 * found.drop(columns=["seconds", "graph"], errors="ignore")).round(1).to_string())
    return found


def on_one_core(name: str, doc: str, size: Size, argv: Sequence[str] | None) -> Run:
    """What a benchmark of this name, which goes on from the shipped networks, is told and begins with."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc.split("\n\n")[0])
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)")
    add("--out", type=Path, default=Path("runs") / name, help="folder for the results (%(default)s)")
    args = parser.parse_args(argv, argparse.Namespace(toy=False))
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    device, clock = torch.device("cpu"), Clock(minutes=0)
    everything, test = loaded(args, clock)
    return Run(
        size=size, clock=clock, out=args.out, device=device, everything=everything, test=test, begun=BEGUN,
        sampling=Sampling(**quick(device), seconds=0),
    )  # fmt: skip


if __name__ == "__main__":
    main()
