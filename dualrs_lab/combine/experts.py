"""Training the experts of a combiner together, for the radius that it certifies.

The combiner stays as it is: it was learnt from votes of the experts before, and may be learnt anew from those
of the trained ones. Training never changes what holds: the theorem is about whatever experts there are.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.soft import soft_combined_radius
from dualrs_lab.settings import check_worth
from dualrs_lab.training.together import soft_votes

__all__ = ["CombinedRadius"]


@dataclass(frozen=True, kw_only=True)
class CombinedRadius:
    """Raises the mean radius of a fixed `combiner` of the experts in a `Pool`, from soft votes.

    The experts come in the order of the combiner's sigmas. `weights` say what each unit of radius is worth
    from each of `radii` on, up to the next; as they are given, all of the radius counts alike. `accuracy`
    weights the cross-entropy of all experts under their own noise. Radii below the first of `radii` have a
    slope within about `temperature`, which also softens the lattice (`combine.soft`).

    With `Combiner.single` this is the training of one expert for its own radius by two bounds.
    """

    combiner: Combiner
    accuracy: float = 0.2
    radii: tuple[float, ...] = (0.0,)
    weights: tuple[float, ...] = (1.0,)
    draws: int = 4
    temperature: float = 0.05

    def __post_init__(self) -> None:
        check_worth("CombinedRadius", self.radii, self.weights)
        if self.accuracy < 0 or self.draws < 1 or not self.temperature > 0:
            raise ValueError(
                f"CombinedRadius: wanted accuracy >= 0, draws >= 1 and a temperature above 0; got "
                f"{self.accuracy}, {self.draws} and {self.temperature}"
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        p, cost = soft_votes(model, x, y, sigmas=self.sigmas, draws=self.draws, generator=generator)
        radius = soft_combined_radius(p, y, self.combiner, temperature=self.temperature)
        return self.accuracy * cost - self._worth(radius).mean()

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Those of the combiner."""
        return self.combiner.sigmas

    def identity(self) -> dict[str, Any]:
        """As `training.Objective` says, with the combiner as tables hold it."""
        return {**asdict(self), "sigmas": self.sigmas, "combiner": self.combiner.text}

    def _worth(self, radius: Tensor) -> Tensor:
        # a smooth ramp from each radius on, whose slope changes there from the weight before to its own
        t, before, worth = self.temperature, 0.0, torch.zeros_like(radius)
        for start, weight in zip(self.radii, self.weights, strict=True):
            worth = worth + (weight - before) * t * F.softplus((radius - start) / t)
            before = weight
        return worth
