"""Adversarial training on a GPU: attack and training as one graph, budgets of PART as two numbers of it.

The attack sees the network in evaluation mode, as `training.Adversarial` does, and its steps are those of
`attacks.pgd` without what a graph cannot hold: checks that wait for the device.
"""

import copy
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.trainer import Recipe, Trainer
from dualrs_lab.attacks import PGD
from dualrs_lab.data import Images
from dualrs_lab.models import Classifier
from dualrs_lab.pixels import TopFraction, grad_cam

__all__ = ["Attacked", "Plain"]


class Plain(Trainer):
    """Cross-entropy on the images themselves."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.model(self.seen(x, y)).float(), y)


class Attacked(Plain):
    """Cross-entropy on images attacked by `attack` within `high` where the map is largest, `low` elsewhere.

    Where both are equal, this is plain adversarial training; otherwise PART (Zhang et al. 2024) with a
    Grad-CAM of the last stage, of which a share `fraction` of the pixels counts as important.
    """

    KNOBS = ("high", "low")

    def __init__(
        self,
        model: Classifier,
        images: Images,
        recipe: Recipe,
        say: Callable[[str], None],
        *,
        attack: PGD,
        fraction: float,
    ) -> None:
        super().__init__(model, images, recipe, say)
        self.attack, self.mask, self.twin = attack, TopFraction(fraction=fraction), _twin(self.model)

    def budget(self, x: Tensor) -> Tensor:
        """How far each pixel may move at the present ramp, (B, 1, H, W)."""
        with torch.no_grad():
            activations = self.twin.stages(x)[-1]
            head = cast(nn.Linear, self.twin.body.fc)
            answers = head(activations.mean((2, 3))).argmax(1)
            gradients = head.weight[answers][:, :, None, None].float()
            mask = self.mask(grad_cam(activations.float(), gradients), (x.shape[2], x.shape[3]))
            return self.ramp * torch.where(mask, self.knobs["high"], self.knobs["low"])

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        budget = self.budget(x)
        walk = self.attack.walk(x, budget)
        point = (x + self.attack.start * self.attack.norm.start(x, budget, self.generator)).clamp(0, 1)
        for _ in range(self.attack.steps):
            with torch.enable_grad():
                point = point.detach().requires_grad_()
                loss = self.attack.loss(self.twin(point).float(), y)
                (slope,) = torch.autograd.grad(loss.sum(), point)
            point = walk.next(point.detach(), loss.detach(), slope)
        return point


def _twin(model: Classifier) -> Classifier:
    """A copy in evaluation mode with the same weights and statistics, of which attacks take no slopes."""
    twin = copy.deepcopy(model).eval()
    for mine, shared in zip(
        [*twin.parameters(), *twin.buffers()], [*model.parameters(), *model.buffers()], strict=True
    ):
        mine.requires_grad_(False)
        mine.data = shared.data
    return twin
