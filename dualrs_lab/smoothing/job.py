"""The job of making a table of certificates, whatever is certified: take up, freeze, certify, record.

A job says what its rows depend on, which networks are sampled, and how images become rows; the rest is the
same for one classifier, a dual system and a cascade.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as change
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from dualrs_lab.data.images import Group, Images, pixel_digests, take_waves
from dualrs_lab.evidence.certificate import COLUMNS
from dualrs_lab.evidence.claim import Claim
from dualrs_lab.evidence.resume import Row, fill, finished
from dualrs_lab.evidence.rows import IMAGE, check_images
from dualrs_lab.locks import writing
from dualrs_lab.models.checkpoints import fingerprint
from dualrs_lab.models.suited import suited_each
from dualrs_lab.runtime import describe
from dualrs_lab.smoothing.engine import Voter
from dualrs_lab.smoothing.frozen import FrozenVoter, freeze, settle
from dualrs_lab.smoothing.noise import Noise, NoiseBlocks
from dualrs_lab.smoothing.noted import check_disagreement, disagreement, note, reason_to_stop
from dualrs_lab.smoothing.settings import FastPath
from dualrs_lab.smoothing.spec import Sampling, as_allowed
from dualrs_lab.store import check_place, plain, positions, read_record, step_aside

__all__ = ["Job", "Sampled", "Sampler", "experts_job", "freeze_each", "steps_of", "told_inputs"]


Share = dict[str, float]  # see `smoothing.disagreement`


class Sampled(NamedTuple):
    """A network that is frozen and sampled, under its noise, and how many classes it votes for."""

    model: nn.Module
    noise: Noise
    classes: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A table to be made by the function `call`; how it is made is the same for all systems."""

    call: str
    spec: Sampling
    identity: Mapping[str, Any]  # what rows depend on, but for how networks are frozen
    networks: Sequence[Sampled]
    like: nn.Module  # all are frozen on its device, and compiled where that repays for it
    rows: Callable[[list[FrozenVoter], Iterable[Group]], Iterable[Sequence[Row]]]
    wave: int  # images side by side at least …
    passes: int  # … and as many as fill so many passes
    columns: Sequence[str] = COLUMNS
    told: Callable[[list[Share]], Any] = list  # how the record tells the disagreement of each network

    def __post_init__(self) -> None:
        allowed = as_allowed(self.spec, (model for model, *_ in self.networks))
        object.__setattr__(self, "spec", allowed)

    def run(
        self,
        images: Images,
        path: Path | str,
        *,
        skip: int,
        max_images: int,
        replace: bool,
        progress: bool,
        info: Mapping[str, Any] | None,
    ) -> pd.DataFrame:
        """Certify every `skip`-th image (at most `max_images`, -1 for all) into the table at `path`.

        Rows are flushed as images are done: after a kill, the same call loses nothing and repeats nothing. A
        table that is complete is read, and nothing is frozen. One of other settings, of networks that answer
        otherwise, about other pixels, or begun where noise is drawn otherwise is refused with ValueError, or
        with `replace` kept under another name with a warning. So are frozen networks that vote too often
        otherwise than theirs, and a table that somebody else is writing.
        """
        path = Path(path)
        check_place(self.call, path, ".tsv")
        idx = positions(self.call, len(images), skip, max_images)
        fast = self._settled(read_record(path), images, len(idx))
        identity = plain({**self.identity, "fast": fast.steps(self.spec.dtype)})
        models, noise, _ = zip(*self.networks, strict=True)
        noted = note(models, noise, images, seed=self.spec.seed, device=next(self.like.parameters()).device)
        table = finished(self.call, path, identity, idx)
        if table is not None and not reason_to_stop(read_record(path), noted, complete=True):
            check_images(self.call, path, table, images.digests)
            return table
        with writing(self.call, path):
            how = {"skip": skip, "max_images": max_images, "info": info or {}}
            return self._filled(images, path, idx, fast, noted, how, replace=replace, progress=progress)

    def _filled(
        self,
        images: Images,
        path: Path,
        idx: range,
        fast: FastPath,
        noted: Mapping[str, Any],
        how: Mapping[str, Any],
        *,
        replace: bool,
        progress: bool,
    ) -> pd.DataFrame:
        device, begun = next(self.like.parameters()).device, read_record(path)
        if _same_rows(begun, plain(self.identity)):
            if reason := reason_to_stop(begun, noted, complete=False):
                step_aside(self.call, path, reason, replace=replace)
            else:  # perhaps it was begun by a version that noted less
                noted = {name: begun[name] for name in noted if name in begun}
        some = None if fast.int8 is False else _some(images).to(device)
        voters = freeze_each(self.networks, images.shape, device, self.spec, fast, calibration=some)
        record = {"identity": plain(self.identity) | steps_of(voters), **noted, **how}
        record |= {"batch": self.spec.batch}
        if left_out := begun.get("left_out", {}) | voters[0].left_out:
            record["left_out"] = left_out
        size = max(self.wave, self.passes * voters[0].units)
        return fill(
            self.call,
            path,
            idx,
            lambda todo: self._rows(voters, take_waves(images, todo, size, device)),
            record=record | {"provenance": describe(device)},
            disagreement=lambda: self.told(self._disagreements(voters, images, device)),
            replace=replace,
            progress=progress,
            columns=(*self.columns, IMAGE),
            check=lambda table: check_images(self.call, path, table, images.digests),
        )

    def _rows(
        self, voters: list[FrozenVoter], waves: Iterable[Group]
    ) -> Iterator[Sequence[Mapping[str, object]]]:
        # each row with the digest of its image, taken as the wave passes by
        seen: dict[int, str] = {}

        def watched() -> Iterator[Group]:
            for x, labels, idx in waves:
                seen.update(zip(idx, pixel_digests(x), strict=True))
                yield x, labels, idx

        for group in self.rows(voters, watched()):
            rows = [dict(row.to_row() if isinstance(row, Claim) else row) for row in group]
            yield [row | {IMAGE: seen.pop(int(str(row["idx"])))} for row in rows]

    def _settled(self, found: Mapping[str, Any], images: Images, count: int) -> FastPath:
        # a choice that was left open is what it was when the table of record `found` was begun
        steps = found.get("identity", {}).get("fast", {})
        open_steps = [name for name, value in asdict(self.spec.fast).items() if value is None]
        before = {name: steps[name] for name in open_steps if name in steps}
        if steps and "int8" in open_steps:  # recorded where it is one
            before["int8"] = bool(steps.get("int8"))
        fast = change(self.spec.fast, **before)
        return settle(fast, self.like, images.shape, inputs=count * self.spec.per_image)

    def _disagreements(
        self, voters: Sequence[FrozenVoter], images: Images, device: torch.device
    ) -> list[Share]:
        # how often each frozen network votes otherwise than its original in float32, on the first images
        found = []
        for (model, *_), voter in zip(self.networks, voters, strict=True):
            first, _ = images.batch(torch.arange(min(voter.units, len(images))))
            blocks = NoiseBlocks(
                voter.noise, images.shape, seed=self.spec.seed, stream="disagreement", device=device
            )
            found.append(disagreement(model, voter, first.to(device), blocks))
            kind = "int8" if voter.steps.get("int8") else self.spec.dtype
            check_disagreement(self.call, found[-1], kind)
        return found


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

    def rows(voters: list[FrozenVoter], waves: Iterable[Group]) -> Iterator[Sequence[Row]]:
        pool = sampler(voters, images.shape, device)
        return (pool.certify(x, labels, idx) for x, labels, idx in waves)

    classes = len(images.classes)
    return Job(
        call=call,
        spec=spec,
        identity=plain({"method": method, **known, **spec.identity()}),
        networks=[Sampled(model, one, classes) for model, one in zip(models, noise, strict=True)],
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


def _same_rows(found: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    # whether a table of record `found` has rows of this identity, but for steps of freezing that may fail
    before, now = (
        {name: value for name, value in one.items() if not name.startswith("fast")}
        for one in (found.get("identity") or {}, identity)
    )
    return before == now


def _some(images: Images, most: int = 200) -> Tensor:
    # images (N, C, H, W) from all over the data set, whichever of them are certified
    return images.batch(torch.linspace(0, len(images) - 1, min(most, len(images))).round().long())[0]


def freeze_each(
    networks: Sequence[Sampled],
    shape: tuple[int, ...],
    device: torch.device,
    spec: Sampling,
    fast: FastPath,
    *,
    calibration: Tensor | None = None,
) -> list[FrozenVoter]:
    """Voters of `networks`, frozen on `device` as `spec` and `fast` say.

    `calibration` is as for `freeze`. Whether to take int8 is decided with the first, for all.
    """
    voters: list[FrozenVoter] = []
    for model, noise, classes in networks:
        voters.append(
            freeze(
                model,
                noise,
                shape,
                classes=classes,
                device=device,
                dtype=spec.dtype,
                fast=fast,
                batch=spec.batch,
                calibration=calibration,
            )
        )
        fast = change(fast, int8=bool(voters[0].steps.get("int8")))
    return voters


def steps_of(voters: Sequence[FrozenVoter]) -> dict[str, Any]:
    """How voters were frozen, for the identity of a table; `fast_each` where a step failed for some."""
    same = {"fast": voters[0].steps}
    if all(voter.steps == voters[0].steps for voter in voters):
        return same
    return same | {"fast_each": [voter.steps for voter in voters]}
