"""The alternating scheme: noise where the router sends, choices by votes, every step made once."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dualrs_lab.data import Images, load_images, to_float
from dualrs_lab.dual import Cuts, RoutedGaussian, Stakes, alternate, alternation, choices
from dualrs_lab.models import make_model, with_head
from dualrs_lab.runtime import make_generator
from dualrs_lab.smoothing import GridNoise, NoiseBlocks, count_votes
from dualrs_lab.smoothing import labels as routing
from dualrs_lab.training import Gaussian, TrainConfig, train

SIGMAS, RULE = (0.12, 0.5), Cuts((0.25,))


def config(**changes) -> TrainConfig:
    given = {"epochs": 2, "seed": 0, "batch": 64, "lr": 0.05, "crop": 0, "flip": False, "bfloat16": False}
    return TrainConfig(**given | changes)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train").select(range(0, 1200, 4))


@pytest.fixture(scope="module")
def classifier(digits: Images):
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0)
    train(model, digits, objective=Gaussian(sigma=0.25), config=config(epochs=6), progress=False)
    return model


def test_each_image_gets_noise_of_its_own_level() -> None:
    seen = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.stack([x.mean(dim=(1, 2, 3)), -x.mean(dim=(1, 2, 3))], dim=1)

    labels, levels = torch.tensor([0, 1, 1]), torch.tensor([0.1, 0.5, 1.0])
    objective = RoutedGaussian(labels=labels, levels=levels)
    x, y = torch.full((2, 3, 40, 40), 0.3), torch.tensor([2, 0])
    loss = objective(model, x, y, make_generator(0))
    spread = (seen[0] - 0.3).flatten(1).std(dim=1)
    assert spread.tolist() == pytest.approx([1.0, 0.1], rel=0.05)  # 4800 pixels: five standard errors
    assert float(loss) == pytest.approx(
        float(F.cross_entropy(model(seen[0]), torch.tensor([1, 0]))), rel=1e-6
    )


def test_choices_are_those_of_votes(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_WAVE", 130)  # three waves, the last one smaller
    cut = make_model("digits_narrow", classes=2, channels=1, mean=[0.3], std=[0.37], seed=1).eval()
    with torch.no_grad():  # half of the images on either side
        ahead = cut(to_float(digits.pixels)) @ torch.tensor([1.0, -1.0])
        cut.body.fc.bias[0] -= ahead.median()
    found = choices([cut], digits, rule=RULE, n=200, seed=4)
    blocks = NoiseBlocks(GridNoise(0.25), digits.shape, seed=4, stream="choices-0")
    yes = count_votes(cut, digits.pixels, blocks, n=200, classes=2)[:, 0]
    clear = np.abs(yes - 100) > 2  # folding may tip a vote or two
    assert (found[clear] == (yes[clear] < 100)).all()
    assert clear.mean() > 0.7
    assert 0.02 < found.mean() < 0.98


def scheme(folder: Path, classifier, images: Images, **changes):
    given = {
        "sigmas": SIGMAS,
        "rule": RULE,
        "objective": lambda radii: Stakes(radii=radii, sigmas=RULE.sigmas),
        "make": lambda k: with_head(classifier, classes=2, seed=k),
        "router": config(),
        "tune": config(lr=0.01),
        "seed": 0,
        "progress": False,
    }
    return alternate(folder, classifier, images, **given | changes)


def equal(one, other) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_rounds_label_route_and_fine_tune_and_a_kill_repeats_nothing(
    tmp_path: Path, digits: Images, classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    first, second = scheme(tmp_path / "whole", classifier, digits)
    assert first.classifier is classifier
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    assert not equal(second.classifier, classifier)
    assert first.radii.shape == second.radii.shape == (len(digits), 2)
    assert set(first.choice) == {0, 1}
    assert not np.array_equal(first.radii, second.radii)  # labelled again
    assert {file.name for file in (tmp_path / "whole").iterdir() if file.suffix == ".safetensors"} == {
        *(f"round{r}_{what}.safetensors" for r in (0, 1) for what in ("labels", "router_cut1")),
        "round1_classifier.safetensors",
    }
    # What the router sends to the large level is tuned there, and gains there; the rest keeps its level.
    large = first.choice == 1
    gain = second.radii - first.radii
    print(f"gain at the chosen level {gain[large, 1].mean():+.3f} and {gain[~large, 0].mean():+.3f}")
    assert gain[large, 1].mean() > 0

    def stops(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(alternation, "train_checkpoint", stops)
        with pytest.raises(KeyboardInterrupt):
            scheme(tmp_path / "cut", classifier, digits)
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "cut").iterdir()}
    assert len(done) == 4
    again = scheme(tmp_path / "cut", classifier, digits)
    assert all(file.stat().st_mtime_ns == time for file, time in done.items())
    assert equal(again[1].classifier, second.classifier)
    assert all(map(equal, again[1].cuts, second.cuts))
    assert np.array_equal(again[1].choice, second.choice)


def test_no_rounds_is_the_router_alone(tmp_path: Path, digits: Images, classifier) -> None:
    (only,) = scheme(tmp_path, classifier, digits.select(range(60)), rounds=0)
    assert only.classifier is classifier
