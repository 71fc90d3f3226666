"""Which images a network that will be smoothed is trained on: those that are worth it (Sun et al. 2025).

Images that are hopeless at a noise level are dropped, and the others come the more often the larger their
radius is ("Average Certified Radius is a Poor Metric for Randomized Smoothing", sections 5.1 and 5.2). That
raises large radii at the price of accuracy near 0, so what it does is only told by the whole curve.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from dualrs_lab.attacks.checks import evaluating
from dualrs_lab.data.images import Images, to_float
from dualrs_lab.runtime import make_generator, pick_dtype
from dualrs_lab.training.objectives import Objective, Warmup, add_noise
from dualrs_lab.training.ranks import ALONE, Ranks

__all__ = ["Course", "EasyImages", "count_right", "easiness"]


FLOOR, LEVEL = 0.75, 0.1  # as published: shares below count as this one; level of the lower bounds


@dataclass(frozen=True, kw_only=True)
class EasyImages:
    """An `objective` that from epoch `start` on is trained on images that are worth it.

    Before that epoch, and every so many after it, `draws` noisy copies of each image at the objective's σ are
    asked. Until then all images come once an epoch; then as many are drawn, with replacement (`easiness`).
    """

    objective: Objective
    start: int
    every: int = 10
    draws: int = 16
    threshold: float = 0.4

    @property
    def sigma(self) -> float:
        """The noise of the objective; what is standard training has none to choose by."""
        found: float = getattr(self.objective, "sigma", 0.0)
        if not found > 0:
            raise ValueError(
                f"EasyImages: {type(self.objective).__name__} has no noise; wanted an objective with a sigma"
            )
        return found

    def due(self, epoch: int) -> bool:
        """Whether images are chosen before this epoch, counted from 0."""
        return epoch >= self.start and (epoch - self.start) % self.every == 0

    def weigh(
        self, model: nn.Module, images: Images, *, epoch: int, seed: int, ranks: Ranks = ALONE
    ) -> Tensor:
        """How often each image should come by the network as it is now, float32 (N,) on the CPU.

        Several processes ask about a slice of the images each, and all choose by what they found together.
        """
        device = next(model.parameters()).device
        generator = make_generator(seed, "easiness", epoch, device=device)
        right = count_right(
            model, images, sigma=self.sigma, draws=self.draws, generator=generator, ranks=ranks
        )
        return easiness(right, self.draws, threshold=self.threshold).cpu()


Course = Objective | Warmup | EasyImages
"""What a network can be trained by, from the first epoch to the last."""


@torch.no_grad()
def count_right(
    model: nn.Module,
    images: Images,
    *,
    sigma: float,
    draws: int,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> Tensor:
    """How many of `draws` noisy copies of each image are answered correctly, int64 (N,) on its device."""
    device = next(model.parameters()).device
    low = pick_dtype(device) == torch.bfloat16
    right = torch.zeros(len(images), dtype=torch.int64, device=device)
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=low):
        for first in range(0, len(images), (batch := images.at_once(2000))):
            index = torch.arange(first, min(first + batch, len(images)))
            own, index = ranks.generator(generator, len(index)), index[ranks.slice(len(index))]
            pixels, labels = images.batch(index)
            x, y = to_float(pixels.to(device)), labels.to(device)
            answers = [model(add_noise(x, sigma, own)).argmax(1) == y for _ in range(draws)]
            right[index.to(device)] = torch.stack(answers).sum(dim=0)
    return ranks.total(right)


def easiness(right: Tensor, draws: int, *, threshold: float = 0.4) -> Tensor:
    """How often each image should come, float32 (N,), 0 for the hopeless ones that are never right enough.

    That is Phi^-1 of a lower bound of the share `right / draws`, where shares between `threshold` and FLOOR
    count as FLOOR. Raises ValueError where no image is left.
    """
    share = right.double().cpu() / draws
    counted = (share.clamp(FLOOR, 1.0) * draws).floor()
    k = counted.numpy()
    bound = np.where(k > 0, stats.beta.ppf(LEVEL, np.maximum(k, 1), draws - k + 1), 0.0)
    radius = torch.from_numpy(stats.norm.ppf(bound)).clamp(min=1e-3)
    found = radius * (share >= threshold)
    if not bool((found > 0).any()):
        raise ValueError(
            f"easiness: no image has a share of {threshold:g} right answers of {draws} draws; train the "
            "network for longer before images are dropped, or lower the threshold"
        )
    return found.float().to(right.device)
