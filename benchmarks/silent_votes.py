"""What votes that tell how sure they are promise of cascades whose experts may be silent.

`benchmarks.silence` counts them about held-out training images, and says of what is learnt here what it is
worth.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from benchmarks.dial import ALIKE, CAT_RS, LARGE, SMALL, TAUGHT, VOTES, network_of
from benchmarks.gpu.certifying import ALPHA, RADII
from dualrs_lab.cascade import (
    THRESHOLDS,
    Cascade,
    CascadeGoal,
    FoundCascade,
    expected_curve,
    search_cascade,
)
from dualrs_lab.combine import read_image_votes
from dualrs_lab.evidence import sure_votes
from dualrs_lab.files import replace_bytes
from dualrs_lab.store import read_record, write_record

__all__ = [
    "ARMS", "CONFIDENCES", "GOALS", "HALVES", "LEVELS", "NEAREST", "SHOWN", "TOLD", "Told", "alone",
    "counted", "envelope", "halves", "join_votes", "learnt", "promise", "promised", "votes_name", "worth",
]  # fmt: skip

LEVELS, CONFIDENCES = (1.0, 0.5, 0.25), (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
STAGES, CLASSES = 5, 10
HALVES = 3  # ways to halve the images, each judged both ways
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


def votes_name(network: Path) -> str:
    """How the file is called of votes, told apart by how sure they are, of a network and its siblings."""
    return f"{network.stem.partition('_sigma')[0]}_graded_votes.safetensors"


TOLD = TAUGHT / votes_name(network_of(LEVELS[0], CAT_RS))  # of the networks by CAT-RS


@dataclass(frozen=True)
class Told:
    """Votes (N, K, C (T + 1)) at K `levels`, told apart by CONFIDENCES, about images with labels (N,).

    At levels that are `plain` every vote counts.
    """

    counts: NDArray[np.int64]
    labels: NDArray[np.int64]
    levels: tuple[float, ...] = LEVELS
    plain: tuple[float, ...] = ()

    def about(self, images: NDArray[np.bool_]) -> "Told":
        """Those about some of the images."""
        return replace(self, counts=self.counts[images], labels=self.labels[images])

    def every(self) -> NDArray[np.int64]:
        """All votes (N, K, C), however sure."""
        return sure_votes(self.counts, CONFIDENCES, 0)[..., :-1]

    def sure(self, cascade: Cascade) -> list[NDArray[np.int64]]:
        """Votes (N, C + 1) of each expert of a cascade by its confidence, silence last."""
        asked = zip(cascade.sigmas, cascade.sure, strict=True)
        return [sure_votes(self.counts[:, self.levels.index(s)], CONFIDENCES, sure) for s, sure in asked]


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


def counted(path: Path, levels: Sequence[float] = LEVELS) -> Told:
    """Votes that a file holds, at `levels`.

    Levels of which it holds nothing are those of the networks by CAT-RS, as shipped: told apart, or else
    with every vote counting.
    """
    graded, labels, sigmas, images = _told_apart(path)
    counts = np.zeros((len(labels), len(levels), graded.shape[2]), dtype=np.int64)
    for place, sigma in enumerate(levels):
        held = graded[:, sigmas.index(sigma)] if sigma in sigmas else _shipped(sigma, path, labels, images)
        counts[:, place, : held.shape[1]] = held
    plain = (s for place, s in enumerate(levels) if not counts[:, place, CLASSES:].any())
    return Told(counts, labels, tuple(levels), tuple(plain))


def _told_apart(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[float, ...], str]:
    # counts, labels, noise levels, and which images
    sigmas = tuple(read_record(path).get("identity", {}).get("sigmas", LEVELS))
    graded, labels, about = read_image_votes(path, sigmas)
    if about.get("sure", {}).get("confidences") != [*CONFIDENCES]:
        raise ValueError(
            f"silence: {path} tells votes apart by {about.get('sure')}; wanted the confidences {CONFIDENCES}"
        )
    return graded, labels, sigmas, about["images"]


def _shipped(sigma: float, path: Path, labels: NDArray[np.int64], images: str) -> NDArray[np.int64]:
    # (N, C (T + 1)), or (N, C) of votes that nobody told apart
    graded, _, sigmas, same = _told_apart(TOLD)
    if sigma in sigmas and same == images:
        return graded[:, sigmas.index(sigma)]
    votes, plain = VOTES[CAT_RS]
    if sigma in plain and sigma not in sigmas:
        held, k, rows = load_file(votes), plain.index(sigma), np.arange(len(labels))
        counts: NDArray[np.int64] = held["counts"][:, k].astype(np.int64)
        if len(counts) == len(labels) and (counts[rows, labels] == held["votes"][:, k]).all():
            return counts
    raise ValueError(
        f"silence: {path} holds no votes at σ = {sigma:g}, and the shipped ones are of other levels or images"
    )


def worth(votes: Mapping[str, Told], goals: Sequence[str]) -> pd.DataFrame:
    """A row for each goal and kind of networks: what cascades certify of images that did not choose them."""
    return pd.DataFrame(
        {"goal": goal, "networks": kind} | promised(goal, told)
        for goal in goals
        for kind, told in votes.items()
    )


def promised(goal: str, told: Told, arm: str = ARMS[0]) -> dict[str, float]:
    """By radius, what cascades that half of the images choose promise of the other half, in the mean."""
    curves = []
    for half in halves(len(told.labels)):
        curves.append(promise(learnt(goal, told.about(half), arm).cascade, told.about(~half)))
    return {f"{r:g}": float(at) for r, at in zip(RADII, np.mean(curves, axis=0), strict=True)}


def halves(count: int) -> Iterator[NDArray[np.bool_]]:
    """Halves of so many images, each with the other one after it."""
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(count)
        half = np.isin(np.arange(count), order[: count // 2])
        yield from (half, ~half)


def promise(cascade: Cascade, told: Told) -> list[float]:
    """What a cascade would certify at RADII of the images that votes are about."""
    found = expected_curve(cascade, told.sure(cascade), told.labels, radii=RADII, alpha=ALPHA)
    return [float(at) for at in found]


def learnt(name: str, told: Told, arm: str = ARMS[0]) -> FoundCascade:
    """The best cascade found for a goal, one of GOALS or NEAREST."""
    goal = GOALS[name] if name in GOALS else CascadeGoal(above=envelope(told))
    how: dict[str, Any] = {"goal": goal, "alpha": ALPHA}
    if arm == ARMS[1]:
        return search_cascade(told.every(), told.labels, told.levels, stages=len(told.levels), **how)
    how |= {"confidences": CONFIDENCES, "plain": told.plain, "stages": STAGES}
    return search_cascade(told.counts, told.labels, told.levels, **how)


def envelope(told: Told) -> tuple[float, ...]:
    """What the best level alone would certify at each radius, by two bounds, where every vote counts."""
    every = told.every()
    each = [alone(every[:, place], told.labels, sigma) for place, sigma in enumerate(told.levels)]
    return tuple(np.max(each, axis=0).tolist())


def alone(counts: NDArray[np.int64], labels: NDArray[np.int64], sigma: float) -> list[float]:
    """What votes (N, C) at one level promise at RADII, by two bounds."""
    how: dict[str, Any] = {"goal": CascadeGoal(), "stages": 1, "thresholds": (min(THRESHOLDS),)}
    return [*search_cascade(counts[:, None], labels, [sigma], **how, alpha=ALPHA).curve]
