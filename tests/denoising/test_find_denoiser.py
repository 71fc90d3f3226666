"""A denoiser by one word, the settings that one is trained with, and what it leaves of noise."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dualrs_lab.data import load_images
from dualrs_lab.denoising import Denoising, denoiser_recipe, find_denoiser, squared_error, train_denoiser
from dualrs_lab.models import fingerprint
from dualrs_lab.training import TrainConfig

GREY = (1, 8, 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources") / "d.safetensors"
    few = load_images("digits", "train").select(range(64))
    config = TrainConfig(epochs=1, seed=0, batch=64, lr=0.01, crop=0, flip=False)
    how = {"device": torch.device("cpu"), "widths": (8, 8), "progress": False}
    train_denoiser(path, few, objective=Denoising(low=0.1, high=0.5), config=config, **how)
    return path


def test_a_file_is_found_with_what_a_record_tells(made: Path) -> None:
    model, told = find_denoiser(made, shape=GREY)
    assert not model.training
    assert told == {"source": "d.safetensors", "fingerprint": fingerprint(model)}
    assert find_denoiser(str(made), shape=GREY, sigma=0.25)[1] == told  # one serves all noise


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 9)])
def test_images_that_it_cannot_take_are_refused_with_their_size(
    made: Path, shape: tuple[int, int, int]
) -> None:
    size = " x ".join(map(str, shape))
    with pytest.raises(ValueError, match=f"takes no images of {size}"):
        find_denoiser(made, shape=shape)


def test_a_diffusion_model_wants_its_noise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is made for one noise level, and none was given"):
        find_denoiser("diffusers:some/where", shape=GREY)
    with pytest.raises(FileNotFoundError, match="is missing"):
        find_denoiser(tmp_path / "no.safetensors", shape=GREY)


def test_what_is_left_of_noise_is_its_variance_where_nothing_is_done() -> None:
    images = load_images("digits", "test")
    how = {"sigma": 0.5, "seed": 0, "device": torch.device("cpu")}
    assert squared_error(nn.Identity(), images, **how) == pytest.approx(0.25, rel=0.02)
    assert squared_error(nn.Identity(), images, **how) == squared_error(nn.Identity(), images, **how)


def test_digits_are_not_mirrored_and_stability_goes_on_gently() -> None:
    images = load_images("digits", "train")
    plain, stable = (denoiser_recipe(images, epochs=2, seed=1, stable=one) for one in (False, True))
    assert (plain.epochs, plain.seed, plain.flip, plain.crop) == (2, 1, False, 0)
    assert stable.lr < plain.lr
