"""Plots show the numbers they are given, in one look, and leave nothing behind."""

import io
import subprocess
import sys
from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image
from scipy import stats

from dualrs_lab import figures
from dualrs_lab.evidence import (
    anytime_lower_bound,
    certified_accuracy,
    confidence_band,
    decide,
    frame,
    lower_bound,
    upper_bound,
)
from dualrs_lab.lessons import lesson_plane


def table(
    sigma: float | None = 0.5, *, scale: float = 1.0, method: str = "rs", rows: int = 40
) -> pd.DataFrame:
    rng = np.random.default_rng(rows)
    predict = rng.choice([-1, 0, 1], size=rows, p=[0.2, 0.6, 0.2])
    radius = np.where(predict == -1, 0.0, scale * rng.random(rows))
    made = pd.DataFrame({"idx": range(rows), "label": 0, "predict": predict, "radius": radius})
    made = made.assign(correct=(predict == 0).astype(int), method=method)
    return made if sigma is None else made.assign(sigma=sigma)


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def curve(ax: Axes, label: str) -> matplotlib.lines.Line2D:
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line


def test_draws_stand_over_the_radius_of_their_share_of_votes(ax: Axes) -> None:
    made = pd.DataFrame(
        {"votes": ["0:90 1:4 2:6", "0:1000 2:4000", "0:90 2:10"], "drawn": [100, 7000, 100], "sigma": 0.5}
    ).assign(correct=[1, 1, 0], selection=["0:9", "2:9", "2:9"])
    figures.draws_against_radius(made, radii=[0.25, 0.5], ax=ax)
    right, wrong = curve(ax, "right"), curve(ax, "wrong or abstains")
    first = 0.25 * (stats.norm.ppf(90.5 / 101) - stats.norm.ppf(6.5 / 101))
    expected = [first, 0.5 * stats.norm.ppf(4000.5 / 5001)]
    np.testing.assert_allclose(right.get_xdata(), expected)
    assert list(right.get_ydata()) == [100, 7000]
    assert list(wrong.get_xdata()) == [0.0]
    assert legend(ax) == ["right", "wrong or abstains", "mean 2,400"]
    assert ax.get_yscale() == "log"


def test_vote_bars_show_the_bound_that_the_certificate_rests_on(ax: Axes) -> None:
    settings = {"idx": 0, "label": 1, "sigma": 0.5, "alpha": 0.001, "seed": 0, "seconds": 0.0}
    figures.vote_bars(decide(np.array([1, 99]), np.array([100, 900]), bound="betting", **settings), ax=ax)
    low = curve(ax, "lower bound").get_xdata()[0]
    assert low == anytime_lower_bound(900, 1000, 0.0005) < lower_bound(900, 1000, 0.0005)


def test_importing_changes_no_setting_and_opens_no_figure() -> None:
    code = (
        "import matplotlib; before = dict(matplotlib.rcParams); import dualrs_lab.figures.style; "
        "assert dict(matplotlib.rcParams) == before; assert not matplotlib._pylab_helpers.Gcf.figs"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_every_plot_draws_into_the_axes_that_it_is_given(ax: Axes) -> None:
    frame = pd.DataFrame({"method": ["rs"], "sigma": [0.5], "clean": [0.8], "certified": [0.4]})
    certificate = decide(np.array([9, 1]), np.array([90, 10]), idx=0, label=0, sigma=0.5, alpha=0.01,
                         seed=0, seconds=0.0)  # fmt: skip
    assert figures.certified_curves({"a": table()}, ax=ax) is ax
    assert figures.radius_histogram({"a": table()}, ax=ax) is ax
    assert figures.vote_bars(certificate, ax=ax) is ax
    assert figures.noisy_strip(torch.zeros(1, 8, 8), [0.5], seed=0, ax=ax) is ax
    assert figures.training_curves({"a": pd.DataFrame({"epoch": [1], "loss": [2.0]})}, ax=ax) is ax
    assert figures.trade_off(frame, ax=ax) is ax
    assert figures.plane_field(lesson_plane(), resolution=8, ax=ax) is ax


def test_the_curve_is_exact_at_every_radius_not_only_at_its_corners() -> None:
    made = table()
    line = curve(figures.certified_curves({"ours": made}), "ours")
    x, y = line.get_data()
    assert line.get_drawstyle() == "steps-pre"
    anywhere = np.concatenate([np.linspace(0, x[-1], 301), made["radius"]])
    assert np.array_equal(y[np.searchsorted(x, anywhere)], certified_accuracy(made, anywhere))


def test_claims_may_come_one_by_one() -> None:
    counts = np.random.default_rng(0).multinomial(1000, np.random.default_rng(1).dirichlet([3, 1, 1], 12))
    claims = [
        decide(votes, votes, idx=i, label=0, sigma=0.5, alpha=0.001, seed=0, seconds=0.1)
        for i, votes in enumerate(counts)
    ]
    for draw in (figures.certified_curves, figures.radius_histogram):
        one, other = draw({"rs": claims}), draw({"rs": frame(claims)})
        assert figures.png(one.figure) == figures.png(other.figure)
    listed, framed = (figures.draws_against_radius(c) for c in (claims, frame(claims)))
    assert figures.png(listed.figure) == figures.png(framed.figure)
    shown = figures.certified_curves({}, published={"rs": claims})
    assert len(shown.lines[0].get_xdata()) > 3


def test_markers_stand_at_the_radii_that_are_asked_for_and_end_the_axis() -> None:
    ax = figures.certified_curves({"ours": table()}, [0.0, 0.2, 0.6])
    line = curve(ax, "ours")
    assert line.get_xdata()[line.get_markevery()].tolist() == [0.0, 0.2, 0.6]
    assert ax.get_xlim() == (0.0, 0.6)
    assert ax.get_ylim() == (0.0, 1.0)
    assert "radius" in ax.get_xlabel()
    assert "[0, 1]" in ax.get_xlabel()


def test_the_band_is_the_exact_one_and_can_be_left_out() -> None:
    made = table()
    (band,) = figures.certified_curves({"ours": made}, band=0.9).collections
    corners = band.get_paths()[0].vertices
    low, high = confidence_band(made, [0.0], 0.9)
    at_zero = corners[corners[:, 0] == 0, 1]
    assert (at_zero.min(), at_zero.max()) == (low[0], high[0])
    assert not figures.certified_curves({"ours": made}, band=None).collections


def test_a_table_without_a_single_certificate_still_has_its_curve() -> None:
    none = table().assign(predict=-1, radius=0.0, correct=0)
    assert curve(figures.certified_curves({"none": none}), "none").get_ydata().max() == 0
    assert figures.radius_histogram({"none": none}).get_xlim()[1] > 0


def test_published_curves_are_thin_dashed_and_in_the_colour_of_their_partner() -> None:
    ax = figures.certified_curves(
        {"σ = 1": table(1.0), "σ = 0.25": table(0.25)}, published={"σ = 1": table(None, method="published")}
    )
    ours, other = curve(ax, "σ = 1"), curve(ax, "σ = 1 (published)")
    assert legend(ax) == ["σ = 0.25", "σ = 1", "σ = 1 (published)"]
    assert other.get_color() == ours.get_color()
    assert other.get_linewidth() < ours.get_linewidth()
    assert other.is_dashed()
    assert other.get_markerfacecolor() == "white"
    assert not ours.is_dashed()


def test_printed_numbers_are_points_in_the_colour_of_their_level() -> None:
    numbers = pd.DataFrame({"method": "Cohen", "sigma": [0.5, 0.5, 1.0], "radius": [0, 0.5, 0]})
    ax = figures.certified_curves(
        {"ours": table(0.5)}, published=numbers.assign(certified_accuracy=[0.6, 0.4, 0.3])
    )
    line = curve(ax, "Cohen, σ = 0.5")
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0, 0.5], [0.6, 0.4])
    assert line.get_color() == figures.sigma_look(0.5).colour
    assert line.is_dashed()
    assert legend(ax) == ["ours", "Cohen, σ = 0.5", "Cohen, σ = 1"]


def test_a_noise_level_has_one_colour_in_every_figure() -> None:
    colour = figures.sigma_look(0.5).colour
    tables = {"a": table(0.5), "b": table(1.0)}
    assert curve(figures.certified_curves(tables), "a").get_color() == colour
    history = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "sigma": 0.5})
    assert curve(figures.training_curves({"a": history}), "a").get_color() == colour
    points = pd.DataFrame({"method": "rs", "sigma": [0.5, 1.0], "clean": [0.8, 0.6], "certified": [0.4, 0.3]})
    dots = [
        line
        for line in figures.trade_off(points).lines
        if line.get_marker() == figures.sigma_look(0.5).marker
    ]
    assert [dot.get_color() for dot in dots] == [colour]


def test_looks_differ_in_colour_and_without_colour() -> None:
    levels = [figures.sigma_look(sigma) for sigma in (0, 0.12, 0.25, 0.5, 1.0, 2.0)]
    assert len({look.colour for look in levels}) == len({look.marker for look in levels}) == 6
    methods = [look for name, look in figures.METHODS.items() if name != "rs"]  # gaussian is rs
    assert len({(str(look.line), look.marker) for look in methods}) == len(methods)
    many = {f"method {i}": table(0.5, method=f"m{i}") for i in range(8)} | {"dual": table(0.5, method="dual")}
    chosen = list(figures.looks(many).values())
    assert len({(str(look.line), look.marker) for look in chosen}) == len(chosen) == 9
    same = [table(0.25), table(0.25), table(1.0), table(1.0)]
    assert len(set(map(repr, figures.looks(dict(zip("abcd", same, strict=True))).values()))) == 4


def test_a_level_between_two_known_ones_blends_and_keeps_their_order() -> None:
    between = [figures.sigma_look(sigma).colour for sigma in (0.25, 0.3, 0.4, 0.5)]
    assert len(set(between)) == 4
    assert figures.sigma_look(100.0).colour == figures.sigma_look(2.0).colour


def test_legends_go_by_method_then_by_level() -> None:
    tables = {
        "dual": table(0.5, method="dual"),
        "big": table(1.0),
        "small": table(0.25),
        "new": table(0.1, method="x"),
    }
    assert list(figures.looks(tables)) == ["small", "big", "dual", "new"]


def test_the_histogram_accounts_for_every_image() -> None:
    tables = {"a": table(0.25), "b": table(0.5, rows=60)}
    ax = figures.radius_histogram(tables)
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names[:2] == ["abstained", "wrong"]
    assert legend(ax) == ["a", "b"]
    assert [line.get_marker() for line in ax.lines[:2]] == [figures.sigma_look(s).marker for s in (0.25, 0.5)]
    filled = [patch for patch in ax.patches if hasattr(patch, "get_data") and patch.get_fill()]
    for (label, made), bars, stairs in zip(tables.items(), ax.containers, filled, strict=True):
        apart = [bar.get_height() for bar in bars]
        wrong = (made["correct"] == 0) & (made["predict"] != -1)
        assert apart == [(made["predict"] == -1).mean(), wrong.mean()], label
        assert sum(apart) + stairs.get_data().values.sum() == pytest.approx(1)


def test_vote_bars_show_shares_bound_and_half() -> None:
    settings = {"idx": 0, "label": 2, "sigma": 0.5, "alpha": 0.01, "seed": 0, "seconds": 0.0}
    made = decide(np.array([1, 9]), np.array([5, 90, 5]), rule="cohen", **settings)
    ax = figures.vote_bars(made, classes=["cat", "dog", "frog", "owl"])
    assert [bar.get_width() for bar in ax.patches] == [0.05, 0.9, 0.05, 0.0]
    bound, half = ax.lines
    assert bound.get_xdata()[0] == lower_bound(90, 100, 0.01)
    assert list(half.get_xdata()) == [0.5, 0.5]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["cat", "dog", "frog ✓", "owl"]
    assert "dog within radius 0.4" in ax.get_title()
    two = figures.vote_bars(decide(np.array([1, 9]), np.array([5, 90, 5]), **settings))
    assert curve(two, "lower bound").get_xdata()[0] == lower_bound(90, 100, 0.005)
    assert curve(two, "rival at most").get_xdata()[0] == upper_bound(5, 100, 0.005)
    tight = figures.vote_bars(decide(np.array([1, 9]), np.array([10, 90, 0]), **settings))
    assert list(curve(tight, "1/2").get_xdata()) == [0.5, 0.5]  # the rest is all the rival's


def test_of_many_classes_the_guess_and_the_label_are_among_those_shown() -> None:
    votes = np.arange(100, 200)
    made = decide(
        np.eye(100, dtype=int)[3], votes, idx=0, label=7, sigma=0.5, alpha=0.01, seed=0, seconds=0.0
    )
    ax = figures.vote_bars(made)
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert len(names) == 12
    assert names[:2] == ["class 3", "class 7 ✓"]
    assert names[2:] == [f"class {k}" for k in range(90, 100)]
    assert "abstains" in ax.get_title()


def test_a_strip_starts_with_the_image_and_repeats_for_its_seed() -> None:
    images = torch.randint(
        0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    ax = figures.noisy_strip(images, [0, 0.5], seed=1, names=["a", "b"])
    (shown,) = [picture.get_array() for picture in ax.images]
    assert np.allclose(shown[34:66, :32], images[1].permute(1, 2, 0) / 255)
    again = figures.noisy_strip(images / 255, [0, 0.5], seed=1).images[0].get_array()
    other = figures.noisy_strip(images, [0, 0.5], seed=2).images[0].get_array()
    assert np.allclose(again, shown)
    assert not np.allclose(other, shown)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["no noise", "σ = 0.5"]
    with pytest.raises(ValueError, match=r"noisy_strip: wanted grey or RGB .*, got \(1, 4, 8, 8\)"):
        figures.noisy_strip(torch.zeros(4, 8, 8), [0.5], seed=0)


def test_training_curves_and_what_is_missing_in_them() -> None:
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.0]})
    ax = figures.training_curves({"run": history})
    assert curve(ax, "run").get_ydata().tolist() == [3.0, 2.0, 1.0]
    with pytest.raises(ValueError, match="training_curves: no 'validation' in the history 'run'; it has"):
        figures.training_curves({"run": history}, "validation")


def test_the_trade_off_joins_each_method_in_the_order_of_sigma() -> None:
    points = pd.DataFrame(
        {
            "method": ["rs", "rs", "published (Cohen)", "rs"],
            "sigma": [1.0, 0.0, 0.5, 0.5],
            "accuracy": [0.5, 0.9, 0.6, 0.7],
            "r=0.5": [0.3, 0.0, 0.38, 0.4],
        }
    )
    ax = figures.trade_off(points, clean="accuracy", certified="r=0.5", label="at 0.5")
    assert curve(ax, "rs").get_xdata().tolist() == [0.9, 0.7, 0.5]
    assert curve(ax, "rs").get_ydata().tolist() == [0.0, 0.4, 0.3]
    assert curve(ax, "published (Cohen)").is_dashed()
    assert legend(ax) == ["rs", "published (Cohen)", "no noise", "σ = 0.5", "σ = 1"]
    assert ax.get_ylabel() == "at 0.5"
    with pytest.raises(ValueError, match="trade_off: no certified in the points"):
        figures.trade_off(points, clean="accuracy")


def test_the_plane_has_discs_of_the_radii_and_none_where_abstaining() -> None:
    points = [[0.2, 0.3], [0.55, 0.3], [0.4, 0.1]]
    ax = figures.plane_field(
        lesson_plane(), 0.1, points=points, radii=[0.2, 0.1, 0.0], exact=[0.25, np.inf, 0.0], resolution=40
    )
    discs = [(patch.center, patch.radius) for patch in ax.patches if isinstance(patch, Circle)]
    assert discs == [((0.2, 0.3), 0.2), ((0.55, 0.3), 0.1), ((0.2, 0.3), 0.25)]
    assert ax.get_xlim() == ax.get_ylim() == (0, 1)
    assert ax.get_aspect() == 1
    assert legend(ax) == ["class 0", "class 1", "class 2"]
    assert ax.get_title() == "smoothed at σ = 0.1"


def test_tables_that_are_not_shown_still_keep_the_looks_and_the_axis() -> None:
    tables = {"a": table(0.5), "b": table(0.5, method="dual", scale=2.0)}
    both, one = (figures.certified_curves(tables, show=show) for show in (None, ["a"]))
    assert legend(one) == ["a"]
    assert curve(one, "a").get_color() == curve(both, "a").get_color()
    assert one.get_xlim() == both.get_xlim()


def test_curves_against_n_mark_the_chosen_row() -> None:
    columns = {"n": [100, 1000], "lower": [0.7, 0.8], "radius": [0.2, 0.4], "share": 0.9, "second": 0.1}
    others = {"upper": [0.2, 0.15], "cohen": [0.1, 0.3], "ceiling": [0.6, 0.9], "limit": 0.5}
    curves = pd.DataFrame(columns | others)
    for draw, column in ((figures.bound_against_n, "lower"), (figures.radius_against_n, "radius")):
        ax = draw(curves, 1000)
        line, dot = ax.lines[0], next(one for one in ax.lines if one.get_marker() == "o")
        assert line.get_ydata().tolist() == curves[column].tolist()
        assert [*dot.get_xdata(), *dot.get_ydata()] == [1000, curves[column][1]]
        assert ax.get_xscale() == "log"
    bounds, radii = figures.bound_against_n(curves, 1000), figures.radius_against_n(curves, 1000)
    assert curve(bounds, "rival at most").get_ydata().tolist() == [0.2, 0.15]
    assert legend(bounds) == ["class at least", "rival at most", "shares of votes", "1/2"]
    assert curve(radii, "Cohen's rule").get_ydata().tolist() == [0.1, 0.3]
    assert legend(radii) == ["two bounds", "Cohen's rule", "if all votes agreed", "with endless draws"]


def test_axes_in_a_row_share_a_page() -> None:
    left, right = figures.row_of_axes(2.0, 1.0, height=1.5)
    assert left.figure is right.figure
    assert left.figure.get_size_inches().tolist() == [3.0, 1.5]


def test_a_figure_shows_itself_in_a_notebook_and_repeats_its_bytes() -> None:
    pages = [figures.certified_curves({"ours": table()}).figure for _ in range(2)]
    assert all(isinstance(page, figures.Page) for page in pages)
    data, size = pages[0]._repr_png_()
    picture = Image.open(io.BytesIO(data))
    assert (size["width"], size["height"]) == (680, 360)
    assert picture.width == pytest.approx(6.8 * 144, abs=1)
    assert figures.png(pages[0]) == figures.png(pages[1])


def test_no_text_is_below_eight_points() -> None:
    ax = figures.certified_curves({"ours": table()})
    figures.png(ax.figure)
    texts = [*ax.get_xticklabels(), *ax.get_yticklabels(), *ax.get_legend().get_texts(), ax.xaxis.label]
    assert min(text.get_fontsize() for text in texts) >= 8


def test_a_figure_says_in_words_what_it_shows() -> None:
    page = figures.certified_curves({"ours": table(), "theirs": table(0.5)}).figure
    assert page.in_words().startswith("certified accuracy against l2 radius")
    assert page.in_words().endswith(": ours, theirs")
    assert page._repr_png_()[1]["alt"] == page.in_words()
    left, right = figures.row_of_axes(1, 1, height=1)
    left.set_title("one\nline")
    right.set_xlabel("only across")
    assert left.figure.in_words() == "one, line; only across"
