"""One network that is there, at each noise level: loaded by its name, and through the notebooks."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from dualrs_lab.__main__ import main
from dualrs_lab.data import as_floats, load_images
from dualrs_lab.denoising import Denoising, load_experts, train_denoiser
from dualrs_lab.evidence import Certificate
from dualrs_lab.experiment import Experiment
from dualrs_lab.models import fingerprint, save_checkpoint
from dualrs_lab.training import Standard, TrainConfig, new_network, train

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CPU = torch.device("cpu")
FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Code with a linear classifier of the digits, its weights, a checkpoint and a denoiser."""
    made, images = tmp_path_factory.mktemp("given"), load_images("digits", "train")
    x, y = as_floats(images)
    flat = torch.cat([(x.flatten(1) - 0.5) / 0.5, torch.ones(len(x), 1)], dim=1)
    ridge = flat.T @ flat + 10 * torch.eye(65)
    solved = torch.linalg.solve(ridge, flat.T @ torch.eye(10)[y])
    (made / "their_digits.py").write_text(FACTORY)
    torch.save({"1.weight": solved[:-1].T.contiguous(), "1.bias": solved[-1]}, made / "linear.pt")
    config = TrainConfig(epochs=1, seed=0, batch=64, lr=0.05, crop=0, flip=False)
    network = new_network("digits_narrow", images, seed=0)
    train(network, images, objective=Standard(), config=config, progress=False)
    save_checkpoint(made / "net.safetensors", network)
    how = {"config": config, "device": CPU, "widths": (8, 16), "progress": False}
    train_denoiser(made / "denoiser.safetensors", images, objective=Denoising(low=0.1, high=0.5), **how)
    return made


def test_experts_are_those_that_were_trained_or_one_that_is_given(folder: Path) -> None:
    lab = Experiment(folder=folder, data="digits", model=str(folder / "net.safetensors"))
    one = load_experts(lab, [0.0, 0.5, 0.25], classes=10, device=CPU)
    assert [*one] == [0.25, 0.5]
    assert one[0.25] is one[0.5]
    denoiser = str(folder / "denoiser.safetensors")
    behind = Experiment(folder=folder, data="digits", model=lab.model, denoiser=denoiser)
    pairs = load_experts(behind, [0.25, 0.5], classes=10, device=CPU)
    assert pairs[0.25] is not pairs[0.5]
    assert pairs[0.25].classifier is pairs[0.5].classifier
    assert behind.origin(0.25, pairs[0.25])["network"]["denoiser"] == "denoiser.safetensors"
    trained = Experiment(folder=folder, data="digits", model="digits_narrow")
    with pytest.raises(FileNotFoundError, match="run 20_train with the same parameters first"):
        load_experts(trained, [0.25], classes=10, device=CPU)
    for sigma in (0.0, 0.25):
        save_checkpoint(trained.expert(sigma), one[0.25])
    found = load_experts(trained, [0.0, 0.25], classes=10, device=CPU)
    assert [*found] == [0.25, 0.0]
    assert fingerprint(found[0.0]) == fingerprint(one[0.25])
    with pytest.raises(ValueError, match="tells 10 classes, 7 were wanted"):
        load_experts(lab, [0.25], classes=7, device=CPU)


@pytest.mark.slow
def test_notebooks_certify_a_network_that_is_there_at_each_level(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As somebody has it: code of their own, a file of weights, how it normalises, and a denoiser."""
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.chdir(NOTEBOOKS.parent)
    given = {"model": "their_digits:make", "weights": str(folder / "linear.pt"), "mean": "0.5", "std": "0.5"}
    given |= {"denoiser": str(folder / "denoiser.safetensors"), "sigmas": "0.0,0.12,0.25"}
    small = {"n": 200, "images": 12, "most": 1000, "device": "cpu"}
    words = [word for name, value in (given | small).items() for word in ("-p", f"{name}={value}")]
    assert main(["run", "21_certify", "--out", str(tmp_path), *words]) == 0
    lab = Experiment(
        folder=tmp_path / "files", data="digits", model="their_digits:make", n=200, mean=[0.5], std=[0.5],
        weights=given["weights"], denoiser=given["denoiser"],
    ).made  # fmt: skip
    tables = lab.tables()
    assert [*tables] == ["σ = 0.12", "σ = 0.25"]
    for table in tables.values():
        assert len(table) == 12
        assert table["correct"].mean() > 0.3
        assert all(
            Certificate.from_row(row).recomputed() == row["radius"] for row in table.to_dict("records")
        )
    info = json.loads(lab.certificates(0.25).with_suffix(".json").read_text())["info"]
    assert (info["checkpoint"], info["weights"]) == ("their_digits:make", "linear.pt")
    assert info["network"]["mean"] == [0.5]
    assert [*(tmp_path / "files").glob("*.safetensors")] == []  # nothing was trained, and nothing copied
    results = pd.read_csv(tmp_path / "results.csv")
    recorded = results[results["notebook"] == "20_train"].set_index("name")["value"]
    assert json.loads(recorded["source"])["checkpoint"] == "their_digits:make"
    assert float(recorded["accuracy_sigma_0.12"]) > 0.6
