"""The experts of a system: smoothed classifiers that are asked for votes, by drawing or by reading a table.

A vote depends on network, image, noise stream and seed, not on the level of the statement that it serves. So
a table of `smoothing.certify_table` answers for its network in any system that would draw the same noise.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualrs_lab.data.images import Group, Images
from dualrs_lab.evidence.claim import Claim
from dualrs_lab.evidence.joins import counted_votes, each_once, of_what_voted
from dualrs_lab.evidence.resume import Row
from dualrs_lab.evidence.table import read_table
from dualrs_lab.evidence.votes import vote_counts
from dualrs_lab.models.checkpoints import fingerprint
from dualrs_lab.models.suited import suited_each
from dualrs_lab.models.sure import graded_each, kinds_of
from dualrs_lab.settings import RULE
from dualrs_lab.smoothing.engine import Voter, count_votes, sample
from dualrs_lab.smoothing.frozen import FrozenVoter
from dualrs_lab.smoothing.job import Job, Sampled, note, reason_to_stop
from dualrs_lab.smoothing.noise import Noise, NoiseBlocks
from dualrs_lab.smoothing.spec import Sampling, Spec, identify
from dualrs_lab.smoothing.stopping import AllDraws, Stopping
from dualrs_lab.store import plain, read_record, refuse_other

__all__ = [
    "Expert",
    "RecordedVotes",
    "SampledVotes",
    "Sampler",
    "experts_job",
    "recorded_steps",
    "told_inputs",
]


Ints = NDArray[np.int64]


class SampledVotes:
    """An expert that is asked by drawing: `n0` draws to guess a class, at most `n` others to count.

    The streams of noise are those of `smoothing`, so votes are those of `certify_table` with this seed.
    """

    def __init__(
        self,
        voter: Voter,
        shape: tuple[int, ...],
        device: torch.device,
        *,
        seed: int,
        n0: int,
        n: int,
        stop: Stopping = AllDraws(),  # noqa: B008  # frozen
        rule: str = RULE.names[0],
    ) -> None:
        self.voter, self.classes, self.stop, self.n = voter, voter.classes, stop, n
        self.rule = rule
        self.n0 = stop.selection(n0)
        self.guesses, self.counts = (
            NoiseBlocks(voter.noise, shape, seed=seed, stream=stream, device=device)
            for stream in ("selection", "estimation")
        )

    def guess(self, x: Tensor, idx: Ints) -> Ints:
        """Votes (N, classes) that guess the class of x (N, ...), the images `idx` (N,)."""
        del idx
        return count_votes(self.voter, x, self.guesses, n=self.n0, classes=self.classes)

    def count(self, x: Tensor, idx: Ints, selection: Ints, level: float) -> tuple[Ints, Ints]:
        """Votes (N, classes) that count as evidence at this level, and the draws (N,) that they took."""
        del idx
        votes, drawn = np.zeros_like(selection), np.zeros(len(x), dtype=np.int64)
        watch = self.stop.watch(
            selection, n=self.n, alpha=level, sigma=self.voter.noise.sigma, rule=self.rule
        )
        for finished in sample(self.voter, x, self.counts, draws=watch.draws, done=watch.done):
            for position, counts, _ in finished:
                votes[position], drawn[position] = watch.evidence(position, counts), counts.sum()
        return votes, drawn


class RecordedVotes:
    """The votes of a `table`, by idx.

    A ValueError names `call` where the table lacks some of `positions` or has an image twice, where votes
    contradict their counts, or are for a class beyond `classes`.
    """

    def __init__(self, call: str, path: Path | str, positions: Sequence[int], classes: int) -> None:
        self.table, self.classes = read_table(Path(path)), classes
        if missing := sorted(set(positions) - set(self.table["idx"])):
            raise ValueError(
                f"{call}: {path} lacks {len(missing)} of {len(positions)} images, idx {missing[0]} first; "
                "certify them there, or sample this network anew"
            )
        each_once(call, self.table, str(path))
        of_what_voted(call, str(path), self.table)
        pairs = [*zip(*counted_votes(f"{call}: {path}", self.table), strict=True)]
        most = max(kind for pair in pairs for votes in pair for kind, _ in votes)
        if most >= classes:
            raise ValueError(
                f"{call}: {path} has votes for class {most}; wanted votes for one of {classes} classes only"
            )
        counts = (vote_counts(pair, classes) for pair in pairs)
        self._rows = dict(zip(self.table["idx"].tolist(), counts, strict=True))

    def guess(self, x: Tensor, idx: Ints) -> Ints:
        """As `SampledVotes.guess`."""
        del x
        return np.stack([self._rows[i][0] for i in idx.tolist()])

    def count(self, x: Tensor, idx: Ints, selection: Ints, level: float) -> tuple[Ints, Ints]:
        """As `SampledVotes.count`, for any level."""
        del x, selection, level
        votes = np.stack([self._rows[i][1] for i in idx.tolist()])
        return votes, votes.sum(axis=1)


Expert = SampledVotes | RecordedVotes


def recorded_steps(
    call: str, path: Path | str, model: nn.Module, images: Images, spec: Spec
) -> dict[str, Any]:
    """How the network of the table at `path` was frozen, as its record says.

    A ValueError names `call` where the table's draws are not those of `model`, `images` and `spec`, or where
    its frozen network was another classifier.
    """
    wanted, found = identify(model, images, spec), read_record(path).get("identity") or {}
    for free in ("alpha", "rule"):  # votes do not depend on them
        wanted.pop(free, None)
    refuse_other(call, path, {key: found[key] for key in wanted if key in found}, wanted)
    noted = note([model], [spec.noise], images, seed=spec.seed, device=next(model.parameters()).device)
    if reason := reason_to_stop(read_record(path), noted, complete=True):
        raise ValueError(f"{call}: {path} {reason}")
    return dict(found["fast"])


class Sampler(Protocol):
    """The experts of a system, frozen: certifies inputs x (N, ...) with these labels and idx."""

    def certify(self, x: Tensor, labels: Sequence[int], idx: Sequence[int]) -> Sequence[Claim]: ...


def experts_job(
    call: str,
    experts: Sequence[nn.Module],
    images: Images,
    *,
    method: str,
    spec: Sampling,
    noise: Sequence[Noise],
    columns: Sequence[str],
    sampler: Callable[[list[FrozenVoter], tuple[int, ...], torch.device], Sampler],
    wave: int,
) -> Job:
    """The job of a system of experts, each sampled under its `noise`, for images of a shape on a device.

    Raises ValueError unless there is an expert for each noise, and as `models.suited_each` does.
    """
    if len(experts) != len(noise):
        sigmas = tuple(one.sigma for one in noise)
        raise ValueError(f"{call}: got {len(experts)} experts for the sigmas {sigmas}")
    models, device = suited_each(call, experts, images), next(experts[0].parameters()).device
    known = {"experts": [fingerprint(model) for model in models], "images": images.fingerprint()}
    known |= graded_each(models)

    def rows(voters: list[FrozenVoter], waves: Iterable[Group]) -> Iterator[Sequence[Row]]:
        pool = sampler(voters, images.shape, device)
        return (pool.certify(x, labels, idx) for x, labels, idx in waves)

    classes = len(images.classes)
    return Job(
        call=call,
        spec=spec,
        identity=plain({"method": method, **known, **spec.identity()}),
        networks=[
            Sampled(model, one, kinds_of(model, classes)) for model, one in zip(models, noise, strict=True)
        ],
        like=models[0],
        rows=rows,
        wave=wave,
        passes=2,
        columns=columns,
    )


def told_inputs(
    call: str,
    voters: Sequence[Voter],
    x: Tensor,
    *,
    noise: Sequence[Noise],
    labels: Sequence[int] | None,
    idx: Sequence[int] | None,
) -> tuple[Sequence[int], Sequence[int]]:
    """Labels and idx of inputs x (N, ...): unknown (-1), and their positions, unless they are given.

    Raises ValueError where one is not for each input, or where voters were made for other noise.
    """
    labels = [-1] * len(x) if labels is None else labels
    idx = range(len(x)) if idx is None else idx
    made = [voter.noise for voter in voters]
    if made != [*noise] or not len(x) == len(labels) == len(idx):
        raise ValueError(
            f"{call}: wanted voters for {[*noise]}, a label and an idx for each of {len(x)} inputs; got "
            f"{made}, {len(labels)} and {len(idx)}"
        )
    return labels, idx
