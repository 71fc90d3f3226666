"""Attacks reach what is known in closed form, stay within their budgets, agree with an independent library.

And they refuse what would make a network look robust.
"""

import dataclasses
import itertools
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dualrs_lab.attacks import (
    APGD,
    L2,
    LINF,
    PGD,
    STANDARD,
    Divergence,
    Margin,
    auto_attack,
    margins,
    mma,
    pgd,
)
from dualrs_lab.attacks.apgd import _checks
from dualrs_lab.data import load_images, to_float
from dualrs_lab.models import Classifier, make_model
from dualrs_lab.runtime import make_generator
from dualrs_lab.training import Standard, TrainConfig, train

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports from an old place in SciPy
    import foolbox

EPS = 0.1


def generator(seed: int = 0) -> torch.Generator:
    return make_generator(seed, "test")


class Linear(nn.Module):
    """Logits are x W: every attack has an optimum in closed form."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weights


@pytest.fixture(scope="module")
def digits() -> tuple[Classifier, torch.Tensor, torch.Tensor]:
    """A network trained for a few seconds without attacks, and test images."""
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0)
    config = TrainConfig(epochs=4, seed=0, batch=64, lr=0.1, crop=0, flip=False)
    train(model, load_images("digits", "train"), objective=Standard(), config=config, progress=False)
    test = load_images("digits", "test")
    return model, to_float(test.pixels), test.labels


def middle(count: int = 8) -> torch.Tensor:
    return torch.full((count, 2, 3, 3), 0.5)


def two_classes(seed: int = 0) -> Linear:
    weights = torch.randn(18, 2, generator=generator(seed))
    return Linear(weights - weights.mean(1, keepdim=True)).eval()


def budgets() -> torch.Tensor:
    """Per image and pixel, some of them 0."""
    made = 0.3 * torch.rand(8, 1, 3, 3, generator=generator(5))
    return made.masked_fill(made < 0.05, 0)


@pytest.mark.parametrize("norm", [LINF, L2()])
@pytest.mark.parametrize("budget", [0.2, budgets()], ids=["one number", "per pixel"])
def test_the_optimum_of_a_linear_network_is_reached(norm, budget) -> None:
    model, x, y = two_classes(), middle(), torch.zeros(8, dtype=torch.int64)
    attack = PGD(steps=40, step=0.05, norm=norm, loss=Margin())
    found = pgd(model, x, y, budget, attack=attack, generator=generator())
    slope = (model.weights[:, 1] - model.weights[:, 0]).detach().view(1, 2, 3, 3)
    reach = (slope * budget).flatten(1)
    best = reach.norm(dim=1) if isinstance(norm, L2) else reach.abs().sum(1)
    gained = (margins(model(found), y) - margins(model(x), y)).detach()
    np.testing.assert_allclose(gained, best.expand(8), rtol=2e-3)


@pytest.mark.parametrize("norm", [LINF, L2()])
def test_results_stay_in_the_budget_and_in_the_box(norm, digits) -> None:
    model, x, y = digits
    x, y = x[:60], y[:60]
    budget = 0.4 * torch.rand(60, 1, 8, 8, generator=generator(3))
    budget[:, :, :2] = 0
    for kind, best in itertools.product((PGD, APGD), (True, False)):
        attack = kind(steps=10, step=0.3, norm=norm, restarts=2, best=best)
        found = pgd(model, x, y, budget, attack=attack, generator=generator())
        delta = found - x
        assert found.min() >= 0
        assert found.max() <= 1
        assert (delta[:, :, :2] == 0).all()
        if norm == LINF:
            assert (delta.abs() <= budget + 1e-6).all()
        else:
            assert ((delta / budget.clamp(min=1e-9)).flatten(1).norm(dim=1) <= 1 + 1e-4).all()
        assert delta.abs().sum() > 0


def test_random_starts_fill_the_budget() -> None:
    x, budget = torch.zeros(20_000, 1, 1, 2), torch.tensor([[[[0.3, 0.6]]]])
    flat = LINF.start(x, budget, generator()) / budget
    assert flat.abs().max() <= 1
    assert flat.std().item() == pytest.approx(3**-0.5, rel=0.02)
    disc = (L2().start(x, budget, generator()) / budget).flatten(1).norm(dim=1)
    assert disc.max() <= 1
    assert (disc**2).mean().item() == pytest.approx(0.5, rel=0.02)  # uniform in a disc: the square is uniform
    x, budget = torch.zeros(20_000, 1, 2, 3), torch.full((1, 1, 1, 1), 0.3)
    ball = (L2().start(x, budget, generator()) / budget).flatten(1).norm(dim=1)
    assert (ball**6).mean().item() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    ("norm", "oracle", "eps"),
    [
        (LINF, foolbox.attacks.LinfPGD(abs_stepsize=0.025, steps=20), 0.1),
        (L2(), foolbox.attacks.L2PGD(abs_stepsize=0.15, steps=20), 0.6),
    ],
    ids=["linf", "l2"],
)
def test_pgd_agrees_with_foolbox(norm, oracle, eps, digits) -> None:
    """Both start at random: of 500 images, the answers of one differ from those of the other as two seeds do.

    Accuracies within 2 points: the difference of paired answers has a standard error below 0.7 points.
    """
    model, x, y = digits
    step = oracle.abs_stepsize
    attack = PGD(steps=20, step=step, norm=norm, best=False, blind=1.0)
    own = [pgd(model, x, y, eps, attack=attack, generator=generator(s)) for s in (0, 1)]
    torch.manual_seed(0)
    _, theirs, _ = oracle(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)
    right = [(model(found).argmax(1) == y).float() for found in (*own, theirs)]
    natural = float((model(x).argmax(1) == y).float().mean())
    assert 0.1 < right[0].mean() < natural - 0.2  # the attack matters here, and is not trivial
    assert abs(float(right[0].mean() - right[2].mean())) <= 0.02
    between, seeds = ((right[0] != right[k]).float().mean().item() for k in (2, 1))
    assert between <= seeds + 0.02


def test_the_best_of_all_steps_is_no_worse_than_the_last_and_restarts_help(digits) -> None:
    model, x, y = digits
    coarse = PGD(steps=5, step=0.15)  # too long a step: it walks to and fro

    def right(**changes) -> torch.Tensor:
        attack = dataclasses.replace(coarse, **changes)
        found = pgd(model, x, y, EPS, attack=attack, generator=generator())
        return model(found).argmax(1) == y

    last, best, more = right(best=False, blind=1.0), right(), right(restarts=4)
    assert not (best & ~last).any()
    assert not (more & ~best).any()
    assert more.sum() < last.sum()


@pytest.mark.parametrize(("norm", "eps"), [(LINF, 0.1), (L2(), 0.6)], ids=["linf", "l2"])
def test_apgd_agrees_with_that_of_its_authors(norm, eps, digits) -> None:
    """100 steps each from a random start: the answers on 250 images differ as those of two seeds do."""
    model, x, y = digits
    x, y = x[:250], y[:250]
    attack = APGD(steps=100, step=2 * eps, norm=norm)
    own = [pgd(model, x, y, eps, attack=attack, generator=generator(seed)) for seed in (0, 1)]
    theirs = auto_attack(model, x, y, eps, seed=0, norm=norm, attacks=("apgd-ce",))
    right = [(model(found).argmax(1) == y).float() for found in (*own, theirs)]
    assert 0.05 < right[2].mean() < 0.8
    assert abs(float(right[0].mean() - right[2].mean())) <= 0.02
    between, seeds = ((right[0] != right[k]).float().mean().item() for k in (2, 1))
    assert between <= seeds + 0.02


@pytest.mark.parametrize("norm", [LINF, L2()], ids=["linf", "l2"])
def test_apgd_finds_its_step(norm, digits) -> None:
    """It begins with steps of twice the budget, with which PGD only walks to and fro."""
    model, x, y = digits
    eps = {LINF: 0.1, L2(): 0.6}[norm]
    loss = {}
    for kind in (PGD, APGD):
        attack = kind(steps=20, step=2 * eps, norm=norm)
        found = pgd(model, x, y, eps, attack=attack, generator=generator())
        loss[kind] = F.cross_entropy(model(found), y, reduction="none")
    assert loss[APGD].mean() > loss[PGD].mean() + 0.05
    assert (loss[APGD] >= loss[PGD] - 1e-4).float().mean() > 0.8


def test_apgd_checks_when_published() -> None:
    assert [*_checks(100)] == [22, 41, 57, 70, 80, 87, 93, 99]
    assert _checks(100)[41] == 19
    assert _checks(1) == {}


def by_the_paper(losses: list[float], slopes: list[float], eps: float) -> tuple[list[float], list]:
    """Algorithm 1 of Croce and Hein on one pixel at 1/2: its points, and both conditions at every check.

    As in their code, the first point counts as a rise, and the second condition comes with the second check.
    """
    checks = [0, 22, 41, 57, 70, 80, 87, 93, 99]
    points, asked, step, before, top = [0.5], [], 2 * eps, 0.5, 0
    halved, best_before = True, losses[0]

    def inside(z: float) -> float:
        return min(max(z, 0.5 - eps), 0.5 + eps)

    for k in range(100):
        top, at = (k if losses[k] > losses[top] else top), k
        if k in checks[1:]:
            last = checks[checks.index(k) - 1]
            rises = sum(losses[i + 1] > losses[i] for i in range(last, k)) + (last == 0)
            asked.append((rises < 0.75 * (k - last), not halved and losses[top] == best_before))
            halved, best_before = any(asked[-1]), losses[top]
            step, at = (step / 2, top) if halved else (step, k)
        here = points[at]
        z = inside(here + step * np.sign(slopes[at]))
        points.append(inside(here + 0.75 * (z - here) + 0.25 * (here - before)) if k else z)
        before = here
    return points, asked


def test_apgd_moves_as_its_paper_says() -> None:
    """The same losses and slopes for both, drawn at random: ascents with falls of all sizes and shares."""
    rng, count, eps = np.random.default_rng(0), 200, 0.1
    share, depth = rng.uniform(0.5, 1, (2, count, 1))
    rising = rng.random((count, 100)) < share
    losses = np.where(rising, rng.random((count, 100)), -8 * depth * rng.random((count, 100))).cumsum(axis=1)
    slopes = rng.standard_normal((count, 100))
    point = torch.full((count, 1, 1, 1), 0.5)
    walk = APGD(steps=100, step=2 * eps).walk(point, torch.full_like(point, eps))
    found = [point]
    for loss, slope in zip(torch.tensor(losses).T, torch.tensor(slopes).float().T, strict=True):
        found.append(walk.next(found[-1], loss, slope.view(-1, 1, 1, 1)))
    known = [by_the_paper(*pair, eps) for pair in zip(losses, slopes, strict=True)]
    expected = np.array([points for points, _ in known])
    np.testing.assert_allclose(torch.cat(found, dim=1)[:, :, 0, 0], expected, atol=1e-5)
    reasons = [tuple(map(bool, reason)) for _, asked in known for reason in asked]
    assert min(reasons.count(kind) for kind in itertools.product((False, True), repeat=2)) > 30


def test_one_seed_one_result(digits) -> None:
    model, x, y = digits
    found = [pgd(model, x[:50], y[:50], EPS, attack=PGD(), generator=generator(s)) for s in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_divergence_is_that_of_torch() -> None:
    a, b = (torch.randn(5, 7, generator=generator(s)) for s in (0, 1))
    oracle = F.kl_div(F.log_softmax(b, 1), F.softmax(a, 1), reduction="none").sum(1)
    np.testing.assert_allclose(Divergence()(b, a), oracle, rtol=1e-5)
    assert Divergence()(a, a).abs().max() < 1e-6


def test_mma_finds_the_class_that_is_second_and_beats_one_target(digits) -> None:
    # Class 1 has the smaller margin but cannot be reached, class 2 can: one target fails, two do not.
    weights = torch.zeros(18, 3)
    weights[0, 2], weights[1:, 1] = 4.0, 0.001
    model, x = Linear(weights).eval(), torch.full((1, 2, 3, 3), 0.5)
    bias = torch.tensor([2.3, 2.28 - 0.0085, 0.0])
    model.forward = lambda x: x.flatten(1) @ model.weights + bias
    y = torch.tensor([0])
    attack = PGD(steps=20, step=0.02)
    fooled = [
        bool(margins(model(mma(model, x, y, EPS, attack=attack, targets=k, generator=generator())), y) > 0)
        for k in (1, 2)
    ]
    assert fooled == [False, True]
    model, x, y = digits
    counts = [
        int(
            (
                model(mma(model, x, y, EPS, attack=PGD(), targets=k, generator=generator())).argmax(1) == y
            ).sum()
        )
        for k in (1, 3)
    ]
    assert counts[1] <= counts[0]
    with pytest.raises(ValueError, match="got 10 targets for 10 classes"):
        mma(model, x, y, EPS, attack=PGD(), targets=10, generator=generator())


def test_mma_keeps_the_best_of_all_targets() -> None:
    """Of a linear network: the largest margin to any of three classes, each in closed form."""
    weights = torch.randn(18, 4, generator=generator())
    model, y = Linear(weights).eval(), torch.arange(100) % 4
    x = 0.3 + 0.4 * torch.rand(100, 2, 3, 3, generator=generator(1))
    found = mma(model, x, y, EPS, attack=PGD(steps=3, step=EPS), targets=3, generator=generator())
    reach = (weights[:, :, None] - weights[:, None]).abs().sum(0)  # of each class against each other
    z = x.flatten(1) @ weights
    best = (z - z.gather(1, y[:, None]) + EPS * reach[y]).masked_fill(F.one_hot(y).bool(), -torch.inf).amax(1)
    torch.testing.assert_close(margins(model(found), y).detach(), best, rtol=1e-4, atol=1e-4)


def test_autoattack_is_the_strongest_and_leaves_no_trace(digits) -> None:
    model, x, y = digits
    x, y = x[:20], y[:20]
    state = torch.random.get_rng_state()
    found = auto_attack(model, x, y, EPS, seed=0, attacks=("apgd-ce", "apgd-t"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(found, auto_attack(model, x, y, EPS, seed=0, attacks=("apgd-ce", "apgd-t")))
    assert (found - x).abs().max() <= EPS + 1e-6
    right = model(found).argmax(1) == y
    by_pgd = model(pgd(model, x, y, EPS, attack=PGD(step=0.025), generator=generator())).argmax(1) == y
    assert 0 < right.sum() <= by_pgd.sum() + 1


@pytest.mark.parametrize(
    ("norm", "eps", "attacks"), [(LINF, 0.05, STANDARD), (L2(), 0.2, ("apgd-ce", "fab-t"))]
)
def test_all_of_autoattack_runs(norm, eps, attacks) -> None:
    """On a linear network: what falls is known, and what does not has gone through every part."""
    weights = torch.randn(18, 4, generator=generator())
    model = Linear(weights).eval()
    x = 0.3 + 0.4 * torch.rand(100, 2, 3, 3, generator=generator(1))
    z = x.flatten(1) @ weights
    y = z.argmax(1)
    reach = (weights[:, :, None] - weights[:, None]).norm(p=1 if norm == LINF else 2, dim=0)[y]  # (N, 4)
    nearest = ((z.gather(1, y[:, None]) - z) / reach).masked_fill(F.one_hot(y).bool(), torch.inf).amin(1)
    falls, stands = (nearest < 0.8 * eps).nonzero()[:3, 0], (nearest > 1.2 * eps).nonzero()[:3, 0]
    some = torch.cat([falls, stands])
    found = auto_attack(model, x[some], y[some], eps, seed=0, norm=norm, attacks=attacks)
    assert (model(found).argmax(1) != y[some]).tolist() == [True] * 3 + [False] * 3
    distance = (found - x[some]).flatten(1).norm(p=torch.inf if norm == LINF else 2, dim=1)
    assert distance.max() <= eps * (1 + 1e-4)


def test_autoattack_takes_colour_images_in_any_memory_format() -> None:
    model = make_model("digits_narrow", classes=4, channels=3, mean=[0.5] * 3, std=[0.25] * 3, seed=0).eval()
    model.to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 8, 8, generator=generator()).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        y = model(x).argmax(1)  # nothing is wrong as it is: every part has to work
    found = auto_attack(model, x, y, 1e-6, seed=0, attacks=("apgd-ce", "apgd-t", "fab-t"))
    assert (found - x).abs().max() <= 1e-6 * 1.01


def test_autoattack_without_its_package_says_how_to_get_it(digits, monkeypatch) -> None:
    model, x, y = digits
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dualrs-lab\[attacks\]'"):
        auto_attack(model, x[:2], y[:2], EPS, seed=0)


def test_autoattack_refuses_what_its_losses_cannot_take() -> None:
    with pytest.raises(ValueError, match="got 2 classes"):
        auto_attack(two_classes(), middle(), torch.zeros(8, dtype=torch.int64), EPS, seed=0)


class Saturated(nn.Module):
    """Logits so large that probabilities are exactly 0 and 1 in float32: no gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1e4 * self.model(x)


def test_a_saturated_network_is_an_error_and_not_robust(digits) -> None:
    model, x, y = digits
    proud = Saturated(model).eval()
    with pytest.raises(ValueError, match=r"of 500 images got no gradient .* Try loss=Margin\(\)"):
        pgd(proud, x, y, EPS, attack=PGD(step=0.025), generator=generator())
    found = pgd(proud, x, y, EPS, attack=PGD(step=0.025, loss=Margin()), generator=generator())
    plain = pgd(model, x, y, EPS, attack=PGD(step=0.025, loss=Margin()), generator=generator())
    assert (model(found).argmax(1) == y).sum() <= (model(plain).argmax(1) == y).sum() + 5


class Logarithm(nn.Module):
    """The logarithm of probabilities that underflow: infinite logits, NaN gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(torch.softmax(100 * self.model(x), dim=1))


def test_gradients_that_are_not_finite_are_an_error(digits) -> None:
    model, x, y = digits
    for best in (True, False):
        attack = PGD(step=0.025, best=best)
        with pytest.raises(ValueError, match=r"gradients of images \[.*\] are not finite"):
            pgd(Logarithm(model).eval(), x, y, EPS, attack=attack, generator=generator())


def test_errors_name_what_came_and_what_to_do(digits) -> None:
    model, x, y = digits
    x, y = x[:4], y[:4]
    settings = {"attack": PGD(), "generator": generator()}
    with pytest.raises(ValueError, match=r"got x from -1 to 1; wanted \[0, 1\]"):
        pgd(model, 2 * x - 1, y, EPS, **settings)
    with pytest.raises(ValueError, match="wanted \\[0, 1\\]"):
        pgd(model, x * torch.nan, y, EPS, **settings)
    with pytest.raises(ValueError, match=r"got x torch.uint8 .* see data.to_float"):
        pgd(model, (255 * x).byte(), y, EPS, **settings)
    with pytest.raises(ValueError, match=r"got y \(3,\) on cpu for 4 images"):
        pgd(model, x, y[:3], EPS, **settings)
    for budget in (-0.1, torch.full((3, 1, 1, 1), 0.1), torch.full((8, 8), 0.1), torch.nan):
        with pytest.raises(ValueError, match="wanted one number, or one per image or pixel"):
            pgd(model, x, y, budget, **settings)
    model.train()
    try:
        for call in (pgd, mma):
            with pytest.raises(ValueError, match=r"training mode; call \.eval\(\) first"):
                call(model, x, y, EPS, **settings)
        with pytest.raises(ValueError, match="training mode"):
            auto_attack(model, x, y, EPS, seed=0)
    finally:
        model.eval()
    with pytest.raises(ValueError, match="PGD: got steps 0; wanted a whole number >= 1"):
        PGD(steps=0)


def test_gradients_of_parameters_are_left_alone(digits) -> None:
    model, x, y = digits
    model.zero_grad(set_to_none=True)
    pgd(model, x[:5], y[:5], EPS, attack=PGD(), generator=generator())
    assert all(parameter.grad is None for parameter in model.parameters())
