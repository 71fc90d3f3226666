"""Experts trained through a combiner: the soft radius is the radius, and training raises it."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.combine import (
    CombinedRadius,
    Combiner,
    class_margins,
    lengths,
    soft_combined_radius,
    soft_margins,
)
from dualrs_lab.data import load_images, to_float
from dualrs_lab.models import Classifier, make_model
from dualrs_lab.runtime import make_generator
from dualrs_lab.smoothing import draw_in, soft_expert_radius
from dualrs_lab.training import Gaussian, Pool, TrainConfig, settings, train, train_together
from tests.combine.test_combiners import SIGMAS, some_lattices

LATTICE = "half0.5:0 | own0.25:-0.1 zero:0.2 | half0.25:-0.05 rival0.5:0.1"
TWO = Combiner.of_text((0.5, 0.25), LATTICE)


class Fixed(nn.Module):
    """The same logits (B, C) for every noisy copy."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.repeat(len(x) // len(self.logits), 1)


def loss(logits: Tensor, y: Tensor, objective: CombinedRadius) -> Tensor:
    """Of experts with fixed logits (K, B, C)."""
    x = torch.zeros(len(y), 1, 2, 2, dtype=logits.dtype)
    return objective(Pool([Fixed(own) for own in logits]), x, y, make_generator(0)).detach()


def some_votes(count: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities (N, 3, 4) and labels."""
    chance = np.random.default_rng(seed)
    p = torch.tensor(chance.dirichlet([1.0] * 4, (count, 3)))
    return p, torch.tensor(chance.integers(0, 4, count))


def some_logits() -> tuple[Tensor, Tensor]:
    """Logits (3, 200, 4) of three experts, and labels."""
    chance = np.random.default_rng(5)
    return torch.tensor(chance.normal(0, 2.0, (3, 200, 4))), torch.tensor(chance.integers(0, 4, 200))


# The soft radius.


def test_a_soft_radius_ends_at_the_radius_as_it_gets_colder() -> None:
    p, y = some_votes()
    z = lengths(draw_in(p), SIGMAS)
    for combiner in some_lattices(12):
        exact = class_margins(z, combiner)[np.arange(len(y)), y]
        terms, width = np.isfinite(combiner.array).any(axis=1).sum(), np.isfinite(combiner.array).sum(axis=1)
        slack = (np.log(terms) + np.log(width.max())) / 2
        for t in (0.1, 0.01, 0.001):
            found = soft_combined_radius(p, y, combiner, temperature=t).numpy()
            assert (np.abs(found - exact) <= t * slack + 1e-12).all()
        cold = soft_combined_radius(p, y, combiner).numpy()
        np.testing.assert_allclose(cold, exact, atol=1e-12)


def test_a_soft_lattice_still_turns_round() -> None:
    """M_yc = -M_cy: at most one class of the softened classifier is ahead."""
    p, y = some_votes()
    other = (y + 1) % 4
    for combiner in some_lattices(12):
        forth = soft_margins(p, y, combiner, temperature=0.1).gather(1, other[:, None])
        back = soft_margins(p, other, combiner, temperature=0.1).gather(1, y[:, None])
        torch.testing.assert_close(forth, -back)


@pytest.mark.parametrize("temperature", [0.0, 0.05])
def test_gradients_are_those_of_finite_differences(temperature: float) -> None:
    p, y = some_votes(6)
    for combiner in some_lattices(4):

        def radius(given: Tensor, combiner: Combiner = combiner) -> Tensor:
            return soft_combined_radius(given, y, combiner, temperature=temperature)

        assert torch.autograd.gradcheck(radius, (p.clone().requires_grad_(),), eps=1e-7, atol=1e-5)


def test_every_expert_that_could_decide_learns_where_it_is_warm() -> None:
    """Whoever is surest: cold, the one that decides has all of the gradient of its own length."""
    p = torch.tensor([[[0.8, 0.2], [0.9, 0.1]]], dtype=torch.float64, requires_grad=True)
    surest, y = Combiner.surest((0.5, 0.25)), torch.tensor([0])
    for temperature, silent in ((0.0, True), (0.05, False)):
        (slope,) = torch.autograd.grad(
            soft_combined_radius(p, y, surest, temperature=temperature).sum(), (p,)
        )
        assert (slope[0, 1, 0] == 0) == silent
        assert slope[0, 0, 0] > 0


@pytest.mark.parametrize("count", [1, 3])
def test_one_expert_has_its_radius_by_two_bounds_at_any_temperature(count: int) -> None:
    p, y = some_votes()
    for expert in range(count):
        alone = Combiner.single(SIGMAS[:count], expert)
        wanted = soft_expert_radius(p[:, expert], y, SIGMAS[expert])
        for temperature in (0.0, 0.05, 1.0):
            found = soft_combined_radius(p[:, :count], y, alone, temperature=temperature)
            torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


# The objective.


def test_the_objective_is_the_radius_above_zero_and_the_cost_of_accuracy() -> None:
    logits, y = some_logits()
    p = draw_in(torch.softmax(logits, dim=-1)).transpose(0, 1)
    combiner = Combiner.surest(SIGMAS, (0.1, 0.0, 0.05))
    exact = np.maximum(class_margins(lengths(p, SIGMAS), combiner)[np.arange(200), y], 0).mean()
    found = loss(logits, y, CombinedRadius(combiner=combiner, accuracy=0.0, temperature=1e-3))
    assert -float(found) == pytest.approx(exact, abs=2e-3)
    cost = sum(F.cross_entropy(expert.float(), y) for expert in logits)
    both = loss(logits, y, CombinedRadius(combiner=combiner, accuracy=0.5, temperature=1e-3))
    assert float(both - found) == pytest.approx(0.5 * float(cost), rel=1e-4)
    turned = loss(logits.flip(0), y, CombinedRadius(combiner=combiner, accuracy=0.0, temperature=1e-3))
    assert abs(float(turned) + exact) > 0.01  # negative control: whose noise is whose matters


def test_one_expert_is_trained_for_its_own_soft_radius() -> None:
    logits, y = some_logits()
    objective = CombinedRadius(combiner=Combiner.single((0.5,), 0), accuracy=0.0)
    t, p = objective.temperature, torch.softmax(logits[0].float(), dim=1)
    wanted = -(t * F.softplus(soft_expert_radius(p, y, 0.5) / t)).mean()
    torch.testing.assert_close(loss(logits[:1].float(), y, objective), wanted)


def test_weights_say_what_a_unit_of_radius_is_worth_from_each_radius_on() -> None:
    logits, y = some_logits()
    p = torch.softmax(logits, dim=-1).transpose(0, 1)
    combiner = Combiner.surest(SIGMAS)
    radius = soft_combined_radius(p, y, combiner).numpy()
    stairs = {"radii": (0.0, 0.25, 0.5), "weights": (3.0, 0.0, 1.0)}
    found = loss(logits, y, CombinedRadius(combiner=combiner, accuracy=0.0, temperature=1e-3, **stairs))
    worth = 3 * radius.clip(0, 0.25) + (radius - 0.5).clip(0)
    assert -float(found) == pytest.approx(worth.mean(), abs=1e-2)
    assert abs(worth.mean() - radius.clip(0).mean()) > 0.05  # alike would be something else


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"radii": (0.5, 0.0), "weights": (1.0, 1.0)}, "ascending radii"),
        ({"weights": (1.0, 2.0)}, "as many weights"),
        ({"weights": (0.0,)}, "not all 0"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"draws": 0}, "draws >= 1"),
        ({"accuracy": -1.0}, "accuracy >= 0"),
    ],
)
def test_objectives_that_make_no_sense_are_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"CombinedRadius: .*{message}"):
        CombinedRadius(combiner=TWO, **changed)


# Training.

CPU = torch.device("cpu")


def network(seed: int) -> Classifier:
    return make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=seed).eval()


def config(**changes) -> TrainConfig:
    given = {"epochs": 2, "seed": 0, "batch": 64, "lr": 0.05, "crop": 0, "flip": False, "bfloat16": False}
    return TrainConfig(**given | changes)


def mean_radius(members: list[Classifier], combiner: Combiner) -> float:
    """Over test images, from 64 noisy copies of each."""
    test = load_images("digits", "test").select(range(0, 300, 3))
    x, generator = to_float(test.pixels), make_generator(3)
    p = []
    with torch.no_grad():
        for model, sigma in zip(members, combiner.sigmas, strict=True):
            noisy = x.repeat(64, 1, 1, 1)
            noisy = noisy + sigma * torch.randn(noisy.shape, generator=generator)
            p.append(torch.softmax(model.eval()(noisy), dim=1).view(64, len(x), -1).mean(dim=0))
    return float(soft_combined_radius(torch.stack(p, dim=1), test.labels, combiner).clamp(min=0).mean())


def test_training_for_nothing_but_the_radius_raises_it() -> None:
    """Of experts that know their noise; the control goes the other way."""
    images = load_images("digits", "train")
    experts = [network(k) for k in range(2)]
    for expert, sigma in zip(experts, TWO.sigmas, strict=True):
        begun = config(epochs=4, lr=0.1)
        train(expert, images, objective=Gaussian(sigma=sigma), config=begun, progress=False)
    before = mean_radius(experts, TWO)

    def trained(sign: float) -> float:
        pool, raised = Pool(copy.deepcopy(experts)), CombinedRadius(combiner=TWO, accuracy=0.0)

        def objective(*batch: Any) -> Tensor:
            return sign * raised(*batch)

        train(pool, images, objective=objective, config=config(), progress=False)
        return mean_radius([*pool.members], TWO)

    after, lowered = trained(1.0), trained(-1.0)
    print(f"mean soft radius: {before:.3f}, raised to {after:.3f}, lowered to {lowered:.3f}")
    assert after > before + 0.03
    assert lowered < before - 0.03


def test_training_is_taken_up_again_with_the_same_combiner_only(tmp_path: Path) -> None:
    images = load_images("digits", "train").select(range(0, 1200, 10))
    paths = [tmp_path / f"expert{k}.safetensors" for k in range(2)]
    given = {"config": config(epochs=1), "device": CPU, "progress": False}
    made = train_together(paths, network, images, objective=CombinedRadius(combiner=TWO), **given)
    record = json.loads((tmp_path / "expert1.json").read_text())
    assert record["sigma"] == 0.25
    assert record["training"]["objective"]["combiner"] == TWO.text
    again = train_together(paths, network, images, objective=CombinedRadius(combiner=TWO), **given)
    for one, other in zip(made, again, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    shifted = Combiner.of_text(TWO.sigmas, LATTICE.replace("zero:0.2", "zero:0.3"))
    with pytest.raises(ValueError, match="made with other settings"):
        train_together(paths, network, images, objective=CombinedRadius(combiner=shifted), **given)


def test_what_is_recorded_does_not_depend_on_what_was_asked_of_a_combiner_before() -> None:
    """It keeps what it has worked out, which is no setting."""
    images = load_images("digits", "train").select(range(8))
    asked = Combiner.of_text(TWO.sigmas, TWO.text)
    assert asked.spends > 1
    one, other = (settings(config(), CombinedRadius(combiner=each), images) for each in (TWO, asked))
    assert json.dumps(one) == json.dumps(other)
    assert one["objective"]["name"] == "CombinedRadius"
    assert one["objective"]["accuracy"] == CombinedRadius(combiner=TWO).accuracy


def test_extreme_logits_leave_finite_gradients() -> None:
    logits = torch.full((2, 3, 10), -1e4)
    logits[:, :, 0] = 1e4
    experts = Pool([Fixed(own) for own in logits])
    cost = CombinedRadius(combiner=TWO)(
        experts, torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 2]), make_generator(0)
    )
    cost.backward()
    assert torch.isfinite(cost.detach())
    assert all(torch.isfinite(expert.logits.grad).all() for expert in experts.members)
