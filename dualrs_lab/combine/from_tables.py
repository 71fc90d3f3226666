"""The table of a combiner from those of its experts, without a single draw."""

from collections.abc import Mapping
from functools import partial

import pandas as pd

from dualrs_lab.combine.certificate import CombinedCertificate
from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.joins import join_votes, joined_table
from dualrs_lab.settings import ALPHA

__all__ = ["combine_tables"]


def combine_tables(
    tables: Mapping[float, Claims], *, combiner: Combiner, alpha: float = ALPHA
) -> pd.DataFrame:
    """The table of a combiner from those of its experts by `smoothing.certify_table`, without a draw.

    The combiner must not have been learnt from these votes, nor picked by them. Raises as `join_votes` does.
    Digests of the images, and what the experts' records say of the data set and of the noise, come along.
    """
    certify = partial(CombinedCertificate.from_votes, combiner=combiner, alpha=alpha)
    return joined_table(join_votes(tables, combiner.sigmas), CombinedCertificate.columns(combiner), certify)
