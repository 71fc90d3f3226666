"""Votes: counts by class, as arrays and as the text that tables hold."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "VoteColumn",
    "Votes",
    "are_votes",
    "as_votes",
    "cell_votes",
    "expert_text",
    "leader",
    "level_text",
    "most_besides",
    "own_and_rival",
    "read_column",
    "read_expert",
    "read_votes",
    "sure_votes",
    "vote_counts",
    "votes_text",
    "want_labels",
]


Votes = tuple[tuple[int, int], ...]  # (class, count), classes ascending, counts positive


def leader(votes: Votes) -> int:
    """The class with the most votes; the lowest class wins a tie."""
    return max(votes, key=lambda pair: (pair[1], -pair[0]))[0]


def most_besides(votes: Votes, kind: int) -> int:
    """The largest count of another class than `kind`."""
    return max((count for other, count in votes if other != kind), default=0)


def votes_text(votes: Votes) -> str:
    """Votes as a table holds them: "3:97 5:3"."""
    return " ".join(f"{kind}:{count}" for kind, count in votes)


def read_votes(text: str) -> Votes:
    """Votes back from `votes_text`."""
    pairs = (pair.split(":") for pair in text.split())
    return tuple((int(kind), int(count)) for kind, count in pairs)


def cell_votes(cell: object) -> Votes:
    """Votes back from a cell of a table, which is empty for an expert that was not asked."""
    return read_votes("" if pd.isna(cell) else str(cell))  # type: ignore[call-overload]


def as_votes(counts: NDArray[np.int64]) -> Votes:
    """Counts (C,) as votes; a class without votes is left out."""
    return tuple((kind, int(count)) for kind, count in enumerate(counts) if count)


def are_votes(votes: Votes, below: float = np.inf) -> bool:
    """Whether each class, `below` this number, comes once, ascending, and with a positive count."""
    kinds = [kind for kind, _ in votes]
    return kinds == sorted(set(kinds)) and all(0 <= kind < below and count > 0 for kind, count in votes)


def vote_counts(votes: Sequence[Votes], classes: int) -> NDArray[np.int64]:
    """The votes of S streams as counts (S, C)."""
    counts = np.zeros((len(votes), classes), dtype=np.int64)
    for stream, pairs in enumerate(votes):
        for kind, count in pairs:
            counts[stream, kind] = count
    return counts


def own_and_rival(counts: ArrayLike, kinds: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The counts (…,) of the classes `kinds` (…,) among counts (…, C), and the largest of all others."""
    every, at = np.asarray(counts), np.asarray(kinds)[..., None]
    others = every.copy()
    np.put_along_axis(others, at, 0, axis=-1)
    return np.take_along_axis(every, at, axis=-1)[..., 0], others.max(axis=-1)


def sure_votes(counts: ArrayLike, confidences: Sequence[float], confidence: float) -> NDArray[np.int64]:
    """Votes (…, C + 1) by one confidence, of counts (…, C (T + 1)) that T confidences tell apart.

    A draw that fails k of the ascending `confidences` was counted at c + C k, see `models.Graded`. Where it
    fails `confidence`, one of them, it is silent: the last class. With 0 every vote counts. Raises ValueError
    for another confidence, and for counts that are not of T + 1 times as many classes.
    """
    every, blocks = np.asarray(counts), len(confidences) + 1
    passing = passing_blocks("sure_votes", confidences, confidence)
    if every.ndim < 1 or every.shape[-1] % blocks or not every.shape[-1]:
        raise ValueError(
            f"sure_votes: got counts {every.shape} and {blocks - 1} confidences; wanted (…, {blocks} C)"
        )
    graded = every.reshape(*every.shape[:-1], blocks, -1)
    silent = graded[..., passing:, :].sum(axis=(-2, -1))
    return np.concatenate([graded[..., :passing, :].sum(axis=-2), silent[..., None]], axis=-1)


def passing_blocks(call: str, confidences: Sequence[float], confidence: float) -> int:
    # how many blocks of classes, from the first on, hold votes that pass the confidence
    if confidence not in (0, *confidences):
        known = ", ".join(f"{one:g}" for one in confidences)
        raise ValueError(
            f"{call}: got confidence {confidence:g}; votes are told apart by {known}: wanted one of these, "
            "or 0 to count every vote"
        )
    return len(confidences) + 1 - (1 + [*confidences].index(confidence) if confidence else 0)


def want_labels(call: str, labels: ArrayLike, classes: int) -> None:
    """ValueError, which names the `call`, unless each of the labels (N,) is one of so many classes."""
    kinds = np.asarray(labels)
    if not 0 <= kinds.min() <= kinds.max() < classes:
        raise ValueError(
            f"{call}: got labels from {kinds.min()} to {kinds.max()}; wanted one of the {classes} classes "
            "for each image"
        )


def level_text(sigma: float) -> str:
    """A noise level in the name of a column: "0.25", "1"; read back, it is sigma to the last bit."""
    return repr(float(sigma)).removesuffix(".0")


def expert_text(sigma: float, confidence: float = 0.0) -> str:
    """An expert in the name of a column: noise level, and below which confidence it is silent: "0.5@0.6"."""
    return level_text(sigma) + (f"@{level_text(confidence)}" if confidence else "")


def read_expert(name: str) -> tuple[float, float]:
    """Noise level and confidence back from `expert_text`; 0 for an expert that is never silent."""
    sigma, _, confidence = name.partition("@")
    return float(sigma), float(confidence or 0)


@dataclass(frozen=True)
class VoteColumn:
    """The votes of N cells of a table, each pair of class and count after the other: (P,) each.

    Rows ascend, and classes within a row.
    """

    size: int  # N
    rows: NDArray[np.int32]
    kinds: NDArray[np.int32]
    counts: NDArray[np.int64]

    def totals(self) -> NDArray[np.int64]:
        """Votes of each cell (N,)."""
        return self._sums(np.ones(len(self.rows), dtype=bool))

    def leaders(self) -> NDArray[np.int64]:
        """The class with the most votes (N,), the lowest of several; -1 without votes."""
        most, found = np.zeros(self.size, dtype=np.int64), np.full(self.size, -1, dtype=np.int64)
        np.maximum.at(most, self.rows, self.counts)
        best = (self.counts == most[self.rows]).nonzero()[0][::-1]  # the lowest class of a row comes last
        found[self.rows[best]] = self.kinds[best]
        return found

    def of(self, kinds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Votes of each cell for the class (N,) that is asked for."""
        return self._sums(self.kinds == kinds[self.rows])

    def counts_of(self, kinds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts (N, C) of the C classes `kinds` (ascending), which must be all there are."""
        found = np.zeros((self.size, len(kinds)), dtype=np.int64)
        found[self.rows, np.searchsorted(kinds, self.kinds)] = self.counts
        return found

    def largest(self) -> NDArray[np.int64]:
        """The largest class of each cell (N,); -1 without votes."""
        found = np.full(self.size, -1, dtype=np.int64)
        np.maximum.at(found, self.rows, self.kinds)
        return found

    def most_besides(self, kinds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Votes of each cell for the largest class other than that of `kinds` (N,)."""
        others, found = self.kinds != kinds[self.rows], np.zeros(self.size, dtype=np.int64)
        np.maximum.at(found, self.rows[others], self.counts[others])
        return found

    def _sums(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        found = np.zeros(self.size, dtype=np.int64)
        np.add.at(found, self.rows[chosen], self.counts[chosen])
        return found


_CELL = r"(?:[0-9]{1,9}:[1-9][0-9]{0,17}(?: (?=[0-9])|(?=\n)))*+\n"


_CELLS = re.compile(f"(?:{_CELL})*+")


_TOGETHER = 2**16  # cells that are read at a time: what stays in the caches


def read_column(name: str, cells: Iterable[object]) -> VoteColumn:
    """The votes of a column; an empty cell is an expert that was not asked.

    Raises ValueError that shows the first cell that is not what `votes_text` writes: each class once,
    ascending, with a positive count in plain digits.
    """
    given = np.asarray(cells if isinstance(cells, pd.Series) else [*cells], dtype=object)
    parts = [_pairs(name, [], 0)]
    for first in range(0, len(given), _TOGETHER):
        some = given[first : first + _TOGETHER]
        texts = [*map(str, np.where(pd.isna(some), "", some).tolist())]
        parts.append(_pairs(name, texts, first))
    rows, kinds, counts = (np.concatenate(each) for each in zip(*parts, strict=True))
    return VoteColumn(len(given), rows, kinds, counts)


Pairs = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]


def _pairs(name: str, texts: list[str], first: int) -> Pairs:
    # row, class and count (P,) of each pair in cells of which the first is in row `first`
    lines = "\n".join([*texts, ""])
    if not _CELLS.fullmatch(lines) or lines.count("\n") != len(texts):
        at = next(row for row, text in enumerate(texts) if not re.fullmatch(_CELL, f"{text}\n"))
        raise ValueError(
            f"line {first + at + 2}: {name} {texts[at]!r} are no votes; wanted text such as '3:97 5:3'"
        )
    numbers = np.fromstring(lines.replace(":", " "), dtype=np.int64, sep=" ")
    rows = np.repeat(np.arange(len(texts)), [text.count(":") for text in texts])
    kinds, counts = numbers[::2], numbers[1::2]
    if (bad := (np.diff(rows) == 0) & (np.diff(kinds) <= 0)).any():
        at = int(rows[np.argmax(bad)])
        raise ValueError(f"line {first + at + 2}: {name} {texts[at]!r}; wanted each class once, ascending")
    return (first + rows).astype(np.int32), kinds.astype(np.int32), counts


def sparse_votes(name: str, counts: ArrayLike) -> Votes:
    given = np.asarray(counts)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"decide: {name} wants whole counts per class (K,), got {given.dtype} {given.shape}."
        )
    return tuple((kind, int(count)) for kind, count in enumerate(given) if count)
