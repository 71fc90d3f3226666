"""Every rule on the same images: tables by hand, and a cascade that is never violated.

The cascade's experts are piecewise constant on the line, so that their smoothed probabilities are closed-form
and what the ideal cascade answers is known everywhere. A valid procedure is refuted with probability ERROR.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import ndtr

from dualrs_lab.cascade import Cascade, from_tables
from dualrs_lab.dual import Median, cascade, compare, curves, judge
from dualrs_lab.evidence import (
    ABSTAIN,
    Certificate,
    anytime_lower_bound,
    anytime_upper_bound,
    decide,
    frame,
    lower_bound,
    rs_radius,
    upper_bound,
)

ERROR = 1e-3


def certificate(selection: object, votes: object, **more) -> Certificate:
    given = {"idx": 0, "label": 1, "sigma": 0.5, "alpha": 0.001, "seed": 0, "seconds": 0.0}
    return decide(np.asarray(selection), np.asarray(votes), **given | more)


# The cascade.


@dataclass(frozen=True)
class Line:
    """Class `kinds[i]` between the i-th and the next of the edges."""

    edges: tuple[float, ...]
    kinds: tuple[int, ...]

    def probabilities(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Exact P[f(x + sigma Z) = kind], shape (N, 3)."""
        z = (np.array(self.edges) - x[:, None]) / sigma
        z = np.pad(z, ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf))
        return np.clip(np.diff(ndtr(z), axis=1) @ np.eye(3)[list(self.kinds)], 0, 1)


SIGMAS = (0.1, 0.25, 0.5)
Experts = tuple[Line, ...]


def answer(experts: Experts, x: np.ndarray) -> np.ndarray:
    """The ideal cascade (N,): from the largest sigma, the first class above 1/2."""
    said = np.full(len(x), ABSTAIN)
    for line, sigma in zip(experts, SIGMAS, strict=True):  # the largest comes last and overrules
        p = line.probabilities(x, sigma)
        said = np.where(p.max(axis=1) > 0.5, p.argmax(axis=1), said)
    return said


def truth(experts: Experts, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ideal cascade's answer (N,), and how far (N,) a point of a fine grid is where it does not."""
    ticks = np.arange(-4, 4, 0.001)
    said, here = answer(experts, ticks), answer(experts, x)
    gap = np.abs(ticks - x[:, None])
    return here, np.where(said != here[:, None], gap, np.inf).min(axis=1)


def random_experts(rng: np.random.Generator) -> Experts:
    """Three that mostly agree, as if trained for the same problem."""
    edges, kinds = np.sort(rng.uniform(-1, 1, 4)), rng.integers(0, 3, 5)
    lines = []
    for _ in SIGMAS:
        moved, other = np.sort(edges + rng.normal(0, 0.1, 4)), rng.random(5) < 0.25
        lines.append(Line(tuple(moved), tuple(np.where(other, rng.integers(0, 3, 5), kinds).tolist())))
    return tuple(lines)


def sampled(
    rng: np.random.Generator, experts: Experts, x: np.ndarray, n: int, alpha: float
) -> list[list[Certificate]]:
    """Certificates of each point at each sigma, on votes from the exact probabilities."""
    counted = []
    for line, sigma in zip(experts, SIGMAS, strict=True):
        p = line.probabilities(x, sigma)
        p /= p.sum(axis=1, keepdims=True)
        counted.append((sigma, rng.multinomial(100, p), rng.multinomial(n, p)))
    return [
        [certificate(guess[i], votes[i], sigma=sigma, alpha=alpha) for sigma, guess, votes in counted]
        for i in range(len(x))
    ]


def without_earlier(certificates: list[Certificate]) -> tuple[int, float]:
    """The fault: the radius of the expert that answers, as if those before it kept quiet everywhere."""
    for c in sorted(certificates, key=lambda c: -c.sigma):
        if 2 * dict(c.selection)[c.guess] > c.n0:
            return c.predict, c.radius
    return ABSTAIN, 0.0


Rule = Callable[[list[Certificate]], tuple[int, float]]


def violations(rule: Rule, *, systems: int, alpha: float, n: int) -> tuple[int, int, int]:
    """How many claims at random points of random systems are violated, how many there are, and points."""
    rng = np.random.default_rng(0)
    broken = claims = tried = 0
    for _ in range(systems):
        experts, x = random_experts(rng), rng.uniform(-1.5, 1.5, 20)
        said, reach = truth(experts, x)
        for i, certificates in enumerate(sampled(rng, experts, x, n, alpha)):
            predict, radius = rule(certificates)
            claims += radius > 0
            broken += radius > 0 and (predict != said[i] or radius > reach[i])
            tried += 1
    return broken, claims, tried


def test_the_cascade_is_never_violated_where_alpha_is_small() -> None:
    broken, claims, tried = violations(cascade, systems=30, alpha=1e-6, n=20_000)
    assert broken == 0
    assert claims > 0.5 * tried


def test_a_cascade_without_a_bound_on_those_before_is_violated() -> None:
    """Negative control on the same votes: an earlier expert gains a majority for another class nearby."""
    broken, claims, _ = violations(without_earlier, systems=30, alpha=1e-6, n=20_000)
    print(f"{broken} of {claims} claims violated")
    assert broken >= 5


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("factor", [1, 2])
def test_each_bound_of_a_cascade_may_have_all_of_alpha(earlier: bool, factor: int) -> None:
    """The level is spent to the last bit by the expert that answers, or by a rival class before it.

    Control: with 2 alpha for the bound, more than alpha of the certificates claim too much.
    """
    alpha, n, runs = 0.1, 500, 2000
    p = float(lower_bound(400, n, factor * alpha)) * (1 - 1e-9)
    distance = (0.5 if earlier else 0.25) * float(stats.norm.ppf(p))
    votes, times = np.unique(np.random.default_rng(1).binomial(n, p, runs), return_counts=True)
    failing = 0
    for k, often in zip(votes, times, strict=True):
        own = [0, n, 0] if earlier else [n - k, k, 0]
        before = [n - k, k, 0] if earlier else [0, n, 0]
        _, radius = cascade(
            [
                certificate([0, 100, 0], own, sigma=0.25, alpha=factor * alpha),
                certificate([20, 40, 40], before, sigma=0.5, alpha=factor * alpha),
            ]
        )
        failing += int(often) * (radius > distance)
    print(f"{failing} of {runs} claim too much, alpha = {alpha}")
    assert (failing > stats.binom.isf(ERROR, runs, alpha)) == (factor == 2)
    assert failing >= 0.5 * factor * alpha * runs  # nothing was given away


def test_the_cascade_by_hand() -> None:
    """Sigma 1 has no majority in its guess; sigma 0.5 answers; sigma 0.25 is not asked."""
    small = certificate([99, 1, 0], [1000, 0, 0], sigma=0.25)
    middle = certificate([10, 80, 10], [100, 850, 50], sigma=0.5)
    large = certificate([45, 40, 15], [300, 500, 200], sigma=1.0)
    own = rs_radius(lower_bound(850, 1000, 0.001), 0.5)
    kept = -1.0 * stats.norm.ppf(upper_bound(300, 1000, 0.001))
    assert cascade([small, large, middle]) == (1, pytest.approx(min(own, kept), rel=1e-12))
    assert kept < own
    assert cascade([small, middle]) == (1, pytest.approx(own, rel=1e-12))
    alone = certificate([10, 80, 10], [100, 850, 50], rule="cohen")
    assert cascade([middle]) == (alone.predict, alone.radius)  # one expert alone is plain smoothing
    assert cascade([large]) == (ABSTAIN, 0.0)
    against = certificate([45, 40, 15], [480, 500, 20], sigma=1.0)  # a rival may have the majority
    assert cascade([middle, against]) == (ABSTAIN, 0.0)
    of_same = certificate([30, 45, 25], [10, 985, 5], sigma=1.0)  # y itself may have it: that is no harm
    assert cascade([middle, of_same]) == (1, pytest.approx(own, rel=1e-12))


def test_a_cascade_wants_majorities_whatever_the_rule_of_its_experts() -> None:
    """Two bounds keep a class ahead of its rivals, not above one half: there the next expert would answer."""
    votes = [[55, 45, 0], [500, 300, 200]], [[90, 10, 0], [100, 900, 0]]
    for rule in ("two-bounds", "selected"):
        large, small = (
            certificate(*each, sigma=sigma, rule=rule) for each, sigma in zip(votes, (1.0, 0.25), strict=True)
        )
        assert large.radius > 0.1
        assert cascade([large, small]) == (ABSTAIN, 0.0)


def test_the_cascade_takes_votes_that_stopped_early_with_bounds_that_allow_it() -> None:
    middle = certificate([10, 80, 10], [100, 850, 50], bound="betting")
    large = certificate([45, 40, 15], [300, 500, 200], sigma=1.0, bound="betting")
    own = rs_radius(anytime_lower_bound(850, 1000, 0.001), 0.5)
    kept = -1.0 * stats.norm.ppf(anytime_upper_bound(300, 1000, 0.001))
    assert cascade([middle, large]) == (1, pytest.approx(min(own, kept), rel=1e-12))


@pytest.mark.parametrize(
    "change",
    [{"sigma": 0.5}, *({"sigma": 1.0} | one for one in ({"idx": 1}, {"label": 2}, {"alpha": 0.01}))],
)
def test_a_cascade_wants_one_image_one_alpha_and_different_sigmas(change: dict) -> None:
    with pytest.raises(ValueError, match="one image at one alpha and different sigmas"):
        cascade([certificate([0, 9, 0], [0, 99, 1]), certificate([0, 9, 0], [0, 99, 1], **change)])


# Tables.

GUESS = {0: [90, 5, 5], 1: [5, 90, 5]}
# idx, label, votes at sigma 0.25 and at 0.5 with their guesses, and of the estimator for 0.25
IMAGES = [
    (3, 1, (1, [0, 1000, 0]), (1, [50, 950, 0]), 900),
    (5, 0, (0, [990, 10, 0]), (1, [100, 900, 0]), 100),
    (8, 1, (0, [700, 300, 0]), (1, [300, 700, 0]), 500),
    (9, 2, (0, [1000, 0, 0]), (0, [1000, 0, 0]), 0),
]
ALPHA = 0.001


def single(sigma: float, place: int, rule: str = "cohen") -> pd.DataFrame:
    rows = [(i, label, *each[place]) for i, label, *each in IMAGES]
    return frame(
        certificate(GUESS[guess], votes, idx=i, label=label, sigma=sigma, rule=rule)
        for i, label, guess, votes in rows
    )


def system(rule: str = "cohen") -> pd.DataFrame:
    median = Median(0.5)
    return pd.DataFrame(
        judge(
            np.array([[small // 10, 100 - small // 10]]),
            np.array([[small, 1000 - small]]),
            np.array(GUESS[(first if small >= 500 else second)[0]]),
            np.array([first[1], second[1]]),
            idx=i,
            label=label,
            estimator=median,
            sigmas=(0.25, 0.5),
            split=median.split(2, ALPHA, rule),
            rule=rule,
            seed=0,
            seconds=0.0,
            bound="clopper-pearson",
            drawn=10_000,
        ).to_row()
        for i, label, first, second, small in IMAGES
    )


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    return compare({0.5: single(0.5, 1), 0.25: single(0.25, 0)}, system())


def test_all_rules_are_compared_on_the_same_images(tables: dict[str, pd.DataFrame]) -> None:
    assert list(tables) == [
        *("σ = 0.25", "σ = 0.5", "σ = 0.25, two bounds", "σ = 0.5, two bounds"),
        *("dual, published", "dual, routed", "dual, published, two bounds", "dual, routed, two bounds"),
        *("cascade", "cascade, routed", "oracle", "oracle, two bounds"),
    ]
    for table in tables.values():
        assert list(table) == ["idx", "label", "predict", "radius", "correct"]
        assert table["idx"].tolist() == [3, 5, 8, 9]
        assert table["label"].tolist() == [1, 0, 1, 2]
        assert ((table["predict"] == ABSTAIN) == (table["radius"] == 0)).all()
        assert ((table["predict"] == table["label"]) == (table["correct"] == 1)).all()
    radii = {name: table["radius"].to_numpy() for name, table in tables.items()}
    small, large, found, ours, oracle = (
        radii[name] for name in ("σ = 0.25", "σ = 0.5", "cascade", "cascade, routed", "oracle")
    )
    for rule, end in (
        ("cohen", ""),
        ("two-bounds", ", two bounds"),
    ):  # the votes, whatever they were claimed by
        for sigma, place in ((0.25, 0), (0.5, 1)):
            own = single(sigma, place, rule=rule)["radius"]
            np.testing.assert_array_equal(radii[f"σ = {sigma:g}{end}"], own)
        own = system(rule=rule)
        published, routed = (radii[f"dual, {what}{end}"] for what in ("published", "routed"))
        np.testing.assert_array_equal(published, own["published"])
        np.testing.assert_array_equal(routed, own["radius"])
        assert (published <= routed).all()
    np.testing.assert_array_equal(small, single(0.25, 0)["radius"])
    np.testing.assert_array_equal(large, single(0.5, 1)["radius"])
    np.testing.assert_array_equal(found, large)  # each guess at 0.5 has a majority
    singles = {0.25: single(0.25, 0), 0.5: single(0.5, 1)}
    joined = from_tables(singles, cascade=Cascade((0.5, 0.25)), alpha=ALPHA)
    np.testing.assert_array_equal(ours, joined["radius"])
    right = {3: max(small[0], large[0]), 5: small[1], 8: large[2]}
    assert oracle[:3].tolist() == list(right.values())
    assert tables["oracle"]["correct"].tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("rule", ["cohen", "selected", "two-bounds"])
def test_by_which_rule_the_tables_were_claimed_makes_no_difference(rule: str, tables: dict) -> None:
    found = compare({0.25: single(0.25, 0, rule=rule), 0.5: single(0.5, 1, rule=rule)}, system(rule=rule))
    assert list(found) == list(tables)
    for name, table in found.items():
        pd.testing.assert_frame_equal(table, tables[name])


def test_curves_and_envelope_by_hand(tables: dict[str, pd.DataFrame]) -> None:
    found = curves(tables, (0.0, 0.45, 0.7))
    assert list(found) == ["0", "0.45", "0.7", "acr"]
    assert list(found.index) == [
        *("σ = 0.25", "σ = 0.5", "envelope"),
        *("σ = 0.25, two bounds", "σ = 0.5, two bounds", "envelope, two bounds"),
        *("dual, published", "dual, routed", "dual, published, two bounds", "dual, routed, two bounds"),
        *("cascade", "cascade, routed", "oracle", "oracle, two bounds"),
    ]
    # right at 0.25: images 3 (radius 0.62) and 5 (0.49); at 0.5: 3 (0.72) and 8 (0.24)
    share = {name: row.tolist() for name, row in found[["0", "0.45", "0.7"]].iterrows()}
    assert share["σ = 0.25"] == [0.5, 0.5, 0.0]
    assert share["σ = 0.5"] == [0.5, 0.25, 0.25]
    assert share["envelope"] == [0.5, 0.5, 0.25]
    assert share["oracle"] == [0.75, 0.5, 0.25]
    assert np.isnan(found.loc["envelope", "acr"])
    both = found.loc[["σ = 0.25, two bounds", "σ = 0.5, two bounds"], ["0", "0.45", "0.7"]]
    assert found.loc["envelope, two bounds", ["0", "0.45", "0.7"]].tolist() == both.max().tolist()
    oracle = tables["oracle"]
    assert found.loc["oracle", "acr"] == pytest.approx((oracle["radius"] * oracle["correct"]).mean())


def test_without_a_dual_table_and_with_others_by_name() -> None:
    singles = {0.25: single(0.25, 0), 0.5: single(0.5, 1)}
    stricter = from_tables(singles, cascade=Cascade((0.5, 0.25), (0.4, 0.0)), alpha=ALPHA)
    found = compare(singles, others={"stricter": stricter[1:]})
    named = ["cascade", "cascade, routed", "stricter", "oracle", "oracle, two bounds"]
    assert list(found)[4:] == named
    assert all(table["idx"].tolist() == [5, 8, 9] for table in found.values())
    assert found["stricter"]["radius"].tolist() == stricter["radius"].tolist()[1:]
    assert list(curves(found, (0.0,)).index)[6:] == named
    alone = {name: table for name, table in found.items() if "two bounds" not in name}
    assert list(curves(alone, (0.0,)).index)[:4] == ["σ = 0.25", "σ = 0.5", "envelope", "cascade"]


def test_images_that_are_not_in_all_tables_are_left_out() -> None:
    tables = compare({0.25: single(0.25, 0)[1:], 0.5: single(0.5, 1)[::-1]}, system()[:3])
    assert all(table["idx"].tolist() == [5, 8] for table in tables.values())
    assert tables["σ = 0.5"]["radius"].tolist() == single(0.5, 1)["radius"].tolist()[1:3]


@pytest.mark.parametrize(
    ("singles", "dual", "message"),
    [
        (
            {0.25: single(0.25, 0)[:1]},
            system()[1:],
            r"no common idx \(3 in dual, 1 in σ = 0.25\)",
        ),
        ({}, system(), r"wanted two tables or more, got \['dual'\]"),
        ({0.25: single(0.25, 0)}, pd.concat([system(), system()[:1]]), "an idx comes twice in dual"),
        ({0.5: single(0.25, 0)}, system(), r"σ = 0.5 is of sigma \[0.25\]; wanted a table made at 0.5"),
        (
            {0.25: single(0.25, 0)},
            system().assign(alpha=0.01),
            r"differ in alpha: \[0.01\] and",
        ),
        (
            {0.25: single(0.25, 0).assign(label=0)},
            system(),
            "differ in the label of idx 3: 1 and 0",
        ),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(singles: dict, dual: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(singles, dual)
