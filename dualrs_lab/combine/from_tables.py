"""The table of a combiner from those of its experts, without a single draw."""

from collections.abc import Mapping

import pandas as pd

from dualrs_lab.combine.certificate import CombinedCertificate
from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.joins import join_votes
from dualrs_lab.settings import ALPHA

__all__ = ["combine_tables"]


def combine_tables(
    tables: Mapping[float, Claims], *, combiner: Combiner, alpha: float = ALPHA
) -> pd.DataFrame:
    """The table of a combiner from those of its experts by `smoothing.certify_table`, without a draw.

    The combiner must not have been learnt from these votes, nor picked by them. Raises as `join_votes` does.
    Digests of the images, and what the experts' records say of the data set and of the noise, come along.
    """
    joined = join_votes(tables, combiner.sigmas)
    certificates = [
        CombinedCertificate.from_votes(
            joined.selection[i],
            joined.votes[i],
            combiner,
            idx=joined.idx[i],
            label=joined.label[i],
            seed=joined.seed,
            alpha=alpha,
            seconds=joined.seconds[i],
        )
        for i in range(len(joined.idx))
    ]
    found = pd.DataFrame([c.to_row() for c in certificates], columns=CombinedCertificate.columns(combiner))
    found.attrs = {"identity": joined.about}
    return found if joined.image is None else found.assign(image=joined.image)
