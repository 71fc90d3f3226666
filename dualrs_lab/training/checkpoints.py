"""Training into a checkpoint: found, taken up where it stopped, or made."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dualrs_lab.data.images import Images
from dualrs_lab.files import digest
from dualrs_lab.models.checkpoints import load_checkpoint, save_checkpoint
from dualrs_lab.models.networks import Classifier
from dualrs_lab.models.suited import trained_on
from dualrs_lab.runtime import describe
from dualrs_lab.store import making, plain
from dualrs_lab.training.config import TrainConfig
from dualrs_lab.training.easiness import Course
from dualrs_lab.training.loop import settings, train
from dualrs_lab.training.objectives import Warmup
from dualrs_lab.training.ranks import ALONE, Ranks

__all__ = ["best_path", "state_path", "train_checkpoint"]


def train_checkpoint(
    path: Path | str,
    make: Callable[[], Classifier],
    images: Images,
    *,
    objective: Course,
    config: TrainConfig,
    device: torch.device,
    start: Path | str | None = None,
    validate: Callable[[Classifier], float] | None = None,
    keep_best: bool = False,
    replace: bool = False,
    progress: bool = True,
    ranks: Ranks = ALONE,
) -> tuple[Classifier, dict[str, Any]]:
    """The checkpoint at `path`, trained now unless it is already there with the same settings.

    A network that was trained with other settings raises ValueError or, with `replace`, is kept under another
    name with a warning. Nothing is ever overwritten. Training begins with what `make` gives; where that comes
    from a checkpoint, name it as `start`, so that its content counts as a setting. With `keep_best`, the
    weights after the epoch with the highest `validate(model)` are at `best_path(path)`; epochs of a `Warmup`
    do not count. Raises ValueError if the network is there, but was trained without `keep_best`.

    Where `ranks` are several processes, all call this with the same arguments; rank 0 alone looks what is
    there, holds the lock, validates and writes. How many they are is no setting.

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
    with _making(files, made_by, replace, ranks) as there:
        if path in there and keep_best and best not in there:
            raise ValueError(
                f"train_checkpoint: {path} is there, but {best.name} is not: it was trained without "
                "keep_best; remove it to train it again"
            )
        if path in there:
            return load_checkpoint(path, device=device)
        state = state_path(path, made_by)
        model = make().to(device)
        info = {
            "data": told_of(model, images),
            "sigma": getattr(objective.then if isinstance(objective, Warmup) else objective, "sigma", 0.0),
            "training": made_by,
            "provenance": describe(device) | ({"processes": ranks.size} if ranks.size > 1 else {}),
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
            ranks=ranks,
        )
        told = {"history": history.to_dict("records"), "seconds": float(history["seconds"].sum())}
        if ranks.first:
            save_checkpoint(path, model, **info, **told)
            state.unlink(missing_ok=True)
        with ranks.in_turn():  # what rank 0 has written
            return load_checkpoint(path, device=device)


@contextmanager
def _making(
    files: list[Path], made_by: Mapping[str, Any], replace: bool, ranks: Ranks
) -> Iterator[list[Path]]:
    # as `store.making`, by rank 0 for all
    if ranks.first:
        with making("train_checkpoint", files, made_by, key="training", replace=replace) as there:
            ranks.agree(lambda: [files.index(file) for file in there])
            yield there
    else:
        yield [files[number] for number in ranks.agree(list[int])]


def told_of(model: Classifier, images: Images) -> dict[str, Any]:
    """What the json of a checkpoint says of its data; names are those of outputs, not of numbered images."""
    trained_on(model, images)
    known = model.made_for
    names = {"classes": list(known.classes)} if known and known.classes else {}
    return {"name": images.title, "split": images.split, "shape": list(images.shape), **names}


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
