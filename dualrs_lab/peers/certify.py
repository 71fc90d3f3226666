"""Certify a network whose noise level changes slowly with the image (Súkeník et al. 2022)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from dataclasses import replace as change
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from dualrs_lab.data.images import Group, Images
from dualrs_lab.models.suited import suited
from dualrs_lab.peers.certificate import SMOOTH_COLUMNS, SmoothSigmaCertificate
from dualrs_lab.peers.smooth_sigma import SmoothSigma, neighbour_distances
from dualrs_lab.smoothing.certify import certify_waves
from dualrs_lab.smoothing.frozen import FrozenVoter
from dualrs_lab.smoothing.job import Job, Sampled
from dualrs_lab.smoothing.spec import Spec, as_allowed, identify
from dualrs_lab.store import plain

__all__ = ["certify_smooth_table", "fit_smooth_sigma", "pixel_rows"]


def pixel_rows(images: Images) -> NDArray[np.uint8]:
    """All images as rows (N, D) of uint8, what `neighbour_distances` takes."""
    pixels, _ = images.batch(range(len(images)))
    return np.asarray(pixels.flatten(1).numpy(), dtype=np.uint8)


def fit_smooth_sigma(
    neighbours: Images, *, base: float, rate: float, k: int = 20, some: int = 500
) -> SmoothSigma:
    """The level centred at the mean distance of about `some` training images to their `k` nearest others.

    So sigma is `base` on an average training image; no image that is certified has a say in it.
    """
    rows = pixel_rows(neighbours)
    among = rows[:: neighbours.stride(some)]
    distances = neighbour_distances(among, rows, k=k, left_out=True)
    return SmoothSigma(base=base, rate=rate, centre=float(distances.mean()), k=k)


def certify_smooth_table(
    model: nn.Module,
    images: Images,
    neighbours: Images,
    path: Path | str,
    *,
    spec: Spec,
    smooth: SmoothSigma,
    skip: int = 1,
    max_images: int = -1,
    replace: bool = False,
    progress: bool = True,
    info: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Certify every `skip`-th image under sigma(x) into the table at `path`, as `certify_table` does.

    `smooth` says how the level depends on the distance to `neighbours`, the training images; the level of
    `spec.noise` is its base. Votes are drawn for each image under a level of its own, so that little is
    shared: noise costs about as much as a small network. Raises ValueError for another level than the base,
    images of another shape than the neighbours, pairs with an original, and as `certify_table`.
    """
    model, device = suited("certify_smooth_table", model, images), next(model.parameters()).device
    spec = as_allowed(spec, [model])
    if spec.noise.sigma != smooth.base or spec.certify != "copy" or images.shape != neighbours.shape:
        raise ValueError(
            f"certify_smooth_table: got noise of sigma {spec.noise.sigma:g} with base {smooth.base:g}, "
            f"certify={spec.certify!r}, and images {images.shape} beside {neighbours.shape}; wanted the "
            "base as level, 'copy', and neighbours of the same shape"
        )
    near = pixel_rows(neighbours)

    def rows(voters: list[FrozenVoter], waves: Iterable[Group]) -> Iterator[list[SmoothSigmaCertificate]]:
        for x, labels, idx in waves:
            own = x.flatten(1).cpu().numpy()
            distances = neighbour_distances(own, near, k=smooth.k)
            for i, distance in enumerate(distances):
                noise = change(spec.noise, sigma=float(smooth.at(distance)))
                wave = [(x[i : i + 1], labels[i : i + 1], idx[i : i + 1])]
                made = certify_waves(
                    voters[0].under(noise), wave, images.shape, change(spec, noise=noise), device
                )
                yield [
                    SmoothSigmaCertificate.under(one, smooth, float(distance), own.shape[1])
                    for group in made
                    for one in group
                ]

    identity = dict(identify(model, images, spec)) | {
        "method": "smooth-sigma",
        "neighbours": neighbours.fingerprint(),
    }
    del identity["sigma"]  # of no row
    job = Job(
        call="certify_smooth_table",
        spec=spec,
        identity=plain(identity | asdict(smooth)),
        networks=[Sampled(model, spec.noise, len(images.classes))],
        like=model,
        rows=rows,
        wave=50,
        passes=1,
        told=lambda each: each[0],
        columns=SMOOTH_COLUMNS,
    )
    return job.run(
        images, path, skip=skip, max_images=max_images, replace=replace, progress=progress, info=info
    )
