"""What a certificate of one smoothed classifier is: a claim, with the votes that it follows from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from dualrs_lab.evidence.claim import LOG_COLUMNS, Claim, answered, whole
from dualrs_lab.evidence.radii import BOUNDS, RULES, PairedCounts, possible_pairs, ruled_radius
from dualrs_lab.evidence.votes import (
    Votes,
    are_votes,
    leader,
    most_besides,
    read_votes,
    sparse_votes,
    votes_text,
)

__all__ = ["COLUMNS", "PAIRED", "Certificate", "decide"]


_REQUIRED = (*LOG_COLUMNS, "method", "sigma", "n0", "n", "successes", "alpha", "seed", "selection", "votes")


COLUMNS = (*_REQUIRED, "bound", "drawn", "rule")
"""Tables that lack the last three are Clopper–Pearson on all draws, by Cohen's rule."""


PAIRED = PairedCounts._fields
"""What a table has besides, where votes of a copy certify its original, see `evidence.radii`."""


@dataclass(frozen=True, kw_only=True)
class Certificate(Claim):
    """With probability >= 1 - alpha over the draws the smoothed class is `predict` within `radius`.

    The evidence comes along: `selection` guessed the class on n0 draws, separate `votes` on n draws bound its
    probability, `successes` of them for that class; `bound` names the bound, `rule` how the radius follows
    (see `evidence.radii`), `drawn` >= n counts every draw that was looked at. What is certified is what
    voted; with `paired` draws, on which its original was asked as well, it is that original.
    """

    method: str
    sigma: float
    n0: int
    n: int
    successes: int
    alpha: float
    seed: int
    selection: Votes
    votes: Votes
    bound: str = "clopper-pearson"
    drawn: int
    rule: str = RULES[0]
    paired: int = 0
    kept: int = 0
    lost: int = 0
    gained: int = 0

    rules: ClassVar[tuple[str, ...]] = RULES
    counts: ClassVar[tuple[str, ...]] = (*Claim.counts, "n0", "n", "successes", "seed", "drawn", *PAIRED)

    @property
    def guess(self) -> int:
        """The class that the selection draws chose; the lowest class wins a tie."""
        return leader(self.selection)

    @property
    def rival(self) -> int:
        """The largest count of another class than the guess."""
        return most_besides(self.votes, self.guess)

    @property
    def unanimous(self) -> bool:
        """Whether all selection draws chose the guess."""
        return len(self.selection) == 1

    @property
    def pairs(self) -> PairedCounts | None:
        """What the original voted beside what voted here, if it was asked."""
        return PairedCounts(self.paired, self.kept, self.lost, self.gained) if self.paired else None

    def recomputed(self) -> float:
        """The radius that the votes alone give; what `decide` certifies has exactly this radius."""
        return float(ruled_radius(*self.counted(), self.sigma, **self.how()))  # type: ignore[arg-type]

    def counted(self) -> tuple[str, int, int, int, float]:
        """Rule, counts of the class and of its largest rival, draws and level: what `ruled_bounds` takes."""
        return self.rule, self.successes, self.rival, self.n, self.alpha

    def how(self) -> dict[str, object]:
        """What `ruled_bounds` takes besides: the kind of bounds, unanimity, and pairs."""
        return {"bounds": BOUNDS[self.bound], "unanimous": self.unanimous, "pairs": self.pairs}

    def evidence(self) -> dict[str, object]:
        """As `Claim.evidence`; what the original voted only where it was asked."""
        names = (*COLUMNS, *(PAIRED if self.paired else ()))
        row = {name: getattr(self, name) for name in names if name not in LOG_COLUMNS}
        return row | {"selection": votes_text(self.selection), "votes": votes_text(self.votes)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """As `Claim.from_row`; without the last columns, as first tables: see `COLUMNS`."""
        return cls(**cls._fields(row))

    @classmethod
    def _fields(cls, row: Mapping[str, Any]) -> dict[str, Any]:
        asked = any(name in row for name in PAIRED)
        said = cls._said(row, (*_REQUIRED, *(PAIRED if asked else ())))
        first = {"bound": "clopper-pearson", "drawn": row["n"], "rule": "cohen"}
        given = first | dict.fromkeys(PAIRED, 0) | dict(row)
        said |= {name: whole(given[name]) for name in cls.counts if name not in said}
        said |= {name: float(given[name]) for name in ("sigma", "alpha")}
        said |= {name: read_votes(str(given[name])) for name in ("selection", "votes")}
        return said | {name: str(given[name]) for name in ("method", "bound", "rule")}

    def _want_evidence(self) -> None:
        self._want(self.method.isprintable() and self.method != "", f"a method name, got {self.method!r}")
        self._want_votes("selection", self.selection, self.n0)
        self._want_votes("votes", self.votes, self.n)
        self._want(self.drawn >= self.n, f"at least its {self.n} votes drawn, got {self.drawn}")
        self._want(self.bound in BOUNDS, f"a bound of {', '.join(BOUNDS)}, got {self.bound!r}")
        self._want(self.rule in self.rules, f"a rule of {', '.join(self.rules)}, got {self.rule!r}")
        counted = dict(self.votes).get(self.guess, 0)
        self._want(self.successes == counted, f"successes {counted}, as in votes, got {self.successes}")
        self._want_pairs()

    def _want_pairs(self) -> None:
        counts = PairedCounts(self.paired, self.kept, self.lost, self.gained)
        fine = bool(possible_pairs(counts, self.successes, self.n))
        self._want(fine, f"counts of pairs that {self.successes} of {self.n} votes allow, got {counts}")

    def _want_votes(self, name: str, votes: Votes, draws: int) -> None:
        fine = f"{name} with each class once, ascending, and positive counts, got {votes}"
        self._want(are_votes(votes), fine)
        total = sum(count for _, count in votes)
        self._want(total == draws >= 1, f"{name} that sum to its {draws} >= 1 draws, got {total}")


def decide(
    selection_counts: ArrayLike,
    votes_counts: ArrayLike,
    *,
    idx: int,
    label: int,
    sigma: float,
    alpha: float,
    seed: int,
    seconds: float,
    method: str = "rs",
    bound: str = "clopper-pearson",
    drawn: int | None = None,
    rule: str = RULES[0],
    pairs: PairedCounts | None = None,
) -> Certificate:
    """Cohen's CERTIFY from votes (K,) to a certificate: guess on one set of draws, bound on the other.

    The two counts must come from independent draws, or the bound does not hold at level `alpha`. Votes that
    had a say in their own number, or that were picked afterwards from those `drawn` (None: there are no
    others), need the bound "betting". The `rule` must be fixed before the votes are looked at. With `pairs`
    about the guess, whose number was fixed too, the certificate is for the original of what voted. Raises
    ValueError for counts that are not counts and for an unknown bound or rule.
    """
    if bound not in BOUNDS:
        raise ValueError(f"decide: wanted a bound of {', '.join(BOUNDS)}, got {bound!r}.")
    selection, votes = (
        sparse_votes("selection_counts", selection_counts),
        sparse_votes("votes_counts", votes_counts),
    )
    top = int(np.argmax(np.asarray(selection_counts)))
    n, successes = sum(count for _, count in votes), dict(votes).get(top, 0)
    counted = rule, successes, most_besides(votes, top), n, alpha
    how = {"bounds": BOUNDS[bound], "unanimous": len(selection) == 1, "pairs": pairs}
    radius = float(ruled_radius(*counted, sigma, **how))  # type: ignore[arg-type]
    beside = {} if pairs is None else {name: int(np.asarray(n)) for name, n in pairs._asdict().items()}
    return Certificate(
        idx=int(idx),
        label=int(label),
        predict=int(answered(top, radius)),
        radius=radius,
        seconds=float(seconds),
        method=method,
        sigma=float(sigma),
        n0=sum(count for _, count in selection),
        n=n,
        successes=successes,
        alpha=float(alpha),
        seed=int(seed),
        selection=selection,
        votes=votes,
        bound=bound,
        drawn=n if drawn is None else int(drawn),
        rule=rule,
        **beside,
    )
