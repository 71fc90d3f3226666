"""Figures of `figures.combined`: who was surest, and who was overruled."""

import numpy as np
import pytest

from dualrs_lab.figures import entry_and_expert_radii, expert_reaches


def test_bars_point_to_the_side_that_each_expert_takes() -> None:
    ax = expert_reaches([0.4, -0.2, -1e6], (1.0, 0.5, 0.25), radius=0.3)
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([0.4, -0.2, 0.0])  # the third was not asked
    assert [bar.get_hatch() or "" for bar in ax.patches][:2] == ["", "///"]
    seen = [text.get_text().strip() for text in ax.texts if text.get_visible()]
    assert seen == ["not asked"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["σ = 1", "σ = 0.5", "σ = 0.25"]
    lines = [line.get_xdata()[0] for line in ax.lines]
    assert 0.3 in lines
    assert "combiner 0.300" in [t.get_text() for t in ax.get_legend().get_texts()]
    assert np.isclose(*np.abs(ax.get_xlim()))


def test_without_a_radius_there_is_no_line() -> None:
    ax = expert_reaches([0.1, -0.2], (1.0, 0.5), radius=0.0)
    assert sum(line.get_visible() for line in ax.lines) == 1  # that at 0


def test_what_a_legend_names_has_a_label_of_its_own() -> None:
    """Older versions of matplotlib leave out what has none, and the words of the last would be another's."""
    axes = [
        expert_reaches(np.array([0.2, -0.1]), [0.25, 0.5], radius=0.1),
        entry_and_expert_radii([0.1, 0.2], [0.3, 0.1], [0.25, 0.5], top=0),
    ]
    assert "combiner" in [line.get_label() for line in axes[0].lines]
    assert {"routed", "published"} <= {line.get_label() for line in axes[1].lines}
