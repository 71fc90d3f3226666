"""Exact means exact: half-planes, sampling, limits, and the theorem of smoothing as an inequality."""

import numpy as np
import pytest
import torch
from scipy import stats

from dualrs_lab.dual import median_entry_radii, published_radius, routed_radius
from dualrs_lab.evidence import lower_bound, rs_radius
from dualrs_lab.lessons import (
    Boxes,
    DualPlane,
    LargestRadius,
    MedianChoice,
    lesson_dual,
    lesson_estimator,
    lesson_plane,
    sample_points,
)
from dualrs_lab.lessons.plane import NEAR, REACH

INF = np.inf
HALF = Boxes(((0.5, -INF, INF, INF),), (1,), background=0, classes=2)
SIGMAS = (0.02, 0.07, 0.25)


def test_a_half_plane_is_closed_form() -> None:
    points, labels = sample_points(HALF, 300, seed=0)
    distance = np.abs(points[:, 0] - 0.5)
    for sigma in (0.05, 0.3):
        p = HALF.probabilities(points, sigma)
        np.testing.assert_allclose(p[:, 1], stats.norm.cdf((points[:, 0] - 0.5) / sigma), rtol=1e-12)
        np.testing.assert_array_equal(HALF.smoothed(points, sigma), labels)
        np.testing.assert_allclose(HALF.rs_radius_exact(points, sigma), distance, rtol=1e-12)
        np.testing.assert_allclose(HALF.exact_radius(points, sigma), distance, atol=2e-9)


def test_a_quadrant_is_a_product() -> None:
    quadrant = Boxes(((0.3, 0.6, INF, INF),), (2,), background=1, classes=3)
    points = np.array([[0.3, 0.6], [0.5, 0.9], [0.2, 0.1]])
    p = quadrant.probabilities(points, 0.2)
    both = stats.norm.cdf((points[:, 0] - 0.3) / 0.2) * stats.norm.cdf((points[:, 1] - 0.6) / 0.2)
    np.testing.assert_allclose(p, np.stack([0 * both, 1 - both, both], axis=1), rtol=1e-12)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_probabilities_agree_with_sampling(sigma: float) -> None:
    """40,000 draws a point: 4.5 standard errors plus one draw, over 36 numbers, seeded."""
    plane, draws = lesson_plane(), 40_000
    points, _ = sample_points(plane, 12, seed=1)
    p = plane.probabilities(points, sigma)
    rng = np.random.default_rng(2)
    for point, exact in zip(points, p, strict=True):
        votes = np.bincount(plane.predict(point + sigma * rng.standard_normal((draws, 2))), minlength=3)
        error = 4.5 * np.sqrt(exact * (1 - exact) / draws) + 1 / draws
        assert np.all(np.abs(votes / draws - exact) <= error)


def test_probabilities_sum_to_one_and_keep_small_numbers() -> None:
    plane = lesson_plane()
    points, _ = sample_points(plane, 500, seed=3)
    for sigma in (*SIGMAS, 1e-3, 10.0):
        p = plane.probabilities(points, sigma)
        np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-14)
        assert p.min() >= 0
    # Phi(-25): no "1 - p" on the way
    assert HALF.probabilities(np.array([[0.0, 0.5]]), 0.02)[0, 1] == pytest.approx(
        stats.norm.cdf(-25), rel=1e-10
    )
    assert HALF.rs_radius_exact(np.array([[0.0, 0.5], [1.0, 0.5]]), 0.02) == pytest.approx([0.5, 0.5])


def test_small_sigma_is_the_base_classifier_and_large_sigma_its_background() -> None:
    plane = lesson_plane()
    points, labels = sample_points(plane, 2000, seed=4)
    assert (plane.smoothed(points, 1e-6) == labels).all()
    assert (plane.probabilities(points, 1e-6).max(axis=1) > 1 - 1e-9).mean() > 0.99
    assert (plane.smoothed(points, 5.0) == 0).all()


def test_it_answers_like_a_network() -> None:
    plane = lesson_plane()
    points, labels = sample_points(plane, 500, seed=5)
    logits = plane(torch.tensor(points, dtype=torch.float32))
    assert logits.shape == (500, 3)
    assert logits.dtype == torch.float32
    assert (logits.sum(1) == 1).all()
    assert (logits.argmax(1).numpy() == labels).all()
    for (x0, y0, x1, y1), kind in zip(plane.boxes, plane.labels, strict=True):  # box by box, the definition
        inside = (points[:, 0] >= x0) & (points[:, 0] < x1) & (points[:, 1] >= y0) & (points[:, 1] < y1)
        assert (labels[inside] == kind).all()
    corners = torch.tensor([[0.4, 0.0], [0.7, 0.0], [0.7, 0.5], [1.0, 0.9]], dtype=torch.float64)
    assert plane(corners).argmax(1).tolist() == [1, 2, 2, 0]  # boxes are half-open


@pytest.mark.parametrize("sigma", SIGMAS)
def test_nothing_changes_within_the_exact_radius_and_something_beyond(sigma: float) -> None:
    """Brute force over 3000 directions, with none of the code that found the radius."""
    plane = lesson_plane()
    points, _ = sample_points(plane, 30, seed=6)
    radius = plane.exact_radius(points, sigma)
    assert np.isfinite(radius).all()
    angle = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    home = plane.smoothed(points, sigma)
    for point, r, kind in zip(points, radius, home, strict=True):
        for share in (0.25, 0.5, 0.75, 0.9, 0.99):
            assert (plane.smoothed(point + share * r * ring, sigma) == kind).all()
        assert (plane.smoothed(point + (r - 2e-6) * ring, sigma) == kind).all()
        assert (plane.smoothed(point + (r + 1e-4) * ring, sigma) != kind).any()


@pytest.mark.parametrize("sigma", SIGMAS)
def test_randomised_smoothing_never_claims_more_than_the_exact_radius(sigma: float) -> None:
    plane = lesson_plane()
    points, _ = sample_points(plane, 400, seed=7)
    gap = plane.exact_radius(points, sigma) - plane.rs_radius_exact(points, sigma)
    assert gap.min() >= -1e-12
    assert gap.max() > 0.005  # and it is not the same number twice


def test_a_wrong_radius_formula_would_be_caught() -> None:
    """Negative control: sigma * Phi^-1(p) with a sigma ten per cent too large breaks the inequality."""
    plane = lesson_plane()
    points, _ = sample_points(plane, 400, seed=7)
    assert (1.1 * plane.rs_radius_exact(points, 0.07) > plane.exact_radius(points, 0.07)).any()


def test_the_boundary_lies_between_two_classes() -> None:
    boundary = lesson_plane().boundary(0.07)
    near = 1e-9 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    kinds = lesson_plane().smoothed((boundary[:, None] + near).reshape(-1, 2), 0.07).reshape(-1, 4)
    assert (kinds.min(axis=1) != kinds.max(axis=1)).all()
    assert np.abs(HALF.boundary(0.1)[:, 0] - 0.5).max() < 1e-11


def test_nothing_in_reach_is_an_infinite_radius() -> None:
    constant = Boxes((), (), background=1, classes=2)
    points = np.array([[0.2, 0.3]])
    assert constant.probabilities(points, 0.1).tolist() == [[0.0, 1.0]]
    assert constant.exact_radius(points, 0.1).tolist() == [INF]
    assert constant.rs_radius_exact(points, 0.1).tolist() == [INF]
    far = Boxes(((1.0 + REACH - 0.1, -INF, INF, INF),), (1,), background=0, classes=2)
    assert np.isinf(far.exact_radius(np.array([[0.8, 0.5], [0.95, 0.5]]), 0.1)).tolist() == [True, False]


def certified(n: int, radii: np.ndarray) -> np.ndarray:
    """(sigma, radius): share of the unit square certified with the votes that n draws give on average."""
    plane = lesson_plane()
    points, labels = sample_points(plane, 4000, seed=8)
    curves = []
    for sigma in SIGMAS:
        p = plane.probabilities(points, sigma)
        radius = rs_radius(lower_bound(np.floor(n * p.max(axis=1)), n, 0.001), sigma)
        right = (radius > 0) & (p.argmax(axis=1) == labels)
        curves.append([(right & (radius >= r)).mean() for r in radii])
    return np.array(curves)


@pytest.mark.parametrize(("n", "lead"), [(1000, 0.15), (10_000, 0.12)])
def test_no_single_sigma_serves_small_and_large_radii(n: int, lead: float) -> None:
    """The story of the lesson: each sigma is best somewhere, by a margin that a picture shows."""
    small, medium, large = certified(n, np.linspace(0, 0.5, 101))
    assert small[0] >= 0.95
    assert small[0] - max(medium[0], large[0]) >= lead
    assert (medium - np.maximum(small, large)).max() >= lead
    assert (large - np.maximum(small, medium)).max() >= lead
    assert large[0] < 0.5
    assert medium[0] < 0.8


def test_the_median_vote_is_closed_form_on_half_planes() -> None:
    bands = Boxes(((-INF, -INF, 0.3, INF), (0.6, -INF, INF, INF)), (0, 2), background=1, classes=3)
    points, _ = sample_points(HALF, 300, seed=10)
    median = MedianChoice(bands, 0.1)
    low, high = (stats.norm.cdf((edge - points[:, 0]) / 0.1) for edge in (0.3, 0.6))
    np.testing.assert_allclose(median.cuts(points), np.stack([low, high], axis=1), rtol=1e-9)
    np.testing.assert_array_equal(median(points), (points[:, 0] > 0.3).astype(int) + (points[:, 0] > 0.6))
    one = MedianChoice(Boxes((), (), background=0, classes=1), 0.1)  # a single expert has no cut
    assert one.cuts(points).shape == (300, 0)
    assert (one(points) == 0).all()


def naive() -> DualPlane:
    return DualPlane(lesson_plane(), SIGMAS, LargestRadius(lesson_plane(), SIGMAS))


def test_a_system_answers_as_the_expert_that_it_chooses() -> None:
    points, labels = sample_points(lesson_plane(), 500, seed=11)
    for system in (lesson_dual(), naive()):
        everyone = system.experts(points)
        assert everyone.shape == (500, 3)
        np.testing.assert_array_equal(everyone[:, 1], lesson_plane().smoothed(points, 0.07))
        chosen = system.choose(points)
        np.testing.assert_array_equal(system.predict(points), everyone[np.arange(500), chosen])
        assert set(chosen) == {0, 1, 2}
        assert (system.predict(points) == labels).mean() > 0.9
    radii = np.stack([lesson_plane().rs_radius_exact(points, sigma) for sigma in SIGMAS], axis=1)
    assert (radii[np.arange(500), naive().choose(points)] == radii.max(axis=1)).all()
    assert (lesson_dual(1e-6).choose(points) == lesson_estimator().predict(points)).all()


def test_a_choice_that_never_changes_is_plain_smoothing() -> None:
    constant = MedianChoice(Boxes((), (), background=1, classes=3), 0.1)
    system = DualPlane(lesson_plane(), SIGMAS, constant)
    points, _ = sample_points(lesson_plane(), 60, seed=12)
    expected = lesson_plane().exact_radius(points, 0.07)
    assert 0 < (expected > NEAR).sum() < 20
    expected[expected > NEAR] = INF
    np.testing.assert_allclose(system.exact_radius(points), expected, atol=1e-5)


def test_a_system_keeps_its_answer_within_its_exact_radius_and_not_beyond() -> None:
    """Brute force over 720 directions. A wedge narrower than STEP may escape the search, but not here."""
    points, _ = sample_points(lesson_plane(), 40, seed=13)
    system = lesson_dual()
    radius, home = system.exact_radius(points), system.predict(points)
    assert np.isfinite(radius).all()
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for share in (0.3, 0.6, 0.9, 0.99, 0.999):
        walks = points[:, None] + share * radius[:, None, None] * ring
        assert (system.predict(walks.reshape(-1, 2)).reshape(40, -1) == home[:, None]).all()
    beyond = points[:, None] + (radius + 3e-4)[:, None, None] * ring
    assert (system.predict(beyond.reshape(-1, 2)).reshape(40, -1) != home[:, None]).any(axis=1).all()


def test_guarded_radii_of_the_lesson_are_true_and_unguarded_ones_are_not() -> None:
    """With exact probabilities, so that nothing is left to luck: the last two are the negative controls."""
    points, _ = sample_points(lesson_plane(), 200, seed=14)
    radii = np.stack([lesson_plane().rs_radius_exact(points, sigma) for sigma in SIGMAS], axis=1)
    system = lesson_dual()
    chosen, true, cuts = system.choose(points), system.exact_radius(points), system.choose.cuts(points)
    entry = median_entry_radii(cuts, cuts, 0.1)
    experts = system.expert_radii(points)
    agree = system.experts(points) == system.predict(points)[:, None]
    assert (experts[agree] == radii[agree]).all()
    assert (experts[~agree] == 0).all()
    assert 0.1 < agree.mean() < 1
    published, routed = published_radius(entry, experts, chosen), routed_radius(entry, experts)
    assert (published <= routed).all()
    assert (routed <= true + 1e-6).all()
    assert (routed > published + 1e-6).mean() > 0.2
    assert (radii[np.arange(200), chosen] > true + 1e-6).mean() > 0.2
    assert (radii.max(axis=1) > naive().exact_radius(points) + 1e-6).mean() > 0.2


def test_systems_look_no_farther_than_near() -> None:
    far = Boxes(((1.0 + NEAR - 0.1, -INF, INF, INF),), (1,), background=0, classes=2)
    system = DualPlane(far, (0.1,), MedianChoice(Boxes((), (), background=0, classes=1), 0.1))
    found = system.exact_radius(np.array([[0.8, 0.5], [0.95, 0.5]]))
    assert found == pytest.approx([INF, 0.35])
    with pytest.raises(ValueError, match="wanted points in the unit square"):
        system.exact_radius(np.full((1, 2), 1.5))


def test_points_are_seeded_and_labelled_by_the_truth() -> None:
    points, labels = sample_points(lesson_plane(), 3000, seed=9)
    again, _ = sample_points(lesson_plane(), 3000, seed=9)
    assert (points == again).all()
    np.testing.assert_allclose(np.bincount(labels) / 3000, [0.46, 0.27, 0.27], atol=0.04)
    with pytest.raises(TypeError, match="seed"):
        sample_points(lesson_plane(), 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Boxes(((0, 0, 1, 1), (0.5, 0.5, 2, 2)), (1, 1), 0, 2), "overlap; boxes must be disjoint"),
        (lambda: Boxes(((1, 0, 0, 1),), (1,), 0, 2), r"box 0 is empty or turned around: \(1, 0, 0, 1\)"),
        (lambda: Boxes(((0, 0, 1, 1),), (2,), 0, 2), r"labels \(2,\), 0 are not in 0..1"),
        (lambda: Boxes(((0, 0, 1, 1),), (), 0, 2), "a label per box, got 0 for 1"),
        (lambda: HALF.probabilities(np.zeros(2), 0.1), r"Boxes.probabilities: wanted points \(N, 2\)"),
        (lambda: HALF.probabilities(np.zeros((1, 2)), 0.0), "sigma must be positive and finite, got 0.0"),
        (lambda: HALF.exact_radius(np.full((1, 2), 1.5), 0.1), "wanted points in the unit square"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
