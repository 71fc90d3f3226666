"""`python -m benchmarks.soups --data folder:PATH`: the mean of two recipes' weights, and what it is worth.

The larger experts by CAT-RS went on from those by consistency, so that both lie in one valley: the mean of
their weights, with BatchNorm measured anew on images that are not held out, is a network of their kind. It is
kept in half precision, as they are (part `networks`, less than a minute on one core). Votes about every
second held-out image (`votes`, a quarter of an hour) say what a cascade is worth whose experts may be silent,
beside the same number of votes of the experts by CAT-RS alone: chosen by one half of these images and judged
by the other, for several halves (`worth`, two minutes).
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.dial import CAT_RS, CONSISTENCY, SOUP, TAUGHT, network_of
from benchmarks.gpu.certifying import SEED, keep, split
from benchmarks.silence import SILENT, Bench, count_votes, in_parts
from benchmarks.silent_votes import GOALS, LEVELS, Told, votes_name, worth
from dualrs_lab.combine import read_image_votes
from dualrs_lab.data import load_images
from dualrs_lab.files import digest, replace_text
from dualrs_lab.models import load_checkpoint
from dualrs_lab.training import soup

__all__ = ["BESIDE", "main", "votes_of"]

N, SKIP = 300, 2  # draws about every so many-th held-out image
BESIDE = TAUGHT / f"cifar10_jpeg_wide_start_CAT-RS_graded_votes_n{N}.safetensors"


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing of the parts; print, write and return what the networks are worth."""
    return in_parts("soups", __doc__ or "", PARTS, argv, kind=SOUP, n=N, skip=SKIP)


def _networks(bench: Bench) -> None:
    images = load_images(bench.data, "train")
    taught = images.select(split(images)[0])
    for sigma in SILENT[SOUP]:
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


def votes_of(path: Path) -> Told:
    """Votes at `LEVELS`; those at levels that a file lacks are of networks by CAT-RS."""
    every, labels, _ = read_image_votes(BESIDE, LEVELS)
    if path.name == votes_name(network_of(LEVELS[0], SOUP)):
        silent = SILENT[SOUP]
        every[:, : len(silent)], labels, _ = read_image_votes(path, silent)
    return Told(every, labels)


PARTS = {"networks": _networks, "votes": count_votes, "worth": _worth}


if __name__ == "__main__":
    main()
