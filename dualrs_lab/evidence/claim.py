"""What is said of one image, by whatever method: an answer within a radius, or nothing.

One rule holds for all: an answer is claimed exactly where its radius is above 0. A `Claim` brings its
evidence along, from which alone its radius can be recomputed; a table of claims has a row for each.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.evidence.votes import (
    Votes,
    are_votes,
    as_votes,
    cell_votes,
    level_text,
    vote_counts,
    votes_text,
)

__all__ = [
    "ABSTAIN",
    "LOG_COLUMNS",
    "Claim",
    "Claims",
    "SystemClaim",
    "answered",
    "claimed",
    "reach",
    "whole",
]


ABSTAIN = -1


LOG_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")  # the format of the published logs


Ints = NDArray[np.int64]


Floats = NDArray[np.float64]


def answered(guess: ArrayLike, radius: ArrayLike) -> Ints:
    """What is claimed (…,): the guess where its radius is above 0, ABSTAIN elsewhere."""
    return np.where(np.asarray(radius) > 0, guess, ABSTAIN)[()]


def claimed(images: pd.DataFrame, guess: ArrayLike, radius: ArrayLike) -> pd.DataFrame:
    """A table of claims (idx, label, predict, radius, correct) about the images of another one."""
    predict, label = answered(guess, radius), images["label"].to_numpy()
    return pd.DataFrame(
        {
            "idx": images["idx"].to_numpy(),
            "label": label,
            "predict": predict,
            "radius": np.asarray(radius, dtype=np.float64),
            "correct": _right(predict, label).astype(np.int64),
        }
    )


def reach(table: pd.DataFrame) -> Floats:
    """(N,): the radius up to which each row counts, -inf where it is wrong or abstains."""
    radius = table["radius"].to_numpy(dtype=np.float64)
    return np.where(table["correct"].to_numpy(dtype=bool), radius, -np.inf)


def _right(predict: Ints, label: Ints) -> NDArray[np.bool_]:
    return np.asarray((predict == label) & (predict != ABSTAIN))


@dataclass(frozen=True, kw_only=True)
class Claim(ABC):
    """Within `radius` of an image the answer is `predict`, but for the failure probability of the method.

    l2 radius in the [0, 1] pixel unit; `predict` is ABSTAIN exactly where it is 0, which claims nothing.
    `label` -1 means unknown; `seconds` is the cost. Raises ValueError where parts contradict each other, or
    where the radius is more than the evidence gives.
    """

    idx: int
    label: int
    predict: int
    radius: float
    seconds: float

    counts: ClassVar[tuple[str, ...]] = ("idx", "label", "predict")  # the fields that are Python ints

    @property
    def correct(self) -> bool:
        """Whether the certified class is the label; never where abstaining or where the label is unknown."""
        return self.predict == self.label != ABSTAIN

    @property
    @abstractmethod
    def guess(self) -> int:
        """The class that draws of their own chose: the only one that can be claimed."""

    @abstractmethod
    def recomputed(self) -> float:
        """The radius that the evidence alone gives."""

    @abstractmethod
    def evidence(self) -> dict[str, object]:
        """The columns of a row that follow those of the published logs; votes are text such as "3:97 5:3"."""

    @classmethod
    @abstractmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The claim back from `to_row` or a row of a table (`to_dict("records")`), checked again."""

    def to_row(self) -> dict[str, object]:
        """A row of a table, in the order of its columns and at full precision."""
        said = (self.idx, self.label, self.predict, self.radius, int(self.correct), self.seconds)
        return dict(zip(LOG_COLUMNS, said, strict=True)) | self.evidence()

    @classmethod
    def _said(cls, row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
        # the fields of this class, from a row that has these columns besides
        if missing := [name for name in dict.fromkeys((*LOG_COLUMNS, *columns)) if name not in row]:
            raise ValueError(
                f"{cls.__name__}.from_row: no {', '.join(missing)} in the row; wanted a row of this method, "
                "with its votes (a published log has none)."
            )
        said = {name: whole(row[name]) for name in ("idx", "label", "predict")}
        return said | {"radius": float(row["radius"]), "seconds": float(row["time"])}

    def __post_init__(self) -> None:
        ints = {name: getattr(self, name) for name in self.counts}
        self._want(all(type(value) is int for value in ints.values()), f"Python ints, got {ints}")
        self._want(self.idx >= 0 and self.label >= -1, f"idx >= 0, label >= -1, got {self.idx}, {self.label}")
        self._want(self.seconds >= 0, f"seconds >= 0, got {self.seconds}")
        self._want_evidence()
        self._want(self.predict in (self.guess, ABSTAIN), f"predict {self.guess} or -1, got {self.predict}")
        self._want(0 <= self.radius < np.inf, f"a finite radius >= 0, got {self.radius}")
        one = (self.predict == ABSTAIN) == (self.radius == 0)
        self._want(one, f"radius 0 exactly where abstaining, got {self.radius} and class {self.predict}")
        self._want_at_most("radius", self.radius, self.recomputed())

    @abstractmethod
    def _want_evidence(self) -> None:
        """ValueError where the evidence contradicts itself."""

    def _want_at_most(self, name: str, radius: float, most: float) -> None:
        fine = radius <= most * (1 + 1e-9)  # another SciPy may differ in the last digits
        self._want(fine, f"at most the {name} {most} of its votes, got {radius}")

    def _want(self, true: bool, what: str) -> None:
        if not true:
            raise ValueError(f"{type(self).__name__}(idx={self.idx}): wanted {what}.")


@dataclass(frozen=True, kw_only=True)
class SystemClaim(Claim):
    """A claim of a system of several experts: with probability >= 1 - alpha it holds.

    The evidence comes along: `selection`, votes of each expert, guesses the class and counts nowhere else;
    `votes`, on other draws, bound the probabilities. An expert that was not asked has none.
    """

    alpha: float
    seed: int
    selection: tuple[Votes, ...]
    votes: tuple[Votes, ...]
    drawn: int  # every draw that was looked at

    counts: ClassVar[tuple[str, ...]] = (*Claim.counts, "seed", "drawn")
    method: ClassVar[str]
    told: ClassVar[str]  # the column that tells which system of the method it is
    lengths: ClassVar[tuple[str, ...]]  # what is told of each expert: "reach" for `reach_0.25`, …

    @property
    @abstractmethod
    def sigmas(self) -> tuple[float, ...]:
        """The noise of each expert."""

    @abstractmethod
    def about(self) -> dict[str, object]:
        """The columns that differ between methods; those of `lengths` hold a number for each expert (K,)."""

    @property
    def names(self) -> tuple[str, ...]:
        """What each expert is called in the columns of a table: its noise level."""
        return tuple(map(level_text, self.sigmas))

    @classmethod
    def columns_of(cls, names: Sequence[str]) -> tuple[str, ...]:
        """Columns of a table, with those of `lengths`, then `selection_0.25`, …, `votes_0.25`, …"""
        whats = (*cls.lengths, "selection", "votes")
        each = [f"{what}_{name}" for what in whats for name in names]
        return (*LOG_COLUMNS, "method", "sigma", "alpha", "seed", cls.told, *each, "drawn", "rule")

    def evidence(self) -> dict[str, object]:
        """As `Claim.evidence`."""
        row = {"method": self.method, "alpha": self.alpha, "seed": self.seed, "drawn": self.drawn}
        row |= (about := self.about())
        for j, name in enumerate(self.names):
            row |= {f"{what}_{name}": float(cast(Floats, about[what])[j]) for what in self.lengths}
            row[f"selection_{name}"] = votes_text(self.selection[j])
            row[f"votes_{name}"] = votes_text(self.votes[j])
        return {name: row[name] for name in self.columns_of(self.names) if name not in LOG_COLUMNS}

    @classmethod
    def _of_votes(cls, selection: Ints, votes: Ints, **known: Any) -> Self:
        # from votes (K, C) of each kind: first without an answer, then with what the votes give, which is
        # worked out once, as each certificate keeps it
        made = cls(
            predict=ABSTAIN,
            radius=0.0,
            selection=tuple(map(as_votes, selection)),
            votes=tuple(map(as_votes, votes)),
            drawn=int(selection.sum() + votes.sum()),
            **known,
        )
        object.__setattr__(made, "radius", made.recomputed())
        object.__setattr__(made, "predict", int(answered(made.guess, made.radius)))
        made.__post_init__()
        return made

    @classmethod
    def _of_row(cls, row: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
        # what the experts are called, in the order of the columns, and the fields of this class
        names = [str(name).removeprefix("votes_") for name in row if str(name).startswith("votes_")]
        own = ("alpha", "seed", cls.told, "drawn", *(f"selection_{name}" for name in names))
        said = cls._said(row, own) | {"alpha": float(row["alpha"])}
        said |= {name: whole(row[name]) for name in ("seed", "drawn")}
        for kind in ("selection", "votes"):
            said[kind] = tuple(cell_votes(row[f"{kind}_{name}"]) for name in names)
        return tuple(names), said

    def _want_evidence(self) -> None:
        self._want(0 < self.alpha < 1, f"alpha in (0, 1), got {self.alpha}")
        experts = len(self.sigmas)
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


Claims = pd.DataFrame | Sequence[Claim]
"""Claims about many images: a table of them, or one after the other; see `evidence.as_table`."""


def whole(cell: object) -> int:
    """A whole number back from a cell of a table; a fraction is a ValueError."""
    return int(str(cell))
