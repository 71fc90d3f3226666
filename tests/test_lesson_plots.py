"""Plots that only a lesson needs show the numbers they are given."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import norm

from dualrs_lab import plots


def test_paths_and_the_worst_case_are_drawn_as_given_and_the_radius_where_it_falls_to_a_half() -> None:
    ax = Figure().add_subplot()
    moved = np.linspace(0, 0.3, 61)
    worst = norm.cdf(1.5 - moved / 0.1)
    along = np.stack([worst, worst + 0.05, np.full(61, 0.9)], axis=1)
    assert plots.probability_paths(moved, along, worst, ax=ax) is ax
    lines = {str(line.get_label()): line for line in ax.lines}
    paths = [line.get_ydata() for line in ax.lines[:3]]
    np.testing.assert_array_equal(np.stack(paths, axis=1), along)
    np.testing.assert_array_equal(lines["worst case"].get_ydata(), worst)
    assert lines["radius"].get_xdata()[0] == pytest.approx(0.15, abs=1e-4)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["a path", "worst case", "1/2", "radius"]


def test_a_promise_that_stays_above_a_half_has_no_radius_in_the_picture() -> None:
    ax = plots.probability_paths([0.0, 0.1], [[0.9], [0.9]], [0.9, 0.8])
    assert [line.get_label() for line in ax.lines] == ["a path", "worst case", "1/2"]
