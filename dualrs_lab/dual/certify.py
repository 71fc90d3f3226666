"""Certify a dual system: an estimator chooses the noise level, an expert smoothed at that level answers.

(Sun, Mao and Vechev 2026.) The experts may be one classifier smoothed at several levels, or a network for
each level. The estimator's draws give the radius within which expert j cannot be chosen, each expert's draws
the radius within which it keeps the claimed class; from both, `dual.radii` makes the published and the routed
certificate. Experts are asked lazily: the chosen one first, another only where it could still lower the
routed radius, which costs no level.

Expert and class are guessed on draws of their own; the other draws decide neither. The experts' streams are
those of `smoothing`, so their votes are those of `certify_table` with the same seed, noise, network and
numbers of draws.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualrs_lab.data.images import Group, Images
from dualrs_lab.dual.ask import Looks, ask_experts, by_expert, check_systems, check_voters
from dualrs_lab.dual.certificate import DualCertificate, judge
from dualrs_lab.dual.spec import DualSpec
from dualrs_lab.evidence.joins import agree, at_sigma, holds_all_draws
from dualrs_lab.evidence.votes import level_text
from dualrs_lab.models.checkpoints import fingerprint
from dualrs_lab.models.suited import suited, suited_each
from dualrs_lab.shards import Shard
from dualrs_lab.smoothing.engine import Voter
from dualrs_lab.smoothing.experts import Expert, RecordedVotes, SampledVotes, recorded_steps
from dualrs_lab.smoothing.frozen import FrozenVoter
from dualrs_lab.smoothing.job import Job, Sampled
from dualrs_lab.smoothing.spec import Spec
from dualrs_lab.smoothing.stopping import AllDraws
from dualrs_lab.store import plain, positions, read_record

__all__ = ["certify_dual", "certify_dual_table"]


Ints = NDArray[np.int64]


Bools = NDArray[np.bool_]


_WAVE = 16  # images that go through the stages together, or more where a pass holds many


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
    check_systems("certify_dual", estimators, experts, spec)
    check_voters("certify_dual", estimators, experts, spec)
    if not len(x) == len(labels) == len(idx):
        raise ValueError(
            f"certify_dual: got {len(x)} inputs, {len(labels)} labels, {len(idx)} indices; wanted as many of "
            "each"
        )
    if not len(x):
        return []
    shape = tuple(x.shape[1:])
    pool = _sampled(experts, spec, shape, x.device)
    return _certify_wave(Looks(estimators, spec, shape, x.device), pool, x, labels, idx, spec)


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
    shard: Shard | None = None,
) -> pd.DataFrame:
    """Certify every `skip`-th image (at most `max_images`, -1 for all) into the table at `path`.

    `estimators` has a network per stream of `spec.estimator`, `experts` one per sigma; one network may serve
    as several. As with `smoothing.certify_table`, networks are frozen on the device of the first expert. A
    table with the same settings is resumed; any other is refused or, with `replace`, kept under another name.
    Rows are flushed a wave of images at a time. `radius` is the routed radius, `published` the other.

    `recorded` names a table of `certify_table` for each expert, with the same network, images, seed, n0 and
    n, and with all draws. These are the draws that this call would make, so the votes are read there and only
    the estimator is sampled. For a table of other draws, a ValueError says what differs. `shard` is as
    for `smoothing.certify_table`.
    """
    call, device = "certify_dual_table", next(experts[0].parameters()).device
    check_systems(call, estimators, experts, spec)
    estimators = [suited(call, model, images, names=False) for model in estimators]
    experts = suited_each(call, experts, images)
    identity = _identity(estimators, experts, images, spec)
    if recorded:
        identity["recorded"] = _recorded_steps(recorded, experts, images, spec)
    wanted = positions(call, len(images), skip, max_images)
    known = [RecordedVotes(call, file, wanted, len(images.classes)) for file in recorded]
    _check_recorded(call, known, images, spec)

    def rows(voters: list[FrozenVoter], waves: Iterable[Group]) -> Iterator[list[DualCertificate]]:
        looks = Looks(voters[: len(estimators)], spec, images.shape, device)
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
        images,
        path,
        skip=skip,
        max_images=max_images,
        replace=replace,
        progress=progress,
        info=info,
        shard=shard,
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


def _check_recorded(call: str, known: Sequence[RecordedVotes], images: Images, spec: DualSpec) -> None:
    # rows may be of other draws than the record beside them says
    tables = {
        f"σ = {level_text(sigma)}": one.table for sigma, one in zip(spec.sigmas, known, strict=bool(known))
    }
    agree(call, tables, same=("alpha",))
    for sigma, (name, table) in zip(spec.sigmas, tables.items(), strict=bool(known)):
        at_sigma(call, name, table, sigma)
        wanted = {"seed": spec.seed, "n0": spec.n0, "n": spec.n}
        found = {what: sorted({*table[what]}) for what in wanted}
        if found != {what: [value] for what, value in wanted.items()} or not holds_all_draws(table):
            raise ValueError(f"{call}: rows of {name} are of {found}; wanted all draws of {wanted}")
        rows = table[table["idx"] < len(images)]
        other = rows["idx"][rows["label"].to_numpy() != images.labels.cpu().numpy()[rows["idx"]]]
        if len(other):
            raise ValueError(
                f"{call}: the label of idx {other.iloc[0]} in {name} is not that of the images; wanted a "
                "table of the same ones"
            )


def _sampled(
    voters: Sequence[Voter], spec: DualSpec, shape: tuple[int, ...], device: torch.device
) -> list[SampledVotes]:
    settings = {"seed": spec.seed, "n0": spec.n0, "n": spec.n}
    how = {"stop": spec.stop, "rule": spec.rule}
    return [SampledVotes(v, shape, device, **how, **settings) for v in voters]  # type: ignore[arg-type]


def _certify_wave(
    estimator: Looks,
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
    for j, chosen in by_expert(top, np.ones(len(x), dtype=bool), len(experts)):
        selection[chosen] = experts[j].guess(x[chosen], number[chosen])
    votes, drawn = ask_experts(experts, x, number, selection, top, entry, spec)
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
            rule=spec.rule,
        )
        for i in range(len(x))
    ]


def _identity(
    estimators: Sequence[nn.Module], experts: Sequence[nn.Module], images: Images, spec: DualSpec
) -> dict[str, Any]:
    networks = {"estimators": [*map(fingerprint, estimators)], "experts": [*map(fingerprint, experts)]}
    return plain({"method": "dual", **networks, "images": images.fingerprint(), **spec.identity()})
