"""Training the router of a dual system: the variance estimator of Sun, Mao and Vechev (2026).

Labels are in `dual.labels`, objectives in `dual.objectives`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dualrs_lab.data.images import Images
from dualrs_lab.dual.objectives import RoutedRadius, Stakes
from dualrs_lab.models.networks import Classifier
from dualrs_lab.training.config import TrainConfig
from dualrs_lab.training.together import train_together

__all__ = ["train_router"]


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
