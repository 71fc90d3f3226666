"""A combiner as people write it: terms of shifted coordinates, the largest of the smallest.

`half1:0 own0.5:-0.2 | own0.25:-0.6 zero:0.4` has two terms; the coordinates are those of `combine.radii`:
`own` of the expert at that noise level, `rival`, the `half` of both, and `zero`, which every pair has.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.evidence.votes import level_text

__all__ = ["Combiner"]


Floats = NDArray[np.float64]


KINDS = ("half", "own", "rival")


_ENTRY = re.compile(r"(half|own|rival|zero)([0-9.e+-]*):([+-]?[0-9.]+(?:e[+-]?[0-9]+)?)")


@dataclass(frozen=True)
class Combiner:
    """max_a min_j (v_j + W_aj) over the coordinates v of K experts: `half`, `own`, `rival` of each, and 0.

    `shifts` is W (A, 3 K + 1), in the unit of a radius, infinite where a term lacks a coordinate. Raises
    ValueError for sigmas that are not positive or occur twice, and for shifts of another shape, that are not
    numbers, or of a term without any coordinate.
    """

    sigmas: tuple[float, ...]
    shifts: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        positive = all(0 < sigma < np.inf for sigma in self.sigmas)
        if not self.sigmas or not positive or len(set(self.sigmas)) < len(self.sigmas):
            raise ValueError(f"Combiner: wanted different positive sigmas, got {self.sigmas}.")
        width = 3 * len(self.sigmas) + 1
        fine = all(len(term) == width and min(term) < np.inf and min(term) > -np.inf for term in self.shifts)
        if not self.shifts or not fine or np.isnan(self.array).any():
            raise ValueError(
                f"Combiner: wanted terms of {width} shifts, one finite, for {len(self.sigmas)} experts; "
                f"got {self.shifts}."
            )

    @classmethod
    def of(cls, sigmas: Sequence[float], shifts: ArrayLike) -> Self:
        """From an array of shifts (A, 3 K + 1)."""
        rows = np.asarray(shifts, dtype=np.float64).tolist()
        return cls(tuple(map(float, sigmas)), tuple(map(tuple, rows)))

    @classmethod
    def single(cls, sigmas: Sequence[float], expert: int) -> Self:
        """One expert alone, by two bounds; ValueError for a number that is none of theirs."""
        if not 0 <= expert < len(sigmas):
            raise ValueError(
                f"Combiner.single: wanted one of {len(sigmas)} experts, from 0 on, got {expert}."
            )
        shifts = np.full((1, 3 * len(sigmas) + 1), np.inf)
        shifts[0, expert] = 0.0
        return cls.of(sigmas, shifts)

    @classmethod
    def surest(cls, sigmas: Sequence[float], handicaps: Sequence[float] = ()) -> Self:
        """Whoever is surest, in units of a radius, answers: F_c = max_i (z_ic - t_i) with `handicaps` t_i."""
        count = len(sigmas)
        shifts = np.full((count, 3 * count + 1), np.inf)
        shifts[np.arange(count), count + np.arange(count)] = -np.asarray(handicaps or (0.0,) * count)
        return cls.of(sigmas, shifts)

    @classmethod
    def of_text(cls, sigmas: Sequence[float], text: str) -> Self:
        """Back from `text`; ValueError for what it never writes."""
        names, shifts = cls._names(sigmas), []
        for term in text.split("|"):
            row = dict.fromkeys(names, np.inf)
            for entry in term.split():
                found = _ENTRY.fullmatch(entry)
                if not found or (name := found[1] + found[2]) not in row or row[name] < np.inf:
                    raise ValueError(
                        f"Combiner: got {entry!r} in {text[:200]!r}; wanted terms of {', '.join(names)}, "
                        "each once and with a shift, such as 'half1:0 zero:0.4'"
                    )
                row[name] = float(found[3])
            shifts.append([*row.values()])
        return cls.of(sigmas, shifts)

    @property
    def text(self) -> str:
        """What tables hold."""
        named = self._names(self.sigmas)
        return " | ".join(
            " ".join(f"{name}:{shift!r}" for name, shift in zip(named, term, strict=True) if shift < np.inf)
            for term in self.shifts
        )

    @cached_property
    def array(self) -> Floats:
        """W (A, 3 K + 1)."""
        return np.asarray(self.shifts, dtype=np.float64)

    @cached_property
    def spends(self) -> int:
        """The bounds that can fail together: each has this share of alpha; see `combine.radii`."""
        count = len(self.sigmas)
        forth, back = (
            [
                {bound for j in np.flatnonzero(row < np.inf) for bound in _bounds(int(j), count, turned)}
                for row in self.array
            ]
            for turned in (False, True)
        )
        every = set.union(*forth)
        return max(1, *(len(every | term) for term in back))

    @staticmethod
    def _names(sigmas: Sequence[float]) -> list[str]:
        return [f"{kind}{level_text(sigma)}" for kind in KINDS for sigma in sigmas] + ["zero"]


def _bounds(j: int, count: int, turned: bool) -> set[tuple[str, int]]:
    # of coordinate j, or of the one that stands in its place when the pair is turned round
    if j == 3 * count:
        return set()
    kind, expert = KINDS[j // count], j % count
    alone = kind == ("rival" if turned else "own")
    return {("lower", expert)} | (set() if alone else {("upper", expert)})
