"""The alternating scheme: label, train the router, fine-tune the classifier where it is sent, label again.

One classifier serves all noise levels (Sun, Mao and Vechev 2026, table 2). Each step is a file that is made
once, so a scheme that was killed goes on where it stopped. The paper finds that one fine-tuning pays off and
further rounds do not.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dualrs_lab.data.images import Images
from dualrs_lab.dual.choice import Cuts
from dualrs_lab.dual.objectives import Stakes
from dualrs_lab.dual.router import mapped_radii, numbered, train_router
from dualrs_lab.models.networks import Classifier
from dualrs_lab.models.suited import suited
from dualrs_lab.smoothing.frozen import freeze, settle
from dualrs_lab.smoothing.labels import count_images, label_votes
from dualrs_lab.smoothing.noise import GridNoise
from dualrs_lab.smoothing.settings import FastPath
from dualrs_lab.training.checkpoints import train_checkpoint
from dualrs_lab.training.config import TrainConfig

__all__ = ["Round", "RoutedGaussian", "alternate", "choices"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedGaussian:
    """Cross-entropy under Gaussian noise of the level that the router chose for each image.

    `labels` and `levels` (N,) are indexed by the number of the image, see `dual.numbered`.
    """

    labels: Tensor
    levels: Tensor

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        noisy = x + self.levels.to(x)[y].view(-1, 1, 1, 1) * noise
        return F.cross_entropy(model(noisy).float(), self.labels.to(y.device)[y])


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """One pass of the scheme: the classifier, what it certifies at each level, and the router for it."""

    classifier: Classifier
    radii: NDArray[np.float64]  # (N, K) of the training images, from few draws
    cuts: list[Classifier]
    choice: NDArray[np.int64]  # (N,) of the training images


def choices(
    cuts: Sequence[nn.Module],
    images: Images,
    *,
    rule: Cuts,
    n: int = 100,
    seed: int,
    dtype: torch.dtype = torch.float32,
    fast: FastPath = FastPath(),  # noqa: B008  # frozen
) -> NDArray[np.int64]:
    """The expert (N,) that `n` votes of each cut choose for every image, without a test."""
    device = next(cuts[0].parameters()).device
    cuts = [suited("choices", cut, images, names=False) for cut in cuts]
    fast = settle(fast, cuts[0], images.shape, inputs=n * len(images))
    asked = []
    for k, (cut, sigma) in enumerate(zip(cuts, rule.sigmas, strict=True)):
        voter = freeze(cut, GridNoise(sigma), images.shape, classes=2, device=device, dtype=dtype, fast=fast)
        asked.append(count_images(voter, images, n=n, seed=seed, stream=f"choices-{k}", device=device))
    return rule.top(np.stack(asked, axis=1))


def alternate(
    folder: Path | str,
    classifier: Classifier,
    images: Images,
    *,
    sigmas: Sequence[float],
    rule: Cuts,
    objective: Callable[[Tensor], Stakes],
    make: Callable[[int], Classifier],
    router: TrainConfig,
    tune: TrainConfig,
    seed: int,
    rounds: int = 1,
    n_labels: int = 100,
    draws: int = 10_000,
    alpha: float = 0.001,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> list[Round]:
    """`rounds` + 1 rounds of the scheme on the training `images`; round 0 has the classifier as it was given.

    `objective` makes the router's objective from radii (N, K), `make(k)` its network for cut k. Labels come
    from `n_labels` draws for each level, mapped to what `draws` draws would certify at an expert's share of
    `alpha`. `router` and `tune` say how router and classifier are trained. Everything is kept in `folder`;
    what is there with the same settings is not made again.
    """
    folder, device = Path(folder), next(classifier.parameters()).device
    level = rule.split(len(sigmas), alpha).experts[0]
    own, made = numbered(images), list[Round]()
    for number in range(rounds + 1):
        if number:
            levels = torch.tensor(sigmas)[torch.from_numpy(made[-1].choice)]
            classifier, _ = train_checkpoint(
                folder / f"round{number}_classifier.safetensors",
                lambda before=classifier: copy.deepcopy(before),  # type: ignore[misc]
                own,
                objective=RoutedGaussian(labels=images.labels, levels=levels),
                config=tune,
                device=device,
                progress=progress,
            )
        file = folder / f"round{number}_labels.safetensors"
        pool = [classifier] * len(sigmas)
        votes = label_votes(
            pool, images, file, sigmas=sigmas, n=n_labels, seed=seed, dtype=dtype, progress=progress
        )
        radii = mapped_radii(votes, n=n_labels, draws=draws, alpha=level, sigmas=sigmas)
        cuts = train_router(
            folder / f"round{number}_router",
            make,
            own,
            objective=objective(torch.from_numpy(radii).float()),
            config=router,
            device=device,
            progress=progress,
        )
        choice = choices(cuts, images, rule=rule, n=n_labels, seed=seed, dtype=dtype)
        made.append(Round(classifier=classifier, radii=radii, cuts=cuts, choice=choice))
    return made
