"""A certificate of a cascade: the claim, and every vote of every expert that it follows from.

One row per image: the columns of the published logs, then both distances and the votes of each expert, in the
order of asking. The theory is in `cascade.radii`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.cascade.radii import CASCADE_RULES, Cascade, Steps, first_to_accept, steps
from dualrs_lab.evidence.claim import ABSTAIN, SystemClaim, whole
from dualrs_lab.evidence.votes import read_expert

__all__ = ["CascadeCertificate", "confidences_in"]


Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CascadeCertificate(SystemClaim):
    """With probability >= 1 - alpha the cascade answers `predict` everywhere within `radius`.

    Experts come in the order of asking; `selection` says who answers, and which class.
    """

    cascade: Cascade
    rule: str = CASCADE_RULES[0]

    method: ClassVar[str] = "cascade"
    told: ClassVar[str] = "thresholds"
    lengths: ClassVar[tuple[str, ...]] = ("accepts", "errs")

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
        known = {"idx": int(idx), "label": int(label), "seconds": float(seconds)}
        cascade = replace(cascade, thresholds=cascade.limits)
        return cls._of_votes(
            selection, votes, cascade=cascade, alpha=float(alpha), seed=int(seed), rule=rule, **known
        )

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Those of the cascade."""
        return self.cascade.sigmas

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the cascade."""
        return self.cascade.names

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
        return max(0.0, float(self.steps.radius)) if self.guess != ABSTAIN else 0.0

    @staticmethod
    def columns(cascade: Cascade) -> tuple[str, ...]:
        """Columns of a table: `accepts_1`, `errs_1`, `selection_1`, `votes_1`, … for each expert.

        One that is silent where it is not sure is called by its confidence as well: `votes_1@0.6`. And
        `shares` of the level, where the cascade has its own; `answers`, where votes may be silent.
        """
        own = {"shares": bool(cascade.shares), "answers": cascade.answers is not None}
        return CascadeCertificate.columns_of(cascade.names) + tuple(name for name in own if own[name])

    def about(self) -> dict[str, object]:
        """As `SystemClaim.about`; `sigma` is the level of the expert that answers, 0 where none does."""
        expert, _ = self.answer
        return {
            "sigma": self.sigmas[expert] if expert != ABSTAIN else 0.0,
            "thresholds": " ".join(repr(float(limit)) for limit in self.cascade.limits),
            "rule": self.rule,
            "accepts": self.steps.accepts,
            "errs": self.steps.errs,
        }

    def evidence(self) -> dict[str, object]:
        """As `Claim.evidence`."""
        shares = " ".join(repr(float(share)) for share in self.cascade.shares)
        row = super().evidence() | ({"shares": shares} if shares else {})
        return row | ({} if self.cascade.answers is None else {"answers": self.cascade.answers})

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """As `Claim.from_row`; sigmas and their order are those of the columns."""
        names, said = cls._of_row(row)
        limits = tuple(map(float, str(row["thresholds"]).split()))
        shares = tuple(map(float, str(row.get("shares", "")).split()))
        rule = str(row.get("rule", CASCADE_RULES[1]))
        answers = whole(row["answers"]) if "answers" in row else None
        sigmas = tuple(read_expert(name)[0] for name in names)
        return cls(**said, cascade=Cascade(sigmas, limits, shares, answers, confidences_in(names)), rule=rule)

    def _want_evidence(self) -> None:
        self._want(self.rule in CASCADE_RULES, f"a rule of {', '.join(CASCADE_RULES)}, got {self.rule!r}")
        super()._want_evidence()


def confidences_in(names: Sequence[str]) -> tuple[float, ...]:
    """Below which confidence each expert is silent, by what they are called in columns; () where none is."""
    found = tuple(read_expert(name)[1] for name in names)
    return found if any(found) else ()
