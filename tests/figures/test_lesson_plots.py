"""Plots that only a lesson needs show the numbers they are given."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy.stats import norm

from dualrs_lab import figures
from dualrs_lab.cascade import cascade_radius
from dualrs_lab.dual import published_radius, routed_radius
from dualrs_lab.lessons import Boxes, DualPlane


def legend(ax: Axes) -> list[tuple[Any, Any]]:
    """Texts and handles."""
    found = ax.get_legend()
    return list(zip(found.get_texts(), found.legend_handles, strict=True))


def test_paths_and_the_worst_case_are_drawn_as_given_and_the_radius_where_it_falls_to_a_half() -> None:
    ax = Figure().add_subplot()
    moved = np.linspace(0, 0.3, 61)
    worst = norm.cdf(1.5 - moved / 0.1)
    along = np.stack([worst, worst + 0.05, np.full(61, 0.9)], axis=1)
    assert figures.probability_paths(moved, along, worst, ax=ax) is ax
    lines = {str(line.get_label()): line for line in ax.lines}
    paths = [line.get_ydata() for line in ax.lines[:3]]
    np.testing.assert_array_equal(np.stack(paths, axis=1), along)
    np.testing.assert_array_equal(lines["worst case"].get_ydata(), worst)
    assert lines["radius"].get_xdata()[0] == pytest.approx(0.15, abs=1e-4)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["a path", "worst case", "1/2", "radius"]


def test_a_promise_that_stays_above_a_half_has_no_radius_in_the_picture() -> None:
    ax = figures.probability_paths([0.0, 0.1], [[0.9], [0.9]], [0.9, 0.8])
    assert [line.get_label() for line in ax.lines] == ["a path", "worst case", "1/2"]


def halves(limit: float = 0.5) -> DualPlane:
    """Class 0 below 0.3, 1 above; the second expert is asked right of `limit`."""
    base = Boxes(((0.3, -np.inf, np.inf, np.inf),), (1,), background=0, classes=2)
    right = Boxes(((limit, -np.inf, np.inf, np.inf),), (1,), background=0, classes=2)
    return DualPlane(base, (0.02, 0.25), right.predict)


def test_choice_and_answers_stand_side_by_side_with_the_same_points() -> None:
    right = figures.choice_and_answers(
        halves(0.2), points=[[0.1, 0.6]], radii=[0.05], window=(0, 0.5, 0.5, 1)
    )
    left, other = right.figure.axes
    assert other is right
    assert [ax.get_title() for ax in (left, right)] == ["chosen noise level", "what the system answers"]
    for ax in (left, right):
        assert (*ax.get_xlim(), *ax.get_ylim()) == (0, 0.5, 0.5, 1)
        assert [patch.get_radius() for patch in ax.patches if isinstance(patch, Circle)] == [0.05]


def test_the_choice_is_coloured_by_level_and_has_circles_of_discs_and_entry_radii() -> None:
    ax = figures.choice_field(
        halves(0.2), points=[[0.1, 0.6], [0.9, 0.6]], radii=[0.05, 0.0], entry=[0.0, 0.1], resolution=10
    )
    picture = ax.images[0].get_array()
    left, right = (tuple(picture[5, column]) for column in (1, 2))
    assert left != right
    patches = {text.get_text(): handle.get_facecolor()[:3] for text, handle in legend(ax)}
    assert patches == {"σ = 0.02": pytest.approx(left), "σ = 0.25": pytest.approx(right)}
    circles = {(patch.center, patch.radius) for patch in ax.patches if isinstance(patch, Circle)}
    assert circles == {((0.1, 0.6), 0.1), ((0.1, 0.6), 0.05)}
    markers = {line.get_marker(): tuple(line.get_xydata()[0]) for line in ax.lines}
    assert markers == {"o": (0.1, 0.6), "s": (0.9, 0.6)}  # what the system answers


def test_a_window_shows_a_part_of_the_plane() -> None:
    window = (0.4, 0.6, 0.7, 0.9)
    system = halves(0.5)
    ax = figures.choice_field(system, window=window, title="mine", resolution=10)
    assert ax.get_title() == "mine"
    assert (*ax.get_xlim(), *ax.get_ylim()) == window
    picture = ax.images[0].get_array()
    assert (picture[:, :5] == picture[0, 0]).all()  # the border is in the middle
    assert (picture[:, 5:] != picture[0, 0]).any(axis=2).all()
    base = figures.plane_field(system.base, 0.1, window=(0.2, 0.4, 0.0, 0.2), title="mine", resolution=10)
    assert base.get_title() == "mine"
    assert (*base.get_xlim(), *base.get_ylim()) == (0.2, 0.4, 0.0, 0.2)
    assert base.images[0].get_extent() == [0.2, 0.4, 0.0, 0.2]


def test_the_two_bars_of_each_expert_and_the_two_radii_that_follow() -> None:
    entry, experts, sigmas = [0.13, 0.05, 0.0], [0.06, 0.15, 0.18], (0.02, 0.07, 0.25)
    ax = figures.entry_and_expert_radii(entry, experts, sigmas, top=2)
    widths = [patch.get_width() for patch in ax.patches]
    assert widths == [*entry, *experts]
    (ends,) = [line.get_xdata().tolist() for line in ax.lines if line.get_marker() == "D"]
    assert ends == [0.13, 0.15, 0.18]
    lines = zip(legend(ax)[2:], ax.lines[:2], strict=True)
    at = {text.get_text(): line.get_xdata()[0] for (text, _), line in lines}
    assert at == {"routed 0.130": 0.13, "published 0.050": 0.05}
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["σ = 0.02", "σ = 0.07", "σ = 0.25 (chosen)"]
    assert at["routed 0.130"] == routed_radius(entry, experts)
    assert at["published 0.050"] == published_radius(entry, experts, 2)


def test_an_expert_that_is_never_chosen_has_a_bar_to_the_end() -> None:
    ax = figures.entry_and_expert_radii([np.inf, 0.0], [0.0, 0.2], (0.02, 0.25), top=1)
    assert ax.patches[0].get_width() == ax.get_xlim()[1] == pytest.approx(0.25)
    nothing = figures.entry_and_expert_radii([0.0], [0.0], (0.25,), top=0)
    assert [text.get_text() for text, _ in legend(nothing)][2:] == ["routed 0.000", "published 0.000"]


def test_the_bars_of_a_cascade_and_the_radius_that_follows() -> None:
    ax = figures.cascade_steps([-0.2, 0.9, -np.inf], [0.5, 1.2, -np.inf], (1.0, 0.5, 0.25), answers=1)
    assert [patch.get_width() for patch in ax.patches] == [0.5, 1.2, 0, 0, 0.9, 0]  # nothing below 0 is drawn
    assert ax.lines[0].get_xdata()[0] == cascade_radius([-0.2, 0.9], [0.5, 1.2]) == 0.5
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["σ = 1", "σ = 0.5 (answers)", "σ = 0.25"]
    assert [text.get_text() for text, _ in legend(ax)][-1] == "radius 0.500"
    silent = figures.cascade_steps([-0.2], [0.1], (1.0,), answers=-1)
    assert not silent.lines[0].get_visible()
    assert [tick.get_text() for tick in silent.get_yticklabels()] == ["σ = 1"]


def test_images_stand_in_the_row_of_their_level_by_radius() -> None:
    images = torch.randint(0, 256, (9, 1, 8, 8)).byte()
    levels, radii = (
        [0.5, 0.25, 0.5, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5],
        [0.9, 0.2, 0.1, 0.3, 0.5, 0.4, 0.3, 0.2, 0.6],
    )
    ax = figures.images_by_level(images, levels, radii, columns=3)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["σ = 0.25", "σ = 0.5"]
    assert [text.get_text() for text in ax.texts] == ["0.20", "0.30", "0.10", "0.40", "0.90"]
    first, last = ax.images[2].get_array(), ax.images[4].get_array()
    assert np.array_equal(np.squeeze(first), images[2, 0].numpy())
    assert np.array_equal(np.squeeze(last), images[0, 0].numpy())
    with pytest.raises(ValueError, match="a level and a radius each"):
        figures.images_by_level(images, levels[:3], radii)


def test_slopes_are_arrows_of_one_length_and_none_where_there_is_none() -> None:
    plane = Boxes(((0.5, -np.inf, np.inf, np.inf),), (1,), background=0, classes=2)
    slopes = [[3.0, 0.0], [0.0, 0.0], [0.0, -0.1]]
    ax = figures.slope_arrows(plane, (0.4, 0.5), {"estimates": slopes, "exact": [1.0, 1.0]}, length=0.2)
    many, one = (part for part in ax.collections if hasattr(part, "U"))
    np.testing.assert_allclose(np.stack([many.U, many.V], axis=1), [[0.2, 0.0], [0.0, -0.2]])
    np.testing.assert_allclose(np.hypot(one.U, one.V), 0.2)
    assert [text.get_text() for text, _ in legend(ax)][-2:] == ["estimates", "exact"]


def test_a_step_is_drawn_from_where_the_attack_is_with_its_budget() -> None:
    ax = figures.step_in_budget((0.5, 0.5), (0.55, 0.5), (0.7, 0.4), 0.1)
    box = ax.patches[1]
    assert (box.get_x(), box.get_y(), box.get_width()) == pytest.approx((0.4, 0.4, 0.2))
    assert ax.lines[2].get_xydata().tolist() == [[0.7, 0.4]]
    assert ax.get_xlim()[1] > 0.7


def test_images_stand_in_a_row_and_answers_in_a_grid() -> None:
    first, second = np.eye(8), np.ones((8, 8))
    ax = figures.moved_images({"before": first, "after": second})
    shown = [(one.get_title(), one.images[0].get_array()) for one in ax.figure.axes]
    assert [title for title, _ in shown] == ["before", "after"]
    assert np.array_equal(shown[0][1], first)
    grid = figures.answers_grid(
        {"one": [True, False, True], "two": [False, False, True]}, title="you say 1/3"
    )
    assert [text.get_text() for text in grid.texts] == ["", "×", "", "×", "×", ""]
    assert [tick.get_text() for tick in grid.get_yticklabels()] == ["one", "two"]
