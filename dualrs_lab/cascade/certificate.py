"""A certificate of a cascade: the claim, and every vote of every expert that it follows from.

One row per image: the columns of the published logs, then both distances and the votes of each expert, in the
order of asking. The theory is in `cascade.radii`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.cascade.radii import CASCADE_RULES, Cascade, Steps, first_to_accept, steps
from dualrs_lab.evidence.claim import ABSTAIN, LOG_COLUMNS, Claim, answered, whole
from dualrs_lab.evidence.votes import (
    Votes,
    are_votes,
    as_votes,
    cell_votes,
    level_text,
    vote_counts,
    votes_text,
)

__all__ = ["CascadeCertificate"]


Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CascadeCertificate(Claim):
    """With probability >= 1 - alpha the cascade answers `predict` everywhere within `radius`.

    The evidence comes along: `selection`, votes of each expert in the order of asking, says who answers and
    which class, and counts nowhere else; `votes`, on other draws, bound the probabilities. An expert that was
    not asked has none.
    """

    cascade: Cascade
    alpha: float
    seed: int
    selection: tuple[Votes, ...]
    votes: tuple[Votes, ...]
    drawn: int  # every draw that was looked at
    rule: str = CASCADE_RULES[0]

    counts: ClassVar[tuple[str, ...]] = (*Claim.counts, "seed", "drawn")

    @classmethod
    def from_votes(
        cls,
        selection: Ints,
        votes: Ints,
        cascade: Cascade,
        *,
        idx: int,
        label: int,
        alpha: float,
        seed: int,
        seconds: float,
        rule: str = CASCADE_RULES[0],
    ) -> Self:
        """From votes (K, C) of each kind to a certificate, of the class that `selection` gives."""
        _, y = first_to_accept(selection, cascade)
        found = steps(votes, np.maximum(y, 0), cascade=cascade, alpha=alpha, rule=rule)
        radius = _radius(found, int(y))
        return cls(
            idx=int(idx),
            label=int(label),
            predict=int(answered(y, radius)),
            radius=radius,
            seconds=float(seconds),
            cascade=Cascade(cascade.sigmas, cascade.limits),
            alpha=float(alpha),
            seed=int(seed),
            selection=tuple(map(as_votes, selection)),
            votes=tuple(map(as_votes, votes)),
            drawn=int(selection.sum() + votes.sum()),
            rule=rule,
        )

    @cached_property
    def answer(self) -> tuple[int, int]:
        """The expert that the selection draws send the image to, and its class; ABSTAIN for both: none."""
        expert, y = first_to_accept(self._counts(self.selection), self.cascade)
        return int(expert), int(y)

    @property
    def guess(self) -> int:
        """The class of the expert that answers."""
        return self.answer[1]

    @cached_property
    def steps(self) -> Steps:
        """Both distances of each expert by the votes, for the guessed class (without one, for class 0)."""
        y = np.int64(max(self.guess, 0))
        return steps(self._counts(self.votes), y, cascade=self.cascade, alpha=self.alpha, rule=self.rule)

    def recomputed(self) -> float:
        """The radius that the votes alone give."""
        return _radius(self.steps, self.guess)

    @staticmethod
    def columns(cascade: Cascade) -> tuple[str, ...]:
        """Columns of a table: `accepts_1`, `errs_1`, `selection_1`, `votes_1`, … for each sigma."""
        each = [
            f"{what}_{level_text(sigma)}"
            for what in ("accepts", "errs", "selection", "votes")
            for sigma in cascade.sigmas
        ]
        return (*LOG_COLUMNS, "method", "sigma", "alpha", "seed", "thresholds", *each, "drawn", "rule")

    def evidence(self) -> dict[str, object]:
        """As `Claim.evidence`."""
        expert, _ = self.answer
        row: dict[str, object] = {
            "method": "cascade",
            "sigma": self.cascade.sigmas[expert] if expert != ABSTAIN else 0.0,
            "alpha": self.alpha,
            "seed": self.seed,
            "thresholds": " ".join(repr(float(limit)) for limit in self.cascade.limits),
            "drawn": self.drawn,
            "rule": self.rule,
        }
        for j, name in enumerate(map(level_text, self.cascade.sigmas)):
            row[f"accepts_{name}"] = float(self.steps.accepts[j])
            row[f"errs_{name}"] = float(self.steps.errs[j])
            row[f"selection_{name}"] = votes_text(self.selection[j])
            row[f"votes_{name}"] = votes_text(self.votes[j])
        return {name: row[name] for name in self.columns(self.cascade) if name not in LOG_COLUMNS}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """As `Claim.from_row`; sigmas and their order are those of the columns."""
        names = [str(name).removeprefix("votes_") for name in row if str(name).startswith("votes_")]
        own = ("alpha", "seed", "thresholds", "drawn", *(f"selection_{name}" for name in names))
        said = cls._said(row, own)
        limits = tuple(map(float, str(row["thresholds"]).split()))
        return cls(
            **said,
            cascade=Cascade(tuple(map(float, names)), limits),
            alpha=float(row["alpha"]),
            seed=whole(row["seed"]),
            selection=tuple(cell_votes(row[f"selection_{name}"]) for name in names),
            votes=tuple(cell_votes(row[f"votes_{name}"]) for name in names),
            drawn=whole(row["drawn"]),
            rule=str(row.get("rule", CASCADE_RULES[1])),
        )

    def _want_evidence(self) -> None:
        experts = len(self.cascade.sigmas)
        self._want(self.rule in CASCADE_RULES, f"a rule of {', '.join(CASCADE_RULES)}, got {self.rule!r}")
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


def _radius(found: Steps, y: int) -> float:
    return max(0.0, float(found.radius)) if y != ABSTAIN else 0.0
