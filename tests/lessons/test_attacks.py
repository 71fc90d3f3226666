"""Attacks of lesson 15 stay within what is known exactly, and reach it where they should."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from dualrs_lab.lessons import (
    Boxes,
    Digits,
    LinearScores,
    MixedScores,
    RoundedScores,
    Scores,
    SmoothedPlane,
    StraightThrough,
    by_entropy,
    by_margin,
    by_ratio,
    drawn_slope,
    edge_distances,
    first_wrong,
    fit_linear,
    kept_by_margin,
    leads,
    left_after,
    lesson_digits,
    lesson_plane,
    random_strike,
    right_after,
    sample_points,
    shortened,
    sign_strike,
    towards,
    walk,
    worst_leads,
)

EPS = 0.1
HALF = SmoothedPlane(Boxes(((0.5, -np.inf, np.inf, np.inf),), (1,), background=0, classes=2), 0.1)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return lesson_digits()


@pytest.fixture(scope="module")
def plain(digits: Digits) -> LinearScores:
    return fit_linear(digits.learn, digits.learn_labels)


def small(seed: int, classes: int = 4, width: int = 3) -> tuple[LinearScores, np.ndarray, np.ndarray]:
    """A linear classifier of a few pixels, points, and their answers as labels."""
    rng = np.random.default_rng(seed)
    model = LinearScores(rng.normal(size=(classes, width)), rng.normal(size=classes))
    x = rng.random((20, width))
    return model, x, model.predict(x)


def slope_of(model: Scores, x: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """By differences."""
    step, found = 1e-6, np.zeros_like(x)
    for i in range(x.shape[1]):
        move = step * np.eye(x.shape[1])[i]
        found[:, i] = ((model.scores(x + move) - model.scores(x - move)) * pull).sum(axis=1) / (2 * step)
    return found


def test_digits_are_those_of_the_data_set(digits: Digits) -> None:
    from dualrs_lab.data import load_images

    for split, pixels, labels in (("train", *digits[:2]), ("test", *digits[2:])):
        images = load_images("digits", split)
        levels = images.pixels.numpy().reshape(len(pixels), -1) / 255
        assert np.abs(levels - pixels).max() < 0.5 / 255 + 1e-9
        assert images.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("levels", [0, 3])
def test_the_worst_lead_is_that_of_all_corners(levels: int) -> None:
    """Of a linear score, at every corner of what can be reached; behind rounding, at their rounded places."""
    base, x, labels = small(0)
    model = RoundedScores(base, levels) if levels else base
    low, high = model.reach(x, 0.2)
    corners = [np.where(bits, high, low) for bits in itertools.product([False, True], repeat=x.shape[1])]
    least = np.min([leads(base.scores(corner), labels) for corner in corners], axis=0)
    np.testing.assert_allclose(worst_leads(model, x, labels, 0.2), least)


def test_the_worst_lead_is_that_of_a_linear_program() -> None:
    model, x, labels = small(1)
    for point, label, found in zip(x, labels, worst_leads(model, x, labels, 0.3), strict=True):
        values = []
        for rival in {*range(4)} - {int(label)}:
            apart = model.weights[label] - model.weights[rival]
            bounds = [(max(0, v - 0.3), min(1, v + 0.3)) for v in point]
            values.append(linprog(apart, bounds=bounds).fun + model.bias[label] - model.bias[rival])
        assert found == pytest.approx(min(values), abs=1e-9)


def test_the_edge_is_where_it_is_found_by_search() -> None:
    model, x, labels = small(2, width=2)
    angle = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    ray = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for point, label, found in zip(x, labels, edge_distances(model, x, labels), strict=True):
        if found > 3:
            continue
        assert (model.predict(point + 0.999 * found * ray) == label).all()
        assert (model.predict(point + 1.001 * found * ray) != label).any()
    assert (edge_distances(model, x, (labels + 1) % 4) == 0).all()


def test_slopes_of_scores_are_those_by_differences(plain: LinearScores, digits: Digits) -> None:
    rng = np.random.default_rng(0)
    x, pull = digits.test[:5], rng.normal(size=(5, 10))
    mix = MixedScores(plain, LinearScores(rng.normal(size=(10, 64)), rng.normal(size=10)), 0.7)
    for model in (plain, mix):
        np.testing.assert_allclose(model.back(x, pull), slope_of(model, x, pull), atol=1e-5)
    rounded = RoundedScores(plain, 4)
    assert not rounded.back(x, pull).any()
    np.testing.assert_array_equal(StraightThrough(rounded, plain).back(x, pull), plain.back(x, pull))
    np.testing.assert_allclose(np.exp(mix.scores(x)).sum(axis=1), 1.0)


def test_training_against_the_worst_case_finds_its_minimum_and_is_more_robust(digits: Digits) -> None:
    x, y, test, labels = digits
    robust, usual = fit_linear(x, y, eps=EPS), fit_linear(x, y)
    kept = [(worst_leads(model, test, labels, EPS) > 0).mean() for model in (usual, robust)]
    assert kept[1] > kept[0] + 0.1
    assert right_after(usual, test, labels).mean() > right_after(robust, test, labels).mean() > 0.9
    with pytest.raises(ValueError, match=r"nothing is learnt against eps 0\.9"):
        fit_linear(x, y, eps=0.9)


def test_the_fit_is_that_of_another_optimiser() -> None:
    rng = np.random.default_rng(3)
    x, labels = rng.random((40, 2)), rng.integers(0, 3, 40)
    model = fit_linear(x, labels, eps=0.05, decay=0.01)

    def loss(flat: np.ndarray) -> float:
        w, b = flat[:6].reshape(3, 2), flat[6:]
        z = x @ w.T + b
        ahead = z - z[np.arange(40), labels][:, None]
        ahead += 0.05 * np.abs(w[None] - w[:, None]).sum(axis=2)[labels]
        return float(np.log(np.exp(ahead).sum(axis=1)).mean() + 0.005 * (w**2).sum())

    ours = loss(np.concatenate([model.weights.ravel(), model.bias]))
    other = minimize(loss, np.zeros(9), method="Powell", options={"maxiter": 20000, "ftol": 1e-10}).fun
    assert ours <= other + 1e-3  # it has kinks, at which a descent stops a little early


@pytest.mark.parametrize("pull", [by_entropy, by_margin, by_ratio])
def test_pulls_are_slopes_of_losses_and_grow_wrong(pull) -> None:
    scores = np.array([[1.0, 3.0, 0.5, 2.0], [0.0, -1.0, 4.0, 3.5]])
    found = pull(scores, np.array([1, 2]))
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-6)
    assert (found[[0, 1], [1, 2]] < 0).all()
    assert found.argmax(axis=1).tolist() == [3, 3]


def test_pulls_know_the_scale_of_scores_or_do_not() -> None:
    scores, labels = np.array([[1.0, 3.0, 2.0]]), np.array([1])
    assert np.abs(by_entropy(1000 * scores, labels)).max() == 0
    np.testing.assert_array_equal(by_margin(1000 * scores, labels), by_margin(scores, labels))
    np.testing.assert_allclose(1000 * by_ratio(1000 * scores, labels), by_ratio(scores, labels))
    assert towards(0)(scores, labels).tolist() == [[1.0, -1.0, 0.0]]


def test_strikes_stay_within_their_budget_and_above_the_truth(plain: LinearScores, digits: Digits) -> None:
    x, y = digits.test[:100], digits.test_labels[:100]
    rounded = RoundedScores(plain, 4)
    for model in (plain, rounded):
        truth = worst_leads(model, x, y, EPS) > 0
        for moved in (
            sign_strike(plain, x, y, EPS),
            sign_strike(plain, x, y, EPS, seed=1),
            sign_strike(StraightThrough(model, plain), x, y, EPS, pull=by_entropy),
            random_strike(model, x, y, EPS, tries=50),
        ):
            assert np.abs(moved - x).max() <= EPS + 1e-12
            assert moved.min() >= 0
            assert moved.max() <= 1
            assert right_after(model, moved, y)[truth].all()


def test_targeted_strikes_are_together_the_truth(plain: LinearScores, digits: Digits) -> None:
    x, y = digits.test[:200], digits.test_labels[:200]
    ten = [right_after(plain, sign_strike(plain, x, y, EPS, pull=towards(k)), y) for k in range(10)]
    np.testing.assert_array_equal(np.all(ten, axis=0), worst_leads(plain, x, y, EPS) > 0)


def test_more_steps_and_more_tries_leave_no_more(plain: LinearScores, digits: Digits) -> None:
    x, y = digits.test[:100], digits.test_labels[:100]
    left = [right_after(plain, random_strike(plain, x, y, EPS, tries=n), y).mean() for n in (10, 100, 500)]
    assert left == sorted(left, reverse=True)
    assert left[-1] <= (worst_leads(plain, x, y, EPS) > 0).mean() + 0.05
    wrong = sign_strike(plain, x, (y + 1) % 10, EPS)
    np.testing.assert_array_equal(wrong, x)  # what is answered wrongly stays where it was found


def test_five_attacks_and_what_they_leave(plain: LinearScores, digits: Digits) -> None:
    x, y = digits.test[:60], digits.test_labels[:60]
    found = left_after(plain.sharpened(1000), x, y, EPS, other=plain, pull=by_entropy)
    assert [*found] == ["1 step", "20 steps", "budget 1", "random search", "another network"]
    assert found["budget 1"] > 0.9 > found["another network"]
    assert left_after(plain, x, y, EPS, other=plain)["budget 1"] == 0


def test_what_the_margin_of_h_keeps_no_attack_breaks(plain: LinearScores, digits: Digits) -> None:
    x, y = digits.test[:150], digits.test_labels[:150]
    robust = fit_linear(digits.learn, digits.learn_labels, eps=EPS)
    for weight in (0.6, 0.76, 0.9):
        for g in (plain.sharpened(10), LinearScores(-50 * robust.weights, -50 * robust.bias)):
            mix = MixedScores(g, robust, weight)
            kept = kept_by_margin(mix, x, y, EPS)
            assert right_after(mix, sign_strike(mix, x, y, EPS), y)[kept].all()
            assert right_after(mix, random_strike(mix, x, y, EPS, tries=50), y)[kept].all()
    assert not kept_by_margin(MixedScores(plain, robust, 0.5), x, y, EPS).any()
    assert kept_by_margin(MixedScores(plain, robust, 0.9), x, y, EPS).mean() > 0.5
    with pytest.raises(TypeError, match="h is MixedScores; wanted LinearScores"):
        kept_by_margin(MixedScores(plain, mix, 0.9), x, y, EPS)


def test_slopes_in_the_plane_are_those_by_differences_and_of_many_draws() -> None:
    smoothed = SmoothedPlane(lesson_plane(), 0.07)
    points, _ = sample_points(smoothed.base, 30, seed=0)
    exact, step = smoothed.slopes(points), 1e-6
    for axis, move in enumerate(step * np.eye(2)):
        rise = (smoothed.probabilities(points + move) - smoothed.probabilities(points - move)) / (2 * step)
        np.testing.assert_allclose(exact[:, :, axis], rise, atol=1e-6)
    drawn = smoothed.drawn_slopes(points, 20_000, np.random.default_rng(0))
    assert np.abs(drawn - exact).max() < 6 / (0.07 * np.sqrt(20_000))  # of standard errors of one draw
    z = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert drawn_slope(z, np.array([1, 0]), 0, 0.5).tolist() == [0.0, 2.0]


def test_a_walk_finds_the_edge_of_a_half_plane_and_stays_in_its_budget() -> None:
    points, labels = sample_points(HALF.base, 200, seed=0)
    exact = np.abs(points[:, 0] - 0.5)
    places = walk(HALF, points, labels, 0.2, steps=25, step=0.02)
    assert np.linalg.norm(places - points[:, None], axis=2).max() <= 0.2 + 1e-12
    found = first_wrong(HALF, places, labels)
    np.testing.assert_array_equal(found >= 0, exact < 0.2)
    near = shortened(HALF, points, places, labels)
    np.testing.assert_allclose(near[found >= 0], exact[found >= 0], atol=1e-9)
    assert np.isinf(near[found < 0]).all()
    blind = walk(HALF, points, labels, 0.2, steps=5, step=0.02, draws=1, seed=0)
    assert (first_wrong(HALF, blind, labels) >= 0).sum() < (found >= 0).sum()


def test_no_walk_is_nearer_than_the_exact_distance_and_some_start_leaves_a_trap() -> None:
    smoothed = SmoothedPlane(lesson_plane(), 0.1)
    points, _ = sample_points(smoothed.base, 100, seed=1)
    labels = smoothed.predict(points)
    near = shortened(smoothed, points, walk(smoothed, points, labels, 0.2, steps=20, step=0.02), labels)
    assert (near >= smoothed.base.exact_radius(points, 0.1) - 1e-6).all()
    trap = np.array([[0.565, 0.965]])
    own = smoothed.predict(trap)
    assert first_wrong(smoothed, walk(smoothed, trap, own, 0.1, steps=200, step=0.01), own)[0] == -1
    tries = [walk(smoothed, trap, own, 0.1, steps=30, step=0.01, start=0.1, seed=s) for s in range(10)]
    assert max(int(first_wrong(smoothed, one, own)[0]) for one in tries) >= 0
