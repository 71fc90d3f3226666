"""Cascades: the theorem on exact systems, and the level where it is spent."""

import numpy as np
import pytest
from scipy import special, stats

from dualrs_lab.cascade import Cascade, Steps, cascade_radius, first_to_accept, steps
from dualrs_lab.evidence import ABSTAIN, lower_bound, upper_bound
from dualrs_lab.lessons import lesson_plane, sample_points

PLANE, SIGMAS = lesson_plane(), (0.25, 0.07, 0.02)
CASCADES = [
    Cascade(SIGMAS),
    Cascade(SIGMAS, (0.03, 0.01, 0.0)),
    Cascade(SIGMAS, (-0.05, -0.02, -0.01)),
    Cascade(SIGMAS[::-1]),
    Cascade((0.07, 0.25), (0.02, 0.0)),
]
IDS = [f"{c.sigmas} {c.limits}" for c in CASCADES]


def probabilities(points: np.ndarray, cascade: Cascade) -> np.ndarray:
    p = np.stack([PLANE.probabilities(points, sigma) for sigma in cascade.sigmas], axis=1)
    return np.clip(p, 1e-12, 1 - 1e-12)  # finite quantiles; radii in the plane are far smaller


def answers(points: np.ndarray, cascade: Cascade) -> np.ndarray:
    """g (N,) by its definition, from exact probabilities."""
    p = probabilities(points, cascade)
    found = np.full(len(points), ABSTAIN)
    for j in reversed(range(len(cascade.sigmas))):
        accepts = cascade.sigmas[j] * special.ndtri(p[:, j].max(axis=1)) >= cascade.limits[j]
        found = np.where(accepts, p[:, j].argmax(axis=1), found)
    return found


def exact(points: np.ndarray, y: np.ndarray, cascade: Cascade) -> Steps:
    """As `steps`, but from exact probabilities and straight from the definitions."""
    p, rows = probabilities(points, cascade), np.arange(len(points))
    sigma, limit = np.array(cascade.sigmas), np.array(cascade.limits)
    own = p[rows, :, y]
    z = special.ndtri(p.transpose(0, 2, 1))
    z[rows, y] = -np.inf  # (N, C, K)
    half = sigma / 2 * (special.ndtri(own)[:, None] - z)
    accepts = np.minimum(sigma * special.ndtri(own) - limit, half.min(axis=1))
    errs = np.maximum(limit - sigma * z, half).min(axis=1)
    return Steps(accepts, errs, cascade_radius(accepts, errs))


def others_in_the_ball(points: np.ndarray, y: np.ndarray, radii: np.ndarray, cascade: Cascade) -> np.ndarray:
    """Which (N,) have another answer than y at one of 720 places within their radius.

    Up to a millionth of it: exact radii end where a border is straight, and quantiles near 1 have few digits.
    """
    angle = np.linspace(-np.pi, np.pi, 72, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    reach = radii[:, None, None, None] * np.linspace(0, 1 - 1e-6, 10)[:, None, None]
    said = answers((points[:, None, None] + reach * ring).reshape(-1, 2), cascade).reshape(len(points), -1)
    return (said != y[:, None]).any(axis=1) & (radii > 0)


@pytest.mark.parametrize("cascade", CASCADES, ids=IDS)
def test_the_exact_system_keeps_its_answer_within_the_radius(cascade: Cascade) -> None:
    points, _ = sample_points(PLANE, 600, seed=3)
    y = answers(points, cascade)
    points, y = points[y != ABSTAIN], y[y != ABSTAIN]
    found = exact(points, y, cascade)
    assert (found.radius > 0).mean() > 0.9
    assert not others_in_the_ball(points, y, np.maximum(found.radius, 0), cascade).any()
    # Negative control: the largest radius of the experts that agree, whoever is asked before.
    naive = np.where(np.isfinite(found.accepts), found.accepts, 0).max(axis=1)
    larger = naive > found.radius + 1e-9
    assert not larger.any() or others_in_the_ball(points[larger], y[larger], naive[larger], cascade).any()


def test_the_naive_radius_is_false_somewhere() -> None:
    cascade, (points, _) = CASCADES[0], sample_points(PLANE, 600, seed=3)
    y = answers(points, cascade)
    points, y = points[y != ABSTAIN], y[y != ABSTAIN]
    naive = exact(points, y, cascade).accepts.max(axis=1)
    assert others_in_the_ball(points, y, np.maximum(naive, 0), cascade).mean() > 0.02


@pytest.mark.parametrize("cascade", [CASCADES[0], CASCADES[1], CASCADES[4]], ids=lambda c: str(c.sigmas))
def test_never_below_the_radius_of_jeong_and_shin_and_often_above(cascade: Cascade) -> None:
    points, _ = sample_points(PLANE, 600, seed=3)
    y = answers(points, cascade)
    points, y = points[y != ABSTAIN], y[y != ABSTAIN]
    found = exact(points, y, cascade)
    p, z = probabilities(points, cascade), np.array(cascade.limits)
    accepting = np.array(cascade.sigmas) * special.ndtri(p.max(axis=2)) >= z
    first = accepting.argmax(axis=1)
    before = np.where(np.arange(len(cascade.sigmas)) < first[:, None], found.errs, np.inf).min(axis=1)
    theirs = np.minimum(found.accepts[np.arange(len(first)), first], before)
    assert (found.radius >= theirs - 1e-12).all()
    assert (found.radius > theirs + 1e-6).mean() > 0.05


def test_one_expert_is_plain_smoothing() -> None:
    votes = np.array([[[900, 60, 40]], [[480, 400, 120]]])
    found = steps(votes, np.array([0, 0]), cascade=Cascade((0.5,)), alpha=0.01)
    z = 0.5 * stats.norm.ppf([lower_bound(k, 1000, 0.01) for k in (900, 480)])
    assert found.accepts[:, 0] == pytest.approx(z)
    assert found.radius == pytest.approx(z)  # below 0 for the second: no majority
    # A threshold below any majority: both bounds count, each at half the level.
    low = steps(votes, np.array([0, 0]), cascade=Cascade((0.5,), (-9.0,)), alpha=0.01)
    mine = stats.norm.ppf(lower_bound(480, 1000, 0.005))
    theirs = stats.norm.ppf(1 - lower_bound(600, 1000, 0.005))
    assert low.radius[1] == pytest.approx(0.25 * (mine - theirs))
    mine, theirs = lower_bound(900, 1000, 0.005), upper_bound(60, 1000, 0.005)
    assert low.radius[0] == pytest.approx(0.25 * (stats.norm.ppf(mine) - stats.norm.ppf(theirs)))


def test_radius_by_hand() -> None:
    # silent at first, then sure; the second errs late but the first one early
    assert cascade_radius([-0.2, 0.9], [0.5, 1.2]) == 0.5
    assert cascade_radius([0.3, 0.9], [1.5, 1.2]) == 0.9
    assert cascade_radius([0.8, -1.0], [1.5, 0.1]) == 0.8  # the second is never asked within 0.8
    assert cascade_radius([0.4, 0.9], [1.5, 0.1]) == 0.4  # beyond 0.4 it may be
    assert cascade_radius([-0.1, -0.3], [1.0, 1.0]) == -0.1


def test_a_rival_never_has_more_than_the_lower_bound_leaves() -> None:
    """So `steps` needs no other bound of rivals than their own."""
    rng = np.random.default_rng(0)
    n = rng.integers(1, 1000, 2000)
    votes = rng.multinomial(n, rng.dirichlet([1, 1, 1], size=2000))
    for level in (0.2, 1e-4):
        low, high = lower_bound(votes[:, 0], n, level), upper_bound(votes[:, 1:].max(axis=1), n, level)
        assert (high <= 1 - low + 1e-13).all()
        assert (high < 1 - low - 1e-3).mean() > 0.5


def test_experts_that_were_not_asked_lower_the_radius_only() -> None:
    rng = np.random.default_rng(0)
    votes, changed = rng.multinomial(1000, rng.dirichlet([4, 1, 1], size=(200, 3))), 0
    for cascade in CASCADES[:3]:
        y = np.zeros(200, dtype=np.int64)
        whole = steps(votes, y, cascade=cascade, alpha=0.001)
        for absent in range(3):
            part = votes.copy()
            part[:, absent] = 0
            found = steps(part, y, cascade=cascade, alpha=0.001)
            assert np.isneginf(found.accepts[:, absent]).all()
            assert (found.radius <= whole.radius).all()
            changed += (found.radius < whole.radius).sum()
    assert changed > 100


def test_the_first_that_accepts_answers() -> None:
    votes = np.array(
        [[[40, 35, 25], [20, 70, 10]], [[60, 30, 10], [0, 100, 0]], [[40, 35, 25], [45, 45, 10]]]
    )
    expert, kind = first_to_accept(votes, Cascade((1.0, 0.5)))
    assert expert.tolist() == [1, 0, ABSTAIN]
    assert kind.tolist() == [1, 0, ABSTAIN]
    stricter = first_to_accept(votes, Cascade((1.0, 0.5), (0.5, 0.0)))
    assert stricter[0].tolist() == [1, 1, ABSTAIN]
    asked = votes.copy()
    asked[1, 0] = 0
    assert first_to_accept(asked, Cascade((1.0, 0.5)))[0].tolist() == [1, 1, ABSTAIN]


def test_all_of_a_few_votes_is_not_certainty() -> None:
    votes = np.array([[[10, 0]], [[1000, 0]]])
    assert first_to_accept(votes, Cascade((1.0,), (2.0,)))[0].tolist() == [ABSTAIN, 0]


# The level, where all of it is spent.

ALPHA, RUNS, N = 0.2, 4000, 200


def _most(alpha: float) -> int:
    """More violations than these refute "at most alpha", wrongly with probability at most 1e-3."""
    return int(stats.binom.isf(1e-3, RUNS, alpha))


def violations(p: np.ndarray, cascade: Cascade, alpha: float, seed: int) -> int:
    """How often the radius from votes exceeds the one from exact probabilities p (K, C), for class 0."""
    rng = np.random.default_rng(seed)
    votes = np.stack([rng.multinomial(N, row, size=RUNS) for row in p], axis=1)
    sigma, limit = np.array(cascade.sigmas), np.array(cascade.limits)
    z, mine = special.ndtri(p[:, 1:]), special.ndtri(p[:, :1])
    half = sigma[:, None] / 2 * (mine - z)
    accepts = np.minimum(sigma * mine[:, 0] - limit, half.min(axis=1))
    errs = np.maximum(limit[:, None] - sigma[:, None] * z, half).min(axis=1)
    true = cascade_radius(accepts, errs)
    found = steps(votes, np.zeros(RUNS, dtype=np.int64), cascade=cascade, alpha=alpha).radius
    return int((found > true + 1e-12).sum())


HARD = {
    # silence is next, and all accept at the same distance: every bound is spent
    "silence": (np.array([[0.80, 0.15, 0.05], [0.80, 0.15, 0.05]]), Cascade((0.5, 0.5 * (1 + 1e-9)))),
    # the second errs where the first falls silent: two bounds in one way
    "errs": (np.array([[0.60, 0.20, 0.20], [0.30, 0.40, 0.30]]), Cascade((0.5, 0.5 * (1 + 1e-9)))),
    "below a majority": (np.array([[0.48, 0.27, 0.25]]), Cascade((0.5,), (-9.0,))),
    # the same two ways to fail, where the bounds of one expert have most of the level
    "silence, most for one": (
        np.array([[0.80, 0.15, 0.05], [0.80, 0.15, 0.05]]),
        Cascade((0.5, 0.5 * (1 + 1e-9)), (), (0.75, 0.25)),
    ),
    "errs, most for the other": (
        np.array([[0.60, 0.20, 0.20], [0.30, 0.40, 0.30]]),
        Cascade((0.5, 0.5 * (1 + 1e-9)), (0.0, -0.1), (0.1, 0.9)),
    ),
}


@pytest.mark.parametrize("name", HARD)
def test_the_level_holds_where_it_is_spent(name: str) -> None:
    p, cascade = HARD[name]
    failing = violations(p, cascade, ALPHA, seed=1)
    print(f"{name}: {failing} of {RUNS} claim too much, alpha = {ALPHA}")
    assert failing <= _most(ALPHA)


def test_the_whole_level_for_each_bound_is_caught() -> None:
    """Negative control: bounds that each take all of alpha, where silence needs every one of them."""
    p, cascade = HARD["silence"]
    assert violations(p, cascade, ALPHA * 2, seed=1) > _most(ALPHA)  # alpha / 2 each became alpha each


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (((),), "positive sigmas"),
        (((0.5, 0.5),), "different positive sigmas"),
        (((0.5, -1.0),), "different positive sigmas"),
        (((0.5, 0.25), (0.1,)), "threshold for each of 2"),
        (((0.5,), (np.nan,)), "finite threshold"),
        (((0.5, 0.25), (), (0.9, 0.2)), "at most 1 in all"),
        (((0.5, 0.25), (), (0.5,)), "share of the level for each of 2"),
        (((0.5, 0.25), (), (0.5, 0.0)), "positive share"),
    ],
)
def test_cascades_that_make_no_sense_are_refused(made: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cascade(*made)


def test_shares_of_the_level_are_spent_by_the_bounds_of_their_expert() -> None:
    votes = np.array([[[600, 350, 50], [900, 60, 40]]])
    cascade = Cascade((1.0, 0.5), (0.0, -0.3), (0.875, 0.125))
    assert cascade.levels(0.01) == (0.01 * 0.875, 0.01 * 0.125 / 2)
    found = steps(votes, np.array([0]), cascade=cascade, alpha=0.01)
    assert found.accepts[0, 0] == pytest.approx(stats.norm.ppf(lower_bound(600, 1000, 0.01 * 0.875)))
    mine = lower_bound(900, 1000, 0.01 * 0.125 / 2)
    theirs = min(upper_bound(60, 1000, 0.01 * 0.125 / 2), 1 - mine)
    assert found.accepts[0, 1] == pytest.approx(0.25 * (stats.norm.ppf(mine) - stats.norm.ppf(theirs)))


def test_votes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted votes \(…, 2, C\)"):
        steps(np.ones((5, 3, 4)), np.zeros(5), cascade=Cascade((0.5, 0.25)), alpha=0.01)
