"""How a dual system is sampled, besides its networks."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from dualrs_lab.dual.choice import Estimator
from dualrs_lab.dual.split import Split
from dualrs_lab.smoothing.noise import GridNoise, Noise
from dualrs_lab.smoothing.spec import Ruled, as_rule
from dualrs_lab.smoothing.stopping import AllDraws, Stopping

__all__ = ["DualSpec"]


@dataclass(frozen=True, kw_only=True)
class DualSpec(Ruled):
    """How a dual system is smoothed and sampled, besides its networks.

    `n0` draws guess the expert, and as many its class; an expert that is asked gets `n`.
    """

    estimator: Estimator  # how votes choose an expert, with the estimator's noise
    sigmas: tuple[float, ...]  # of the experts, in the order in which the estimator counts them
    n_estimator: int = 10_000  # draws of the estimator
    split: Split | None = None  # of alpha over all bounds, fixed beforehand; None: the estimator's even one
    stop: Stopping = AllDraws()  # how many of its n draws an expert that is asked gets  # noqa: RUF009
    lazy: bool = True  # ask an expert only where it could matter
    noise: type[Noise] = GridNoise

    draws: ClassVar[tuple[str, ...]] = ("n0", "n", "n_estimator")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < len(self.sigmas) == len({*self.sigmas}):
            raise ValueError(f"DualSpec: wanted different sigmas, one at least; got {self}")
        self.estimator.classes(len(self.sigmas))  # raises where they do not fit
        even, split = self._even(), self.levels
        shapes = [(len(one.lower), len(one.experts)) for one in (even, split)]
        if not split.guessed_apart or split.alpha != self.alpha or shapes[0] != shapes[1]:
            raise ValueError(
                f"DualSpec: wanted a split of alpha = {self.alpha:g} with guessed_apart (the choice at x is "
                f"guessed on separate draws) and {shapes[0][0]} levels for the estimator, {shapes[0][1]} for "
                f"the experts; got {split}"
            )

    @property
    def levels(self) -> Split:
        """The split of alpha that is used."""
        return self.split or self._even()

    def _even(self) -> Split:
        return self.estimator.split(len(self.sigmas), self.alpha, self.rule)

    def identity(self) -> dict[str, Any]:
        """As `Sampling.identity`."""
        rules = {"estimator": as_rule(self.estimator), "stop": as_rule(self.stop)}
        asked = {"sigmas": self.sigmas, "split": asdict(self.levels), "lazy": self.lazy}
        return super().identity() | rules | asked | {"noise": self.noise.__name__}
