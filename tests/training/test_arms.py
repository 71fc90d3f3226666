"""The arms of notebook 23: equal totals, and one network for the notebook and the command."""

from pathlib import Path

import pytest
import torch

from dualrs_lab.__main__ import main
from dualrs_lab.data import hold_out, load_images
from dualrs_lab.experiment import Experiment
from dualrs_lab.models import make_model
from dualrs_lab.pixels import mean_budget
from dualrs_lab.training import Arms, Trades, best_path, train_arm

ARMS = Arms(eps=0.2, lows=(0.1,), fraction=0.3, steps=1, step=0.2, warmup=0)


def test_part_and_its_controls_have_equal_totals() -> None:
    images = load_images("digits", "test").select(range(40))
    network = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0).eval()
    budgets = ARMS.budgets(images.shape)
    means = {arm: mean_budget(network, images, budget, seed=0) for arm, budget in budgets.items()}
    assert means.pop("AT") == pytest.approx(0.2)
    assert list(means) == ["PART 0.1", "uniform 0.1", "random pixels 0.1", "other images 0.1"]
    assert [*means.values()] == pytest.approx([means["uniform 0.1"]] * 4, abs=1e-6)


def test_hosts_warm_up_with_the_whole_budget_and_go_on_with_their_own() -> None:
    courses = ARMS.courses((1, 8, 8))
    assert {"TRADES", "TRADES PART", "TRADES uniform", "MART", "MART PART", "MART uniform"} < {*courses}
    budgets, part = ARMS.budgets((1, 8, 8)), courses["TRADES PART"]
    assert part.first == Trades(budget=budgets["AT"], attack=ARMS.attack)
    assert part.then == Trades(budget=budgets["PART 0.1"], attack=ARMS.attack)


def test_the_command_makes_the_networks_of_the_notebook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["part", "--data", "digits", "--arms", "uniform 0.1,MART", "--eps", "0.2", "--lows", "0.1"]
    words += ["--steps", "1", "--step", "0.2", "--epochs", "1", "--warmup", "0", "--device", "cpu"]
    assert main([*words, "--folder", str(tmp_path)]) == 0
    assert "uniform 0.1          seed 0" in capsys.readouterr().out
    whole = load_images("digits", "train")
    held_out, images = hold_out(whole, len(whole) // 10)
    lab = Experiment(folder=tmp_path, data="digits", model="digits_narrow")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for arm in ("uniform 0.1", "MART"):  # by the same settings: found, not trained
        train_arm(
            lab.arm(arm, 0), arm, images, held_out, arms=ARMS, model="digits_narrow", epochs=1, seed=0,
            device=torch.device("cpu"), progress=False,
        )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert best_path(lab.arm("uniform 0.1", 0)) in before
    assert best_path(lab.arm("MART", 0)) not in before


def test_an_arm_that_there_is_not_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["part", "--data", "digits", "--arms", "ART", "--lows", "0.1"]) == 2
    assert "part: --arms 'ART': wanted one of AT, PART 0.1, uniform 0.1" in capsys.readouterr().err
