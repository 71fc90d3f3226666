"""The table of a cascade from those of its experts, without a single draw."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.cascade.certificate import CascadeCertificate
from dualrs_lab.cascade.radii import CASCADE_RULES, Cascade
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.joins import aligned, at_sigma, counted_votes, origin, shared_origin
from dualrs_lab.evidence.table import as_table
from dualrs_lab.evidence.votes import level_text, vote_counts
from dualrs_lab.settings import ALPHA

__all__ = ["Joined", "from_tables", "holds_all_draws", "join_votes"]


Ints = NDArray[np.int64]


_ALL = {"rule": "AllDraws"}  # what a record from before there were rules would say


def from_tables(
    tables: Mapping[float, Claims],
    *,
    cascade: Cascade,
    alpha: float = ALPHA,
    rule: str = CASCADE_RULES[0],
) -> pd.DataFrame:
    """The table of a cascade from those of its experts by `smoothing.certify_table`, without a draw.

    Only their votes count, by whatever rule their own radii were claimed. Raises as `join_votes` does.
    Digests of the images, and what the experts' records say of the data set and of the noise, come along.
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
            rule=rule,
        )
        for i in range(len(joined.idx))
    ]
    found = pd.DataFrame([c.to_row() for c in certificates], columns=CascadeCertificate.columns(cascade))
    found.attrs = {"identity": joined.about}
    return found if joined.image is None else found.assign(image=joined.image)


class Joined(NamedTuple):
    """What the tables of several experts hold about the images that are in all of them."""

    idx: Ints  # (N,)
    label: Ints  # (N,)
    selection: Ints  # (N, K, C)
    votes: Ints  # (N, K, C)
    seed: int
    seconds: NDArray[np.float64]  # (N,) of all experts together
    image: NDArray[np.object_] | None  # (N,) digests, where the tables have them
    about: dict[str, Any]  # data set, classes and noise, where the tables' records say them


def join_votes(tables: Mapping[float, Claims], sigmas: Sequence[float]) -> Joined:
    """Votes of the experts at `sigmas`, from `tables` of `smoothing.certify_table` by sigma.

    All draws must be in them, as many for each image: votes that stopped early depend on a level of their
    own. Raises ValueError for a sigma without its table or with that of another, for votes that stopped early
    or that contradict their counts, and as `evidence.aligned` does, where seeds differ as well.
    """
    if missing := [sigma for sigma in sigmas if sigma not in tables]:
        raise ValueError(
            f"join_votes: no table for sigma {missing[0]:g}; wanted tables of {tuple(sigmas)}, got "
            f"{sorted(tables)}"
        )
    given = {f"σ = {level_text(sigma)}": as_table(tables[sigma]) for sigma in sigmas}
    for sigma, (name, table) in zip(sigmas, given.items(), strict=True):
        if not holds_all_draws(table):
            raise ValueError(
                f"join_votes: votes of {name} stopped early, or are not there; wanted a table of all draws, "
                "the same number for each image"
            )
        at_sigma("join_votes", name, table, sigma)
    same = [*aligned("join_votes", given, same=("alpha", "seed")).values()]
    pairs = [*zip(*(counted_votes("join_votes", table) for table in same), strict=True)]
    classes = 1 + max(kind for every in pairs for rows in every for row in rows for kind, _ in row)
    selection, votes = (np.stack([vote_counts(rows, classes) for rows in every], axis=1) for every in pairs)
    first = same[0]
    digests = [table["image"] for table in same if "image" in table and table["image"].notna().all()]
    return Joined(
        first["idx"].to_numpy(),
        first["label"].to_numpy(),
        selection,
        votes,
        seed=int(first["seed"].iloc[0]),
        seconds=np.sum([table["time"].to_numpy() for table in same], axis=0),
        image=np.asarray(digests[0], dtype=object) if digests else None,
        about=shared_origin(*same),
    )


def holds_all_draws(table: pd.DataFrame) -> bool:
    """Whether a table of `smoothing.certify_table` has votes, all that were drawn, as many for each image.

    Neither draws that stopped early, where the votes had a say in their number, nor a number that a pilot
    chose for each image, are all draws.
    """
    if not {"selection", "votes", "n"} <= set(table) or table["n"].nunique() > 1:
        return False  # a published log, or input-specific numbers of draws
    if origin(table).get("stop", _ALL)["rule"] != _ALL["rule"]:
        return False
    if "bound" not in table:
        return True  # made before there was early stopping
    return bool((table["bound"] == "clopper-pearson").all() and (table["drawn"] == table["n"]).all())
