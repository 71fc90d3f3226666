"""The job of making a table of certificates, whatever is certified: take up, freeze, certify, record.

A job says what its rows depend on, which networks are sampled, and how images become rows; the rest is the
same for one classifier, a dual system and a cascade.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as change
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from dualrs_lab.data.images import Group, Images, take_waves
from dualrs_lab.evidence.certificate import COLUMNS
from dualrs_lab.evidence.resume import Row, fill, rows_at, taken_up
from dualrs_lab.runtime import describe
from dualrs_lab.smoothing.frozen import FrozenVoter, disagreement, freeze, settle
from dualrs_lab.smoothing.noise import Noise, NoiseBlocks
from dualrs_lab.smoothing.settings import FastPath
from dualrs_lab.smoothing.spec import Sampling
from dualrs_lab.store import plain, positions, read_record

__all__ = ["Job", "Sampled", "freeze_each", "steps_of"]


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
        table that is complete is read, and nothing is frozen. One of other settings is refused with
        ValueError, or with `replace` kept under another name with a warning.
        """
        path, found = Path(path), read_record(path)
        idx = positions(self.call, len(images), skip, max_images)
        device = next(self.like.parameters()).device
        fast = self._settled(found, images, len(idx))
        identity = plain({**self.identity, "fast": fast.steps(self.spec.dtype)})
        if found.get("identity") == identity and set(idx) <= taken_up(self.call, path, identity):
            return rows_at(path, idx)
        voters = freeze_each(self.networks, images.shape, device, self.spec, fast)
        record = {"identity": identity | steps_of(voters), "info": info or {}, "batch": self.spec.batch}
        size = max(self.wave, self.passes * voters[0].units)
        return fill(
            self.call,
            path,
            idx,
            lambda todo: self.rows(voters, take_waves(images, todo, size, device)),
            record=record | {"skip": skip, "max_images": max_images, "provenance": describe(device)},
            disagreement=lambda: self.told(self._disagreements(voters, images, device)),
            replace=replace,
            progress=progress,
            columns=self.columns,
        )

    def _settled(self, found: Mapping[str, Any], images: Images, count: int) -> FastPath:
        # a choice that was left open is what it was when the table of record `found` was begun
        steps = found.get("identity", {}).get("fast", {})
        open_steps = [name for name, value in asdict(self.spec.fast).items() if value is None]
        before = {name: steps[name] for name in open_steps if name in steps}
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
        return found


def freeze_each(
    networks: Sequence[Sampled],
    shape: tuple[int, ...],
    device: torch.device,
    spec: Sampling,
    fast: FastPath,
) -> list[FrozenVoter]:
    """Voters of `networks`, frozen on `device` as `spec` and `fast` say."""
    return [
        freeze(
            model,
            noise,
            shape,
            classes=classes,
            device=device,
            dtype=spec.dtype,
            fast=fast,
            batch=spec.batch,
        )
        for model, noise, classes in networks
    ]


def steps_of(voters: Sequence[FrozenVoter]) -> dict[str, Any]:
    """How voters were frozen, for the identity of a table; `fast_each` where a step failed for some."""
    same = {"fast": voters[0].steps}
    if all(voter.steps == voters[0].steps for voter in voters):
        return same
    return same | {"fast_each": [voter.steps for voter in voters]}
