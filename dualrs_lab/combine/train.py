"""Learning a combiner from votes about training images, for the radii that it would certify.

Lengths come from the bounds that the draws of the certification would give for the same shares of votes,
so that learning sees what is certified. The share of images that a soft radius certifies, weighted over
radii, is raised by gradients through a softened lattice, from several starts; the start that certifies most
on images that were held out is kept. Nothing here needs to be sound: whatever is learnt, the theorem holds.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import combined_margin, lengths
from dualrs_lab.evidence.binomial import lower_bound, upper_bound
from dualrs_lab.files import replace_json, want_regular
from dualrs_lab.locks import writing
from dualrs_lab.settings import ALPHA, COUNT, LEVEL, SEED, SHARE, check_settings, required, setting
from dualrs_lab.store import plain, refuse_other

__all__ = ["Learning", "learn_combiner", "read_combiner", "soft_margin"]


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
    starts: int = setting(8, "random starts, of which the best is kept", COUNT)
    steps: int = setting(600, "steps of gradient descent from each start", COUNT)
    batch: int = setting(1000, "images a step", COUNT)
    held_out: float = setting(0.25, "share of the images that chooses between starts", SHARE)
    draws: int = setting(10_000, "of the certification that is learnt for", COUNT)
    alpha: float = setting(ALPHA, "failure probability of its certificates", LEVEL)
    seed: int = required("of starts, batches and held-out images", SEED)

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


class _Pairs(NamedTuple):
    """Lengths of the label and of its rivals, by the bounds that are learnt for."""

    own: Floats  # (N, K)
    rivals: Floats  # (N, R, K)


class _Data(NamedTuple):
    learning: _Pairs
    choosing: _Pairs


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
    return _Data(_Pairs(mine[kept], theirs[kept]), _Pairs(mine[held], theirs[held]))


def worth(combiner: Combiner, pairs: _Pairs, learning: Learning) -> float:
    """The weighted share of images that a combiner certifies, over the radii."""
    radius = combined_margin(pairs.own[:, None], pairs.rivals, combiner).min(axis=1)
    certified = (radius[:, None] > np.asarray(learning.radii)).mean(axis=0)
    return sum(float(share) * weight for share, weight in zip(certified, learning.weights, strict=True))


def _from_start(data: _Data, sigmas: tuple[float, ...], learning: Learning, start: int) -> Combiner:
    """A lattice from random shifts; temperatures of the lattice and of the steps fall as it is learnt."""
    generator = torch.Generator().manual_seed(learning.seed * 1_000_003 + start)
    width = 3 * len(sigmas) + 1
    shifts = (max(sigmas) * torch.rand((learning.terms, width), generator=generator)).requires_grad_()
    own, rivals = (torch.from_numpy(part).float() for part in data.learning)
    radii, weights = torch.tensor(learning.radii), torch.tensor(learning.weights)
    optimizer = torch.optim.Adam([shifts], lr=_RATE)
    for step in range(learning.steps):
        done = step / learning.steps
        optimizer.param_groups[0]["lr"] = _RATE * (1 - done) + _RATE / 100
        some = torch.randint(len(own), (min(learning.batch, len(own)),), generator=generator)
        soft = _cooled(_LATTICE, done)
        each = soft_margin(own[some, None], rivals[some], shifts, soft)
        radius = -soft * torch.logsumexp(-each / soft, dim=1)
        gained = torch.sigmoid((radius[:, None] - radii) / _cooled(_STEPS, done)) @ weights
        optimizer.zero_grad()
        (-gained.mean()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return _pruned(Combiner.of(sigmas, shifts.detach().numpy()), data.learning)


_RATE = 0.02


_LATTICE = (0.05, 0.003)  # temperatures, in the unit of a radius: at first and at last


_STEPS = (0.15, 0.05)


def _cooled(span: tuple[float, float], done: float) -> float:
    return span[0] * (span[1] / span[0]) ** done


def soft_margin(own: Tensor, rival: Tensor, shifts: Tensor, t: float) -> Tensor:
    """M_yc (…,) of a lattice with `shifts` (A, 3 K + 1) from lengths (…, K), softened by `t`."""
    a, b = own.expand_as(rival), -rival
    half, zero = (a + b) / 2, a.new_zeros((*a.shape[:-1], 1))
    forth = torch.cat([half, a, b, zero], dim=-1)
    back = torch.cat([-half, -b, -a, zero], dim=-1)
    return (_soft_largest(forth, shifts, t) - _soft_largest(back, shifts, t)) / 2


def _soft_largest(v: Tensor, shifts: Tensor, t: float) -> Tensor:
    least = -t * torch.logsumexp(-(v[..., None, :] + shifts) / t, dim=-1)
    return t * torch.logsumexp(least / t, dim=-1)


def _pruned(combiner: Combiner, pairs: _Pairs) -> Combiner:
    """Without the entries that decide nothing about these pairs, nor about any turned round, rounded."""
    a, b = np.broadcast_arrays(pairs.own[:, None], -pairs.rivals)
    half, zero = (a + b) / 2, np.zeros((*a.shape[:-1], 1))
    shifts, used = combiner.array.round(3), np.zeros(combiner.array.shape, dtype=bool)
    for v in ([half, a, b, zero], [-half, -b, -a, zero]):
        flat = np.concatenate(v, axis=-1).reshape(-1, shifts.shape[1])
        for start in range(0, len(flat), 10_000):
            sums = flat[start : start + 10_000, None] + shifts
            term = sums.min(axis=2).argmax(axis=1)
            used[term, sums[np.arange(len(sums)), term].argmin(axis=1)] = True
    return Combiner.of(combiner.sigmas, np.where(used, shifts, np.inf)[used.any(axis=1)])
