"""A mix is g at 0, h at 1, stable in between; above 1/2 the margin of h rules, a half-space attains that."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dualrs_lab.attacks import L2, PGD, Margin, margins, pgd
from dualrs_lab.mixing import (
    PUBLISHED,
    Mix,
    Scaling,
    gradient_norms,
    locally_biased,
    mix_logits,
    mix_radius_exact,
    worst_margin,
)
from dualrs_lab.models import make_model
from dualrs_lab.runtime import make_generator

WEIGHTS = (0.0, 0.2, 0.5, 0.7, 0.99, 1.0)


def digits_net(seed: int) -> nn.Module:
    return make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=seed).eval()


def pair() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    x = torch.rand(16, 1, 8, 8, generator=make_generator(0, "images"))
    return digits_net(0), digits_net(1), x


def logits(scale: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = make_generator(seed, "logits")
    return tuple(scale * torch.randn(200, 10, generator=rng) for _ in range(2))


def test_the_mix_is_that_of_probabilities() -> None:
    g, h = logits()
    for a in WEIGHTS:
        expected = (1 - a) * F.softmax(g.double(), 1) + a * F.softmax(h.double(), 1)
        np.testing.assert_allclose(mix_logits(g, h, a).exp(), expected, rtol=2e-5)


def test_many_weights_come_from_one_pair() -> None:
    g, h = logits()
    together = mix_logits(g, h, torch.tensor(WEIGHTS).view(-1, 1, 1))
    for a, part in zip(WEIGHTS, together, strict=True):
        torch.testing.assert_close(part, mix_logits(g, h, a), rtol=0, atol=0)
    each = torch.tensor(WEIGHTS).repeat(34)[:200, None]
    torch.testing.assert_close(mix_logits(g, h, each)[2], mix_logits(g, h, 0.5)[2], rtol=0, atol=0)


def test_the_ends_are_the_networks_bit_for_bit() -> None:
    g, h, x = pair()
    with torch.no_grad():
        assert torch.equal(Mix(g, h, 0.0)(x), F.log_softmax(g(x), 1))
        assert torch.equal(Mix(g, h, 1.0)(x), F.log_softmax(h(x), 1))


@pytest.mark.parametrize("a", WEIGHTS)
def test_no_nan_where_logits_are_500_apart(a: float) -> None:
    g = torch.zeros(4, 10)
    g[:, 0], g[:, 1] = 500.0, -500.0
    g.requires_grad_()
    h = (-g.detach()).requires_grad_()
    out = mix_logits(g, h, a)
    assert out.isfinite().all()
    for parts in torch.autograd.grad(out[:, 3].sum(), [g, h]):
        assert parts.isfinite().all()
        assert bool(parts.abs().sum() > 0) or a in (0.0, 1.0)
    naive = torch.log((1 - a) * F.softmax(g, 1) + a * F.softmax(h, 1))  # the negative control
    (slope, *_) = torch.autograd.grad(naive[:, 3].sum(), [g, h])
    assert not slope.isfinite().all()


def test_the_naive_form_hides_from_attacks() -> None:
    """On saturated linear networks: where the logarithm of a sum is blind, the stable one is broken."""
    rng = make_generator(0, "saturated")
    weights = 100 * torch.randn(2, 16, 4, generator=rng)
    x = torch.rand(100, 1, 4, 4, generator=rng)

    class Linear(nn.Module):
        def __init__(self, matrix: torch.Tensor) -> None:
            super().__init__()
            self.matrix = nn.Parameter(matrix)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) @ self.matrix

    g, h = (Linear(matrix).eval() for matrix in weights)
    mix = Mix(g, h, 0.7)
    with torch.no_grad():
        y = mix(x).argmax(1)
    attack = PGD(steps=20, step=0.02, loss=Margin(), blind=1.0)
    found = pgd(mix, x, y, 0.1, attack=attack, generator=rng)
    stable = float((margins(mix(found), y) <= 0).float().mean())

    class Naive(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(0.3 * F.softmax(g(x), 1) + 0.7 * F.softmax(h(x), 1))

    with pytest.raises(ValueError, match="not finite"):
        pgd(Naive().eval(), x, y, 0.1, attack=attack, generator=rng)
    assert stable < 0.8


def test_what_h_prefers_by_the_margin_stays_whatever_g_says() -> None:
    """Lemma 2, with the worst g there is for each image; and g wins as soon as the margin is smaller."""
    _, h = logits(3.0)
    own, margin = h.argmax(1), worst_margin(h)
    for a in (0.55, 0.7, 0.9):
        second = F.softmax(h, 1).topk(2, 1).indices[:, 1]
        against = torch.full_like(h, -200.0).scatter(1, second[:, None], 200.0)
        kept = mix_logits(against, h, a).argmax(1) == own
        enough = margin > (1 - a) / a
        clear = (margin - (1 - a) / a).abs() > 1e-5
        assert torch.equal(kept[clear], enough[clear])
        assert kept.any()
        assert not kept.all()


def test_a_half_space_attains_the_certificate_and_no_attack_beats_it() -> None:
    """h is a smoothed half-space, known exactly, g the worst there is: the mix changes at the radius."""
    sigma, a = 0.25, 0.76

    class HalfSpace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normal = nn.Parameter(torch.full((16,), 0.25, dtype=torch.float64))  # of length 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = (x.flatten(1) - 0.5) @ self.normal / sigma
            return torch.stack([torch.special.log_ndtr(z), torch.special.log_ndtr(-z)], 1)

    class Against(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([-300.0, 300.0], dtype=x.dtype).expand(len(x), 2) + 0 * x.flatten(1)[:, :2]

    half = HalfSpace().eval()
    x = 0.5 + torch.linspace(0.05, 0.1, 20, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    p = half(x).softmax(1)[:, 0].detach().numpy()
    radius = mix_radius_exact(p, 1 - p, a, sigma)
    assert (radius > 0).sum() >= 10
    step = 0.25 * torch.ones(1, 4, 4, dtype=torch.float64)

    def answer(share: float) -> torch.Tensor:
        moved = x - share * torch.from_numpy(radius).view(-1, 1, 1, 1) * step
        return mix_logits(Against()(moved), half(moved), a).argmax(1)

    some = torch.from_numpy(radius > 0)
    assert (answer(1 - 1e-7)[some] == 0).all()
    assert (answer(1 + 1e-7)[some] == 1).all()

    class Double(nn.Module):  # an attack sees log-probabilities of the mix
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return mix_logits(Against()(x), half(x), a)

    budget = torch.from_numpy(radius[radius > 0] * (1 - 1e-6)).view(-1, 1, 1, 1)
    y = torch.zeros(int(some.sum()), dtype=torch.int64)
    attack = PGD(steps=30, step=0.05, norm=L2(), blind=1.0)
    for share, broken in ((1.0, False), (1.01, True)):  # the second is the negative control
        found = pgd(Double().eval(), x[some], y, share * budget, attack=attack, generator=make_generator(0))
        assert bool((Double()(found).argmax(1) == 1).all()) == broken
        assert bool((Double()(found).argmax(1) == 1).any()) == broken


@pytest.mark.parametrize("name", list(PUBLISHED))
@pytest.mark.parametrize("dual", [1, 2])
def test_published_scalings_are_their_formula(name: str, dual: float) -> None:
    """Against the quotient in float64, with gradients one image and one class at a time."""
    g, h, x = pair()
    x, a = x[:3], 0.7
    scaling = dataclasses.replace(PUBLISHED[name], dual=dual)
    found = Mix(g, h, a, scaling=scaling)(x).detach().double()

    def outputs(net: nn.Module, at: torch.Tensor) -> torch.Tensor:
        return net(at).softmax(1) if scaling.of == "probabilities" else net(at)

    def norm(net: nn.Module, image: torch.Tensor, kind: int | None) -> float:
        at = image[None].clone().requires_grad_()
        value = outputs(net, at)[0]
        value = value.max() if kind is None else value[kind]
        return float(torch.autograd.grad(value, at)[0].norm(dual))

    expected = torch.empty(3, 10, dtype=torch.float64)
    for i, image in enumerate(x):
        for k in range(10):
            R = {
                "one": lambda: 1.0,
                "own": lambda image=image, k=k: norm(g, image, k),
                "top": lambda image=image: norm(g, image, None),
                "ratio": lambda image=image, k=k: norm(g, image, k) / norm(h, image, k),
            }[scaling.by]()
            ours, theirs = (outputs(net, image[None])[0, k].item() for net in (g, h))
            c = a / (1 - a)
            expected[i, k] = (ours + c * R * theirs) / (1 + c * R)
    if scaling.of == "probabilities":
        expected = expected.log()
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_scalings_end_in_the_networks_and_can_be_attacked(name: str) -> None:
    g, h, x = pair()
    with torch.no_grad():
        for a, net in ((0.0, g), (1.0, h)):
            assert torch.equal(Mix(g, h, a, scaling=PUBLISHED[name])(x).argmax(1), net(x).argmax(1))
    mix = Mix(g, h, 0.6, scaling=PUBLISHED[name])
    with torch.no_grad():
        y = mix(x).argmax(1)
        assert not mix(x).requires_grad
    before = [parameter.clone() for parameter in mix.parameters()]
    found = pgd(mix, x, y, 0.1, attack=PGD(steps=3, step=0.05), generator=make_generator(0))
    assert float(margins(mix(found).detach(), y).mean()) > float(margins(mix(x).detach(), y).mean())
    assert all(parameter.grad is None for parameter in mix.parameters())
    for old, new in zip(before, mix.parameters(), strict=True):
        assert torch.equal(old, new)


def test_gradient_norms_of_a_linear_map() -> None:
    weights = torch.randn(4, 6, generator=make_generator(0))
    x = torch.rand(5, 6).requires_grad_()
    for norm in (1, 2):
        found = gradient_norms(x @ weights.T, x, norm)
        torch.testing.assert_close(found.detach(), weights.norm(p=norm, dim=1).expand(5, 4))


def test_locally_biased_smoothing_leaves_g_where_it_is_flat() -> None:
    x = torch.linspace(-2, 2, 41)[:, None]

    def g(at: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * at[:, 0])

    oracle = lambda at: torch.sign(at[:, 0])  # noqa: E731
    torch.testing.assert_close(locally_biased(g, oracle, x, 0.0), g(x))
    biased = g(x) + 1.5 * oracle(x) * torch.cos(3 * x[:, 0]).abs()
    torch.testing.assert_close(locally_biased(g, oracle, x, 0.5), biased)
    steep = torch.cos(3 * x[:, 0]).abs() > 1e-3
    assert torch.equal(torch.sign(locally_biased(g, oracle, x, math.inf))[steep], oracle(x)[steep])
    with pytest.raises(ValueError, match="strength -1"):
        locally_biased(g, oracle, x, -1.0)


def test_refusals() -> None:
    g, h = logits()
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"mix_logits.*\[0, 1\]"):
            mix_logits(g, h, weight)
        with pytest.raises(ValueError, match="Mix: got weight"):
            Mix(nn.Identity(), nn.Identity(), weight)
    with pytest.raises(ValueError, match="Scaling: wanted"):
        Scaling(by="two")
