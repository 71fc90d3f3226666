"""Looking for a lattice that certifies more: changes of one term, judged by the certificates themselves.

What a combiner certifies is a step function of its shifts, and gradients through a softened lattice end in
one expert, since a term that decides nothing gets none. So single terms are changed at random, and a change
is kept unless it certifies less. All terms but the one in question are summed up once, so that a change
costs only its own term.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import combined_margin, pair_coordinates

__all__ = ["Pairs", "Search"]


Floats = NDArray[np.float32]


_TRIES = 8  # changes of a term in a row


_SMOOTH = 0.04  # width of a step at each radius, so that what nearly certifies counts in part


class Pairs(NamedTuple):
    """Lengths of labels and of their rivals."""

    own: NDArray[np.float64]  # (N, K)
    rivals: NDArray[np.float64]  # (N, R, K)

    def coordinates(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coordinates (N, R, 3 K + 1) of each pair, and of the pair turned round."""
        return pair_coordinates(self.own[:, None], self.rivals)

    def radii(self, combiner: Combiner) -> NDArray[np.float64]:
        """What a combiner gives (N,); below 0 where another class is nearer."""
        return np.asarray(combined_margin(self.own[:, None], self.rivals, combiner).min(axis=1))


class Search:
    """Improves a combiner on `pairs`, for radii that have these `weights`; what is drawn is from `seed`."""

    def __init__(
        self,
        pairs: Pairs,
        start: Combiner,
        *,
        radii: tuple[float, ...],
        weights: tuple[float, ...],
        terms: int,
        seed: int,
    ) -> None:
        self._rng, self._sigmas = np.random.default_rng(seed), start.sigmas
        self._radii, self._weights = (np.asarray(v, dtype=np.float32) for v in (radii, weights))
        self._shape, width = pairs.rivals.shape[:2], start.array.shape[1]
        self._scale = float(max(start.sigmas))
        flat = (v.reshape(-1, width).T.astype(np.float32) for v in pairs.coordinates())
        self._sides = [np.ascontiguousarray(v) for v in flat]  # (3 K + 1, N R), forth and back
        self._shifts = np.full((max(terms, len(start.array)), width), np.inf)
        self._shifts[: len(start.array)] = start.array
        self._values = [[self._term(row, side) for row in self._shifts] for side in self._sides]
        self.worth = self._worth(*(np.maximum.reduce(values) for values in self._values))

    def run(self, changes: int) -> Combiner:
        """The combiner after so many changes were tried, without what decides nothing."""
        for _ in range(0, changes, _TRIES):
            a = int(self._rng.integers(len(self._shifts)))
            rest = [np.maximum.reduce(values[:a] + values[a + 1 :]) for values in self._values]
            for _ in range(_TRIES):
                self._try(a, rest)
        return self._pruned()

    def _try(self, a: int, rest: list[Floats]) -> None:
        row = self._changed(self._shifts[a])
        values = [self._term(row, side) for side in self._sides]
        forth, back = (np.maximum(value, other) for value, other in zip(values, rest, strict=True))
        if np.isneginf(forth[0]):  # no term is left
            return
        if (worth := self._worth(forth, back)) >= self.worth:
            self.worth, self._shifts[a] = worth, row
            for side, value in zip(self._values, values, strict=True):
                side[a] = value

    def _changed(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        rng, new, there = self._rng, row.copy(), np.flatnonzero(row < np.inf)
        how = rng.random()
        if not len(there) or how < 0.15:  # another term
            new[:] = np.inf
            some = rng.choice(len(row), rng.integers(1, 5), replace=False)
            new[some] = self._scale * rng.uniform(-0.8, 1.2, len(some))
        elif how < 0.3 and len(there) > 1:
            new[rng.choice(there)] = np.inf
        elif how < 0.5:
            new[rng.integers(len(row))] = self._scale * rng.uniform(-0.8, 1.2)
        elif how < 0.9:
            new[rng.choice(there)] += self._scale * rng.normal(0, 0.1 if rng.random() < 0.5 else 0.02)
        else:
            new[there] += self._scale * rng.normal(0, 0.05)
        return new.round(3)

    def _term(self, row: NDArray[np.float64], side: Floats) -> Floats:
        there = np.flatnonzero(row < np.inf)
        if not len(there):
            return np.full(side.shape[1], -np.inf, dtype=np.float32)
        return np.asarray((side[there] + row[there, None].astype(np.float32)).min(axis=0))

    def _worth(self, forth: Floats, back: Floats) -> float:
        radius = ((forth - back) / 2).reshape(self._shape).min(axis=1)
        steps = np.clip((radius[:, None] - self._radii) / np.float32(_SMOOTH) + 0.5, 0, 1)
        return float(np.mean(steps @ self._weights))

    def _pruned(self) -> Combiner:
        # what is nowhere the least of its term, or nowhere the largest of all terms, decides nothing
        least = np.zeros(self._shifts.shape, dtype=bool)
        largest = np.zeros(len(self._shifts), dtype=bool)
        for side, values in zip(self._sides, self._values, strict=True):
            largest[np.unique(np.argmax(np.stack(values), axis=0))] = True
            for a, row in enumerate(self._shifts):
                if (there := np.flatnonzero(row < np.inf)).size:
                    found = (side[there] + row[there, None].astype(np.float32)).argmin(axis=0)
                    least[a, there[np.unique(found)]] = True
        return Combiner.of(self._sigmas, np.where(least, self._shifts, np.inf)[largest])
