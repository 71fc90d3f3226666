"""A level for each input with a memory: balls that never meet, and answers that depend on the order."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from dualrs_lab.evidence import ABSTAIN, decide, frame
from dualrs_lab.lessons import DualPlane, LargestRadius, lesson_dual, lesson_plane
from dualrs_lab.peers import level_by_votes, remembered, remembered_table

PLANE = lesson_plane()


def alone(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the system that asks the level with the largest radius claims, from exact probabilities."""
    naive = DualPlane(PLANE, levels := lesson_dual().sigmas, LargestRadius(PLANE, levels))
    radii = np.stack([PLANE.rs_radius_exact(points, sigma) for sigma in levels])
    return naive.predict(points), radii.max(axis=0)


def test_kept_balls_of_different_classes_never_meet() -> None:
    points = np.random.default_rng(0).uniform(0, 1, (150, 2))
    away, (answers, radii) = cdist(points, points), alone(points)
    crossing = (answers[:, None] != answers) & (away < radii[:, None] + radii)
    assert crossing.any()  # without a memory the claims contradict each other
    said, reach = remembered(away, answers, radii)
    other = (said[:, None] != said) & (said[:, None] != ABSTAIN) & (said != ABSTAIN)
    assert (away >= reach[:, None] + reach - 1e-12)[other].all()
    inside = away < reach[:, None] - 1e-12
    later = np.arange(150)[:, None] < np.arange(150)
    assert (said[:, None] == said)[inside & later].all()  # whoever is asked later inside a ball says the same
    assert (reach <= np.maximum(radii, reach.max())).all()
    assert (said != answers).any()


def test_two_orders_give_two_answers_for_the_same_point() -> None:
    # The pair by which lesson 11 shows that the naive certificate is false: one is inside the other's ball.
    pair = np.array([[0.37, 0.7], [0.4375, 0.7]])
    away, (answers, radii) = cdist(pair, pair), alone(pair)
    assert answers[0] != answers[1]
    assert away[0, 1] < radii[0]
    forth, back = (remembered(away, answers, radii, order=order) for order in ([0, 1], [1, 0]))
    assert forth[0][1] == answers[0]
    assert back[0][1] == answers[1]
    assert forth[1][0] == radii[0]
    assert back[1][0] < away[0, 1] < radii[0]
    assert forth[1] != pytest.approx(back[1])


def test_an_image_is_cut_taken_over_or_left_alone_by_hand() -> None:
    line = np.array([[0.0], [3.0], [0.5], [10.0], [0.2]])
    said, reach = remembered(cdist(line, line), [0, 1, 1, 1, ABSTAIN], [2.0, 2.0, 1.0, 1.0, 0.0])
    assert said.tolist() == [0, 1, 0, 1, 0]
    assert reach == pytest.approx([2.0, 1.0, 1.5, 1.0, 1.8])
    with pytest.raises(ValueError, match="each position once"):
        remembered(cdist(line, line), [0] * 5, [1.0] * 5, order=[0, 0, 1, 2, 3])


def test_the_level_is_chosen_by_few_votes_and_certified_by_others() -> None:
    selection = np.array([[[60, 40], [95, 5]], [[100, 0], [70, 30]]])
    assert level_by_votes(selection, (0.25, 1.0)).tolist() == [1, 1]
    assert level_by_votes(selection, (0.25, 0.3)).tolist() == [1, 0]
    known = {"label": 0, "alpha": 0.001, "seed": 0, "seconds": 0.0}
    tables = {
        sigma: frame(
            decide(selection[i, j], [900, 100] if i == j else [700, 300], idx=i, sigma=sigma, **known)
            for i in range(2)
        )
        for j, sigma in enumerate((0.25, 0.3))
    }
    found = remembered_table(tables, [[0.0, 9.0], [9.0, 0.0]])
    assert found["sigma"].tolist() == [0.3, 0.25]
    assert found["radius"].tolist() == [tables[0.3]["radius"][0], tables[0.25]["radius"][1]]
    assert (found["radius"] == found["alone"]).all()  # far apart, nothing is cut
    near = remembered_table(tables, [[0.0, 0.01], [0.01, 0.0]])
    assert (near["radius"] == found["radius"]).any()
    assert (near["correct"] == 1).all()
