"""What all networks have in common behind their normalisation: stages, pooling, one linear layer."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class Body(nn.Module):
    """Feature maps stage by stage, then global average pooling and a linear layer `fc`."""

    fc: nn.Linear

    def stages(self, x: Tensor) -> list[Tensor]:
        """Normalised images `(B, C, H, W)` -> the feature map after each stage, the last before pooling."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc(F.adaptive_avg_pool2d(self.stages(x)[-1], 1).flatten(1)))


def run_stages(layers: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    maps = []
    for layer in layers:
        x = layer(x)
        maps.append(x)
    return maps
