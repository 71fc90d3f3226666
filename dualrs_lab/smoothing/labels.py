"""Votes of experts about training images, kept in a file: what routers and combiners learn from."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor, nn
from tqdm.auto import tqdm

from dualrs_lab.data.images import Images, take_waves
from dualrs_lab.files import replace_bytes
from dualrs_lab.models.checkpoints import fingerprint
from dualrs_lab.models.probe import other_answers, probe_each
from dualrs_lab.models.suited import suited_each
from dualrs_lab.models.sure import graded, grading, kinds_of
from dualrs_lab.runtime import describe
from dualrs_lab.smoothing.engine import count_votes
from dualrs_lab.smoothing.frozen import FrozenVoter, settle
from dualrs_lab.smoothing.job import Sampled, freeze_each
from dualrs_lab.smoothing.noise import GridNoise, NoiseBlocks
from dualrs_lab.smoothing.settings import FastPath
from dualrs_lab.smoothing.spec import Sampling, as_allowed
from dualrs_lab.store import making, plain, unchanged, write_record

__all__ = ["count_images", "image_votes", "label_votes"]


_WAVE = 1000  # images at a time


def image_votes(
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
    progress: bool = True,
) -> dict[str, Tensor]:
    """`counts` int32 (N, K, C) of `n` draws by each expert about each image, its `labels` (N,) and `votes`.

    `votes` (N, K) are those for the label. Cached in the file at `path`. The experts are frozen on the device
    of the first one. A file that was made with other settings, or by experts that answer otherwise, is
    refused with ValueError, or with `replace` kept under another name. Its json tells how it was made. Counts
    of experts that are `models.Graded` are (N, K, C (T + 1)), by how sure each vote is, see
    `evidence.sure_votes`; all experts have the same confidences then, or ValueError.
    """
    how = {"sigmas": sigmas, "n": n, "seed": seed, "dtype": dtype, "fast": fast, "replace": replace}
    how["progress"] = progress
    found = _cached("image_votes", experts, images, Path(path), **how)  # type: ignore[arg-type]
    return {name: each if name == "labels" else each.to(torch.int32) for name, each in found.items()}


def _cached(
    call: str,
    experts: Sequence[nn.Module],
    images: Images,
    path: Path,
    *,
    sigmas: Sequence[float],
    seed: int,
    n: int = 100,
    dtype: torch.dtype = torch.float32,
    fast: FastPath = FastPath(),  # noqa: B008  # frozen
    replace: bool = False,
    progress: bool = True,
) -> dict[str, Tensor]:
    if not experts or len(experts) != len(sigmas):
        raise ValueError(
            f"{call}: got {len(experts)} experts and {len(sigmas)} sigmas; wanted one each (one network "
            "may stand for several experts)"
        )
    experts = suited_each(call, experts, images)
    spec = as_allowed(Sampling(seed=seed, n=n, dtype=dtype, fast=fast), experts)
    identity = plain(
        {
            "experts": [fingerprint(model) for model in experts],
            "images": images.fingerprint(),
            "sigmas": list(sigmas),
            "n": n,
            "seed": seed,
            "dtype": str(spec.dtype).removeprefix("torch."),
        }
        | _alike(call, experts, len(images.classes))
    )
    probed = probe_each(experts, images.shape)

    def otherwise(record: Mapping[str, Any]) -> str:
        reason = other_answers(record, answers=probed)
        old = call == "image_votes" and not reason and "counts" not in _held(path)
        return "holds votes for the label only, as earlier versions kept them" if old else reason

    with making(call, [path], identity, replace=replace, otherwise=otherwise) as there:
        if there:
            return load(unchanged(call, path))
        device = next(experts[0].parameters()).device
        networks = [
            Sampled(model, GridNoise(sigma), kinds_of(model, len(images.classes)))
            for model, sigma in zip(experts, sigmas, strict=True)
        ]
        settled = settle(spec.fast, experts[0], images.shape, inputs=n * len(images))
        voters = freeze_each(networks, images.shape, device, spec, settled)
        asked = tqdm(voters, desc=path.name, unit="expert", disable=not progress)
        each = [count_images(v, images, n=n, seed=seed, stream="labels", device=device) for v in asked]
        found = _kept(np.stack(each, axis=1), images.labels, n)
        data = save(found)
        record = {"identity": identity, "fast": [voter.steps for voter in voters], "probe": probed}
        record |= {"provenance": describe(device), "sha256": hashlib.sha256(data).hexdigest()}
        write_record(call, path, record)
        replace_bytes(path, data)  # last: there is no file without its json
        return found


def _alike(call: str, experts: Sequence[nn.Module], classes: int) -> dict[str, Any]:
    # how votes are told apart, of all experts alike
    if len(found := {*map(grading, experts)}) > 1:
        raise ValueError(f"{call}: got experts with the confidences {found}; wanted the same for each")
    return graded(experts[0], classes)


def _held(path: Path) -> list[str]:
    # names only, as the file is read right after
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _kept(counts: NDArray[np.int64], labels: Tensor, n: int) -> dict[str, Tensor]:
    own = torch.as_tensor(labels).cpu().to(torch.int64)
    every = torch.from_numpy(counts).to(torch.int16 if n < 2**15 else torch.int32)
    votes = every.gather(2, own[:, None, None].expand(-1, every.shape[1], 1)).squeeze(2)
    return {"counts": every, "labels": own, "votes": votes.contiguous()}


def label_votes(experts: Sequence[nn.Module], images: Images, path: Path | str, **how: Any) -> Tensor:
    """Votes int32 (N, K) for the label of each image; everything else as of `image_votes`."""
    return _cached("label_votes", experts, images, Path(path), **how)["votes"].to(torch.int32)


def count_images(
    voter: FrozenVoter, images: Images, *, n: int, seed: int, stream: str, device: torch.device
) -> NDArray[np.int64]:
    """Votes (N, classes) about every image, of `n` draws from a stream of noise of its own."""
    blocks = NoiseBlocks(voter.noise, images.shape, seed=seed, stream=stream, device=device)
    waves = take_waves(images, range(len(images)), _WAVE, device)
    return np.concatenate([count_votes(voter, x, blocks, n=n, classes=voter.classes) for x, *_ in waves])
