"""Votes about points of the plane follow their exact law, and certificates follow from them."""

import numpy as np
import pytest
from scipy import stats

from dualrs_lab.evidence import ABSTAIN
from dualrs_lab.lessons import certify_points, lesson_plane, noisy_copies, sample_points
from dualrs_lab.lessons.votes import ESTIMATION, SELECTION

PLANE = lesson_plane()
HOW = {"sigma": 0.07, "n": 500, "alpha": 0.01, "seed": 3}


def test_copies_are_gaussian_about_their_point_and_the_same_for_the_same_seed() -> None:
    found = (noisy_copies([0.2, 0.7], 0.25, 20_000, seed=0) - [0.2, 0.7]) / 0.25
    assert stats.kstest(found.ravel(), "norm").pvalue > 0.001
    assert abs(np.corrcoef(found.T)[0, 1]) < 5 / np.sqrt(len(found))
    again = noisy_copies([0.2, 0.7], 0.25, 100, seed=0)
    np.testing.assert_array_equal(again, noisy_copies([0.2, 0.7], 0.25, 20_000, seed=0)[:100])


def test_points_and_both_kinds_of_draws_share_no_noise() -> None:
    other = [
        noisy_copies([0, 0], 1.0, 50, seed=seed, number=number, stream=stream)
        for seed in (0, 1)
        for number in (0, 1)
        for stream in (SELECTION, ESTIMATION)
    ]
    assert len({copies.tobytes() for copies in other}) == 8


def test_votes_follow_the_exact_probabilities() -> None:
    """One chi-squared statistic for 200 points; a false alarm once in a thousand seeds."""
    points, labels = sample_points(PLANE, 200, seed=1)
    found = certify_points(PLANE, points, **HOW)
    assert [one.label for one in found] == labels.tolist()
    votes = np.array([[dict(one.votes).get(kind, 0) for kind in range(3)] for one in found])
    wanted = HOW["n"] * PLANE.probabilities(points, HOW["sigma"])
    often = wanted > 5
    statistic = ((votes - wanted) ** 2 / np.maximum(wanted, 1e-9))[often].sum()
    assert statistic < stats.chi2.ppf(0.999, often.sum())
    assert (votes.sum(axis=1) == HOW["n"]).all()


def test_certificates_can_be_recomputed_and_few_are_false() -> None:
    points, _ = sample_points(PLANE, 100, seed=2)
    found = certify_points(PLANE, points, rule="cohen", **HOW)
    exact, true = PLANE.exact_radius(points, HOW["sigma"]), PLANE.smoothed(points, HOW["sigma"])
    assert {one.rule for one in found} == {"cohen"}
    assert all(one.recomputed() == one.radius for one in found)
    claims = [at for at, one in enumerate(found) if one.predict != ABSTAIN]
    false = [at for at in claims if found[at].radius > exact[at] or found[at].predict != true[at]]
    assert len(claims) > 50
    assert len(false) <= stats.binom.ppf(0.999, len(claims), HOW["alpha"])
    assert certify_points(PLANE, points[:3], labels=[2, 2, 2], **HOW)[0].label == 2


def test_what_is_no_list_of_points_is_refused() -> None:
    with pytest.raises(ValueError, match=r"certify_points: wanted points \(N, 2\), got shape \(2,\)"):
        certify_points(PLANE, [0.2, 0.3], **HOW)
