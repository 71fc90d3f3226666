"""Recipes for networks that will be smoothed, and a trainer that follows one on a GPU."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.certifying import SEED
from benchmarks.gpu.trainer import Recipe, Trainer
from dualrs_lab.data import Images
from dualrs_lab.models import Classifier
from dualrs_lab.runtime import make_generator
from dualrs_lab.training import RECIPES as PUBLISHED
from dualrs_lab.training import (
    AttackedNoise,
    CatRs,
    Macer,
    Objective,
    OwnRadius,
    count_right,
    easiness,
)

__all__ = ["RECIPES", "Choice", "Taught"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An objective by its noise level, and whether hopeless images are dropped and the others weighted."""

    make: Callable[[float], Objective]
    easy: bool = False


def _cat_rs(sigma: float) -> Objective:
    return CatRs(sigma=sigma, strength=2 * sigma, eps=max(1.0, 2 * sigma), draws=4, steps=1)


def _attacked_noise(sigma: float) -> Objective:
    return AttackedNoise(sigma=sigma, step=max(0.5, sigma), draws=2, steps=2)


RECIPES: dict[str, Choice] = {
    "consistency": Choice(make=PUBLISHED["consistency"]),
    "consistency, easy images": Choice(make=PUBLISHED["consistency"], easy=True),
    "SmoothAdv and consistency": Choice(make=PUBLISHED["smoothadv-consistency"]),
    "SmoothAdv and consistency, easy images": Choice(make=PUBLISHED["smoothadv-consistency"], easy=True),
    "CAT-RS": Choice(make=_cat_rs),
    "attacked noise, easy images": Choice(make=_attacked_noise, easy=True),
    "own radius": Choice(make=lambda sigma: OwnRadius(sigma=sigma, accuracy=0.2, draws=4)),
    "MACER": Choice(make=lambda sigma: Macer(sigma=sigma, strength=4.0, draws=4)),
}


class Taught(Trainer):
    """By an objective of the package; with `counts`, of images that are weighted anew four times."""

    def __init__(
        self,
        model: Classifier,
        images: Images,
        recipe: Recipe,
        say: Callable[[str], None],
        *,
        objective: Objective,
        counts: int = 0,
        threshold: float = 0.4,
    ) -> None:
        super().__init__(model, images, recipe, say)
        self.images, self.objective = images.to(self.device), objective
        self.counts, self.threshold = counts, threshold
        self.sigma: float = objective.sigma  # type: ignore[attr-defined]  # all of them have one
        self.planned = 1

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.objective(self.model, x, y, self.generator)

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.sigma * torch.randn(x.shape, generator=self.generator, device=self.device)

    def train(self, *, steps: int, seed: int) -> list[dict[str, float]]:
        self.planned = steps
        return super().train(steps=steps, seed=seed)

    def weighed(self, number: int) -> Tensor:
        """How often each image should come, by votes of the network as it is."""
        generator = make_generator(SEED, "easiness", number, device=self.device)
        right = count_right(self.model, self.images, sigma=self.sigma, draws=self.counts, generator=generator)
        found = easiness(right, self.counts, threshold=self.threshold).cpu()
        self.say(f"{float((found > 0).float().mean()):.3f} of the images are kept")
        return found

    def _batches(self, seed: int) -> Any:
        return self._weighted(seed) if self.counts else super()._batches(seed)

    def _weighted(self, seed: int) -> Iterator[Tensor]:
        generator, quarter = make_generator(seed, "order"), -(-self.planned // 4)
        for number in range(4):
            found = self.weighed(number)
            for _ in range(quarter):
                index = torch.multinomial(found, self.recipe.batch, replacement=True, generator=generator)
                yield index.to(self.device)
