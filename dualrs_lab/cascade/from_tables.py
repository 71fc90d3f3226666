"""The table of a cascade from those of its experts, without a single draw."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.cascade.certificate import CascadeCertificate
from dualrs_lab.cascade.radii import Cascade
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.table import as_table
from dualrs_lab.evidence.votes import read_votes, vote_counts
from dualrs_lab.settings import ALPHA

__all__ = ["Joined", "from_tables", "holds_all_draws", "join_votes"]


Ints = NDArray[np.int64]


def from_tables(tables: Mapping[float, Claims], *, cascade: Cascade, alpha: float = ALPHA) -> pd.DataFrame:
    """The table of a cascade from those of its experts by `smoothing.certify_table`, without a draw.

    Raises as `join_votes` does.
    """
    joined = join_votes(tables, cascade.sigmas)
    certificates = [
        CascadeCertificate.from_votes(
            joined.selection[i],
            joined.votes[i],
            cascade,
            idx=joined.idx[i],
            label=joined.label[i],
            seed=joined.seed,
            alpha=alpha,
            seconds=joined.seconds[i],
        )
        for i in range(len(joined.idx))
    ]
    return pd.DataFrame([c.to_row() for c in certificates], columns=CascadeCertificate.columns(cascade))


class Joined(NamedTuple):
    """What the tables of several experts hold about the images that are in all of them."""

    idx: Ints  # (N,)
    label: Ints  # (N,)
    selection: Ints  # (N, K, C)
    votes: Ints  # (N, K, C)
    seed: int
    seconds: NDArray[np.float64]  # (N,) of all experts together


def join_votes(tables: Mapping[float, Claims], sigmas: Sequence[float]) -> Joined:
    """Votes of the experts at `sigmas`, from `tables` of `smoothing.certify_table` by sigma.

    All draws must be in them: votes that stopped early depend on a level of their own. Raises ValueError for
    a sigma without its table, no common image, labels or seeds that differ, or votes that stopped early.
    """
    given = [as_table(tables[sigma]) for sigma in sigmas if sigma in tables]
    common = sorted(set.intersection(*(set(table["idx"]) for table in given))) if given else []
    if len(given) < len(sigmas) or not common:
        raise ValueError(
            f"join_votes: wanted tables of {tuple(sigmas)} with common images, got {sorted(tables)} with "
            f"{len(common)}"
        )
    same = [table[table["idx"].isin(common)].sort_values("idx") for table in given]
    first = same[0]
    for sigma, table in zip(sigmas, same, strict=True):
        seeds = {*table["seed"], *first["seed"]}
        if (table["label"].to_numpy() != first["label"].to_numpy()).any() or len(seeds) > 1:
            raise ValueError(f"join_votes: labels or seeds of {sigma} are not those of {sigmas[0]}")
        if not holds_all_draws(table):
            raise ValueError(f"join_votes: votes of {sigma} stopped early; wanted a table of all draws")
    pairs = [[[*map(read_votes, table[what])] for table in same] for what in ("selection", "votes")]
    classes = 1 + max(kind for every in pairs for rows in every for row in rows for kind, _ in row)
    selection, votes = (np.stack([vote_counts(rows, classes) for rows in every], axis=1) for every in pairs)
    return Joined(
        first["idx"].to_numpy(),
        first["label"].to_numpy(),
        selection,
        votes,
        seed=int(first["seed"].iloc[0]),
        seconds=np.sum([table["time"].to_numpy() for table in same], axis=0),
    )


def holds_all_draws(table: pd.DataFrame) -> bool:
    """Whether a table of `smoothing.certify_table` has votes, and none that stopped early."""
    if not {"selection", "votes"} <= set(table):
        return False  # a published log
    if "bound" not in table:
        return True  # made before there was early stopping
    return bool((table["bound"] == "clopper-pearson").all() and (table["drawn"] == table["n"]).all())
