"""Certify a combiner of experts, and keep its certificates with every vote.

All experts guess; those that are counted get `n` draws each, one after the other, and an expert whose votes
could no longer change what is certified is not asked. Where each expert already has a table of its own, a
combiner is certified from these without a draw (`combine_tables`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualrs_lab.combine.certificate import CombinedCertificate
from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import combined_radius, surest_class
from dualrs_lab.data.images import Images
from dualrs_lab.shards import Shard
from dualrs_lab.smoothing.engine import Voter
from dualrs_lab.smoothing.experts import SampledVotes, experts_job, told_inputs
from dualrs_lab.smoothing.noise import GridNoise, Noise
from dualrs_lab.smoothing.spec import Sampling

__all__ = ["CombineSpec", "certify_combined", "certify_combined_table"]


Ints = NDArray[np.int64]


_WAVE = 64  # images that go through the experts together, or more where a pass holds many


@dataclass(frozen=True, kw_only=True)
class CombineSpec(Sampling):
    """How a combiner is sampled, besides its networks.

    `n0` draws of each expert guess the class; an expert that is asked gets `n`. With `lazy`, experts are
    asked while they can change what is certified.
    """

    combiner: Combiner
    lazy: bool = True
    noise: type[Noise] = GridNoise

    @property
    def noises(self) -> list[Noise]:
        """What each expert gets."""
        return [self.noise(sigma) for sigma in self.combiner.sigmas]

    def identity(self) -> dict[str, Any]:
        """As `Sampling.identity`."""
        how = {"noise": self.noise.__name__, "lazy": self.lazy}
        return super().identity() | how | {"sigmas": self.combiner.sigmas, "combiner": self.combiner.text}

    def alpha_split(self) -> dict[str, float]:
        """As `Sampling.alpha_split`."""
        return {"each bound": self.alpha / self.combiner.spends}


def certify_combined(
    experts: Sequence[Voter],
    x: Tensor,
    *,
    spec: CombineSpec,
    labels: Sequence[int] | None = None,
    idx: Sequence[int] | None = None,
) -> list[CombinedCertificate]:
    """Certificates of inputs (N, ...) by the combiner of these voters, one for each.

    `experts` come in the order of `spec.combiner.sigmas`, each made for the noise it gets. `labels` default
    to unknown (-1), `idx` to positions. The same seed and settings give the same certificate whether an input
    comes alone or among others, on one device. Raises as `smoothing.sample` does, and ValueError where voters
    do not fit.
    """
    labels, idx = told_inputs("certify_combined", experts, x, noise=spec.noises, labels=labels, idx=idx)
    pool = _Pool(experts, spec, tuple(x.shape[1:]), x.device)
    return pool.certify(x, labels, idx) if len(x) else []


def certify_combined_table(
    experts: Sequence[nn.Module],
    images: Images,
    path: Path | str,
    *,
    spec: CombineSpec,
    skip: int = 1,
    max_images: int = -1,
    replace: bool = False,
    progress: bool = True,
    info: dict[str, Any] | None = None,
    shard: Shard | None = None,
) -> pd.DataFrame:
    """Certify every `skip`-th image (at most `max_images`, -1 for all) into the table at `path`.

    `experts` come in the order of `spec.combiner.sigmas`; one network may serve as several. As with
    `smoothing.certify_table`, networks are frozen on the device of the first one. A table with the same
    settings is resumed; any other is refused or, with `replace`, kept under another name; `shard` as there.
    """
    job = experts_job(
        "certify_combined_table",
        experts,
        images,
        method="combine",
        spec=spec,
        noise=spec.noises,
        columns=CombinedCertificate.columns(spec.combiner),
        sampler=lambda voters, shape, device: _Pool(voters, spec, shape, device),
        wave=_WAVE,
    )
    return job.run(
        images,
        path,
        skip=skip,
        max_images=max_images,
        replace=replace,
        progress=progress,
        info=info,
        shard=shard,
    )


class _Pool:
    """The experts of a combiner, each with noise to guess and other noise to count."""

    def __init__(
        self, voters: Sequence[Voter], spec: CombineSpec, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self.spec = spec
        self.experts = [SampledVotes(v, shape, device, seed=spec.seed, n0=spec.n0, n=spec.n) for v in voters]

    def certify(self, x: Tensor, labels: Sequence[int], idx: Sequence[int]) -> list[CombinedCertificate]:
        start, number, spec = time.perf_counter(), np.asarray(idx, dtype=np.int64), self.spec
        selection = np.stack([expert.guess(x, number) for expert in self.experts], axis=1)
        votes = self._count(x, number, selection, surest_class(selection, spec.combiner))
        each = (time.perf_counter() - start) / len(x)
        return [
            CombinedCertificate.from_votes(
                selection[i],
                votes[i],
                spec.combiner,
                idx=idx[i],
                label=labels[i],
                alpha=spec.alpha,
                seed=spec.seed,
                seconds=each,
            )
            for i in range(len(x))
        ]

    def _count(self, x: Tensor, idx: Ints, selection: Ints, y: Ints) -> Ints:
        votes = np.zeros_like(selection)
        while (going := self._open(votes, y)).any():
            turn = self._most_telling(votes, y)
            for j, expert in enumerate(self.experts):
                if len(chosen := np.flatnonzero(going & (turn == j))):
                    level = self.spec.alpha / self.spec.combiner.spends
                    votes[chosen, j], _ = expert.count(x[chosen], idx[chosen], selection[chosen, j], level)
        return votes

    def _open(self, votes: Ints, y: Ints) -> NDArray[np.bool_]:
        # (N,): could experts that were not asked yet still change what is certified?
        missing = votes.sum(axis=2) == 0
        if not self.spec.lazy:
            return np.asarray(missing.any(axis=1))
        worst, best = self._radius(votes, y), self._radius(self._at_best(votes, y, missing), y)
        return np.asarray(missing.any(axis=1) & (best > np.maximum(worst, 0.0)))

    def _most_telling(self, votes: Ints, y: Ints) -> Ints:
        # (N,): the expert without which least could be certified, were all others at their best
        missing = votes.sum(axis=2) == 0
        least = np.full(missing.shape, np.inf)
        for j in range(missing.shape[1]):
            others = missing & (np.arange(missing.shape[1]) != j)
            without = self._radius(self._at_best(votes, y, others), y)
            least[:, j] = np.where(missing[:, j], without, np.inf)
        return np.asarray(least.argmin(axis=1))

    def _at_best(self, votes: Ints, y: Ints, missing: NDArray[np.bool_]) -> Ints:
        found = votes.copy()
        image, expert = np.nonzero(missing)
        found[image, expert, y[image]] = self.spec.n
        return found

    def _radius(self, votes: Ints, y: Ints) -> NDArray[np.float64]:
        return combined_radius(votes, y, combiner=self.spec.combiner, alpha=self.spec.alpha)
