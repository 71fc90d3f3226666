"""`python -m benchmarks.peers --data folder:PATH`: other ways to a noise level for each image, on CIFAR-10.

From the shipped networks and their votes, with results in `--out`: `votes` of the expert for sigma = 0.5
under a level that changes slowly with the image (an hour on a free CPU core), `near`, which test images lie
so close that a memory could matter, and `board`, every rule on the same images. A run that was killed goes
on where it stopped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from benchmarks.quality import (
    ALPHA,
    BOTH,
    SHIPPED,
    SHIPPED_SYSTEMS,
    SIGMAS,
    N,
    at_radii,
    make_parts,
    part_options,
    quick,
    read_parts,
)
from dualrs_lab.data import Images, load_images
from dualrs_lab.dual import compare
from dualrs_lab.evidence import radius_ceiling, read_table, reclaimed
from dualrs_lab.files import replace_text
from dualrs_lab.models import load_checkpoint
from dualrs_lab.peers import (
    NO_CLASSIFIER,
    certify_smooth_table,
    fit_smooth_sigma,
    pixel_rows,
    remembered_table,
)
from dualrs_lab.runtime import pick_device
from dualrs_lab.smoothing import GridNoise, Spec

__all__ = ["BASE", "FALSE", "MEMORY", "RATE", "SMOOTH", "away_of", "board", "main", "near_pairs"]

BASE, RATE = 0.5, 0.01  # the rate is that of Súkeník et al. on CIFAR-10
SKIP, MOST = 40, 250  # which test images, unless told
SMOOTH = f"smooth σ(x), r = {RATE:g}"
FALSE = " (not valid: as if σ were the same everywhere)"
MEMORY = f"σ by votes, memory{NO_CLASSIFIER}"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the parts share."""

    out: Path
    data: str
    device: torch.device
    skip: int = SKIP
    most: int = MOST

    @cached_property
    def test(self) -> Images:
        """Images to certify."""
        return load_images(self.data, "test")

    @property
    def table(self) -> Path:
        """Certificates under sigma(x)."""
        return self.out / f"smooth_sigma{BASE:g}_rate{RATE:g}_n{N}.tsv"

    @property
    def near(self) -> Path:
        """Pairs of test images that are near each other."""
        return self.out / "near.csv"


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing of the parts; print, write and return the comparison, if it is one of them."""
    parser = part_options("peers", __doc__, PARTS, toy=False)
    add = parser.add_argument
    add("--skip", type=int, default=SKIP, help="draw for every so many-th test image (%(default)s)")
    add("--images", type=int, default=MOST, help="at most so many of these (%(default)s)")
    args = read_parts(parser, argv)
    few = {"skip": args.skip, "most": args.images}
    bench = Bench(out=args.out, data=args.data, device=pick_device(args.device), **few)
    return make_parts(PARTS, args.parts, bench)


def _votes(bench: Bench) -> None:
    train = load_images(bench.data, "train")
    model, _ = load_checkpoint(SHIPPED.expert(BASE), device=bench.device)
    how = quick(bench.device)
    how["fast"] = replace(how["fast"], int8=False)  # as its votes at the one level were drawn
    spec = Spec(noise=GridNoise(BASE), seed=0, n=N, alpha=ALPHA, rule="two-bounds", **how)
    certify_smooth_table(
        model,
        bench.test,
        train,
        bench.table,
        spec=spec,
        smooth=fit_smooth_sigma(train, base=BASE, rate=RATE),
        skip=bench.skip,
        max_images=bench.most,
        info={"checkpoint": SHIPPED.expert(BASE).name, "trained_sigma": BASE},
    )


def _near(bench: Bench) -> None:
    idx = SHIPPED.singles(SIGMAS)[BASE]["idx"].to_numpy()
    replace_text(bench.near, near_pairs(bench.test, idx).to_csv(index=False, lineterminator="\n"))


def near_pairs(images: Images, idx: NDArray[np.int64]) -> pd.DataFrame:
    """Pairs (a, b, distance) of these images, nearer than twice the largest radius that there can be."""
    x = pixel_rows(images.select(idx.tolist())) / 255
    away = cdist(x, x)
    a, b = np.nonzero(np.triu(away < 2 * radius_ceiling(N, ALPHA, max(SIGMAS)), k=1))
    return pd.DataFrame({"a": idx[a], "b": idx[b], "distance": away[a, b]})


def away_of(near: pd.DataFrame, idx: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distances (N, N) of the images `idx`, infinite where a pair is not near."""
    place = {int(one): i for i, one in enumerate(idx)}
    away = np.where(np.eye(len(idx)) == 1, 0.0, np.inf)
    for a, b, distance in near.itertuples(index=False):
        if a in place and b in place:
            away[place[a], place[b]] = away[place[b], place[a]] = distance
    return away


def _board(bench: Bench) -> pd.DataFrame:
    found = board(read_table(bench.table), pd.read_csv(bench.near))
    replace_text(bench.out / "board.csv", found.round(6).to_csv(lineterminator="\n"))
    return found


def board(smooth: pd.DataFrame, near: pd.DataFrame) -> pd.DataFrame:
    """Every rule on the images of the table `smooth`, from votes alone; what is no certificate says so."""
    idx = smooth["idx"].to_numpy()
    singles = {s: table[table["idx"].isin(idx)] for s, table in SHIPPED.singles(SIGMAS).items()}
    away = away_of(near, np.sort(idx))
    plain = smooth.assign(method="rs")
    others = {}
    for rule, end in (("cohen", ""), ("two-bounds", BOTH)):
        others[f"{SMOOTH}{end}"] = reclaimed(smooth, rule)
        others[f"{SMOOTH}{FALSE}{end}"] = reclaimed(plain, rule)
        others[f"{MEMORY}{end}"] = remembered_table(singles, away, rule=rule)
    return at_radii(compare(singles, read_table(SHIPPED_SYSTEMS.answers("dual")), others=others))


PARTS: Mapping[str, Callable[[Bench], pd.DataFrame | None]] = {
    "votes": _votes,
    "near": _near,
    "board": _board,
}


if __name__ == "__main__":
    main()
