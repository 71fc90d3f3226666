"""Training learns, goes on bit for bit after a kill, and says where it broke."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from dualrs_lab.data import Images, load_images, to_float
from dualrs_lab.models import load_checkpoint, make_model
from dualrs_lab.runtime import make_generator, pick_device
from dualrs_lab.training import (
    Consistency,
    Gaussian,
    Standard,
    TrainConfig,
    Warmup,
    accuracy,
    best_path,
    channel_statistics,
    for_noise,
    new_network,
    recipe,
    train,
    train_checkpoint,
)
from dualrs_lab.training.batches import augment
from dualrs_lab.training.loop import _optimizer, _set_rate


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train").select(range(400))


def network(seed: int = 0):
    return make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=seed)


def config(**changes) -> TrainConfig:
    return TrainConfig(
        **{"epochs": 3, "seed": 0, "batch": 64, "lr": 0.1, "crop": 1, "flip": False, **changes}
    )


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_objective_for_a_noise_level_is_none_gaussian_or_consistent() -> None:
    assert for_noise(0) == for_noise(0, consistency=10.0) == Standard()
    assert for_noise(0.25) == Gaussian(sigma=0.25)
    assert for_noise(0.25, consistency=5.0) == Consistency(sigma=0.25, strength=5.0)


def test_a_new_network_fits_its_images_and_knows_their_statistics(digits: Images) -> None:
    model, same = (new_network("digits_narrow", digits, seed=3) for _ in range(2))
    mean, std = channel_statistics(digits)
    made = make_model("digits_narrow", classes=10, channels=1, mean=mean, std=std, seed=3)
    assert equal(weights(model), weights(made))
    assert equal(weights(model), weights(same))


def test_gaussian_training_learns_digits_under_noise() -> None:
    # Untrained 10 %; this schedule reaches about 95 % in clean and 90 % in noisy accuracy.
    images, test = load_images("digits", "train"), load_images("digits", "test")
    model = network()
    history = train(model, images, objective=Gaussian(sigma=0.25), config=config(epochs=8), progress=False)
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]
    assert accuracy(model, test, seed=0) > 0.9
    assert accuracy(model, test, sigma=0.25, seed=0) > 0.8
    assert not model.training


def test_same_seed_same_weights_other_seed_other_weights(digits: Images) -> None:
    found = []
    for seed in (0, 0, 1):
        model = network()
        train(model, digits, objective=Gaussian(sigma=0.25), config=config(seed=seed), progress=False)
        found.append(weights(model))
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


class Watching:
    """The plain loss; keeps the labels of every batch and a draw of its generator."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], float]] = []

    def __call__(self, model, x, y, generator) -> torch.Tensor:
        self.seen.append((y.tolist(), float(torch.rand(1, generator=generator))))
        return Standard()(model, x, y, generator)


def test_every_epoch_has_an_order_and_noise_of_its_own(digits: Images) -> None:
    objective = Watching()
    train(network(), digits.select(range(128)), objective=objective, config=config(), progress=False)
    orders, draws = zip(*objective.seen, strict=True)
    assert len(orders) == 3 * 2
    assert len({tuple(order) for order in orders}) == len(set(draws)) == 6


@pytest.mark.parametrize("objective", [Standard(), Gaussian(sigma=0.25), Consistency(sigma=0.25)])
def test_interrupted_training_ends_in_bit_equal_weights(tmp_path: Path, digits: Images, objective) -> None:
    whole = network()
    reference = train(whole, digits, objective=objective, config=config(), progress=False)

    class Interrupt(Exception):
        pass

    def stop_in_epoch_2(model):
        stop_in_epoch_2.calls += 1
        if stop_in_epoch_2.calls == 2:
            raise Interrupt
        return 0.0

    stop_in_epoch_2.calls = 0
    state = tmp_path / "state.pt"
    settings = {"objective": objective, "config": config(), "state": state, "progress": False}
    with pytest.raises(Interrupt):
        train(network(), digits, validate=stop_in_epoch_2, **settings)
    resumed = network(seed=5)  # everything comes from the state
    history = train(resumed, digits, **settings)
    assert equal(weights(whole), weights(resumed))
    assert history["loss"].tolist() == reference["loss"].tolist()


SCRIPT = """
import sys
from pathlib import Path
import torch
from dualrs_lab.data import load_images
from dualrs_lab.models import load_checkpoint, make_model
from dualrs_lab.training import Gaussian, TrainConfig, train_checkpoint
for path in sys.argv[1:]:
    train_checkpoint(
        Path(path),
        lambda: make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0),
        load_images("digits", "train").select(range(400)),
        objective=Gaussian(sigma=0.25),
        device=torch.device("cpu"),
        config=TrainConfig(epochs=12, seed=0, batch=64, lr=0.1, crop=1, flip=False),
        progress=False,
    )
"""


def states(folder: Path) -> list[Path]:
    return list(folder.glob("*.state.pt"))


def test_kill_minus_nine_in_training_ends_in_bit_equal_weights(tmp_path: Path, digits: Images) -> None:
    path = tmp_path / "m.safetensors"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)])
    while not states(tmp_path) and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert states(tmp_path)
    assert not path.exists()
    undisturbed = tmp_path / "undisturbed.safetensors"
    subprocess.run([sys.executable, "-c", SCRIPT, str(path), str(undisturbed)], check=True)
    assert not states(tmp_path)
    assert path.read_bytes() == undisturbed.read_bytes()


def test_state_of_other_settings_is_refused(tmp_path: Path, digits: Images) -> None:
    state = tmp_path / "state.pt"
    settings = {"config": config(epochs=1), "state": state, "progress": False}
    train(network(), digits, objective=Standard(), **settings)
    with pytest.raises(ValueError, match=r"state\.pt belongs to .*Standard.* wanted .*Gaussian"):
        train(network(), digits, objective=Gaussian(sigma=0.1), **settings)


def test_checkpoint_is_trained_once_and_other_settings_do_not_overwrite_it(
    tmp_path: Path, digits: Images
) -> None:
    path = tmp_path / "m.safetensors"
    settings = {"objective": Gaussian(sigma=0.25), "device": torch.device("cpu"), "progress": False}
    model, info = train_checkpoint(path, network, digits, config=config(), **settings)
    before = path.stat().st_mtime_ns
    again, _ = train_checkpoint(path, network, digits, config=config(), **settings)
    assert path.stat().st_mtime_ns == before
    assert equal(weights(model), weights(again))
    assert info["sigma"] == 0.25
    assert len(info["history"]) == 3
    with pytest.raises(ValueError, match=r"m\.safetensors was made with other settings \(config\)"):
        train_checkpoint(path, network, digits, config=config(epochs=4), **settings)
    assert path.stat().st_mtime_ns == before
    with pytest.warns(UserWarning, match=r"m\.safetensors was made with other settings; it is now m_old1"):
        _, other = train_checkpoint(path, network, digits, config=config(epochs=4), replace=True, **settings)
    assert len(other["history"]) == 4
    assert (tmp_path / "m_old1.safetensors").stat().st_mtime_ns == before


def test_a_warmup_lasts_as_many_epochs_as_it_says() -> None:
    first, then = Standard(), Gaussian(sigma=0.25)
    warm = Warmup(epochs=2, first=first, then=then)
    assert [warm.at(epoch) for epoch in range(4)] == [first, first, then, then]


def test_the_best_epoch_is_none_of_the_warmup(digits: Images, tmp_path: Path) -> None:
    path, values = tmp_path / "m.safetensors", iter([0.9, 0.8, 0.3, 0.4])
    settings = {
        "objective": Warmup(epochs=2, first=Standard(), then=Gaussian(sigma=0.25)),
        "device": torch.device("cpu"),
        "progress": False,
        "validate": lambda model: next(values),
    }
    _, info = train_checkpoint(path, network, digits, config=config(epochs=4), keep_best=True, **settings)
    assert load_checkpoint(best_path(path))[1]["validation"] == 0.4
    assert info["sigma"] == 0.25  # of what comes after the warm-up
    best_path(path).unlink()
    with pytest.raises(ValueError, match=r"m\.safetensors is there, but m_best\.safetensors is not"):
        train_checkpoint(path, network, digits, config=config(epochs=4), keep_best=True, **settings)


def test_nan_stops_with_the_place(digits: Images) -> None:
    with pytest.raises(
        FloatingPointError, match=r"epoch \d, step \d+, learning rate .* Lower the learning rate"
    ):
        train(network(), digits, objective=Standard(), config=config(lr=1e6, warmup=0.0), progress=False)


def test_consistency_is_zero_extra_when_predictions_agree() -> None:
    # Equal logits in all draws: KL = 0, entropy = that of the prediction; written out independently here.
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    x, y = torch.zeros(1, 1, 2, 2), torch.tensor([0])
    loss = Consistency(sigma=0.5, strength=7.0, entropy=0.25)(
        lambda z: logits.expand(len(z), -1), x, y, make_generator(0)
    )
    p = torch.softmax(logits[0], 0)
    assert float(loss) == pytest.approx(
        float(F.cross_entropy(logits, y) - 0.25 * (p * p.log()).sum()), rel=1e-6
    )


def test_consistency_gradient_survives_certain_predictions() -> None:
    logits = torch.tensor([[150.0, -150.0], [-150.0, 150.0]], requires_grad=True)
    loss = Consistency(sigma=0.5)(
        lambda z: logits, torch.zeros(1, 1, 2, 2), torch.tensor([0]), make_generator(0)
    )
    loss.backward()
    assert torch.isfinite(logits.grad).all()


def test_augmentation_shifts_and_mirrors_whole_images() -> None:
    x = torch.rand(200, 2, 6, 6, generator=make_generator(0))
    out = augment(x, config(crop=1, flip=True), make_generator(1))
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    flipped = F.pad(x.flip(3), (1, 1, 1, 1), mode="reflect")
    seen = set()
    for i in range(len(x)):
        options = {
            (name, r, c): source[i, :, r : r + 6, c : c + 6]
            for name, source in (("as is", padded), ("mirrored", flipped))
            for r in range(3)
            for c in range(3)
        }
        matches = [key for key, image in options.items() if torch.equal(image, out[i])]
        assert matches
        seen.add(matches[0])
    assert len(seen) == 18


def test_the_rate_rises_to_its_peak_and_falls_to_zero(digits: Images) -> None:
    made = config(epochs=5, lr=0.4, warmup=0.2)
    optimizer = _optimizer(network(), made)

    def rates(epoch: float) -> list[float]:
        _set_rate(optimizer, made, epoch)
        return [group["lr"] for group in optimizer.param_groups]

    for epoch, rate in ((0, 0.0), (0.5, 0.2), (1, 0.4), (3, 0.2), (5, 0.0)):
        assert rates(epoch) == pytest.approx([rate] * 2, abs=1e-12)
    made = config(epochs=2, warmup=0)
    history = train(network(), digits, objective=Standard(), config=made, progress=False)
    ends = (np.arange(2) + 5 / 6) / 2  # the last of six steps of each epoch
    assert history["lr"].tolist() == pytest.approx(0.05 * (1 + np.cos(np.pi * ends)))


class Nothing:
    """Whatever the weights, the loss is 0."""

    def __call__(self, model, x, y, generator) -> torch.Tensor:
        return 0 * model(x).sum()


def test_weights_decay_but_no_bias_and_no_batchnorm(digits: Images) -> None:
    """Where nothing is to be learned, a step multiplies matrices and kernels by 1 - rate * decay."""
    model = network()
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    made = config(epochs=1, momentum=0.0, warmup=0.0, lr=0.1, weight_decay=0.5)
    train(model, digits.select(range(64)), objective=Nothing(), config=made, progress=False)
    kinds = torch.nn.Conv2d | torch.nn.Linear
    decaying = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, kinds)}
    assert 0 < len(decaying) < len(before)
    for name, tensor in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name in decaying else 1
        torch.testing.assert_close(tensor.detach(), factor * before[name])


def test_accuracy_under_noise_is_that_of_the_closed_form() -> None:
    """A half-space one deviation away: Phi(1), within five standard errors of 4000 draws."""
    images = Images(
        pixels=torch.full((4000, 1, 1, 2), 128, dtype=torch.uint8),
        labels=torch.zeros(4000, dtype=torch.int64),
        classes=("right", "left"),
        name="half",
        split="test",
    )
    plane = torch.nn.Linear(2, 2)
    plane.weight.data, plane.bias.data = torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([-0.25, 0.25])
    model, distance = torch.nn.Sequential(torch.nn.Flatten(), plane), 128 / 255 - 0.25
    for sigma in (distance, 2 * distance):
        p = stats.norm.cdf(distance / sigma)
        error = np.sqrt(p * (1 - p) / 4000)
        assert abs(accuracy(model, images, sigma=sigma, seed=0) - p) < 5 * error
        assert abs(accuracy(model, images, sigma=sigma / 2, seed=0) - p) > 5 * error  # negative control
    assert accuracy(model, images, seed=0) == 1


def test_channel_statistics_are_those_of_the_pixels(digits: Images) -> None:
    mean, std = channel_statistics(digits)
    x = to_float(digits.pixels)
    assert mean == [pytest.approx(float(x.mean()), abs=1e-4)]
    assert std == [pytest.approx(float(x.std()), abs=1e-4)]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="TrainConfig: got epochs 0; wanted a whole number >= 1"):
        config(epochs=0)
    with pytest.raises(TypeError, match="seed"):
        TrainConfig(epochs=1)


def some_images(count: int, side: int, name: str = "folder:photos") -> Images:
    pixels, labels = (
        torch.empty(count, 3, side, side, dtype=torch.uint8),
        torch.zeros(count, dtype=torch.long),
    )
    return Images(pixels=pixels, labels=labels, classes=("a", "b"), name=name, split="train")


def test_a_recipe_goes_by_the_size_and_the_number_of_images() -> None:
    cifar = recipe(some_images(50_000, 32), epochs=2, seed=0)
    assert cifar == TrainConfig(epochs=2, seed=0)  # what every shipped network was trained with
    few = recipe(some_images(640, 32), epochs=2, seed=0)
    assert (few.batch, few.lr) == (40, pytest.approx(0.4 * 40 / 512))
    fewest = recipe(some_images(20, 64), epochs=2, seed=0)
    assert fewest.batch == 16
    large = recipe(some_images(8192, 65), epochs=2, seed=0)
    assert (large.batch, large.lr, large.weight_decay) == (256, 0.1, 1e-4)
    assert not recipe(some_images(640, 32, "svhn"), epochs=2, seed=0).flip


def test_statistics_of_large_images_are_of_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    images = some_images(400, 128)
    images.pixels.copy_(
        torch.randint(256, images.pixels.shape, generator=make_generator(0), dtype=torch.uint8)
    )
    batch = Images.batch
    monkeypatch.setattr(Images, "batch", lambda self, at: (asked.append(len(at)), batch(self, at))[1])
    mean, std = channel_statistics(images, most=400)
    assert asked == [100]  # of four times as many numbers each
    assert mean == pytest.approx([0.5] * 3, abs=0.01)
    assert std == pytest.approx([0.289] * 3, abs=0.01)


@pytest.mark.slow
def test_the_fast_network_reaches_ninety_percent_on_cifar_in_ten_epochs() -> None:
    """Minutes on a GPU, about half an hour on two CPU cores. DUALRS_TEST_CIFAR names the data set."""
    name = os.environ.get("DUALRS_TEST_CIFAR", "cifar10")
    try:
        images, test = load_images(name, "train"), load_images(name, "test")
    except (ValueError, FileNotFoundError) as error:
        pytest.skip(f"no CIFAR-10 here, set DUALRS_TEST_CIFAR to cifar10 or folder:PATH: {error}")
    mean, std = channel_statistics(images)
    model = make_model("fast", classes=10, channels=3, mean=mean, std=std, seed=0).to(pick_device())
    train(model, images, objective=Standard(label_smoothing=0.2), config=recipe(images, epochs=10, seed=0))
    assert accuracy(model, test, seed=0) >= 0.9


def test_best_and_last_epoch_are_kept_also_over_a_kill(tmp_path: Path, digits: Images) -> None:
    values = iter([0.3, 0.9, 0.5, 0.9])
    snapshots: list[list[torch.Tensor]] = []

    class Kill(Exception):
        pass

    def validate(model) -> float:
        snapshots.append(weights(model))
        if len(snapshots) == 3:
            raise Kill
        return next(values)

    path = tmp_path / "m.safetensors"
    settings = {
        "objective": Standard(), "config": config(), "device": torch.device("cpu"), "progress": False,
        "keep_best": True,
    }  # fmt: skip
    with pytest.raises(Kill):
        train_checkpoint(path, network, digits, validate=validate, **settings)
    assert not path.exists()
    best, _ = load_checkpoint(best_path(path))
    assert equal(weights(best), snapshots[1])
    last, info = train_checkpoint(path, network, digits, validate=validate, **settings)
    assert [row["validation"] for row in info["history"]] == [0.3, 0.9, 0.5]
    best, kept = load_checkpoint(best_path(path))
    assert kept["validation"] == 0.9
    assert kept["training"] == info["training"]
    assert equal(weights(best), snapshots[1])
    assert equal(weights(last), snapshots[3])
    assert not equal(weights(last), weights(best))
    with pytest.raises(ValueError, match="keep_best wants validate"):
        train_checkpoint(tmp_path / "n.safetensors", network, digits, **settings)


def test_the_start_is_a_setting(tmp_path: Path, digits: Images) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    settings = {"objective": Standard(), "device": torch.device("cpu"), "progress": False}
    train_checkpoint(first, network, digits, config=config(epochs=1), **settings)

    def tuned(start: Path):
        return train_checkpoint(
            second,
            lambda: load_checkpoint(start)[0],
            digits,
            config=config(epochs=1, lr=0.01),
            start=start,
            **settings,
        )

    _, info = tuned(first)
    assert info["training"]["start"]
    before = second.stat().st_mtime_ns
    tuned(first)
    assert second.stat().st_mtime_ns == before
    other = tmp_path / "c.safetensors"
    train_checkpoint(other, lambda: network(3), digits, config=config(epochs=1, seed=1), **settings)
    with pytest.raises(ValueError, match=r"was made with other settings \(start\)"):
        tuned(other)
