"""The table of a cascade from those of its experts, without a single draw."""

from collections.abc import Mapping
from functools import partial

import pandas as pd

from dualrs_lab.cascade.certificate import CascadeCertificate
from dualrs_lab.cascade.radii import CASCADE_RULES, Cascade
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.joins import join_votes, joined_table, origin
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

    Only their votes count, by whatever rule their own radii were claimed. Experts that are silent where they
    are not sure come by `evidence.at_confidence`, and the cascade says how many classes are `answers`. Raises
    as `join_votes` does, and ValueError where records of the experts say other answers. Digests of the
    images, and what the experts' records say of the data set and of the noise, come along.
    """
    for sigma in cascade.sigmas:
        _want_answers(sigma, tables.get(sigma), cascade)
    certify = partial(CascadeCertificate.from_votes, cascade=cascade, alpha=alpha, rule=rule)
    return joined_table(join_votes(tables, cascade.sigmas), CascadeCertificate.columns(cascade), certify)


def _want_answers(sigma: float, table: Claims | None, cascade: Cascade) -> None:
    sure = origin(table).get("sure") if isinstance(table, pd.DataFrame) else None
    if not sure or cascade.answers == sure["answers"]:
        return
    if (
        cascade.answers is not None or sure.get("confidence") != 0
    ):  # with 0 every vote counts, and is an answer
        raise ValueError(
            f"from_tables: votes of sigma {sigma:g} are for {sure['answers']} classes, and silent where the "
            f"network is not sure; got a cascade with answers={cascade.answers}, wanted "
            f"answers={sure['answers']}, and each table by evidence.at_confidence"
        )
