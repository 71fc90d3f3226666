"""What a table says as a whole: certified accuracy, average radius, and how sure one can be of them."""

from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, Decimal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.evidence.binomial import lower_bound, upper_bound
from dualrs_lab.evidence.claim import ABSTAIN, Claims, reach
from dualrs_lab.evidence.joins import agree, aligned, each_once
from dualrs_lab.evidence.recompute import for_copy
from dualrs_lab.evidence.table import as_table

__all__ = [
    "agreement",
    "average_radius",
    "certified_accuracy",
    "confidence_band",
    "floor_text",
    "lost_against_copy",
    "summarise",
]


def certified_accuracy(table: Claims, radii: ArrayLike) -> NDArray[np.float64]:
    """Share of rows that are correct with radius >= r, in the shape of `radii`; abstaining counts as wrong.

    The published convention. At r = 0 it is the share that is correct and does not abstain.
    """
    reached, r = _reached("certified_accuracy", table), np.asarray(radii, dtype=np.float64)
    return np.asarray((reached >= r[..., None]).mean(axis=-1), dtype=np.float64)


def average_radius(table: Claims) -> float:
    """ACR: the mean radius, where wrong or abstaining rows count 0 (Zhai et al. 2020)."""
    return float(np.maximum(_reached("average_radius", table), 0.0).mean())


def confidence_band(
    table: Claims, radii: ArrayLike, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(low, high) in the shape of `radii`: exact two-sided band for the certified accuracy on new images.

    Pointwise Clopper–Pearson: at each radius it misses the true accuracy with probability <= 1 - level.
    """
    side = (1 - level) / 2
    hits = np.rint(certified_accuracy(table, radii) * len(table))
    return lower_bound(hits, len(table), side), upper_bound(hits, len(table), side)


def summarise(tables: Mapping[str, Claims], radii: Sequence[float]) -> pd.DataFrame:
    """One row per table: images, share abstaining, certified accuracy at radii (columns "0.25", …), acr.

    Rows under one another are a comparison: raises ValueError as `agree` does, where tables are of other
    images or of another alpha.
    """
    agree("summarise", tables)
    rows = [
        {"images": len(table), "abstain": float((table["predict"] == ABSTAIN).mean())}
        | dict(zip([f"{r:g}" for r in radii], certified_accuracy(table, radii).tolist(), strict=True))
        | {"acr": average_radius(table)}
        for table in map(as_table, tables.values())
    ]
    return pd.DataFrame(rows, index=pd.Index(list(tables), name="table"))


def lost_against_copy(table: pd.DataFrame, radii: Sequence[float]) -> dict[str, float]:
    """What certifying the original by votes of its copy costs, against certifying the copy by the same votes.

    The mean over all images of the copy's radius less that of the original ("radius"), and certified accuracy
    at `radii` (keys "0.25", …), likewise. 0 for a table that is not of this kind.
    """
    copy = for_copy(table)
    fewer = certified_accuracy(copy, radii) - certified_accuracy(table, radii)
    lost = float(copy["radius"].mean() - table["radius"].mean())
    return {"radius": lost} | dict(zip([f"{r:g}" for r in radii], fewer.tolist(), strict=True))


def agreement(a: Claims, b: Claims) -> dict[str, float]:
    """How far two tables agree about their common images: shares of them, and gaps between radii.

    Raises ValueError as `aligned` does; levels may differ.
    """
    same = aligned("agreement", {"a": a, "b": b}, same=())
    left, right = (table.set_index("idx") for table in same.values())
    gap = (left["radius"] - right["radius"]).abs()
    return {
        "images": len(left),
        "same_prediction": float((left["predict"] == right["predict"]).mean()),
        "abstain_a": float((left["predict"] == ABSTAIN).mean()),
        "abstain_b": float((right["predict"] == ABSTAIN).mean()),
        "largest_difference": float(gap.max()),
        "mean_difference": float(gap.mean()),
    }


def floor_text(radius: float, digits: int = 3) -> str:
    """A radius to be read, rounded down to `digits` decimals: rounding up would claim too much."""
    exact = Decimal(repr(float(radius)))
    return (
        str(exact.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR))
        if exact.is_finite()
        else str(radius)
    )


def _reached(call: str, claims: Claims) -> NDArray[np.float64]:
    table = as_table(claims)
    if table.empty:
        raise ValueError(f"{call}: the table has no rows.")
    each_once(call, table)
    if (table["label"] == -1).any():
        raise ValueError(
            f"{call}: {int((table['label'] == -1).sum())} rows have no label (-1); accuracy needs labels."
        )
    return reach(table)
