"""The table of a cascade from those of its experts, without a single draw."""

from collections.abc import Mapping
from functools import partial

import pandas as pd

from dualrs_lab.cascade.certificate import CascadeCertificate
from dualrs_lab.cascade.radii import CASCADE_RULES, Cascade
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.joins import join_experts, joined_table, origin
from dualrs_lab.evidence.recompute import at_confidence, confidences_of
from dualrs_lab.evidence.table import as_table
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

    Only their votes count, by whatever rule their own radii were claimed. An expert that is silent where it
    is not sure needs a table whose votes are told apart by its confidence (`models.Graded`). Raises as
    `join_votes` does, and ValueError where votes are not told apart by it, or are for other `answers`.
    Digests of the images, and what the experts' records say of the data set and of the noise, come along.
    """
    if missing := [sigma for sigma in cascade.sigmas if sigma not in tables]:
        raise ValueError(
            f"from_tables: no table for sigma {missing[0]:g}; wanted tables of {cascade.sigmas}, got "
            f"{sorted(tables)}"
        )
    experts = {
        name: (sigma, _counted(name, as_table(tables[sigma]), sure, cascade.answers))
        for name, sigma, sure in zip(cascade.names, cascade.sigmas, cascade.sure, strict=True)
    }
    certify = partial(CascadeCertificate.from_votes, cascade=cascade, alpha=alpha, rule=rule)
    return joined_table(join_experts(experts), CascadeCertificate.columns(cascade), certify)


def _counted(name: str, table: pd.DataFrame, sure: float, answers: int | None) -> pd.DataFrame:
    # the table, with votes below the confidence silent
    known = origin(table).get("sure", {})
    if confidences_of(table):
        table, silent = at_confidence(table, sure), sure
    else:
        silent = float(known.get("confidence", 0))
    if silent != sure:
        are = f"silent below {silent:g}" if silent else "not told apart by how sure they are"
        how = f"one made by `certify --sure {sure:g}`" if sure else "one of all votes, or that in the cascade"
        raise ValueError(f"from_tables: votes of σ = {name} are {are}; wanted {how}")
    if sure and known["answers"] != answers:
        raise ValueError(
            f"from_tables: votes of σ = {name} are for {known['answers']} classes; got a cascade with "
            f"answers={answers}, wanted answers={known['answers']}"
        )
    return table
