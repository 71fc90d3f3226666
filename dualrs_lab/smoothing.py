"""Predict with and certify one smoothed classifier (Cohen, Rosenfeld & Kolter 2019, section 3.2).

g(x) = argmax_y P[f(x + sigma Z) = y]. PREDICT returns g(x) or abstains; CERTIFY returns g(x) with an l2
radius within which g does not change, in [0, 1] pixel units. Each statement about an image fails with
probability at most alpha.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from dualrs_lab.bounds import two_sided_pvalue
from dualrs_lab.certificates import (
    ABSTAIN,
    Certificate,
    append_rows,
    decide,
    read_table,
    repair_table,
)
from dualrs_lab.data import Images
from dualrs_lab.files import digest, replace_json, set_aside
from dualrs_lab.runtime import describe
from dualrs_lab.sampling import Noise, NoiseBlocks, count_votes, evaluation_copy, images_together

__all__ = ["Spec", "certify", "certify_table", "predict"]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """How to smooth and how much to sample; everything a certificate depends on besides network and image."""

    noise: Noise
    seed: int
    n0: int = 100  # draws to guess the class
    n: int = 10_000  # separate draws to bound its probability
    alpha: float = 0.001  # failure probability of each certificate
    batch: int | None = None  # noisy images per pass: speed and memory, not votes; None: as suits the device
    dtype: torch.dtype = torch.float32  # of the noisy images

    def __post_init__(self) -> None:
        if min(self.n0, self.n, self.batch or 1) < 1 or not 0 < self.alpha < 1 or self.seed < 0:
            raise ValueError(f"Spec: wanted n0, n, batch >= 1, 0 < alpha < 1 and seed >= 0; got {self}")


Model = Callable[[Tensor], Tensor]
Group = tuple[Tensor, Sequence[int], Sequence[int]]  # images (B, ...), labels, indices


def predict(model: Model, x: Tensor, *, classes: int, spec: Spec) -> NDArray[np.int64]:
    """Cohen's PREDICT for inputs (N, ...): classes (N,), ABSTAIN where the two leading counts are too close.

    Returns a class other than g(x) with probability at most alpha, image by image.
    """
    blocks = NoiseBlocks(spec.noise, tuple(x.shape[1:]), seed=spec.seed, stream="prediction", device=x.device)
    votes = count_votes(model, x, blocks, n=spec.n, classes=classes, batch=spec.batch, dtype=spec.dtype)
    order = np.argsort(-votes, axis=1, kind="stable")[:, :2]
    first, second = np.take_along_axis(votes, order, axis=1).T
    return np.where(two_sided_pvalue(first, first + second) <= spec.alpha, order[:, 0], ABSTAIN)


def certify(
    model: Model,
    x: Tensor,
    *,
    classes: int,
    spec: Spec,
    labels: Sequence[int] | None = None,
    idx: Sequence[int] | None = None,
) -> list[Certificate]:
    """Cohen's CERTIFY for inputs (N, ...), one certificate each, with its votes.

    `labels` default to unknown (-1), `idx` to positions. The same seed and settings give the same certificate
    whether an input comes alone or among others, on one device. Raises as `count_votes` does.
    """
    labels = [-1] * len(x) if labels is None else labels
    idx = range(len(x)) if idx is None else idx
    if not len(x) == len(labels) == len(idx):
        raise ValueError(
            f"certify: got {len(x)} inputs, {len(labels)} labels, {len(idx)} indices; wanted as many of each"
        )
    size = images_together(tuple(x.shape[1:]), x.device, spec.batch)
    groups = ((x[i : i + size], labels[i : i + size], idx[i : i + size]) for i in range(0, len(x), size))
    certified = _certify_groups(
        model, groups, tuple(x.shape[1:]), classes=classes, spec=spec, device=x.device
    )
    return [certificate for group in certified for certificate in group]


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
    """Certify every `skip`-th image (at most `max_images`, -1 for all) into the table at `path`, and return
    it.

    The network is sampled as `evaluation_copy`, on the device it lives on. Rows are flushed as they are done:
    after a kill, the same call loses nothing and repeats nothing. `path` with ending `.json` says how the
    table was made (`info` is kept there too). A
    table that was made in another way is in the way: with `replace` it is kept under another name and a
    warning says so, otherwise ValueError.
    """
    path = Path(path)
    positions = range(0, len(images), skip)[: None if max_images < 0 else max_images]
    device = next(model.parameters()).device
    identity = _identity(model, images, spec)
    done = _resume(path, identity, replace)
    record = {
        "identity": identity,
        "info": info or {},
        "skip": skip,
        "max_images": max_images,
        "batch": spec.batch,
    }
    replace_json(path.with_suffix(".json"), record | {"provenance": describe(device)})
    todo = [position for position in positions if position not in done]
    network = evaluation_copy(model, device=device, dtype=spec.dtype)
    groups = _batches(images, todo, images_together(images.shape, device, spec.batch), device)
    classes = len(images.classes)
    certified = _certify_groups(network, groups, images.shape, classes=classes, spec=spec, device=device)
    _append(path, certified, total=len(positions), initial=len(positions) - len(todo), progress=progress)
    table = read_table(path)
    return table[table["idx"].isin(positions)].reset_index(drop=True)


def _batches(images: Images, positions: Sequence[int], size: int, device: torch.device) -> Iterator[Group]:
    for first in range(0, len(positions), size):
        idx = positions[first : first + size]
        pixels, labels = images.batch(torch.tensor(idx))
        yield pixels.to(device), labels.tolist(), idx


def _certify_groups(
    model: Model,
    groups: Iterable[Group],
    shape: tuple[int, ...],
    *,
    classes: int,
    spec: Spec,
    device: torch.device,
) -> Iterator[list[Certificate]]:
    """Select the class on n0 draws, bound its probability on n others, a group of images at a time."""
    selection, estimation = (
        NoiseBlocks(spec.noise, shape, seed=spec.seed, stream=stream, device=device)
        for stream in ("selection", "estimation")
    )
    count = partial(count_votes, model, classes=classes, batch=spec.batch, dtype=spec.dtype)
    decided = partial(decide, sigma=spec.noise.sigma, alpha=spec.alpha, seed=spec.seed)
    for x, labels, idx in groups:
        start = time.perf_counter()
        selected, votes = count(x, selection, n=spec.n0), count(x, estimation, n=spec.n)
        seconds = (time.perf_counter() - start) / len(x)
        rows = zip(selected, votes, idx, labels, strict=True)
        yield [decided(s, v, idx=i, label=label, seconds=seconds) for s, v, i, label in rows]


def _append(
    path: Path, certified: Iterable[list[Certificate]], *, total: int, initial: int, progress: bool
) -> None:
    """Append and flush each group;

    show rate, time left and the share certified correct so far in this call.
    """
    right = seen = 0
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    interval = 0.5 if watched else 30.0  # a log file gets a line now and then
    with tqdm(
        total=total, initial=initial, unit="image", desc=path.name, disable=not progress, mininterval=interval
    ) as bar:
        for group in certified:
            append_rows(path, group)
            right, seen = right + sum(c.correct for c in group), seen + len(group)
            bar.set_postfix(certified=f"{right / seen:.3f}", refresh=False)
            bar.update(len(group))


def _identity(model: nn.Module, images: Images, spec: Spec) -> dict[str, Any]:
    """What the rows of a table depend on: all of it must be the same for rows to go into one table."""
    weights = [part for name, tensor in model.state_dict().items() for part in (name, _raw(tensor))]
    return {
        "method": "rs",
        "model": digest(*weights),
        "images": images.fingerprint(),
        "noise": type(spec.noise).__name__,
        "sigma": spec.noise.sigma,
        "n0": spec.n0,
        "n": spec.n,
        "alpha": spec.alpha,
        "seed": spec.seed,
        "dtype": str(spec.dtype).removeprefix("torch."),
    }


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _resume(path: Path, identity: dict[str, Any], replace: bool) -> set[int]:
    """Positions that the table at `path` already holds; an unfinished last line is cut."""
    if repair_table(path) == 0:
        return set()
    made = path.with_suffix(".json")
    found = json.loads(made.read_text())["identity"] if made.exists() else None
    if found == identity:
        return set(read_table(path)["idx"].tolist())
    differing = {key for key in identity if not found or found.get(key) != identity[key]}
    if not replace:
        there = {key: found.get(key) for key in sorted(differing)} if found else "no record beside it"
        wanted = {key: identity[key] for key in sorted(differing)}
        raise ValueError(
            f"certify_table: {path} was made with other settings ({', '.join(sorted(differing))}): found "
            f"{there}, "
            f"wanted {wanted}; choose another file or remove it"
        )
    kept = set_aside(path, made)
    warnings.warn(f"{path.name} was made with other settings; it is now {kept[0].name}", stacklevel=3)
    return set()
