"""Certify a dual system: an estimator chooses the noise level, an expert smoothed at that level answers.

(Sun, Mao and Vechev 2026.) The experts may be one classifier smoothed at several levels, or a network for
each level. The estimator's draws give the radius within which expert j cannot be chosen, each expert's draws
the radius within which it keeps the claimed class; from both, `routes` makes the published and the routed
certificate. Experts are asked lazily: the chosen one first, another only where it could still lower the
routed radius, which costs no level.

Expert and class are guessed on draws of their own; the other draws decide neither. The experts' streams are
those of `smoothing`, so their votes are those of `certify_table` with the same seed, noise, network and
numbers of draws.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualrs_lab.bounds import rs_radius, top_two_pvalue, two_sided_pvalue
from dualrs_lab.certificates import ABSTAIN, BOUNDS
from dualrs_lab.data import Group, Images
from dualrs_lab.dual_certificates import DualCertificate, judge
from dualrs_lab.estimators import Cuts, Estimator, Plurality
from dualrs_lab.experts import Expert, RecordedVotes, SampledVotes, recorded_steps
from dualrs_lab.fastpath import FrozenVoter
from dualrs_lab.job import Job, Sampled
from dualrs_lab.routes import Split, still_needed
from dualrs_lab.sampling import GridNoise, Noise, NoiseBlocks, Voter, count_votes
from dualrs_lab.smoothing import Spec, fingerprint
from dualrs_lab.spec import Sampling, as_rule
from dualrs_lab.stopping import AllDraws, Stopping
from dualrs_lab.store import plain, positions, read_record

__all__ = ["DualSpec", "certify_dual", "certify_dual_table", "predict_dual"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
_WAVE = 16  # images that go through the stages together, or more where a pass holds many


@dataclass(frozen=True, kw_only=True)
class DualSpec(Sampling):
    """How a dual system is smoothed and sampled, besides its networks.

    `n0` draws guess the expert, and as many its class; an expert that is asked gets `n`.
    """

    estimator: Estimator  # how votes choose an expert, with the estimator's noise
    sigmas: tuple[float, ...]  # of the experts, ascending
    n_estimator: int = 10_000  # draws of the estimator
    split: Split | None = None  # of alpha over all bounds, fixed beforehand; None: the estimator's even one
    stop: Stopping = AllDraws()  # how many of its n draws an expert that is asked gets  # noqa: RUF009
    lazy: bool = True  # ask an expert only where it could matter
    noise: type[Noise] = GridNoise

    draws: ClassVar[tuple[str, ...]] = ("n0", "n", "n_estimator")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigmas or list(self.sigmas) != sorted(set(self.sigmas)):
            raise ValueError(f"DualSpec: wanted ascending sigmas, one at least; got {self}")
        self.estimator.classes(len(self.sigmas))  # raises where they do not fit
        even, split = self.estimator.split(len(self.sigmas), self.alpha), self.levels
        shapes = [(len(one.lower), len(one.experts)) for one in (even, split)]
        if not split.guessed_apart or split.alpha != self.alpha or shapes[0] != shapes[1]:
            raise ValueError(
                f"DualSpec: wanted a split of alpha = {self.alpha:g} with guessed_apart (the choice at x is "
                f"guessed on separate draws) and {shapes[0][0]} levels for the estimator, {shapes[0][1]} for "
                f"the experts; got {split}"
            )

    @property
    def levels(self) -> Split:
        """The split of alpha that is used."""
        return self.split or self.estimator.split(len(self.sigmas), self.alpha)

    def identity(self) -> dict[str, Any]:
        """As `Sampling.identity`."""
        rules = {"estimator": as_rule(self.estimator), "stop": as_rule(self.stop)}
        asked = {"sigmas": self.sigmas, "split": asdict(self.levels), "lazy": self.lazy}
        return super().identity() | rules | asked | {"noise": self.noise.__name__}


def certify_dual(
    estimators: Sequence[Voter],
    experts: Sequence[Voter],
    x: Tensor,
    *,
    spec: DualSpec,
    labels: Sequence[int] | None = None,
    idx: Sequence[int] | None = None,
) -> list[DualCertificate]:
    """Certificates of inputs (N, ...) by the dual system of these voters, one each.

    `estimators` has a voter per stream of `spec.estimator`, `experts` one per sigma, each made for the noise
    it gets. `labels` default to unknown (-1), `idx` to positions. The same seed and settings give the same
    certificate whether an input comes alone or among others, on one device. Raises as `sample` does, and
    ValueError where voters, labels or idx do not fit.
    """
    labels = [-1] * len(x) if labels is None else labels
    idx = range(len(x)) if idx is None else idx
    _check("certify_dual", estimators, experts, spec)
    _check_voters("certify_dual", estimators, experts, spec)
    if not len(x) == len(labels) == len(idx):
        raise ValueError(
            f"certify_dual: got {len(x)} inputs, {len(labels)} labels, {len(idx)} indices; wanted as many of "
            "each"
        )
    if not len(x):
        return []
    shape = tuple(x.shape[1:])
    pool = _sampled(experts, spec, shape, x.device)
    return _certify_wave(_Looks(estimators, spec, shape, x.device), pool, x, labels, idx, spec)


def certify_dual_table(
    estimators: Sequence[nn.Module],
    experts: Sequence[nn.Module],
    images: Images,
    path: Path | str,
    *,
    spec: DualSpec,
    recorded: Sequence[Path | str] = (),
    skip: int = 1,
    max_images: int = -1,
    replace: bool = False,
    progress: bool = True,
    info: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """Certify every `skip`-th image (at most `max_images`, -1 for all) into the table at `path`.

    `estimators` has a network per stream of `spec.estimator`, `experts` one per sigma; one network may serve
    as several. As with `smoothing.certify_table`, networks are frozen on the device of the first expert. A
    table with the same settings is resumed; any other is refused or, with `replace`, kept under another name.
    Rows are flushed a wave of images at a time. `radius` is the routed radius, `published` the other.

    `recorded` names a table of `certify_table` for each expert, with the same network, images, seed, n0 and
    n, and with all draws. These are the draws that this call would make, so the votes are read there and only
    the estimator is sampled. For a table of other draws, a ValueError says what differs.
    """
    call, device = "certify_dual_table", next(experts[0].parameters()).device
    _check(call, estimators, experts, spec)
    identity = _identity(estimators, experts, images, spec)
    if recorded:
        identity["recorded"] = _recorded_steps(recorded, experts, images, spec)
    wanted = positions(call, len(images), skip, max_images)
    known = [RecordedVotes(call, file, wanted, len(images.classes)) for file in recorded]

    def rows(voters: list[FrozenVoter], waves: Iterable[Group]) -> Iterator[list[DualCertificate]]:
        looks = _Looks(voters[: len(estimators)], spec, images.shape, device)
        pool: list[Expert] = [*known, *_sampled(voters[len(estimators) :], spec, images.shape, device)]
        for x, labels, idx in waves:
            yield _certify_wave(looks, pool, x, labels, idx, spec)

    job = Job(
        call=call,
        spec=spec,
        identity=identity,
        networks=_networks(estimators, () if recorded else experts, len(images.classes), spec),
        like=experts[0],
        rows=rows,
        wave=_WAVE,
        passes=2,
        columns=DualCertificate.columns(spec.sigmas),
        told=lambda each: [*each, *(read_record(Path(file)).get("disagreement") for file in recorded)],
    )
    return job.run(
        images, path, skip=skip, max_images=max_images, replace=replace, progress=progress, info=info
    )


def _networks(
    estimators: Sequence[nn.Module], experts: Sequence[nn.Module], classes: int, spec: DualSpec
) -> list[Sampled]:
    kinds = spec.estimator.classes(len(spec.sigmas))
    looks = zip(estimators, spec.estimator.sigmas, strict=True)
    asked = zip(experts, spec.sigmas, strict=bool(experts))
    return [
        *(Sampled(model, spec.noise(sigma), kinds) for model, sigma in looks),
        *(Sampled(model, spec.noise(sigma), classes) for model, sigma in asked),
    ]


def _recorded_steps(
    recorded: Sequence[Path | str], experts: Sequence[nn.Module], images: Images, spec: DualSpec
) -> list[dict[str, Any]]:
    # how the network of each table was frozen
    if len(recorded) != len(experts) or spec.stop != AllDraws():
        raise ValueError(
            f"certify_dual_table: got {len(recorded)} recorded tables for {len(experts)} experts and stop = "
            f"{spec.stop}; wanted a table for each, and AllDraws: where votes stop early depends on the level"
        )

    def alone(sigma: float) -> Spec:
        return Spec(noise=spec.noise(sigma), seed=spec.seed, n0=spec.n0, n=spec.n, alpha=spec.alpha)

    return [
        recorded_steps("certify_dual_table", file, model, images, alone(sigma))
        for file, model, sigma in zip(recorded, experts, spec.sigmas, strict=True)
    ]


def predict_dual(estimators: Sequence[Voter], experts: Sequence[Voter], x: Tensor, *, spec: DualSpec) -> Ints:
    """Classes (N,) of inputs (N, ...), ABSTAIN where a choice is too close to call.

    (Sun, Mao and Vechev 2026.) Half of alpha tests the expert that `n_estimator` draws choose, the other half
    Cohen's PREDICT of this expert, with `n` draws. Returns a class other than that of the ideal system with
    probability at most alpha, input by input. Voters and errors are as for `certify_dual`.
    """
    _check("predict_dual", estimators, experts, spec)
    _check_voters("predict_dual", estimators, experts, spec)
    found = np.full(len(x), ABSTAIN, dtype=np.int64)
    if not len(x):
        return found

    blocks = partial(_noise, spec, tuple(x.shape[1:]), x.device)
    looks = [blocks(s, f"estimator-prediction-{k}") for k, s in enumerate(spec.estimator.sigmas)]
    votes = _count_all(estimators, x, looks, spec.n_estimator)
    settled = _choice_pvalue(spec.estimator, votes) <= spec.alpha / 2
    for j, chosen in _by_expert(spec.estimator.top(votes), settled, len(spec.sigmas)):
        draws = blocks(spec.sigmas[j], "prediction")
        counts = count_votes(experts[j], x[chosen], draws, n=spec.n, classes=experts[j].classes)
        sure = top_two_pvalue(counts) <= spec.alpha / 2
        found[chosen] = np.where(sure, counts.argmax(axis=1), ABSTAIN)
    return found


def _choice_pvalue(estimator: Estimator, votes: Ints) -> NDArray[np.float64]:
    """(N,): how well votes (N, S, C) support the expert that they choose.

    The first cut that says yes decides, so a wrong choice needs a wrong answer of one of the cuts up to it:
    the largest of their p-values, times the number of all cuts (Bonferroni).
    """
    if isinstance(estimator, Plurality):
        return top_two_pvalue(votes[:, 0])
    yes = votes[..., 0] if isinstance(estimator, Cuts) else np.cumsum(votes[:, 0], axis=1)[:, :-1]
    pvalue = two_sided_pvalue(yes, votes.sum(axis=2))
    asked = np.arange(yes.shape[1]) <= estimator.top(votes)[:, None]
    return np.asarray(yes.shape[1] * np.where(asked, pvalue, 0.0).max(axis=1, initial=0.0))


def _noise(
    spec: DualSpec, shape: tuple[int, ...], device: torch.device, sigma: float, stream: str
) -> NoiseBlocks:
    return NoiseBlocks(spec.noise(sigma), shape, seed=spec.seed, stream=stream, device=device)


class _Looks:
    """The estimator: its voters, each with noise to guess the choice and other noise to count."""

    def __init__(
        self, voters: Sequence[Voter], spec: DualSpec, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self.voters, self.spec = voters, spec
        blocks = partial(_noise, spec, shape, device)
        cuts = list(enumerate(spec.estimator.sigmas))
        self.guesses = [blocks(sigma, f"estimator-selection-{k}") for k, sigma in cuts]
        self.counts = [blocks(sigma, f"estimator-{k}") for k, sigma in cuts]

    def __call__(self, x: Tensor) -> tuple[Ints, Ints]:
        """Votes (N, S, C) to guess with, and those that count."""
        return (
            _count_all(self.voters, x, self.guesses, self.spec.n0),
            _count_all(self.voters, x, self.counts, self.spec.n_estimator),
        )


def _sampled(
    voters: Sequence[Voter], spec: DualSpec, shape: tuple[int, ...], device: torch.device
) -> list[SampledVotes]:
    settings = {"seed": spec.seed, "n0": spec.n0, "n": spec.n}
    return [SampledVotes(v, shape, device, stop=spec.stop, **settings) for v in voters]


def _certify_wave(
    estimator: _Looks,
    experts: Sequence[Expert],
    x: Tensor,
    labels: Sequence[int],
    idx: Sequence[int],
    spec: DualSpec,
) -> list[DualCertificate]:
    start = time.perf_counter()
    number = np.asarray(idx, dtype=np.int64)
    looks, estimates = estimator(x)
    top = spec.estimator.top(looks)
    entry = spec.estimator.entry(estimates, top, spec.levels)
    selection = np.zeros((len(x), experts[0].classes), dtype=np.int64)
    for j, chosen in _by_expert(top, np.ones(len(x), dtype=bool), len(experts)):
        selection[chosen] = experts[j].guess(x[chosen], number[chosen])
    votes, drawn = _ask(experts, x, number, selection, top, entry, spec)
    each = (time.perf_counter() - start) / len(x)
    drawn += looks.sum(axis=(1, 2)) + estimates.sum(axis=(1, 2)) + selection.sum(axis=1)
    return [
        judge(
            looks[i],
            estimates[i],
            selection[i],
            votes[i],
            idx=idx[i],
            label=labels[i],
            estimator=spec.estimator,
            sigmas=spec.sigmas,
            split=spec.levels,
            seed=spec.seed,
            seconds=each,
            bound=spec.stop.bound,
            drawn=int(drawn[i]),
        )
        for i in range(len(x))
    ]


def _ask(
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
    claim = selection.argmax(axis=1)
    order = np.argsort(np.where(np.arange(count) == top[:, None], -1.0, entry), axis=1, kind="stable")
    needed = np.ones((len(x), count), dtype=bool)
    while (going := np.asarray(needed.any(axis=1))).any():
        turn = np.take_along_axis(needed, order, axis=1).argmax(axis=1)
        following = np.take_along_axis(order, turn[:, None], axis=1)[:, 0]
        for j, chosen in _by_expert(following, going, count):
            level, sigma = spec.levels.experts[j], spec.sigmas[j]
            votes[chosen, j], draws = experts[j].count(x[chosen], idx[chosen], selection[chosen], level)
            drawn[chosen] += draws
            successes, n = votes[chosen, j, claim[chosen]], votes[chosen, j].sum(axis=1)
            p = BOUNDS[spec.stop.bound](successes, np.maximum(n, 1), level)
            radii[chosen, j], asked[chosen, j] = rs_radius(p, sigma), True
        needed = still_needed(entry, radii, asked) if spec.lazy else ~asked
    return votes, drawn


def _by_expert(number: Ints, among: Bools, count: int) -> Iterator[tuple[int, Ints]]:
    # positions of the images that go to each expert
    for j in range(count):
        chosen = np.flatnonzero(among & (number == j))
        if len(chosen):
            yield j, chosen


def _count_all(voters: Sequence[Voter], x: Tensor, blocks: Sequence[NoiseBlocks], n: int) -> Ints:
    # (N, S, C)
    counts = [count_votes(v, x, b, n=n, classes=v.classes) for v, b in zip(voters, blocks, strict=True)]
    return np.stack(counts, axis=1)


def _check(call: str, estimators: Sequence[Any], experts: Sequence[Any], spec: DualSpec) -> None:
    if len(estimators) != len(spec.estimator.sigmas) or len(experts) != len(spec.sigmas):
        raise ValueError(
            f"{call}: got {len(estimators)} estimators and {len(experts)} experts; {spec.estimator} wants "
            f"{len(spec.estimator.sigmas)}, the sigmas {spec.sigmas} as many experts (one network may stand "
            "for several)"
        )


def _check_voters(call: str, estimators: Sequence[Voter], experts: Sequence[Voter], spec: DualSpec) -> None:
    sigmas = (*spec.estimator.sigmas, *spec.sigmas)
    kinds = [spec.estimator.classes(len(spec.sigmas))] * len(estimators) + [experts[0].classes] * len(experts)
    wanted = [(spec.noise(sigma), kind) for sigma, kind in zip(sigmas, kinds, strict=True)]
    got = [(voter.noise, voter.classes) for voter in (*estimators, *experts)]
    if got != wanted:
        raise ValueError(f"{call}: wanted voters for (noise, classes) {wanted}, got {got}")


def _identity(
    estimators: Sequence[nn.Module], experts: Sequence[nn.Module], images: Images, spec: DualSpec
) -> dict[str, Any]:
    networks = {"estimators": [*map(fingerprint, estimators)], "experts": [*map(fingerprint, experts)]}
    return plain({"method": "dual", **networks, "images": images.fingerprint(), **spec.identity()})
