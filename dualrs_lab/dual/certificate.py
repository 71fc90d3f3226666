"""A certificate of a dual system: the claim, both radii, and every vote that they follow from.

One row per image: the columns of the published logs, then the choice of the estimator, its votes, and for
each expert its entry radius, its own radius and its votes. The theory is in `dual.radii`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.dual.choice import Cuts, Estimator, Median, Plurality
from dualrs_lab.dual.radii import Routes, routes
from dualrs_lab.dual.split import Split
from dualrs_lab.evidence.claim import LOG_COLUMNS, Claim, answered, whole
from dualrs_lab.evidence.radii import BOUNDS, RULES
from dualrs_lab.evidence.votes import (
    Votes,
    are_votes,
    as_votes,
    cell_votes,
    leader,
    level_text,
    read_votes,
    vote_counts,
    votes_text,
)

__all__ = ["DualCertificate", "judge", "levels_text", "read_rules"]


Ints = NDArray[np.int64]


_ESTIMATORS: dict[str, Callable[[tuple[float, ...]], Estimator]] = {
    "median": lambda sigmas: Median(*sigmas),
    "cuts": Cuts,
    "plurality": lambda sigmas: Plurality(*sigmas),
}


@dataclass(frozen=True, kw_only=True)
class DualCertificate(Claim):
    """With probability >= 1 - alpha the dual system answers `predict` everywhere within `radius`.

    `radius` is the routed one, min_j max(r_j, R_j), and `published`, never larger, min(R_e, R_top) from the
    same votes. The evidence comes along: `looks` chose the expert `top`, whose `selection` chose the class;
    `estimator_votes` and the experts' `votes`, on draws other than those, bound the probabilities.
    """

    published: float
    sigmas: tuple[float, ...]  # of the experts, in the order in which the estimator counts them
    estimator: Estimator
    split: Split
    seed: int
    looks: tuple[Votes, ...]  # of each stream of the estimator
    estimator_votes: tuple[Votes, ...]  # of each stream
    selection: Votes
    votes: tuple[Votes, ...]  # of each expert; empty where it was not asked
    bound: str  # of the experts' probabilities, a key of BOUNDS
    drawn: int  # every draw that was looked at, of estimator and experts
    rule: str  # of the experts' radii, one of RULES

    counts: ClassVar[tuple[str, ...]] = (*Claim.counts, "seed", "drawn")

    @cached_property
    def routes(self) -> Routes:
        """All radii that the votes give."""
        return _routes(self)

    @property
    def alpha(self) -> float:
        """The failure probability."""
        return self.split.alpha

    @property
    def top(self) -> int:
        """The expert that `looks` chose."""
        return int(self.estimator.top(vote_counts(self.looks, self.estimator.classes(len(self.sigmas)))))

    @property
    def guess(self) -> int:
        """The class that the selection draws of the chosen expert chose."""
        return leader(self.selection)

    def recomputed(self) -> float:
        """The routed radius that the votes alone give; `dual.radii` has the published one as well."""
        return float(self.routes.routed)

    @staticmethod
    def columns(sigmas: Sequence[float]) -> tuple[str, ...]:
        """Columns of a table of a dual system with experts at `sigmas`: `entry_0.25`, …, `votes_1`."""
        each = [f"{what}_{level_text(sigma)}" for what in ("entry", "radius", "votes") for sigma in sigmas]
        ours = ("method", "sigma", "alpha", "seed", "published", "constancy")
        evidence = ("estimator", "estimator_sigmas", "levels", "looks", "estimator_votes", "selection")
        return (*LOG_COLUMNS, *ours, *each, *evidence, "bound", "drawn", "rule")

    def evidence(self) -> dict[str, object]:
        """As `Claim.evidence`; one stream of votes comes after ";" another."""
        found = self.routes
        row: dict[str, object] = {
            "method": "dual",
            "sigma": self.sigmas[self.top],
            "alpha": self.alpha,
            "seed": self.seed,
            "published": self.published,
            "constancy": float(found.constancy),
            "estimator": type(self.estimator).__name__.lower(),
            "estimator_sigmas": _numbers_text(self.estimator.sigmas),
            "levels": levels_text(self.split),
            "looks": ";".join(map(votes_text, self.looks)),
            "estimator_votes": ";".join(map(votes_text, self.estimator_votes)),
            "selection": votes_text(self.selection),
            "bound": self.bound,
            "drawn": self.drawn,
            "rule": self.rule,
        }
        for j, name in enumerate(map(level_text, self.sigmas)):
            row[f"entry_{name}"], row[f"radius_{name}"] = float(found.entry[j]), float(found.experts[j])
            row[f"votes_{name}"] = votes_text(self.votes[j])
        return {name: row[name] for name in self.columns(self.sigmas) if name not in LOG_COLUMNS}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """As `Claim.from_row`."""
        names = [str(name) for name in row if str(name).startswith("votes_")]
        sigmas = tuple(float(name.removeprefix("votes_")) for name in names)
        said = cls._said(row, [name for name in cls.columns(sigmas) if name != "rule"])
        estimator, split = read_rules(row)
        return cls(
            **said,
            published=float(row["published"]),
            sigmas=sigmas,
            estimator=estimator,
            split=split,
            seed=whole(row["seed"]),
            looks=tuple(map(read_votes, str(row["looks"]).split(";"))),
            estimator_votes=tuple(map(read_votes, str(row["estimator_votes"]).split(";"))),
            selection=read_votes(str(row["selection"])),
            votes=tuple(cell_votes(row[name]) for name in names),
            bound=str(row["bound"]),
            drawn=whole(row["drawn"]),
            rule=str(row.get("rule", "cohen")),
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = 0 <= self.published <= self.radius
        self._want(ordered, f"0 <= published <= radius, got {self.published} and {self.radius}")
        self._want_at_most("published radius", self.published, float(self.routes.published))

    def _want_evidence(self) -> None:
        self._want(self.bound in BOUNDS, f"a bound of {', '.join(BOUNDS)}, got {self.bound!r}")
        self._want(self.rule in RULES, f"a rule of {', '.join(RULES)}, got {self.rule!r}")
        self._want(self.split.guessed_apart, "a split with guessed_apart, which the evidence allows")
        self._want_votes()

    def _want_votes(self) -> None:
        different = 0 < len(self.sigmas) == len({*self.sigmas})
        self._want(different, f"different sigmas, one at least, got {self.sigmas}")
        experts, streams = len(self.sigmas), len(self.estimator.sigmas)
        kinds = self.estimator.classes(experts)
        for name, given, count, below in (
            ("looks", self.looks, streams, kinds),
            ("estimator_votes", self.estimator_votes, streams, kinds),
            ("selection", (self.selection,), 1, np.inf),
            ("votes", self.votes, experts, np.inf),
        ):
            self._want(len(given) == count, f"{name} of {count} streams, got {len(given)}")
            fine = all(are_votes(votes, below) for votes in given) and (name == "votes" or all(given))
            self._want(fine, f"{name} with each class once, ascending, and positive counts, got {given}")
        everything = (*self.looks, *self.estimator_votes, self.selection, *self.votes)
        counted = sum(count for votes in everything for _, count in votes)
        self._want(self.drawn >= counted, f"at least its {counted} votes drawn, got {self.drawn}")


def judge(
    looks: Ints,
    estimator_votes: Ints,
    selection: Ints,
    votes: Ints,
    *,
    idx: int,
    label: int,
    estimator: Estimator,
    sigmas: Sequence[float],
    split: Split,
    seed: int,
    seconds: float,
    bound: str,
    drawn: int,
    rule: str = RULES[0],
) -> DualCertificate:
    """From votes to a certificate; `split` and `rule` are fixed before them.

    `looks` and `estimator_votes` are (S, C) for S streams, `selection` (classes,) are votes of the expert
    that `looks` chose, `votes` (K, classes) those of each expert; one without votes was not asked. `looks`
    and `selection` must come from separate draws, or the levels of `split` do not hold.
    """
    top = estimator.top(looks)
    found = routes(
        estimator.entry(estimator_votes, top, split),
        votes,
        top=top,
        classes=np.full(len(sigmas), selection.argmax()),
        sigmas=sigmas,
        split=split,
        rule=rule,
        unanimous=selection.max() == selection.sum(),
        bounds=BOUNDS[bound],
    )
    return DualCertificate(
        idx=int(idx),
        label=int(label),
        predict=int(answered(found.claim, found.routed)),
        radius=float(found.routed),
        published=float(found.published),
        seconds=float(seconds),
        sigmas=tuple(float(sigma) for sigma in sigmas),
        estimator=estimator,
        split=split,
        seed=int(seed),
        looks=tuple(map(as_votes, looks)),
        estimator_votes=tuple(map(as_votes, estimator_votes)),
        selection=as_votes(selection),
        votes=tuple(map(as_votes, votes)),
        bound=bound,
        drawn=int(drawn),
        rule=rule,
    )


def _routes(c: DualCertificate) -> Routes:
    kinds = c.estimator.classes(len(c.sigmas))
    top = c.estimator.top(vote_counts(c.looks, kinds))
    classes = 1 + max(kind for votes in (c.selection, *c.votes) for kind, _ in votes)
    return routes(
        c.estimator.entry(vote_counts(c.estimator_votes, kinds), top, c.split),
        vote_counts(c.votes, classes),
        top=top,
        classes=np.full(len(c.sigmas), leader(c.selection)),
        sigmas=c.sigmas,
        split=c.split,
        rule=c.rule,
        unanimous=len(c.selection) == 1,
        bounds=BOUNDS[c.bound],
    )


def levels_text(split: Split) -> str:
    """The levels of a split as tables hold them; `read_rules` reads them back."""
    return ";".join(map(_numbers_text, (split.lower, split.upper, split.experts)))


def read_rules(row: Mapping[str, Any]) -> tuple[Estimator, Split]:
    """The estimator and the levels that a row of a table names; ValueError for those that there are not."""
    if (kind := str(row["estimator"])) not in _ESTIMATORS:
        raise ValueError(
            f"DualCertificate.from_row: wanted an estimator of {', '.join(_ESTIMATORS)}, got {kind!r}."
        )
    lower, upper, experts = (_numbers(part) for part in str(row["levels"]).split(";"))
    levels = {"lower": lower, "upper": upper, "experts": experts}
    split = Split(alpha=float(row["alpha"]), **levels, guessed_apart=True)
    return _ESTIMATORS[kind](_numbers(str(row["estimator_sigmas"]))), split


def _numbers_text(numbers: Sequence[float]) -> str:
    return " ".join(repr(float(number)) for number in numbers)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))
