"""Certify and predict: any network, any images, one call.

The guarantee is that of `smoothing.certify`; nothing is folded, compiled or rounded on the way, so what is
certified is the network as it came.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from dualrs_lab.afar.sending import sending
from dualrs_lab.evidence.certificate import COLUMNS, Certificate
from dualrs_lab.evidence.resume import fill, finished
from dualrs_lab.evidence.rows import IMAGE, check_images
from dualrs_lab.evidence.table import frame
from dualrs_lab.front.diagnose import explain
from dualrs_lab.front.networks import Asked, as_network, in_names
from dualrs_lab.front.pictures import Pictures, as_pictures
from dualrs_lab.front.table import Table
from dualrs_lab.runtime import describe
from dualrs_lab.settings import ALPHA, SIGMA
from dualrs_lab.smoothing.certify import certify_waves
from dualrs_lab.smoothing.certify import predict as predict_inputs
from dualrs_lab.smoothing.engine import Voter, images_together
from dualrs_lab.smoothing.job import reason_to_stop
from dualrs_lab.smoothing.noise import GaussianNoise, GridNoise, first_draws
from dualrs_lab.smoothing.settings import FastPath
from dualrs_lab.smoothing.spec import Spec
from dualrs_lab.store import plain, positions, read_record, step_aside

__all__ = ["certify", "predict"]


_WAVE = 64  # images side by side


def certify(
    model: Any,
    images: Any,
    labels: Any = None,
    *,
    sigma: float,
    seed: int,
    n: int = 10_000,
    n0: int = 100,
    alpha: float = ALPHA,
    rule: str = "two-bounds",
    classes: int | Sequence[str] | None = None,
    layout: str | None = None,
    skip: int = 1,
    max_images: int = -1,
    batch: int | None = None,
    out: Path | str | None = None,
    progress: bool = True,
) -> Table:
    """Certify `model` on `images` under noise of standard deviation `sigma` (pixels in [0, 1]), each by
    itself.

    `model` is whatever `load_network` takes: a module of torch, a function of float images in [0, 1]
    (B, C, H, W), as tensors or as arrays, to logits (B, K) or whole-number labels (B,), an estimator with
    `predict`, or a string that names a file, a published network, a factory or an address. `images` are uint8
    arrays or tensors, channels first or last, PIL images, a folder, the name of a data set, or `Images`;
    floats in [0, 1] get plain Gaussian noise in place of noise on the 8-bit grid. `labels` (N,) are positions
    of the outputs; without them nothing is said of accuracy. `classes` is the number of outputs, which a
    model that answers labels only does not tell, or their names, by which the labels of a folder are found.

    The class is guessed on `n0` draws and its probability bounded on `n` others; each statement fails with
    probability at most `alpha`. `skip` and `max_images` choose images, `batch` is the number of noisy images
    in a pass. With `out`, a .tsv, rows are kept as they come, and the same call goes on after a kill; to an
    address it is sent at the end. A
    module in training mode is copied into evaluation mode; yours stays as it is. Where most images abstain,
    or no more are right than by chance, the `signs` of the table say why it may be.

    Raises ValueError that names what came and the remedy, FloatingPointError for NaN logits.
    """
    asked = _ready("certify", model, images, labels, classes, layout)
    spec = _spec("certify", asked, sigma, seed=seed, n=n, n0=n0, alpha=alpha, rule=rule, batch=batch)
    pictures, idx = asked.pictures, positions("certify", len(asked.pictures), skip, max_images)
    record = _record(asked, spec) | {"skip": skip, "max_images": max_images}
    groups = _Groups(asked, spec)
    if out is None:
        found = _in_memory(groups, pictures, idx, progress)
    else:
        with sending("certify", out) as place:
            found = _kept(place, groups, pictures, idx, record, progress)
    signs = explain(asked.network, pictures, found, sigma=sigma, seed=seed)
    return Table(found, record, signs, asked.network.name)


def predict(
    model: Any,
    images: Any,
    *,
    sigma: float,
    seed: int,
    n: int = 1000,
    alpha: float = ALPHA,
    classes: int | Sequence[str] | None = None,
    layout: str | None = None,
    batch: int | None = None,
) -> NDArray[np.int64]:
    """What the smoothed network answers: classes (N,), -1 where the two leading counts are too close to tell.

    An answer is another than that of the smoothed network with probability at most `alpha`, image by image.
    `model`, `images` and errors are as of `certify`.
    """
    asked = _ready("predict", model, images, None, classes, layout)
    spec = _spec("predict", asked, sigma, seed=seed, n=n, alpha=alpha, batch=batch)
    every = range(len(asked.pictures))
    each = [
        predict_inputs(asked.network, x, classes=asked.classes, spec=spec)
        for x, _, _ in asked.pictures.waves(every, 1000, asked.device)
    ]
    return np.concatenate(each)


class _Asked(NamedTuple):
    """A network that was found out, and the images that it is asked about."""

    network: Asked
    pictures: Pictures

    @property
    def classes(self) -> int:
        return self.network.classes

    @property
    def device(self) -> torch.device:
        return self.network.device


def _ready(call: str, model: Any, images: Any, labels: Any, classes: Any, layout: str | None) -> _Asked:
    pictures = in_names(call, as_pictures(call, images, labels, layout=layout), classes)
    return _Asked(as_network(call, model, pictures, classes=classes), pictures)


def _spec(call: str, asked: _Asked, sigma: float, **draws: Any) -> Spec:
    kind = GridNoise if asked.pictures.on_grid else GaussianNoise
    if sigma not in SIGMA or (kind is GridNoise and sigma >= 10):
        large = isinstance(sigma, int | float) and sigma >= 10
        remedy = f"; of pixels from 0 to 255 that is sigma={sigma / 255:.3g}" if large else ""
        raise ValueError(
            f"{call}: got sigma {sigma!r}; wanted the standard deviation of noise for pixels in [0, 1], "
            f"such as 0.25{remedy}"
        )
    return Spec(noise=kind(sigma), dtype=asked.network.dtype, fast=FastPath.plain(), **draws)


class _Groups:
    """Certificates of images as they are done, always by one voter."""

    def __init__(self, asked: _Asked, spec: Spec) -> None:
        self.asked, self.spec = asked, spec
        self.shape = asked.pictures.shape
        self.voter = Voter(
            asked.network,
            spec.noise,
            classes=asked.classes,
            units=images_together(self.shape, asked.device, spec.batch),
            dtype=spec.dtype,
            channels_last=False,  # functions may ask for a view
        )

    def __call__(self, idx: Sequence[int]) -> Iterator[list[Certificate]]:
        waves = self.asked.pictures.waves(idx, max(_WAVE, 8 * self.voter.units), self.asked.device)
        return certify_waves(self.voter, waves, self.shape, self.spec, self.asked.device)


Groups = Callable[[Sequence[int]], Iterator[list[Certificate]]]


def _in_memory(groups: Groups, pictures: Pictures, idx: range, progress: bool) -> pd.DataFrame:
    claims: list[Certificate] = []
    with tqdm(total=len(idx), unit="image", desc="certify", disable=not progress, delay=2) as bar:
        for group in groups(idx):
            claims += group
            bar.update(len(group))
    found = frame(sorted(claims, key=lambda claim: claim.idx))
    return found.assign(**{IMAGE: pictures.digests(idx)})


def _kept(
    path: Path, groups: Groups, pictures: Pictures, idx: range, record: dict[str, Any], progress: bool
) -> pd.DataFrame:
    call, identity, begun = "certify", record["identity"], read_record(path)
    done = finished(call, path, identity, idx) is not None
    if begun.get("identity") == identity and (reason := reason_to_stop(begun, record, complete=done)):
        step_aside(call, path, reason, replace=False)

    def rows(todo: list[int]) -> Iterator[list[dict[str, object]]]:
        for group in groups(todo):
            digests = pictures.digests([claim.idx for claim in group])
            yield [
                dict(claim.to_row()) | {IMAGE: digest} for claim, digest in zip(group, digests, strict=True)
            ]

    return fill(
        call,
        path,
        idx,
        rows,
        record=record,
        disagreement=lambda: None,
        replace=False,
        progress=progress,
        columns=(*COLUMNS, IMAGE),
        check=lambda table: check_images(call, path, table, pictures.digests),
    )


def _record(asked: _Asked, spec: Spec) -> dict[str, Any]:
    own = {"method": "rs", "model": asked.network.identity(), "images": asked.pictures.fingerprint()}
    fast = {"fast": spec.fast.steps(spec.dtype)}
    return {
        "identity": plain(own | spec.identity() | fast),
        "probe": [asked.network.answers(asked.pictures.shape)],
        "classes": [asked.network.suit],
        "drawn": {
            "device": asked.device.type,
            "first": [first_draws(spec.noise, seed=spec.seed, device=asked.device)],
        },
        "batch": spec.batch,
        "info": {
            "network": asked.network.name,
            "images": asked.pictures.name,
            "answers": "labels only" if asked.network.labels_only else "logits",
            "classes": asked.classes,
        },
        "provenance": describe(asked.device),
    }
