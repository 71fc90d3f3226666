"""What a wrong answer looks like: the case, the answer, and what follows from it; nothing else is drawn."""

from typing import Any

import matplotlib.colors
import numpy as np
import pytest
from scipy.stats import binom, norm

from dualrs_lab import figures
from dualrs_lab.figures.style import RED


def red(ax: Any) -> list[float]:
    """The middles of red bars."""
    wanted = matplotlib.colors.to_rgba(RED)
    bars = [bar for bar in ax.patches if np.allclose(bar.get_facecolor(), wanted)]
    return [round(bar.get_x() + bar.get_width() / 2, 6) for bar in bars]


def upright(ax: Any) -> list[float]:
    """Where vertical lines stand."""
    lines = [np.asarray(line.get_xdata(), dtype=float) for line in ax.lines]
    return [float(x[0]) for x in lines if len(x) == 2 and x[0] == x[1]]


def curve(ax: Any, label: str) -> tuple[np.ndarray, np.ndarray]:
    line = next(line for line in ax.lines if line.get_label() == label)
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def test_votes_that_should_be_a_surprise_are_red_and_their_probability_is_said() -> None:
    ax = figures.bound_answer({"k": 60, "n": 100, "alpha": 0.05}, 0.6)
    assert min(red(ax)) == 60
    assert f"{binom.sf(59, 100, 0.6):.2g}; a surprise has 0.05" in ax.get_title()
    for answer in (1.2, -0.1, "p", [0.1, 0.2]):
        with pytest.raises((ValueError, TypeError)):
            figures.bound_answer({"k": 60, "n": 100, "alpha": 0.05}, answer)
    assert figures.bound_answer({"k": 0, "n": 50, "alpha": 0.01}, 0.0).patches  # all at 0


def test_an_interval_is_false_where_it_claims_more_than_the_truth() -> None:
    ax = figures.interval_answer((0.9, 20))
    claims = {k: k / 20 + norm.ppf(0.05) * np.sqrt(k / 20 * (1 - k / 20) / 20) for k in range(21)}
    assert red(ax) == [k for k, claim in claims.items() if claim > 0.9]
    assert f"{binom.pmf(20, 20, 0.9):.3f}" in ax.get_title()


def test_a_radius_stands_where_it_was_answered_and_the_half_plane_falls_as_it_does() -> None:
    ax = figures.radius_answer({"k": 950, "n": 1000, "sigma": 0.5, "alpha": 0.001}, 0.9)
    assert upright(ax) == [0.9]
    distance, left = curve(ax, "share of the copies")
    assert np.all(np.diff(left) < 0)
    assert left[0] < 0.95
    assert distance[-1] >= 2.0
    assert upright(figures.radius_answer({"k": 0, "n": 9, "sigma": 0.5, "alpha": 0.01}, -np.inf)) == []


def test_ceilings_are_those_of_the_answer_and_of_a_little_less() -> None:
    ax = figures.ceiling_answer({"radius": 0.5, "sigma": 0.25, "alpha": 0.001}, 300)
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([0.25 * norm.ppf(0.001 ** (1 / n)) for n in (300, 299)])
    other = figures.ceiling_answer({"radius": 1.0, "n": 1000, "alpha": 0.001}, 0.4)
    assert [bar.get_width() for bar in other.patches] == pytest.approx(
        [sigma * norm.ppf(0.001**0.001) for sigma in (0.4, 0.396)]
    )
    assert red(other)  # short of the wanted radius


def test_both_conditions_of_being_chosen_are_drawn() -> None:
    ax = figures.entry_answer({"before": 0.05, "here": 0.2, "sigma_e": 0.1}, 0.05)
    assert upright(ax) == [0.05]
    _, here = curve(ax, "$F_j$, at most")
    _, before = curve(ax, "$F_{j-1}$, at least")
    assert (here[0], before[0]) == pytest.approx((0.2, 0.05))
    assert here[-1] > 0.5 > before[-1]


def test_radii_of_experts_are_bars_and_the_answer_a_line() -> None:
    case = {"entry": np.array([0.1, 0.0]), "experts": np.array([0.02, 0.3]), "chosen": 1}
    ax = figures.radii_answer(case, 0.07)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.1, 0.0, 0.02, 0.3])
    assert upright(ax) == [0.07]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["expert 0", "expert 1, chosen"]


def test_scores_are_those_of_whoever_is_surest() -> None:
    case = {"z": np.array([[0.05, -0.02], [0.1, -0.03]]), "t": np.array([0.0, 0.02])}
    dots = [line.get_xdata() for line in figures.surest_answer(case, 0.01).lines if line.get_marker() == "o"]
    assert np.ravel(dots) == pytest.approx([0.08, -0.02])


def test_pixels_stand_where_the_answer_leaves_them() -> None:
    case = {"x": np.array([0.5, 0.1]), "moved": np.array([0.8, -0.3]), "eps": np.array([0.2, 0.1])}
    ax = figures.clip_answer(case, [0.7, 0.0])
    assert curve(ax, "your answer")[0].tolist() == [0.7, 0.0]
    assert curve(ax, "where the step led")[0].tolist() == [0.8, -0.3]
    with pytest.raises(ValueError, match="shape"):
        figures.clip_answer(case, [0.7, 0.0, 0.1])


def test_budgets_are_drawn_by_their_share() -> None:
    ax = figures.budget_answer({"high": 0.2, "low": 0.1, "share": 0.25}, 0.15)
    assert [(bar.get_width(), bar.get_height()) for bar in ax.patches] == [(0.25, 0.1), (0.75, 0.2)]


def test_attacks_that_go_lower_than_the_answer_are_counted() -> None:
    case = {"w": np.array([1.0, -2.0]), "x": np.array([0.9, 0.2]), "eps": np.array([0.1, 0.2])}
    lowest = 0.5 - 0.1 - 0.4
    assert "0 of 4 attacks go lower" in figures.worst_answer(case, lowest).get_title()
    assert "1 of 4 attacks go lower" in figures.worst_answer(case, lowest + 0.1).get_title()


def test_networks_are_dots_about_their_means() -> None:
    case = {"a": np.array([0.9, 0.92]), "b": np.array([0.8, 0.86])}
    ax = figures.chance_answer(case, 2.5)
    assert "2.5 standard errors" in ax.get_title()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]


def test_no_g_by_chance_goes_below_the_worst_one() -> None:
    case = {"p": 0.9, "rival": 0.05, "a": 0.76}
    worst = 0.76 * 0.85 - 0.24
    assert ": 0 below your answer" in figures.margin_answer(case, worst).get_title()
    assert ": 0 below" not in figures.margin_answer(case, worst + 0.1).get_title()
    point = {"p": 0.9, "rival": 0.05}
    assert ": 0 below 0" in figures.weight_at_point_answer(point, 1 / 1.85).get_title()
    assert ": 0 below 0" not in figures.weight_at_point_answer(point, 0.35).get_title()
    with pytest.raises(ValueError, match="cannot be drawn"):
        figures.weight_at_point_answer(point, 1.2)


def test_the_margin_of_h_falls_and_the_mix_needs_what_it_needs() -> None:
    for ax, at in (
        (figures.mix_answer({"p": 0.99, "a": 0.8, "sigma": 0.5}, 0.7), 0.7),
        (figures.weight_answer({"p": 0.99, "radius": 0.6, "sigma": 0.5}, 0.8), 0.6),
        (figures.worst_mix_answer((0.99, 0.8, 0.4)), 0.4),
    ):
        assert upright(ax) == [at]
        assert curve(ax, "margin that the mix needs")[1][0] == pytest.approx(0.25)
        assert curve(ax, "margin of h, a half-plane")[1][0] == pytest.approx(0.98)


def test_votes_of_a_row_stand_by_class_and_the_answer_across() -> None:
    ax = figures.votes_answer({"votes": "0:47 3:930 9:23", "kind": 3}, (930, 930))
    assert [bar.get_height() for bar in ax.patches] == [47, 930, 23]
    assert [line.get_ydata()[0] for line in ax.lines] == [930, 930]


def test_class_and_rival_meet_where_the_row_says() -> None:
    ax = figures.row_answer({"own": 700, "rival": 120, "n": 1000, "sigma": 0.5, "alpha": 0.001}, 0.3)
    distance, own = curve(ax, "the class, at least")
    _, rival = curve(ax, "its rival, at most")
    assert own[0] > rival[0]
    assert own[-1] < rival[-1]
    assert upright(ax) == [0.3]
    assert distance[0] == 0


def test_more_false_ones_than_the_answer_are_red() -> None:
    ax = figures.tolerated_answer({"certificates": 400, "alpha": 0.001, "chance": 0.001}, 1.0)
    assert min(red(ax)) == 2
    assert f"{binom.sf(1, 400, 0.001):.2g}; allowed 0.001" in ax.get_title()


def test_levels_of_all_images_add_up_to_what_is_allowed_or_more() -> None:
    ax = figures.level_answer({"images": 500, "alpha": 0.001}, 0.001)
    assert ax.patches[0].get_width() == pytest.approx(0.5)
    assert upright(ax) == [0.001]


def test_the_evidence_of_a_row_stands_under_its_claim() -> None:
    row = {"selection": {0: 9, 2: 1}, "votes": {0: 95, 2: 5}, "n": 1000, "alpha": 0.001}
    ax = figures.verified_answer(row | {"predict": 0, "radius": 0.2}, True)
    assert "claims class 0 within 0.2000 from n = 1000; you say that it holds" in ax.figure.get_suptitle()
    assert ax.get_title() == "votes: 100"


def test_pictures_and_bars_of_one_case() -> None:
    ax = figures.heat_row({"a": np.eye(3), "b": np.zeros((3, 3))}, title="both")
    assert [one.get_title() for one in ax.figure.axes] == ["a", "b"]
    bars = figures.named_bars({"x": 0.5, "y": 2.0}, line=1.0, says="wanted", title="t", across="z", least=1.0)
    assert [bar.get_width() for bar in bars.patches] == [0.5, 2.0]
    assert len(red(bars)) == 1
