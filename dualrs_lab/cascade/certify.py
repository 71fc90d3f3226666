"""Certify a cascade of experts, and keep its certificates with every vote.

The expert that is guessed to answer gets `n` draws. The others, which need only be shown not to err, get
`n_side`; those that could not raise the radius are not asked. Where each expert already has a table of its
own, a cascade is certified from these without a draw (`from_tables`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualrs_lab.cascade.certificate import CascadeCertificate
from dualrs_lab.cascade.radii import CASCADE_RULES, Cascade, cascade_radius, first_to_accept, steps
from dualrs_lab.data.images import Images
from dualrs_lab.evidence.claim import ABSTAIN
from dualrs_lab.models.sure import grading
from dualrs_lab.settings import OneOf, setting
from dualrs_lab.shards import Shard
from dualrs_lab.smoothing.engine import Voter
from dualrs_lab.smoothing.experts import SampledVotes, experts_job, told_inputs
from dualrs_lab.smoothing.noise import GridNoise, Noise
from dualrs_lab.smoothing.spec import Sampling

__all__ = ["CascadeSpec", "certify_cascade", "certify_cascade_table"]


Ints = NDArray[np.int64]


_WAVE = 64  # images that go through the stages together, or more where a pass holds many


@dataclass(frozen=True, kw_only=True)
class CascadeSpec(Sampling):
    """How a cascade is sampled, besides its networks.

    `n0` draws of each expert guess who answers what; the expert that the guess sends an image to gets `n`.
    """

    cascade: Cascade
    n_side: int = 1_000  # draws of each other expert that could raise the radius
    rule: str = setting(
        CASCADE_RULES[0], "how rivals are bounded at thresholds below 0", OneOf(CASCADE_RULES)
    )
    noise: type[Noise] = GridNoise

    draws: ClassVar[tuple[str, ...]] = ("n0", "n", "n_side")

    @property
    def noises(self) -> list[Noise]:
        """What each expert gets."""
        return [self.noise(sigma) for sigma in self.cascade.sigmas]

    def identity(self) -> dict[str, Any]:
        """As `Sampling.identity`; the rule where it matters and is not that of the first tables."""
        ruled = min(self.cascade.limits) < 0 and self.rule == CASCADE_RULES[0]
        own = {"noise": self.noise.__name__, "cascade": self.cascade.settings()}
        return super().identity() | own | ({"rule": self.rule} if ruled else {})

    def alpha_split(self) -> dict[str, float]:
        """As `Sampling.alpha_split`."""
        return self.cascade.alpha_split(self.alpha)


def certify_cascade(
    experts: Sequence[Voter],
    x: Tensor,
    *,
    spec: CascadeSpec,
    labels: Sequence[int] | None = None,
    idx: Sequence[int] | None = None,
) -> list[CascadeCertificate]:
    """Certificates of inputs (N, ...) by the cascade of these voters, one for each.

    `experts` come in the order of asking, each made for the noise it gets. Votes for classes from
    `spec.cascade.answers` on are silent; only there, voters may have different numbers of classes. `labels`
    default to unknown (-1), `idx` to positions. The same seed and settings give the same certificate whether
    an input comes alone or among others, on one device. Raises as `smoothing.sample` does, and ValueError
    where voters do not fit.
    """
    labels, idx = told_inputs("certify_cascade", experts, x, noise=spec.noises, labels=labels, idx=idx)
    kinds = sorted({voter.classes for voter in experts})
    if len(kinds) > 1 and spec.cascade.answers is None:
        raise ValueError(
            f"certify_cascade: got voters of {' and '.join(map(str, kinds))} classes; wanted one number, or "
            "how many of them are answers in the cascade"
        )
    pool = _Pool(experts, spec, tuple(x.shape[1:]), x.device)
    return pool.certify(x, labels, idx) if len(x) else []


def certify_cascade_table(
    experts: Sequence[nn.Module],
    images: Images,
    path: Path | str,
    *,
    spec: CascadeSpec,
    skip: int = 1,
    max_images: int = -1,
    replace: bool = False,
    progress: bool = True,
    info: dict[str, Any] | None = None,
    shard: Shard | None = None,
) -> pd.DataFrame:
    """Certify every `skip`-th image (at most `max_images`, -1 for all) into the table at `path`.

    `experts` come in the order of asking; one network may serve as several. Where some are `models.Graded`,
    the cascade says how many classes are answers, all of them: their draws are silent below the largest
    confidence. As with `smoothing.certify_table`, networks are frozen on the device of the first one. A table
    with the same settings is resumed; any other is refused or, with `replace`, kept under another name;
    `shard` as there.
    """
    _want_answers(experts, len(images.classes), spec.cascade)
    job = experts_job(
        "certify_cascade_table",
        experts,
        images,
        method="cascade",
        spec=spec,
        noise=spec.noises,
        columns=CascadeCertificate.columns(spec.cascade),
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


def _want_answers(experts: Sequence[nn.Module], classes: int, cascade: Cascade) -> None:
    silent = any(map(grading, experts))
    least = tuple(max(grading(expert), default=0.0) for expert in experts)
    if len(least) == len(cascade.sigmas) and least != cascade.sure:
        raise ValueError(
            f"certify_cascade_table: got experts that are silent below {least}, and a cascade with "
            f"confidences {cascade.sure}; wanted the same"
        )
    if cascade.answers not in (None, classes) or (silent and cascade.answers is None):
        raise ValueError(
            f"certify_cascade_table: got a cascade with answers={cascade.answers} for images of {classes} "
            f"classes{' and experts that may be silent' if silent else ''}; wanted answers={classes}"
        )


class _Pool:
    """The experts of a cascade, each with many draws and with few, of the same noise."""

    def __init__(
        self, voters: Sequence[Voter], spec: CascadeSpec, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self.spec, self.levels = spec, spec.cascade.levels(spec.alpha)
        self.main, self.side = (
            [SampledVotes(v, shape, device, seed=spec.seed, n0=spec.n0, n=n) for v in voters]
            for n in (spec.n, spec.n_side)
        )
        self.how: dict[str, Any] = {"alpha": spec.alpha, "rule": spec.rule}
        all_of_them = np.full((len(voters), 1), spec.n_side)
        self.at_best = steps(all_of_them, np.int64(0), cascade=spec.cascade, **self.how).accepts  # (K,)

    def certify(self, x: Tensor, labels: Sequence[int], idx: Sequence[int]) -> list[CascadeCertificate]:
        start, number = time.perf_counter(), np.asarray(idx, dtype=np.int64)
        selection = self._guess(x, number)
        expert, y = first_to_accept(selection, self.spec.cascade)
        votes = self._count(x, number, selection, expert, y)
        each = (time.perf_counter() - start) / len(x)
        spec = self.spec
        return [
            CascadeCertificate.from_votes(
                selection[i],
                votes[i],
                spec.cascade,
                idx=idx[i],
                label=labels[i],
                seed=spec.seed,
                seconds=each,
                **self.how,
            )
            for i in range(len(x))
        ]

    def _guess(self, x: Tensor, idx: Ints) -> Ints:
        # (N, K, C); experts after the first to accept are not asked
        most = max(expert.classes for expert in self.main)
        votes = np.zeros((len(x), len(self.main), most), dtype=np.int64)
        for j, expert in enumerate(self.main):
            open_ = np.flatnonzero(first_to_accept(votes, self.spec.cascade)[0] == ABSTAIN)
            if len(open_):
                votes[open_, j, : expert.classes] = expert.guess(x[open_], idx[open_])
        return votes

    def _count(self, x: Tensor, idx: Ints, selection: Ints, expert: Ints, y: Ints) -> Ints:
        votes = np.zeros_like(selection)

        def ask(asked: SampledVotes, j: int, chosen: Ints) -> None:
            if len(chosen):
                guess = selection[chosen, j, : asked.classes]
                found, _ = asked.count(x[chosen], idx[chosen], guess, self.levels[j])
                votes[chosen, j, : asked.classes] = found

        for j, main in enumerate(self.main):
            ask(main, j, np.flatnonzero(expert == j))
        for j, side in enumerate(self.side):
            ask(side, j, np.flatnonzero((expert != ABSTAIN) & (expert != j) & self._gains(votes, y, j)))
        return votes

    def _gains(self, votes: Ints, y: Ints, j: int) -> NDArray[np.bool_]:
        # (N,): could votes of expert j, with those of all after it, still raise the radius?
        found = steps(votes, np.maximum(y, 0), cascade=self.spec.cascade, **self.how)
        absent = (votes.sum(axis=2) == 0) & (np.arange(votes.shape[1]) >= j)
        accepts = np.where(absent, self.at_best, found.accepts)
        best = cascade_radius(accepts, np.where(absent, np.inf, found.errs))
        return np.asarray(best > np.maximum(found.radius, 0))
