"""`python -m benchmarks.soups --data folder:PATH`: the mean of two recipes' weights, and what it is worth.

The larger experts by CAT-RS went on from those by consistency, so that both lie in one valley: the mean of
their weights, with BatchNorm measured anew on images that are not held out, is a network of their kind. It is
kept in half precision, as they are (part `networks`, less than a minute on one core). Votes about every
second held-out image (`votes`, a quarter of an hour) say what a cascade is worth whose experts may be silent,
beside the same number of votes of the experts by CAT-RS alone: chosen by one half of these images and judged
by the other, for several halves (`worth`, two minutes).
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.dial import CAT_RS, CONSISTENCY, SOUP, TAUGHT, network_of
from benchmarks.gpu.certifying import RADII, SEED, keep, split
from benchmarks.quality import make_parts
from benchmarks.silence import GOALS, LEVELS, SILENT, Bench, count_votes, promised_by, votes_name
from dualrs_lab.combine import read_image_votes
from dualrs_lab.data import load_images
from dualrs_lab.files import digest, replace_text
from dualrs_lab.models import load_checkpoint
from dualrs_lab.runtime import pick_device
from dualrs_lab.training import soup

__all__ = ["BESIDE", "HALVES", "main", "votes_of", "worth"]

HALVES = 3  # ways to halve the images, each judged both ways
N, SKIP = 300, 2  # draws about every so many-th held-out image
BESIDE = TAUGHT / f"cifar10_jpeg_wide_start_CAT-RS_graded_votes_n{N}.safetensors"


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing of the parts; print, write and return what the networks are worth."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soups", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)")
    add("--parts", nargs="+", choices=[*PARTS], metavar="PART", default=[*PARTS], help=", ".join(PARTS))
    add("--threads", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/soups"), help="folder for the results (%(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    device = pick_device(args.device)
    bench = Bench(out=args.out, data=args.data, device=device, kind=SOUP, n=N, skip=SKIP)
    return make_parts(PARTS, args.parts, bench)


def _networks(bench: Bench) -> None:
    images = load_images(bench.data, "train")
    taught = images.select(split(images)[0])
    for sigma in SILENT:
        path = bench.out / network_of(sigma, SOUP).name
        if not path.exists():
            parts = [network_of(sigma, kind) for kind in (CONSISTENCY, CAT_RS)]
            networks = [load_checkpoint(part, device=bench.device)[0] for part in parts]
            told = {"soup": {part.name: digest(part) for part in parts}, "history": []}
            keep(path, soup(networks, taught, sigma=sigma, seed=SEED), images, sigma, told)
        print(path)


def _worth(bench: Bench) -> pd.DataFrame:
    own = bench.votes if bench.votes.exists() else TAUGHT / bench.votes.name
    found = worth({CAT_RS: votes_of(BESIDE), SOUP: votes_of(own)}, [*GOALS])
    replace_text(bench.out / "soups.csv", found.round(6).to_csv(lineterminator="\n", index=False))
    return found.set_index(["goal", "networks"])


def votes_of(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts (N, K, C (T + 1)) at `LEVELS` and labels (N,); levels that a file lacks are those by CAT-RS."""
    every, labels, _ = read_image_votes(BESIDE, LEVELS)
    if path.name == votes_name(network_of(LEVELS[0], SOUP)):
        every[:, : len(SILENT)], labels, _ = read_image_votes(path, SILENT)
    return every, labels


def worth(
    votes: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]], goals: Sequence[str]
) -> pd.DataFrame:
    """A row for each goal and kind of networks: what cascades certify of images that did not choose them."""
    rows = list[dict[str, object]]()
    for goal in goals:
        for kind, (counts, labels) in votes.items():
            curves = [promised_by(goal, counts, labels, half) for half in _halves(len(labels))]
            mean = np.mean(curves, axis=0).tolist()
            told = {"goal": goal, "networks": kind}
            rows.append(told | {f"{r:g}": at for r, at in zip(RADII, mean, strict=True)})
    return pd.DataFrame(rows)


def _halves(count: int) -> Iterator[NDArray[np.bool_]]:
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(count)
        half = np.isin(np.arange(count), order[: count // 2])
        yield from (half, ~half)


PARTS = {"networks": _networks, "votes": count_votes, "worth": _worth}


if __name__ == "__main__":
    main()
