"""What docs/results.md says of the mean of two recipes' weights."""

import numpy as np
import pandas as pd

from benchmarks.dial import CAT_RS, SOUP
from benchmarks.gpu.certifying import RADII
from benchmarks.pages.silence import by_goal
from benchmarks.pages.taught import TAUGHT
from benchmarks.pages.text import Facts, along, markdown, percent, signed
from benchmarks.silent_votes import GOALS, HALVES
from benchmarks.soups import BESIDE, N, votes_of

__all__ = ["ahead_by_goal", "facts", "rows"]

AT = [f"{r:g}" for r in RADII]


def rows() -> pd.DataFrame:
    """A row for each goal and kind of networks: what cascades certify of images that did not choose them."""
    return pd.read_csv(TAUGHT / "soups.csv").set_index(["goal", "networks"])[AT]


def ahead_by_goal(goal: str) -> float:
    """How far the means are ahead by the goal itself."""
    return by_goal(goal, rows().loc[(goal, SOUP)]) - by_goal(goal, rows().loc[(goal, CAT_RS)])


def facts() -> Facts:
    """Placeholders of the page."""
    labels = votes_of(BESIDE).labels
    shown = list[list[str]]()
    for goal in GOALS:
        for kind, name in ((CAT_RS, "CAT-RS"), (SOUP, "means")):
            curve = rows().loc[(goal, kind)]
            shown.append([f"{goal}: {name}", *map(percent, curve), percent(float(curve.mean()))])
    ahead = [ahead_by_goal(goal) for goal in GOALS]
    return {
        "soups": markdown(["goal", *along(AT), "mean"], shown),
        "soups_images": f"{len(labels):,}",
        "soups_draws": f"{N:,}",
        "soups_halves": str(2 * HALVES),
        "soups_error": f"{50 / np.sqrt(len(labels)):.1f}",
        "soups_gained": f"{signed(min(ahead))} to {signed(max(ahead))}",
    }
