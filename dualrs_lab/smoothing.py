"""Predict with and certify one smoothed classifier (Cohen, Rosenfeld & Kolter 2019, section 3.2).

g(x) = argmax_y P[f(x + sigma Z) = y]. PREDICT returns g(x) or abstains; CERTIFY returns g(x) with an l2
radius within which g does not change, in [0, 1] pixel units. Each statement about an image fails with
probability at most alpha.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualrs_lab.bounds import top_two_pvalue
from dualrs_lab.certificates import ABSTAIN, Certificate, decide
from dualrs_lab.data import Images
from dualrs_lab.fastpath import FastPath, FrozenVoter, disagreement, freeze, settle
from dualrs_lab.files import digest
from dualrs_lab.runtime import describe
from dualrs_lab.sampling import Noise, NoiseBlocks, Voter, as_voter, count_votes, sample
from dualrs_lab.settings import ALPHA, setting
from dualrs_lab.stopping import AllDraws, Stopping
from dualrs_lab.tables import begin, fill, plain, read_record, rows_at

__all__ = [
    "Spec",
    "as_before",
    "certify",
    "certify_table",
    "fingerprint",
    "identify",
    "otherwise",
    "predict",
    "take_waves",
]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """How to smooth and how much to sample; everything a certificate depends on besides network and image."""

    noise: Noise
    seed: int
    n0: int = setting(100, "draws to guess the class")
    n: int = setting(10_000, "separate draws to bound its probability; at most so many with early stopping")
    alpha: float = setting(ALPHA, "failure probability of each certificate")
    stop: Stopping = AllDraws()  # how many of the n draws an image gets  # noqa: RUF009
    batch: int | None = setting(
        None, "noisy images per pass: speed and memory, not votes (default: as suits the device)"
    )
    dtype: torch.dtype = torch.float32  # of the noisy images, and of the network that a table freezes
    fast: FastPath = FastPath()  # other steps of freezing it  # noqa: RUF009

    def __post_init__(self) -> None:
        if min(self.n0, self.n, self.batch or 1) < 1 or not 0 < self.alpha < 1 or self.seed < 0:
            raise ValueError(f"Spec: wanted n0, n, batch >= 1, 0 < alpha < 1 and seed >= 0; got {self}")


Model = Callable[[Tensor], Tensor]
_WAVE = 64  # images whose class is selected at a time, or more where a pass holds many
Group = tuple[Tensor, Sequence[int], Sequence[int]]  # images (B, ...), labels, indices


def predict(model: Model, x: Tensor, *, classes: int, spec: Spec) -> NDArray[np.int64]:
    """Cohen's PREDICT for inputs (N, ...): classes (N,), ABSTAIN where the two leading counts are too close.

    Returns a class other than g(x) with probability at most alpha, image by image.
    """
    blocks = NoiseBlocks(spec.noise, tuple(x.shape[1:]), seed=spec.seed, stream="prediction", device=x.device)
    votes = count_votes(model, x, blocks, n=spec.n, classes=classes, batch=spec.batch, dtype=spec.dtype)
    return np.where(top_two_pvalue(votes) <= spec.alpha, votes.argmax(axis=1), ABSTAIN)


def certify(
    model: Model | Voter,
    x: Tensor,
    *,
    classes: int,
    spec: Spec,
    labels: Sequence[int] | None = None,
    idx: Sequence[int] | None = None,
) -> list[Certificate]:
    """Cohen's CERTIFY for inputs (N, ...), one certificate each, with its votes.

    `model` is as for `count_votes`, `labels` default to unknown (-1), `idx` to positions. The same seed and
    settings give the same certificate whether an input comes alone or among others, on one device. Raises as
    `count_votes` does.
    """
    labels = [-1] * len(x) if labels is None else labels
    idx = range(len(x)) if idx is None else idx
    if not len(x) == len(labels) == len(idx):
        raise ValueError(
            f"certify: got {len(x)} inputs, {len(labels)} labels, {len(idx)} indices; wanted as many of each"
        )
    shape = tuple(x.shape[1:])
    voter = as_voter(model, spec.noise, shape, x.device, classes=classes, batch=spec.batch, dtype=spec.dtype)
    waves = [(x, labels, range(len(x)))] if len(x) else []
    certified = [c for group in _certify_waves(voter, waves, shape, spec, x.device) for c in group]
    return [replace(c, idx=int(idx[c.idx])) for c in sorted(certified, key=lambda c: c.idx)]


def certify_table(
    model: nn.Module,
    images: Images,
    path: Path | str,
    *,
    spec: Spec,
    skip: int = 1,
    max_images: int = -1,
    replace: bool = False,
    progress: bool = True,
    info: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """Certify every `skip`-th image (at most `max_images`, -1 for all) into the table at `path`; return it.

    The network is frozen by `spec.fast` (see `fastpath`) on the device it lives on. Rows are flushed as
    images are done, and sorted at the end: after a kill, the same call loses nothing and repeats nothing. The
    json beside `path` says how the table was made: what the rows depend on, how often the frozen network
    votes differently from the float32 original, and `info`. A table with other settings raises ValueError or,
    with `replace`, is kept under another name with a warning.
    """
    path = Path(path)
    positions = range(0, len(images), skip)[: None if max_images < 0 else max_images]
    device = next(model.parameters()).device
    classes, n = len(images.classes), spec.stop.selection(spec.n0) + spec.n
    found = read_record(path)
    fast = settle(as_before(spec.fast, found), model, images.shape, inputs=len(positions) * n)
    identity = identify(model, images, spec) | {"fast": fast.steps(spec.dtype)}
    if found.get("identity") == identity and set(positions) <= begin("certify_table", path, identity):
        return rows_at(path, positions)
    voter = freeze(
        model,
        spec.noise,
        images.shape,
        classes=classes,
        device=device,
        dtype=spec.dtype,
        fast=fast,
        batch=spec.batch,
    )
    identity["fast"] = voter.steps
    record = {"identity": identity, "info": info or {}, "skip": skip, "max_images": max_images}

    def certified(todo: list[int]) -> Iterator[list[Certificate]]:
        waves = take_waves(images, todo, max(_WAVE, 8 * voter.units), device)
        return _certify_waves(voter, waves, images.shape, spec, device)

    return fill(
        "certify_table",
        path,
        positions,
        certified,
        record=record | {"batch": spec.batch, "provenance": describe(device)},
        disagreement=lambda: otherwise(model, images, voter, spec.seed),
        replace=replace,
        progress=progress,
    )


def take_waves(images: Images, positions: Sequence[int], size: int, device: torch.device) -> Iterator[Group]:
    """Images at these positions, `size` at a time, on the device."""
    for first in range(0, len(positions), size):
        idx = positions[first : first + size]
        pixels, labels = images.batch(torch.tensor(idx))
        yield pixels.to(device), labels.tolist(), idx


def _certify_waves(
    voter: Voter, waves: Iterable[Group], shape: tuple[int, ...], spec: Spec, device: torch.device
) -> Iterator[list[Certificate]]:
    """Select the class on some draws, bound its probability on others; yields images as they are done."""
    selection, estimation = (
        NoiseBlocks(spec.noise, shape, seed=spec.seed, stream=stream, device=device)
        for stream in ("selection", "estimation")
    )
    n0 = spec.stop.selection(spec.n0)
    for x, labels, idx in waves:
        start = time.perf_counter()
        selected = count_votes(voter, x, selection, n=n0, classes=voter.classes)
        each = (time.perf_counter() - start) / len(x)
        watch = spec.stop.watch(selected, n=spec.n, alpha=spec.alpha, sigma=spec.noise.sigma)
        for finished in sample(voter, x, estimation, draws=watch.draws, done=watch.done):
            yield [
                decide(
                    selected[i],
                    watch.evidence(i, counts),
                    idx=idx[i],
                    label=labels[i],
                    sigma=spec.noise.sigma,
                    alpha=spec.alpha,
                    seed=spec.seed,
                    seconds=each + seconds,
                    bound=spec.stop.bound,
                    drawn=int(counts.sum()),
                )
                for i, counts, seconds in finished
            ]


def otherwise(model: nn.Module, images: Images, voter: FrozenVoter, seed: int) -> dict[str, float]:
    """How often `voter` votes differently from `model` in float32 on the first images: see `disagreement`."""
    first, _ = images.batch(torch.arange(min(voter.units, len(images))))
    device = next(model.parameters()).device
    blocks = NoiseBlocks(voter.noise, images.shape, seed=seed, stream="disagreement", device=device)
    return disagreement(model, voter, first.to(device), blocks)


def as_before(fast: FastPath, found: dict[str, Any]) -> FastPath:
    """`fast` with its open choices made as they were when the table with the record `found` was begun."""
    steps = found.get("identity", {}).get("fast", {})
    open_steps = [name for name, value in asdict(fast).items() if value is None and name in steps]
    return replace(fast, **{name: steps[name] for name in open_steps})


def identify(model: nn.Module, images: Images, spec: Spec) -> dict[str, Any]:
    """What the rows of a table depend on: it must be the same for all rows of a table."""
    return {
        "method": "rs",
        "model": fingerprint(model),
        "images": images.fingerprint(),
        "noise": type(spec.noise).__name__,
        "sigma": spec.noise.sigma,
        "n0": spec.n0,
        "n": spec.n,
        "alpha": spec.alpha,
        "seed": spec.seed,
        "stop": plain({"rule": type(spec.stop).__name__, **asdict(spec.stop)}),
    }


def fingerprint(model: nn.Module) -> str:
    """A digest of all that a network holds, by name."""
    return digest(*(part for name, tensor in model.state_dict().items() for part in (name, _raw(tensor))))


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
