"""Votes: counts by class, as arrays and as the text that tables hold."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Votes",
    "are_votes",
    "as_votes",
    "cell_votes",
    "leader",
    "level_text",
    "read_votes",
    "vote_counts",
    "votes_text",
]


Votes = tuple[tuple[int, int], ...]  # (class, count), classes ascending, counts positive


def leader(votes: Votes) -> int:
    """The class with the most votes; the lowest class wins a tie."""
    return max(votes, key=lambda pair: (pair[1], -pair[0]))[0]


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


def level_text(sigma: float) -> str:
    """A noise level in the name of a column: "0.25", "1"; read back, it is sigma to the last bit."""
    return repr(float(sigma)).removesuffix(".0")


def sparse_votes(name: str, counts: ArrayLike) -> Votes:
    given = np.asarray(counts)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"decide: {name} wants whole counts per class (K,), got {given.dtype} {given.shape}."
        )
    return tuple((kind, int(count)) for kind, count in enumerate(given) if count)
