"""The stage of recipes on the CPU at toy size, and what ships of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

from benchmarks.gpu import recipes as stage6
from benchmarks.gpu.certifying import HOLD
from benchmarks.gpu.experts import board
from benchmarks.gpu.stage import Clock
from benchmarks.gpu.teaching import RECIPES, Taught
from dualrs_lab.data import load_images
from dualrs_lab.evidence import Certificate, read_table
from dualrs_lab.models import fingerprint, load_checkpoint, make_model
from dualrs_lab.training import Gaussian

SHIPPED = Path(__file__).parents[2] / "data" / "cifar10_recipes"
STEM = "cifar10_jpeg_wide_start_CAT-RS_sigma{0:g}_seed0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """First only trained, then certified by a second call."""
    out = tmp_path_factory.mktemp("recipes")
    call = ["--toy", "--device", "cpu", "--minutes", "60", "--out", str(out)]
    assert stage6.main([*call, "--later"]) == 0
    assert not list(out.glob("*.tsv"))
    networks = {path.name: path.read_bytes() for path in out.glob("*.safetensors")}
    assert len(networks) == len(stage6.SIGMAS)
    assert stage6.main(call) == 0
    assert networks.items() <= {path.name: path.read_bytes() for path in out.glob("*.safetensors")}.items()
    return out


@pytest.mark.slow
def test_every_recipe_is_tried_and_the_best_one_trains(made: Path) -> None:
    trials = pd.read_csv(made / "recipes.csv", index_col="recipe")
    assert trials.index.tolist() == ["as it began", *RECIPES]
    curve = trials[["0.25", "0.5", "0.75", "1", "1.25", "1.5"]]
    assert trials["score"].to_numpy() == pytest.approx(curve.mean(axis=1).to_numpy())
    best = trials["score"].drop("as it began").idxmax()
    for path in made.glob("*_sigma*_seed0.safetensors"):
        assert load_checkpoint(path)[1]["training"]["name"] == best
    assert len(list(made.glob("*_n200.tsv"))) == len(list(made.glob("*_n300.tsv"))) == 3
    for path in made.glob("*.tsv"):
        rows = read_table(path)
        again = [Certificate.from_row(row).recomputed() for row in rows.to_dict("records")]
        assert again == pytest.approx(rows["radius"].tolist(), rel=1e-9)


@pytest.mark.slow
def test_held_out_images_alone_are_judged_by(made: Path) -> None:
    votes = load_file(next(made.glob("*_votes.safetensors")))
    assert set((votes["index"] % HOLD).tolist()) == {HOLD - 1}
    assert votes["counts"].shape == (25, 3, 10)


@pytest.mark.slow
def test_a_recipe_that_is_named_trains_without_a_comparison(tmp_path: Path) -> None:
    call = ["--toy", "--device", "cpu", "--minutes", "60", "--later", "--recipe", "own radius"]
    assert stage6.main([*call, "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "recipes.csv").exists()
    made = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert made == [
        f"digits_digits_narrow_own_radius_sigma{s}_seed0.safetensors" for s in ("0.25", "0.5", "1")
    ]


def test_without_experts_to_go_on_from_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage6.main(["--device", "cpu", "--minutes", "1", "--out", str(tmp_path)]) == 1
    assert "--start FOLDER is missing" in capsys.readouterr().out


def test_a_recipe_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taught(run: stage6.Run, name: str, *rest: float) -> tuple[object, dict[str, float]]:
        if name == "MACER":
            raise FloatingPointError("the loss is nan")
        return run.start(0.5), {"epochs": 1.0, "seconds": 2.0}

    monkeypatch.setattr(stage6, "taught", taught)
    clock, run = Clock(1), toy(tmp_path)
    trials = stage6.compared(replace(run, clock=clock))
    assert trials.index.tolist() == [name for name in RECIPES if name != "MACER"]
    assert "MACER: FloatingPointError: the loss is nan" in [text for _, text in clock.steps]


def toy(out: Path) -> stage6.Run:
    everything, test = load_images("digits", "train"), load_images("digits", "test")
    start = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.4], seed=0)
    clock = Clock(1)
    sampling = stage6.sampling(start, test, clock)
    return stage6.Run(
        size=stage6.TOY, clock=clock, out=out, device=torch.device("cpu"), everything=everything, test=test,
        begun=None, sampling=sampling,
    )  # fmt: skip


def test_images_come_as_often_as_they_are_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 images a third is dropped and a third counts double; 20,000 draws, 5 standard errors."""
    images = load_images("digits", "train").select(range(60))
    start = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.4], seed=0)
    trainer = Taught(
        start, images, replace(stage6.TOY.recipe, batch=50), lambda text: None,
        objective=Gaussian(sigma=0.5), counts=4,
    )  # fmt: skip
    wanted = torch.tensor([0.0, 1.0, 2.0]).repeat_interleave(20)
    asked: list[int] = []
    monkeypatch.setattr(trainer, "weighed", lambda number: asked.append(number) or wanted)
    trainer.planned = 400
    drawn = torch.cat(list(trainer._batches(0)))
    assert asked == [0, 1, 2, 3]
    share = torch.bincount(drawn, minlength=60).view(3, 20).sum(1) / len(drawn)
    assert share.tolist() == pytest.approx([0, 1 / 3, 2 / 3], abs=5 * (2 / 9 / 20_000) ** 0.5)


def test_ideal_radii_are_those_of_shares_of_votes(tmp_path: Path) -> None:
    """Of a network that answers class 3 to everything: shares of 1 are drawn in by half a vote."""
    run = toy(tmp_path)
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.4], seed=0)
    with torch.no_grad():
        model.body.fc.weight.zero_()
        model.body.fc.bias.copy_(torch.eye(10)[3])
    labels = run.everything.labels[HOLD - 1 :: HOLD]
    share = float((labels == 3).double().mean())
    n, sigma = run.size.judge, 0.5
    radius = sigma * stats.norm.ppf(1 - 0.5 / n)
    found = stage6.ideal_curve(run, model, sigma)
    radii = np.array(stage6.RADII)
    assert [found[f"{r:g}"] for r in radii] == pytest.approx(np.where(radii <= radius, share, 0.0).tolist())


def test_what_ships_follows_from_its_votes() -> None:
    files = {s: SHIPPED / f"{STEM.format(s)}_smoothed{s:g}_n10000.tsv" for s in stage6.SIGMAS}
    tables = {sigma: read_table(path) for sigma, path in files.items()}
    for sigma, table in tables.items():
        assert len(table) == 1000
        again = [Certificate.from_row(row).recomputed() for row in table.to_dict("records")]
        assert again == pytest.approx(table["radius"].tolist(), rel=1e-9)
        network, info = load_checkpoint(SHIPPED / f"{STEM.format(sigma)}.safetensors")
        assert info["training"]["name"] == "CAT-RS"
        record = json.loads(files[sigma].with_suffix(".json").read_text())
        assert record["identity"]["model"] == fingerprint(network)
    written = pd.read_csv(SHIPPED / "board.csv", index_col="rule")
    assert board(tables).to_numpy() == pytest.approx(written.to_numpy(), abs=1e-6, nan_ok=True)
    trials = pd.read_csv(SHIPPED / "recipes.csv", index_col="recipe")
    assert trials["score"].drop("as it began").idxmax() == "CAT-RS"
