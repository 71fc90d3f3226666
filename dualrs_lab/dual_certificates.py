"""A certificate of a dual system: the claim, both radii, and every vote that they follow from.

One row per image: the columns of the published logs, then the choice of the estimator, its votes, and for
each expert its entry radius, its own radius and its votes. The theory is in `routes`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.certificates import (
    ABSTAIN,
    BOUNDS,
    LOG_COLUMNS,
    Votes,
    as_votes,
    cell_votes,
    leader,
    level_text,
    read_votes,
    vote_counts,
    votes_text,
)
from dualrs_lab.estimators import Cuts, Estimator, Median, Plurality
from dualrs_lab.routes import Routes, Split, routes

__all__ = ["DualCertificate", "columns", "from_row", "judge", "recompute", "to_row"]

Ints = NDArray[np.int64]
_ESTIMATORS: dict[str, Callable[[tuple[float, ...]], Estimator]] = {
    "median": lambda sigmas: Median(*sigmas),
    "cuts": Cuts,
    "plurality": lambda sigmas: Plurality(*sigmas),
}


@dataclass(frozen=True, kw_only=True)
class DualCertificate:
    """With probability >= 1 - split.alpha, the dual system answers `predict` everywhere within `radius`.

    `radius` is the routed one, min_j max(r_j, R_j), and `published`, never larger, min(R_e, R_top) from the
    same votes; l2 in the [0, 1] pixel unit. `predict` is ABSTAIN exactly where `radius` is 0, which claims
    nothing. It carries its evidence: `looks` chose the expert `top`, whose `selection` chose the class;
    `estimator_votes` and the experts' `votes`, on separate draws, bound the probabilities. `label` -1 means
    unknown; `seconds` is the cost. Raises ValueError where the parts contradict each other or a radius is
    more than the votes give.
    """

    idx: int
    label: int
    predict: int
    radius: float
    published: float
    seconds: float
    sigmas: tuple[float, ...]  # of the experts, ascending
    estimator: Estimator
    split: Split
    seed: int
    looks: tuple[Votes, ...]  # of each stream of the estimator
    estimator_votes: tuple[Votes, ...]  # of each stream
    selection: Votes
    votes: tuple[Votes, ...]  # of each expert; empty where it was not asked
    bound: str  # of the experts' probabilities, a key of BOUNDS
    drawn: int  # every draw that was looked at, of estimator and experts

    @property
    def routes(self) -> Routes:
        """All radii that the votes give."""
        return _routes(self)

    @property
    def top(self) -> int:
        """The expert that `looks` chose."""
        return int(self.estimator.top(vote_counts(self.looks, self.estimator.classes(len(self.sigmas)))))

    @property
    def correct(self) -> bool:
        """Whether the certified class is the label; never where abstaining or where the label is unknown."""
        return self.predict == self.label != ABSTAIN

    def __post_init__(self) -> None:
        whole = (self.idx, self.label, self.predict, self.seed, self.drawn)
        self._want(all(type(value) is int for value in whole), f"Python ints for idx … drawn, got {whole}")
        self._want(self.idx >= 0 and self.label >= -1, f"idx >= 0, label >= -1, got {self.idx}, {self.label}")
        self._want(self.seconds >= 0, f"seconds >= 0, got {self.seconds}")
        self._want(self.bound in BOUNDS, f"a bound of {', '.join(BOUNDS)}, got {self.bound!r}")
        self._want(self.split.guessed_apart, "a split with guessed_apart, which the evidence allows")
        self._want_votes()
        self._want_claim(_routes(self))

    def _want_votes(self) -> None:
        ascending = list(self.sigmas) == sorted(set(self.sigmas)) and self.sigmas != ()
        self._want(ascending, f"ascending sigmas, got {self.sigmas}")
        experts, streams = len(self.sigmas), len(self.estimator.sigmas)
        kinds = self.estimator.classes(experts)
        for name, given, count, below in (
            ("looks", self.looks, streams, kinds),
            ("estimator_votes", self.estimator_votes, streams, kinds),
            ("selection", (self.selection,), 1, np.inf),
            ("votes", self.votes, experts, np.inf),
        ):
            self._want(len(given) == count, f"{name} of {count} streams, got {len(given)}")
            fine = all(_are_votes(votes, below) for votes in given) and (name == "votes" or all(given))
            self._want(fine, f"{name} with each class once, ascending, and positive counts, got {given}")
        everything = (*self.looks, *self.estimator_votes, self.selection, *self.votes)
        counted = sum(count for votes in everything for _, count in votes)
        self._want(self.drawn >= counted, f"at least its {counted} votes drawn, got {self.drawn}")

    def _want_claim(self, found: Routes) -> None:
        claim, routed, published = int(found.claim), float(found.routed), float(found.published)
        self._want(self.predict in (claim, ABSTAIN), f"predict {claim} or -1, got {self.predict}")
        one = (self.predict == ABSTAIN) == (self.radius == 0)
        self._want(one, f"radius 0 exactly where abstaining, got {self.radius} and class {self.predict}")
        ordered = 0 <= self.published <= self.radius < np.inf
        self._want(ordered, f"0 <= published <= radius, got {self.published} and {self.radius}")
        slack = 1 + 1e-9  # another SciPy may differ in the last digits
        self._want(
            self.radius <= routed * slack and self.published <= published * slack,
            f"at most the radii of its votes, {routed} (routed) and {published} (published), got "
            f"{self.radius} and {self.published}",
        )

    def _want(self, true: bool, what: str) -> None:
        if not true:
            raise ValueError(f"DualCertificate(idx={self.idx}): wanted {what}.")


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
) -> DualCertificate:
    """From votes to a certificate.

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
        bound=BOUNDS[bound],
    )
    return DualCertificate(
        idx=int(idx),
        label=int(label),
        predict=int(found.claim) if found.routed > 0 else ABSTAIN,
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
    )


def recompute(certificate: DualCertificate) -> tuple[float, float]:
    """The radii (routed, published) that the votes alone give: exactly those of what `judge` certifies."""
    found = _routes(certificate)
    return float(found.routed), float(found.published)


def columns(sigmas: Sequence[float]) -> tuple[str, ...]:
    """Columns of a table of a dual system with experts at `sigmas`: `entry_0.25`, …, `votes_1`."""
    each = [f"{what}_{level_text(sigma)}" for what in ("entry", "radius", "votes") for sigma in sigmas]
    ours = ("method", "sigma", "alpha", "seed", "published", "constancy")
    evidence = ("estimator", "estimator_sigmas", "levels", "looks", "estimator_votes", "selection")
    return (*LOG_COLUMNS, *ours, *each, *evidence, "bound", "drawn")


def to_row(certificate: DualCertificate) -> dict[str, object]:
    """A row with `columns`: full precision, votes as text such as "3:97 5:3", streams separated by ";"."""
    c, found = certificate, certificate.routes
    row: dict[str, object] = {
        "idx": c.idx,
        "label": c.label,
        "predict": c.predict,
        "radius": c.radius,
        "correct": int(c.correct),
        "time": c.seconds,
        "method": "dual",
        "sigma": c.sigmas[c.top],
        "alpha": c.split.alpha,
        "seed": c.seed,
        "published": c.published,
        "constancy": float(found.constancy),
        "estimator": type(c.estimator).__name__.lower(),
        "estimator_sigmas": _numbers_text(c.estimator.sigmas),
        "levels": ";".join(map(_numbers_text, (c.split.lower, c.split.upper, c.split.experts))),
        "looks": ";".join(map(votes_text, c.looks)),
        "estimator_votes": ";".join(map(votes_text, c.estimator_votes)),
        "selection": votes_text(c.selection),
        "bound": c.bound,
        "drawn": c.drawn,
    }
    for sigma, entry, radius, votes in zip(c.sigmas, found.entry, found.experts, c.votes, strict=True):
        name = level_text(sigma)
        row |= {
            f"entry_{name}": float(entry),
            f"radius_{name}": float(radius),
            f"votes_{name}": votes_text(votes),
        }
    return row


def from_row(row: Mapping[str, Any]) -> DualCertificate:
    """The certificate back from `to_row` or a row of a table (`to_dict("records")`), checked again."""
    names = [str(name) for name in row if str(name).startswith("votes_")]
    sigmas = tuple(float(name.removeprefix("votes_")) for name in names)
    if missing := [name for name in columns(sigmas) if name not in row]:
        raise ValueError(f"from_row: no {', '.join(missing)} in the row; is it of a dual system?")
    if (kind := str(row["estimator"])) not in _ESTIMATORS:
        raise ValueError(f"from_row: wanted an estimator of {', '.join(_ESTIMATORS)}, got {kind!r}.")
    lower, upper, experts = (_numbers(part) for part in str(row["levels"]).split(";"))
    return DualCertificate(
        idx=int(row["idx"]),
        label=int(row["label"]),
        predict=int(row["predict"]),
        radius=float(row["radius"]),
        published=float(row["published"]),
        seconds=float(row["time"]),
        sigmas=sigmas,
        estimator=_ESTIMATORS[kind](_numbers(str(row["estimator_sigmas"]))),
        split=Split(alpha=float(row["alpha"]), lower=lower, upper=upper, experts=experts, guessed_apart=True),
        seed=int(row["seed"]),
        looks=tuple(map(read_votes, str(row["looks"]).split(";"))),
        estimator_votes=tuple(map(read_votes, str(row["estimator_votes"]).split(";"))),
        selection=read_votes(str(row["selection"])),
        votes=tuple(cell_votes(row[name]) for name in names),
        bound=str(row["bound"]),
        drawn=int(row["drawn"]),
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
        bound=BOUNDS[c.bound],
    )


def _are_votes(votes: Votes, below: float) -> bool:
    kinds = [kind for kind, _ in votes]
    return kinds == sorted(set(kinds)) and all(0 <= kind < below and count > 0 for kind, count in votes)


def _numbers_text(numbers: Sequence[float]) -> str:
    return " ".join(repr(float(number)) for number in numbers)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))
