"""Training into a checkpoint: found, taken up where it stopped, or made; and the mean of several."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dualrs_lab.data.images import Images
from dualrs_lab.files import digest
from dualrs_lab.models.checkpoints import load_checkpoint, save_checkpoint
from dualrs_lab.models.networks import Classifier
from dualrs_lab.models.suited import suited, trained_on
from dualrs_lab.runtime import describe
from dualrs_lab.store import making, plain
from dualrs_lab.training.config import TrainConfig, recipe
from dualrs_lab.training.easiness import Course
from dualrs_lab.training.loop import measure_statistics, settings, train
from dualrs_lab.training.normalisation import put_mean
from dualrs_lab.training.objectives import Gaussian, Warmup
from dualrs_lab.training.ranks import ALONE, Ranks

__all__ = ["best_path", "soup", "soup_checkpoint", "state_path", "train_checkpoint"]


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


def soup(
    networks: Sequence[Classifier],
    images: Images,
    *,
    sigma: float,
    shares: Sequence[float] = (),
    seed: int,
) -> Classifier:
    """A network with the mean of the weights of `networks`, alike or in these `shares`, in evaluation mode.

    That is worth something where they began as one network and went on by other recipes, orders or rates
    (Wortsman et al. 2022); of networks that began apart it is none. BatchNorm is measured anew, over at most
    4,096 of the `images` under noise `sigma`. Raises ValueError for fewer than two networks, for shares that
    are not positive or do not fit, and where architectures, normalisations, classes or shapes differ.
    """
    given = tuple(map(float, shares)) or (1.0,) * len(networks)
    if len(networks) < 2 or len(given) != len(networks) or not all(0 < s < math.inf for s in given):
        raise ValueError(
            f"soup: got {len(networks)} networks and shares {given}; wanted two networks or more, and for "
            "each a share above 0"
        )
    if odd := next((n for n in networks if n.architecture != networks[0].architecture), None):
        raise ValueError(
            f"soup: got a {odd.architecture} beside a {networks[0].architecture}; wanted one architecture"
        )
    members = [suited("soup", network, images) for network in networks]
    if any(not _normalised_alike(member, members[0]) for member in members):
        raise ValueError("soup: the networks normalise images otherwise; wanted those that began as one")
    made, config = copy.deepcopy(members[0]), recipe(images, epochs=1, seed=seed)
    put_mean(made, members, [share / sum(given) for share in given])
    made.to(memory_format=torch.channels_last)
    measure_statistics(made, images, None, Gaussian(sigma=sigma), config, 0, ALONE)
    return made


def _normalised_alike(a: Classifier, b: Classifier) -> bool:
    return torch.equal(a.normalize.mean, b.normalize.mean) and torch.equal(a.normalize.std, b.normalize.std)


def soup_checkpoint(
    path: Path | str,
    members: Sequence[Path | str],
    images: Images,
    *,
    sigma: float,
    shares: Sequence[float] = (),
    seed: int,
    device: torch.device,
    replace: bool = False,
) -> tuple[Classifier, dict[str, Any]]:
    """The checkpoint at `path` of the `soup` of these checkpoints, made now unless it is already there.

    One of other members or settings raises ValueError or, with `replace`, is kept under another name with a
    warning. Raises ValueError as `soup` does.
    """
    path, files = Path(path), [Path(member) for member in members]
    config = recipe(images, epochs=1, seed=seed)
    made_by = plain(
        settings(config, Gaussian(sigma=sigma), images)
        | {"soup": {"members": [digest(file) for file in files], "shares": [*map(float, shares)]}}
    )
    with making("soup_checkpoint", [path], made_by, key="training", replace=replace) as there:
        if not there:
            begin = time.perf_counter()
            networks = [load_checkpoint(file, device=device)[0] for file in files]
            made = soup(networks, images, sigma=sigma, shares=shares, seed=seed)
            save_checkpoint(
                path,
                made,
                data=told_of(made, images),
                sigma=sigma,
                training=made_by,
                history=[],
                seconds=time.perf_counter() - begin,
                provenance=describe(device),
            )
        return load_checkpoint(path, device=device)
