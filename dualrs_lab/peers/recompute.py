"""What the rows of a smooth sigma(x) say by their votes alone, see `evidence.recompute`."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.evidence.claim import answered
from dualrs_lab.evidence.counts import counted
from dualrs_lab.evidence.joins import of_what_voted
from dualrs_lab.evidence.radii import BOUNDS, ruled_bounds
from dualrs_lab.evidence.recompute import once_each
from dualrs_lab.peers.radii import smooth_sigma_radius


def recomputed_columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Columns by name (N,): counts, the level by the distance, and the radius."""
    found, radius = counted(table), np.zeros(len(table))
    of_what_voted("votes", "the smooth sigma", table)
    told = {name: table[name].to_numpy(dtype=np.float64) for name in ("base", "rate", "centre", "distance")}
    level = told["base"] * np.exp(told["rate"] * (told["distance"] - told["centre"]))
    dims = table["dims"].to_numpy(dtype=np.float64)
    for name, at in found.bounds.items():
        judged = found.judged(table, at)
        radius[at] = once_each(_by(found.rule, name), *judged, told["rate"][at], dims[at])
    said = {"n0": found.n0, "n": found.n, "successes": found.successes}
    return said | {"sigma": level, "radius": radius, "predict": np.asarray(answered(found.guess, radius))}


def _by(rule: str, bound: str) -> Any:
    def radii(k: Any, rival: Any, n: Any, alpha: Any, sigma: Any, alike: Any, rate: Any, dims: Any) -> Any:
        low, high = ruled_bounds(rule, k, rival, n, alpha, bounds=BOUNDS[bound], unanimous=alike == 1)
        found = np.zeros(len(k))
        for size in np.unique(dims):
            at = dims == size
            found[at] = smooth_sigma_radius(low[at], high[at], sigma[at], rate[at], int(size))
        return found

    return radii
