"""Every notebook runs headless, and what it records is what it should be.

The runs are those of `make run` where they are of this very package, these notebooks and these inputs, as
their keys say. Else they are made here, with small settings.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from dualrs_lab.__main__ import main
from dualrs_lab.attacks import check_possible, read_evaluation
from dualrs_lab.cascade import CascadeCertificate
from dualrs_lab.dual import DualCertificate
from dualrs_lab.evidence import Certificate, read_table
from dualrs_lab.experiment import Experiment
from dualrs_lab.headless import Request, is_done, make_plan, read_status
from dualrs_lab.models import load_checkpoint

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SMALL = [
    "sigmas=0.0,0.12,0.5",
    "unseen_sigma=0.5",
    "epochs=10",
    "n=200",
    "images=40",
    "attacked=100",
    "auto_images=4",
]


class Made(NamedTuple):
    """Runs of all notebooks, and the options with which they were made."""

    out: Path
    options: list[str]

    def given(self, notebook: str) -> dict[str, Any]:
        return dict(read_status(self.out / notebook)["parameters"])

    def recorded(self, notebook: str) -> dict[str, Any]:
        table = pd.read_csv(self.out / "results.csv")
        rows = table[table["notebook"] == notebook]
        return {name: json.loads(value) for name, value in zip(rows["name"], rows["value"], strict=True)}

    @property
    def lab(self) -> Experiment:
        n = self.given("21_certify")["n"]
        return Experiment(folder=self.out / "files", data="digits", model="digits_narrow", n=n).made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        if all(is_done(run) for run in make_plan(Request(folder=ROOT / "notebooks", out=Path("runs")))):
            yield Made(Path("runs"), [])
            return
        small = [word for value in SMALL for word in ("-p", value)]
        out = tmp_path_factory.mktemp("runs")
        assert main(["run", "--out", str(out), "--jobs", "2", *small]) == 0
        yield Made(out, small)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_ran_and_left_a_page(made: Made, notebook: str) -> None:
    assert list(made.out.rglob(f"*{notebook}*.html"))
    assert notebook in (made.out / "index.html").read_text()


def test_training_recorded_accuracies_and_left_checkpoints(made: Made) -> None:
    given, values = made.given("20_train"), made.recorded("20_train")
    assert values["accuracy_sigma_0"] > 0.9
    assert values["accuracy_sigma_0.12"] > values["accuracy_sigma_0.5"]
    assert len(given["sigmas"]) >= 3
    for sigma in given["sigmas"]:
        _, info = load_checkpoint(made.lab.expert(sigma))
        assert info["training"]["config"]["epochs"] == given["epochs"]


def test_certification_left_tables_that_can_be_traced_to_votes(made: Made) -> None:
    tables = made.lab.tables()
    assert len(tables) == len(made.given("20_train")["sigmas"])
    for table in tables.values():
        assert len(table) == made.given("21_certify")["images"]
        assert (table["n"] == made.lab.n).all()
        for row in table.to_dict("records"):
            assert Certificate.from_row(row).recomputed() == row["radius"]
    summary = {row["table"]: row for row in made.recorded("21_certify")["summary"]}
    assert summary["σ = 0.12"]["0"] > summary["σ = 0.5"]["0"]
    [untrained] = (row for label, row in summary.items() if label.startswith("no noise in training"))
    assert summary[untrained["table"].removeprefix("no noise in training, ")]["acr"] > untrained["acr"]


def test_systems_are_compared_and_can_be_traced_to_votes(made: Made) -> None:
    acr = {row["rule"]: row["acr"] for row in made.recorded("22_dual")["curves"]}
    certified = {row["table"]: row["acr"] for row in made.recorded("21_certify")["summary"]}
    assert acr["σ = 0.5, two bounds"] == certified["σ = 0.5"]  # as 21_certify claims by default
    assert acr["dual, published"] <= acr["dual, routed"] <= acr["oracle"]
    assert acr["dual, routed, two bounds"] <= acr["oracle, two bounds"]
    assert acr["cascade"] < acr["cascade, routed"] <= acr["oracle"]
    dual, cascade = read_table(made.lab.dual), read_table(made.lab.cascade)
    assert len(dual) == len(cascade) == made.given("22_dual")["images"]
    for row in dual.to_dict("records"):
        found = DualCertificate.from_row(row)
        assert (found.recomputed(), found.routes.published) == (row["radius"], row["published"])
    for row in cascade.to_dict("records"):
        assert CascadeCertificate.from_row(row).recomputed() == row["radius"]


def test_pixels_are_attacked_in_tables_that_can_be_summed_again(made: Made) -> None:
    given, values = made.given("23_pixel_reweighting"), made.recorded("23_pixel_reweighting")
    arms = [row for row in values["arms"] if row["epoch"] == "last"]
    assert {row["seed"] for row in arms} == {0, 1, 2}
    for row in arms:
        table = read_evaluation(made.lab.attacked(row["arm"], row["seed"], "last"))
        check_possible(table)
        assert len(table) == given["attacked"]
        assert {name: table[name].mean() for name in ("natural", "pgd", "mma", "worst")} == {
            name: pytest.approx(row[name]) for name in ("natural", "pgd", "mma", "worst")
        }
    budgets = values["budgets"]
    equal = [budgets[f"{kind} 0.1"] for kind in ("PART", "uniform", "random pixels", "other images")]
    assert max(equal) - min(equal) < 1e-5
    assert max(equal) < 0.75 * budgets["AT"]


def test_the_middle_is_the_place_that_matters(made: Made) -> None:
    places = {row["arm"]: row for row in made.recorded("12_lesson_pixels")["places"]}
    assert len(places) == 4
    assert max(places, key=lambda place: places[place]["natural"]) == "middle"


def test_a_weak_attack_lies_and_the_truth_is_between_the_bounds(made: Made) -> None:
    found = made.recorded("15_lesson_attacks")
    assert found["certified"] < found["exact"] < 1
    assert found["masked"] > found["clean"] - 0.02 > found["truth"] + 0.2
    assert found["per_image"] == found["truth"] < found["best_average"] - 0.1
    assert found["signs"] >= 10


def test_tradeoff_reads_the_same_tables(made: Made) -> None:
    certified = {row["table"]: row["acr"] for row in made.recorded("21_certify")["summary"]}
    board = {row["table"]: row["acr"] for row in made.recorded("30_tradeoff")["summary"]}
    assert board == certified


def test_start_here_certifies(made: Made) -> None:
    radii = made.recorded("00_start_here")["radii"]
    assert len(radii) == 3
    assert max(radii) > 0.1


def test_a_second_run_has_nothing_to_do(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (made.out / "files").iterdir()}
    assert main(["run", "--out", str(made.out), *made.options]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (made.out / "files").iterdir()}
