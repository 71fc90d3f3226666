"""`python -m benchmarks.silence --data folder:PATH`: cascades of experts that are silent where unsure.

The larger experts by CAT-RS count votes about held-out training images, told apart by how sure each is. From
these it is learnt, for several goals, who is asked, in which order, and below which confidence each is
silent; beside it, the same with every vote counted. What is chosen by one half of the images is judged by the
other (`promised`), and what is chosen by all is certified from the tables of test images (`dualrs-lab certify
--sure`), without a draw. An hour and a half on one core, nearly all of it for the votes, a file for each
level; with `--votes`, those of `benchmarks.gpu.silent` are learnt from. Tables whose votes are told apart are
those in `--out`, or else beside the networks; of a noise level that has none, or has no such votes, every
vote counts. With `--networks soup`, the same for the means of two recipes (`benchmarks.soups`).
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from benchmarks.dial import (
    ALIKE,
    CAT_RS,
    LARGE,
    SMALL,
    SOUP,
    TAUGHT,
    VOTES,
    keep_cascade,
    network_of,
    table_of,
)
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
from dualrs_lab.files import replace_bytes, replace_text
from dualrs_lab.models import Graded, load_checkpoint
from dualrs_lab.runtime import pick_device
from dualrs_lab.smoothing import image_votes
from dualrs_lab.store import read_record, write_record

__all__ = [
    "ARMS",
    "CONFIDENCES",
    "GOALS",
    "KINDS",
    "LEVELS",
    "NEAREST",
    "SHOWN",
    "SILENT",
    "Bench",
    "N",
    "certified",
    "count_votes",
    "counted",
    "envelope",
    "graded_name",
    "graded_table",
    "join_votes",
    "main",
    "of_row",
    "plain_levels",
    "promised_by",
    "tables",
    "votes_name",
]  # fmt: skip

LEVELS, CONFIDENCES = (1.0, 0.5, 0.25), (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SILENT = LEVELS[:2]  # the last one has nobody to leave an image to
KINDS = {CAT_RS: "", SOUP: "_soup"}  # networks that may be silent, and how their results are called
N, SKIP = 1000, 1  # draws about every so many-th held-out training image
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
        return self.counted or self.out / votes_name(network_of(LEVELS[0], self.kind))

    def votes_at(self, sigma: float) -> Path:
        """Those at one level, which are joined."""
        return self.out / f"{network_of(sigma, self.kind).stem}_graded_votes.safetensors"

    def result(self, name: str) -> Path:
        """Where results of this name are kept."""
        return self.out / name.replace(".", f"{KINDS[self.kind]}.")


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing of the parts; print, write and return the cascades, if they are one of them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.silence", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)")
    add("--parts", nargs="+", choices=[*PARTS], metavar="PART", help=", ".join(PARTS))
    add("--networks", choices=[*KINDS], default=CAT_RS, help="that may be silent (%(default)s)")
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
    bench = Bench(
        out=args.out, data=args.data, device=pick_device(args.device), kind=args.networks, counted=args.votes
    )
    every = [part for part in PARTS if part != "votes" or not args.votes]
    return make_parts(PARTS, args.parts or every, bench)


def count_votes(bench: Bench) -> None:
    """Votes about the held-out images, level by level, and all of them in one file."""
    how = quick(bench.device)
    how["fast"] = replace(how["fast"], int8=False)
    for sigma in SILENT:
        network = Graded(load_checkpoint(network_of(sigma, bench.kind), device=bench.device)[0], CONFIDENCES)
        path = bench.votes_at(sigma)
        image_votes([network], bench.held_out, path, sigmas=[sigma], n=bench.n, seed=SEED, **how)
    join_votes([bench.votes_at(sigma) for sigma in SILENT], bench.votes)


def join_votes(parts: Sequence[Path], path: Path) -> None:
    """Votes of several networks about the same images, as `image_votes` of all of them would keep them."""
    each, records = [load_file(part) for part in parts], [read_record(part) for part in parts]
    made = {name: np.concatenate([held[name] for held in each], axis=1) for name in ("counts", "votes")}
    data = save({**made, "labels": each[0]["labels"]})
    several = {
        name: [one for record in records for one in record["identity"][name]]
        for name in ("experts", "sigmas")
    }
    told = {name: [one for record in records for one in record[name]] for name in ("fast", "probe")}
    record = {**records[0], **told, "identity": records[0]["identity"] | several}
    write_record("silence", path, record | {"sha256": sha256(data).hexdigest()})
    replace_bytes(path, data)


def votes_name(network: Path) -> str:
    """How the file is called of votes, told apart by how sure they are, of a network and its siblings."""
    return f"{network.stem.partition('_sigma')[0]}_graded_votes.safetensors"


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
    found = tuple(sigma for sigma in LEVELS if not graded_table(sigma, folder, kind).exists())
    if found == LEVELS:
        raise FileNotFoundError(
            f"silence: {graded_table(LEVELS[0], folder, kind)}: no such file, nor one of another noise level "
            f"or in {folder}; make them by dualrs-lab certify --sure, or by benchmarks.gpu.silent"
        )
    return found


def tables(folder: Path = TAUGHT, kind: str = CAT_RS) -> dict[float, pd.DataFrame]:
    """Tables about test images: of every level, on the images that all of them hold."""
    plain = plain_levels(folder, kind)
    found = {
        s: read_table(table_of(s, CAT_RS) if s in plain else graded_table(s, folder, kind)) for s in LEVELS
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
    # chosen by one half of the held-out images, and judged by votes about the other one, both ways
    counts, labels, plain = counted(bench.votes)
    rows = list[dict[str, object]]()
    for name in (*GOALS, NEAREST):
        for arm in ARMS:
            halves = [np.arange(len(labels)) % 2 == k for k in (0, 1)]
            curves = [promised_by(name, counts, labels, half, arm, plain) for half in halves]
            mean = np.mean(curves, axis=0).tolist()
            rows.append({"goal": name, "arm": arm} | {f"{r:g}": x for r, x in zip(RADII, mean, strict=True)})
    kept = pd.DataFrame(rows)
    replace_text(bench.result("silence_promised.csv"), kept.round(6).to_csv(lineterminator="\n", index=False))
    return kept.set_index(["goal", "arm"])


def promised_by(
    goal: str,
    counts: NDArray[np.int64],
    labels: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    arm: str = ARMS[0],
    plain: Sequence[float] = (),
) -> list[float]:
    """What the cascade that the `chosen` images choose would certify of the others at RADII."""
    found = _learnt(goal, arm, counts[chosen], labels[chosen], plain)
    return promise(found.cascade, counts[~chosen], labels[~chosen])


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
    goal = GOALS[name] if name in GOALS else CascadeGoal(above=envelope(every, labels))
    if arm == ARMS[1]:
        return search_cascade(every, labels, LEVELS, goal=goal, stages=len(LEVELS), alpha=ALPHA)
    how: dict[str, Any] = {"confidences": CONFIDENCES, "plain": plain, "stages": STAGES, "alpha": ALPHA}
    return search_cascade(counts, labels, LEVELS, goal=goal, **how)


def _cascades(bench: Bench) -> pd.DataFrame:
    counts, labels, untold = counted(bench.votes)
    plain = tuple(sorted({*untold, *(lacking := plain_levels(bench.out, bench.kind))}))
    for sigma in lacking:
        print(f"σ = {sigma:g}: every vote counts, as there is no {graded_table(sigma, kind=bench.kind).name}")
    rows = [
        _row(name, arm, _learnt(name, arm, counts, labels, plain), bench)
        for name in (*GOALS, NEAREST)
        for arm in ARMS
    ]
    kept = pd.DataFrame(rows)
    shown = of_row(kept[(kept["goal"] == SHOWN) & (kept["arm"] == ARMS[0])].iloc[0])
    table = certified(shown, bench.out, bench.kind)
    kinds = [CAT_RS if sigma in lacking else bench.kind for sigma in shown.sigmas]
    keep_cascade(bench.result("cascade_silent.tsv"), shown, table, kinds)
    replace_text(bench.result("silence.csv"), kept.round(6).to_csv(lineterminator="\n", index=False))
    return kept.set_index(["goal", "arm"])[[f"{r:g}" for r in RADII]]


def envelope(counts: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[float, ...]:
    """What the best level alone would certify at each radius, by two bounds, where every vote counts."""
    alone: dict[str, Any] = {
        "goal": CascadeGoal(),
        "stages": 1,
        "thresholds": (min(THRESHOLDS),),
        "alpha": ALPHA,
    }
    each = [search_cascade(counts[:, [k]], labels, [s], **alone).curve for k, s in enumerate(LEVELS)]
    return tuple(np.max(each, axis=0).tolist())


def counted(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[float, ...]]:
    """Votes (N, K, C (T + 1)) at `LEVELS`, labels (N,), and the levels at which every vote counts.

    These are levels of which the file holds nothing: their plain votes are those that were shipped.
    """
    told = tuple(read_record(path).get("identity", {}).get("sigmas", LEVELS))
    graded, labels, about = read_image_votes(path, told)
    if about.get("sure", {}).get("confidences") != [*CONFIDENCES]:
        raise ValueError(
            f"silence: {path} tells votes apart by {about.get('sure')}; wanted the confidences {CONFIDENCES}"
        )
    counts = np.zeros((len(labels), len(LEVELS), graded.shape[2]), dtype=np.int64)
    for place, sigma in enumerate(LEVELS):
        if sigma in told:
            counts[:, place] = graded[:, told.index(sigma)]
        else:
            plain = _plain(sigma, labels)
            counts[:, place, : plain.shape[1]] = plain
    return counts, labels, tuple(sigma for sigma in LEVELS if sigma not in told)


def _plain(sigma: float, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    path, sigmas = VOTES[CAT_RS]
    held, k = load_file(path), sigmas.index(sigma)
    counts, right = held["counts"][:, k].astype(np.int64), held["votes"][:, k]
    if len(counts) != len(labels) or (counts[np.arange(len(labels)), labels] != right).any():
        raise ValueError(f"silence: {path} is about other images than the {len(labels)} of these votes")
    return counts


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
