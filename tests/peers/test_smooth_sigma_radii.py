"""How far an answer lasts where the level changes: against exact classifiers, draws and other numerics."""

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from dualrs_lab.evidence import margin_radius, rs_radius
from dualrs_lab.peers import least_probability, level_slope, smooth_sigma_radius
from dualrs_lab.peers.radii import _covered

PIXELS = 3 * 32 * 32


NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)


def ball(dims: int, away: float, reach: float) -> float:
    """P[|Z - c| <= reach], |c| = away: one coordinate along c, the others by a central chi-square."""
    low, high = max(-9.0, away - reach), min(9.0, away + reach)
    if low >= high:
        return 0.0
    u = (low + high) / 2 + (high - low) / 2 * NODES
    rest = (reach - away + u) * (reach + away - u)
    return float((high - low) / 2 * (WEIGHTS * stats.norm.pdf(u) * special.chdtr(dims - 1, rest)).sum())


def worst_set(p: float, away: float, change: float, dims: int) -> tuple[float, float, bool]:
    """The set of `p` that loses most: centre on the line, radius, and whether it is outside the ball."""
    centre, outside = -away / np.expm1(2 * change), bool(change < 0)
    wanted = 1 - p if outside else p
    far = abs(centre) + 4 * np.sqrt(dims) + 20
    reach = optimize.brentq(lambda r: ball(dims, abs(centre), r) - wanted, 0.0, far, xtol=1e-13)
    return centre, float(reach), outside


def chance(where: float, level: float, dims: int, centre: float, reach: float, outside: bool) -> float:
    """Exact probability of such a set under N(where, level^2 I), `where` on the line."""
    inside = ball(dims, abs(where - centre) / level, reach / level)
    return 1 - inside if outside else inside


@pytest.mark.parametrize("dims", [2, 5, 20])
@pytest.mark.parametrize("change", [-0.2, -0.02, 0.03, 0.25])
@pytest.mark.parametrize(("p", "away"), [(0.8, 0.3), (0.97, 1.2)])
def test_least_probability_is_that_of_the_likelihood_ratio(
    dims: int, change: float, p: float, away: float
) -> None:
    # A second path that knows no chi-square: draw, cut the ratio where p of the first draws are, count the
    # second. Five standard errors of both counts: about one seed in 10^6 would fail.
    rng, draws = np.random.default_rng(dims), 200_000
    mean = away * np.eye(dims)[0]
    z = rng.standard_normal((draws, dims))

    def ratio(at: np.ndarray) -> np.ndarray:
        return np.asarray((at**2).sum(axis=1) - np.exp(-2 * change) * ((at - mean) ** 2).sum(axis=1))

    cut = np.quantile(ratio(z), p)
    drawn = float((ratio(mean + np.exp(change) * rng.standard_normal((draws, dims))) <= cut).mean())
    found, forgets = least_probability(p, away, change, dims), float(special.ndtr(special.ndtri(p) - away))
    assert abs(found - drawn) < 5 * np.sqrt(1 / draws)
    if (
        abs(change) > 0.1 and dims == 20
    ):  # the negative control: what forgets the change of the level is told apart
        assert abs(forgets - drawn) > 5 * np.sqrt(1 / draws)


@pytest.mark.parametrize("change", [-0.01, -0.002, 0.003, 0.015])
@pytest.mark.parametrize(("p", "away"), [(0.6, 0.1), (0.95, 1.0), (0.9993, 2.8)])
def test_least_probability_in_the_dimensions_of_cifar(change: float, p: float, away: float) -> None:
    centre, reach, outside = worst_set(p, away, change, PIXELS)
    exact = chance(away, np.exp(change), PIXELS, centre, reach, outside)
    found = least_probability(p, away, change, PIXELS)
    assert exact - 1e-7 < found <= exact + 1e-12


def test_least_probability_at_extremes_is_below_the_limit_and_never_nan() -> None:
    for dims in (1, 2, 64, PIXELS, 3 * 224 * 224):
        for change in (0.0, 1e-12, -1e-9, 1e-6, -1e-4, 0.05, -0.7, 5.0, -5.0):
            for p in (1e-12, 0.5, 1 - 7e-4, 1 - 1e-12):
                for away in (0.0, 1e-9, 1.0, 37.0):
                    found = least_probability(p, away, change, dims)
                    equal = float(special.ndtr(special.ndtri(p) - away))
                    assert 0 <= found <= p + 1e-12
                    assert found >= equal - level_slope(dims) * abs(change) - 1e-8  # Lipschitz, from change 0
    assert least_probability(1.0, 3.0, 0.1, 64) == 1
    assert least_probability(0.9, 0.0, 0.0, 64) == pytest.approx(0.9, abs=1e-12)


def test_the_slope_is_the_expected_excess_of_a_chi_square() -> None:
    for dims in (1, 2, 10, PIXELS):
        law = stats.chi2(dims)
        excess = integrate.quad(
            lambda x, law=law, dims=dims: (x - dims) * law.pdf(x), dims, law.isf(1e-15), limit=200
        )
        assert level_slope(dims) == pytest.approx(excess[0], rel=1e-7)
        assert level_slope(dims) <= np.sqrt(dims / np.pi)


@pytest.mark.parametrize("dims", [2, 20, PIXELS])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("p", "sigma", "rate"), [(0.7, 0.5, 0.05), (0.99, 0.25, 0.02), (0.999, 1.0, 0.3)])
def test_the_radius_is_that_of_the_worst_classifier(
    dims: int, sign: int, p: float, sigma: float, rate: float
) -> None:
    # The classifier that answers 1 in the worst set, smoothed with log sigma(x) = log sigma + sign rate |x|:
    # where it loses its majority is known exactly. Two signs: the smaller of both radii is attained.
    radius = float(smooth_sigma_radius(p, 1 - p, sigma, rate, dims))
    broken = {}
    for end in (-1, 1):
        centre, reach, outside = worst_set(p, 1.004 * radius / sigma, end * rate * 1.004 * radius, dims)
        at = [chance(t / sigma, np.exp(end * rate * t), dims, centre, reach, outside) for t in (0.0, radius)]
        assert at[0] == pytest.approx(p, abs=1e-7)
        beyond = chance(
            1.004 * radius / sigma, np.exp(end * rate * 1.004 * radius), dims, centre, reach, outside
        )
        broken[end] = beyond < 0.5
        if end == sign:
            for t in np.linspace(
                0, radius, 6
            ):  # other distances, with the level at either end of what it may be
                for level in (np.exp(-rate * t), np.exp(rate * t)):
                    assert chance(t / sigma, level, dims, centre, reach, outside) > 0.5
                    assert chance(-t / sigma, level, dims, centre, reach, outside) > 0.5
    assert any(broken.values())  # tight: four thousandths further it is broken
    if dims == PIXELS:  # the negative control: Cohen's radius, which forgets that sigma changes, is false
        far = float(rs_radius(p, sigma))
        centre, reach, outside = worst_set(p, far / sigma, -rate * far, dims)
        assert chance(far / sigma, np.exp(-rate * far), dims, centre, reach, outside) < 0.5


def test_every_level_between_the_ends_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        dims = int(rng.choice([2, 64, PIXELS]))
        low = rng.uniform(0.3, 0.9995)
        high = rng.uniform(0, min(low, 1 - low))
        sigma, rate = rng.uniform(0.1, 1.0), 10 ** rng.uniform(-3.5, -0.5)
        radius = float(smooth_sigma_radius(low, high, sigma, rate, dims))
        assert 0 < radius <= margin_radius(low, high, sigma)
        monkeypatch.setattr("dualrs_lab.peers.radii._FAR", 1e9)  # as exact as can be
        for change in np.linspace(-rate * radius, rate * radius, 41):
            own, rest = (least_probability(q, radius / sigma, change, dims) for q in (low, 1 - high))
            assert own + rest > 1
        monkeypatch.undo()


def test_where_both_levels_nearly_agree_the_value_is_below_the_exact_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for change in (1e-5, -1e-5, 3e-5):
        found = least_probability(0.7, 1.0, change, 3 * 224 * 224)
        with monkeypatch.context() as exact:
            exact.setattr("dualrs_lab.peers.radii._FAR", 1e11)
            assert found < least_probability(0.7, 1.0, change, 3 * 224 * 224) < found + 0.01


def test_what_is_not_settled_between_the_ends_is_not_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    assert smooth_sigma_radius(0.9, 0.1, 0.5, 0.01, 64) > 0
    monkeypatch.setattr("dualrs_lab.peers.radii._covered", lambda *_: False)
    assert smooth_sigma_radius(0.9, 0.1, 0.5, 0.01, 64) == 0


def test_a_dip_between_the_ends_is_found() -> None:
    assert _covered(lambda h, _: 1 - abs(h) / 2, 1.0, 1.0, slope=0.5)
    assert not _covered(lambda h, _: abs(h - 0.3) - 1e-3, 1.0, 1.0, slope=1.0)


def test_without_change_it_is_the_radius_of_two_bounds_and_of_cohen() -> None:
    for low, high, sigma in [(0.7, 0.2, 0.5), (0.45, 0.1, 0.25), (0.999, 1e-4, 1.0), (0.4, 0.5, 0.5)]:
        assert smooth_sigma_radius(low, high, sigma, 0.0, PIXELS) == margin_radius(low, high, sigma)
        little = smooth_sigma_radius(low, high, sigma, 1e-7, PIXELS)
        assert 0.998 * margin_radius(low, high, sigma) <= little <= margin_radius(low, high, sigma)
    assert smooth_sigma_radius(0.8, 1.0, 0.5, 0.0, 64) == rs_radius(0.8, 0.5)
    assert smooth_sigma_radius(1.0, 0.0, 0.5, 0.1, 64) == np.inf


def test_it_falls_with_rate_and_dimensions_and_ends_at_one_half() -> None:
    rates = np.array([0.0, 0.003, 0.01, 0.03, 0.1, 0.3])
    found = smooth_sigma_radius(0.99, 0.01, 0.5, rates, PIXELS)
    assert (np.diff(found) < 0).all()
    sizes = [
        float(smooth_sigma_radius(0.99, 0.01, 0.5, 0.1, dims)) for dims in (2, 64, PIXELS, 3 * 224 * 224)
    ]
    assert (np.diff(sizes) < 0).all()
    for p in (0.5, 0.3, 0.0):
        assert smooth_sigma_radius(p, 1 - p, 0.5, 0.01, PIXELS) == 0
    assert smooth_sigma_radius(0.9, 0.1, 1.0, 1e3, PIXELS) < 1e-3


def test_numbers_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rate >= 0, got -0\.1"):
        smooth_sigma_radius(0.9, 0.1, 0.5, -0.1, 64)
    with pytest.raises(ValueError, match=r"p_lower is a probability in \[0, 1\], got 1.2"):
        smooth_sigma_radius(1.2, 0.1, 0.5, 0.1, 64)
    with pytest.raises(ValueError, match=r"got p 0\.9, away inf"):
        least_probability(0.9, np.inf, 0.1, 64)
