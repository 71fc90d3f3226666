"""The table of a cascade from those of its experts, without a single draw."""

from collections.abc import Mapping
from functools import partial

import pandas as pd

from dualrs_lab.cascade.certificate import CascadeCertificate
from dualrs_lab.cascade.radii import CASCADE_RULES, Cascade
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.joins import join_votes, joined_table
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
    certify = partial(CascadeCertificate.from_votes, cascade=cascade, alpha=alpha, rule=rule)
    return joined_table(join_votes(tables, cascade.sigmas), CascadeCertificate.columns(cascade), certify)
