"""The arms of pixel-reweighted adversarial training, as `23_pixel_reweighting` compares them.

PART (Zhang et al. 2024) lowers the budget on pixels that a map of the image calls less important. Each of its
arms has controls with the same total: one number for all pixels, as many pixels at random, the masks of other
images. All begin with a warm-up of plain adversarial training (AT).
"""

from dataclasses import dataclass
from dataclasses import replace as _replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dualrs_lab.attacks.evaluate import robust_accuracy
from dualrs_lab.attacks.pgd import PGD
from dualrs_lab.data.images import Images
from dualrs_lab.models.networks import Classifier
from dualrs_lab.pixels.budgets import Budget, OtherImages, Pixels, RandomPixels, Uniform
from dualrs_lab.pixels.masks import TopFraction
from dualrs_lab.training.adversarial import Adversarial, Mart, Trades
from dualrs_lab.training.batches import new_network
from dualrs_lab.training.checkpoints import train_checkpoint
from dualrs_lab.training.config import recipe
from dualrs_lab.training.objectives import Warmup
from dualrs_lab.training.ranks import ALONE, Ranks

__all__ = ["Arms", "train_arm"]


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Their budgets and attack, in [0, 1] units: `eps`, and each of `lows` on less important pixels.

    `fraction` of the pixels of an image are important. The controls by random pixels and by other images, and
    those of the hosts TRADES and MART, belong to the first of `lows`. `warmup` counts epochs.
    """

    eps: float
    lows: tuple[float, ...]
    fraction: float
    steps: int
    step: float
    warmup: int

    @property
    def attack(self) -> PGD:
        """The attack in training."""
        return PGD(steps=self.steps, step=self.step, best=False, blind=0.99)

    def part(self, low: float) -> Pixels:
        """The budget of PART with `low` on less important pixels."""
        return Pixels(mask=TopFraction(fraction=self.fraction), high=self.eps, low=low)

    def budgets(self, shape: tuple[int, int, int]) -> dict[str, Budget]:
        """Arm -> budget, for images of this shape (C, H, W)."""
        pixels, first = shape[1] * shape[2], self.lows[0]
        share = round(self.fraction * pixels) / pixels  # of whole pixels
        found: dict[str, Budget] = {"AT": Uniform(eps=self.eps)}
        for low in self.lows:
            found[f"PART {low:g}"] = self.part(low)
            found[f"uniform {low:g}"] = Uniform(eps=share * self.eps + (1 - share) * low)  # of equal mean
        found[f"random pixels {first:g}"] = RandomPixels(of=self.part(first))
        found[f"other images {first:g}"] = OtherImages(of=self.part(first))
        return found

    def courses(self, shape: tuple[int, int, int]) -> dict[str, Warmup]:
        """Arm -> how it is trained; after those of `budgets` the arms of other hosts, "TRADES PART", …"""
        budgets, first = self.budgets(shape), self.lows[0]
        every = {arm: self._course(Adversarial, budgets["AT"], rule) for arm, rule in budgets.items()}
        hosts: dict[str, type[Trades | Mart]] = {"TRADES": Trades, "MART": Mart}
        for host, loss in hosts.items():
            for kind, arm in {"": "AT", "PART": f"PART {first:g}", "uniform": f"uniform {first:g}"}.items():
                every[f"{host} {kind}".strip()] = self._course(loss, budgets["AT"], budgets[arm])
        return every

    def _course(self, loss: type[Adversarial | Trades | Mart], plain: Budget, rule: Budget) -> Warmup:
        first, then = (loss(budget=budget, attack=self.attack) for budget in (plain, rule))
        return Warmup(epochs=self.warmup, first=first, then=then)


def train_arm(
    path: Path | str,
    arm: str,
    images: Images,
    held_out: Images,
    *,
    arms: Arms,
    model: str,
    epochs: int,
    seed: int,
    device: torch.device,
    average: float = 0.0,
    replace: bool = False,
    progress: bool = True,
    ranks: Ranks = ALONE,
) -> tuple[Classifier, dict[str, Any]]:
    """One network of an arm, as `train_checkpoint` makes it; `epochs` are all, with those of the warm-up.

    With `average` it is the running mean of the weights, as in `TrainConfig`.
    Of arms of `Arms.budgets` the epoch that withstands PGD-5 best on images `held_out` is kept as well.
    Raises ValueError for an arm that there is not, and as `train_checkpoint`.
    """
    courses = arms.courses(images.shape)
    if arm not in courses:
        raise ValueError(f"train_arm: got {arm!r}; wanted one of {', '.join(courses)}")
    weak = PGD(steps=5, step=arms.eps / 2)
    best: dict[str, Any] = {
        "keep_best": True,
        "validate": lambda network: robust_accuracy(network, held_out, eps=arms.eps, attack=weak, seed=0),
    }
    return train_checkpoint(
        path,
        partial(new_network, model, images, seed=seed),
        images,
        objective=courses[arm],
        config=_replace(recipe(images, epochs=epochs, seed=seed), batch=128, lr=0.1, average=average),
        device=device,
        replace=replace,
        progress=progress,
        ranks=ranks,
        **(best if arm in arms.budgets(images.shape) else {}),
    )
