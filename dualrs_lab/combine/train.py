"""Learning a combiner from votes about training images, for the radii that it would certify.

Lengths come from the bounds that the draws of the certification would give for the same shares of votes,
so that learning sees what is certified. The share of images that is certified, weighted over radii, is raised
from several starts (`combine.search`); the start that certifies most on images that were held out is kept.
Nothing here needs to be sound: whatever is learnt, the theorem holds for it.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.learning import Learning
from dualrs_lab.combine.radii import lengths
from dualrs_lab.combine.search import Pairs, Search
from dualrs_lab.evidence.binomial import lower_bound, upper_bound
from dualrs_lab.evidence.votes import want_labels
from dualrs_lab.files import replace_json, set_aside, want_regular
from dualrs_lab.locks import writing
from dualrs_lab.store import plain, read_record, refuse_other, unchanged

__all__ = ["learn_combiner", "read_combiner", "read_image_votes", "worth"]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


_RIVALS = 4  # classes that learning looks at, besides the label


def learn_combiner(
    counts: ArrayLike,
    labels: ArrayLike,
    sigmas: tuple[float, ...],
    *,
    learning: Learning,
    path: Path | str,
    about: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Combiner:
    """The combiner learnt from votes `counts` (N, K, C) about images of these `labels` (N,).

    It is kept in the json at `path`, with what each start came to; after a kill, the same call goes on with
    the next start. `about` says where the votes are from. Raises ValueError where shapes do not fit, or where
    what is at `path` is something else, or was learnt with other settings; with `replace` such a combiner is
    kept under another name, with a warning.
    """
    votes, kinds = np.asarray(counts), np.asarray(labels)
    fits = votes.ndim == 3 and kinds.shape == votes.shape[:1] and votes.shape[1] == len(sigmas)
    if not fits or len(votes) < 2 or votes.shape[2] < 2:
        raise ValueError(
            f"learn_combiner: got counts {votes.shape} and labels {kinds.shape} for the sigmas {sigmas}; "
            "wanted (N, K, C), (N,) and K of them, with two images and two classes at least"
        )
    want_labels("learn_combiner", kinds, votes.shape[2])
    path, settings = Path(path), plain({**asdict(learning), "sigmas": sigmas, "about": dict(about or {})})
    with writing("learn_combiner", path):
        tried = _begun(path, settings, replace=replace)
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


def read_image_votes(path: Path | str, sigmas: tuple[float, ...]) -> tuple[Ints, Ints, dict[str, Any]]:
    """Counts (N, K, C) in the order of `sigmas` and labels (N,) of a file of `smoothing.image_votes`.

    And what tells that file from others, with `sure` where its experts are graded (`evidence.sure_votes`).
    Raises ValueError where it is none, holds votes for the label only, or is of other noise levels.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(path)
    try:
        held = load(unchanged("read_image_votes", path))
    except SafetensorError:
        held = {}
    known = read_record(path).get("identity") or {}
    if not {"counts", "labels"} <= {*held} or sorted(known.get("sigmas", [])) != sorted(sigmas):
        raise ValueError(
            f"read_image_votes: {path} holds {', '.join(sorted(held)) or 'no tensors'} for the sigmas "
            f"{known.get('sigmas')}; wanted counts and labels for {list(sigmas)}, as image_votes keeps them"
        )
    order = [known["sigmas"].index(sigma) for sigma in sigmas]
    about = {name: known[name] for name in ("experts", "images", "n", "seed", "sure") if name in known}
    return held["counts"].astype(np.int64)[:, order], held["labels"].astype(np.int64), about


def _loaded(call: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{call}: {path}: no such file; wanted a combiner that was learnt")
    try:
        found = dict(json.loads(path.read_text("utf-8")))
        for one in (found, *found["tried"]):
            Combiner.of_text(tuple(found["settings"]["sigmas"]), one["combiner"])
        if all(isinstance(one["worth"], float) for one in found["tried"]):
            return found
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise ValueError(f"{call}: {path} is no combiner, and stays as it is; choose another file")


def _begun(path: Path, settings: Mapping[str, Any], *, replace: bool) -> list[dict[str, Any]]:
    # what the starts so far came to
    want_regular("learn_combiner", path)
    if path.suffix != ".json":
        raise ValueError(f"learn_combiner: got {path}; wanted a name that ends in .json")
    if not path.exists():
        return []
    found = _loaded("learn_combiner", path)
    if replace and found["settings"] != settings:
        (now,) = set_aside(path)
        warnings.warn(f"{path.name} was learnt with other settings; it is now {now.name}", stacklevel=3)
        return []
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
