"""Labels for a router: the radii that each expert certifies on training images.

They are estimated from few draws, kept, and mapped to the number of draws of the certification.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace as change
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from dualrs_lab.data.images import Images, take_waves
from dualrs_lab.evidence.binomial import lower_bound
from dualrs_lab.evidence.radii import rs_radius
from dualrs_lab.files import replace_bytes
from dualrs_lab.models.checkpoints import fingerprint
from dualrs_lab.models.probe import other_answers, probe_each
from dualrs_lab.models.suited import suited_each
from dualrs_lab.runtime import describe
from dualrs_lab.smoothing.engine import count_votes
from dualrs_lab.smoothing.frozen import FrozenVoter, freeze, settle
from dualrs_lab.smoothing.noise import GridNoise, NoiseBlocks
from dualrs_lab.smoothing.settings import FastPath
from dualrs_lab.store import making, plain, unchanged, write_record

__all__ = ["count_images", "label_votes", "mapped_radii", "numbered"]


Floats = NDArray[np.float64]


_WAVE = 1000  # images at a time


def label_votes(
    experts: Sequence[nn.Module],
    images: Images,
    path: Path | str,
    *,
    sigmas: Sequence[float],
    n: int = 100,
    seed: int,
    dtype: torch.dtype = torch.float32,
    fast: FastPath = FastPath(),  # noqa: B008  # frozen
    replace: bool = False,
) -> Tensor:
    """Votes int32 (N, K) for the label of each image, of `n` draws by each expert; cached in a file.

    The experts are frozen on the device of the first one. A file at `path` that was made with other settings,
    or by experts that answer otherwise, is refused with ValueError, or with `replace` kept under another
    name. Its json tells how it was made.
    """
    path = Path(path)
    if not experts or len(experts) != len(sigmas):
        raise ValueError(
            f"label_votes: got {len(experts)} experts and {len(sigmas)} sigmas; wanted one each (one network "
            "may stand for several experts)"
        )
    experts = suited_each("label_votes", experts, images)
    identity = plain(
        {
            "experts": [fingerprint(model) for model in experts],
            "images": images.fingerprint(),
            "sigmas": list(sigmas),
            "n": n,
            "seed": seed,
            "dtype": str(dtype).removeprefix("torch."),
        }
    )
    probed = probe_each(experts, images.shape)
    same = partial(other_answers, answers=probed)
    with making("label_votes", [path], identity, replace=replace, otherwise=same) as there:
        if there:
            return load(unchanged("label_votes", path))["votes"]
        device = next(experts[0].parameters()).device
        fast = settle(fast, experts[0], images.shape, inputs=n * len(images))
        voters = [
            freeze(
                model,
                GridNoise(sigma),
                images.shape,
                classes=len(images.classes),
                device=device,
                dtype=dtype,
                fast=fast,
            )
            for model, sigma in zip(experts, sigmas, strict=True)
        ]
        each = [count_images(v, images, n=n, seed=seed, stream="labels", device=device) for v in voters]
        counts = np.stack(each, axis=1)
        own = images.labels.cpu().numpy()[:, None, None]
        votes = torch.from_numpy(np.take_along_axis(counts, own, axis=2)[..., 0]).to(torch.int32)
        record = {"identity": identity, "fast": [voter.steps for voter in voters], "probe": probed}
        data = save({"votes": votes})
        record |= {"provenance": describe(device), "sha256": hashlib.sha256(data).hexdigest()}
        write_record("label_votes", path, record)
        replace_bytes(path, data)  # last: there is no file without its json
        return votes


def count_images(
    voter: FrozenVoter, images: Images, *, n: int, seed: int, stream: str, device: torch.device
) -> NDArray[np.int64]:
    """Votes (N, classes) about every image, of `n` draws from a stream of noise of its own."""
    blocks = NoiseBlocks(voter.noise, images.shape, seed=seed, stream=stream, device=device)
    waves = take_waves(images, range(len(images)), _WAVE, device)
    return np.concatenate([count_votes(voter, x, blocks, n=n, classes=voter.classes) for x, *_ in waves])


def mapped_radii(votes: Tensor, *, n: int, draws: int, alpha: float, sigmas: Sequence[float]) -> Floats:
    """Radii (N, K) that `draws` draws at level `alpha` would certify with the share of `votes` (N, K) of n.

    The share is (k + 1/2) / (n + 1), so that n of n does not stand for certainty. Without the mapping no
    radius at n = 100 exceeds 1.5 sigma, which would push the labels towards large sigmas.
    """
    share = (votes.numpy() + 0.5) / (n + 1)
    return np.asarray(rs_radius(lower_bound(np.floor(share * draws), draws, alpha), np.asarray(sigmas)))


def numbered(images: Images) -> Images:
    """The images, each with its own number as label, by which objectives of this module look things up."""
    numbers = torch.arange(len(images), device=images.labels.device)
    return change(images, labels=numbers, classes=tuple(map(str, range(len(images)))))
