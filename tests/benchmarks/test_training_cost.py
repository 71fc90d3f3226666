"""The published loop is an attack and a step like ours, and every arm is measured."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from benchmarks import training
from dualrs_lab.models import make_model


@pytest.fixture
def batch() -> training.Batch:
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.5], std=[0.3], seed=0)
    x = torch.rand((16, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return training.Batch(model, x, torch.arange(16) % 10)


def test_the_published_attack_stays_in_its_budget_and_raises_the_loss(batch: training.Batch) -> None:
    point = batch._attacked(5).detach()
    assert float((point - batch.x).abs().max()) <= training.EPS + 1e-6
    assert float(point.min()) >= 0
    assert float(point.max()) <= 1
    batch.model.eval()
    before, after = (F.cross_entropy(batch.model(x), batch.y).item() for x in (batch.x, point))
    assert after > before


@pytest.mark.parametrize("steps", [0, 2])
def test_the_published_step_gives_every_weight_a_gradient(batch: training.Batch, steps: int) -> None:
    batch.published(steps)
    assert batch.model.training
    assert all(p.grad is not None and p.grad.any() for p in batch.model.parameters() if p.ndim > 1)


def test_every_arm_is_measured(tmp_path: Path) -> None:
    rows = training.main(
        ["--batch", "4", "--rounds", "1", "--steps", "1", "--no-compile", "--out", str(tmp_path)]
    )
    arms = {row.arm.partition(": ")[2] for row in rows if row.arm.startswith("PGD-1")}
    assert {training.BOOK, "+ channels last", "attack on a folded copy"} < arms
    assert len(arms) == 6
    table = pd.read_csv(tmp_path / "training.csv")
    against = table[table["quantity"] == "as published / this"]
    assert set(against[against["arm"].str.endswith(training.BOOK)]["median"]) == {1.0}
    shares = table[table["quantity"] == "in convolutions"]["median"]
    assert len(shares) == 4  # two kinds of step, each as published and as train does
    assert shares.between(20, 99).all()
    assert (tmp_path / "training.md").read_text().startswith("|")
