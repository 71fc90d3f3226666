"""What all sampling has in common: how many draws, at which level, from which seed, through which network."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch

from dualrs_lab.fastpath import FastPath
from dualrs_lab.settings import ALPHA, setting

__all__ = ["Sampling", "as_rule"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How much is sampled and how: what a certificate depends on besides networks, image and noise.

    Raises ValueError, with the name of the class, for numbers that make no sense.
    """

    seed: int
    n0: int = setting(100, "draws to guess, an expert or a class")
    n: int = setting(10_000, "separate draws that count as evidence; at most so many with early stopping")
    alpha: float = setting(ALPHA, "failure probability of each certificate")
    batch: int | None = setting(
        None, "noisy images per pass: speed and memory, not votes (default: as suits the device)"
    )
    dtype: torch.dtype = torch.float32  # of the noisy images, and of the networks that a table freezes
    fast: FastPath = FastPath()  # other steps of freezing them  # noqa: RUF009

    draws: ClassVar[tuple[str, ...]] = ("n0", "n")  # the fields that are numbers of draws

    def __post_init__(self) -> None:
        counts = [getattr(self, name) for name in self.draws] + ([] if self.batch is None else [self.batch])
        if min(counts) < 1 or not 0 < self.alpha < 1 or self.seed < 0:
            raise ValueError(
                f"{type(self).__name__}: wanted {', '.join(self.draws)}, batch >= 1, 0 < alpha < 1 and "
                f"seed >= 0; got {self}"
            )

    @property
    def per_image(self) -> int:
        """Noisy copies of an image that a network sees, about: what decides whether compiling pays."""
        return self.n

    def identity(self) -> dict[str, Any]:
        """The part of a table's identity that these settings are: rows depend on nothing else in here."""
        return {name: getattr(self, name) for name in (*self.draws, "alpha", "seed")}


def as_rule(rule: Any) -> dict[str, Any]:
    """A rule, a dataclass, by its name and settings: for the identity of a table."""
    return {"rule": type(rule).__name__, **asdict(rule)}
