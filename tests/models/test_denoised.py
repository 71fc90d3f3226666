"""A network that denoises first is an ordinary one: stages, maps, folding, votes and checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dualrs_lab.data import load_images
from dualrs_lab.models import (
    Classifier,
    Denoised,
    Denoiser,
    denoise,
    denoise_first,
    load_checkpoint,
    make_model,
    save_checkpoint,
    with_head,
)
from dualrs_lab.pixels import class_maps
from dualrs_lab.runtime import make_generator
from dualrs_lab.smoothing import (
    FastPath,
    GridNoise,
    NoiseBlocks,
    count_votes,
    evaluation_copy,
    flops,
    freeze,
)

GREY = {"classes": 10, "channels": 1, "mean": [0.3], "std": [0.4]}
COLOUR = {"classes": 10, "channels": 3, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
CPU = torch.device("cpu")


def fresh() -> Classifier:
    return make_model("denoised_digits_narrow", seed=0, **GREY)


def moved(seed: int = 1) -> Classifier:
    """Its denoiser changes what it sees, its BatchNorm has seen something, its answers to digits differ."""
    model, generator = fresh(), make_generator(seed)
    with torch.no_grad():
        for part in [*model.parameters(), *model.buffers()]:
            if part.is_floating_point() and part.ndim in (1, 4):
                part.add_(0.05 * torch.rand(part.shape, generator=generator))
        model.eval().body.fc.bias -= model(digits(200)).mean(0)
    return model


def digits(count: int = 20) -> torch.Tensor:
    return load_images("digits", "test").batch(torch.arange(count))[0].float() / 255


@pytest.mark.parametrize(
    ("name", "inner", "shape", "known"),
    [
        ("denoised_digits_narrow", "digits_narrow", (1, 8, 8), GREY),
        ("denoised_wide_start", "wide_start", (3, 32, 32), COLOUR),
    ],
)
def test_a_fresh_denoiser_changes_nothing(name, inner, shape, known) -> None:
    x = torch.rand(3, *shape, generator=make_generator(0))
    plain, behind = make_model(inner, seed=2, **known).eval(), make_model(name, seed=0, **known).eval()
    with torch.inference_mode():
        torch.testing.assert_close(denoise(behind, x), x)
        made = denoise_first(plain, behind.body.denoiser)
        torch.testing.assert_close(made(x), plain(x))
        torch.testing.assert_close(made.stages(x), plain.stages(x))
    assert made.architecture == {"name": name, "classes": 10, "channels": known["channels"]}


def test_it_is_small_and_its_seed_decides_it() -> None:
    model, same = (make_model("denoised_wide_start", seed=0, **COLOUR) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    assert sum(p.numel() for p in model.parameters()) < 4_000_000
    alone = Classifier(model.normalize, model.body.denoiser)
    assert flops(alone, (3, 32, 32)) < 0.2e9 < flops(model, (3, 32, 32)) < 0.7e9


def test_what_is_classified_is_the_denoised_image() -> None:
    model, x = moved(), digits()
    with torch.inference_mode():
        shown = model.body.denoiser(model.normalize(x))
        assert (shown - model.normalize(x)).abs().mean() > 0.01
        torch.testing.assert_close(model.body.judge(shown), model(x))
        torch.testing.assert_close(model.normalize(denoise(model, x)), shown)
        wanted = torch.relu(torch.einsum("nkhw,ck->nchw", model.stages(x)[-1], model.body.fc.weight))
        classes = torch.arange(len(x)) % 10
        found = class_maps(model, x, classes)
        rows = wanted[torch.arange(len(x)), classes]
    share = found / found.flatten(1).amax(1).clamp(min=1e-9)[:, None, None]
    torch.testing.assert_close(share, rows / rows.flatten(1).amax(1).clamp(min=1e-9)[:, None, None])


def test_a_folded_copy_has_no_batchnorm_and_the_same_votes() -> None:
    model, x = moved(), load_images("digits", "test").batch(torch.arange(4))[0]
    folded = evaluation_copy(model, (1, 8, 8), device=CPU, dtype=torch.float32)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    bare = denoise_first(make_model("digits_narrow", seed=0, **GREY), fresh().body.denoiser)
    bare.body.inner.load_state_dict(model.body.inner.state_dict())
    bare.body.fc.load_state_dict(model.body.fc.state_dict())
    voted = {
        "plain": votes(model, x, FastPath.plain()),
        "fast": votes(model, x, FastPath(compile=False)),
        "without its denoiser": votes(bare.eval(), x, FastPath.plain()),
    }
    assert abs(voted["plain"] - voted["fast"]).sum() <= 4  # rounding, at most
    assert abs(voted["plain"] - voted["without its denoiser"]).sum() > 100


def votes(model: Classifier, x: torch.Tensor, fast: FastPath) -> np.ndarray:
    how = {"classes": 10, "device": CPU, "dtype": torch.float32, "fast": fast}
    voter = freeze(model, GridNoise(0.25), (1, 8, 8), **how)
    blocks = NoiseBlocks(GridNoise(0.25), (1, 8, 8), seed=0, stream="votes", device=CPU)
    return count_votes(voter, x, blocks, n=500, classes=10)


def test_it_is_kept_and_gets_another_head_as_any_network(tmp_path: Path) -> None:
    model, x = moved(), digits()
    save_checkpoint(tmp_path / "m.safetensors", model)
    loaded, _ = load_checkpoint(tmp_path / "m.safetensors")
    assert torch.equal(loaded(x), model(x))
    assert isinstance(loaded.body, Denoised)
    made = with_head(model, classes=3, seed=0).eval()
    assert made(x).shape == (20, 3)
    assert torch.equal(made.stages(x)[-1], model.stages(x)[-1])


def test_copies_are_their_own() -> None:
    plain, denoiser = make_model("digits_narrow", seed=3, **GREY).eval(), moved().body.denoiser
    made = denoise_first(plain, denoiser)
    before = made(digits())
    for part in [*plain.parameters(), *denoiser.parameters()]:
        part.data.zero_()
    assert torch.equal(made(digits()), before)


def test_refusals_say_what_fits() -> None:
    plain = make_model("digits_narrow", seed=0, **GREY)
    with pytest.raises(
        ValueError, match=r"got a network 'digits_narrow', which has no denoiser; wanted one of"
    ):
        denoise(plain, digits())
    with pytest.raises(ValueError, match=r"got a network 'resnet20'; wanted one of .*wide_start"):
        denoise_first(make_model("resnet20", seed=0, **COLOUR), Denoiser(3))
    with pytest.raises(ValueError, match="got another denoiser than that of a denoised_digits_narrow"):
        denoise_first(plain, Denoiser(1))
