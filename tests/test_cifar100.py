"""The profile cifar100 of 25_adaptive: planned from two files alone, and run on small ones of their kinds.

The images are foolbox's twenty of CIFAR-100. A folder with its hundred classes is made of them: each
photograph is an image of its own class, and moved or mirrored it stands for others.
"""

import json
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dualrs_lab.__main__ import main
from dualrs_lab.adapters import BigTransfer, DeepMindWide, load_network
from dualrs_lab.attacks import read_evaluation
from dualrs_lab.data import Images, as_floats, load_images
from dualrs_lab.headless import Request, make_plan

ROOT = Path(__file__).parent.parent
STATISTICS = "mean=0.5071,0.4865,0.4409&std=0.2673,0.2564,0.2762"
FINE = 100


def photographs() -> dict[int, Image.Image]:
    """Of foolbox, by their class."""
    foolbox = pytest.importorskip("foolbox")
    files = sorted((Path(foolbox.__file__).parent / "data").glob("cifar100_*.png"))
    assert len(files) == 20
    return {int(file.stem.split("_")[2]): Image.open(file).convert("RGB") for file in files}


def folder_of(place: Path, train: int = 5, test: int = 3) -> Path:
    """train/ and test/ with a hundred class folders: a class is a photograph in one place, moved a little."""
    found = photographs()
    others = cycle(sorted(found))
    rng = np.random.default_rng(0)
    for label in range(FINE):
        pixels = np.asarray(found[label if label in found else next(others)])
        turned = (
            pixels if label in found else np.roll(np.rot90(pixels, label % 4), label % 7 * 4, axis=label % 2)
        )
        for split, count in (("train", train), ("test", test)):
            inside = place / split / f"{label:02d}"
            inside.mkdir(parents=True)
            for number in range(count):
                shift = (0, 0) if split == "test" and not number else tuple(rng.integers(-1, 2, 2))
                moved = Image.fromarray(np.roll(turned, shift, axis=(0, 1)))
                moved.save(inside / f"{number}.png")
    return place


def taught(body: nn.Module, images: Images, mean: list[float], std: list[float], steps: int) -> nn.Module:
    """A little: enough to be right on most images."""
    x, y = as_floats(images)
    x = (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    optimizer, order = torch.optim.Adam(body.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    body.train()
    for _ in range(steps):
        some = torch.randint(len(x), (100,), generator=order)
        optimizer.zero_grad()
        nn.functional.cross_entropy(body(x[some]), y[some]).backward()
        optimizer.step()
    return body.eval()


def test_the_profile_wants_two_files_and_no_other_notebook() -> None:
    request = {"folder": ROOT / "notebooks", "out": Path("runs"), "notebooks": ("25_adaptive",)}
    (run,) = make_plan(Request(**request, profile="cifar100"))
    given = run.parameters
    for role, file in (("accurate", "cifar100_std_rn152.pt"), ("robust", "Wang2023Better_WRN-70-16.pt")):
        assert f"/cifar100/{file}?" in given[role] or f"/cifar100/Linf/{file}?" in given[role]
        assert Path(file).stem in (ROOT / "docs" / "command_line.md").read_text()
        with pytest.raises(FileNotFoundError, match=file):  # and the command says which one is missing
            load_network(given[role])
    assert STATISTICS in given["robust"]
    assert "size=128" in given["accurate"]
    assert {one.name for one in make_plan(Request(**request))} > {"24_mixing"}


@pytest.mark.slow
def test_the_profile_runs_from_state_dicts_to_autoattack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUALRS_CACHE", str(tmp_path / "cache"))
    data = f"folder:{folder_of(tmp_path / 'cifar100')}"
    train, photos = load_images(data, "train"), photographs()
    assert (train.shape, len(train.classes)) == ((3, 32, 32), FINE)
    torch.manual_seed(0)
    bodies = {
        "accurate": BigTransfer(FINE, 3, [1, 1, 1, 1], 32),
        "robust": DeepMindWide(FINE, 3, 1, 2, relu=False),
    }
    means = {
        "accurate": ([0.5] * 3, [0.5] * 3),
        "robust": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    }
    for role, body in bodies.items():
        torch.save(taught(body, train, *means[role], steps=120).state_dict(), tmp_path / f"{role}.pt")
    accurate, robust = tmp_path / "accurate.pt", tmp_path / "robust.pt"
    given = {
        "dataset": data,
        "accurate": f"robustbench:{accurate}?size=32",
        "robust": f"robustbench:{robust}?{STATISTICS}",
        "eps": "0.002", "step": "0.0005", "steps": "2", "train_epochs": "1", "trained": "200",
        "fitted": "150", "attacked": "20", "auto_images": "2", "square": "false", "device": "cpu",
    }  # fmt: skip
    words = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    out = tmp_path / "runs"
    assert main(["run", "25_adaptive", "--profile", "cifar100", "--out", str(out), *words]) == 0
    assert [path.name for path in out.glob("*_*") if path.is_dir()] == ["25_adaptive"]
    lines = (out / "25_adaptive" / "records.jsonl").read_text().splitlines()
    found = {name: value for line in lines for name, value in json.loads(line).items()}
    assert found
    systems = read_evaluation(next((out / "files").glob("*systems*.tsv")))
    assert {*systems["system"]} == {"g", "h", "weight 0.8", "weight 0.92", "adaptive from 0.84", "MixedNUTS"}
    natural = systems.groupby("system")["natural"].mean()
    assert natural["g"] > 0.5
    assert natural["h"] > 0.5
    auto = read_evaluation(next((out / "files").glob("*auto*.tsv")))
    assert {*auto["system"]} == {"adaptive from 0.84", "MixedNUTS"}
    assert (auto["autoattack"] <= auto["natural"]).all()
    g = load_network(given["accurate"])
    x = torch.stack([torch.from_numpy(np.asarray(photos[label]).copy()) for label in sorted(photos)])
    said = g(x.permute(0, 3, 1, 2).float() / 255).argmax(1)
    assert (said == torch.tensor(sorted(photos))).float().mean() > 0.5  # the photographs themselves
