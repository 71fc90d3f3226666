"""Certificates of a network from votes of a quick copy: the level, by hand, and what tables say of them.

Draws come from a joint law of what copy and original vote, and truth from its marginals, without the package:
20,000 certificates of each system, from end to end. A valid rule is refuted with probability ERROR for all
systems together, and each control is a fault that must be caught; seeds are fixed. By Cohen's rule the two
bounds are added and hardly fail together, so that alpha for each is a fault that only numbers by hand show.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from dualrs_lab.cascade import Cascade, from_tables
from dualrs_lab.dual import compare
from dualrs_lab.evidence import (
    PAIRED,
    RULES,
    Certificate,
    PairedCounts,
    anytime_lower_bound,
    average_radius,
    certified_for,
    decide,
    for_copy,
    frame,
    lost_against_copy,
    of_what_voted,
    read_table,
    reclaimed,
    ruled_bounds,
    ruled_radius,
    write_table,
)
from dualrs_lab.figures import vote_bars
from dualrs_lab.mixing import MixCertificate, mixed

ALPHA, RUNS, ERROR, N0 = 0.1, 20_000, 1e-3, 20


class Draws(NamedTuple):
    """What RUNS runs saw, with the class that 20 separate draws of the copy guessed."""

    y: np.ndarray
    alike: np.ndarray
    own: np.ndarray
    rival: np.ndarray
    n: int
    pairs: PairedCounts


Rule = Callable[[Draws], np.ndarray]


def drawn(joint: np.ndarray, n: int, m: int, *, seed: int) -> Draws:
    """By a joint law (C, C) of copy and original: pairs are the first m of the n draws of the copy."""
    rng, kinds = np.random.default_rng(seed), len(joint)
    both = rng.multinomial(m, joint.ravel(), RUNS).reshape(RUNS, kinds, kinds)
    votes = both.sum(axis=2) + rng.multinomial(n - m, joint.sum(axis=1), RUNS)
    selection = rng.multinomial(N0, joint.sum(axis=1), RUNS)
    y, runs = selection.argmax(axis=1), np.arange(RUNS)
    other = np.arange(kinds) != y[:, None]
    new = both.sum(axis=1) - np.diagonal(both, axis1=1, axis2=2)  # of the original, not of the copy
    kept, lost = both[runs, :, y].sum(axis=1), both[runs, y].sum(axis=1) - both[runs, y, y]
    pairs = PairedCounts(np.full(RUNS, m), kept, lost, np.where(other, new, 0).max(axis=1))
    rival = np.where(other, votes, 0).max(axis=1)
    return Draws(y, selection.max(axis=1) == N0, votes[runs, y], rival, n, pairs)


def rate(rule: Rule, joint: np.ndarray, n: int, m: int, *, seed: int) -> float:
    """The share of certificates that claim more than the exact radius of the original."""
    found, p = drawn(joint, n, m, seed=seed), joint.sum(axis=0)
    radius = rule(found)
    rivals = np.where(np.arange(len(p)) == found.y[:, None], 0.0, p).max(axis=1)
    exact = (special.ndtri(p[found.y]) - special.ndtri(rivals)) / 2
    return float(((radius > 0) & (radius > exact + 1e-12)).mean())


def by(rule: str, alpha: float = ALPHA) -> Rule:
    return lambda d: ruled_radius(rule, d.own, d.rival, d.n, alpha, 1.0, unanimous=d.alike, pairs=d.pairs)


def ignoring_differences(d: Draws) -> np.ndarray:
    """The fault: the certificate of the copy is taken for one of the original."""
    return ruled_radius("two-bounds", d.own, d.rival, d.n, ALPHA, 1.0, unanimous=d.alike)


def by_the_observed_share(d: Draws) -> np.ndarray:
    """The fault: differences as they were seen, without a bound."""
    low, high = ruled_bounds("two-bounds", d.own, d.rival, d.n, ALPHA / 2)
    low, high = low - d.pairs.lost / d.pairs.paired, high + d.pairs.gained / d.pairs.paired
    return np.maximum(special.ndtri(low) - special.ndtri(np.minimum(high, 1 - low)), 0.0) / 2


def rivals_of_the_copy_only(d: Draws) -> np.ndarray:
    """The fault: what the original moves to other classes than the copy's rival is not looked at."""
    none = PairedCounts(d.pairs.paired, d.pairs.kept, d.pairs.lost, np.zeros_like(d.pairs.gained))
    return ruled_radius("two-bounds", d.own, d.rival, d.n, ALPHA, 1.0, pairs=none)


def by_an_average_image(d: Draws) -> np.ndarray:
    """The fault: pairs of other images, on which the copy hardly differs, in place of those of this one."""
    calm = np.zeros_like(d.pairs.lost)
    other = PairedCounts(d.pairs.paired, d.pairs.paired, calm, calm)
    return ruled_radius("two-bounds", d.own, d.rival, d.n, ALPHA, 1.0, pairs=other)


def too_many(systems: int) -> float:
    """A share above this refutes "at most alpha", wrongly with probability at most ERROR / systems."""
    return float(stats.binom.isf(ERROR / systems, RUNS, ALPHA)) / RUNS


def moved(p: list[float], moves: dict[tuple[int, int], float]) -> np.ndarray:
    """The joint law of a copy with probabilities p and an original that votes b for its a, so often."""
    joint = np.diag(np.asarray(p, dtype=np.float64))
    for (a, b), share in moves.items():
        joint[a, a], joint[a, b] = joint[a, a] - share, joint[a, b] + share
    return joint


def just_too_many(m: int, seen: int, level: float) -> float:
    """A share of which `seen` or fewer of m draws are seen with a probability a little below `level`."""
    return float(stats.beta.isf(level * 0.97, seen + 1, m - seen))


WORST = {
    "a tie that the copy does not see": moved([0.7, 0.3], {(0, 1): 0.2}),
    "a loser that the copy certifies": moved([0.75, 0.25], {(0, 1): 0.3}),
    "rare differences, none of them seen": moved([0.515, 0.485], {(0, 1): 0.015}),
    "a rival that the copy does not know": moved([0.62, 0.3, 0.08], {(0, 2): 0.1, (1, 2): 0.25}),
    "all rivals alike": moved([0.5, *[0.125] * 4], {(0, j): 0.07 for j in range(1, 5)}),
    "both ways": moved([0.6, 0.4], {(0, 1): 0.25, (1, 0): 0.25}),
    "unanimous, and often otherwise": moved([0.999, 0.001], {(0, 1): 0.499}),
    "unanimous, and rarely otherwise": moved([1.0, 0.0], {(0, 1): 0.02}),
    "a copy that always agrees": moved([0.55, 0.3, 0.15], {}),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", WORST)
def test_at_most_alpha_of_20_000_certificates_of_an_original_are_false(name: str, rule: str) -> None:
    worst = max(rate(by(rule), WORST[name], n, m, seed=1) for n, m in ((400, 100), (200, 200)))
    print(f"{name}, {rule}: {worst:.4f}, alpha = {ALPHA}")
    assert worst <= too_many(9 * 3 * 2)


@pytest.mark.parametrize("rule", RULES)
def test_random_originals_keep_the_level(rule: str) -> None:
    chance = np.random.default_rng(5)
    for seed in range(8):
        kinds = int(chance.integers(2, 7))
        joint = np.diag(chance.dirichlet(np.full(kinds, 1.0)))
        joint = 0.8 * joint + 0.2 * chance.dirichlet(np.full(kinds**2, 0.2)).reshape(kinds, kinds)
        assert rate(by(rule), joint, 500, 125, seed=seed) <= too_many(8 * 3), (seed, joint)


# Few pairs and many votes: nearly all that can fail is the bound of what is lost.
TIGHT = moved([0.9, 0.1], {(0, 1): just_too_many(60, 8, ALPHA)})
CONTROLS: dict[str, tuple[Rule, np.ndarray, int, int]] = {
    "the copy's certificate": (ignoring_differences, WORST["a tie that the copy does not see"], 400, 100),
    "no bound for differences": (by_the_observed_share, TIGHT, 1_000_000, 60),
    "only the copy's rival": (
        rivals_of_the_copy_only,
        WORST["a rival that the copy does not know"],
        2000,
        200,
    ),
    "pairs of other images": (by_an_average_image, WORST["a tie that the copy does not see"], 400, 100),
    "each bound at alpha": (by("two-bounds", 4 * ALPHA), TIGHT, 1_000_000, 60),
    "own votes at 2 alpha": (
        by("two-bounds", 2 * ALPHA),
        moved([1.0, 0.0], {(0, 1): 1 - just_too_many(200, 120, 2 * ALPHA)}),
        400,
        200,
    ),
}


@pytest.mark.parametrize("fault", CONTROLS)
def test_a_fault_breaks_the_level_of_an_original(fault: str) -> None:
    rule, joint, n, m = CONTROLS[fault]
    found, valid = (rate(one, joint, n, m, seed=2) for one in (rule, by("two-bounds")))
    print(f"{fault}: {found:.4f}, and {valid:.4f} by the rule; alpha = {ALPHA}")
    assert found > too_many(1) >= valid


# By hand.


def upper(k: int, n: int, level: float) -> float:
    return float(stats.beta.ppf(1 - level, k + 1, n - k))


def lower(k: int, n: int, level: float) -> float:
    return float(stats.beta.ppf(level, k, n - k + 1))


def test_an_original_by_hand() -> None:
    """A quarter of alpha for each of four bounds; by Cohen's rule, half for each of two."""
    pairs, how = PairedCounts(250, 171, 6, 4), (700, 150, 1000, 0.001)
    low = lower(700, 1000, 0.00025) - upper(6, 250, 0.00025)
    high = upper(150, 1000, 0.00025) + upper(4, 250, 0.00025)
    assert ruled_bounds("two-bounds", *how, pairs=pairs) == pytest.approx((low, high), rel=1e-9)
    wanted = 0.25 * (stats.norm.ppf(low) - stats.norm.ppf(high))
    assert ruled_radius("two-bounds", *how, 0.5, pairs=pairs) == pytest.approx(wanted, rel=1e-9)
    assert ruled_radius("selected", *how, 0.5, pairs=pairs) == pytest.approx(wanted, rel=1e-9)
    alone = lower(700, 1000, 0.0005) - upper(6, 250, 0.0005)
    assert ruled_bounds("cohen", *how, pairs=pairs) == pytest.approx((alone, 1 - alone), rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_after_a_unanimous_selection_the_originals_own_votes_decide(rule: str) -> None:
    pairs, own = PairedCounts(250, 245, 5, 3), lower(245, 250, 0.001)
    found = ruled_bounds(rule, 1000, 0, 1000, 0.001, unanimous=True, pairs=pairs)
    assert found == pytest.approx((own, 1 - own), rel=1e-9)


def test_many_differences_certify_nothing_and_none_cost_least() -> None:
    every, none = (ruled_radius("two-bounds", 900, 50, 1000, 0.001, 1.0, pairs=p) for p in (
        PairedCounts(100, 0, 90, 80), PairedCounts(100, 90, 0, 0)))  # fmt: skip
    copy = ruled_radius("two-bounds", 900, 50, 1000, 0.001, 1.0)
    assert every == 0 < none < copy


def test_a_copy_repays_only_where_it_is_much_quicker() -> None:
    """At the cost of 10,000 draws and 2,500 pairs, for a copy that is `times` as quick and never differs."""

    def by_copy(p: float, n: int = 10_000) -> float:
        own, m = round(n * p), n // 4
        pairs = PairedCounts(m, round(m * p), 0, 0)
        return float(ruled_radius("two-bounds", own, n - own, n, 0.001, 1.0, pairs=pairs))

    def alone(p: float, times: int) -> float:
        n = (10_000 + 2500 * times) // times
        return float(ruled_radius("two-bounds", round(n * p), n - round(n * p), n, 0.001, 1.0))

    assert by_copy(0.7) > alone(0.7, 20)
    assert by_copy(0.99) < alone(0.99, 4)
    assert by_copy(0.999) < alone(0.999, 20)


# Certificates and tables.


def made(rule: str = "two-bounds", count: int = 30, m: int = 125) -> pd.DataFrame:
    """A table of an original, whose copy differs on some images."""
    chance = np.random.default_rng(4)
    rows = []
    for i in range(count):
        joint = np.diag(chance.dirichlet([9.0, 1.0, 1.0]))
        joint = 0.97 * joint + 0.03 * chance.dirichlet(np.full(9, 0.3)).reshape(3, 3)
        both = chance.multinomial(m, joint.ravel()).reshape(3, 3)
        votes = both.sum(1) + chance.multinomial(500 - m, joint.sum(1))
        selection = chance.multinomial(30, joint.sum(1))
        y = int(selection.argmax())
        new = np.delete(both.sum(0) - np.diag(both), y)
        pairs = PairedCounts(m, int(both[:, y].sum()), int(both[y].sum() - both[y, y]), int(new.max()))
        given = {"label": 0, "sigma": 0.5, "alpha": 0.01, "seed": 0, "seconds": 0.0, "rule": rule}
        rows.append(decide(selection, votes, idx=i, pairs=pairs, **given))
    return frame(rows)


def test_a_certificate_of_an_original_is_its_row_and_recomputes(tmp_path: Path) -> None:
    table = made()
    assert list(table)[-4:] == list(PAIRED)
    write_table(tmp_path / "t.tsv", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.tsv"), table)
    every = [Certificate.from_row(row) for row in table.to_dict("records")]
    assert [c.recomputed() for c in every] == table["radius"].tolist()
    assert frame(every).equals(table)
    assert {len({*table[name]}) > 1 for name in ("kept", "lost", "gained")} == {True}
    assert certified_for(table) == "original"
    assert vote_bars(every[0]).get_title()


def test_a_table_without_these_columns_is_for_the_copy() -> None:
    """As all earlier tables are: the same votes, radii of the copy, and no fields that say otherwise."""
    table, copy = made(), for_copy(made())
    assert certified_for(copy) == "copy"
    assert not {*PAIRED} & {*copy}
    assert (copy["radius"] > table["radius"]).sum() > 20
    row = Certificate.from_row(copy.to_dict("records")[0])
    assert (row.pairs, row.paired) == (None, 0)
    assert not {*PAIRED} & {*row.to_row()}
    assert for_copy(copy) is copy


@pytest.mark.parametrize("rule", RULES)
def test_a_table_of_an_original_is_claimed_by_another_rule(rule: str) -> None:
    found = reclaimed(made("cohen"), rule)
    pd.testing.assert_frame_equal(found, made(rule))


def test_what_an_original_costs() -> None:
    table, copy = made(), for_copy(made())
    lost = lost_against_copy(table, [0.25, 0.5])
    assert list(lost) == ["radius", "0.25", "0.5"]
    assert lost["radius"] == pytest.approx(copy["radius"].mean() - table["radius"].mean())
    assert lost["radius"] > 0.01 < average_radius(copy) - average_radius(table)
    assert set(lost_against_copy(copy, [0.25]).values()) == {0.0}


TAMPERED: dict[str, tuple[str, int, str]] = {
    "fewer lost": ("lost", -1, "radius|pairs that the votes allow"),
    "more kept than paired": ("kept", 200, "pairs that the votes allow"),
    "more gained than otherwise": ("gained", 200, "pairs that the votes allow"),
    "other pairs in a row": ("paired", 1, "one number of paired draws for all rows"),
    "no pairs in a row": ("paired", -125, "one number of paired draws for all rows"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_table_of_an_original_that_was_changed_is_refused(what: str, tmp_path: Path) -> None:
    name, more, message = TAMPERED[what]
    table = made()
    at = int(np.flatnonzero((table["lost"] > 0) & (table["radius"] > 0) & (table["predict"] >= 0))[-1])
    table.loc[at, name] += more
    write_table(tmp_path / "t.tsv", table)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "t.tsv")


def test_columns_of_pairs_come_together_or_not_at_all(tmp_path: Path) -> None:
    write_table(tmp_path / "t.tsv", made().drop(columns="kept"))
    with pytest.raises(
        ValueError, match="got columns paired, lost, gained; wanted all of paired, kept, lost"
    ):
        read_table(tmp_path / "t.tsv")
    with pytest.raises(ValueError, match="no kept in the row"):
        Certificate.from_row(made().drop(columns="kept").to_dict("records")[0])
    write_table(tmp_path / "t.tsv", made().drop(columns=[*PAIRED]))
    with pytest.raises(ValueError, match="has radius"):  # those of the copy are larger
        read_table(tmp_path / "t.tsv")
    write_table(tmp_path / "t.tsv", made().assign(bound="betting"))
    with pytest.raises(ValueError, match="has radius"):  # that of the bound is smaller
        read_table(tmp_path / "t.tsv")


def test_a_certificate_of_impossible_pairs_is_refused() -> None:
    given = {"label": 0, "sigma": 0.5, "alpha": 0.01, "seed": 0, "seconds": 0.0, "idx": 0}
    for counts in ((200, 90, 5, 0), (50, 40, 11, 0), (50, 40, 5, 11), (50, 30, 9, 0)):
        with pytest.raises(ValueError, match=r"counts of pairs that 90 of 100 votes allow, got PairedCounts"):
            decide([9, 1], [90, 10], pairs=PairedCounts(*counts), **given)


def test_votes_that_said_when_to_stop_have_the_bound_of_betting_and_pairs_their_own() -> None:
    given = {"label": 0, "sigma": 0.5, "alpha": 0.01, "seed": 0, "seconds": 0.0, "idx": 0, "bound": "betting"}
    pairs = PairedCounts(250, 230, 4, 3)
    found = decide([9, 1], [900, 100], pairs=pairs, drawn=1500, **given)
    level = 0.01 / 4
    low = anytime_lower_bound(900, 1000, level) - upper(4, 250, level)
    high = 1 - anytime_lower_bound(900, 1000, level) + upper(3, 250, level)
    wanted = 0.25 * (stats.norm.ppf(low) - stats.norm.ppf(high))
    assert found.radius == pytest.approx(wanted, rel=1e-9) == found.recomputed()
    alike = decide([10, 0], [900, 100], pairs=pairs, **given)  # own votes, whose number is fixed
    assert alike.radius == pytest.approx(0.5 * stats.norm.ppf(lower(230, 250, 0.01)), rel=1e-9)


def test_systems_refuse_tables_of_an_original_by_name() -> None:
    table, other = made(), for_copy(made()).assign(sigma=0.25)
    message = "certifies the original, by votes of its copy and pairs, which {} does not take"
    for call, build in (
        ("join_votes", lambda: from_tables({0.5: table}, cascade=Cascade((0.5,)), alpha=0.01)),
        ("probability_bounds", lambda: mixed(table, 0.8)),
        ("compare", lambda: compare({0.5: table, 0.25: reclaimed(other, "cohen")})),
        ("anything", lambda: of_what_voted("anything", "a table", table)),
    ):
        with pytest.raises(ValueError, match=message.format(call)):
            build()
    row = mixed(for_copy(table), 0.8).to_dict("records")[0] | {"paired": 1, "kept": 1, "lost": 0, "gained": 0}
    with pytest.raises(ValueError, match="pairs are not built into mixes"):
        MixCertificate.from_row(row)
