"""Budgets of pixels in a chart are those of the package; so are worst scores and accuracies."""

import io

import numpy as np
import pandas as pd
import pytest
import torch

from dualrs_lab.charts import Chart, attacked_chart, budget_chart
from dualrs_lab.lessons import EPS, linear_problem
from dualrs_lab.pixels import TopFraction

W, PICTURE = linear_problem()
MAPS = {"size of the weight": np.abs(W), "the left": -np.indices(W.shape)[1]}


def rows(chart: Chart, name: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(chart.spec["datasets"][name]))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 1.0])
def test_the_most_important_pixels_are_those_of_the_package(fraction: float) -> None:
    values = np.random.default_rng(0).random((8, 8))
    table = rows(budget_chart(np.zeros((8, 8)), {"map": values}, high=0.2, low=0.1), "pixels")
    mask = TopFraction(fraction=fraction)(torch.from_numpy(values)[None], (8, 8))
    count = np.floor(fraction * 64 + 0.5)
    assert (table["k0"] < count).tolist() == mask.flatten().tolist()
    assert table["m0"].min() == 0 < table["m0"].max() == 1


def test_its_words_and_values_are_the_budget_and_the_worst_score() -> None:
    found = budget_chart(PICTURE, MAPS, high=2 * EPS, low=0.0, fraction=0.5, weights=W)
    assert "50% of them get 0.2, the others 0, on average 0.1000" in found.alt
    largest = np.argsort(-np.abs(W), axis=None, kind="stable")[:18]
    eps = np.where(np.isin(np.arange(36), largest), 2 * EPS, 0.0).reshape(W.shape)
    kept = found.values.set_index("map")
    assert kept["mean budget"].tolist() == pytest.approx([EPS, EPS])
    worst = float((W * PICTURE).sum() - (eps * np.abs(W)).sum())
    assert kept.loc["size of the weight", "worst score"] == pytest.approx(worst)
    assert kept.loc["size of the weight", "worst score"] < 0 < kept.loc["the left", "worst score"]
    drawing = found.svg()
    assert f"worst score {worst:.4f}".replace("-", "−") in drawing.replace("-", "−")
    assert "on average 0.1000" in drawing
    assert found.png()


def test_a_map_that_tells_nothing_takes_the_first_pixels_and_no_score_is_said_without_weights() -> None:
    found = budget_chart(PICTURE, {"flat": np.ones_like(W)}, high=0.2, low=0.05, fraction=0.25)
    assert rows(found, "pixels")["k0"].tolist() == list(range(36))
    assert list(found.values) == ["map", "mean budget"]
    assert "worst score" not in found.svg()


@pytest.mark.parametrize(
    ("picture", "maps"), [(PICTURE, {}), (PICTURE, {"a": W[:3]}), (PICTURE[0], {"a": W[0]})]
)
def test_what_has_no_common_shape_is_refused(picture: np.ndarray, maps: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="budget_chart: wanted a picture, maps and weights of one shape"):
        budget_chart(picture, maps, high=0.2, low=0.1)


def test_accuracies_stand_under_the_ruler_and_in_words() -> None:
    budgets = [0.0, 0.1, 0.2]
    found = attacked_chart({"plain": [0.9, 0.4, 0.1], "it's robust": [0.8, 0.7, 0.5]}, budgets, eps=0.1)
    at = rows(found, "at")
    assert at["t1"].tolist() == [0.8, 0.7, 0.5]
    assert "at 0.1: plain 0.400, it's robust 0.700" in found.alt
    assert "at budget 0.100" in found.svg()
    assert found.values["plain"].tolist() == [0.9, 0.4, 0.1]


def test_one_of_the_curves_follows_a_menu() -> None:
    curves, turned = {"the truth": [0.9, 0.5, 0.1]}, {1000: [0.9, 0.9, 0.9], 1: [0.9, 0.6, 0.2]}
    found = attacked_chart(curves, [0.0, 0.1, 0.2], eps=0.1, dialled=turned, label="weak", dial="scale")
    at = rows(found, "at")
    assert at["t0"].tolist() == curves["the truth"]
    assert [at["d0"].tolist(), at["d1"].tolist()] == [*turned.values()]
    assert "at 0.1, with scale 1000: the truth 0.500, weak 0.900" in found.alt
    assert found.values["weak, scale 1"].tolist() == turned[1]
    drawing = found.svg().replace("\u00a0", " ")
    assert "at budget 0.100" in drawing
    assert "weak   0.900" in drawing


@pytest.mark.parametrize(
    ("curves", "budgets", "words"),
    [
        ({}, [0.0, 0.1], "wanted one to 4 curves"),
        ({name: [1.0, 0.5] for name in "abcde"}, [0.0, 0.1], "got 5 curves"),
        ({"a": [1.0, 0.5]}, [0.1, 0.2], "wanted one to 4 curves, and budgets from 0 in equal steps"),
        ({"a": [1.0, 0.5, 0.2]}, [0.0, 0.1, 0.3], "got 1 curves and budgets"),
        ({"a": [1.0, 0.5, 0.2]}, [0.0, 0.1], "a has 3 accuracies; wanted one for each of the 2 budgets"),
    ],
)
def test_what_is_no_curve_over_budgets_is_refused(
    curves: dict[str, list[float]], budgets: list[float], words: str
) -> None:
    with pytest.raises(ValueError, match=f"attacked_chart: .*{words}"):
        attacked_chart(curves, budgets, eps=0.1)
    with pytest.raises(ValueError, match="attacked_chart: dialled, setting 3 has 3 accuracies"):
        attacked_chart({"a": [1.0, 0.5]}, [0.0, 0.1], eps=0.1, dialled={3: [0.1, 0.2, 0.3]})
