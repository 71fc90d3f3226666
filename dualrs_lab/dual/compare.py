"""Every system on the same images and total alpha: single noise levels, dual, cascade, oracle, envelope.

Radii follow from votes by two rules, see `evidence.radii`, and each is fair only beside radii of the same: so
single noise levels, dual system, oracle and envelope come by Cohen's rule, and once more, named "…, two
bounds", by the other. A cascade is claimed by majorities and gains nothing from it.

Peers, those of `peers` or of anybody, come as `others`. What depends on the order of questions, such as a
memory, says in its name that it is no classifier. Two more are none: the `oracle` takes for each image the
sigma that certifies most, which no certified rule may choose after looking at the votes, and the `envelope`
takes the best single sigma at each radius.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from dualrs_lab.cascade.from_tables import from_tables
from dualrs_lab.cascade.radii import Cascade
from dualrs_lab.dual.certificate import DualCertificate
from dualrs_lab.evidence.certificate import Certificate
from dualrs_lab.evidence.claim import ABSTAIN, Claims, claimed, reach
from dualrs_lab.evidence.joins import aligned, at_sigma, holds_all_draws, of_what_voted
from dualrs_lab.evidence.radii import BOUNDS, rs_radius
from dualrs_lab.evidence.recompute import reclaimed
from dualrs_lab.evidence.summary import average_radius, certified_accuracy

__all__ = ["cascade", "compare", "curves", "regret", "regret_table"]


Floats = NDArray[np.float64]


_SINGLE = "σ = "  # how names of single noise levels begin


_RULES = {"cohen": "", "two-bounds": ", two bounds"}  # how names end


def compare(
    singles: Mapping[float, Claims],
    dual: Claims | None = None,
    *,
    others: Mapping[str, Claims] | None = None,
) -> dict[str, pd.DataFrame]:
    """A table (idx, label, predict, radius, correct) for each system, on the images that all tables hold.

    `singles` are tables of `smoothing.certify_table` by sigma, `dual` is one of `dual.certify_dual_table`,
    both by whatever rule, as only their votes count here. `others` are any tables by name, such as
    `cascade.from_tables` makes, as they were claimed. Both cascades rest on the votes of `singles`. Raises
    ValueError where a sigma is not that of its table, and as `evidence.aligned` does, where alphas differ as
    well.
    """
    known = {f"{_SINGLE}{sigma:g}": singles[sigma] for sigma in sorted(singles)}
    given = ({} if dual is None else {"dual": dual}) | known | dict(others or {})
    if len(given) < 2:
        raise ValueError(f"compare: wanted two tables or more, got {[*given]}")
    same = aligned("compare", given)
    for sigma in sorted(singles):
        at_sigma("compare", name := f"{_SINGLE}{sigma:g}", same[name], sigma)
        of_what_voted("compare", name, same[name])
    system = same.pop("dual", None)
    single = {
        end: {name + end: _claims(reclaimed(same[name], rule)) for name in known}
        for rule, end in _RULES.items()
    }
    found = {name: table for tables in single.values() for name, table in tables.items()}
    if system is not None:
        for rule, end in _RULES.items():
            ruled = reclaimed(system, rule)
            found[f"dual, published{end}"] = _claims(ruled, "published")
            found[f"dual, routed{end}"] = _claims(ruled)
    found["cascade"] = _cascades([same[name] for name in known])
    if all(holds_all_draws(same[name]) for name in known):
        order = Cascade(tuple(sorted(singles, reverse=True)))
        own: dict[float, Claims] = {sigma: same[f"{_SINGLE}{sigma:g}"] for sigma in singles}
        alpha = float(same[next(iter(known))]["alpha"].iloc[0])
        found["cascade, routed"] = _claims(from_tables(own, cascade=order, alpha=alpha))
    more = {name: _claims(same[name]) for name in others or {}}
    return found | more | {f"oracle{end}": _oracle([*tables.values()]) for end, tables in single.items()}


def _claims(table: pd.DataFrame, radius: str = "radius") -> pd.DataFrame:
    return claimed(table, table["predict"], table[radius])


def curves(tables: Mapping[str, Claims], radii: Sequence[float]) -> pd.DataFrame:
    """One tidy table of `compare`: a row per system, certified accuracy at `radii` (columns "0.25", …), acr.

    The envelope of the single sigmas comes after them, one by each rule; it has no acr.
    """
    names = [f"{r:g}" for r in radii]
    rows = [[*certified_accuracy(table, radii), average_radius(table)] for table in tables.values()]
    found = pd.DataFrame(rows, index=list(tables), columns=[*names, "acr"])
    first: list[str] = []
    for end in _RULES.values():
        single = [name for name in tables if name.startswith(_SINGLE) and name.partition(",")[2] == end[1:]]
        if single:
            found.loc[f"envelope{end}"] = found.loc[single, names].max()
            first += [*single, f"envelope{end}"]
    return found.loc[[*first, *(name for name in tables if name not in first)]]


def cascade(certificates: Sequence[Certificate]) -> tuple[int, float]:
    """Class and radius of one image under a cascade as in Jeong and Shin (2023), made sound.

    The ideal cascade asks the largest sigma first and answers with the first class whose probability is above
    1/2. `certificates` are those of one image at different sigmas, each with its own guess of the class. Let
    j be the first, from the largest sigma, whose *selection* has a majority, and y that class. Then

        R = min(sigma_j Phi^-1(lower p_y), min over larger sigma_i, c != y of -sigma_i Phi^-1(upper p_c)):

    within it expert j gives y more than 1/2, and no earlier expert gives more than 1/2 to another class. y
    and j come from draws that are not counted. Among the true radii, that of one expert, with one class c, is
    the smallest: R exceeds it only where that one bound fails. So each bound has all of alpha, with no union
    over experts and classes. Returns (ABSTAIN, 0.0) where R is not above 0.
    """
    ordered = sorted(certificates, key=lambda c: -c.sigma)
    if (
        len({c.sigma for c in ordered}) < len(ordered)
        or len({(c.idx, c.label, c.alpha) for c in ordered}) != 1
    ):
        raise ValueError(
            "cascade: wanted certificates of one image at one alpha and different sigmas, got (idx, label, "
            f"alpha, sigma) {[(c.idx, c.label, c.alpha, c.sigma) for c in ordered]}."
        )
    for place, c in enumerate(ordered):
        if 2 * dict(c.selection)[c.guess] > c.n0:
            radius = min([_majority(c), *(_keeps(earlier, c.guess) for earlier in ordered[:place])])
            return (c.guess, radius) if radius > 0 else (ABSTAIN, 0.0)
    return ABSTAIN, 0.0


def _majority(c: Certificate) -> float:
    # up to which distance the guess has a majority, whatever the rule of its own radius
    return float(rs_radius(BOUNDS[c.bound][0](c.successes, c.n, c.alpha), c.sigma))


def _keeps(c: Certificate, y: int) -> float:
    # up to which distance no class other than y gets a majority
    rival = max((count for kind, count in c.votes if kind != y), default=0)
    return float(-c.sigma * special.ndtri(BOUNDS[c.bound][1](rival, c.n, c.alpha)))


def _cascades(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    rows = zip(*(table.to_dict("records") for table in tables), strict=True)
    found = [cascade([Certificate.from_row(row) for row in each]) for each in rows]
    predict, radius = zip(*found, strict=True)
    return claimed(tables[0], predict, radius)


def _oracle(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    predict, radius = (np.stack([table[name] for table in tables]) for name in ("predict", "radius"))
    best = np.stack([reach(table) for table in tables]).argmax(axis=0), np.arange(radius.shape[1])
    return claimed(tables[0], predict[best], radius[best])


def regret(entry: Floats, experts: Floats, top: NDArray[np.int64], sigmas: Sequence[float]) -> pd.DataFrame:
    """What the router costs each image, from entry radii and expert radii (N, K) and the choice (N,).

    `regret`: the best expert radius less that of the chosen one; `bottleneck`: the radius of constancy less
    that of the chosen expert (< 0: the estimator limits the published rule); `sigma`: the choice.
    """
    rows = np.arange(len(top))
    others = np.where(np.arange(entry.shape[1]) == top[:, None], np.inf, entry)
    chosen = experts[rows, top]
    return pd.DataFrame(
        {
            "sigma": np.asarray(sigmas)[top],
            "regret": experts.max(axis=1) - chosen,
            "bottleneck": others.min(axis=1) - chosen,
        }
    )


def regret_table(dual: pd.DataFrame, singles: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    """`regret` for each row of a table of `certify_dual_table`, from its experts' own tables by sigma.

    These hold all images of `dual`; raises ValueError where they do not, and as `evidence.aligned` does.
    """
    known = {f"{_SINGLE}{sigma:g}": table for sigma, table in singles.items()}
    system, *own = aligned("regret_table", {"dual": dual} | known).values()
    if len(system) < len(dual):
        lacking = sorted({*dual["idx"]} - {*system["idx"]})
        raise ValueError(
            f"regret_table: {', '.join(known)} lack idx {lacking[0]} of the dual table; wanted all its images"
        )
    own = [table.set_index("idx").loc[dual["idx"]] for table in own]
    found = [DualCertificate.from_row({str(k): v for k, v in row.items()}) for row in dual.to_dict("records")]
    reach = np.stack([np.where(table["correct"] == 1, table["radius"], 0.0) for table in own], axis=1)
    entry = np.stack([one.routes.entry for one in found])
    return regret(entry, reach, np.array([one.top for one in found]), list(singles))
