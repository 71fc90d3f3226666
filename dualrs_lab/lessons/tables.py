"""Tables of certificates to doubt, for the lesson on certificates: two are honest, five are forged.

Each is about the same 12 images; votes were drawn for this purpose, of nothing. No torch.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dualrs_lab.evidence.binomial import lower_bound
from dualrs_lab.evidence.certificate import decide
from dualrs_lab.evidence.radii import rs_radius
from dualrs_lab.evidence.table import frame, write_table
from dualrs_lab.evidence.votes import leader, read_votes

__all__ = ["doubtful_tables", "forged_rows", "honest_row", "write_doubtful"]


SIGMA, ALPHA, N0, N = 0.25, 0.001, 100, 1000


SHARES = (0.97, 0.9, 0.55, 1.0, 0.8, 0.99, 0.72, 0.5, 0.93, 0.62, 0.995, 0.85)  # of the votes, for the class


Row = dict[str, Any]


Forgery = Callable[[list[Row]], int]  # changes rows, and says which idx it begins with


def doubtful_tables() -> dict[str, pd.DataFrame]:
    """Seven tables by name, A to G, as `read_table` gives them; each time new ones, free to be changed."""
    return {name: table.copy() for name, (table, _) in _made().items()}


def write_doubtful(folder: Path | str = ".") -> list[str]:
    """Write them into a folder as A.tsv and so on; returns these names."""
    names = {f"{name}.tsv": table for name, table in doubtful_tables().items()}
    for name, table in names.items():
        write_table(Path(folder) / name, table)
    return [*names]


def forged_rows() -> dict[str, int]:
    """The answer: of each forged table, the idx of the first row that does not follow from its votes."""
    return {name: idx for name, (_, idx) in _made().items() if idx >= 0}


def honest_row() -> Row:
    """A row of an honest table, with the radius that its votes give."""
    return _rows(_honest(seed=99))[6]


@cache
def _made() -> dict[str, tuple[pd.DataFrame, int]]:
    made = {}
    forgeries = (_other_alpha, None, _more_draws, _picked_class, _share, None, _rounded_up)
    for seed, (name, forge) in enumerate(zip("ABCDEFG", forgeries, strict=True)):
        table = _honest(seed)
        rows = _rows(table)
        begins = forge(rows) if forge else -1
        made[name] = (pd.DataFrame(rows).astype(table.dtypes), begins)
    return made


def _rows(table: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _honest(seed: int) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), []
    for i, share in enumerate(SHARES):
        law = np.full(4, (1 - share) / 3 * 0.3)
        law[i % 4] = share
        law[(i + 1) % 4] += 1 - law.sum()
        label = (i + 1) % 4 if i == 8 else i % 4  # one is sure, and wrong
        chosen, votes = rng.multinomial(N0, law), rng.multinomial(N, law)
        if i == 7:  # the winner of the first draws is not that of the others
            chosen, votes = np.array([0, 0, 49, 51]), np.array([0, 0, 588, 412])
        same: Row = {"sigma": SIGMA, "alpha": ALPHA, "seed": seed, "seconds": 0.0, "rule": "cohen"}
        rows.append(decide(chosen, votes, idx=20 * i, label=label, **same))
    return frame(rows)


def _claim(row: Row, radius: float, kind: int | None = None) -> int:
    kind = row["predict"] if kind is None else kind
    row |= {"radius": radius, "predict": kind, "correct": int(kind == row["label"])}
    return int(row["idx"])


def _radius(k: int, n: int, alpha: float) -> float:
    return float(rs_radius(lower_bound(k, n, alpha), SIGMA))


def _other_alpha(rows: list[Row]) -> int:
    sure = [row for row in rows if row["radius"] > 0]
    return min(_claim(row, _radius(row["successes"], N, 0.05)) for row in sure)


def _more_draws(rows: list[Row]) -> int:
    row = rows[5]
    row |= {"n": 10 * N, "drawn": 10 * N, "successes": 10 * row["successes"]}
    return _claim(row, _radius(row["successes"], 10 * N, ALPHA))


def _picked_class(rows: list[Row]) -> int:
    kind = leader(votes := read_votes(rows[7]["votes"]))
    rows[7]["successes"] = dict(votes)[kind]
    return _claim(rows[7], _radius(rows[7]["successes"], N, ALPHA), kind)


def _share(rows: list[Row]) -> int:
    return _claim(rows[2], float(rs_radius(rows[2]["successes"] / N, SIGMA)), 2)


def _rounded_up(rows: list[Row]) -> int:
    return _claim(rows[9], math.ceil(rows[9]["radius"] * 100) / 100)
