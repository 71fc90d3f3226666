"""The mean of the weights of networks that began as one is a network; of others it is none."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dualrs_lab.data import Images, load_images
from dualrs_lab.models import Classifier
from dualrs_lab.training import (
    Consistency,
    Gaussian,
    Objective,
    accuracy,
    new_network,
    put_mean,
    recipe,
    soup,
    train,
)

SIGMA = 0.25


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train")


@pytest.fixture(scope="module")
def taught(digits: Images) -> Callable[..., Classifier]:
    def teach(objective: Objective, start: Classifier, seed: int, epochs: int) -> Classifier:
        made = copy.deepcopy(start)
        train(
            made, digits, objective=objective, config=recipe(digits, epochs=epochs, seed=seed), progress=False
        )
        return made

    return teach


def test_of_one_start_it_is_as_good_as_its_parts_and_of_two_starts_it_is_nothing(
    digits: Images, taught: Callable[..., Classifier]
) -> None:
    test, gaussian = load_images("digits", "test"), Gaussian(sigma=SIGMA)
    one, other = (taught(gaussian, new_network("digits_narrow", digits, seed=k), k, 4) for k in (0, 1))
    arms = [taught(objective, one, 2, 2) for objective in (gaussian, Consistency(sigma=SIGMA))]

    def right(network: nn.Module) -> float:
        return accuracy(network, test, sigma=SIGMA, seed=0)

    assert right(soup(arms, digits, sigma=SIGMA, seed=0)) > min(map(right, arms)) - 0.02
    apart = [one, other]
    assert right(soup(apart, digits, sigma=SIGMA, seed=0)) < min(map(right, apart)) - 0.1


def test_weights_are_the_mean_in_these_shares_and_statistics_those_under_the_noise(digits: Images) -> None:
    a, b = (new_network("digits_narrow", digits, seed=seed) for seed in (0, 1))
    made = soup([a, b], digits, sigma=SIGMA, shares=[1, 3], seed=0)
    for ours, one, other in zip(made.parameters(), a.parameters(), b.parameters(), strict=True):
        assert torch.allclose(ours, (one + 3 * other) / 4, atol=1e-6)
    conv, norm = _first(made, nn.Conv2d), _first(made, nn.BatchNorm2d)
    seen = list[Tensor]()
    conv.register_forward_hook(lambda module, x, y: seen.append(y))
    generator = torch.Generator().manual_seed(0)
    pixels = digits.pixels[:] / 255
    with torch.no_grad():
        made(pixels + SIGMA * torch.randn(pixels.shape, generator=generator))
    mean, variance = seen[0].mean((0, 2, 3)), seen[0].var((0, 2, 3))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, mean, atol=0.05 * float(variance.max().sqrt()))
    assert torch.allclose(norm.running_var, variance, rtol=0.1)
    assert not made.training


def _first(network: nn.Module, kind: type[nn.Module]) -> nn.Module:
    return next(part for part in network.modules() if isinstance(part, kind))


def test_the_parts_stay_what_they_were(digits: Images) -> None:
    a, b = (new_network("digits_narrow", digits, seed=seed) for seed in (0, 1))
    before = copy.deepcopy(a.state_dict())
    soup([a, b], digits, sigma=SIGMA, seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in a.state_dict().items())


def test_what_does_not_fit_is_refused(digits: Images) -> None:
    a = new_network("digits_narrow", digits, seed=0)
    wide = new_network("digits_cnn", digits, seed=0)
    for networks, shares, said in (
        ([a], [], "got 1 networks"),
        ([a, a], [1.0], r"shares \(1.0,\)"),
        ([a, a], [1.0, -1.0], "a share above 0"),
        ([a, a], [1.0, float("nan")], "a share above 0"),
        ([a, wide], [], "wanted one architecture"),
    ):
        with pytest.raises(ValueError, match=f"soup: .*{said}"):
            soup(networks, digits, sigma=SIGMA, shares=shares, seed=0)
    shifted = copy.deepcopy(a)
    shifted.normalize.mean += 0.1
    with pytest.raises(ValueError, match="normalise images otherwise"):
        soup([a, shifted], digits, sigma=SIGMA, seed=0)
    with pytest.raises(ValueError, match="put_mean: body"):
        put_mean(a, [wide], [1.0])
