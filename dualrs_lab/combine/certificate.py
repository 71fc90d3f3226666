"""A certificate of a combiner: the claim, and every vote of every expert that it follows from.

One row per image: the columns of the published logs, then the combiner, how far each expert by itself keeps
the answer, and the votes of each. The theory is in `combine.radii`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import combined_radius, reach_of_each, surest_class
from dualrs_lab.evidence.claim import SystemClaim
from dualrs_lab.evidence.votes import level_text
from dualrs_lab.settings import RULE

__all__ = ["CombinedCertificate"]


Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CombinedCertificate(SystemClaim):
    """With probability >= 1 - alpha the combiner answers `predict` everywhere within `radius`.

    Experts come in the order of its sigmas; all guess, and one whose votes change nothing may have none.
    """

    combiner: Combiner

    method: ClassVar[str] = "combine"
    told: ClassVar[str] = "combiner"
    lengths: ClassVar[tuple[str, ...]] = ("reach",)

    @classmethod
    def from_votes(
        cls,
        selection: Ints,
        votes: Ints,
        combiner: Combiner,
        *,
        idx: int,
        label: int,
        alpha: float,
        seed: int,
        seconds: float,
    ) -> Self:
        """From votes (K, C) of each kind to a certificate, of the class that `selection` gives."""
        known = {"idx": int(idx), "label": int(label), "seconds": float(seconds)}
        return cls._of_votes(selection, votes, combiner=combiner, alpha=float(alpha), seed=int(seed), **known)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Those of the combiner."""
        return self.combiner.sigmas

    @cached_property
    def guess(self) -> int:
        """The class that the combiner gives by the selection draws."""
        return int(surest_class(self._counts(self.selection), self.combiner))

    @cached_property
    def reaches(self) -> NDArray[np.float64]:
        """How far each expert (K,) by itself keeps the guessed class; below 0 it says another one."""
        votes, y = self._counts(self.votes), np.int64(self.guess)
        return reach_of_each(votes, y, combiner=self.combiner, alpha=self.alpha)

    def recomputed(self) -> float:
        """The radius that the votes alone give."""
        return self._radius

    @cached_property
    def _radius(self) -> float:
        votes, y = self._counts(self.votes), np.int64(self.guess)
        return max(0.0, float(combined_radius(votes, y, combiner=self.combiner, alpha=self.alpha)))

    @staticmethod
    def columns(combiner: Combiner) -> tuple[str, ...]:
        """Columns of a table: `reach_0.25`, …, `selection_0.25`, …, `votes_0.25`, … for each sigma."""
        return CombinedCertificate.columns_of([*map(level_text, combiner.sigmas)])

    def about(self) -> dict[str, object]:
        """As `SystemClaim.about`; `sigma` is the level of the expert that reaches farthest by itself."""
        farthest = self.sigmas[int(self.reaches.argmax())]
        told = {"sigma": farthest, "combiner": self.combiner.text, "rule": RULE.names[0]}
        return told | {"reach": self.reaches}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """As `Claim.from_row`; sigmas and their order are those of the columns."""
        names, said = cls._of_row(row)
        return cls(**said, combiner=Combiner.of_text(tuple(map(float, names)), str(row["combiner"])))
