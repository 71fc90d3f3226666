"""Objectives for smoothed networks against closed forms: of answers that no noise changes, and of a plane."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from dualrs_lab.data import Images, load_images
from dualrs_lab.models import make_model
from dualrs_lab.runtime import make_generator
from dualrs_lab.training import (
    AttackedNoise,
    CatRs,
    Consistency,
    Gaussian,
    Macer,
    Objective,
    OwnRadius,
    SmoothAdversarial,
    TrainConfig,
    accuracy,
    train,
)

ANSWER = [2.0, 0.5, -1.0]


class Always(nn.Module):
    """Logits that no image changes."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(ANSWER))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)


class Plane(nn.Module):
    """Two classes on both sides of a plane; remembers what it was shown."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        direction = torch.randn(12, generator=make_generator(0, "plane"))
        self.direction, self.scale = direction / direction.norm(), scale
        self.weight, self.seen = nn.Parameter(torch.ones(())), list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        height = self.weight * self.scale * (x - 0.5).flatten(1) @ self.direction
        return torch.stack([height, -height], dim=1)


def generator(seed: int = 0) -> torch.Generator:
    return make_generator(seed, "certified")


def cost(objective: Objective, y: int, model: nn.Module | None = None) -> float:
    x = torch.full((6, 3, 2, 2), 0.5)
    return float(objective(model or Always(), x, torch.full((6,), y), generator()).detach())


def cross_entropy(y: int) -> float:
    return float(F.cross_entropy(torch.tensor([ANSWER]), torch.tensor([y])))


def test_macer_is_a_cross_entropy_and_the_hinge_of_its_radius() -> None:
    p = torch.tensor(ANSWER).mul(2.0).softmax(0).double().numpy()
    ahead = stats.norm.ppf(p[0]) - stats.norm.ppf(p[1])
    macer = Macer(sigma=0.5, strength=3.0, margin=8.0, sharpness=2.0, draws=4)
    assert cost(macer, 0) == pytest.approx(cross_entropy(0) + 3.0 * 0.25 * (8.0 - ahead), rel=1e-4)
    assert cost(macer, 1) == pytest.approx(cross_entropy(1), rel=1e-5)  # a wrong answer has no radius
    near = Macer(sigma=0.5, strength=3.0, margin=ahead - 0.1, sharpness=2.0, draws=4)
    assert cost(near, 0) == pytest.approx(cross_entropy(0), rel=1e-5)  # nor one beyond the margin a cost


def test_certain_answers_give_macer_no_slope_and_no_nan() -> None:
    model, x = Always(), torch.full((6, 3, 2, 2), 0.5)
    with torch.no_grad():
        model.logits.copy_(torch.tensor([400.0, 0.0, 0.0]))
    loss = Macer(sigma=0.5)(model, x, torch.zeros(6, dtype=torch.int64), generator())
    (slope,) = torch.autograd.grad(loss, model.logits)
    assert torch.isfinite(loss)
    assert slope.abs().max() < 1e-6


def test_the_own_radius_is_that_of_soft_votes() -> None:
    p = torch.tensor(ANSWER).softmax(0).double().mul(1 - 4e-3).add(2e-3).numpy()
    radius = 0.25 * (stats.norm.ppf(p[0]) - stats.norm.ppf(p[1]))
    own = OwnRadius(sigma=0.5, accuracy=0.3, temperature=0.1)
    wanted = 0.3 * cross_entropy(0) - 0.1 * math.log1p(math.exp(radius / 0.1))
    assert cost(own, 0) == pytest.approx(wanted, rel=1e-4)


def test_cat_rs_counts_all_costs_of_a_sure_image_and_one_of_a_hopeless_one() -> None:
    assert cost(CatRs(sigma=0.5, draws=4), 0) == pytest.approx(cross_entropy(0), rel=1e-5)
    assert cost(CatRs(sigma=0.5, draws=4), 1) == pytest.approx(cross_entropy(1) / 4, rel=1e-5)


def test_cat_rs_attacks_only_images_of_which_all_copies_are_right() -> None:
    """Far from the plane all copies answer alike: 0 where the image lies above it, 1 below."""
    x = torch.full((5, 3, 2, 2), 0.5) + 3 * Plane().direction.view(3, 2, 2)
    costs = {}
    for y in (0, 1):
        for strength in (0.0, 50.0):
            objective = CatRs(sigma=0.1, strength=strength, eps=0.5, draws=4, steps=2)
            loss = objective(Plane(), x, torch.full((5,), y), generator())
            costs[y, strength] = float(loss.detach())
    assert costs[0, 50.0] > 1.5 * costs[0, 0.0]
    assert costs[1, 50.0] == pytest.approx(costs[1, 0.0])


def test_cat_rs_keeps_so_many_costs_as_copies_are_right_by_chance() -> None:
    """Two of four draws are right, so the number kept is max(1, Bin(4, 1/2)); the smallest come first."""
    y = torch.zeros(4000, dtype=torch.int64)
    logits = torch.zeros(4, 4000, 2)
    logits[0, :, 0], logits[1, :, 0], logits[2, :, 1], logits[3, :, 1] = 3.0, 2.0, 1.0, 2.0
    low, sure = CatRs(sigma=1.0, draws=4)._low(logits, y, generator())
    costs = sorted(math.log1p(math.exp(-gap)) for gap in (3.0, 2.0, -1.0, -2.0))
    chance = [max(1, k) for k in range(5)], [math.comb(4, k) / 16 for k in range(5)]
    wanted = sum(share * sum(costs[:k]) / 4 for k, share in zip(*chance, strict=True))
    assert float(low.mean()) == pytest.approx(wanted, rel=0.05)
    assert float(sure.float().mean()) == pytest.approx(1 / 16, abs=0.02)  # 4 standard errors are 0.015


def test_cat_rs_attacks_raise_the_divergence_and_keep_mean_and_deviation_of_the_noise() -> None:
    model, x = Plane().eval(), torch.full((5, 3, 2, 2), 0.5)
    noise = torch.randn((4, 5, 3, 2, 2), generator=generator())
    target = torch.tensor([[0.9, 0.1]]).expand(5, 2)
    moved = CatRs(sigma=1.0, eps=0.4, steps=4)._attack(model, x, noise, target)
    dims = {"dim": (2, 3, 4)}
    torch.testing.assert_close(moved.mean(**dims), noise.mean(**dims), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.std(**dims), noise.std(**dims), atol=1e-5, rtol=0)
    height = (noise.flatten(2) @ model.direction), (moved.flatten(2) @ model.direction)
    wanted = (
        math.log(9) / 2
    )  # the height where the prediction is the target; the divergence grows away from it
    assert ((height[1] - wanted).abs() > (height[0] - wanted).abs() - 0.05).all()
    assert (moved - noise).flatten(2).norm(dim=2).median() > 0.2


def test_attacked_noise_walks_on_its_sphere_until_it_fools() -> None:
    model, x, y = Plane(scale=5.0), torch.full((7, 3, 2, 2), 0.5), torch.zeros(7, dtype=torch.int64)
    objective = AttackedNoise(sigma=1.0, step=0.5, draws=3, steps=4)
    loss = objective(model, x, y, generator())
    before, after = ((shown - 0.5).flatten(1) for shown in (model.seen[0], model.seen[-1]))
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1))
    start, end = before @ model.direction, after @ model.direction
    fooled = start < 0
    torch.testing.assert_close(after[fooled], before[fooled])  # hard noise stays as it is
    assert (end[~fooled] < start[~fooled]).all()
    assert fooled.any()
    assert (~fooled).any()
    once = before + 0.5 * -model.direction  # the first step goes straight down the slope
    first = (model.seen[1] - 0.5).flatten(1)
    once = once / once.norm(dim=1, keepdim=True) * before.norm(dim=1, keepdim=True)
    torch.testing.assert_close(first[~fooled], once[~fooled], rtol=1e-3, atol=1e-4)
    height = 5.0 * end
    wanted = F.cross_entropy(torch.stack([height, -height], dim=1), y.repeat(3))
    assert float(loss.detach()) == pytest.approx(float(wanted), rel=1e-4)


def test_smoothadv_without_a_radius_is_gaussian_training_or_consistency() -> None:
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0)
    x, y = torch.rand((8, 1, 8, 8), generator=generator(1)), torch.arange(8)
    with torch.no_grad():
        same = SmoothAdversarial(sigma=0.3, eps=0.0, draws=2, strength=4.0)(model, x, y, generator())
        twice = Consistency(sigma=0.3, strength=4.0, draws=2)(model, x, y, generator())
        plain = SmoothAdversarial(sigma=0.3, eps=0.0, draws=1)(model, x, y, generator())
        gaussian = Gaussian(sigma=0.3)(model, x, y, generator())
    assert float(same) == pytest.approx(float(twice), rel=1e-5)
    assert float(plain) == pytest.approx(float(gaussian), rel=1e-5)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train")


@pytest.mark.parametrize(
    "objective",
    [
        CatRs(sigma=0.25, eps=0.25, draws=2, steps=1),
        AttackedNoise(sigma=0.25, step=0.2, draws=2, steps=2),
        Macer(sigma=0.25, strength=1.0, draws=4),
        OwnRadius(sigma=0.25, draws=2),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_networks_learn_by_each(objective: Objective, digits: Images) -> None:
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0)
    config = TrainConfig(epochs=6, seed=0, batch=64, lr=0.1, crop=0, flip=False)
    history = train(model, digits.select(range(600)), objective=objective, config=config, progress=False)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert accuracy(model, load_images("digits", "test"), sigma=0.25, seed=0) > 0.6
