"""Objectives are the published ones, budgets are what they say, training with them makes networks robust."""

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.io import savemat
from torch import nn
from torchvision import datasets

from dualrs_lab.attacks import PGD, Divergence, Threat, evaluate, mma, pgd, robust_accuracy
from dualrs_lab.data import Images, load_images, to_float
from dualrs_lab.models import make_model
from dualrs_lab.pixels import (
    AboveMean,
    JetMask,
    OtherImages,
    Pixels,
    RandomPixels,
    Region,
    TopFraction,
    Uniform,
    class_maps,
    mean_budget,
)
from dualrs_lab.runtime import make_generator
from dualrs_lab.training import (
    INNER,
    Adversarial,
    Mart,
    SmoothAdversarial,
    Standard,
    Trades,
    TrainConfig,
    Warmup,
    accuracy,
    channel_statistics,
    recipe,
    settings,
    train,
    train_checkpoint,
)

EPS = 0.15
QUICK = PGD(steps=3, step=EPS / 2, best=False, blind=0.99)
PART = Pixels(mask=TopFraction(fraction=0.25), high=EPS, low=EPS / 2)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train")


def network(seed: int = 0):
    return make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=seed)


def batch(images: Images, count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = images.batch(torch.arange(count))
    return to_float(pixels), labels


def generator(seed: int = 0) -> torch.Generator:
    return make_generator(seed, "test")


def test_pixels_are_the_mask_of_the_very_batch(digits) -> None:
    model, (x, _) = network().eval(), batch(digits)
    budget = PART(model, x, generator())
    mask = TopFraction(fraction=0.25)(class_maps(model, x), (8, 8))
    assert torch.equal(budget, torch.where(mask, EPS, EPS / 2))
    order = torch.randperm(len(x), generator=generator())
    assert torch.equal(PART(model, x[order], generator()), budget[order])  # goes with the image


def test_controls_keep_what_they_should(digits) -> None:
    model, (x, _) = network().eval(), batch(digits)
    budget = PART(model, x, generator())
    others = OtherImages(of=PART)(model, x, generator())
    assert torch.equal(others, budget.roll(1, 0))
    assert not torch.equal(others, budget)
    spread = Pixels(mask=AboveMean(k=0.5), high=EPS, low=EPS / 2)
    for part in (PART, spread):
        found = RandomPixels(of=part)(model, x, generator())
        own = part(model, x, generator())
        assert torch.equal((found == EPS).sum((1, 2, 3)), (own == EPS).sum((1, 2, 3)))
        assert (found.mean(0) - found.mean()).abs().max() < 0.5 * (own.mean(0) - own.mean()).abs().max()
    assert mean_budget(model, digits, PART, seed=0) == pytest.approx(0.25 * EPS + 0.75 * EPS / 2)
    published = Pixels(mask=JetMask(), high=EPS, low=EPS / 2)
    colour = torch.rand(4, 3, 8, 8, generator=generator())
    rgb = make_model("digits_narrow", classes=10, channels=3, mean=[0.3] * 3, std=[0.37] * 3, seed=0).eval()
    assert published(rgb, colour, generator()).shape == (4, 3, 8, 8)


def test_mean_budget_leaves_the_network_as_it_was(digits) -> None:
    model = network().train()
    model.body.layer1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mean_budget(model, digits.select(range(50)), PART, seed=0)
    assert model.training
    assert not model.body.layer1.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_region_is_its_quadrant() -> None:
    x = torch.zeros(2, 1, 8, 6)
    budget = Region(high=0.2, low=0.1, top=0.5, left=0.5)(nn.Identity(), x, generator())
    assert budget.shape == (1, 1, 8, 6)
    assert torch.equal(budget[0, 0] == 0.1, F.pad(torch.ones(4, 3), (3, 0, 4, 0)).bool())
    assert float(budget.mean()) == pytest.approx(0.175)


class Recorder(nn.Module):
    """Fixed logits that depend on the sum of an image; remembers inputs and modes."""

    def __init__(self) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.tensor([1.0, -0.5, 0.2]))
        self.seen: list[tuple[bool, torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.training, x.detach()))
        return x.flatten(1).sum(1, keepdim=True) * self.direction


def reference(model: Recorder, x: torch.Tensor) -> torch.Tensor:
    return (x.flatten(1).sum(1, keepdim=True) * model.direction).detach()


@pytest.mark.parametrize("objective", [Adversarial, Trades, Mart])
def test_losses_are_the_published_ones(objective) -> None:
    model = Recorder().train()
    x, y = 0.2 + 0.6 * torch.rand(7, 1, 2, 2, generator=generator()), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    loss = objective(budget=Uniform(eps=EPS), attack=QUICK)(model, x, y, generator())
    assert [training for training, _ in model.seen].count(True) == (1 if objective is Adversarial else 2)
    attacked = model.seen[-1][1]
    assert 0 < (attacked - x).abs().max() <= EPS + 1e-6
    a, b = reference(model, x), reference(model, attacked)
    p, q = F.softmax(a, 1), F.softmax(b, 1)
    divergence = (p * (p / q).log()).sum(1)
    if objective is Adversarial:
        wanted = -q[range(7), y].log().mean()
    elif objective is Trades:
        wanted = -p[range(7), y].log().mean() + 6 * divergence.mean()
    else:
        wrong = torch.stack([torch.cat([row[:t], row[t + 1 :]]).max() for row, t in zip(q, y, strict=True)])
        boosted = -q[range(7), y].log() - (1.0001 - wrong).log()
        wanted = (boosted + 6 * divergence * (1 - p[range(7), y])).mean()
    assert loss.detach() == pytest.approx(float(wanted), rel=1e-5)
    loss.backward()
    assert model.direction.grad is not None


def trained_on(objective, model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The attacked images that the objective shows to the network in training mode."""
    seen = []
    hook = model.register_forward_pre_hook(lambda part, given: seen.append(given[0].detach()))
    objective(model.train(), x, y, generator())
    hook.remove()
    return seen[-1]


def test_each_objective_has_its_own_attack(digits) -> None:
    x, y = batch(digits)
    model = network().eval()
    with torch.no_grad():
        reference = model(x)
    how = {"model": model, "x": x, "budget": EPS}
    by_label = pgd(**how, y=y, attack=QUICK, generator=generator())
    by_divergence = pgd(**how, y=reference, attack=replace(QUICK, loss=Divergence()), generator=generator())
    by_margins = mma(**how, y=y, attack=QUICK, targets=2, generator=generator())
    for one, other in itertools.combinations((by_label, by_divergence, by_margins), 2):
        assert not torch.equal(one, other)
    for objective, attacked in (
        (Adversarial(budget=Uniform(eps=EPS), attack=QUICK), by_label),
        (Adversarial(budget=Uniform(eps=EPS), attack=QUICK, targets=2), by_margins),
        (Trades(budget=Uniform(eps=EPS), attack=QUICK), by_divergence),
        (Mart(budget=Uniform(eps=EPS), attack=QUICK), by_label),
    ):
        assert torch.equal(trained_on(objective, network(), x, y), attacked), objective


@pytest.mark.parametrize("objective", [Adversarial, Trades, Mart])
def test_budgets_of_pixels_reach_the_attack(objective, digits) -> None:
    """PART, PART-T and PART-M: every pixel moves by its own budget, and by no more."""
    x, y = batch(digits)
    budget = EPS * torch.rand(len(x), 1, 8, 8, generator=generator(4)).round(decimals=1)
    given = objective(budget=lambda model, x, generator: budget, attack=QUICK)
    moved = (trained_on(given, network(), x, y) - x).abs()
    assert (moved <= budget + 1e-6).all()
    assert (moved > 0.9 * budget)[budget > 0].float().mean() > 0.3  # clamped at 0 and 1 elsewhere
    assert not moved[budget == 0].any()


def test_trades_takes_any_attack(digits) -> None:
    """Its divergence has no labels by which to keep the best input."""
    x, y = batch(digits, 8)
    assert Trades(attack=PGD(steps=2, best=True))(network(), x, y, generator()).isfinite()


def test_smoothadv_with_one_draw_and_no_radius_is_gaussian_training(digits) -> None:
    model, (x, y) = network(), batch(digits)
    objective = SmoothAdversarial(sigma=0.25, eps=1e-9, draws=1)
    noise = 0.25 * torch.randn((1, *x.shape), generator=generator())
    loss = objective(model, x, y, generator())
    assert loss.detach() == pytest.approx(float(F.cross_entropy(model(x + noise[0]), y).detach()), rel=1e-4)
    attacked = SmoothAdversarial(sigma=0.25, eps=1.0, draws=4)(model, x, y, generator())
    gaussian = SmoothAdversarial(sigma=0.25, eps=1e-9, draws=4)(model, x, y, generator())
    assert attacked > gaussian


class Watched(nn.Module):
    """A linear network, whose slope is the same everywhere, that remembers its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(64, 10), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.detach())
        return self.layer(x.flatten(1))


def test_smoothadv_walks_twice_its_radius_from_the_image() -> None:
    """Four steps of eps / 2: at the border after two of them, where it stays."""
    model, x, eps = Watched(), torch.full((5, 1, 8, 8), 0.5), 0.2
    SmoothAdversarial(sigma=0.001, eps=eps, draws=1, steps=4)(model, x, torch.arange(5), generator())
    walked = [(point - model.seen[0]).flatten(1).norm(dim=1) / eps for point in model.seen]
    torch.testing.assert_close(walked, [torch.full((5,), share) for share in (0.0, 0.5, 1.0, 1.0, 1.0)])


def config(**changes) -> TrainConfig:
    return TrainConfig(
        **{"epochs": 6, "seed": 0, "batch": 128, "lr": 0.1, "crop": 0, "flip": False, **changes}
    )


@pytest.fixture(scope="module")
def test_images() -> Images:
    return load_images("digits", "test")


def robust(model, images: Images) -> float:
    return robust_accuracy(model, images, eps=EPS, attack=PGD(steps=10, step=EPS / 4), seed=0)


@pytest.fixture(scope="module")
def unattacked(digits, test_images) -> float:
    """Robust accuracy of a network that never saw an attack."""
    model = network()
    train(model, digits, objective=Standard(), config=config(), progress=False)
    return robust(model, test_images)


@pytest.mark.parametrize(
    "objective",
    [
        Adversarial(budget=Uniform(eps=EPS), attack=QUICK),
        Adversarial(budget=PART, attack=QUICK),
        Adversarial(budget=PART, attack=QUICK, targets=2),
        Trades(budget=PART, attack=QUICK),
        Mart(budget=PART, attack=QUICK),
    ],
    ids=["AT", "PART", "PART by MMA", "PART-T", "PART-M"],
)
def test_training_makes_robust_and_standard_training_does_not(
    objective, digits, test_images, unattacked
) -> None:
    """With attacks 25 points more are robust than without, at least."""
    model = network()
    train(model, digits, objective=objective, config=config(), progress=False)
    natural, after = accuracy(model, test_images, seed=0), robust(model, test_images)
    assert after > unattacked + 0.25
    assert natural > after
    assert natural > 0.8


def test_smoothadv_training_learns(digits, test_images) -> None:
    model = network()
    objective = SmoothAdversarial(sigma=0.25, eps=0.5)
    train(model, digits, objective=objective, config=config(), progress=False)
    assert accuracy(model, test_images, sigma=0.25, seed=0) > 0.8


def test_warmup_is_the_first_objective_and_then_the_other(digits) -> None:
    some = digits.select(range(200))
    plain, part = Adversarial(budget=Uniform(eps=EPS), attack=QUICK), Adversarial(budget=PART, attack=QUICK)
    losses = {}
    for name, objective in {
        "plain": plain,
        "part": part,
        "warm": Warmup(epochs=2, first=plain, then=part),
        "all": Warmup(epochs=9, first=plain, then=part),
    }.items():
        history = train(network(), some, objective=objective, config=config(epochs=3), progress=False)
        losses[name] = history["loss"].tolist()
    assert losses["all"] == losses["plain"]
    assert losses["warm"][:2] == losses["plain"][:2]
    assert losses["warm"][2] != losses["plain"][2]
    assert losses["part"][0] != losses["plain"][0]


def test_settings_tell_objectives_apart_down_to_their_parts(digits) -> None:
    def named(objective) -> str:
        return repr(settings(config(), objective, digits))

    parts = [
        Pixels(mask=mask, high=EPS, low=low)
        for mask in (TopFraction(fraction=0.25), TopFraction(fraction=0.5), AboveMean())
        for low in (0.05, 0.1)
    ]
    objectives = [Adversarial(budget=part) for part in parts]
    objectives += [
        Adversarial(budget=RandomPixels(of=parts[0])),
        Adversarial(budget=OtherImages(of=parts[0])),
    ]
    objectives += [Trades(budget=parts[0]), Mart(budget=parts[0]), Adversarial(budget=parts[0], attack=QUICK)]
    assert len({named(one) for one in objectives}) == len(objectives)
    assert named(Adversarial(budget=parts[0])) == named(Adversarial(budget=parts[0], attack=INNER))
    assert "grad_cam" in named(objectives[0])


def svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its two published files, of 40 noisy images in which a bright corner tells the class."""
    entries = {}
    for split in ("train", "test"):
        rng = np.random.default_rng([1, len(split)])
        labels = rng.integers(1, 11, 40).astype(np.uint8)  # the files say 10 for the digit 0
        pixels = rng.integers(0, 60, (32, 32, 3, 40), dtype=np.uint8)
        for number, label in enumerate(labels):
            pixels[3 * (label % 5) : 3 * (label % 5) + 6, :: 1 + label // 6, :, number] += 180
        path = root / "SVHN" / f"{split}_32x32.mat"
        path.parent.mkdir(exist_ok=True)
        savemat(path, {"X": pixels, "y": labels[:, None]})
        checksum = hashlib.md5(path.read_bytes()).hexdigest()
        entries[split] = ["file:///nowhere", path.name, checksum]
    monkeypatch.setattr(datasets.SVHN, "split_list", entries)
    return "svhn"


def tiny_imagenet(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its folders with three classes of eight images."""
    base, names = root / "tiny-imagenet-200", ("n01", "n02", "n03")
    lines = []
    for label, name in enumerate(names):
        for number in range(8):
            rng = np.random.default_rng([label, number])
            pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            pixels[20 * label : 20 * label + 20] += 180
            place = base / "train" / name / "images" / f"{name}_{number}.JPEG"
            seen = base / "val" / "images" / f"val_{label}_{number}.JPEG"
            for path in (place, seen):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            lines.append(f"{seen.name}\t{name}\t0\t0\t9\t9\n")
    (base / "val" / "val_annotations.txt").write_text("".join(lines))
    (base / "wnids.txt").write_text("".join(f"{name}\n" for name in names))
    (base / "words.txt").write_text("n01\ta\nn02\tb\nn03\tc\n")
    return "tiny_imagenet"


@pytest.mark.parametrize("make", [svhn, tiny_imagenet])
def test_the_data_sets_of_the_paper_go_through_their_own_loaders(make, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DUALRS_CACHE", str(tmp_path / "decoded"))
    name = make(tmp_path, monkeypatch)
    images, test = (load_images(name, split, root=tmp_path) for split in ("train", "test"))
    mean, std = channel_statistics(images)
    shape = {"classes": len(images.classes), "channels": 3, "mean": mean, "std": std}
    part = Pixels(mask=TopFraction(fraction=0.3))
    objective = Warmup(epochs=1, first=Adversarial(attack=QUICK), then=Adversarial(budget=part, attack=QUICK))
    plan = replace(recipe(images, epochs=6, seed=0), batch=8, lr=0.05)
    path = tmp_path / "m.safetensors"
    model, _ = train_checkpoint(
        path,
        lambda: make_model("fast_narrow", **shape, seed=0),
        images,
        objective=objective,
        config=plan,
        device=torch.device("cpu"),
        progress=False,
    )
    assert accuracy(model, images, seed=0) > 2 / len(images.classes)  # it learns through its loader
    threat = Threat(eps=8 / 255, seed=0, auto=(), mma=len(images.classes) > 3, steps=5)
    table = evaluate(model, test, threat=threat, progress=False)
    assert len(table) == len(test)
