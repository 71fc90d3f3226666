"""Labels are votes, the objective raises the routed radius where a router can, training is taken up again."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from dualrs_lab.cascade import CascadeRadius, cascade_radius
from dualrs_lab.data import Images, load_images
from dualrs_lab.dual import (
    Cuts,
    DualCertificate,
    RoutedRadius,
    SoftTarget,
    Stakes,
    judge,
    mapped_radii,
    median_entry_radii,
    numbered,
    regret,
    regret_table,
    train_router,
)
from dualrs_lab.evidence import lower_bound, rs_radius
from dualrs_lab.models import make_model
from dualrs_lab.runtime import make_generator
from dualrs_lab.smoothing import GridNoise, NoiseBlocks, count_votes, label_votes, soft
from dualrs_lab.smoothing import labels as routing
from dualrs_lab.training import Pool, TrainConfig, settings, together, train, train_together
from dualrs_lab.training import loop as training

CPU = torch.device("cpu")


def network(seed: int, classes: int = 10):
    return make_model("digits_narrow", classes=classes, channels=1, mean=[0.3], std=[0.37], seed=seed).eval()


def config(**changes) -> TrainConfig:
    given = {"epochs": 2, "seed": 0, "batch": 64, "lr": 0.05, "crop": 0, "flip": False, "bfloat16": False}
    return TrainConfig(**given | changes)


def equal(one, other) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train").select(range(30))


# Labels


def test_labels_are_votes_for_the_label_and_are_counted_once(
    tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "_WAVE", 12)  # 30 images: three waves, the last one smaller
    experts, sigmas, path = [network(0), network(1)], (0.25, 0.5), tmp_path / "votes.safetensors"
    given = {"sigmas": sigmas, "n": 100, "seed": 3}
    votes = label_votes(experts, digits, path, **given)
    assert votes.shape == (30, 2)
    for j, (model, sigma) in enumerate(zip(experts, sigmas, strict=True)):
        blocks = NoiseBlocks(GridNoise(sigma), digits.shape, seed=3, stream="labels")
        counts = count_votes(model, digits.pixels, blocks, n=100, classes=10)
        own = counts[np.arange(30), digits.labels.numpy()]
        # Folding BatchNorm moves logits by 1e-6: a vote or two may tip.
        assert np.abs(votes[:, j].numpy() - own).max() <= 1
        assert np.ptp(own) > 50  # not the same for all
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(routing, "freeze_each", None)  # the file is enough
    assert torch.equal(label_votes(experts, digits, path, **given), votes)
    for other, key in (({"seed": 4}, "seed"), ({"n": 50}, "n"), ({"sigmas": (0.25, 1.0)}, "sigmas")):
        with pytest.raises(ValueError, match=rf"other settings \({key}\): found .*'{key}'.* choose another"):
            label_votes(experts, digits, path, **given | other)
    with pytest.raises(ValueError, match="'experts'"):
        label_votes(experts[::-1], digits, path, **given)
    with pytest.raises(ValueError, match="'images'"):
        label_votes(experts, numbered(digits), path, **given)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="got 2 experts and 1 sigmas; wanted one each"):
        label_votes(experts, digits, path, **given | {"sigmas": (0.25,)})


def test_an_interrupted_labelling_leaves_no_votes(
    tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "votes.safetensors"

    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(routing, "replace_bytes", broken)
        with pytest.raises(KeyboardInterrupt):
            label_votes([network(0)], digits, path, sigmas=(0.5,), n=10, seed=0)
    assert not path.exists()
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):  # its record is there
        label_votes([network(0)], digits, path, sigmas=(0.5,), n=10, seed=1)
    assert label_votes([network(0)], digits, path, sigmas=(0.5,), n=10, seed=0).shape == (30, 1)


def test_mapped_radii_by_hand_and_without_the_ceiling_of_few_draws() -> None:
    votes = torch.tensor([[100, 100], [80, 50], [0, 3]], dtype=torch.int32)
    found = mapped_radii(votes, n=100, draws=10_000, alpha=0.001, sigmas=(0.25, 1.0))
    # 100.5 / 101 of 10,000 are 9950; 80.5 / 101 are 7970; a half or less has no radius
    p = [stats.beta.ppf(0.001, k, 10_000 - k + 1) for k in (9950, 7970)]
    assert found[0] == pytest.approx([0.25 * stats.norm.ppf(p[0]), stats.norm.ppf(p[0])], rel=1e-9)
    assert found[1] == pytest.approx([0.25 * stats.norm.ppf(p[1]), 0.0], rel=1e-9)
    assert found[2].tolist() == [0, 0]
    unmapped = rs_radius(lower_bound(100, 100, 0.001), 1.0)
    assert unmapped == pytest.approx(1.5, abs=0.005)  # no image could have more
    assert found[0, 1] > 2.4


def test_mapped_radii_ascend_with_votes_draws_and_sigma() -> None:
    votes = torch.arange(101)[:, None].expand(101, 2)
    few, many = (mapped_radii(votes, n=100, draws=d, alpha=0.001, sigmas=(0.25, 0.5)) for d in (1000, 10_000))
    assert (np.diff(few, axis=0) >= 0).all()
    assert (np.diff(few[60:], axis=0) > 0).all()
    assert (many >= few).all()
    assert many[:, 1] == pytest.approx(2 * many[:, 0])


def test_numbered_images_carry_their_position(digits: Images) -> None:
    own = numbered(digits)
    assert own.labels.tolist() == list(range(30))
    assert torch.equal(own.pixels, digits.pixels)
    assert digits.labels.max() == 9  # the original is as it was


# The routed radius


class Fixed(torch.nn.Module):
    """Logits that do not depend on the image, (B, 2) for the B images of a draw."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.repeat(len(x) // len(self.logits), 1)


def routed_loss(radii, logits, sigmas, **more) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of cuts with fixed logits (K - 1, B, 2), and its gradient for each cut."""
    router = Pool([Fixed(torch.tensor(own)) for own in logits])
    x = torch.zeros(len(radii), 1, 2, 2)
    objective = RoutedRadius(radii=torch.tensor(radii), sigmas=sigmas, **more)
    loss = objective(router, x, torch.arange(len(radii)), make_generator(0))
    loss.backward()
    return loss.detach(), [cut.logits.grad for cut in router.members]


def test_routed_radius_is_the_routed_radius_when_the_temperature_is_low() -> None:
    rng = np.random.default_rng(1)
    radii, logits = rng.uniform(0, 2, (30, 3)), rng.normal(0, 2, (2, 30, 2)).astype(np.float32)
    loss, _ = routed_loss(radii.tolist(), logits, (0.5, 1.0), temperature=1e-3, margin=0.0)
    p = soft.FLOOR + (1 - 2 * soft.FLOOR) * stats.logistic.cdf(logits[..., 0] - logits[..., 1]).T
    exact = np.maximum(median_entry_radii(p, p, (0.5, 1.0)), radii).min(axis=1)
    assert -float(loss) == pytest.approx(exact.mean(), abs=2e-3)


@pytest.mark.parametrize("size", [20.0, 150.0, 1e4])
def test_extreme_logits_leave_finite_gradients(size: float) -> None:
    logits = [[[size, -size], [-size, size]], [[-size, size], [size, -size]]]
    loss, gradients = routed_loss([[0.0, 1.0, 0.5], [0.3, 0.0, 0.0]], logits, (0.5, 1.0))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(("margin", "learns"), [(0.0, False), (1.0, True)])
def test_only_with_a_margin_a_cut_learns_that_is_certain_and_wrong(margin: float, learns: bool) -> None:
    # The first expert is chosen with probability 0.9991 and has no radius; the second has one of 1.
    _, (gradient,) = routed_loss([[0.0, 1.0]], [[[7.0, 0.0]]], (0.5,), margin=margin)
    assert (gradient[0, 0] > 1e-2) == learns  # descending means: less "at most 1"
    assert (gradient[0, 1] < -1e-2) == learns


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_equal_experts_leave_the_router_alone(margin: float) -> None:
    for p in (0.3, 0.5, 0.6):
        z = float(stats.logistic.ppf(p))
        _, (same,) = routed_loss([[1.2, 1.2]], [[[z, 0.0]]], (0.5,), margin=margin)
        _, (differ,) = routed_loss([[0.0, 1.2]], [[[z, 0.0]]], (0.5,), margin=margin)
        assert same.abs().max() < 1e-3
        assert differ.abs().max() > 0.05  # negative control
        _, (none,) = routed_loss([[0.0, 0.0]], [[[z, 0.0]]], (0.5,), margin=margin)
        assert none.abs().max() < 1e-6  # no expert has a radius: the two terms cancel


def test_radii_that_do_not_fit_the_cuts_are_refused() -> None:
    for shape, sigmas in (((5, 3), (0.5,)), ((5, 1), ()), ((5,), (0.5,))):
        for kind in (RoutedRadius, Stakes):
            with pytest.raises(ValueError, match="wanted \\(N, K\\) and one for each of K - 1 cuts"):
                kind(radii=torch.zeros(shape), sigmas=sigmas)


def test_stakes_weigh_each_cut_by_the_radius_it_decides_about() -> None:
    radii = torch.tensor([[0.9, 0.1, 0.3], [0.0, 0.2, 1.5], [0.4, 0.4, 0.4]])
    logits = torch.tensor(np.random.default_rng(3).normal(size=(2, 3, 2)), dtype=torch.float32)
    objective = Stakes(radii=radii, sigmas=(0.5, 1.0), draws=3)
    router = Pool([Fixed(own) for own in logits])
    found = objective(router, torch.zeros(3, 1, 2, 2), torch.arange(3), make_generator(0)).detach()
    p = torch.softmax(logits, dim=-1)
    # at most 1: by 0.6 for the first image, more by 1.5 for the second; at most 2: 0.6 and 1.3; none at stake
    first = -(0.6 * p[0, 0, 0].log() + 1.5 * p[0, 1, 1].log()) / 3
    second = -(0.6 * p[1, 0, 0].log() + 1.3 * p[1, 1, 1].log()) / 3
    assert float(found) == pytest.approx(float(first + second), rel=1e-5)


def test_a_cut_that_can_be_learnt_is_learnt_from_stakes() -> None:
    images, radii = squares(), torch.tensor([[0.6, 0.1], [0.0, 0.8]]).repeat(256, 1)
    router = Pool([cut_network()])
    train(
        router, images, objective=Stakes(radii=radii, sigmas=(0.5,)), config=config(epochs=6), progress=False
    )
    assert routed_radius_of(router, images, radii, 0.5) == pytest.approx([0.6, 0.8], abs=0.02)


def cascade_loss(logits: torch.Tensor, y: torch.Tensor, sigmas: tuple[float, ...], **more) -> torch.Tensor:
    """Of experts with fixed logits (K, B, C)."""
    objective = CascadeRadius(sigmas=sigmas, **more)
    experts = Pool([Fixed(own) for own in logits])
    return objective(experts, torch.zeros(len(y), 1, 2, 2), y, make_generator(0)).detach()


def test_cascade_radius_is_the_radius_of_the_cascade_and_the_cost_of_accuracy() -> None:
    rng, sigmas = np.random.default_rng(5), (1.0, 0.5, 0.25)
    logits = torch.tensor(rng.normal(0, 2.0, (3, 200, 4)), dtype=torch.float32)
    y = torch.zeros(200, dtype=torch.int64)
    p = soft.draw_in(torch.softmax(logits, dim=-1)).numpy().astype(float)
    own = stats.norm.ppf(p[..., 0]) * np.array(sigmas)[:, None]
    errs = -stats.norm.ppf(p[..., 1:].max(axis=-1)) * np.array(sigmas)[:, None]
    exact = np.maximum(cascade_radius(own.T, errs.T), 0).mean()
    found = cascade_loss(logits, y, sigmas, accuracy=0.0, temperature=1e-3)
    assert -float(found) == pytest.approx(exact, abs=2e-3)
    cost = sum(F.cross_entropy(expert, y) for expert in logits)
    both = cascade_loss(logits, y, sigmas, accuracy=0.5, temperature=1e-3)
    assert float(both - found) == pytest.approx(0.5 * float(cost), rel=1e-4)
    turned = cascade_loss(logits.flip(0), y, sigmas, accuracy=0.0, temperature=1e-3)
    assert abs(float(turned) + exact) > 0.01  # negative control: the order of asking matters


def test_experts_learn_to_keep_quiet_for_each_other(tmp_path: Path) -> None:
    """Descent raises the radius of a cascade; extreme logits leave finite gradients."""
    images = load_images("digits", "train").select(range(0, 1200, 4))
    given = {"config": config(epochs=15), "device": CPU, "progress": False}
    objective = CascadeRadius(sigmas=(0.5, 0.25))
    paths = [tmp_path / f"expert{k}.safetensors" for k in range(2)]
    made = train_together(paths, network, images, objective=objective, **given)
    history = json.loads((tmp_path / "expert0.json").read_text())["history"]
    assert history[-1]["loss"] < history[0]["loss"] - 0.1
    assert json.loads((tmp_path / "expert1.json").read_text())["sigma"] == 0.25
    again = train_together(paths, network, images, objective=objective, **given)
    assert all(map(equal, made, again))
    logits = torch.full((2, 3, 10), -1e4)
    logits[:, :, 0] = 1e4
    experts = Pool([Fixed(own) for own in logits])
    loss = objective(experts, torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 2]), make_generator(0))
    loss.backward()
    assert torch.isfinite(loss.detach())
    assert all(torch.isfinite(expert.logits.grad).all() for expert in experts.members)


def squares(count: int = 512) -> Images:
    """Dark images and bright ones, by turns."""
    bright = torch.arange(count) % 2
    pixels = (60 + 135 * bright.view(-1, 1, 1, 1)).expand(-1, 1, 4, 4).to(torch.uint8)
    return numbered(
        Images(pixels=pixels, labels=bright, classes=("dark", "bright"), name="squares", split="train")
    )


def cut_network(_: int = 0):
    return make_model("digits_narrow", classes=2, channels=1, mean=[0.5], std=[0.3], seed=0)


def routed_radius_of(router: Pool, images: Images, radii: torch.Tensor, sigma: float) -> np.ndarray:
    """Of each image: by votes of 400 draws, not soft ones."""
    blocks = NoiseBlocks(GridNoise(sigma), images.shape, seed=9, stream="test")
    model = router.members[0].eval()
    p = count_votes(model, images.pixels[:2], blocks, n=400, classes=2)[:, :1] / 400
    return np.maximum(median_entry_radii(p, p, sigma), radii[:2].numpy()).min(axis=1)


@pytest.mark.parametrize(
    ("dark", "bright", "sure"),
    [((0.6, 0.1), (0.0, 0.8), (0.6, 0.8)), ((0.6, 0.1), (0.5, 0.0), (0.6, 0.5))],
    ids=["the cut can be learnt", "one expert is best for all"],
)
def test_descent_finds_the_right_cut(dark, bright, sure) -> None:
    images = squares()
    radii = torch.tensor([dark, bright]).repeat(256, 1)
    router = Pool([cut_network()])
    objective = RoutedRadius(radii=radii, sigmas=(0.5,))
    history = train(router, images, objective=objective, config=config(epochs=12), progress=False)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] - 0.1
    assert routed_radius_of(router, images, radii, 0.5) == pytest.approx(sure, abs=0.02)
    wrong = radii.flip(1)  # negative control: the same router with the experts exchanged
    assert (routed_radius_of(router, images, wrong, 0.5) < np.array(sure) - 0.2).all()


def test_with_a_margin_a_router_leaves_a_wrong_choice() -> None:
    images = squares()
    radii = torch.tensor([[0.6, 0.1], [0.0, 0.8]]).repeat(256, 1)
    given = {"images": images, "progress": False}
    wrong = RoutedRadius(radii=radii.flip(1), sigmas=(0.5,))
    start = Pool([cut_network()])
    train(start, objective=wrong, config=config(epochs=4), **given)
    found = {}
    for margin in (0.0, 1.0):
        router, right = copy.deepcopy(start), RoutedRadius(radii=radii, sigmas=(0.5,), margin=margin)
        train(router, objective=right, config=config(epochs=12), **given)
        found[margin] = routed_radius_of(router, images, radii, 0.5)
    assert found[1.0] == pytest.approx([0.6, 0.8], abs=0.02)
    assert found[0.0].sum() < 1.0  # the plain objective is flat there


# The published objective


def soft_target(logits: torch.Tensor, radii: torch.Tensor, y: torch.Tensor, **more) -> torch.Tensor:
    """The loss where the draws (D, B, K) of the estimator are given."""
    objective = SoftTarget(radii=radii, sigma=0.5, draws=len(logits), **more)
    return objective(lambda _: logits.flatten(0, 1), torch.zeros(len(y), 1, 2, 2), y, make_generator(0))


def test_certain_predictions_leave_finite_gradients() -> None:
    logits = torch.tensor([[[150.0, -150.0, -150.0]], [[150.0, -150.0, -150.0]]], requires_grad=True)
    radii = torch.tensor([[0.2, 0.8, 0.0]])
    loss = soft_target(logits, radii, torch.tensor([0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    # Negative control: the mean of probabilities is exactly 0 here, and its logarithm ruins the gradient.
    naive = logits.detach().clone().requires_grad_()
    mean = torch.softmax(naive, dim=-1).mean(dim=0)
    (mean * (mean.log() - F.log_softmax(naive, dim=-1))).sum().backward()
    assert torch.isnan(naive.grad).any()


def by_hand(
    logits: np.ndarray, radii: np.ndarray, weight: np.ndarray, strength: float, entropy: float
) -> float:
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mean, target = p.mean(0), np.exp(radii) / np.exp(radii).sum(-1, keepdims=True)
    soft = -(target * np.log(p)).sum(-1).mean(0)
    divergence = (mean * (np.log(mean) - np.log(p))).sum(-1).mean(0)
    spread = -(mean * np.log(mean)).sum(-1)
    stake = radii[np.arange(len(radii)), mean.argmax(-1)]
    return float((weight * (soft + stake * (strength * divergence + entropy * spread))).mean())


def test_images_weigh_by_the_share_of_their_sigma_and_consistency_by_the_radius_at_stake() -> None:
    # sigma 0 is best for three images of four, sigma 1 for one
    radii = np.array([[0.9, 0.1], [0.5, 0.3], [0.4, 0.0], [0.2, 1.5]])
    logits = np.random.default_rng(2).normal(size=(2, 4, 2))
    weight, y = np.array([4 / 3, 4 / 3, 4 / 3, 4.0]), torch.arange(4)
    given = torch.tensor(logits, dtype=torch.float32), torch.tensor(radii), y
    found = float(soft_target(*given, strength=7.0, entropy=0.3))
    assert found == pytest.approx(by_hand(logits, radii, weight, 7.0, 0.3), rel=1e-5)
    assert found != pytest.approx(by_hand(logits, radii, np.ones(4), 7.0, 0.3), rel=1e-2)
    # nothing at stake where the chosen expert has no radius: neither consistency nor entropy
    one = torch.tensor([[[3.0, 0.0]], [[-1.0, 0.0]]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    assert float(soft_target(*one, strength=0.0, entropy=0.0)) == pytest.approx(float(soft_target(*one)))


# Training


def small() -> tuple[Images, RoutedRadius]:
    images = squares(128)
    radii = torch.tensor([[0.6, 0.1, 0.0], [0.0, 0.8, 0.9]]).repeat(64, 1)
    return images, RoutedRadius(radii=radii, sigmas=(0.25, 0.5))


def cut(k: int):
    return make_model("digits_narrow", classes=2, channels=1, mean=[0.5], std=[0.3], seed=k)


def test_router_is_trained_once_and_other_settings_do_not_overwrite_it(tmp_path: Path) -> None:
    images, objective = small()
    given = {"objective": objective, "device": CPU, "progress": False}
    path = tmp_path / "new" / "router"
    cuts = train_router(path, cut, images, config=config(), **given)
    names = [f"router_cut{k}.{kind}" for k in (1, 2) for kind in ("json", "safetensors")]
    assert sorted(file.name for file in path.parent.iterdir()) == names  # no state is left
    info = json.loads((path.parent / "router_cut2.json").read_text())
    assert (info["sigma"], len(info["history"])) == (0.5, 2)
    before = [file.stat().st_mtime_ns for file in sorted(path.parent.iterdir())]
    again = train_router(path, cut, images, config=config(), **given)
    assert all(map(equal, cuts, again))
    assert not again[0].training
    for changed in (
        {"config": config(epochs=3), **given},
        {
            "config": config(),
            **given,
            "objective": RoutedRadius(radii=objective.radii + 0.1, sigmas=(0.25, 0.5)),
        },
    ):
        with pytest.raises(
            ValueError, match=r"cut1\.safetensors was made with other settings .* replace=True keeps it"
        ):
            train_router(path, cut, images, **changed)
    with pytest.raises(ValueError, match=r"'start': \["):  # the same settings from other weights
        train_router(path, lambda k: cut(k + 5), images, config=config(), **given)
    whole = (path.parent / "router_cut2.safetensors").read_bytes()
    (path.parent / "router_cut2.safetensors").unlink()  # half of another router is still another router
    with pytest.raises(ValueError, match=r"cut1\.safetensors was made with other settings \(config\)"):
        train_router(path, cut, images, config=config(epochs=3), **given)
    (path.parent / "router_cut2.safetensors").write_bytes(whole)
    first = (path.parent / "router_cut1.safetensors").stat().st_mtime_ns
    with pytest.warns(UserWarning, match=r"other settings; it is now router_cut1_old1\.safetensors"):
        train_router(path, cut, images, config=config(epochs=3), replace=True, **given)
    assert (path.parent / "router_cut1_old1.safetensors").stat().st_mtime_ns == first == before[1]
    with pytest.raises(ValueError, match="got 64 images and radii for 128"):
        train_router(path, cut, images.select(range(64)), config=config(), **given)


@pytest.mark.parametrize("where", ["in training", "between two checkpoints"])
def test_interrupted_router_ends_in_bit_equal_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    images, objective = small()
    given = {"objective": objective, "config": config(), "device": CPU, "progress": False}
    whole = train_router(tmp_path / "whole", cut, images, **given)

    def second_time(function: Callable, calls: list[int]) -> Callable:
        def wrapped(*args, **kwargs):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        if where == "in training":
            patch.setattr(training, "_train_epoch", second_time(training._train_epoch, []))
        else:
            patch.setattr(together, "save_checkpoint", second_time(together.save_checkpoint, []))
        with pytest.raises(KeyboardInterrupt):
            train_router(tmp_path / "router", cut, images, **given)
    assert len(list(tmp_path.glob("*.state.pt"))) == 1
    found = train_router(tmp_path / "router", cut, images, **given)
    assert all(map(equal, whole, found))
    assert not list(tmp_path.glob("*.state.pt"))


def test_settings_tell_tables_of_radii_apart(digits: Images) -> None:
    radii = torch.rand(30, 3, generator=make_generator(0))
    same, other, turned = (
        settings(config(), SoftTarget(radii=table, sigma=0.5), digits)
        for table in (radii.clone(), radii + 1e-6, radii.reshape(15, 6))
    )
    found = settings(config(), SoftTarget(radii=radii, sigma=0.5), digits)
    assert found == same
    assert found["objective"]["radii"] not in (other["objective"]["radii"], turned["objective"]["radii"])
    assert json.loads(json.dumps(found)) == found


# What a router loses


def test_regret_by_hand() -> None:
    entry = np.array([[0.0, 0.7, 0.9], [0.4, 0.0, 1.2]])
    experts = np.array([[0.3, 0.5, 0.0], [0.6, 0.8, 0.1]])
    found = regret(entry, experts, np.array([0, 1]), (0.25, 0.5, 1.0))
    assert found["sigma"].tolist() == [0.25, 0.5]
    assert found["regret"].tolist() == pytest.approx([0.2, 0.0])
    assert found["bottleneck"].tolist() == pytest.approx([0.4, -0.4])


def test_regret_of_a_table_takes_each_images_own_rows_whatever_their_order() -> None:
    rule, sigmas = Cuts((0.25,)), (0.25, 0.5)
    rest = {"estimator": rule, "sigmas": sigmas, "split": rule.split(2, 0.001), "seed": 0, "seconds": 0.0}
    rest |= {"bound": "clopper-pearson", "drawn": 5000}
    looks = {7: np.array([[90, 10]]), 3: np.array([[20, 80]])}  # 7 goes to the first expert, 3 to the other
    votes = np.array([[990, 10], [900, 100]])
    dual = pd.DataFrame(
        judge(look, 10 * look, votes[0] // 10, votes, idx=idx, label=0, **rest).to_row()
        for idx, look in looks.items()
    )
    radii = pd.DataFrame({"idx": [3, 5, 7], "correct": [1, 1, 1], "radius": [0.3, 9.0, 0.4]})
    others = pd.DataFrame({"idx": [7, 5, 3], "correct": [0, 1, 1], "radius": [8.0, 9.0, 0.7]})
    found = regret_table(dual, {0.25: radii, 0.5: others})
    assert found["sigma"].tolist() == [0.25, 0.5]
    assert found["regret"].tolist() == [0.0, 0.0]
    entry = [DualCertificate.from_row(row).routes.entry for row in dual.to_dict("records")]
    assert found["bottleneck"].tolist() == pytest.approx([entry[0][1] - 0.4, entry[1][0] - 0.7])
