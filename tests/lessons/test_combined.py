"""Combiners in the plane: the radius of the theorem against the nearest point with another answer."""

import numpy as np
import pytest
from scipy.special import ndtri

from dualrs_lab.cascade import cascade_radius
from dualrs_lab.combine import Combiner
from dualrs_lab.lessons import CombinedPlane, DualPlane, FirstSure, lesson_dual, lesson_plane, sample_points

SIGMAS = lesson_dual().sigmas
KINDS = {
    "single": Combiner.single(SIGMAS, 1),
    "surest": Combiner.surest(SIGMAS),
    "handicaps": Combiner.surest(SIGMAS, (0.0, 0.02, 0.1)),
    "lattice": Combiner.of_text(
        SIGMAS, "half0.02:0.0 half0.25:0.05 | half0.07:-0.02 own0.25:0.1 | own0.02:-0.01"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_radius_of_the_theorem_is_beyond_the_nearest_other_answer(kind: str) -> None:
    """Control: the whole lead instead of half of it is false at many points."""
    system = CombinedPlane(lesson_plane(), KINDS[kind])
    points, _ = sample_points(lesson_plane(), 150, seed=1)
    radii, true = system.radii(points), system.exact_radius(points)
    answers = system.predict(points) >= 0
    assert ((radii > 0) == answers).all()
    assert answers.mean() > 0.9
    assert (radii[answers] <= true[answers] + 1e-6).all()
    assert (2 * radii[answers] > true[answers] + 1e-6).mean() > 0.5


def test_one_expert_alone_is_that_expert() -> None:
    plane, points = lesson_plane(), sample_points(lesson_plane(), 200, seed=2)[0]
    for i, sigma in enumerate(SIGMAS):
        system = CombinedPlane(plane, Combiner.single(SIGMAS, i))
        assert (system.predict(points) == plane.smoothed(points, sigma)).all()
        assert (system.radii(points) >= plane.rs_radius_exact(points, sigma) - 1e-9).all()  # knows the rival


def test_the_expert_that_reaches_farthest_is_named() -> None:
    system = CombinedPlane(lesson_plane(), Combiner.surest(SIGMAS))
    points, _ = sample_points(lesson_plane(), 200, seed=3)
    assert set(system.choose(points)) == {0, 1, 2}
    strip = np.array([[0.66, 0.8]])  # only little noise sees it
    assert system.choose(strip).tolist() == [0]


def test_the_first_that_is_sure_answers_and_else_the_last() -> None:
    plane, order = lesson_plane(), SIGMAS[::-1]
    points, _ = sample_points(plane, 200, seed=2)
    radii = np.stack([plane.rs_radius_exact(points, sigma) for sigma in order], axis=1)
    chosen = FirstSure(plane, order, (0.1, 0.03, 0.0))(points)
    for radius, at in zip(radii, chosen, strict=True):
        sure = [j for j, limit in enumerate((0.1, 0.03)) if radius[j] >= limit]
        assert at == (sure[0] if sure else 2)
    assert {*chosen.tolist()} == {0, 1, 2}
    assert (FirstSure(plane, order, (0.0, 0.0, 0.0))(points)[radii[:, 0] > 0] == 0).all()


def test_no_certificate_of_a_cascade_is_beyond_the_nearest_other_answer() -> None:
    """With exact probabilities; control: the radius of whoever answers is false at many points."""
    plane, order, limits = lesson_plane(), SIGMAS[::-1], (0.1, 0.02, 0.0)
    system = DualPlane(plane, order, FirstSure(plane, order, limits))
    points, _ = sample_points(plane, 150, seed=3)
    p = np.stack([plane.probabilities(points, sigma) for sigma in order], axis=1)
    y = system.predict(points)
    own = np.take_along_axis(p, y[:, None, None], axis=2)[..., 0]
    rival = np.where(np.arange(3) == y[:, None, None], 0.0, p).max(axis=2)
    sigma, limit = np.array(order), np.array(limits)
    mine, theirs = sigma * ndtri(own), sigma * ndtri(rival)
    radius = cascade_radius(np.minimum(mine - limit, (mine - theirs) / 2), np.maximum(limit - theirs, 0))
    true = system.exact_radius(points)
    assert (radius <= true + 1e-6).all()
    assert (radius > 0).mean() > 0.8
    alone = np.maximum(mine, 0)[np.arange(len(y)), system.choose(points)]
    assert (alone > true + 1e-6).mean() > 0.1
