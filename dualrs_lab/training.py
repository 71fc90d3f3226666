"""One training loop; what is learned is the objective, a small frozen object.

An objective maps (model, x, y, generator) to a scalar loss, x float `(B, C, H, W)` in [0, 1] and y int64
`(B,)`. It draws its own noise from the generator, so standard, Gaussian, consistency and adversarial training
share one loop. All randomness is folded from (seed, epoch): an interrupted run goes on to the same weights,
bit for bit on a CPU.
"""

import io
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol, TypeVar

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from dualrs_lab.data import Images, to_float
from dualrs_lab.files import digest, replace_bytes
from dualrs_lab.models import Classifier, load_checkpoint, make_model, save_checkpoint
from dualrs_lab.runtime import describe, make_generator, pick_dtype
from dualrs_lab.store import plain, take_up

__all__ = [
    "Consistency",
    "Gaussian",
    "Objective",
    "Standard",
    "TrainConfig",
    "Warmup",
    "accuracy",
    "best_path",
    "channel_statistics",
    "for_noise",
    "new_network",
    "recipe",
    "settings",
    "state_path",
    "train",
    "train_checkpoint",
]

Network = TypeVar("Network", bound=nn.Module)


class Objective(Protocol):
    """The loss of a batch.

    Frozen dataclasses, so that their fields can be recorded beside the weights.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Cross-entropy on the images themselves."""

    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(x).float(), y, label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Cross-entropy on images with Gaussian noise of standard deviation `sigma` (Cohen et al. 2019)."""

    sigma: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(_noisy(x, self.sigma, generator)).float(), y)


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Gaussian training plus consistency of the predictions across noise (Jeong & Shin 2020, equation 8).

    CE + strength * mean_i KL(mean || f_i) + entropy * H(mean) over `draws` noisy copies; the mean of the
    predictions is taken in the log domain, where a probability of 0 gives no NaN gradient.
    """

    sigma: float
    strength: float = 10.0
    entropy: float = 0.5
    draws: int = 2

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        logits = model(_noisy(x.repeat(self.draws, 1, 1, 1), self.sigma, generator)).float()
        log_p = F.log_softmax(logits, dim=1).view(self.draws, len(x), -1)
        log_mean = torch.logsumexp(log_p, dim=0) - math.log(self.draws)
        mean = log_mean.exp()
        divergence = (mean * (log_mean - log_p)).sum(-1).mean()
        spread = -(mean * log_mean).sum(-1).mean()
        return (
            F.cross_entropy(logits, y.repeat(self.draws)) + self.strength * divergence + self.entropy * spread
        )


def for_noise(sigma: float, *, consistency: float = 0.0) -> Standard | Gaussian | Consistency:
    """What makes a network ready for Gaussian noise `sigma`; 0 is none. `consistency` is its strength."""
    if sigma == 0:
        return Standard()
    return Consistency(sigma=sigma, strength=consistency) if consistency else Gaussian(sigma=sigma)


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """`first` for so many epochs, then `then`, on one learning-rate schedule."""

    epochs: int
    first: Objective
    then: Objective

    def at(self, epoch: int) -> Objective:
        """The objective of an epoch, counted from 0."""
        return self.first if epoch < self.epochs else self.then


def _noisy(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    return x + sigma * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation and augmentation; the defaults suit the fast network on 32x32 photographs."""

    epochs: int
    seed: int
    batch: int = 512
    lr: float = 0.4  # the peak; SGD with Nesterov momentum
    momentum: float = 0.9
    weight_decay: float = 5e-4  # on matrices and kernels, not on biases and BatchNorm
    warmup: float = 0.2  # share of the steps in which the rate rises linearly; then it falls as a cosine
    crop: int = 4  # pixels of reflected border for random crops; 0 for none
    flip: bool = True  # mirror half the images: right for photographs, wrong for digits
    bfloat16: bool | None = None  # autocast; None: where the hardware is faster with it

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.lr <= 0 or not 0 <= self.warmup < 1 or self.crop < 0:
            raise ValueError(
                "TrainConfig: wanted epochs >= 1, batch >= 2, lr > 0, warmup in [0, 1), crop >= 0; got "
                f"{self}"
            )


def recipe(images: Images, *, epochs: int, seed: int) -> TrainConfig:
    """Sensible settings for these images: no shifts of tiny ones, mirrors for photographs only."""
    tiny = max(images.shape[1:]) <= 16
    mirror = images.name.partition(":")[0] not in ("digits", "svhn", "fashion_mnist")
    if tiny:
        return TrainConfig(epochs=epochs, seed=seed, batch=128, lr=0.1, crop=0, flip=mirror)
    return TrainConfig(epochs=epochs, seed=seed, flip=mirror)


def train(
    model: Network,
    images: Images,
    *,
    objective: Objective | Warmup,
    config: TrainConfig,
    state: Path | str | None = None,
    validate: Callable[[Network], float] | None = None,
    after: Callable[[Mapping[str, Any]], None] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train `model` in place, on the device it lives on, and return the history: one row per epoch.

    With `state`, everything needed to go on is written there after each epoch, and read from there if it
    exists; the file is left for the caller to remove. `validate(model)` is recorded as the column
    `validation`; `after` is called with each row as it comes, while the model is that of its epoch.

    Raises ValueError where `state` belongs to other settings or data, FloatingPointError where the loss is
    not finite.
    """
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last)
    optimizer = _optimizer(model, config)
    identity = settings(config, objective, images)
    done, history = _restore(state, identity, model, optimizer)
    images = images.to(device)
    bar = tqdm(range(done, config.epochs), desc="train", unit="epoch", disable=not progress)
    for epoch in bar:
        start = time.perf_counter()
        now = objective.at(epoch) if isinstance(objective, Warmup) else objective
        loss = _train_epoch(model, images, now, config, optimizer, epoch)
        row = {"epoch": epoch + 1, "loss": loss, "lr": optimizer.param_groups[0]["lr"]}
        row |= {"validation": validate(model.eval())} if validate else {}
        if after:
            after(row)
        history.append(row | {"seconds": time.perf_counter() - start})
        bar.set_postfix({name: f"{value:.3g}" for name, value in row.items() if name != "epoch"})
        _store(state, identity, model, optimizer, epoch + 1, history)
    model.eval()
    return pd.DataFrame(history)


def train_checkpoint(
    path: Path | str,
    make: Callable[[], Classifier],
    images: Images,
    *,
    objective: Objective | Warmup,
    config: TrainConfig,
    device: torch.device,
    start: Path | str | None = None,
    validate: Callable[[Classifier], float] | None = None,
    keep_best: bool = False,
    replace: bool = False,
    progress: bool = True,
) -> tuple[Classifier, dict[str, Any]]:
    """The checkpoint at `path`, trained now unless it is already there with the same settings.

    A network that was trained with other settings raises ValueError or, with `replace`, is kept under another
    name with a warning. Nothing is ever overwritten. Training begins with what `make` gives; where that comes
    from a checkpoint, name it as `start`, so that its content counts as a setting. With `keep_best`, the
    weights after the epoch with the highest `validate(model)` are at `best_path(path)`; epochs of a `Warmup`
    do not count. Raises ValueError if the network is there, but was trained without `keep_best`.

    Returns the network of the last epoch in evaluation mode and its info: `sigma`, `training`, `history`,
    `seconds`, `provenance`.
    """
    path, best = Path(path), best_path(path)
    if keep_best and validate is None:
        raise ValueError(
            "train_checkpoint: keep_best wants validate(model), by which the best epoch is chosen"
        )
    made_by = plain(settings(config, objective, images) | ({"start": digest(Path(start))} if start else {}))
    files = [path, best] if keep_best else [path]
    there = take_up("train_checkpoint", files, made_by, key="training", replace=replace)
    if path in there and keep_best and best not in there:
        raise ValueError(
            f"train_checkpoint: {path} is there, but {best.name} is not: it was trained without keep_best; "
            "remove it to train it again"
        )
    if path in there:
        return load_checkpoint(path, device=device)
    state = state_path(path, made_by)
    model = make().to(device)
    info = {
        "data": {
            "name": images.title,
            "split": images.split,
            "classes": list(images.classes),
            "shape": list(images.shape),
        },
        "sigma": getattr(objective.then if isinstance(objective, Warmup) else objective, "sigma", 0.0),
        "training": made_by,
        "provenance": describe(device),
    }

    warm = objective.epochs if isinstance(objective, Warmup) else 0

    def keep(row: Mapping[str, Any]) -> None:
        if row["epoch"] > warm and row["validation"] > _best_value(best):
            save_checkpoint(best, model, **info, validation=row["validation"])

    history = train(
        model,
        images,
        objective=objective,
        config=config,
        state=state,
        validate=validate,
        after=keep if keep_best else None,
        progress=progress,
    )
    seconds = float(history["seconds"].sum())
    save_checkpoint(path, model, **info, history=history.to_dict("records"), seconds=seconds)
    state.unlink(missing_ok=True)
    return load_checkpoint(path, device=device)


def state_path(path: Path, made_by: Mapping[str, Any]) -> Path:
    """Where the state of training of the network at `path` is kept until it is done, by its settings."""
    return path.with_suffix(f".{digest(json.dumps(made_by))[:8]}.state.pt")


def best_path(path: Path | str) -> Path:
    """Where `train_checkpoint(path, keep_best=True)` keeps the best epoch."""
    return Path(path).with_name(f"{Path(path).stem}_best{Path(path).suffix}")


def _best_value(path: Path) -> float:
    # read from the file, so that a resumed run knows it too
    return (
        float(json.loads(path.with_suffix(".json").read_text())["validation"]) if path.exists() else -math.inf
    )


def channel_statistics(images: Images, *, most: int = 10_000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel in [0, 1] units, over about `most` images, to 4 digits."""
    pixels, _ = images.batch(torch.arange(0, len(images), max(1, len(images) // most)))
    x = to_float(pixels)
    std, mean = torch.std_mean(x, dim=(0, 2, 3))
    return [round(float(m), 4) for m in mean], [round(float(s), 4) for s in std]


def new_network(name: str, images: Images, *, seed: int) -> Classifier:
    """A fresh network of this name for such images: their classes and channels, their statistics inside."""
    mean, std = channel_statistics(images)
    return make_model(
        name, classes=len(images.classes), channels=images.shape[0], mean=mean, std=std, seed=seed
    )


@torch.no_grad()
def accuracy(model: nn.Module, images: Images, *, sigma: float = 0.0, seed: int, batch: int = 1000) -> float:
    """Share of `images` that are answered correctly under one draw of Gaussian noise each, or as they are."""
    device = next(model.parameters()).device
    right = 0
    for number, first in enumerate(range(0, len(images), batch)):
        pixels, labels = images.batch(torch.arange(first, min(first + batch, len(images))))
        x = to_float(pixels.to(device))
        if sigma:
            x = _noisy(x, sigma, make_generator(seed, "accuracy", number, device=device))
        with torch.autocast(device.type, torch.bfloat16, enabled=pick_dtype(device) == torch.bfloat16):
            right += int(
                (model(x.contiguous(memory_format=torch.channels_last)).argmax(1).cpu() == labels.cpu()).sum()
            )
    return right / len(images)


def _train_epoch(
    model: nn.Module,
    images: Images,
    objective: Objective,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    epoch: int,
) -> float:
    """One pass over the images in a fresh order; returns the mean loss."""
    device = next(model.parameters()).device
    order = torch.randperm(len(images), generator=make_generator(config.seed, "order", epoch))
    generator = make_generator(config.seed, "epoch", epoch, device=device)
    steps = max(1, len(images) // config.batch)
    bfloat16 = pick_dtype(device) == torch.bfloat16 if config.bfloat16 is None else config.bfloat16
    losses = torch.zeros(steps, device=device)
    model.train()
    for step in range(steps):
        pixels, labels = images.batch(order[step * config.batch : (step + 1) * config.batch])
        x = _augment(to_float(pixels.to(device)), config, generator)
        _set_rate(optimizer, config, epoch + step / steps)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            loss = objective(model, x, labels.to(device), generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses[step] = loss.detach()
        if device.type == "cpu" or step % 50 == 49 or step == steps - 1:
            _check_finite(losses[: step + 1], model, epoch, optimizer)
    return float(losses.mean())


def _augment(x: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Random mirror and shift of every image of a batch `(B, C, H, W)` at once."""
    count, _, height, width = x.shape
    device = x.device
    if config.flip:
        mirror = torch.rand(count, generator=generator, device=device) < 0.5
        x = torch.where(mirror.view(-1, 1, 1, 1), x.flip(3), x)
    if config.crop:
        shift = torch.randint(2 * config.crop + 1, (2, count, 1), generator=generator, device=device)
        rows = shift[0] + torch.arange(height, device=device)
        columns = shift[1] + torch.arange(width, device=device)
        x = F.pad(x, (config.crop,) * 4, mode="reflect").permute(0, 2, 3, 1)
        image = torch.arange(count, device=device).view(-1, 1, 1)
        x = x[image, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def _set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, epoch: float) -> None:
    done = epoch / config.epochs
    rising = done / config.warmup if config.warmup else 1.0
    falling = 0.5 * (1 + math.cos(math.pi * (done - config.warmup) / (1 - config.warmup)))
    for group in optimizer.param_groups:
        group["lr"] = config.lr * (rising if done < config.warmup else falling)


def _check_finite(losses: Tensor, model: nn.Module, epoch: int, optimizer: torch.optim.Optimizer) -> None:
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        broken = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
        raise FloatingPointError(
            f"train: the loss is {losses[bad[0]].item()} at epoch {epoch + 1}, step {int(bad[0]) + 1}, "
            f"learning rate {optimizer.param_groups[0]['lr']:.3g}; first parameter that is not finite: "
            f"{broken[0] if broken else 'none'}. Lower the learning rate or check the data"
        )


def settings(config: TrainConfig, objective: Objective | Warmup, images: Images) -> dict[str, Any]:
    """What the weights depend on: a state or checkpoint with other settings is not continued."""
    return {"config": asdict(config), "objective": _fingerprint(objective), "data": images.fingerprint()}


def _fingerprint(value: Any) -> Any:
    # objectives are nested objects, and may hold a table of labels, for which its digest stands
    if isinstance(value, Tensor):
        kind = f"{value.dtype} {tuple(value.shape)}"
        return digest(kind, value.detach().cpu().contiguous().numpy().tobytes())
    if isinstance(value, FunctionType):
        return value.__qualname__
    if hasattr(value, "__dict__"):
        return {"name": type(value).__name__} | {
            name: _fingerprint(part) for name, part in vars(value).items()
        }
    return value


def _store(
    state: Path | str | None,
    identity: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    history: list[dict[str, float]],
) -> None:
    if state is None:
        return
    content = {"identity": json.dumps(identity, sort_keys=True), "epoch": epoch, "history": history}
    content |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    replace_bytes(state, buffer.getvalue())


def _restore(
    state: Path | str | None, identity: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]]]:
    """Epochs done so far and their history; loads model and optimiser where `state` exists."""
    if state is None or not Path(state).exists():
        return 0, []
    device = next(model.parameters()).device
    content = torch.load(state, map_location=device, weights_only=True)
    if content["identity"] != json.dumps(identity, sort_keys=True):
        raise ValueError(
            f"train: {state} belongs to {content['identity']}, wanted "
            f"{json.dumps(identity, sort_keys=True)}; "
            "remove it to start again"
        )
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    return content["epoch"], content["history"]
