"""Closed forms, exact tails (SciPy's and mpmath's), identities, and the errors."""

import mpmath
import numpy as np
import pytest
from scipy import special, stats

from dualrs_lab.evidence import (
    ahead_pvalue,
    anytime_lower_bound,
    anytime_upper_bound,
    enough_draws,
    log_wealth,
    lower_bound,
    radius_ceiling,
    rs_radius,
    smoothed_slope,
    two_sided_pvalue,
    upper_bound,
)
from dualrs_lab.mixing import mix_radius_closed, mix_radius_exact, mix_radius_lipschitz, mix_radius_smoothing

ALPHAS = (1e-9, 1e-6, 0.0005, 0.001, 0.01, 0.05, 0.5, 0.9)
TRIALS = (1, 2, 10, 100, 1000, 10_000, 100_000)


def _counts(n: int) -> np.ndarray:
    inner = np.random.default_rng(n).integers(0, n + 1, 200)
    return np.unique(np.concatenate([[0, 1, n // 2, n - 1, n], inner]))


@pytest.mark.parametrize("n", TRIALS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_level_is_spent_and_never_overspent(n: int, alpha: float) -> None:
    k = _counts(n)
    low, high = lower_bound(k, n, alpha), upper_bound(k, n, alpha)
    assert np.all(stats.binom.sf(k - 1, n, low)[k > 0] <= alpha * (1 + 1e-9))
    assert np.all(stats.binom.cdf(k, n, high)[k < n] <= alpha * (1 + 1e-9))
    # Not merely safe but exact: a hair further in and the level is broken. The hair is 64 spacings of
    # float64, or 1e-7 of the distance to the nearer end where that is larger.
    inside = low + np.maximum(64 * np.spacing(low), 1e-7 * low * (1 - low))
    assert np.all(stats.binom.sf(k - 1, n, inside)[k > 0] > alpha)
    inside = high - np.maximum(64 * np.spacing(high), 1e-7 * high * (1 - high))
    assert np.all(stats.binom.cdf(k, n, inside)[k < n] > alpha)


HARD_CASES = [(100_000, 100_000), (99_990, 100_000), (50_200, 100_000), (99, 100), (3, 10_000)]


def _tail(k: int, n: int, p: float) -> mpmath.mpf:
    """P[Binomial(n, p) >= k] in fifty digits, summed from k upwards until a term adds nothing."""
    with mpmath.workdps(50):
        odds = mpmath.mpf(p) / (1 - mpmath.mpf(p))
        term = mpmath.binomial(n, k) * mpmath.mpf(p) ** k * (1 - mpmath.mpf(p)) ** (n - k)
        total = mpmath.mpf(0)
        for i in range(k, n + 1):
            total += term
            if term < total * mpmath.mpf(10) ** -40:
                break
            term *= odds * (n - i) / (i + 1)
        return total


@pytest.mark.parametrize(("k", "n"), HARD_CASES)
@pytest.mark.parametrize("alpha", [1e-6, 0.001])
def test_lower_bound_agrees_with_fifty_digit_arithmetic(k: int, n: int, alpha: float) -> None:
    assert alpha * (1 - 1e-6) < _tail(k, n, float(lower_bound(k, n, alpha))) <= alpha * (1 + 1e-9)


def test_closed_forms() -> None:
    n = np.array([1, 10, 1000, 100_000])
    np.testing.assert_allclose(lower_bound(n, n, 0.001), 0.001 ** (1 / n), rtol=1e-14)
    np.testing.assert_allclose(upper_bound(0, n, 0.001), 1 - 0.001 ** (1 / n), rtol=1e-10)
    assert lower_bound(0, 10, 0.001) == 0.0
    assert upper_bound(10, 10, 0.001) == 1.0


def test_left_and_right_are_mirror_images() -> None:
    k = np.arange(1001)
    np.testing.assert_allclose(lower_bound(k, 1000, 0.01), 1 - upper_bound(1000 - k, 1000, 0.01), atol=1e-13)


def test_more_votes_a_larger_alpha_and_more_draws_raise_the_bound() -> None:
    assert np.all(np.diff(lower_bound(np.arange(101), 100, 0.001)) > 0)
    assert np.all(np.diff(lower_bound(90, 100, np.array([1e-6, 1e-3, 0.1]))) > 0)
    n = np.array([10, 100, 1000, 10_000])
    assert np.all(np.diff(lower_bound(0.9 * n, n, 0.001)) > 0)


def test_ceilings_of_the_literature() -> None:
    """R / sigma where every vote agrees, at alpha = 0.001 and at its half, which is left by two bounds."""
    n = np.array([100, 1000, 10_000, 100_000])
    whole, half = [1.500, 2.463, 3.199, 3.812], [1.452, 2.429, 3.171, 3.788]
    np.testing.assert_allclose(radius_ceiling(n, 0.001, 1.0, rule="cohen"), whole, atol=6e-4)
    np.testing.assert_allclose(radius_ceiling(n, 0.0005, 1.0, rule="cohen"), half, atol=6e-4)
    np.testing.assert_allclose(radius_ceiling(n, 0.001, 1.0), half, atol=6e-4)
    assert np.all(radius_ceiling(n, 0.001, 1.0, rule="selected") >= radius_ceiling(n, 0.001, 1.0))


def test_radius_scales_with_sigma_and_abstains_at_one_half() -> None:
    p = np.array([0.0, 0.3, 0.5, np.nextafter(0.5, 1), 0.9, 1.0])
    radius = rs_radius(p, 0.25)
    np.testing.assert_array_equal(radius[:3], 0.0)
    assert radius[3] > 0
    assert radius[4] == pytest.approx(0.25 * stats.norm.ppf(0.9), rel=1e-14)
    assert np.isinf(radius[5])
    np.testing.assert_array_equal(rs_radius(p, 0.5), 2 * radius)


def test_two_sided_test_agrees_with_scipy() -> None:
    for k, n in [(5, 10), (6, 10), (0, 1), (9, 10), (100, 100), (480, 1000), (55_000, 100_000)]:
        assert two_sided_pvalue(k, n) == pytest.approx(stats.binomtest(k, n, 0.5).pvalue, rel=1e-9)
        assert two_sided_pvalue(k, n) == two_sided_pvalue(n - k, n)


def test_one_class_ahead_of_another_is_a_one_sided_binomial_test() -> None:
    own, rival = np.array([0, 5, 9, 60, 100]), np.array([0, 5, 1, 40, 0])
    wanted = [
        1.0,
        *(
            stats.binomtest(int(k), int(k + r), 0.5, "greater").pvalue
            for k, r in zip(own[1:], rival[1:], strict=True)
        ),
    ]
    np.testing.assert_allclose(ahead_pvalue(own, rival), wanted, rtol=1e-9)
    many = ahead_pvalue(50, np.arange(60))
    assert (np.diff(many) > 0).all()  # so that the largest rival stands for a fixed one
    with pytest.raises(ValueError, match="ahead_pvalue: wants whole counts"):
        ahead_pvalue(5, -1)


def _exact_log_wealth(k: int, n: int, p0: float) -> float:
    """By its definition, in sixty digits, seen from the side of the failures."""
    with mpmath.workdps(60):
        rest, half = 1 - mpmath.mpf(p0), mpmath.mpf(1) / 2
        average = mpmath.betainc(n - k + half, k + half, 0, rest) / mpmath.betainc(half, half, 0, rest)
        return float(mpmath.log(average) - k * mpmath.log1p(-rest) - (n - k) * mpmath.log(rest))


@pytest.mark.parametrize("p0", [1e-6, 0.3, 0.5, 0.9, 0.999, 1 - 1e-9])
def test_wealth_agrees_with_sixty_digit_arithmetic(p0: float) -> None:
    for n in (1, 7, 100, 3000):
        for k in {0, 1, n // 2, n - n // 100, n}:
            exact, found = _exact_log_wealth(k, n, p0), log_wealth(k, n, p0)
            if np.isinf(found):
                assert exact < -4  # it underflows where nothing could be certified
            else:
                assert found == pytest.approx(exact, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("p0", [0.5, 0.8, 0.99])
def test_wealth_is_a_fair_game_at_p0_and_unfair_below(p0: float) -> None:
    n = np.repeat(np.arange(100), np.arange(1, 101))
    k = np.concatenate([np.arange(n + 1) for n in range(100)])
    now, won, lost = (np.exp(log_wealth(*votes, p0)) for votes in ((k, n), (k + 1, n + 1), (k, n + 1)))
    np.testing.assert_allclose(p0 * won + (1 - p0) * lost, now, rtol=1e-9)
    assert np.all(won > lost)  # so for a smaller p it is expected to fall
    assert now[0] == 1.0


def test_wealth_falls_in_p0_where_it_exceeds_one() -> None:
    """So that the null hypotheses it rejects are an interval, and one bound speaks for all of them."""
    p0 = np.sin(np.linspace(0, np.pi / 2, 2002)[1:-1]) ** 2
    for n in (1, 5, 50, 2000):
        wealth = np.maximum(log_wealth(np.unique([0, 1, n // 2, n - 1, n])[:, None], n, p0), 0.0)
        assert np.diff(wealth).max() < 1e-9


def test_wealth_and_bounds_hold_up_at_a_hundred_million_draws() -> None:
    n = 10**8
    k = np.array([0, 1, n // 2, n // 2 + 40_000, n - 100, n])
    assert not np.isnan(log_wealth(k[:, None], n, [1e-9, 0.5, 1 - 1e-9])).any()
    bound = anytime_lower_bound(k, n, 0.001)
    assert np.all(np.diff(bound) > 0)
    np.testing.assert_allclose(log_wealth(k[1:], n, bound[1:]), np.log(1000), atol=1e-4)


@pytest.mark.parametrize("n", TRIALS)
@pytest.mark.parametrize("alpha", [1e-9, 0.001, 0.01, 0.2, 0.9])
def test_the_anytime_bound_is_where_the_wealth_reaches_its_goal(n: int, alpha: float) -> None:
    k = _counts(n)[1:]
    bound, goal = anytime_lower_bound(k, n, alpha), -np.log(alpha)
    spare = log_wealth(k, n, bound) - goal
    assert np.all(spare > 0)
    assert np.all(spare < (2e-4 if alpha <= 0.01 else 0.3))  # hardly any of the level is left
    assert np.all(np.diff(bound) > 0)
    assert np.all(bound < lower_bound(k, n, alpha))  # what holding at all times costs
    np.testing.assert_array_equal(anytime_upper_bound(n - k, n, alpha), 1 - bound)


def test_the_anytime_bound_has_no_opinion_without_successes_or_draws() -> None:
    assert anytime_lower_bound([0, 0], [0, 10], 0.001).tolist() == [0.0, 0.0]
    assert anytime_upper_bound([0, 10], [0, 10], 0.001).tolist() == [1.0, 1.0]
    assert log_wealth(0, 0, [0.3, 0.999]).tolist() == [0.0, 0.0]


def test_anytime_bounds_do_not_depend_on_what_else_is_asked() -> None:
    k = np.random.default_rng(0).integers(5000, 10_001, 300)
    together = anytime_lower_bound(k, 10_000, 0.001)
    alone = [anytime_lower_bound(each, 10_000, 0.001) for each in k]
    np.testing.assert_allclose(together, alone, rtol=1e-14)


@pytest.mark.parametrize("rule", ["cohen", "two-bounds"])
@pytest.mark.parametrize("loss", [0.01, 0.05, 0.5])
def test_enough_draws_lose_no_more_than_allowed_and_fewer_would(loss: float, rule: str) -> None:
    most, p = 100_000, np.array([0.51, 0.6, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0])
    rival = np.minimum(0.3, 1 - p)

    def radius(draws: np.ndarray | int) -> np.ndarray:
        own, theirs = np.floor(p * draws + 1e-9), np.ceil(rival * draws - 1e-9)
        if rule == "cohen":
            return rs_radius(lower_bound(own, draws, 0.001), 1.0)
        low, high = (
            lower_bound(own, draws, 0.0005),
            upper_bound(np.minimum(theirs, draws - own), draws, 0.0005),
        )
        return np.maximum(special.ndtri(low) - special.ndtri(np.minimum(high, 1 - low)), 0.0) / 2

    enough = enough_draws(p, most, 0.001, loss, rival=rival, rule=rule, step=100)
    assert np.all(enough % 100 == 0)
    assert np.all(radius(most) - radius(enough) <= loss)
    assert np.all(radius(enough) > 0)
    fewer = radius(np.maximum(enough - 100, 1))
    assert np.all((radius(most) - fewer > loss) | (fewer == 0))


def test_enough_draws_are_none_where_nothing_can_be_certified_and_at_most_all() -> None:
    assert enough_draws([0.0, 0.5], 100_000, 0.001, 0.05).tolist() == [0, 0]
    assert enough_draws(1.0, 250, 0.001, 1e-9, step=100) == 250
    assert enough_draws(1.0, 50, 0.001, 0.05, step=100) == 50


def test_scalars_give_scalars_and_arrays_broadcast() -> None:
    assert np.ndim(lower_bound(90, 100, 0.001)) == np.ndim(anytime_lower_bound(90, 100, 0.001)) == 0
    assert np.ndim(log_wealth(90, 100, 0.5)) == 0
    assert float(lower_bound(90, 100, 0.001)) < 0.9
    assert lower_bound(np.array([[90], [95]]), 100, np.array([0.1, 0.01, 0.001])).shape == (2, 3)
    assert anytime_lower_bound([[90], [95]], 100, [0.1, 0.01, 0.001]).shape == (2, 3)
    assert lower_bound(np.array([], dtype=int), 100, 0.001).shape == (0,)
    assert anytime_lower_bound(np.array([], dtype=int), 100, 0.001).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lower_bound(11, 10, 0.001), r"lower_bound: .*got 11 of 10"),
        (lambda: lower_bound(-1, 10, 0.001), r"got -1 of 10"),
        (lambda: lower_bound(0, 0, 0.001), r"trials >= 1, got 0 of 0"),
        (lambda: upper_bound([1, 2.5], 10, 0.001), r"upper_bound: wants whole counts .*got 2.5 of 10"),
        (lambda: lower_bound(np.nan, 10, 0.001), r"got nan of 10"),
        (lambda: lower_bound(1, 10, 1.0), r"alpha is a failure probability in \(0, 1\), got 1"),
        (lambda: two_sided_pvalue(3, 2), r"two_sided_pvalue: .*got 3 of 2"),
        (lambda: anytime_lower_bound(3, 2, 0.1), r"anytime_lower_bound: .*trials >= 0, got 3 of 2"),
        (lambda: anytime_upper_bound(1, 2, 0.0), r"anytime_upper_bound: alpha .* got 0"),
        (lambda: log_wealth(1, 2, 1.0), r"log_wealth: p0 is a probability in \(0, 1\), got 1"),
        (lambda: enough_draws(1.5, 100, 0.001, 0.05), r"enough_draws: wanted shares in \[0, 1\].* got 1.5"),
        (lambda: enough_draws(0.5, 100, 0.001, 0.0), r"enough_draws: .* got 0.5, 0.5, 0.0 and 1"),
        (lambda: rs_radius(1.2, 0.25), r"rs_radius: p_lower is a probability in \[0, 1\], got 1.2"),
        (lambda: rs_radius(0.9, 0.0), r"rs_radius: sigma must be positive and finite, got 0.0"),
    ],
)
def test_errors_name_the_call_and_the_value(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def _random_mixes(count: int = 20_000) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    p_lower = rng.uniform(0.3, 1, count)
    return p_lower, rng.uniform(0, 1 - p_lower), rng.uniform(0.4, 1, count), rng.uniform(0.1, 2, count)


def test_the_exact_radius_of_a_mix_is_the_largest() -> None:
    """Against theorem 5, and theorem 4 with the sharp and with the published constant."""
    p1, p2, a, sigma = _random_mixes()
    exact, five = mix_radius_exact(p1, p2, a, sigma), mix_radius_smoothing(p1, p2, a, sigma)
    sharp = mix_radius_lipschitz(p1, p2, a, smoothed_slope(sigma))
    published = mix_radius_lipschitz(p1, p2, a, np.sqrt(2 / np.pi) / sigma)
    np.testing.assert_allclose(published, sharp / 2, rtol=1e-12)
    assert np.all(exact >= five * (1 - 1e-12))
    assert np.all(exact >= sharp * (1 - 1e-12))
    assert np.all(five >= published - 1e-12)
    assert np.mean(exact > 1.2 * five) > 0.3
    positive = p1 - p2 > (1 - a) / a
    for radius in (exact, five, sharp):
        np.testing.assert_array_equal(radius > 0, positive & (a > 0.5))


def test_the_exact_radius_is_the_root() -> None:
    p1, p2, a, sigma = _random_mixes(2000)
    r = mix_radius_exact(p1, p2, a, sigma)
    margin = stats.norm.cdf(stats.norm.ppf(p1) - r / sigma) - stats.norm.cdf(stats.norm.ppf(p2) + r / sigma)
    some = r > 0
    np.testing.assert_allclose(margin[some], ((1 - a) / a)[some], rtol=1e-9, atol=1e-12)
    assert np.all(margin[some] >= ((1 - a) / a)[some] - 1e-13)


def test_the_exact_radius_is_rounded_down() -> None:
    """By the very sums that find it, the class loses no more than it may."""
    p1, p2, a, _ = _random_mixes(2000)
    r = mix_radius_exact(p1, p2, a, 1.0)
    lost = special.ndtr(r - special.ndtri(p1)) + special.ndtr(special.ndtri(p2) + r)
    some = r > 0
    assert some.mean() > 0.2
    assert (lost <= (2 * a - 1) / a)[some].all()


def test_the_closed_form_is_the_root_where_the_rest_is_for_the_others() -> None:
    p1, _, a, sigma = _random_mixes()
    closed = mix_radius_closed(p1, a, sigma)
    np.testing.assert_allclose(closed, mix_radius_exact(p1, 1 - p1, a, sigma), atol=1e-13)
    price = sigma * stats.norm.ppf(1 / (2 * np.maximum(a, 0.5)))
    np.testing.assert_allclose(closed, np.maximum(rs_radius(p1, sigma) - price, 0), atol=1e-12)


def test_a_mix_at_its_ends() -> None:
    p = np.linspace(0, 1, 101)
    np.testing.assert_array_equal(mix_radius_closed(p, 1.0, 0.5), rs_radius(p, 0.5))
    np.testing.assert_allclose(mix_radius_exact(p, 1 - p, 1.0, 0.5), rs_radius(p, 0.5), atol=1e-13)
    np.testing.assert_allclose(mix_radius_smoothing(p, 1 - p, 1.0, 0.5), rs_radius(p, 0.5), atol=1e-13)
    for a in (0.0, 0.3, 0.5):
        assert not mix_radius_closed(p, a, 1.0).any()
        assert not mix_radius_exact(p, 1 - p, a, 1.0).any()
        assert not mix_radius_smoothing(p, 1 - p, a, 1.0).any()
        assert not mix_radius_lipschitz(p, 1 - p, a, 1.0).any()
    assert mix_radius_exact(1.0, 0.0, 0.51, 1.0) == np.inf
    assert mix_radius_smoothing(1.0, 0.0, 0.76, 1.0) == pytest.approx(stats.norm.ppf(0.76))


def test_published_numbers_of_a_mix() -> None:
    """The table of p = 0.9, 0.99, 0.999 at sigma = 1, and the two shift constants, to three digits."""
    weights = np.array([0.6, 0.67, 0.76, 0.9])
    wanted = {
        0.9: ([0.084, 0.193, 0.303, 0.432], [0.100, 0.261, 0.479, 0.878], [0.314, 0.619, 0.875, 1.142]),
        0.99: ([0.196, 0.305, 0.416, 0.544], [0.238, 0.421, 0.682, 1.232], [1.359, 1.664, 1.920, 2.187]),
        0.999: ([0.208, 0.317, 0.428, 0.556], [0.252, 0.438, 0.704, 1.276], [2.123, 2.427, 2.684, 2.951]),
    }
    for p, (four, five, exact) in wanted.items():
        slope = np.sqrt(2 / np.pi)
        np.testing.assert_allclose(mix_radius_lipschitz(p, 1 - p, weights, slope), four, atol=6e-4)
        np.testing.assert_allclose(mix_radius_smoothing(p, 1 - p, weights, 1.0), five, atol=6e-4)
        np.testing.assert_allclose(mix_radius_closed(p, weights, 1.0), exact, atol=6e-4)
    for sigma, shift in ((0.5, 0.203), (1.0, 0.407)):
        lost = rs_radius(0.99, sigma) - mix_radius_closed(0.99, 0.76, sigma)
        assert lost == pytest.approx(shift, abs=6e-4)


def test_a_half_space_attains_the_slope_and_nothing_is_steeper() -> None:
    """The probability of a half-space at its face; and of random unions of intervals, anywhere."""
    sigma, x = 0.3, np.linspace(-2, 2, 4001)
    half = np.diff(stats.norm.cdf(x / sigma)) / np.diff(x)
    assert half.max() == pytest.approx(smoothed_slope(sigma), rel=1e-4)
    rng = np.random.default_rng(0)
    for _ in range(50):
        edges = np.sort(rng.uniform(-1, 1, 8)).reshape(4, 2)
        p = sum(stats.norm.cdf((x - low) / sigma) - stats.norm.cdf((x - high) / sigma) for low, high in edges)
        assert np.abs(np.diff(p) / np.diff(x)).max() <= smoothed_slope(sigma) * (1 + 1e-6)


@pytest.mark.parametrize("radius", [mix_radius_lipschitz, mix_radius_smoothing, mix_radius_exact])
def test_a_mix_refuses_what_is_no_probability(radius) -> None:
    for args, what in [
        ((1.2, 0.1, 0.8, 1.0), "p_lower is a probability"),
        ((0.9, -0.1, 0.8, 1.0), "p_upper is a probability"),
        ((0.9, 0.1, 1.8, 1.0), "weight is a share"),
        ((0.9, 0.1, 0.8, 0.0), "must be positive"),
    ]:
        with pytest.raises(ValueError, match=f"{radius.__name__}.*{what}"):
            radius(*args)
    with pytest.raises(ValueError, match="weight is a share"):
        mix_radius_closed(0.9, np.nan, 1.0)
