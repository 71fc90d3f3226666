"""`python -m benchmarks.silence --data folder:PATH`: cascades of experts that are silent where unsure.

The larger experts by CAT-RS count votes about held-out training images, told apart by how sure each is. From
these it is learnt, for several goals, who is asked, in which order, and below which confidence each is
silent; beside it, the same with every vote counted. What is chosen by one half of the images is judged by the
other (`promised`), and what is chosen by all is certified from the tables of test images (`dualrs-lab certify
--sure`), without a draw. An hour and a half on one core, nearly all of it for the votes, a file for each
level; with `--votes`, those of `benchmarks.gpu.silent` are learnt from. Tables whose votes are told apart are
those in `--out`, or else beside the networks; of a noise level that has none, or has no such votes, every
vote counts. With `--networks`, the same with σ = 0.7 for σ = 1 (`between`, from `benchmarks.between`), or for
the means of two recipes (`soup`, from `benchmarks.soups`).
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.dial import BETWEEN, CAT_RS, SOUP, TAUGHT, keep_cascade, kind_at, network_of, table_of
from benchmarks.gpu.certifying import ALPHA, RADII, SEED, split
from benchmarks.quality import make_parts, part_options, quick, read_parts
from benchmarks.silent_votes import (
    ARMS,
    CONFIDENCES,
    GOALS,
    LEVELS,
    NEAREST,
    SHOWN,
    counted,
    join_votes,
    learnt,
    promised,
    votes_name,
)
from dualrs_lab.cascade import Cascade, FoundCascade, from_tables
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import average_radius, certified_accuracy, read_table
from dualrs_lab.files import replace_text
from dualrs_lab.models import Classifier, Graded, load_checkpoint
from dualrs_lab.runtime import pick_device
from dualrs_lab.smoothing import image_votes

__all__ = [
    "ASKED", "KINDS", "SILENT", "Bench", "N", "certified", "count_at", "count_votes", "graded_name",
    "graded_table", "in_parts", "main", "of_row", "plain_levels", "tables",
]  # fmt: skip

KINDS = {CAT_RS: "", SOUP: "_soup", BETWEEN: "_between"}  # of networks, and how their results are called
ASKED = {CAT_RS: LEVELS, SOUP: LEVELS, BETWEEN: (0.7, *LEVELS[1:])}
SILENT = {kind: levels[:2] for kind, levels in ASKED.items()}  # the last one has nobody to leave an image to
Parts = Mapping[str, Callable[["Bench"], Any]]
N, SKIP = 1000, 1  # draws about every so many-th held-out training image


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where results go, and what is counted and certified."""

    out: Path
    data: str
    device: torch.device
    kind: str = CAT_RS  # of the networks that may be silent
    counted: Path | None = None  # votes that were counted elsewhere
    skip: int = SKIP
    n: int = N

    @cached_property
    def held_out(self) -> Images:
        """Training images on which no network was trained."""
        images = load_images(self.data, "train")
        return images.select(split(images)[1][:: self.skip])

    @property
    def votes(self) -> Path:
        """Votes about them, by how sure each is."""
        return self.counted or self.out / votes_name(network_of(ASKED[self.kind][0], self.kind))

    def votes_at(self, sigma: float) -> Path:
        """Those at one level, which are joined."""
        return self.out / f"{network_of(sigma, self.kind).stem}_graded_votes.safetensors"

    def result(self, name: str) -> Path:
        """Where results of this name are kept."""
        return self.out / name.replace(".", f"{KINDS[self.kind]}.")


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing of the parts; print, write and return the cascades, if they are one of them."""
    parser = part_options("silence", __doc__, PARTS, toy=False)
    parser.add_argument(
        "--networks", choices=[*KINDS], default=CAT_RS, help="that may be silent (%(default)s)"
    )
    parser.add_argument(
        "--votes", type=Path, metavar="FILE", help="learn from these, and count none (those in --out)"
    )
    args = read_parts(parser, argv)
    if args.votes and not args.votes.is_file():
        parser.error(f"--votes: {args.votes}: no such file")
    if args.votes and "votes" in (args.parts or ()):
        parser.error("--votes names votes that were counted: leave the part votes out")
    every = [part for part in PARTS if part != "votes" or not args.votes]
    return make_parts(PARTS, args.parts or every, _bench(args, kind=args.networks, counted=args.votes))


def in_parts(name: str, about: str, parts: Parts, argv: Sequence[str] | None, **how: Any) -> pd.DataFrame:
    """What `python -m benchmarks.NAME` does: make what is missing of its parts; the table of the last one.

    `about` is the docstring of its module, and `how` is what networks, and which votes, it is about.
    """
    args = read_parts(part_options(name, about, parts, toy=False), argv)
    return make_parts(parts, args.parts, _bench(args, **how))


def _bench(args: argparse.Namespace, **how: Any) -> Bench:
    return Bench(out=args.out, data=args.data, device=pick_device(args.device), **how)


def count_votes(bench: Bench) -> None:
    """Votes about the held-out images, level by level, and all of them in one file."""
    own = [sigma for sigma in SILENT[bench.kind] if kind_at(sigma, bench.kind) == bench.kind]
    for sigma in own:
        count_at(bench, sigma, load_checkpoint(network_of(sigma, bench.kind), device=bench.device)[0])
    join_votes([bench.votes_at(sigma) for sigma in own], bench.votes)


def count_at(bench: Bench, sigma: float, network: Classifier, path: Path | None = None) -> Path:
    """Where votes of a network about them are kept, by how sure each is: counted, unless they are there."""
    how, path = quick(bench.device), path or bench.votes_at(sigma)
    how["fast"] = replace(how["fast"], int8=False)
    told = Graded(network, CONFIDENCES)
    image_votes([told], bench.held_out, path, sigmas=[sigma], n=bench.n, seed=SEED, **how)
    return path


def graded_name(network: Path, sigma: float, n: int = 10_000) -> str:
    """How the table is called of a network's certificates with votes told apart."""
    return f"{network.stem}_graded{sigma:g}_n{n}.tsv"


def graded_table(sigma: float, folder: Path = TAUGHT, kind: str = CAT_RS) -> Path:
    """That of the network of this kind for this noise: in `folder`, or else beside the networks."""
    name = graded_name(network_of(sigma, kind), sigma)
    return folder / name if (folder / name).exists() else TAUGHT / name


def plain_levels(folder: Path = TAUGHT, kind: str = CAT_RS) -> tuple[float, ...]:
    """Noise levels without a graded table in `folder` or beside the networks: every vote counts there.

    FileNotFoundError if none has one: nobody could be silent.
    """
    levels = ASKED[kind]
    found = tuple(sigma for sigma in levels if not graded_table(sigma, folder, kind).exists())
    if found == levels:
        raise FileNotFoundError(
            f"silence: {graded_table(levels[0], folder, kind)}: no such file, nor one of another noise level "
            f"or in {folder}; make them by dualrs-lab certify --sure, or by benchmarks.gpu.silent"
        )
    return found


def tables(folder: Path = TAUGHT, kind: str = CAT_RS) -> dict[float, pd.DataFrame]:
    """Tables about test images: of every level, on the images that all of them hold."""
    plain = plain_levels(folder, kind)
    found = {
        s: read_table(table_of(s, CAT_RS) if s in plain else graded_table(s, folder, kind))
        for s in ASKED[kind]
    }
    idx = set.intersection(*({*table["idx"]} for table in found.values()))
    return {s: table[table["idx"].isin(idx)] for s, table in found.items()}


def certified(cascade: Cascade, folder: Path = TAUGHT, kind: str = CAT_RS) -> pd.DataFrame:
    """The table of a cascade, from those of its experts."""
    known = tables(folder, kind)
    return from_tables({s: known[s] for s in {*cascade.sigmas}}, cascade=cascade, alpha=ALPHA)


def of_row(row: "Mapping[str, object] | pd.Series[Any]") -> Cascade:
    """The cascade of a row."""
    told = (str(row[name]).split() for name in ("sigmas", "confidences", "thresholds", "shares"))
    sigmas, sure, limits, shares = (tuple(float(w) for w in words if w != "nan") for words in told)
    silent: dict[str, Any] = {"answers": 10, "confidences": sure} if any(sure) else {}
    return Cascade(sigmas, limits, shares, **silent)


def _promised(bench: Bench) -> pd.DataFrame:
    told = counted(bench.votes, ASKED[bench.kind])
    kept = pd.DataFrame(
        {"goal": goal, "arm": arm} | promised(goal, told, arm) for goal in (*GOALS, NEAREST) for arm in ARMS
    )
    replace_text(bench.result("silence_promised.csv"), kept.round(6).to_csv(lineterminator="\n", index=False))
    return kept.set_index(["goal", "arm"])


def _cascades(bench: Bench) -> pd.DataFrame:
    told, lacking = counted(bench.votes, ASKED[bench.kind]), plain_levels(bench.out, bench.kind)
    told = replace(told, plain=tuple(sorted({*told.plain, *lacking})))
    for sigma in lacking:
        print(f"σ = {sigma:g}: every vote counts, as there is no {graded_table(sigma, kind=bench.kind).name}")
    rows = [_row(name, arm, learnt(name, told, arm), bench) for name in (*GOALS, NEAREST) for arm in ARMS]
    kept = pd.DataFrame(rows)
    shown = of_row(kept[(kept["goal"] == SHOWN) & (kept["arm"] == ARMS[0])].iloc[0])
    table = certified(shown, bench.out, bench.kind)
    kinds = [CAT_RS if sigma in lacking else kind_at(sigma, bench.kind) for sigma in shown.sigmas]
    keep_cascade(bench.result("cascade_silent.tsv"), shown, table, kinds)
    replace_text(bench.result("silence.csv"), kept.round(6).to_csv(lineterminator="\n", index=False))
    return kept.set_index(["goal", "arm"])[[f"{r:g}" for r in RADII]]


def _row(goal: str, arm: str, found: FoundCascade, bench: Bench) -> dict[str, object]:
    cascade, table = found.cascade, certified(found.cascade, bench.out, bench.kind)
    told = {
        "goal": goal,
        "arm": arm,
        "sigmas": " ".join(f"{s:g}" for s in cascade.sigmas),
        "confidences": " ".join(f"{s:g}" for s in cascade.sure),
        "thresholds": " ".join(f"{limit:g}" for limit in cascade.limits),
        "shares": " ".join(map(repr, cascade.shares)),
        "held_out": found.worth,
        "images": len(table),
    }
    held = {f"held_out_{r:g}": at for r, at in zip(RADII, found.curve, strict=True)}
    reached: NDArray[np.float64] = certified_accuracy(table, RADII)
    at = {f"{r:g}": float(share) for r, share in zip(RADII, reached, strict=True)}
    return told | held | at | {"acr": average_radius(table)}


PARTS = {"votes": count_votes, "promised": _promised, "cascades": _cascades}


if __name__ == "__main__":
    main()
