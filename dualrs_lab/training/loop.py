"""One training loop; what is learned is the objective, a small frozen object.

All randomness is folded from (seed, epoch): an interrupted run goes on to the same weights, bit for bit on a
CPU. Objectives are in `training.objectives` and `training.adversarial`.
"""

import io
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dualrs_lab.data.images import Images
from dualrs_lab.files import digest, replace_bytes
from dualrs_lab.models.suited import trained_on
from dualrs_lab.runtime import make_generator, pick_dtype
from dualrs_lab.training.batches import augment, order_of, part_of, steps_of
from dualrs_lab.training.config import TrainConfig
from dualrs_lab.training.easiness import Course, EasyImages
from dualrs_lab.training.normalisation import RunningMean, statistics_anew
from dualrs_lab.training.objectives import Objective, Warmup
from dualrs_lab.training.ranks import ALONE, Ranks, Step

__all__ = ["settings", "train"]


MEASURED = 4096  # images; 1,000 to 10,000 are enough for BatchNorm (Wu and Johnson 2021, section 3.2)


Network = TypeVar("Network", bound=nn.Module)


def train(
    model: Network,
    images: Images,
    *,
    objective: Course,
    config: TrainConfig,
    state: Path | str | None = None,
    validate: Callable[[Network], float] | None = None,
    after: Callable[[Mapping[str, Any]], None] | None = None,
    progress: bool = True,
    ranks: Ranks = ALONE,
) -> pd.DataFrame:
    """Train `model` in place, on the device it lives on, and return the history: one row per epoch.

    With `state`, everything needed to go on is written there after each epoch, and read from there if it
    exists; the file is left for the caller to remove. `validate(model)` is recorded as the column
    `validation`; `after` is called with each row as it comes, while the model is that of its epoch.

    With `config.average`, what `validate` and `after` see, and what `model` is in the end, is the running
    mean of the weights (`RunningMean`) with BatchNorm measured anew under the objective. The weights
    themselves go on as if nobody had looked; `loss` is theirs, and by them an `EasyImages` chooses.

    Where `ranks` are several processes, all call this with the same arguments, and `config.batch` is what
    they share; rank 0 alone reads and writes `state`, and calls `validate` and `after`.

    Raises ValueError where `state` belongs to other settings or data, a batch is smaller than the number of
    processes, or an average is over one step alone, FloatingPointError where the loss is not finite.
    """
    if min(config.batch, len(images)) < ranks.size:
        raise ValueError(
            f"train: got batches of {min(config.batch, len(images))} for {ranks.size} processes; wanted an "
            "image for each at least: start fewer"
        )
    device = next(model.parameters()).device
    trained_on(model, images)
    model.to(memory_format=torch.channels_last)
    optimizer = _optimizer(model, config)
    steps = config.epochs * steps_of(images, config)
    mean = RunningMean(model, share=config.average, steps=steps) if config.average else None
    identity = settings(config, objective, images)
    done, history, weights = _restore(state, identity, model, optimizer, mean, ranks)
    images, seen = images.to(device), mean if validate or after else None
    bar = tqdm(range(done, config.epochs), desc="train", unit="epoch", disable=not (progress and ranks.first))
    with ranks.step(model) as step:
        for epoch in bar:
            start = time.perf_counter()
            if isinstance(objective, EasyImages) and objective.due(epoch):
                weights = objective.weigh(model, images, epoch=epoch, seed=config.seed, ranks=ranks)
            order = order_of(len(images), weights, config, epoch)
            loss = _train_epoch(
                model, step, images, order, _now(objective, epoch), config, optimizer, epoch, ranks, mean
            )
            row = {"epoch": epoch + 1, "loss": loss, "lr": optimizer.param_groups[0]["lr"]}
            with seen.within(model) if seen else nullcontext():
                if seen:
                    measure_statistics(model, images, weights, objective, config, epoch, ranks)
                if validate:
                    row["validation"] = ranks.agree(partial(validate, model.eval()))
                if after and ranks.first:
                    after(row)
            history.append(row | {"seconds": time.perf_counter() - start})
            bar.set_postfix({name: f"{value:.3g}" for name, value in row.items() if name != "epoch"})
            if ranks.first:
                _store(state, identity, model, optimizer, mean, epoch + 1, history, weights)
        if mean:
            mean.put(model)
            measure_statistics(model, images, weights, objective, config, config.epochs - 1, ranks)
    model.eval()
    return pd.DataFrame(history)


def _now(objective: Course, epoch: int) -> Objective:
    if isinstance(objective, EasyImages):
        return objective.objective
    return objective.at(epoch) if isinstance(objective, Warmup) else objective


def measure_statistics(
    model: nn.Module,
    images: Images,
    weights: Tensor | None,
    objective: Course,
    config: TrainConfig,
    epoch: int,
    ranks: Ranks,
) -> None:
    """BatchNorm measured on what the objective of this epoch shows it, of images without shift or mirror."""
    device = next(model.parameters()).device
    generator = make_generator(config.seed, "statistics", epoch, device=device)
    order = order_of(len(images), weights, config, epoch, "statistics")
    with statistics_anew(model) as norms:
        for number in range(min(steps_of(images, config), -(-MEASURED // config.batch)) if norms else 0):
            x, y, own, _ = part_of(images, order, number, config, generator, device, ranks)
            with _quick(device, config):
                _now(objective, epoch)(model, x.contiguous(memory_format=torch.channels_last), y, own)
    model.eval()


def _quick(device: torch.device, config: TrainConfig) -> torch.autocast:
    low = pick_dtype(device) == torch.bfloat16 if config.bfloat16 is None else config.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


def _train_epoch(
    model: nn.Module,
    step_of: Step,
    images: Images,
    order: Tensor,
    objective: Objective,
    config: TrainConfig,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    ranks: Ranks,
    mean: RunningMean | None,
) -> float:
    """One pass over the images in this order, of each batch this process's slice; returns the mean loss."""
    device = next(model.parameters()).device
    generator = make_generator(config.seed, "epoch", epoch, device=device)
    steps = steps_of(images, config)
    losses, known = torch.zeros(steps, device=device), 0
    model.train()
    for step in range(steps):
        x, y, own, count = part_of(images, order, step, config, generator, device, ranks)
        x = augment(x, config, own)
        _set_rate(optimizer, config, epoch + step / steps)
        with _quick(device, config):
            loss = step_of(objective, x, y, own, count)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if mean:
            mean.add(model, epoch * steps + step + 1)
        losses[step] = loss.detach()
        if device.type == "cpu" or step % 50 == 49 or step == steps - 1:
            ranks.total(losses[known : step + 1]).div_(ranks.size)
            known = step + 1
            _check_finite(losses[:known], model, epoch, optimizer)
    return float(losses.mean())


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


def settings(config: TrainConfig, objective: Course, images: Images) -> dict[str, Any]:
    """What the weights depend on: a state or checkpoint with other settings is not continued."""
    kept = asdict(config)
    if not config.average:  # as it was before there was one
        del kept["average"]
    return {"config": kept, "objective": _fingerprint(objective), "data": images.fingerprint()}


def _fingerprint(value: Any) -> Any:
    # objectives are nested objects, and may hold a table of labels, for which its digest stands
    if hasattr(value, "identity"):
        return {"name": type(value).__name__} | value.identity()
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
    mean: RunningMean | None,
    epoch: int,
    history: list[dict[str, float]],
    weights: Tensor | None,
) -> None:
    if state is None:
        return
    content = {"identity": json.dumps(identity, sort_keys=True), "epoch": epoch, "history": history}
    content |= {} if weights is None else {"weights": weights}
    content |= {"mean": mean.weights} if mean else {}
    content |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    replace_bytes(state, buffer.getvalue())


def _restore(
    state: Path | str | None,
    identity: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    mean: RunningMean | None,
    ranks: Ranks,
) -> tuple[int, list[dict[str, float]], Tensor | None]:
    """Epochs done so far, their history, weights of images; loads what trains if `state` exists.

    Rank 0 reads it for all, so that none begins with an older one that its disk still shows.
    """
    if state is None or not ranks.agree(lambda: Path(state).exists()):
        return 0, [], None
    device = next(model.parameters()).device
    data = io.BytesIO(ranks.share(Path(state).read_bytes() if ranks.first else b""))
    content = torch.load(data, map_location=device, weights_only=True)
    if content["identity"] != json.dumps(identity, sort_keys=True):
        raise ValueError(
            f"train: {state} belongs to {content['identity']}, wanted "
            f"{json.dumps(identity, sort_keys=True)}; "
            "remove it to start again"
        )
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    if mean:
        mean.weights = content["mean"]
    weights = content.get("weights")
    return content["epoch"], content["history"], None if weights is None else weights.cpu()
