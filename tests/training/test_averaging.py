"""The running mean of the weights is its formula, goes on bit for bit, and is what everybody sees."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.__main__ import main
from dualrs_lab.attacks import PGD
from dualrs_lab.data import Images, as_floats, load_images
from dualrs_lab.models import load_checkpoint, make_model

from dualrs_lab.training import loop  # isort: skip
from dualrs_lab.training import (
    Adversarial,
    EasyImages,
    Gaussian,
    Pool,
    RunningMean,
    Standard,
    TrainConfig,
    Warmup,
    best_path,
    settings,
    statistics_anew,
    train,
    train_checkpoint,
    train_together,
)

CPU = torch.device("cpu")
GAUSSIAN = Gaussian(sigma=0.25)
OBJECTIVES: dict[str, Any] = {
    "gaussian": GAUSSIAN,
    "easy images": EasyImages(objective=GAUSSIAN, start=1, draws=4, threshold=0.1),
    "warm-up": Warmup(epochs=1, first=Standard(), then=GAUSSIAN),
    "attacked": Adversarial(attack=PGD(steps=1, step=0.1, best=False, blind=0.99)),
}


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train").select(range(300))


def network(seed: int = 0) -> nn.Module:
    return make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=seed)


def config(**changes: Any) -> TrainConfig:
    given = {"epochs": 3, "seed": 0, "batch": 60, "lr": 0.1, "crop": 1, "flip": False, "average": 0.3}
    return TrainConfig(**given | changes)


def tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


def equal(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def quietly(model: nn.Module, images: Images, objective: Any, made: TrainConfig, **more: Any) -> nn.Module:
    train(model, images, objective=objective, config=made, progress=False, **more)
    return model


class Point(nn.Module):
    """A weight of three numbers, and nothing that looks at images."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64))


class Bowl:
    """Half the squared distance to a point: a step of rate r leaves 1 - r of the way."""

    AIM = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)

    def __call__(self, model: Any, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return (model.weight - self.AIM).square().sum() / 2


def rates(made: TrainConfig, steps: int) -> np.ndarray:
    """Those of the cosine without a warm-up."""
    return made.lr / 2 * (1 + np.cos(np.pi * np.arange(steps) / steps))


@pytest.mark.parametrize(("share", "memory"), [(1.0, 12), (0.5, 6), (0.25, 3), (0.2, 2.4)])
def test_in_a_bowl_the_mean_is_its_formula(digits: Images, share: float, memory: float) -> None:
    """Of 12 steps: the plain mean over the first `memory` of them, then all of it fades by 1 - 1 / memory."""
    made = config(lr=0.7, momentum=0.0, weight_decay=0.0, warmup=0.0, epochs=4, batch=100, average=share)
    start = Point().weight.detach().numpy()
    left = np.cumprod(1 - rates(made, 12))
    path = Bowl.AIM.numpy() + left[:, None] * (start - Bowl.AIM.numpy())
    first = int(memory)
    fade = (1 - 1 / memory) ** np.arange(12 - first, -1, -1)
    wanted = fade[0] * path[:first].mean(axis=0) + (fade[1:, None] * path[first:]).sum(axis=0) / memory
    found = quietly(Point(), digits, Bowl(), made).weight.detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    assert np.abs(wanted - path[-1]).max() > 1e-3  # the last weights are others


def test_without_an_average_settings_and_state_are_what_they_were(digits: Images, tmp_path: Path) -> None:
    plain = settings(config(average=0.0), GAUSSIAN, digits)["config"]
    assert plain.keys() == vars(config()).keys() - {"average"}
    assert settings(config(), GAUSSIAN, digits)["config"] == plain | {"average": 0.3}
    quietly(network(), digits, GAUSSIAN, config(average=0.0, epochs=1), state=tmp_path / "state.pt")
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    assert kept.keys() == {"identity", "epoch", "history", "model", "optimizer"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_weights_themselves_go_on_as_if_nobody_had_looked(
    digits: Images, tmp_path: Path, name: str
) -> None:
    plain = quietly(network(), digits, OBJECTIVES[name], config(average=0.0))
    state, shown = tmp_path / "state.pt", []
    mean = quietly(
        network(), digits, OBJECTIVES[name], config(), state=state,
        validate=lambda model: (shown.append(tensors(model)), float(model.training))[1],
    )  # fmt: skip
    raw = torch.load(state, weights_only=True)
    assert equal(tensors(plain), [*raw["model"].values()])
    assert not equal(tensors(plain), tensors(mean))
    assert equal([weight.detach() for weight in mean.parameters()], raw["mean"])
    assert equal(shown[-1], tensors(mean))  # what is judged last is what comes back
    assert not any(part.training for part in mean.modules())
    assert [row["validation"] for row in raw["history"]] == [0.0] * 3  # in evaluation mode


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_an_interrupted_run_ends_in_bit_equal_means(
    digits: Images, tmp_path: Path, name: str, bfloat16: bool
) -> None:
    made, state = config(bfloat16=bfloat16), tmp_path / "state.pt"
    whole = quietly(network(), digits, OBJECTIVES[name], made)

    stopped = network()

    def stop(row: Any) -> None:
        assert not any(part.training for part in stopped.modules())  # it is shown as it would answer
        if row["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        quietly(stopped, digits, OBJECTIVES[name], made, state=state, after=stop)
    again = quietly(network(seed=5), digits, OBJECTIVES[name], made, state=state)  # all is in the state
    assert equal(tensors(whole), tensors(again))
    ended = quietly(network(seed=6), digits, OBJECTIVES[name], made, state=state)  # killed after the last
    assert equal(tensors(whole), tensors(ended))
    assert all(weight.dtype == torch.float32 for weight in ended.parameters())


def test_what_does_not_fit_is_refused(digits: Images, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    quietly(network(), digits, GAUSSIAN, config(epochs=1), state=state)
    for other in (0.0, 0.5):
        with pytest.raises(ValueError, match=r"state\.pt belongs to .*average.: 0\.3.*; remove it"):
            quietly(network(), digits, GAUSSIAN, config(epochs=1, average=other), state=state)
    with pytest.raises(ValueError, match=r"train: the average over a share 0\.05 of 15 steps is that of one"):
        quietly(network(), digits, GAUSSIAN, config(average=0.05))
    with pytest.raises(ValueError, match=r"TrainConfig: got average 1\.5; wanted a number >= 0 and <= 1"):
        config(average=1.5)


class Scaled(nn.Module):
    """Noisy pixels times a weight, into BatchNorm, and logits of them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Conv2d(1, 1, 1, bias=False)
        self.scale.weight.data.fill_(1.0)
        self.norm, self.last = nn.BatchNorm2d(1), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.scale(x)).flatten(1))
        return out


class Growing:
    """Makes the scale grow by the rate in each step, under noise of 0.5."""

    sigma = 0.5

    def __call__(self, model: Any, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return 0 * Gaussian(sigma=self.sigma)(model, x, y, generator) - model.scale.weight.sum()


def test_statistics_are_those_of_the_mean_weights_under_the_noise(digits: Images) -> None:
    """Of w (x + σ n) with the mean w: w E x and w² (Var x + σ²), within five standard errors."""
    made = config(lr=0.4, momentum=0.0, weight_decay=0.0, warmup=0.0, average=1.0, bfloat16=False)
    model: Any = quietly(Scaled(), digits, Growing(), made)
    pixels, _ = as_floats(digits, CPU)
    steps = rates(made, 15)
    w = 1 + np.cumsum(steps).mean()
    assert model.scale.weight.item() == pytest.approx(w, rel=1e-5)
    mean, spread, count = pixels.mean().item(), pixels.var().item() + 0.25, pixels.numel()
    close = 5 * np.sqrt(spread / count)
    assert abs(float(model.norm.running_mean) / w - mean) < close
    assert abs(float(model.norm.running_var) / w**2 - spread) < 5 * spread * np.sqrt(3 / count)
    assert abs((1 + steps.sum()) / w - 1) * mean > 2 * close  # those of the last weights would be seen
    assert model.norm.momentum == 0.1


def test_what_is_frozen_or_meets_no_batch_keeps_its_statistics() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.idle, self.used = (nn.BatchNorm1d(2) for _ in range(3))
            self.bare = nn.BatchNorm1d(2, track_running_stats=False)
            for norm in (self.frozen, self.idle, self.used):
                norm(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))

        def train(self, mode: bool = True) -> "Half":
            super().train(mode)
            self.frozen.eval()
            return self

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.bare(self.used(self.frozen(x)))
            return out

    half = Half()
    before = {name: value.clone() for name, value in half.state_dict().items()}
    x = 3 + torch.arange(16.0).view(4, 2, 2)
    with statistics_anew(half) as norms:
        assert norms
        for batch in x.unbind(1):
            half(batch)
    after = half.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "used.running_mean", "used.running_var", "used.num_batches_tracked"
    }  # fmt: skip
    seen = [half.frozen(batch).detach() for batch in x.unbind(1)]
    torch.testing.assert_close(after["used.running_mean"], torch.stack([s.mean(0) for s in seen]).mean(0))
    torch.testing.assert_close(after["used.running_var"], torch.stack([s.var(0) for s in seen]).mean(0))
    half.idle, half.used = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    for nothing in (half, nn.Linear(2, 2)):  # no batch needs to be shown
        with statistics_anew(nothing) as norms:
            assert not norms


def held_out_loss(model: nn.Module, test: Images) -> float:
    x, y = as_floats(test, CPU)
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def test_at_a_large_constant_rate_the_mean_is_better_and_its_statistics_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Held-out loss over five seeds: mean < last weights, and mean < mean with statistics of the last."""
    images, test = load_images("digits", "train"), load_images("digits", "test")

    def constant(optimizer: torch.optim.Optimizer, made: TrainConfig, epoch: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = made.lr

    monkeypatch.setattr(loop, "_set_rate", constant)
    losses: dict[str, list[float]] = {"last": [], "mean": [], "unmeasured": []}
    for seed in range(5):
        made, state = config(lr=0.8, batch=128, crop=0, seed=seed, bfloat16=False), tmp_path / f"{seed}.pt"
        mean = quietly(network(), images, Standard(), made, state=state)
        last = network().eval()
        last.load_state_dict(torch.load(state, weights_only=True)["model"])
        losses["mean"].append(held_out_loss(mean, test))
        losses["last"].append(held_out_loss(last, test))
        last.load_state_dict(dict(mean.named_parameters()), strict=False)
        losses["unmeasured"].append(held_out_loss(last, test))
    for other in ("last", "unmeasured"):
        assert all(mean < less for mean, less in zip(losses["mean"], losses[other], strict=True)), losses


def test_the_best_epoch_and_the_last_are_means(digits: Images, tmp_path: Path) -> None:
    path, values, seen = tmp_path / "m.safetensors", iter([0.1, 0.9, 0.2]), []

    def validate(model: nn.Module) -> float:
        seen.append(tensors(model))
        return next(values)

    how: dict[str, Any] = {"objective": GAUSSIAN, "device": CPU, "progress": False, "keep_best": True}
    model, info = train_checkpoint(path, network, digits, config=config(), validate=validate, **how)
    assert equal(tensors(model), seen[2])
    assert equal(tensors(load_checkpoint(best_path(path))[0]), seen[1])
    assert info["training"]["config"]["average"] == 0.3
    with pytest.raises(ValueError, match=r"was made with other settings \(config\)"):
        train_checkpoint(path, network, digits, config=config(average=0.0), validate=validate, **how)


class Both:
    """The loss of two networks under noise of their own."""

    sigmas = (0.1, 0.3)

    def __call__(self, model: Any, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        pairs = zip(model.members, self.sigmas, strict=True)
        losses = [Gaussian(sigma=sigma)(member, x, y, generator) for member, sigma in pairs]
        return losses[0] + losses[1]

    def identity(self) -> dict[str, Any]:
        return {"sigmas": self.sigmas}


def test_networks_that_are_trained_together_are_means_each(digits: Images, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    found = train_together(
        paths, network, digits, objective=Both(), config=config(), device=CPU, progress=False
    )
    pool = Pool([network(0), network(1)])
    quietly(pool, digits, Both(), config())
    assert equal([t for member in found for t in tensors(member)], tensors(pool))
    plain = quietly(Pool([network(0), network(1)]), digits, Both(), config(average=0.0))
    for member, other in zip(pool.members, plain.members, strict=True):
        assert not equal(tensors(member), tensors(other))


def test_the_mean_takes_no_step_back_at_the_first_step() -> None:
    """After step 1 it is those weights, whatever it began with."""
    model = nn.Linear(3, 2)
    mean = RunningMean(model, share=0.5, steps=10)
    with torch.no_grad():
        model.weight.fill_(7.0)
    mean.add(model, 1)
    assert equal(mean.weights, [model.weight.detach(), model.bias.detach()])
    with torch.no_grad():
        model.weight.fill_(9.0)
    mean.add(model, 2)
    assert torch.equal(mean.weights[0], torch.full((2, 3), 8.0))


@pytest.mark.parametrize(("command", "steps"), [("train", 10), ("part", 9)])
def test_the_commands_keep_the_mean_and_refuse_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, steps: int
) -> None:
    words = [command, "--data", "digits", "--device", "cpu", "--epochs", "1", "--folder", str(tmp_path)]
    own = {
        "train": ["--sigmas", "0.25"],
        "part": ["--arms", "AT", "--eps", "0.2", "--steps", "1", "--warmup", "0"],
    }
    words += own[command]
    for wrong, told in (
        ("2", "--average: 2: want a number >= 0 and <= 1"),
        ("some", "--average: invalid float value: 'some'"),
        ("0.001", f"train: the average over a share 0.001 of {steps} steps is that of one step"),
    ):
        assert main([*words, "--average", wrong]) == 2
        err = capsys.readouterr().err
        assert told in err
        assert [line for line in err.splitlines() if "error" in line] == [err.splitlines()[-1]]
    assert not [*tmp_path.glob("*.safetensors")]
    assert main([*words, "--average", "0.5"]) == 0
    made = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert made
    assert all(load_checkpoint(path)[1]["training"]["config"]["average"] == 0.5 for path in made)
    assert main(words) == 2
    assert "was made with other settings (config)" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == made


def test_without_batch_norm_nothing_is_measured(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Counting(Standard):
        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
            seen.append(len(x))
            return super().__call__(model, x, y, generator)

    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    quietly(plain, digits, Counting(), config())
    assert seen == [60] * 15
    seen.clear()
    monkeypatch.setattr(loop, "MEASURED", 100)
    quietly(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10)), digits, Counting(), config())
    assert seen == [60] * 17
