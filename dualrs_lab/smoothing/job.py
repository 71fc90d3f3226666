"""The job of making a table of certificates, whatever is certified: take up, freeze, certify, record.

A job says what its rows depend on, which networks are sampled, and how images become rows; the rest is the
same for one classifier, a dual system and a cascade.

The identity says which weights, images and settings the rows depend on. The record notes besides what it
cannot say in equal digests everywhere: how the networks answer, how often a frozen one votes otherwise than
its original, and how noise is drawn. A record from before something was noted is taken as it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as change
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from dualrs_lab.data.images import Group, Images, pixel_digests, take_waves
from dualrs_lab.evidence.certificate import COLUMNS
from dualrs_lab.evidence.claim import Claim
from dualrs_lab.evidence.resume import Row, fill, finished, rows_at
from dualrs_lab.evidence.rows import IMAGE, check_images
from dualrs_lab.evidence.table import frame
from dualrs_lab.locks import writing
from dualrs_lab.models.probe import other_answers, probe_each
from dualrs_lab.models.suited import how_suited
from dualrs_lab.runtime import describe
from dualrs_lab.shards import Portion, Shard
from dualrs_lab.smoothing.frozen import FrozenVoter, freeze, settle
from dualrs_lab.smoothing.noise import Noise, NoiseBlocks, first_draws
from dualrs_lab.smoothing.original import MOST_OTHERWISE, check_disagreement, disagreement
from dualrs_lab.smoothing.settings import FastPath
from dualrs_lab.smoothing.spec import Sampling, as_allowed
from dualrs_lab.store import check_place, plain, positions, read_record, refuse_other, step_aside

__all__ = [
    "Job",
    "Sampled",
    "freeze_each",
    "note",
    "reason_to_stop",
    "recorded_disagreement",
    "steps_of",
]


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
    certifies: str = "copy"  # or the "original" of what is sampled

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
        shard: Shard | None = None,
    ) -> pd.DataFrame:
        """Certify every `skip`-th image (at most `max_images`, -1 for all) into the table at `path`.

        Rows are flushed as images are done: after a kill, the same call loses nothing and repeats nothing. A
        table that is complete is read, and nothing is frozen. One of other settings, of networks that answer
        otherwise, about other pixels, or begun where noise is drawn otherwise is refused with ValueError, or
        with `replace` kept under another name with a warning. So are frozen networks that vote too often
        otherwise than theirs, and a table that somebody else is writing. With `shard` that part of the images
        goes into a table of its own beside `path`, unless `path` has them all.
        """
        path = whole = Path(path)
        check_place(self.call, path, ".tsv")
        idx: Sequence[int] = positions(self.call, len(images), skip, max_images)
        every, how = idx, {"skip": skip, "max_images": max_images, "info": info or {}}
        if shard is not None:
            portion = Portion(shard, len(every), skip)
            path, idx = shard.part(whole), portion.idx
            how = {"shard": portion.told(skip=skip, max_images=max_images), "info": info or {}}
        fast = self._settled(read_record(path), images, len(every), alone=shard is None)
        identity = plain({**self.identity, "fast": fast.steps(self.spec.dtype)})
        models, noise, _ = zip(*self.networks, strict=True)
        noted = note(models, noise, images, seed=self.spec.seed, device=next(self.like.parameters()).device)
        noted["certifies"] = self.certifies
        table = finished(self.call, path, identity, idx)
        if table is not None and not reason_to_stop(read_record(path), noted, complete=True):
            check_images(self.call, path, table, images.digests)
            return table
        if shard is not None and (not idx or whole.exists()):
            if finished(self.call, whole, identity, every) is not None:
                return rows_at(whole, idx)
            if whole.exists():
                refuse_other(self.call, whole, read_record(whole).get("identity"), identity)
            if not idx:
                return frame([])
        with writing(self.call, path):
            return self._filled(images, path, idx, fast, noted, how, replace=replace, progress=progress)

    def _filled(
        self,
        images: Images,
        path: Path,
        idx: Sequence[int],
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
        if levels := self.spec.alpha_split():
            record["levels"] = levels
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

    def _settled(self, found: Mapping[str, Any], images: Images, count: int, *, alone: bool) -> FastPath:
        # a choice that was left open is what it was when the table of record `found` was begun; parts are
        # to be of one network, so none is chosen for them by timing
        steps = found.get("identity", {}).get("fast", {})
        open_steps = [name for name, value in asdict(self.spec.fast).items() if value is None]
        before = {name: steps[name] for name in open_steps if name in steps}
        if steps and "int8" in open_steps:  # recorded where it is one
            before["int8"] = bool(steps.get("int8"))
        fast = change(self.spec.fast, **before)
        if fast.int8 is None and not alone:
            fast = change(fast, int8=False)
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
            check_disagreement(self.call, found[-1], kind, certify=self.certifies)
        return found


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


def recorded_disagreement(record: Mapping[str, Any]) -> float:
    """The largest share that the record of a table tells, 0 where it tells none."""
    told = record.get("disagreement")
    each = told if isinstance(told, list) else [told]
    return max((float(one["share"]) for one in each if isinstance(one, Mapping)), default=0.0)


def note(
    networks: Sequence[nn.Module], noise: Sequence[Noise], images: Images, *, seed: int, device: torch.device
) -> dict[str, Any]:
    """For the record: the `probe` of each network, how their classes were compared, first draws of noise."""
    first = [first_draws(one, seed=seed, device=device) for one in noise]
    return {
        "probe": probe_each(networks, images.shape),
        "classes": [how_suited(network, images) for network in networks],
        "drawn": {"device": device.type, "first": first},
    }


def reason_to_stop(found: Mapping[str, Any], noted: Mapping[str, Any], *, complete: bool) -> str:
    """Why a table of record `found` and the same identity is not one of what is `noted` now; "" if it is.

    Noise counts only where rows are to be added, as it is not `complete`.
    """
    if reason := other_answers(found, noted["probe"]):
        return reason
    if (share := recorded_disagreement(found)) > MOST_OTHERWISE:
        return (
            f"is of a frozen network that gives {share:.1%} of its votes otherwise than its original, as its "
            f"record says; wanted at most {MOST_OTHERWISE:.0%}"
        )
    before, now = found.get("drawn"), noted["drawn"]
    if complete or before is None:
        return ""
    if before["device"] != now["device"] or not _close(before["first"], now["first"]):
        return (
            f"was begun with noise drawn on {before['device']}; {now['device']} draws other noise here from "
            "the same seed"
        )
    return ""


def _close(one: Sequence[Sequence[float]], two: Sequence[Sequence[float]]) -> bool:
    pairs = [(a, b) for left, right in zip(one, two, strict=False) for a, b in zip(left, right, strict=False)]
    return [*map(len, one)] == [*map(len, two)] and all(abs(a - b) < 1e-3 for a, b in pairs)
