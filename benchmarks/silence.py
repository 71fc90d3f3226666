"""`python -m benchmarks.silence --data folder:PATH`: cascades of experts that are silent where unsure.

The larger experts by CAT-RS count votes about held-out training images, told apart by how sure each is. From
these it is learnt, for several goals, who is asked, in which order, and below which confidence each is
silent; beside it, the same with every vote counted. What is chosen by one half of the images is judged by the
other (`promised`), and what is chosen by all is certified from the tables of test images (`dualrs-lab certify
--sure`), without a draw. Half an hour on one core, nearly all of it for the votes; with `--votes`, those of
`benchmarks.gpu.silent` are learnt from. Tables whose votes are told apart are those in `--out`, or else
beside the networks; of a noise level that has none, every vote counts.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.dial import ALIKE, CAT_RS, LARGE, SMALL, TAUGHT, keep_cascade, network_of, table_of
from benchmarks.gpu.certifying import ALPHA, RADII, SEED, split
from benchmarks.quality import make_parts, quick
from dualrs_lab.cascade import (
    THRESHOLDS,
    Cascade,
    CascadeGoal,
    FoundCascade,
    expected_curve,
    from_tables,
    search_cascade,
)
from dualrs_lab.combine import read_image_votes
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import average_radius, certified_accuracy, read_table, sure_votes
from dualrs_lab.files import replace_text
from dualrs_lab.models import Graded, load_checkpoint
from dualrs_lab.runtime import pick_device
from dualrs_lab.smoothing import image_votes

__all__ = [
    "ARMS", "CONFIDENCES", "GOALS", "LEVELS", "NEAREST", "SHOWN", "Bench", "certified", "graded_name",
    "graded_table", "main", "of_row", "plain_levels", "tables", "votes_name",
]  # fmt: skip

LEVELS, CONFIDENCES = (1.0, 0.5, 0.25), (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
N, SKIP = 300, 2  # draws about every so many-th held-out training image
STAGES = 5
PUBLISHED = pd.read_csv(TAUGHT.parent / "published_dual.csv")


def _above(system: str) -> tuple[float, ...]:
    found = PUBLISHED[PUBLISHED["system"] == system].set_index("radius")["certified_accuracy"]
    return tuple(float(found[r]) for r in RADII)


NEAREST = "near the best level at each radius"
ARMS = ("silent, asked again", "every vote counts")
SHOWN = "above Dual RS"  # the goal whose table is kept
GOALS = {
    "alike": CascadeGoal(weights=ALIKE),
    "small": CascadeGoal(weights=tuple(3 * w + 1 for w in SMALL)),
    "large": CascadeGoal(weights=tuple(3 * w + 1 for w in LARGE)),
    SHOWN: CascadeGoal(weights=(0.0, *ALIKE[1:]), above=_above("Dual RS, fine-tuned")),
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where results go, and what is counted and certified."""

    out: Path
    data: str
    device: torch.device
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
        return self.counted or self.out / votes_name(network_of(LEVELS[0], CAT_RS))


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing of the parts; print, write and return the cascades, if they are one of them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.silence", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)")
    add("--parts", nargs="+", choices=[*PARTS], metavar="PART", help=", ".join(PARTS))
    add("--votes", type=Path, metavar="FILE", help="learn from these, and count none (those in --out)")
    add("--threads", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/silence"), help="folder for the results (%(default)s)")
    args = parser.parse_args(argv)
    if args.votes and not args.votes.is_file():
        parser.error(f"--votes: {args.votes}: no such file")
    if args.votes and "votes" in (args.parts or ()):
        parser.error("--votes names votes that were counted: leave the part votes out")
    torch.set_num_threads(args.threads or torch.get_num_threads())
    bench = Bench(out=args.out, data=args.data, device=pick_device(args.device), counted=args.votes)
    every = [part for part in PARTS if part != "votes" or not args.votes]
    return make_parts(PARTS, args.parts or every, bench)


def _votes(bench: Bench) -> None:
    networks = [
        Graded(load_checkpoint(network_of(sigma, CAT_RS), device=bench.device)[0], CONFIDENCES)
        for sigma in LEVELS
    ]
    how = quick(bench.device)
    how["fast"] = replace(how["fast"], int8=False)
    image_votes(networks, bench.held_out, bench.votes, sigmas=LEVELS, n=bench.n, seed=SEED, **how)


def votes_name(network: Path) -> str:
    """How the file is called of votes, told apart by how sure they are, of a network and its siblings."""
    return f"{network.stem.partition('_sigma')[0]}_graded_votes.safetensors"


def graded_name(network: Path, sigma: float, n: int = 10_000) -> str:
    """How the table is called of a network's certificates with votes told apart."""
    return f"{network.stem}_graded{sigma:g}_n{n}.tsv"


def graded_table(sigma: float, folder: Path = TAUGHT) -> Path:
    """That of the network by CAT-RS for this noise."""
    return folder / graded_name(network_of(sigma, CAT_RS), sigma)


def plain_levels(folder: Path = TAUGHT) -> tuple[float, ...]:
    """Noise levels without a graded table in `folder` or beside the networks: every vote counts there.

    FileNotFoundError if none has one: nobody could be silent.
    """
    found = tuple(sigma for sigma in LEVELS if not _graded(sigma, folder).exists())
    if found == LEVELS:
        raise FileNotFoundError(
            f"silence: {graded_table(LEVELS[0], folder)}: no such file, nor one of another noise level, nor "
            f"in {TAUGHT}; make them by dualrs-lab certify --sure, or by benchmarks.gpu.silent"
        )
    return found


def tables(folder: Path = TAUGHT) -> dict[float, pd.DataFrame]:
    """Tables about test images: of every level, on the images that all of them hold."""
    plain = plain_levels(folder)
    found = {s: read_table(table_of(s, CAT_RS) if s in plain else _graded(s, folder)) for s in LEVELS}
    idx = set.intersection(*({*table["idx"]} for table in found.values()))
    return {s: table[table["idx"].isin(idx)] for s, table in found.items()}


def _graded(sigma: float, folder: Path) -> Path:
    own = graded_table(sigma, folder)
    return own if own.exists() else graded_table(sigma)


def certified(cascade: Cascade, folder: Path = TAUGHT) -> pd.DataFrame:
    """The table of a cascade, from those of its experts."""
    known = tables(folder)
    return from_tables({s: known[s] for s in {*cascade.sigmas}}, cascade=cascade, alpha=ALPHA)


def of_row(row: "Mapping[str, object] | pd.Series[Any]") -> Cascade:
    """The cascade of a row."""
    told = (str(row[name]).split() for name in ("sigmas", "confidences", "thresholds", "shares"))
    sigmas, sure, limits, shares = (tuple(float(w) for w in words if w != "nan") for words in told)
    silent: dict[str, Any] = {"answers": 10, "confidences": sure} if any(sure) else {}
    return Cascade(sigmas, limits, shares, **silent)


def _promised(bench: Bench) -> pd.DataFrame:
    # chosen by one half of the held-out images, and judged by votes about the other one, both ways
    counts, labels = _counted(bench)
    rows = list[dict[str, object]]()
    for name in (*GOALS, NEAREST):
        for arm in ARMS:
            halves = [(np.arange(len(labels)) % 2 == k, np.arange(len(labels)) % 2 != k) for k in (0, 1)]
            curves = []
            for chosen, judged in halves:
                found = _learnt(name, arm, counts[chosen], labels[chosen], ())
                curves.append(promise(found.cascade, counts[judged], labels[judged]))
            mean = np.mean(curves, axis=0).tolist()
            rows.append({"goal": name, "arm": arm} | {f"{r:g}": x for r, x in zip(RADII, mean, strict=True)})
    kept = pd.DataFrame(rows)
    replace_text(bench.out / "silence_promised.csv", kept.round(6).to_csv(lineterminator="\n", index=False))
    return kept.set_index(["goal", "arm"])


def promise(cascade: Cascade, counts: NDArray[np.int64], labels: NDArray[np.int64]) -> list[float]:
    """What a cascade would certify at RADII, by graded votes about images with these labels."""
    votes = [
        sure_votes(counts[:, LEVELS.index(sigma)], CONFIDENCES, sure)
        for sigma, sure in zip(cascade.sigmas, cascade.sure, strict=True)
    ]
    return [float(at) for at in expected_curve(cascade, votes, labels, radii=RADII, alpha=ALPHA)]


def _learnt(
    name: str, arm: str, counts: NDArray[np.int64], labels: NDArray[np.int64], plain: Sequence[float]
) -> FoundCascade:
    every = sure_votes(counts, CONFIDENCES, 0)[..., :-1]
    goal = GOALS[name] if name in GOALS else CascadeGoal(above=_envelope(every, labels))
    if arm == ARMS[1]:
        return search_cascade(every, labels, LEVELS, goal=goal, stages=len(LEVELS), alpha=ALPHA)
    how: dict[str, Any] = {"confidences": CONFIDENCES, "plain": plain, "stages": STAGES, "alpha": ALPHA}
    return search_cascade(counts, labels, LEVELS, goal=goal, **how)


def _cascades(bench: Bench) -> pd.DataFrame:
    plain, (counts, labels) = plain_levels(bench.out), _counted(bench)
    for sigma in plain:
        print(f"σ = {sigma:g}: every vote counts, as there is no {graded_table(sigma).name}")
    rows = [
        _row(name, arm, _learnt(name, arm, counts, labels, plain), bench.out)
        for name in (*GOALS, NEAREST)
        for arm in ARMS
    ]
    kept = pd.DataFrame(rows)
    shown = of_row(kept[(kept["goal"] == SHOWN) & (kept["arm"] == ARMS[0])].iloc[0])
    table = certified(shown, bench.out)
    keep_cascade(bench.out / "cascade_silent.tsv", shown, table, [CAT_RS] * len(shown.sigmas))
    replace_text(bench.out / "silence.csv", kept.round(6).to_csv(lineterminator="\n", index=False))
    return kept.set_index(["goal", "arm"])[[f"{r:g}" for r in RADII]]


def _envelope(counts: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[float, ...]:
    # what the best level alone certifies at each radius, by two bounds
    alone: dict[str, Any] = {
        "goal": CascadeGoal(),
        "stages": 1,
        "thresholds": (min(THRESHOLDS),),
        "alpha": ALPHA,
    }
    each = [search_cascade(counts[:, [k]], labels, [s], **alone).curve for k, s in enumerate(LEVELS)]
    return tuple(np.max(each, axis=0).tolist())


def _counted(bench: Bench) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    counts, labels, about = read_image_votes(bench.votes, LEVELS)
    if about.get("sure", {}).get("confidences") != [*CONFIDENCES]:
        raise ValueError(
            f"silence: {bench.votes} tells votes apart by {about.get('sure')}; wanted the confidences "
            f"{CONFIDENCES}"
        )
    return counts, labels


def _row(goal: str, arm: str, found: FoundCascade, folder: Path) -> dict[str, object]:
    cascade, table = found.cascade, certified(found.cascade, folder)
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


PARTS = {"votes": _votes, "promised": _promised, "cascades": _cascades}


if __name__ == "__main__":
    main()
