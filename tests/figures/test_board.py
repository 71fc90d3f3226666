"""Points are checked, the front is what nobody beats, and the picture shows both."""

from pathlib import Path

import pandas as pd
import pytest

from dualrs_lab.figures import (
    POINT_COLUMNS,
    board,
    by_certified,
    certified_points,
    front,
    on_front,
    points,
    points_at,
    read_points,
    write_points,
)

DATA = Path(__file__).parents[2] / "data"
SUMMARY = pd.DataFrame(
    {"natural": [0.9, 0.8, 0.8, 0.7], "worst": [0.0, 0.3, 0.2, 0.4]}, index=["g", "mix", "weak", "h"]
)


def some() -> pd.DataFrame:
    return points(SUMMARY, threat="linf 8/255", family="mixes", attack="PGD-20")


def test_nobody_on_the_front_is_beaten() -> None:
    assert front(some()).tolist() == [True, True, False, True]
    twice = pd.concat([some(), some()], ignore_index=True)
    assert front(twice).sum() == 6  # equals do not beat each other


def test_points_come_back_and_impossible_ones_are_refused(tmp_path) -> None:
    write_points(tmp_path / "a.csv", some())
    again = read_points([tmp_path / "a.csv", tmp_path / "a.csv"])
    assert list(again) == list(POINT_COLUMNS)
    assert again["label"].tolist() == ["g", "mix", "weak", "h"] * 2
    assert read_points([]).empty
    with pytest.raises(ValueError, match=r"points: \['g'\] are not shares, or more robust"):
        points(SUMMARY.assign(worst=[0.95, 0, 0, 0]), threat="t", family="f", attack="a")
    with pytest.raises(ValueError, match="not shares"):
        points(SUMMARY * 100, threat="t", family="f", attack="a")
    with pytest.raises(ValueError, match="no attack in the points"):
        write_points(tmp_path / "b.csv", some().drop(columns="attack"))


def test_certificates_make_points() -> None:
    table = pd.DataFrame(
        {
            "label": [0, 0, 0, 0],
            "predict": [0, 0, 1, -1],
            "radius": [0.6, 0.2, 0.9, 0.0],
            "correct": [1, 1, 0, 0],
        }
    )
    found = certified_points({"σ = 1": table}, family="smoothing", radius=0.5)
    (row,) = found.to_dict("records")
    assert row == {
        "threat": "l2 0.5 certified", "family": "smoothing", "label": "σ = 1", "natural": 0.5, "robust": 0.25,
        "attack": "certificate",
    }  # fmt: skip


def test_the_front_is_listed_by_natural_accuracy_without_what_was_published() -> None:
    known = some().assign(family="published", natural=0.99, robust=0.9)
    best = on_front(pd.concat([known, some()], ignore_index=True))
    assert best["label"].tolist() == ["h", "mix", "g"]
    assert list(best) == ["family", "label", "natural", "robust"]


def test_certified_accuracies_by_radius_make_points() -> None:
    table = pd.DataFrame({"natural": [0.9, 0.8], "0": [0.7, 0.75], "0.5": [0.4, 0.3]}, index=["a", "b"])
    natural = points_at(table, 0.5, family=["mixes", "one noise level"])
    assert natural["threat"].tolist() == ["l2 0.5 certified"] * 2
    assert natural["family"].tolist() == ["mixes", "one noise level"]
    assert natural["natural"].tolist() == [0.9, 0.8]
    assert natural["robust"].tolist() == [0.4, 0.3]
    both = pd.concat([points_at(table.iloc[::-1], 0, family="mixes"), points_at(table, 0.5, family="mixes")])
    expected = points_at(table, 0.5, family="mixes", natural="0")
    pd.testing.assert_frame_equal(by_certified(both, 0.5), expected)


def test_published_points_are_hollow_and_off_the_front() -> None:
    known = some().assign(family="published", natural=0.99, robust=0.9)
    ax = board(pd.concat([some(), known], ignore_index=True), accuracy="certified accuracy at radius 0")
    assert ax.get_xlabel() == "certified accuracy at radius 0"
    drawn = {line.get_label(): line for line in ax.lines}
    assert list(drawn["Pareto front (here)"].get_xdata()) == [0.7, 0.8, 0.9]
    assert drawn["published"].get_markerfacecolor() == "none"
    assert drawn["mixes"].get_markerfacecolor() != "none"
    with pytest.raises(ValueError, match="wanted those of one"):
        board(pd.concat([some(), some().assign(threat="l2 0.5")]))


def test_shipped_published_points_are_possible() -> None:
    found = read_points([DATA / "published_robust.csv"])
    assert set(found["threat"]) == {"linf 8/255", "l2 0.5"}
    assert found["family"].str.startswith("published").all()
