"""Every notebook runs headless with small settings, and what it records is what it should be."""

import json
from pathlib import Path

import pandas as pd
import pytest

from dualrs_lab.__main__ import main
from dualrs_lab.attacks import check, read_evaluation
from dualrs_lab.cascade import CascadeCertificate
from dualrs_lab.dual import DualCertificate
from dualrs_lab.evidence import Certificate, read_table
from dualrs_lab.models import load_checkpoint

NOTEBOOKS = sorted(path.stem for path in (Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SMALL = [
    "sigmas=0.0,0.12,0.5",
    "unseen_sigma=0.5",
    "epochs=10",
    "n=200",
    "images=40",
    "attacked=100",
    "auto_images=4",
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch) -> Path:
    out = tmp_path_factory.mktemp("runs")
    parameters = [word for value in SMALL for word in ("-p", value)]
    assert main(["run", "--out", str(out), "--jobs", "2", *parameters]) == 0
    return out


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parent.parent)
        yield patch


def recorded(out: Path, notebook: str) -> dict[str, object]:
    table = pd.read_csv(out / "results.csv")
    rows = table[table["notebook"] == notebook]
    return {name: json.loads(value) for name, value in zip(rows["name"], rows["value"], strict=True)}


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_ran_and_left_a_page(out: Path, notebook: str) -> None:
    assert list(out.rglob(f"*{notebook}*.html"))
    assert notebook in (out / "index.html").read_text()


def test_training_recorded_accuracies_and_left_checkpoints(out: Path) -> None:
    values = recorded(out, "20_train")
    assert values["accuracy_sigma_0"] > 0.9
    assert values["accuracy_sigma_0.12"] > values["accuracy_sigma_0.5"]
    paths = sorted((out / "files").glob("digits_*_sigma*_seed0.safetensors"))
    assert len(paths) == 3
    _, info = load_checkpoint(paths[1])
    assert info["training"]["config"]["epochs"] == 10


def test_certification_left_tables_that_can_be_traced_to_votes(out: Path) -> None:
    tables = sorted((out / "files").glob("digits_*_smoothed*_n200.tsv"))
    assert len(tables) == 3
    for path in tables:
        table = read_table(path)
        assert len(table) == 40
        for row in table.to_dict("records"):
            assert Certificate.from_row(row).recomputed() == row["radius"]
    summary = {row["table"]: row for row in recorded(out, "21_certify")["summary"]}
    assert summary["σ = 0.12"]["0"] > summary["σ = 0.5"]["0"]
    assert summary["σ = 0.5"]["acr"] > summary["no noise in training, σ = 0.5"]["acr"]


def test_systems_are_compared_and_can_be_traced_to_votes(out: Path) -> None:
    acr = {row["rule"]: row["acr"] for row in recorded(out, "22_dual")["curves"]}
    certified = {row["table"]: row["acr"] for row in recorded(out, "21_certify")["summary"]}
    assert acr["σ = 0.5"] == certified["σ = 0.5"]
    assert acr["dual, published"] <= acr["dual, routed"] <= acr["oracle"]
    assert acr["cascade"] < acr["cascade, routed"] <= acr["oracle"]
    dual = read_table(next((out / "files").glob("digits_*_dual_*.tsv")))
    cascade = read_table(next((out / "files").glob("digits_*_cascade_*.tsv")))
    assert len(dual) == len(cascade) == 40
    for row in dual.to_dict("records"):
        found = DualCertificate.from_row(row)
        assert (found.recomputed(), found.routes.published) == (row["radius"], row["published"])
    for row in cascade.to_dict("records"):
        assert CascadeCertificate.from_row(row).recomputed() == row["radius"]


def test_pixels_are_attacked_in_tables_that_can_be_summed_again(out: Path) -> None:
    values = recorded(out, "23_pixel_reweighting")
    arms = [row for row in values["arms"] if row["epoch"] == "last"]
    assert {row["seed"] for row in arms} == {0, 1, 2}
    for arm in {row["arm"] for row in arms}:
        text = arm.replace(" ", "_").replace(".", "")
        for row in (row for row in arms if row["arm"] == arm):
            path = next((out / "files").glob(f"digits_*_pixels_{text}_seed{row['seed']}_last_attacked.tsv"))
            table = read_evaluation(path)
            check(table)
            assert len(table) == 100
            assert {name: table[name].mean() for name in ("natural", "pgd", "mma", "worst")} == {
                name: pytest.approx(row[name]) for name in ("natural", "pgd", "mma", "worst")
            }
    budgets = values["budgets"]
    equal = [budgets[f"{kind} 0.1"] for kind in ("PART", "uniform", "random pixels", "other images")]
    assert max(equal) - min(equal) < 1e-5
    assert max(equal) < 0.75 * budgets["AT"]


def test_the_middle_is_the_place_that_matters(out: Path) -> None:
    places = {row["arm"]: row for row in recorded(out, "12_lesson_pixels")["places"]}
    assert len(places) == 6
    assert max(places, key=lambda place: places[place]["natural"]) == "middle"


def test_tradeoff_reads_the_same_tables(out: Path) -> None:
    certified = {row["table"]: row["acr"] for row in recorded(out, "21_certify")["summary"]}
    board = {row["table"]: row["acr"] for row in recorded(out, "30_tradeoff")["summary"]}
    assert board == certified


def test_start_here_certifies(out: Path) -> None:
    radii = recorded(out, "00_start_here")["radii"]
    assert len(radii) == 3
    assert max(radii) > 0.1


def test_a_second_run_has_nothing_to_do(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (out / "files").iterdir()}
    parameters = [word for value in SMALL for word in ("-p", value)]
    assert main(["run", "--out", str(out), *parameters]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (out / "files").iterdir()}
