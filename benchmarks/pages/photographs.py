"""What docs/results.md says of a published ImageNet network, certified on the photographs of a library."""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.imagenet import ALPHA, FULL, RADII, SIGMAS, table_name
from benchmarks.pages.certificates import curve_table
from benchmarks.pages.text import DATA, Facts, percent, read_info, significant
from dualrs_lab.evidence import floor_text, radius_ceiling, read_table

__all__ = ["PHOTOGRAPHS", "facts", "read_board", "tables"]

PHOTOGRAPHS = DATA / "imagenet_smoke"
FIELD = 100_000  # draws of an image, as in Cohen et al. 2019
ROUTED, BOTH = "cascade, routed", ", two bounds"


def facts() -> Facts:
    """Placeholders of the page."""
    board, cost, each = read_board(), _cost(), tables()
    small, large = (f"σ = {sigma:g}{BOTH}" for sigma in SIGMAS)
    count = len(each[SIGMAS[0]])
    shown = [f"σ = {sigma:g}{rule}" for sigma in SIGMAS for rule in ("", BOTH)]
    return {
        "photographs": curve_table(board, {rule: rule for rule in (*shown, ROUTED)}, RADII),
        "photographs_count": f"{count}",
        "photographs_error": f"{50 / np.sqrt(count):.0f}",  # in points, at a share of one half
        "photographs_n": f"{FULL.n}",
        "photographs_alpha": f"{ALPHA:g}",
        "photographs_natural": percent(read_info(_path(SIGMAS[0]))["info"]["natural"], 0),
        "photographs_zero": {
            name: percent(board.loc[rule, "0"], 0)
            for name, rule in {"small": small, "large": large, "routed": ROUTED}.items()
        },
        "photographs_levels": {"small": f"{SIGMAS[0]:g}", "large": f"{SIGMAS[1]:g}"},
        "photographs_most": floor_text(radius_ceiling(FULL.n, ALPHA, SIGMAS[0])),
        "photographs_above": str(_above(board, [small, large]) or "none"),
        "photographs_shown": f"{len(RADII)}",
        "photographs_draw": {"plain": significant(cost[0]), "sampled": significant(cost[1])},
        "photographs_minutes": significant(cost[1] * FIELD / 6e4, 2),
        "photographs_field": f"{FIELD:,}",
    }


def tables() -> dict[float, pd.DataFrame]:
    """The certificates that are shipped, by noise level."""
    return {sigma: read_table(_path(sigma)) for sigma in SIGMAS}


def _path(sigma: float) -> Path:
    return PHOTOGRAPHS / table_name(sigma, FULL.n)


def read_board() -> pd.DataFrame:
    """Certified accuracy by rule."""
    return pd.read_csv(PHOTOGRAPHS / "board.csv", index_col=0)


def _cost() -> list[float]:
    # milliseconds a draw of the network as it is, and of what is sampled
    found = pd.read_csv(PHOTOGRAPHS / "cost.csv")
    return [float(value) for value in found["median"]]


def _above(board: pd.DataFrame, single: list[str]) -> int:
    # at how many radii the cascade is above the better of the two levels
    at = [f"{r:g}" for r in RADII]
    return int((board.loc[ROUTED, at] > board.loc[single, at].max()).sum())
