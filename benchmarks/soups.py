"""`python -m benchmarks.soups --data folder:PATH`: the mean of the weights of two recipes.

The larger experts by CAT-RS went on from those by consistency, so that both lie in one valley: the mean of
their weights, with BatchNorm measured anew on images that are not held out, is a network of their kind. It is
kept in half precision, as they are. Less than a minute on one core; what they are worth, in a cascade whose
experts may be silent, is `benchmarks.silence --networks soup`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.dial import CAT_RS, CONSISTENCY, SOUP, network_of
from benchmarks.gpu.certifying import SEED, keep, split
from benchmarks.silence import SILENT
from dualrs_lab.data import load_images
from dualrs_lab.files import digest
from dualrs_lab.models import load_checkpoint
from dualrs_lab.runtime import pick_device
from dualrs_lab.training import soup

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Make those that are missing; print and return where they are."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soups", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)")
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/soups"), help="folder for the networks (%(default)s)")
    args = parser.parse_args(argv)
    images, device = load_images(args.data, "train"), pick_device(args.device)
    taught, made = images.select(split(images)[0]), list[Path]()
    for sigma in SILENT:
        path = args.out / network_of(sigma, SOUP).name
        made.append(path)
        if not path.exists():
            parts = [network_of(sigma, kind) for kind in (CONSISTENCY, CAT_RS)]
            networks = [load_checkpoint(part, device=device)[0] for part in parts]
            told = {"soup": {part.name: digest(part) for part in parts}, "history": []}
            keep(path, soup(networks, taught, sigma=sigma, seed=SEED), images, sigma, told)
        print(path)
    return made


if __name__ == "__main__":
    main()
