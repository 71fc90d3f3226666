"""Stage 5 on the CPU: losses against closed forms, failures, and the whole stage at toy size."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from benchmarks.gpu import certifying
from benchmarks.gpu import denoiser as stage5
from benchmarks.gpu.stage import Clock, pack, parser, unpack
from benchmarks.gpu.trainer import Recipe
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import Certificate, read_table
from dualrs_lab.models import Classifier, fingerprint, load_checkpoint, make_model
from dualrs_lab.smoothing import FastPath
from dualrs_lab.training import Consistency

STEM = "digits_denoised_digits_narrow"
SHELF = f"{STEM}_off_the_shelf_seed0.safetensors"


def digits(count: int = 64) -> Images:
    return load_images("digits", "train").select(range(count))


def fresh() -> Classifier:
    return make_model("denoised_digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.4], seed=0)


def blind() -> stage5.Blind:
    alone = Classifier(fresh().normalize, fresh().body.denoiser)
    trainer = stage5.Blind(alone, digits(), Recipe(batch=32, lr=0.05, crop=0, flip=False), lambda text: None)
    trainer.start(alone, seed=0, low=0.2, high=0.6)
    return trainer


def kept(kind: str, sigma: float) -> str:
    return f"{STEM}_{kind}_sigma{sigma:g}_seed0"


def test_the_noise_of_the_denoiser_is_uniform_between_its_ends() -> None:
    x = torch.zeros(4000, 1, 8, 8)
    sigma = blind().seen(x, torch.zeros(4000)).flatten(1).std(1)
    # a standard deviation of 64 numbers errs by 9 %
    assert sigma.quantile(0.02) == pytest.approx(0.2, abs=0.04)
    assert sigma.quantile(0.98) == pytest.approx(0.6, abs=0.06)
    assert sigma.mean() == pytest.approx(0.4, abs=0.01)


def test_a_fresh_denoiser_leaves_all_of_the_noise() -> None:
    trainer, x = blind(), torch.rand(4000, 1, 8, 8)
    # the mean of σ² between 0.2 and 0.6, of images that are divided by 0.4
    wanted = (0.6**3 - 0.2**3) / (3 * 0.4) / 0.4**2
    assert trainer.loss(x, torch.zeros(4000)).item() == pytest.approx(wanted, rel=0.05)


def test_the_denoiser_learns_to_remove_noise() -> None:
    trainer = blind()
    history = trainer.train(steps=40, seed=0)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]


def test_fine_tuning_is_consistency_and_what_is_left_of_the_noise() -> None:
    model, x = fresh(), digits().batch(torch.arange(32))[0].float() / 255
    y = digits().labels[:32]
    trainer = stage5.Tuned(model, digits(), Recipe(batch=32), lambda text: None)
    found = {}
    for anchor in (0.0, 2.0):
        trainer.start(model, seed=5, sigma=0.5, strength=3.0, anchor=anchor)
        trainer.ramp.fill_(1.0)
        found[anchor] = trainer.loss(x, y).item()
    own = Consistency(sigma=0.5, strength=3.0)(model.train(), x, y, torch.Generator().manual_seed(5))
    assert found[0.0] == pytest.approx(own.item(), rel=1e-5)
    noise = 0.5 * torch.randn((64, 1, 8, 8), generator=torch.Generator().manual_seed(5))
    left = F.mse_loss(noise / 0.4, torch.zeros_like(noise))  # a fresh denoiser leaves all
    assert found[2.0] - found[0.0] == pytest.approx(2 * left.item(), rel=1e-4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("denoiser")
    assert stage5.main(["--toy", "--device", "cpu", "--minutes", "60", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_tables_hold_all_votes_and_recompute(made: Path) -> None:
    for kind, images in (("off_the_shelf", 5), ("fine-tuned", 10)):
        for sigma in stage5.SIGMAS:
            table = read_table(made / f"{kept(kind, sigma)}_smoothed{sigma:g}_n200.tsv")
            assert len(table) == images
            for row in table.to_dict("records"):
                one = Certificate.from_row({str(key): value for key, value in row.items()})
                assert (one.sigma, one.n) == (sigma, 200)
                assert one.radius == pytest.approx(one.recomputed(), rel=1e-12)


@pytest.mark.slow
def test_the_kept_network_is_the_one_that_was_certified_and_the_record_says_which(made: Path) -> None:
    for sigma in stage5.SIGMAS:
        files = {"off_the_shelf": SHELF, "fine-tuned": f"{kept('fine-tuned', sigma)}.safetensors"}
        for kind, file in files.items():
            assert load_file(made / file)["body.fc.weight"].dtype == torch.float16
            record = json.loads((made / f"{kept(kind, sigma)}_smoothed{sigma:g}_n200.json").read_text())
            assert record["identity"]["model"] == fingerprint(load_checkpoint(made / file)[0])
            assert record["info"]["kind"] == kind.replace("_", " ")
            assert record["info"]["checkpoint"] == file
    networks = [kept("fine-tuned", sigma) for sigma in stage5.SIGMAS] + [SHELF.removesuffix(".safetensors")]
    assert len({fingerprint(load_checkpoint(made / f"{name}.safetensors")[0]) for name in networks}) == 4


@pytest.mark.slow
def test_off_the_shelf_is_the_clean_classifier_behind_the_denoiser(made: Path) -> None:
    clean, told = load_checkpoint(made / "digits_digits_narrow_clean_seed0.safetensors")
    shelf, _ = load_checkpoint(made / SHELF)
    x = digits().batch(torch.arange(64))[0].float() / 255
    shown = shelf.body.denoiser(shelf.normalize(x))
    torch.testing.assert_close(shelf(x), clean.body(shown))
    assert told["training"]["held_out_accuracy"] > 0.8


@pytest.mark.slow
def test_denoised_images_are_nearer_to_the_clean_ones_than_noisy_ones(made: Path) -> None:
    shelf, info = load_checkpoint(made / SHELF)
    untouched = fresh().eval()
    for sigma in stage5.SIGMAS:
        noisy, denoised = stage5.squared_errors(shelf, load_images("digits", "test"), sigma)
        assert noisy == pytest.approx(sigma**2, rel=0.05)
        assert denoised < 0.8 * noisy
        assert stage5.squared_errors(untouched, load_images("digits", "test"), sigma)[1] > 0.9 * noisy
        told = info["training"]["held_out"][f"{sigma:g}"]
        assert told["denoised_mse"] < 0.8 * told["noisy_mse"]


@pytest.mark.slow
def test_the_loss_fell_in_every_training(made: Path) -> None:
    for path in made.glob("*.safetensors"):
        losses = [row["loss"] for row in load_checkpoint(path)[1]["history"]]
        assert losses[-1] < 0.9 * losses[0], path.name


@pytest.mark.slow
def test_the_board_shows_every_network_by_both_rules(made: Path) -> None:
    found = pd.read_csv(made / "board.csv", index_col="network")
    for sigma in stage5.SIGMAS:
        for end in ("", ", two bounds"):
            assert found.loc[f"σ = {sigma:g}, off the shelf{end}", "images"] == 5
            assert found.loc[f"σ = {sigma:g}, fine-tuned{end}", "images"] == 10
            assert found.loc[f"σ = {sigma:g}, fine-tuned, shared images{end}", "images"] == 5
    table = read_table(made / f"{kept('fine-tuned', 0.25)}_smoothed0.25_n200.tsv")
    right = (table["correct"] == 1) & (table["radius"] >= 0.25)
    assert found.loc["σ = 0.25, fine-tuned", "0.25"] == pytest.approx(right.mean())


@pytest.mark.slow
def test_a_second_call_goes_on_and_the_results_fit_into_archives(made: Path) -> None:
    before = {path.name: path.read_bytes() for path in made.glob("*.tsv")}
    gone = made / f"{kept('fine-tuned', 0.5)}_smoothed0.5_n200.tsv"
    gone.unlink()
    assert stage5.main(["--toy", "--device", "cpu", "--minutes", "60", "--out", str(made)]) == 0
    steps = [step["step"] for step in json.loads((made / "record.json").read_text())["steps"]]
    assert "all networks are there" in steps

    after = {path.name: path.read_bytes() for path in made.glob("*.tsv")}
    assert {name: data for name, data in after.items() if name != gone.name} == {
        name: data for name, data in before.items() if name != gone.name
    }
    assert len(after[gone.name].splitlines()) == len(before[gone.name].splitlines())
    pack(made)
    assert all(path.suffix == ".zip" and path.stat().st_size < 15 * 2**20 for path in made.iterdir())
    unpack(made)
    assert {path.name: path.read_bytes() for path in made.glob("*.tsv")} == after


def test_without_time_parts_are_left_out_and_said(tmp_path: Path) -> None:
    arguments, clock = parser("", minutes=1e-4).parse_args(["--toy", "--device", "cpu"]), Clock(1e-4)
    stage5.work(arguments, clock, tmp_path)
    said = [text for _, text in clock.steps]
    assert sum("left out" in text for text in said) == 4
    assert sum(": 1 steps" in text for text in said) == 2 + len(stage5.SIGMAS)
    assert not list(tmp_path.glob("*.tsv"))


def test_a_table_that_fails_stops_no_other_and_is_told(tmp_path, monkeypatch) -> None:
    asked = []

    def certified(run: stage5.Run, model: object, sigma: float, n: int, skip: int) -> pd.DataFrame:
        asked.append((sigma, skip))
        if sigma == 0.5:
            raise ValueError("votes otherwise")
        return pd.DataFrame({"correct": [1] * run.tested(skip)})

    monkeypatch.setattr(certifying, "certified", certified)
    test, clock = load_images("digits", "test"), Clock(5)
    pace = certifying.Sampling(dtype=torch.float32, fast=FastPath.plain(), seconds=1e-9)
    run = stage5.Run(
        size=stage5.TOY, clock=clock, out=tmp_path, device=torch.device("cpu"), everything=test, test=test,
        sampling=pace, kind=stage5.TUNED,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"no table: σ = 0\.5, fine-tuned$"):
        certifying.tables(run, dict.fromkeys(stage5.SIGMAS, fresh()), (100, 50))
    assert asked == [(0.25, 100), (0.5, 100), (1.0, 100), (0.25, 50), (1.0, 50)]
    assert "σ = 0.5, fine-tuned: no table, ValueError: votes otherwise" in [text for _, text in clock.steps]


def test_a_denoiser_without_its_classifier_is_said_and_ends_in_failure(tmp_path, monkeypatch) -> None:
    def fails(*arguments: object) -> None:
        raise FloatingPointError("no")

    monkeypatch.setattr(stage5.School, "classify", fails)
    arguments, clock = parser("", minutes=1e-4).parse_args(["--toy", "--device", "cpu"]), Clock(1e-4)
    with pytest.raises(RuntimeError, match=r"no network for σ = \[0\.25, 0\.5, 1\.0\]"):
        stage5.work(arguments, clock, tmp_path)
    said = " ".join(text for _, text in clock.steps)
    assert "classifier: not trained, FloatingPointError: no" in said
    assert "denoiser: not trained, FileNotFoundError: digits_digits_narrow_clean_seed0.safetensors" in said
    assert str(tmp_path) not in said


def test_what_ships_follows_from_its_votes() -> None:
    folder = Path(__file__).parents[2] / "data" / "cifar10_denoised"
    stem = "cifar10_jpeg_denoised_wide_start_{}_sigma{:g}_seed0_smoothed{:g}_n10000.tsv"
    names = {stage5.SHELF: "off_the_shelf", stage5.TUNED: "fine-tuned"}
    tables = {
        kind: {s: read_table(folder / stem.format(name, s, s)) for s in stage5.SIGMAS}
        for kind, name in names.items()
    }
    assert {len(table) for table in tables[stage5.TUNED].values()} == {500}
    assert {len(table) for table in tables[stage5.SHELF].values()} == {250}
    written = pd.read_csv(folder / "board.csv", index_col="network")
    found = stage5.board(tables)
    assert found.index.tolist() == written.index.tolist()
    assert found.to_numpy() == pytest.approx(written.to_numpy(), abs=1e-6)
    network, _ = load_checkpoint(
        folder / "cifar10_jpeg_denoised_wide_start_fine-tuned_sigma0.5_seed0.safetensors"
    )
    record = json.loads((folder / stem.format("fine-tuned", 0.5, 0.5)).with_suffix(".json").read_text())
    assert record["identity"]["model"] == fingerprint(network)
