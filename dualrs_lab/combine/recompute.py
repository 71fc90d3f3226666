"""What the rows of a combiner say by their votes alone, all rows together; see `evidence.recompute`."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import combined_radius, reach_of_each, surest_class
from dualrs_lab.evidence.claim import answered
from dualrs_lab.evidence.counts import expert_counts, in_parts, rule_of
from dualrs_lab.settings import RULE


def recomputed_columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """What the rows say by their votes alone, see `evidence.recompute`."""
    rule_of(table, RULE.names[:1])
    return in_parts(table, ["combiner", "alpha"], _alike)


def _alike(rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
    # of rows (N,) with the same combiner and alpha
    names, sigmas, alpha, kinds, selection, votes = expert_counts(rows)
    combiner = Combiner.of_text(sigmas, str(rows["combiner"].iloc[0]))
    y = surest_class(selection, combiner)
    radius = np.maximum(0.0, combined_radius(votes, y, combiner=combiner, alpha=alpha))
    reaches = reach_of_each(votes, y, combiner=combiner, alpha=alpha)
    said = {"radius": radius, "predict": answered(kinds[y], radius)}
    said |= {"sigma": np.asarray(combiner.sigmas)[reaches.argmax(axis=1)]}
    return said | {f"reach_{name}": reaches[:, j] for j, name in enumerate(names)}
