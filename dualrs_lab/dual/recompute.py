"""What the rows of a dual system say by their votes alone, all rows together; see `evidence.recompute`."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.dual.certificate import levels_text, read_rules
from dualrs_lab.dual.radii import expert_radii, joined
from dualrs_lab.evidence.claim import answered
from dualrs_lab.evidence.counts import rule_of
from dualrs_lab.evidence.radii import BOUNDS
from dualrs_lab.evidence.rows import check_each
from dualrs_lab.evidence.votes import level_text, read_column

Ints = NDArray[np.int64]


def recomputed_columns(table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """What the rows say by their votes alone, see `evidence.recompute`."""
    found: dict[str, NDArray[Any]] = {}
    for _, rows in table.groupby(["estimator", "estimator_sigmas", "levels", "alpha", "bound"], sort=False):
        for name, values in _alike(rows).items():
            found.setdefault(name, np.zeros(len(table), dtype=values.dtype))[rows.index] = values
    return found


def ruled(table: pd.DataFrame, rule: str) -> pd.DataFrame:
    """The rows, to be claimed by a rule: with the even split of their alpha by it."""
    levels = []
    for row in table[["estimator", "estimator_sigmas", "levels", "alpha"]].to_dict("records"):
        estimator, split = read_rules({str(name): cell for name, cell in row.items()})
        levels.append(levels_text(estimator.split(len(split.experts), split.alpha, rule)))
    return table.assign(levels=levels, rule=rule)


def _alike(rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
    # of rows (N,) with the same estimator and levels; of classes, only the guess and its largest rival count
    first = rows.iloc[0]
    names = [str(name) for name in rows if str(name).startswith("votes_")]
    sigmas = np.array([float(name.removeprefix("votes_")) for name in names])
    estimator, split = read_rules({str(name): cell for name, cell in first.items()})
    if len(names) != len(split.experts) or str(first["bound"]) not in BOUNDS:
        raise ValueError(f"{len(names)} columns of votes, bound {first['bound']!r}: not what was split")
    looks, estimates = (
        _streams(name, rows, len(estimator.sigmas), estimator.classes(len(names)))
        for name in ("looks", "estimator_votes")
    )
    selection = read_column("selection", rows["selection"])
    votes, guess = [read_column(name, rows[name]) for name in names], selection.leaders()
    own = np.stack([each.of(guess) for each in votes], axis=1)
    every = np.stack([each.totals() for each in votes], axis=1)
    second = np.stack([each.most_besides(guess) for each in votes], axis=1)
    top = estimator.top(looks)
    least = np.minimum(looks.sum(2).min(1), estimates.sum(2).min(1))
    check_each("votes", rows, "votes of all streams", least * selection.totals() > 0, "looks")
    drawn = looks.sum((1, 2)) + estimates.sum((1, 2)) + selection.totals() + every.sum(1)
    check_each("votes", rows, "drawn >= its votes", rows["drawn"].to_numpy() >= drawn, "drawn")
    radii = expert_radii(
        own,
        second,
        every,
        sigmas=sigmas,
        levels=split.experts,
        rule=rule_of(rows),
        unanimous=selection.of(guess) == selection.totals(),
        bounds=BOUNDS[str(first["bound"])],
    )
    found = joined(estimator.entry(estimates, top, split), radii, guess, top)
    said = {"radius": found.routed, "predict": answered(guess, found.routed), "published": found.published}
    said |= {"constancy": found.constancy, "sigma": sigmas[top]}
    for j, name in enumerate(map(level_text, sigmas)):
        said |= {f"entry_{name}": found.entry[:, j], f"radius_{name}": found.experts[:, j]}
    return {name: np.asarray(values) for name, values in said.items()}


def _streams(name: str, rows: pd.DataFrame, streams: int, kinds: int) -> Ints:
    # votes (N, S, C) of a column in which one stream comes after ";" another
    parts = [str(text).split(";") for text in rows[name]]
    fine = np.array([len(part) == streams for part in parts])
    check_each("votes", rows, f"votes of {streams} streams", fine, name)
    found = read_column(name, [text for part in parts for text in part])
    if (found.kinds >= kinds).any():
        raise ValueError(f"{name} has votes for class {found.kinds.max()}; wanted {kinds} classes")
    return found.counts_of(np.arange(kinds)).reshape(len(rows), streams, kinds)
