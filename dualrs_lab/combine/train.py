"""Learning a combiner from votes about training images, for the radii that it would certify.

Lengths come from the bounds that the draws of the certification would give for the same shares of votes,
so that learning sees what is certified. The share of images that is certified, weighted over radii, is raised
from several starts (`combine.search`); the start that certifies most on images that were held out is kept.
Nothing here needs to be sound: whatever is learnt, the theorem holds for it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import lengths
from dualrs_lab.combine.search import Pairs, Search
from dualrs_lab.evidence.binomial import lower_bound, upper_bound
from dualrs_lab.files import replace_json, want_regular
from dualrs_lab.locks import writing
from dualrs_lab.settings import ALPHA, COUNT, LEVEL, SEED, SHARE, check_settings, required, setting
from dualrs_lab.store import plain, refuse_other

__all__ = ["Learning", "learn_combiner", "read_combiner", "worth"]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


_RIVALS = 4  # classes that learning looks at, besides the label


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What a combiner is learnt for, and how hard it is tried.

    `weights` say what an image is worth that is certified at each of `radii`: the dial between accuracy and
    large radii. Raises ValueError for settings out of their range, and for radii or weights that do not fit.
    """

    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    weights: tuple[float, ...] = ()
    terms: int = setting(16, "terms of the lattice", COUNT)
    starts: int = setting(4, "searches, of which the best is kept", COUNT)
    changes: int = setting(100_000, "changes that each search tries", COUNT)
    held_out: float = setting(0.25, "share of the images that chooses between starts", SHARE)
    draws: int = setting(10_000, "of the certification that is learnt for", COUNT)
    alpha: float = setting(ALPHA, "failure probability of its certificates", LEVEL)
    seed: int = required("of searches and held-out images", SEED)

    def __post_init__(self) -> None:
        check_settings(self)
        fine = list(self.radii) == sorted({*self.radii}) and all(0 <= r < np.inf for r in self.radii)
        given = self.weights or (1.0,) * len(self.radii)
        if not fine or len(given) != len(self.radii) or not (min(given) >= 0 < max(given) < np.inf):
            raise ValueError(
                f"Learning: wanted ascending radii >= 0 and as many weights >= 0, not all 0; got "
                f"{self.radii} and {self.weights}"
            )
        object.__setattr__(self, "weights", tuple(map(float, given)))


def learn_combiner(
    counts: ArrayLike,
    labels: ArrayLike,
    sigmas: tuple[float, ...],
    *,
    learning: Learning,
    path: Path | str,
    about: Mapping[str, Any] | None = None,
) -> Combiner:
    """The combiner learnt from votes `counts` (N, K, C) about images of these `labels` (N,).

    It is kept in the json at `path`, with what each start came to; after a kill, the same call goes on with
    the next start. `about` says where the votes are from. Raises ValueError where shapes do not fit, or where
    what is at `path` is something else, or was learnt with other settings.
    """
    votes, kinds = np.asarray(counts), np.asarray(labels)
    fits = votes.ndim == 3 and kinds.shape == votes.shape[:1] and votes.shape[1] == len(sigmas)
    if not fits or len(votes) < 2:
        raise ValueError(
            f"learn_combiner: got counts {votes.shape} and labels {kinds.shape} for the sigmas {sigmas}; "
            "wanted (N, K, C), (N,) and K of them, with two images at least"
        )
    path, settings = Path(path), plain({**asdict(learning), "sigmas": sigmas, "about": dict(about or {})})
    with writing("learn_combiner", path):
        tried = _begun(path, settings)
        data = _prepared(votes, kinds, sigmas, learning) if len(tried) < learning.starts else None
        while data is not None and len(tried) < learning.starts:
            found = _from_start(data, sigmas, learning, len(tried))
            tried.append({"worth": worth(found, data.choosing, learning), "combiner": found.text})
            best = max(tried, key=lambda one: one["worth"])
            replace_json(path, {"settings": settings, "combiner": best["combiner"], "tried": tried})
    return read_combiner(path)


def read_combiner(path: Path | str) -> Combiner:
    """The combiner that `learn_combiner` left at `path`; ValueError where something else is there."""
    path = Path(path)
    found = _loaded("read_combiner", path)
    return Combiner.of_text(found["settings"]["sigmas"], found["combiner"])


def _loaded(call: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{call}: {path}: no such file; wanted a combiner that was learnt")
    try:
        found = json.loads(path.read_text("utf-8"))
        if {"settings", "combiner", "tried"} <= {*found} and {"sigmas"} <= {*found["settings"]}:
            return dict(found)
    except (ValueError, TypeError, RecursionError):
        pass
    raise ValueError(f"{call}: {path} is no combiner, and stays as it is; choose another file")


def _begun(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    # what the starts so far came to
    want_regular("learn_combiner", path)
    if path.suffix != ".json":
        raise ValueError(f"learn_combiner: got {path}; wanted a name that ends in .json")
    if not path.exists():
        return []
    found = _loaded("learn_combiner", path)
    refuse_other("learn_combiner", path, found["settings"], settings)
    return list(found["tried"])


class _Data(NamedTuple):
    learning: Pairs
    choosing: Pairs


def _prepared(votes: Ints, labels: Ints, sigmas: tuple[float, ...], learning: Learning) -> _Data:
    # shares as the draws of the certification would give them, each side at the level of all bounds
    trials, level = votes.sum(axis=2, keepdims=True), learning.alpha / (2 * len(sigmas))
    share = (votes + 0.5) / (trials + 1)
    at = labels[:, None, None]
    low = lower_bound(np.floor(share * learning.draws), learning.draws, level)
    own = np.take_along_axis(low, np.broadcast_to(at, (*low.shape[:2], 1)), axis=2)
    high = upper_bound(np.ceil(share * learning.draws), learning.draws, level)
    high = lengths(np.minimum(high, 1 - own), sigmas)
    mine = lengths(own, sigmas)[..., 0]
    reach = np.where(np.arange(votes.shape[2]) == labels[:, None], -np.inf, high.max(axis=1))
    nearest = np.argsort(-reach, axis=1)[:, : min(_RIVALS, votes.shape[2] - 1)]
    theirs = np.take_along_axis(high, nearest[:, None], axis=2).swapaxes(1, 2)
    order = np.random.default_rng(learning.seed).permutation(len(votes))
    cut = min(len(votes) - 1, max(1, round(learning.held_out * len(votes))))
    held, kept = order[:cut], order[cut:]
    return _Data(Pairs(mine[kept], theirs[kept]), Pairs(mine[held], theirs[held]))


def _from_start(data: _Data, sigmas: tuple[float, ...], learning: Learning, start: int) -> Combiner:
    # from each expert alone in turn, the one that is worth most first
    singles = [Combiner.single(sigmas, i) for i in range(len(sigmas))]
    ranked = sorted(singles, key=lambda one: -worth(one, data.learning, learning))
    search = Search(
        data.learning,
        ranked[start % len(ranked)],
        radii=learning.radii,
        weights=learning.weights,
        terms=learning.terms,
        seed=learning.seed * 1_000_003 + start,
    )
    return search.run(learning.changes)


def worth(combiner: Combiner, pairs: Pairs, learning: Learning) -> float:
    """The weighted share of images that a combiner certifies, over the radii."""
    certified = (pairs.radii(combiner)[:, None] > np.asarray(learning.radii)).mean(axis=0)
    return sum(float(share) * weight for share, weight in zip(certified, learning.weights, strict=True))
