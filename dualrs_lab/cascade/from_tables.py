"""The table of a cascade from those of its experts, without a single draw."""

from collections.abc import Mapping

import pandas as pd

from dualrs_lab.cascade.certificate import CascadeCertificate
from dualrs_lab.cascade.radii import CASCADE_RULES, Cascade
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.joins import join_votes
from dualrs_lab.settings import ALPHA

__all__ = ["from_tables"]


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
