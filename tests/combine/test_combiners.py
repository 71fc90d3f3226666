"""Combiners: the parts of the theorem, their special cases, and the level that each of them spends."""

import itertools

import numpy as np
import pytest
from scipy import special, stats

from dualrs_lab.combine import (
    Combiner,
    combined_margin,
    combined_radius,
    lengths,
    reach_of_each,
    surest_class,
)
from dualrs_lab.evidence import lower_bound, ruled_radius, upper_bound

SIGMAS = (1.0, 0.5, 0.25)
WIDTH = 3 * len(SIGMAS) + 1


def lattice(rng: np.random.Generator, sigmas: tuple[float, ...] = SIGMAS, most: int = 5) -> Combiner:
    """Some terms of some coordinates of any kind."""
    shifts = np.full((rng.integers(1, most + 1), 3 * len(sigmas) + 1), np.inf)
    for term in shifts:
        some = rng.choice(len(term), rng.integers(1, most), replace=False)
        term[some] = rng.uniform(-0.5, 0.5, len(some))
    return Combiner.of(sigmas, shifts)


def some_lattices(count: int = 40, **how) -> list[Combiner]:
    rng = np.random.default_rng(7)
    return [lattice(rng, **how) for _ in range(count)]


# The theorem.


def test_a_pair_turned_round_has_the_opposite_margin() -> None:
    rng = np.random.default_rng(0)
    own, rival = rng.normal(0, 0.5, (2, 500, 3))
    for combiner in some_lattices():
        forth, back = combined_margin(own, rival, combiner), combined_margin(rival, own, combiner)
        assert (forth == -back).all()
        assert (combined_margin(own, own, combiner) == 0).all()


def by_definition(z: np.ndarray, combiner: Combiner) -> np.ndarray:
    """h (C,) from lengths (K, C), word by word from the text that tables hold."""

    def preferred(one: int, other: int) -> float:
        values = []
        for term in combiner.text.split(" | "):
            entries = [entry.split(":") for entry in term.split()]
            values.append(min(coordinate(name, one, other) + float(shift) for name, shift in entries))
        return max(values)

    def coordinate(name: str, one: int, other: int) -> float:
        if name == "zero":
            return 0.0
        kind = name.rstrip("0123456789.")
        i = combiner.sigmas.index(float(name.removeprefix(kind)))
        return {"own": z[i, one], "rival": -z[i, other], "half": (z[i, one] - z[i, other]) / 2}[kind]

    kinds = range(z.shape[1])
    return np.array([min((preferred(y, c) - preferred(c, y)) / 2 for c in kinds if c != y) for y in kinds])


def test_margins_are_those_of_the_text_and_at_most_one_class_is_ahead() -> None:
    rng, ahead = np.random.default_rng(1), []
    for combiner in some_lattices(60):
        p = rng.dirichlet([0.4] * 4, 3)
        z = lengths(np.clip(p, 1e-9, 1 - 1e-9), SIGMAS)
        h = by_definition(z, combiner)
        ours = [
            min(float(combined_margin(z[:, y], z[:, c], combiner)) for c in range(4) if c != y)
            for y in range(4)
        ]
        np.testing.assert_allclose(ours, h, atol=1e-12)
        ahead.append(int((h > 0).sum()))
    assert {*ahead} == {0, 1}


def test_margins_rise_and_never_faster_than_the_lengths() -> None:
    """Control: a difference, not its half, is twice as steep."""
    rng, steepest = np.random.default_rng(2), 0.0
    own, rival = rng.normal(0, 0.5, (2, 2000, 3))
    moved = rng.uniform(-0.1, 0.1, (2, 2000, 3))
    far = np.abs(moved).max(axis=(0, 2))
    for combiner in some_lattices():
        before = combined_margin(own, rival, combiner)
        change = combined_margin(own + moved[0], rival + moved[1], combiner) - before
        assert (np.abs(change) <= far + 1e-12).all()
        assert (combined_margin(own + np.abs(moved[0]), rival, combiner) >= before).all()
        assert (combined_margin(own, rival + np.abs(moved[1]), combiner) <= before).all()
        steepest = max(steepest, float((np.abs(2 * change) / far).max()))
    assert steepest > 1.5


def test_experts_agree_with_a_combiner_of_all_classes() -> None:
    """Votes without noise: `surest_class` is the class that is ahead."""
    rng, count = np.random.default_rng(3), 0
    for combiner in some_lattices():
        p = rng.dirichlet([0.4] * 4, 3)
        votes = np.round(10**9 * p).astype(np.int64)
        h = by_definition(lengths(np.clip(p, 1e-9, 1 - 1e-9), SIGMAS), combiner)
        if h.max() > 1e-3:
            count += 1
            assert surest_class(votes, combiner) == h.argmax()
    assert count > 20


# Special cases.


@pytest.fixture(scope="module")
def votes() -> np.ndarray:
    """(N, K, C) of 1000 draws, some experts sure of themselves."""
    rng = np.random.default_rng(4)
    return rng.multinomial(1000, rng.dirichlet([0.3] * 4, (300, 3)))


def test_a_single_expert_has_the_radius_of_two_bounds(votes: np.ndarray) -> None:
    for i, sigma in enumerate(SIGMAS):
        combiner = Combiner.single(SIGMAS, i)
        assert combiner.spends == 2
        y = votes[:, i].argmax(axis=1)
        second = np.sort(votes[:, i], axis=1)[:, -2]
        found = np.maximum(combined_radius(votes, y, combiner=combiner, alpha=0.01), 0)
        wanted = ruled_radius("two-bounds", votes[:, i].max(axis=1), second, 1000, 0.01, sigma)
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        assert (found > 0).mean() > 0.7
        assert (surest_class(votes, combiner) == y).all()
        each = reach_of_each(votes, y, combiner=combiner, alpha=0.01)
        np.testing.assert_allclose(np.maximum(each[:, i], 0), wanted, atol=1e-12)


@pytest.mark.parametrize("handicaps", [(), (0.0, 0.5, 1.0), (0.3, -0.1, 0.0)])
def test_whoever_is_surest_is_its_formula(votes: np.ndarray, handicaps: tuple[float, ...]) -> None:
    combiner = Combiner.surest(SIGMAS, handicaps)
    assert combiner.spends == 4
    y, rows = surest_class(votes, combiner), np.arange(len(votes))
    t, sigma = np.array(handicaps or (0, 0, 0)), np.array(SIGMAS)
    low = lower_bound(votes, 1000, 0.01 / 4)[rows, :, y]
    high = np.minimum(upper_bound(votes, 1000, 0.01 / 4), 1 - low[..., None])
    mine = (sigma * special.ndtri(low).clip(-1e6) - t).max(axis=1)
    theirs = (sigma[:, None] * special.ndtri(high) - t[:, None]).max(axis=1)
    theirs[rows, y] = -np.inf
    found = combined_radius(votes, y, combiner=combiner, alpha=0.01)
    np.testing.assert_allclose(found, (mine - theirs.max(axis=1)) / 2, atol=1e-9)
    share = (votes + 0.5) / 1001
    scores = (sigma[:, None] * special.ndtri(share) - t[:, None]).max(axis=1)
    assert (y == scores.argmax(axis=1)).all()


def test_a_rival_has_at_most_what_the_class_leaves() -> None:
    """Two classes: the upper bound of the rival is that of the class below, turned round."""
    votes, combiner = np.array([[900, 100]]), Combiner.of_text((0.5,), "own0.5:0")
    low = lower_bound(900, 1000, 0.005)
    wanted = 0.5 * special.ndtri(low)
    assert combined_radius(votes, 0, combiner=combiner, alpha=0.01) == pytest.approx(wanted, rel=1e-12)
    many = np.array([[900, *[50] * 2]])  # high(50) is below 1 - low
    more = combined_radius(many, 0, combiner=combiner, alpha=0.01)
    assert more == pytest.approx(0.25 * (special.ndtri(low) - special.ndtri(upper_bound(50, 1000, 0.005))))
    looser = (lower_bound, lambda k, n, level: np.ones(np.broadcast(k, n).shape))  # knows nothing of rivals
    cohen = combined_radius(votes, 0, combiner=combiner, alpha=0.01, bounds=looser)
    assert cohen == pytest.approx(wanted, rel=1e-12)


def test_experts_that_are_not_asked_lower_the_radius_only(votes: np.ndarray) -> None:
    changed = 0
    for combiner in some_lattices(10):
        y = surest_class(votes, combiner)
        whole = combined_radius(votes, y, combiner=combiner, alpha=0.01)
        for absent in range(3):
            part = votes.copy()
            part[:, absent] = 0
            found = combined_radius(part, y, combiner=combiner, alpha=0.01)
            assert (found <= whole).all()
            changed += int((found < whole).sum())
    assert changed > 100
    none = np.zeros_like(votes)
    assert (combined_radius(none, y, combiner=Combiner.surest(SIGMAS), alpha=0.01) < 0).all()
    assert (reach_of_each(none, y, combiner=Combiner.surest(SIGMAS), alpha=0.01) < -1000).all()


def test_classes_that_nobody_named_change_nothing(votes: np.ndarray) -> None:
    """A table holds votes only of classes that have some: what follows must not depend on the others."""
    some = votes[:60].copy()
    some[:20, 1] = 0  # an expert that did not guess
    for combiner in (*some_lattices(10), Combiner.surest(SIGMAS), Combiner.single(SIGMAS, 1)):
        padded = np.concatenate([some, np.zeros((60, 3, 2), dtype=np.int64)], axis=2)
        y = surest_class(some, combiner)
        assert (surest_class(padded, combiner) == y).all()
        for function in (combined_radius, reach_of_each):
            given = {"combiner": combiner, "alpha": 0.01}
            assert (function(some, y, **given) == function(padded, y, **given)).all()
    one = np.full((3, 1), 1000)  # all for class 0
    wider, combiner = np.array([[1000, 0]] * 3), Combiner.surest(SIGMAS)
    assert surest_class(one, combiner) == 0
    for function in (combined_radius, reach_of_each):
        given = {"combiner": combiner, "alpha": 0.01}
        assert (function(one, 0, **given) == function(wider, 0, **given)).all()
    assert (reach_of_each(one, 0, combiner=combiner, alpha=0.01) < 4).all()


def test_lengths_are_finite_and_rise() -> None:
    found = lengths([[0.0, 0.2, 0.5, 1.0]], (0.5,))
    assert found.tolist() == [[-1e6, pytest.approx(0.5 * stats.norm.ppf(0.2)), 0.0, 1e6]]


def test_votes_that_do_not_fit_are_refused() -> None:
    combiner = Combiner.surest(SIGMAS)
    for counts, y in ((np.ones((5, 2, 4)), np.zeros(5)), (np.ones((5, 3, 4)), 0), (np.ones(3), 0)):
        with pytest.raises(ValueError, match=r"wanted votes \(…, 3, C\) and one y an image"):
            combined_radius(counts, y, combiner=combiner, alpha=0.01)


# The level.

SPENT = {  # bounds of a combiner, and the most that some system needs
    "half1:0.0": (2, 2),
    "own1:0.0": (2, 2),
    "rival1:0.0": (2, 2),
    "own1:0.0 rival1:0.1": (2, 2),
    "own1:0.0 | zero:0.2": (2, 2),
    "zero:0.1": (1, 0),
    "half1:0.0 | half0.5:-0.1": (4, 4),
    "own1:0.0 | own0.5:0.05": (3, 3),
    "own1:0.0 own0.5:0.05": (4, 4),
    "rival1:0.0 | rival0.5:0.0": (4, 4),
    "rival1:0.0 rival0.5:0.0": (4, 3),
    "half1:0.0 zero:0.1 | own0.5:-0.2 zero:0.3": (4, 4),
    "own1:0.0 rival0.5:-0.1": (4, 4),
    "own1:0.0 | rival0.5:-0.1": (4, 4),
}


def needed(own: np.ndarray, rival: np.ndarray, combiner: Combiner) -> set[frozenset[tuple[str, int]]]:
    """The least sets of bounds by whose failing M of (y, c*) comes out too large.

    A bound that holds is at its exact value, which is the worst; one that fails is far off. As the lower
    bound of an expert also caps the upper one of its rival, its failing lowers both.
    """
    count, exact = len(combiner.sigmas), float(combined_margin(own, rival, combiner))
    every = [(kind, i) for kind in ("lower", "upper") for i in range(count)]
    failing: list[frozenset[tuple[str, int]]] = []
    for size in range(len(every) + 1):
        for some in map(frozenset, itertools.combinations(every, size)):
            low, high = own.copy(), rival.copy()
            for kind, i in some:
                low[i] += 10.0 * (kind == "lower")
                high[i] -= 10.0
            too_large = float(combined_margin(low, high, combiner)) > exact + 1e-12
            if too_large and not any(other <= some for other in failing):
                failing.append(some)
    return {*failing}


def most_needed(combiner: Combiner, systems: int) -> int:
    """The most bounds that the union over a system's ways to fail takes: one of each least set."""
    rng, count, most = np.random.default_rng(5), len(combiner.sigmas), 0
    pool = [(kind, i) for kind in ("lower", "upper") for i in range(count)]
    for own, rival in rng.normal(0, 0.3, (systems, 2, count)):
        sets = needed(own, rival, combiner)
        sizes = (n for n in range(len(pool) + 1) for some in itertools.combinations(pool, n)
                 if all(one & {*some} for one in sets))  # fmt: skip
        most = max(most, next(sizes))
    return most


@pytest.mark.parametrize("text", SPENT)
def test_the_level_is_shared_by_all_bounds_that_can_fail(text: str) -> None:
    combiner = Combiner.of_text((1.0, 0.5) if "0.5" in text else (1.0,), text)
    assert (combiner.spends, most_needed(combiner, 60)) == SPENT[text]


def test_no_system_needs_more_bounds_than_are_counted() -> None:
    """Random lattices of two experts. Control: with one bound less, many would."""
    left = [one.spends - most_needed(one, 25) for one in some_lattices(25, sigmas=(1.0, 0.5), most=4)]
    assert min(left) >= 0
    assert np.mean(np.array(left) == 0) > 0.3


def test_spends_of_whoever_is_surest_and_of_one_expert_among_four() -> None:
    assert Combiner.surest((4.0, 3.0, 2.0, 1.0)).spends == 5
    assert Combiner.single((4.0, 3.0, 2.0, 1.0), 2).spends == 2
    assert max(combiner.spends for combiner in some_lattices()) == 6


def test_a_constant_spends_nothing_and_certifies_nothing() -> None:
    constant = Combiner.of_text((1.0,), "zero:0.1")
    assert combined_radius([[900, 100]], 0, combiner=constant, alpha=0.01) == 0


# End to end: the level where it is spent.

ALPHA, RUNS, N = 0.1, 20_000, 1000


def too_large(p: np.ndarray, combiner: Combiner, alpha: float) -> int:
    """How often of RUNS the radius of class 0 exceeds the exact one of probabilities p (K, C)."""
    rng = np.random.default_rng(6)
    votes = np.stack([rng.multinomial(N, row, size=RUNS) for row in p], axis=1)
    exact = by_definition(lengths(p, combiner.sigmas), combiner)[0]
    y = np.zeros(RUNS, dtype=np.int64)
    return int((combined_radius(votes, y, combiner=combiner, alpha=alpha) > exact + 1e-12).sum())


SYSTEMS = {  # probabilities, a combiner, and what the level is multiplied by in the control
    # both bounds of a half-line fail together, which leaves a factor of two
    "half-line": (np.array([[0.7, 0.3]]), Combiner.single((0.5,), 0), 3),
    # two as sure as each other of the class, and a rival that is known: each lower bound alone makes R large
    "surest of three": (
        np.array([[0.7, 0.2, 0.1]] * 2 + [[0.01, 0.9, 0.09]]),
        Combiner.surest((0.5, 0.4999, 0.005), (0.0, 0.0, -0.1)),
        4,  # all of alpha for each bound, as if only one could fail
    ),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_at_most_alpha_of_20_000_certificates_are_false(name: str) -> None:
    """A valid level is refuted with probability 1e-3. Control: the level, inflated, is."""
    p, combiner, factor = SYSTEMS[name]
    assert factor == combiner.spends or name == "half-line"
    most = int(stats.binom.isf(1e-3, RUNS, ALPHA))
    kept, caught = (too_large(p, combiner, level) for level in (ALPHA, ALPHA * factor))
    print(f"{name}: {kept} and, at {factor} times the level, {caught} of {RUNS}, alpha = {ALPHA}")
    assert kept <= most < caught


# Text.


def test_text_gives_every_combiner_back() -> None:
    rng = np.random.default_rng(8)
    odd = (1 / 3, 1e-05, 12.0)
    for sigmas in (SIGMAS, odd):
        for _ in range(20):
            combiner = lattice(rng, sigmas)
            assert Combiner.of_text(sigmas, combiner.text) == combiner
    assert Combiner.single((1.0, 0.25), 1).text == "half0.25:0.0"
    assert Combiner.surest((1.0, 0.25), (0.0, 0.5)).text == "own1:-0.0 | own0.25:-0.5"
    found = Combiner.of_text((1.0, 0.25), "half1:0 own0.25:-0.2 | rival0.25:-6e-1 zero:0.4")
    assert found.array.tolist() == [
        [0, np.inf, np.inf, -0.2, np.inf, np.inf, np.inf],
        [np.inf, np.inf, np.inf, np.inf, np.inf, -0.6, 0.4],
    ]


@pytest.mark.parametrize(
    "text",
    ["", " ", "|", "half1:0 |", "half1", "half1:", "half2:0", "half1:0 half1:0", "half1:x", "half1:inf",
     "half1:nan", "half1:1_0", "zero1:0", "zero:-", "half01:0", "half1:0;zero:0", "Half1:0", "half1:1e999",
     "half1:0.0.1", "half1:+"],
)  # fmt: skip
def test_text_that_is_no_combiner_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # several messages
        Combiner.of_text((1.0,), text)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (((), ()), "different positive sigmas"),
        (((1.0, 1.0), ((0.0,) * 7,)), "different positive sigmas"),
        (((-1.0,), ((0.0,) * 4,)), "different positive sigmas"),
        (((np.inf,), ((0.0,) * 4,)), "different positive sigmas"),
        (((np.nan,), ((0.0,) * 4,)), "different positive sigmas"),
        (((1.0,), ()), "terms of 4 shifts, one finite, for 1 experts"),
        (((1.0,), ((0.0,) * 3,)), "terms of 4 shifts"),
        (((1.0,), ((np.inf,) * 4,)), "one finite"),
        (((1.0,), ((0.0, -np.inf, 0.0, 0.0),)), "one finite"),
        (((1.0,), ((0.0, np.nan, 0.0, 0.0),)), "one finite"),
    ],
)
def test_combiners_that_make_no_sense_are_refused(made: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Combiner(*made)


def test_an_expert_that_there_is_not_cannot_be_alone() -> None:
    for expert in (-1, 3, 9):
        with pytest.raises(ValueError, match=rf"Combiner.single: wanted one of 3 experts.*got {expert}"):
            Combiner.single(SIGMAS, expert)
