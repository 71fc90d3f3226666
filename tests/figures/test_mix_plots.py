"""Figures of mixes show the numbers they were given."""

import numpy as np
import pandas as pd
import pytest

from dualrs_lab.evidence import rs_radius
from dualrs_lab.figures import (
    margin_along,
    margin_histogram,
    mix_radius_curves,
    natural_against_robust,
    probability_bars,
    weight_curves,
)
from dualrs_lab.mixing import mix_radius_closed

SUMMARY = pd.DataFrame(
    {
        "weight": [0.0, 1.0, 0.5, np.nan],
        "natural": [0.9, 0.6, 0.85, 0.8],
        "on_accurate": [0.0, 0.55, 0.2, 0.5],
        "end_to_end": [0.0, 0.3, 0.1, 0.25],
        "worst": [0.0, 0.3, 0.05, 0.2],
    },
    index=["g", "h", "half", "adaptive"],
)


def lines(ax) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}


def test_curves_over_the_weight_are_ordered_and_leave_out_what_has_none() -> None:
    drawn = lines(weight_curves(SUMMARY, weight=0.7))
    assert drawn["clean"] == ([0.0, 0.5, 1.0], [0.9, 0.85, 0.6])
    assert drawn["worst case of all"][1] == [0.0, 0.05, 0.3]
    assert "attack on h" not in drawn  # no such column
    assert [0.7, 0.7] in [x for x, _ in drawn.values()]


def test_single_systems_are_markers_and_the_line_is_by_lot() -> None:
    curves = {"mix": SUMMARY.iloc[[0, 2, 1]], "adaptive": SUMMARY.iloc[[3]]}
    drawn = lines(natural_against_robust(curves))
    assert drawn["one or the other, by lot"] == ([0.9, 0.6], [0.0, 0.3])
    assert drawn["mix"] == ([0.9, 0.85, 0.6], [0.0, 0.05, 0.3])
    assert drawn["adaptive"] == ([0.8], [0.2])
    assert "one or the other, by lot" not in lines(natural_against_robust(curves, ends=False))
    with pytest.raises(ValueError, match=r"no natural or pgd in \['mix', 'adaptive'\]"):
        natural_against_robust(curves, robust="pgd")


def test_histograms_are_shares_with_their_means() -> None:
    ax = margin_histogram({"a": [0.1, 0.1, 0.9], "b": []}, lines={"cut": 0.4})
    steps = [patch for patch in ax.patches if not patch.get_fill()]
    assert steps[0].get_data().values.sum() == pytest.approx(1)
    assert steps[1].get_data().values.sum() == 0
    at = [line.get_xdata()[0] for line in ax.lines]
    assert at[0] == pytest.approx(1.1 / 3)
    assert at[1] == 0.4


def test_the_sharp_radius_is_drawn_below_that_of_h() -> None:
    ax = mix_radius_curves(0.76, sigma=0.5, p_lower=0.9)
    drawn = lines(ax)
    p = np.array(drawn["h alone (Cohen)"][0])
    np.testing.assert_allclose(drawn["h alone (Cohen)"][1], rs_radius(p, 0.5))
    np.testing.assert_allclose(drawn["mix, sharp"][1], mix_radius_closed(p, 0.76, 0.5))
    for other in ("mix, Bai et al., theorem 5", "mix, Bai et al., theorem 4"):
        assert np.all(np.array(drawn[other][1]) <= np.array(drawn["mix, sharp"][1]) + 1e-12)


def test_margins_end_where_they_are_needed() -> None:
    ax = margin_along([0.0, 1.0, 2.0], {"h": [0.8, 0.4, 0.0]}, {"a = 0.8": 0.25, "a = 0.5": 1.0})
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert len(dots) == 1  # a margin of 1 is never reached
    assert dots[0].get_xdata()[0] == pytest.approx(1.375)
    assert lines(ax)["h"] == ([0.0, 1.0, 2.0], [0.8, 0.4, 0.0])


def test_bars_stand_side_by_side() -> None:
    ax = probability_bars({"g": [0.2, 0.8], "h": [0.6, 0.4]}, ["cat", "horse"], label=0)
    heights = [[bar.get_height() for bar in group] for group in ax.containers]
    assert heights == [[0.2, 0.8], [0.6, 0.4]]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["cat ✓", "horse"]
    left = [bar.get_x() for group in ax.containers for bar in group]
    assert len(set(np.round(left, 6))) == 4
