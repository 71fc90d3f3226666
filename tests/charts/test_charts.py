"""Charts carry the package's numbers, draw without a browser, and say in words what they show."""

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dualrs_lab.cascade import Cascade
from dualrs_lab.cascade import from_tables as cascade_table
from dualrs_lab.charts import (
    THEME,
    VEGALITE,
    Chart,
    as_data,
    board_chart,
    cascade_chart,
    combiner_chart,
    curves_chart,
    dial_chart,
    dual_chart,
    line_scales,
    mark_scales,
    menu,
    mix_chart,
    plane_chart,
    slider,
    ticks,
    tips,
    votes_chart,
    walk_chart,
)
from dualrs_lab.combine import Combiner, combine_tables
from dualrs_lab.evidence import (
    average_radius,
    certified_accuracy,
    confidence_band,
    floor_text,
    lower_bound,
    read_table,
    ruled_radius,
    upper_bound,
)
from dualrs_lab.experiment import Experiment
from dualrs_lab.figures import METHODS, certified_points, looks
from dualrs_lab.lessons import SmoothedPlane, first_wrong, lesson_plane, walk
from dualrs_lab.mixing import mixed

DATA = Path(__file__).parents[2] / "data"
ROWS = pd.DataFrame({"idx": range(4), "label": 0, "predict": 0, "correct": [1, 1, 1, 0]})
TABLES = {
    "σ = 0.5": ROWS.assign(radius=[0.1, 0.3, 0.6, 0.9], sigma=0.5),
    "it's 100 %": ROWS.assign(radius=[0.25, 0.2, 1.0, 1.8], sigma=1.0),
}


@pytest.fixture(scope="module")
def curves() -> Chart:
    return curves_chart(TABLES, radius=0.3)


def rows(chart: Chart, name: str) -> pd.DataFrame:
    """The named data inside a chart."""
    return pd.read_csv(io.StringIO(chart.spec["datasets"][name]))


def test_every_value_under_the_ruler_is_that_of_the_table(curves: Chart) -> None:
    at = rows(curves, "at")
    for number, label in enumerate(looks(TABLES)):
        assert np.array_equal(at[f"t{number}"], certified_accuracy(TABLES[label], at["radius"]))
    assert at["radius"].iloc[-1] >= 1.0  # past the last step
    low, high = confidence_band(TABLES["σ = 0.5"], 0.3)
    text = at.loc[at["radius"] == 0.3, f"b{list(looks(TABLES)).index('σ = 0.5')}"].item()
    assert text == f"0.500 ({low:.3f} to {high:.3f})"


def test_a_long_curve_is_drawn_short_and_never_above_itself() -> None:
    many = pd.DataFrame({"label": 0, "predict": 0, "correct": 1, "radius": np.linspace(0.01, 2, 3000)})
    drawn = rows(curves_chart({"many": many}, band=None), "steps")
    assert len(drawn) <= 401
    between = (drawn["radius"].to_numpy()[:-1] + drawn["radius"].to_numpy()[1:]) / 2
    assert (drawn["accuracy"].to_numpy()[1:] <= certified_accuracy(many, between) + 1e-5).all()


def test_a_chart_is_the_same_each_time_and_small(curves: Chart) -> None:
    assert json.dumps(curves.spec) == json.dumps(curves_chart(TABLES, radius=0.3).spec)
    data, metadata = curves._repr_mimebundle_()
    assert set(data) == {VEGALITE, "image/png", "text/plain"}
    assert len(json.dumps([data, metadata])) < 100_000
    assert metadata[VEGALITE]["embed_options"]["actions"]["editor"] is False  # it is in a network
    assert data[VEGALITE]["$schema"].endswith("/v5.json")
    assert data[VEGALITE]["config"] == THEME


def test_a_picture_and_a_drawing_show_the_ruler_where_it_stands(curves: Chart) -> None:
    assert Image.open(io.BytesIO(curves.png())).size[0] > 1000
    drawing = curves.svg()
    assert "at radius 0.300" in drawing
    assert "σ = 0.5   0.500" in drawing.replace("\u00a0", " ")  # the legend has the values
    title = ElementTree.fromstring(drawing)[0]
    assert (title.tag.rpartition("}")[2], title.text) == ("title", curves.alt)


def test_words_and_values_are_the_packages(curves: Chart) -> None:
    assert "σ = 0.5 0.500" in curves.alt
    kept = pd.read_csv(io.StringIO(curves.csv())).set_index("table")
    for label, table in TABLES.items():
        assert kept.loc[label, "r = 0.25"] == certified_accuracy(table, 0.25)
        assert kept.loc[label, "ACR"] == average_radius(table)
    latex = curves_chart({"a_b & σ": TABLES["σ = 0.5"].assign(radius=0.1239)}).latex()
    assert r"a\_b \& $\sigma$ & 4 & 0.750 & 0.092 \\" in latex  # 0.0929…, rounded down
    assert r"\toprule" in latex


def test_a_chart_without_tables_is_refused() -> None:
    with pytest.raises(ValueError, match="curves_chart: got no tables"):
        curves_chart({})


def test_series_look_as_in_figures() -> None:
    colours, dashes = line_scales({"dual": METHODS["dual"], "standard": METHODS["standard"]})
    assert colours["range"][0] == METHODS["dual"].colour
    assert dashes["range"] == [[7, 2, 2, 2], [2, 2]]
    assert mark_scales({"dual": METHODS["dual"]})[1]["range"] == ["diamond"]


@pytest.mark.parametrize("last", [0.013, 0.4, 1.0, 1.8, 7.3, 120])
def test_ticks_are_round_and_reach_the_end(last: float) -> None:
    found = ticks(last)
    assert found[0] == 0
    assert last <= found[-1] < last + 2 * found[1]
    assert len(found) <= 152
    assert all(float(repr(place)) == place and len(repr(float(place))) < 8 for place in found.tolist())


def test_controls_have_labels_and_a_row_is_found_behind_the_nearest_mark() -> None:
    assert slider("sigma", "σ", 0.5, 0, 1, 0.05).to_dict()["expr"] == "sigma"
    chosen = menu("rule", "rule", {"two bounds": 0, "Cohen": 1}, 0).param
    assert chosen.bind.to_dict() == {
        "input": "select",
        "labels": ["two bounds", "Cohen"],
        "name": "rule",
        "options": [0, 1],
    }
    assert tips({"r": "ROW.r"})["value"].to_dict()["expr"] == "{'r': (datum.datum || datum).r}"
    assert as_data("x", pd.DataFrame({"yes": [True]})).to_dict()["values"] == "yes\n1\n"


def points() -> pd.DataFrame:
    found = [certified_points(TABLES, family="here", radius=radius) for radius in (0.2, 0.5)]
    theirs = pd.DataFrame([{"label": "far", "natural": 0.9, "robust": 0.9, "threat": found[0]["threat"][0]}])
    theirs = theirs.assign(family="published", attack="certificate")
    return pd.concat([*(part.assign(images=4) for part in found), theirs], ignore_index=True)


def test_the_board_has_its_points_its_front_and_intervals() -> None:
    chart = board_chart(points(), tables=TABLES)
    shown = rows(chart, "points")
    assert shown["robust"].tolist() == points()["robust"].tolist()
    assert shown["front"].tolist()[-1] == 0  # published points stay off it
    assert shown.groupby("threat")["front"].sum().min() >= 1
    low, high = confidence_band(TABLES["σ = 0.5"], 0.2)
    first = shown[shown["label"] == "σ = 0.5"].iloc[0]
    assert (first["robust_low"], first["robust_high"]) == pytest.approx((low, high))
    assert set(rows(chart, "curves")["label"]) == set(TABLES)
    assert "Pareto front of l2 0.2 certified" in chart.alt
    assert "<svg" in chart.svg()


def test_the_board_refuses_what_is_no_point() -> None:
    with pytest.raises(ValueError, match="board_chart: no threat, attack in the points"):
        board_chart(points().drop(columns=["threat", "attack"]))


def test_a_dial_has_a_curve_for_each_setting_and_wants_all_of_them() -> None:
    one, other = TABLES.values()
    settings = {(0.0, "a"): one, (0.5, "a"): other, (0.0, "b"): other, (0.5, "b"): one}
    chart = dial_chart({"fixed": one}, settings, ["t", "kind"], label="moved", start=(0.5, "a"))
    at = rows(chart, "at")
    for number, table in enumerate((one, other, other, one)):  # in the order of the values
        assert np.array_equal(at[f"d{number}"], certified_accuracy(table, at["radius"]))
    told = {param["name"]: param for param in chart.spec["params"]}
    assert told["setting"]["expr"] == "2 * round((dial0 - 0.0) / 0.5) + 1 * dial1"
    assert (told["dial0"]["value"], told["dial0"]["bind"]["input"]) == (0.5, "range")
    assert told["dial1"]["bind"]["labels"] == ["a", "b"]
    assert chart.values["ACR"].tolist() == [average_radius(table) for table in (one, other, other, one)]
    assert "ACR of the moved 0.3625 (best other 0.2500)" in chart.svg()
    with pytest.raises(ValueError, match=r"no table for the setting \(0.5, 'b'\)"):
        dial_chart({}, {key: settings[key] for key in list(settings)[:3]}, ["t", "kind"], label="moved")


def test_systems_in_a_chart_are_those_of_the_package() -> None:
    tables = Experiment.shipped(DATA).singles((0.25, 0.5))
    few = {sigma: table.head(40) for sigma, table in tables.items()}
    chart = cascade_chart(few, parts=2)
    for number, limit in enumerate((0.0, 0.25, 0.5)):
        cascade = Cascade((0.5, 0.25), (limit, 0.0))
        acr = average_radius(cascade_table(few, cascade=cascade, alpha=0.001))
        assert chart.values["ACR"][number] == pytest.approx(acr, abs=1e-12)
    mixes = mix_chart(few[0.5], step=0.25)
    assert mixes.values["ACR"].tolist()[2] == average_radius(mixed(few[0.5], 0.75))
    combiners = {"small": Combiner.single((0.25, 0.5), 0)}
    acr = average_radius(combine_tables(few, combiner=combiners["small"], alpha=0.001))
    assert combiner_chart(few, combiners).values["ACR"].item() == pytest.approx(acr, abs=1e-12)


def test_votes_carry_exact_bounds_and_the_first_frame_is_the_packages() -> None:
    chart = votes_chart(share=0.93, rival=0.04, n=1000, alpha=0.01, sigma=0.25)
    bounds = rows(chart, "bounds")
    assert bounds["a4"][186] == pytest.approx(lower_bound(930, 1000, 0.005), abs=1e-12)
    assert bounds["c4"][186] == pytest.approx(lower_bound(930, 1000, 0.01), abs=1e-12)
    assert 1 - bounds["a4"][192] == pytest.approx(upper_bound(40, 1000, 0.005), abs=1e-12)
    two = ruled_radius("two-bounds", 930, 40, 1000, 0.01, 0.25)
    cohen = ruled_radius("cohen", 930, 40, 1000, 0.01, 0.25)
    assert f"radius {floor_text(two)}, by Cohen’s rule {floor_text(cohen)}" in chart.svg()
    assert chart.values.set_index("n").loc[1000, "radius"] == two
    assert "0, abstains" in votes_chart(share=0.3, rival=0.5).svg()


def test_the_plane_is_the_lessons() -> None:
    plane = lesson_plane()
    chart = plane_chart(plane, sigmas=(0.07,), x=0.2, y=0.3)
    at = rows(chart, "plane").iloc[8 + 12 * 41]
    assert (at["x"], at["y"]) == (0.2, 0.3)
    exact = plane.exact_radius(np.array([[0.2, 0.3]]), 0.07)[0]
    assert at["e0"] == pytest.approx(exact, abs=1e-4)
    assert 0 < at["r0"] <= exact
    assert f"certified within {at['r0']:.3f}" in chart.svg()


def test_an_attack_in_the_plane_is_the_lessons_step_by_step() -> None:
    smoothed, at = SmoothedPlane(lesson_plane(), 0.1), np.array([[0.77, 0.53]])
    ways: dict[str, dict[str, object]] = {"long": {"step": 0.02}, "short": {"step": 0.003}}
    chart = walk_chart(smoothed, ways=ways, x=0.77, y=0.53, steps=5)
    row = rows(chart, "walks").query("x == 0.77 and y == 0.53 and way == 0").iloc[0]
    places = walk(smoothed, at, smoothed.predict(at), 0.1, steps=10, step=0.02)
    assert [row[f"x{t}"] for t in range(11)] == np.rint(1000 * places[0, :, 0]).tolist()
    assert row["f"] == first_wrong(smoothed, places, smoothed.predict(at))[0] == 4
    exact = smoothed.base.exact_radius(at, 0.1)[0]
    assert exact - 1e-4 <= row["e"] <= exact
    assert row["c"] <= smoothed.base.rs_radius_exact(at, 0.1)[0]
    assert f"exactly {row['e']:.3f} · 5 steps: another class, at step 4" in chart.svg()
    assert chart.values["another class"].tolist() == ["at step 4", "never"]
    assert len(json.dumps(chart._repr_mimebundle_())) < 200_000


def test_a_dual_system_image_by_image() -> None:
    table = read_table(DATA / "cifar10_systems" / "dual.tsv").head(30)
    chart = dual_chart(table, image=3)
    shown, one = rows(chart, "told"), table.iloc[3]
    assert shown["radius"].tolist() == table["radius"].tolist()
    assert (shown["e0"] <= table["entry_0.25"] + 1e-12).all()
    text = f"routed {floor_text(one['radius'])} · published {floor_text(one['published'])}"
    assert text in chart.svg()
    with pytest.raises(ValueError, match="dual_chart: wanted certificates of a dual system"):
        dual_chart(TABLES["σ = 0.5"])
