"""Tiny networks on the digits, one trained with noise and one without, by which the front door is tried."""

import pytest
import torch
from torch import Tensor, nn

from dualrs_lab.data import Images, as_floats, load_images


def trained(sigma: float, *, batchnorm: bool = False) -> nn.Module:
    """A network of two layers after a second of training under noise `sigma`, in evaluation mode."""
    x, labels = as_floats(load_images("digits", "train"))
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(128) if batchnorm else nn.Identity()
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), norm, nn.ReLU(), nn.Linear(128, 10))
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(200):
        noisy = x + sigma * torch.randn(x.shape, generator=generator)
        loss = nn.functional.cross_entropy(network(noisy), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def images() -> Images:
    return load_images("digits", "test").spread(60)


@pytest.fixture(scope="session")
def many() -> Images:
    return load_images("digits", "test").spread(200)


@pytest.fixture(scope="session")
def network() -> nn.Module:
    return trained(0.25)


@pytest.fixture(scope="session")
def fragile() -> nn.Module:
    return trained(0.0)


@pytest.fixture(scope="session")
def floats(images: Images) -> tuple[Tensor, Tensor]:
    return as_floats(images)
