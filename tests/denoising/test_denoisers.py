"""A denoiser of our own: what it is trained for, what it gains, and what its file must hold."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dualrs_lab.data import Images, as_floats, load_images
from dualrs_lab.denoising import (
    Behind,
    Denoising,
    Stability,
    in_front,
    load_denoiser,
    train_denoiser,
)
from dualrs_lab.models import Classifier, Denoiser, Normalize, PixelDenoiser, fingerprint
from dualrs_lab.smoothing import GaussianNoise, Spec, certify
from dualrs_lab.training import Standard, TrainConfig, accuracy, new_network, train

SIGMA = 0.5
CPU = torch.device("cpu")


def digits() -> Images:
    return load_images("digits", "train")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    model = new_network("digits_narrow", digits(), seed=0)
    config = TrainConfig(epochs=6, seed=0, batch=64, lr=0.1, crop=0, flip=False)
    train(model, digits(), objective=Standard(), config=config, progress=False)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("denoisers") / "denoiser.safetensors"
    train_denoiser(path, digits(), objective=Denoising(low=0.1, high=0.6), config=settings(10), **how())
    return path


def settings(epochs: int, lr: float = 0.05) -> TrainConfig:
    return TrainConfig(epochs=epochs, seed=0, batch=64, lr=lr, crop=0, flip=False)


def how() -> dict[str, object]:
    return {"device": CPU, "widths": (16, 32), "progress": False}


def error(model: nn.Module, sigma: float) -> tuple[float, float]:
    x, _ = as_floats(load_images("digits", "test"))
    noisy = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return float((noisy - x).square().mean()), float((model(noisy) - x).square().mean())


def test_the_squared_error_of_the_identity_is_the_mean_of_the_variances() -> None:
    x = torch.zeros((4000, 1, 4, 4))
    objective, generator = Denoising(low=0.2, high=0.8), torch.Generator().manual_seed(0)
    found = objective(nn.Identity(), x, torch.zeros(4000), generator)
    mean = (0.8**3 - 0.2**3) / (3 * 0.6)  # of σ², for σ uniform in [0.2, 0.8]
    assert float(found) == pytest.approx(mean, abs=4 * 0.2 / 4000**0.5)
    fixed = Denoising(low=0.5, high=0.5).noisy(x, generator)
    assert float(fixed.std()) == pytest.approx(0.5, rel=0.01)


def test_a_fresh_denoiser_changes_nothing_and_a_trained_one_removes_noise(made: Path) -> None:
    fresh = PixelDenoiser(Normalize([0.3], [0.4]), Denoiser(1, (16, 32))).eval()
    x, _ = as_floats(digits().select(range(8)))
    torch.testing.assert_close(fresh(x), x)
    before, after = error(load_denoiser(made), SIGMA)
    assert after < before / 2


def test_a_classifier_that_never_saw_noise_certifies_behind_it(made: Path, classifier: Classifier) -> None:
    pair, test = Behind(load_denoiser(made), classifier), load_images("digits", "test")
    alone, behind = (accuracy(model, test, sigma=SIGMA, seed=0) for model in (classifier, pair))
    assert behind > alone + 0.08
    spec = Spec(noise=GaussianNoise(SIGMA), seed=0, n=400, n0=50, alpha=0.01)
    pixels, labels = test.batch(torch.arange(0, len(test), 8))
    radii = []
    for model in (classifier, pair):
        found = certify(model, pixels, classes=10, spec=spec)
        radii.append(
            sum(one.radius for one, y in zip(found, labels.tolist(), strict=True) if one.predict == y)
        )
    assert radii[1] > 1.1 * radii[0]


def test_a_denoiser_is_put_in_front_by_its_name(made: Path, classifier: Classifier) -> None:
    named = in_front(made, classifier, sigma=SIGMA)
    x, _ = as_floats(load_images("digits", "test").select(range(4)))
    with torch.no_grad():
        assert torch.equal(named(x), Behind(load_denoiser(made), classifier)(x))
    assert named.info["denoiser"] == "denoiser.safetensors"
    assert not named.training
    with pytest.raises(FileNotFoundError, match="nowhere"):
        in_front(made.with_name("nowhere.safetensors"), classifier, sigma=SIGMA)
    with pytest.raises(ValueError, match="wanted a file of train_denoiser, or diffusers:NAME"):
        in_front("timm:resnet18", classifier, sigma=SIGMA)


def test_stability_keeps_the_classifier_and_wins_more_of_its_answers(
    made: Path, classifier: Classifier, tmp_path: Path
) -> None:
    before = fingerprint(classifier)
    objective = Stability(low=SIGMA, high=SIGMA, classifier=classifier, anchor=10.0)
    start, path = load_denoiser(made), tmp_path / "stable.safetensors"
    stable = train_denoiser(
        path,
        digits(),
        objective=objective,
        config=settings(4, lr=0.02),
        start=start,
        device=CPU,
        progress=False,
    )
    assert fingerprint(classifier) == before
    assert fingerprint(objective.classifier) == before
    assert all(weight.grad is None for weight in objective.classifier.parameters())
    test = load_images("digits", "test")
    plain, better = (accuracy(Behind(d, classifier), test, sigma=SIGMA, seed=0) for d in (start, stable))
    assert better > plain + 0.04
    noisy, left = error(stable, SIGMA)
    assert left < 0.9 * noisy  # the anchor holds


def test_files_are_taken_up_again_and_other_settings_are_refused(made: Path, tmp_path: Path) -> None:
    again = train_denoiser(
        made, digits(), objective=Denoising(low=0.1, high=0.6), config=settings(10), **how()
    )
    assert fingerprint(again) == fingerprint(load_denoiser(made))
    with pytest.raises(ValueError, match="denoiser"):
        train_denoiser(made, digits(), objective=Denoising(low=0.1, high=0.5), config=settings(10), **how())
    told = json.loads(made.with_suffix(".json").read_text())
    assert told["architecture"] == {"name": "denoiser", "channels": 1, "widths": [16, 32]}
    other = tmp_path / "other.safetensors"
    other.write_bytes(made.read_bytes())
    for wrong in ({"name": "digits_narrow"}, {"name": "denoiser", "channels": 3, "widths": [16, 32]}, {}):
        other.with_suffix(".json").write_text(json.dumps(told | {"architecture": wrong}))
        with pytest.raises(ValueError, match="load_denoiser"):
            load_denoiser(other)


def test_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    calls = []

    class Twice(Denoising):
        def __call__(self, *args: object) -> torch.Tensor:
            calls.append(1)
            if len(calls) == 30:
                raise Stopped
            return super().__call__(*args)  # type: ignore[arg-type]

    some, wanted = digits().select(range(640)), tmp_path / "whole.safetensors"
    objective = Denoising(low=0.3, high=0.3)
    whole = train_denoiser(wanted, some, objective=objective, config=settings(4), **how())
    path = tmp_path / "stopped.safetensors"
    Twice.__name__ = "Denoising"  # the same settings
    with pytest.raises(Stopped):
        train_denoiser(path, some, objective=Twice(low=0.3, high=0.3), config=settings(4), **how())
    assert list(tmp_path.glob("stopped*.state.pt"))
    went_on = train_denoiser(path, some, objective=objective, config=settings(4), **how())
    assert fingerprint(went_on) == fingerprint(whole)
    assert not list(tmp_path.glob("*.state.pt"))


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.5), (0.6, 0.5), (0.0, 0.0)])
def test_noise_that_makes_no_sense_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="wanted 0 <= low <= high > 0"):
        Denoising(low=low, high=high)
