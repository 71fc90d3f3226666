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
from dualrs_lab.evidence.claim import LOG_COLUMNS, Claim, answered, whole
from dualrs_lab.evidence.votes import (
    Votes,
    are_votes,
    as_votes,
    cell_votes,
    level_text,
    vote_counts,
    votes_text,
)
from dualrs_lab.settings import RULE

__all__ = ["CombinedCertificate"]


Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CombinedCertificate(Claim):
    """With probability >= 1 - alpha the combiner answers `predict` everywhere within `radius`.

    The evidence comes along: `selection`, votes of each expert, guesses the class and counts nowhere else;
    `votes`, on other draws, bound the probabilities. An expert that was not asked has none.
    """

    combiner: Combiner
    alpha: float
    seed: int
    selection: tuple[Votes, ...]
    votes: tuple[Votes, ...]
    drawn: int  # every draw that was looked at

    counts: ClassVar[tuple[str, ...]] = (*Claim.counts, "seed", "drawn")

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
        y = surest_class(selection, combiner)
        radius = max(0.0, float(combined_radius(votes, y, combiner=combiner, alpha=alpha)))
        return cls(
            idx=int(idx),
            label=int(label),
            predict=int(answered(y, radius)),
            radius=radius,
            seconds=float(seconds),
            combiner=combiner,
            alpha=float(alpha),
            seed=int(seed),
            selection=tuple(map(as_votes, selection)),
            votes=tuple(map(as_votes, votes)),
            drawn=int(selection.sum() + votes.sum()),
        )

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
        votes, y = self._counts(self.votes), np.int64(self.guess)
        return max(0.0, float(combined_radius(votes, y, combiner=self.combiner, alpha=self.alpha)))

    @staticmethod
    def columns(combiner: Combiner) -> tuple[str, ...]:
        """Columns of a table: `reach_0.25`, …, `selection_0.25`, …, `votes_0.25`, … for each sigma."""
        each = [
            f"{what}_{level_text(sigma)}"
            for what in ("reach", "selection", "votes")
            for sigma in combiner.sigmas
        ]
        return (*LOG_COLUMNS, "method", "sigma", "alpha", "seed", "combiner", *each, "drawn", "rule")

    def evidence(self) -> dict[str, object]:
        """As `Claim.evidence`; `sigma` is the level of the expert that reaches farthest by itself."""
        row: dict[str, object] = {
            "method": "combine",
            "sigma": self.combiner.sigmas[int(self.reaches.argmax())],
            "alpha": self.alpha,
            "seed": self.seed,
            "combiner": self.combiner.text,
            "drawn": self.drawn,
            "rule": RULE.names[0],
        }
        for j, name in enumerate(map(level_text, self.combiner.sigmas)):
            row[f"reach_{name}"] = float(self.reaches[j])
            row[f"selection_{name}"] = votes_text(self.selection[j])
            row[f"votes_{name}"] = votes_text(self.votes[j])
        return {name: row[name] for name in self.columns(self.combiner) if name not in LOG_COLUMNS}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """As `Claim.from_row`; sigmas and their order are those of the columns."""
        names = [str(name).removeprefix("votes_") for name in row if str(name).startswith("votes_")]
        own = ("alpha", "seed", "combiner", "drawn", *(f"selection_{name}" for name in names))
        said = cls._said(row, own)
        return cls(
            **said,
            combiner=Combiner.of_text(tuple(map(float, names)), str(row["combiner"])),
            alpha=float(row["alpha"]),
            seed=whole(row["seed"]),
            selection=tuple(cell_votes(row[f"selection_{name}"]) for name in names),
            votes=tuple(cell_votes(row[f"votes_{name}"]) for name in names),
            drawn=whole(row["drawn"]),
        )

    def _want_evidence(self) -> None:
        experts = len(self.combiner.sigmas)
        self._want(0 < self.alpha < 1, f"alpha in (0, 1), got {self.alpha}")
        for name, votes in (("selection", self.selection), ("votes", self.votes)):
            self._want(len(votes) == experts, f"{name} of {experts} experts, got {len(votes)}")
            fine = f"{name} with each class once, ascending, and positive counts, got {votes}"
            self._want(all(map(are_votes, votes)), fine)
        counted = sum(count for votes in (*self.selection, *self.votes) for _, count in votes)
        self._want(self.drawn >= counted, f"at least its {counted} votes drawn, got {self.drawn}")

    def _counts(self, votes: tuple[Votes, ...]) -> Ints:
        # (K, C), with as many classes for one kind as for the other
        every = (*self.selection, *self.votes)
        return vote_counts(votes, 1 + max((kind for pairs in every for kind, _ in pairs), default=0))
