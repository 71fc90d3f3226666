"""The images that are attacked, batch by batch, and a look at the networks that are to answer them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dualrs_lab.data.images import Images, to_float
from dualrs_lab.evidence.resume import spread
from dualrs_lab.models.conduct import check_conduct, want_gradients

__all__ = ["attacked_batches", "vet"]


_VETTED_BY = 3  # images


def vet(call: str, networks: Sequence[nn.Module], images: Images, positions: Sequence[int]) -> None:
    """Refuse networks that give no gradients, or are no function of one input, by the first images.

    See `models.want_gradients` and `models.check_conduct`.
    """
    for network in networks:
        want_gradients(call, network)
    pixels, _ = images.batch(positions[:_VETTED_BY])
    for network in networks if len(positions) else ():
        x = to_float(pixels.to(next(network.parameters()).device))
        check_conduct(call, network, x, classes=len(images.classes))


def attacked_batches(
    images: Images, positions: Sequence[int], size: int, device: torch.device, progress: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of `size`: idx (N,), x (N, C, H, W) in [0, 1] and labels, on `device`.

    Each of images that follow one another, and the batches spread over all positions, as rows of votes are.
    """
    starts = spread(range(0, len(positions), size))
    for start in tqdm(starts, desc="attack", unit="batch", disable=not progress):
        index = torch.tensor(positions[start : start + size])
        pixels, labels = images.batch(index)
        x = to_float(pixels.to(device)).contiguous(memory_format=torch.channels_last)
        yield index, x, labels.to(device)
