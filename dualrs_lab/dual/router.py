"""Training the router of a dual system: the variance estimator of Sun, Mao and Vechev (2026).

Votes to learn from are in `smoothing.labels`, objectives in `dual.objectives`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace as change
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualrs_lab.data.images import Images
from dualrs_lab.dual.objectives import RoutedRadius, Stakes
from dualrs_lab.evidence.binomial import lower_bound
from dualrs_lab.evidence.radii import rs_radius
from dualrs_lab.models.networks import Classifier
from dualrs_lab.training.config import TrainConfig
from dualrs_lab.training.together import train_together

__all__ = ["mapped_radii", "numbered", "train_router"]


Floats = NDArray[np.float64]


def train_router(
    path: Path | str,
    make: Callable[[int], Classifier],
    images: Images,
    *,
    objective: "Stakes | RoutedRadius",
    config: TrainConfig,
    device: torch.device,
    replace: bool = False,
    progress: bool = True,
) -> list[Classifier]:
    """The cuts of a router, from their checkpoints `path` + "_cut1", … or trained now on `images`.

    `images` are `numbered`; everything else is as in `train_together`.
    """
    if len(images) != len(objective.radii):
        raise ValueError(
            f"train_router: got {len(images)} images and radii for {len(objective.radii)}; wanted `numbered` "
            "images, and the radii of these"
        )
    return train_together(
        [f"{path}_cut{k + 1}.safetensors" for k in range(len(objective.sigmas))],
        make,
        images,
        objective=objective,
        config=config,
        device=device,
        replace=replace,
        progress=progress,
    )


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
