"""Whom a dual system asks, and how often: its router on every image, experts only where they matter."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualrs_lab.dual.radii import still_needed
from dualrs_lab.dual.spec import DualSpec
from dualrs_lab.evidence.radii import BOUNDS, ruled_radius
from dualrs_lab.evidence.votes import own_and_rival
from dualrs_lab.smoothing.engine import Voter, count_votes
from dualrs_lab.smoothing.experts import Expert
from dualrs_lab.smoothing.noise import NoiseBlocks

Bools = NDArray[np.bool_]


Ints = NDArray[np.int64]


def noise_of_each(
    spec: DualSpec, shape: tuple[int, ...], device: torch.device, sigma: float, stream: str
) -> NoiseBlocks:
    return NoiseBlocks(spec.noise(sigma), shape, seed=spec.seed, stream=stream, device=device)


class Looks:
    """The estimator: its voters, each with noise to guess the choice and other noise to count."""

    def __init__(
        self, voters: Sequence[Voter], spec: DualSpec, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self.voters, self.spec = voters, spec
        blocks = partial(noise_of_each, spec, shape, device)
        cuts = list(enumerate(spec.estimator.sigmas))
        self.guesses = [blocks(sigma, f"estimator-selection-{k}") for k, sigma in cuts]
        self.counts = [blocks(sigma, f"estimator-{k}") for k, sigma in cuts]

    def __call__(self, x: Tensor) -> tuple[Ints, Ints]:
        """Votes (N, S, C) to guess with, and those that count."""
        return (
            count_all(self.voters, x, self.guesses, self.spec.n0),
            count_all(self.voters, x, self.counts, self.spec.n_estimator),
        )


def ask_experts(
    experts: Sequence[Expert],
    x: Tensor,
    idx: Ints,
    selection: Ints,
    top: Ints,
    entry: NDArray[np.float64],
    spec: DualSpec,
) -> tuple[Ints, Ints]:
    """Votes (N, K, classes) of the experts that were asked, and the draws (N,) that they took.

    The chosen expert first, then by ascending entry radius, each only where it could lower the radius.
    """
    count = len(spec.sigmas)
    votes = np.zeros((len(x), count, selection.shape[1]), dtype=np.int64)
    drawn = np.zeros(len(x), dtype=np.int64)
    asked, radii = np.zeros((len(x), count), dtype=bool), np.zeros((len(x), count))
    unanimous = selection.max(axis=1) == selection.sum(axis=1)
    claim = selection.argmax(axis=1)
    order = np.argsort(np.where(np.arange(count) == top[:, None], -1.0, entry), axis=1, kind="stable")
    needed = np.ones((len(x), count), dtype=bool)
    while (going := np.asarray(needed.any(axis=1))).any():
        turn = np.take_along_axis(needed, order, axis=1).argmax(axis=1)
        following = np.take_along_axis(order, turn[:, None], axis=1)[:, 0]
        for j, chosen in by_expert(following, going, count):
            level = spec.levels.experts[j]
            votes[chosen, j], draws = experts[j].count(x[chosen], idx[chosen], selection[chosen], level)
            drawn[chosen] += draws
            own, rival = own_and_rival(votes[chosen, j], claim[chosen])
            told = own, rival, np.maximum(votes[chosen, j].sum(axis=1), 1), level, spec.sigmas[j]
            how = {"bounds": BOUNDS[spec.stop.bound], "unanimous": unanimous[chosen]}
            radii[chosen, j], asked[chosen, j] = ruled_radius(spec.rule, *told, **how), True
        needed = still_needed(entry, radii, asked) if spec.lazy else ~asked
    return votes, drawn


def by_expert(number: Ints, among: Bools, count: int) -> Iterator[tuple[int, Ints]]:
    # positions of the images that go to each expert
    for j in range(count):
        chosen = np.flatnonzero(among & (number == j))
        if len(chosen):
            yield j, chosen


def count_all(voters: Sequence[Voter], x: Tensor, blocks: Sequence[NoiseBlocks], n: int) -> Ints:
    # (N, S, C)
    counts = [count_votes(v, x, b, n=n, classes=v.classes) for v, b in zip(voters, blocks, strict=True)]
    return np.stack(counts, axis=1)


def check_systems(call: str, estimators: Sequence[Any], experts: Sequence[Any], spec: DualSpec) -> None:
    if len(estimators) != len(spec.estimator.sigmas) or len(experts) != len(spec.sigmas):
        raise ValueError(
            f"{call}: got {len(estimators)} estimators and {len(experts)} experts; {spec.estimator} wants "
            f"{len(spec.estimator.sigmas)}, the sigmas {spec.sigmas} as many experts (one network may stand "
            "for several)"
        )


def check_voters(call: str, estimators: Sequence[Voter], experts: Sequence[Voter], spec: DualSpec) -> None:
    sigmas = (*spec.estimator.sigmas, *spec.sigmas)
    kinds = [spec.estimator.classes(len(spec.sigmas))] * len(estimators) + [experts[0].classes] * len(experts)
    wanted = [(spec.noise(sigma), kind) for sigma, kind in zip(sigmas, kinds, strict=True)]
    got = [(voter.noise, voter.classes) for voter in (*estimators, *experts)]
    if got != wanted:
        raise ValueError(f"{call}: wanted voters for (noise, classes) {wanted}, got {got}")
