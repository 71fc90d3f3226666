"""Batches: order, slices, augmentation, channel statistics, and accuracy under noise."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.data.images import Images, to_float
from dualrs_lab.draws import drawn
from dualrs_lab.models.networks import Classifier, make_model
from dualrs_lab.models.suited import suited, trained_on
from dualrs_lab.runtime import make_generator, pick_dtype
from dualrs_lab.training.config import TrainConfig
from dualrs_lab.training.objectives import add_noise
from dualrs_lab.training.ranks import Ranks

__all__ = ["accuracy", "channel_statistics", "new_network"]


def channel_statistics(images: Images, *, most: int = 10_000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel in [0, 1] units, over about `most` images, to 4 digits.

    Of images above 64x64, over fewer: about as many numbers.
    """
    step = max(1, len(images) // images.at_once(most))
    pixels, _ = images.batch(torch.arange(0, len(images), step))
    x = to_float(pixels)
    std, mean = torch.std_mean(x, dim=(0, 2, 3))
    return [round(float(m), 4) for m in mean], [round(float(s), 4) for s in std]


def new_network(name: str, images: Images, *, seed: int) -> Classifier:
    """A fresh network of this name for such images: their classes and channels, their statistics inside."""
    mean, std = channel_statistics(images)
    made = make_model(
        name, classes=len(images.classes), channels=images.shape[0], mean=mean, std=std, seed=seed
    )
    trained_on(made, images)
    return made


@torch.no_grad()
def accuracy(
    model: nn.Module, images: Images, *, sigma: float = 0.0, seed: int, batch: int | None = None
) -> float:
    """Share of `images` that are answered correctly under one draw of Gaussian noise each, or as they are.

    They pass in batches of 1,000, above 64x64 of fewer, or of `batch`.

    Raises ValueError where the network was trained for other classes or shapes, see `models.suited`.
    """
    model, device = suited("accuracy", model, images), next(model.parameters()).device
    right, batch = 0, batch or images.at_once(1000)
    for number, first in enumerate(range(0, len(images), batch)):
        pixels, labels = images.batch(torch.arange(first, min(first + batch, len(images))))
        x = to_float(pixels.to(device))
        if sigma:
            x = add_noise(x, sigma, make_generator(seed, "accuracy", number, device=device))
        with torch.autocast(device.type, torch.bfloat16, enabled=pick_dtype(device) == torch.bfloat16):
            right += int(
                (model(x.contiguous(memory_format=torch.channels_last)).argmax(1).cpu() == labels.cpu()).sum()
            )
    return right / len(images)


def augment(x: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Random mirror and shift of every image of a batch `(B, C, H, W)` at once."""
    count, _, height, width = x.shape
    device = x.device
    if config.flip:
        mirror = drawn(torch.rand, (count,), generator=generator, device=device) < 0.5
        x = torch.where(mirror.view(-1, 1, 1, 1), x.flip(3), x)
    if config.crop:
        kind = partial(torch.randint, 2 * config.crop + 1)
        shift = drawn(kind, (2, count, 1), images=1, generator=generator, device=device)
        rows = shift[0] + torch.arange(height, device=device)
        columns = shift[1] + torch.arange(width, device=device)
        x = F.pad(x, (config.crop,) * 4, mode="reflect").permute(0, 2, 3, 1)
        image = torch.arange(count, device=device).view(-1, 1, 1)
        x = x[image, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def steps_of(images: Images, config: TrainConfig) -> int:
    """In an epoch: what is left over begins no batch."""
    return max(1, len(images) // config.batch)


def order_of(
    count: int, weights: Tensor | None, config: TrainConfig, epoch: int, name: str = "order"
) -> Tensor:
    """Every image once in a fresh order; where there are weights, as many images drawn by them."""
    generator = make_generator(config.seed, name, epoch)
    if weights is None:
        return torch.randperm(count, generator=generator)
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def part_of(
    images: Images,
    order: Tensor,
    step: int,
    config: TrainConfig,
    whole: torch.Generator,
    device: torch.device,
    ranks: Ranks,
) -> tuple[Tensor, Tensor, torch.Generator, int]:
    """This process's slice of a batch: images, labels and generator; and how many all have."""
    batch = order[step * config.batch : (step + 1) * config.batch]
    pixels, labels = images.batch(batch[ranks.slice(len(batch))])
    return to_float(pixels.to(device)), labels.to(device), ranks.generator(whole, len(batch)), len(batch)
