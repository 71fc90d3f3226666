"""Walks find changes of class where they can be written down; mixes break where the theorem says."""

import numpy as np
import pytest
import torch

from dualrs_lab.lessons import (
    Biased,
    Boxes,
    above_wave,
    mix_breaks,
    ring,
    rippled,
    sample_points,
    steepness,
    withstands,
)
from dualrs_lab.mixing import locally_biased, mix_radius_exact

HALF = Boxes(((0.5, -np.inf, np.inf, np.inf),), (1,), background=0, classes=2)


def test_a_ring_is_of_unit_steps_evenly_spread() -> None:
    steps = ring(8)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 1.0)
    np.testing.assert_allclose(steps[[0, 2]], [[1, 0], [0, 1]], atol=1e-12)
    np.testing.assert_allclose(steps.sum(axis=0), 0.0, atol=1e-12)


def test_a_point_withstands_steps_shorter_than_its_distance_to_the_edge() -> None:
    points, labels = sample_points(HALF, 200, seed=0)
    found = withstands(HALF.predict, points, labels, 0.1)
    np.testing.assert_array_equal(found, np.abs(points[:, 0] - 0.5) > 0.1)
    assert not withstands(HALF.predict, points, 1 - labels, 0.0).any()  # wrong at the very point


def test_the_rippled_classifier_is_right_and_steep() -> None:
    points = np.random.default_rng(0).random((5000, 2))
    right = (rippled(points) > 0) == above_wave(points)
    assert 0.95 < right.mean() < 1
    assert above_wave(np.array([[0.45, 0.0], [0.55, 0.0]])).tolist() == [0, 1]
    step = 1e-6 * np.eye(2)
    slopes = [(rippled(points + move) - rippled(points - move)) / 2e-6 for move in step]
    np.testing.assert_allclose(steepness(points), np.hypot(*slopes), rtol=1e-6)


def test_the_oracle_answers_with_the_nearest_example_and_alone_where_its_strength_is_infinite() -> None:
    examples = np.array([[0.1, 0.1], [0.9, 0.9]])
    at = np.array([[0.2, 0.3], [0.8, 0.6], [0.45, 0.45]])
    alone, without = Biased(examples, np.inf), Biased(examples, 0.0)
    assert alone.oracle(at).tolist() == [-1.0, 1.0, -1.0]
    assert alone.predict(at).tolist() == [0, 1, 0]
    assert without.predict(at).tolist() == (rippled(at) > 0).astype(int).tolist()


@pytest.mark.parametrize("strength", [0.0, 0.02, 0.5, np.inf])
def test_local_bias_is_that_of_the_package_which_takes_its_gradient_from_torch(strength: float) -> None:
    def score(x: torch.Tensor) -> torch.Tensor:
        distance = x[:, 0] - 0.5 - 0.1 * (7 * x[:, 1]).sin()
        return 4 * distance + 0.3 * (40 * x[:, 0]).sin() * (36 * x[:, 1]).cos()

    rng = np.random.default_rng(0)
    system, points = Biased(rng.random((60, 2)), strength), rng.random((2000, 2))
    signs = torch.from_numpy(system.oracle(points))
    biased = locally_biased(score, lambda x: signs, torch.from_numpy(points), strength)
    np.testing.assert_array_equal(system.predict(points), (biased > 0).numpy())


@pytest.mark.parametrize("weight", [0.6, 0.9])
def test_a_mix_of_a_half_plane_breaks_at_its_exact_radius_and_no_sooner(weight: float) -> None:
    """The theorem is tight there: one direction, and the g that is sure of the other class, attain it."""
    points, labels = sample_points(HALF, 100, seed=1)
    p = HALF.probabilities(points, 0.2)[np.arange(100), labels]
    radius = np.array([mix_radius_exact(one, 1 - one, weight, 0.2) for one in p], dtype=np.float64)
    safe = radius > 0
    own = {"sigma": 0.2, "weight": weight}
    assert safe.sum() > 20
    assert not mix_breaks(HALF, points[safe], labels[safe], radius[safe] - 1e-9, **own).any()
    assert mix_breaks(HALF, points[safe], labels[safe], radius[safe] + 1e-6, **own).all()
    assert mix_breaks(HALF, points, labels, 0.0, sigma=0.2, weight=0.5).all()  # a half is never enough
