"""Natural and attacked accuracy on the same images, image by image; impossible tables are refused.

One call runs PGD, the minimum-margin attack and AutoAttack. An image counts as robust under an attack if it
is answered correctly both as it is and at what the attack found; in the worst case, if this holds under all
of them. These are upper bounds on robust accuracy, not certificates.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dualrs_lab.attacks.auto import STANDARD, auto_attack
from dualrs_lab.attacks.batches import attacked_batches, vet
from dualrs_lab.attacks.checks import check_evaluating
from dualrs_lab.attacks.norms import LINF, Linf, Norm
from dualrs_lab.attacks.pgd import PGD, mma, pgd
from dualrs_lab.attacks.settings import Effort
from dualrs_lab.attacks.table import answers, check_possible, keep
from dualrs_lab.data.images import Images, to_float
from dualrs_lab.models.checkpoints import fingerprint
from dualrs_lab.models.suited import suited
from dualrs_lab.runtime import fold_seed, make_generator, pick_dtype
from dualrs_lab.shards import Portion, Shard
from dualrs_lab.store import positions

__all__ = [
    "Threat",
    "evaluate",
    "evaluate_table",
    "mean_answers",
    "named",
    "right",
    "robust_accuracy",
    "slack_of",
    "summarise_attacks",
]


@dataclass(frozen=True, kw_only=True)
class Threat(Effort):
    """What an attacker may do, and how: PGD-20 with steps of eps / 4, MMA with the same steps.

    `auto` names the parts of AutoAttack, () leaves it out; `mma=False` leaves MMA out.
    """

    norm: Norm = LINF
    mma: bool = True
    auto: tuple[str, ...] = STANDARD

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.norm, Linf) and self.eps > 1:
            raise ValueError(
                f"Threat: got eps {self.eps:g} in linf; wanted at most 1, the most a pixel can change "
                "(8 of 255 levels are 8/255)"
            )

    @property
    def pgd(self) -> PGD:
        """The attack by `pgd`, which `mma` shares except for the loss."""
        return PGD(steps=self.steps, step=self.eps / 4, restarts=self.restarts, norm=self.norm)

    @property
    def slack(self) -> float:
        """By how much AutoAttack may be weaker than others, see `check`: some parts promise nothing."""
        return slack_of(self.auto)


def slack_of(auto: Sequence[str]) -> float:
    """By how much AutoAttack of these parts may be weaker than others, see `check`."""
    return 0.01 if {*STANDARD} <= {*auto} else 1.0


def evaluate(
    model: nn.Module,
    images: Images,
    *,
    threat: Threat,
    skip: int = 1,
    max_images: int = -1,
    progress: bool = True,
) -> pd.DataFrame:
    """One row per image: idx, label, predict, natural, the attacks, worst (bool), seconds of each attack.

    Every `skip`-th image is attacked, at most `max_images` (-1: all); idx counts all images, as in tables of
    certificates. Runs in float32 on the device of `model`, which has to be in evaluation mode. Raises
    ValueError as the attacks do, and where the result is impossible, see `check`.
    """
    some = positions("evaluate", len(images), skip, max_images)
    model = suited("evaluate", model, images)
    table = pd.concat([*_batches(model, images, some, threat, progress)])
    table = table.sort_values("idx", ignore_index=True)
    check_possible(table, slack=threat.slack)
    return table


def evaluate_table(
    model: nn.Module,
    images: Images,
    path: Path | str,
    *,
    threat: Threat,
    skip: int = 1,
    max_images: int = -1,
    replace: bool = False,
    progress: bool = True,
    info: dict[str, Any] | None = None,
    shard: Shard | None = None,
) -> pd.DataFrame:
    """As `evaluate`, kept at `path` (TSV, with a json of what made it); images in it are not attacked again.

    A table of another network, other images or another threat is refused or, with `replace`, kept under
    another name. The json of a new one tells `info` as well. With `shard` that part of the batches goes
    into a table of its own beside `path`, unless `path` has them all.
    """
    model = suited("evaluate_table", model, images)
    identity = {"model": fingerprint(model), "images": images.fingerprint(), "threat": named(threat)}
    some = positions("evaluate_table", len(images), skip, max_images)
    portion = None if shard is None else Portion(shard, len(some), skip, threat.batch)
    table = keep(
        "evaluate_table",
        Path(path),
        identity,
        some,
        lambda todo: _batches(model, images, todo, threat, progress),
        images=images,
        networks=[model],
        replace=replace,
        info=info,
        portion=portion,
    )
    if portion is None:  # of few images, chance alone may let AutoAttack look weak: a merge looks at all
        check_possible(table, slack=threat.slack)
    return table


def summarise_attacks(table: pd.DataFrame) -> pd.DataFrame:
    """Per column of answers: accuracy and its standard error (of sampling images), seconds in all."""
    rows = []
    for name in answers(table):
        share, count = float(table[name].mean()), len(table)
        seconds = float(table[f"{name}_seconds"].sum()) if f"{name}_seconds" in table else np.nan
        error = (share * (1 - share) / count) ** 0.5
        rows.append({"under": name, "accuracy": share, "error": error, "images": count, "seconds": seconds})
    return pd.DataFrame(rows).set_index("under")


def mean_answers(tables: Sequence[pd.DataFrame], under: str) -> "pd.Series[float]":
    """Share of the tables, all of the same images, that answer an image rightly `under` an attack, by idx."""
    found = [table.set_index("idx")[under].astype(float) for table in tables]
    if any(set(one.index) != set(found[0].index) for one in found):
        raise ValueError("mean_answers: got tables of different images; wanted the same in all")
    return pd.concat(found, axis=1).mean(axis=1)


def robust_accuracy(
    model: nn.Module, images: Images, *, eps: float | Tensor, attack: PGD, seed: int, batch: int | None = None
) -> float:
    """Share of `images` that are right as they are and under one `pgd`: quick, to choose between epochs.

    Autocast as in training; `eps` is a budget of `pgd` that fits every batch: of 500 images, above 64x64 of
    fewer, or of `batch`.
    """
    model, device = suited("robust_accuracy", model, images), next(model.parameters()).device
    count, batch = 0, batch or images.at_once(500)
    for number, first in enumerate(range(0, len(images), batch)):
        pixels, labels = images.batch(torch.arange(first, min(first + batch, len(images))))
        x, y = to_float(pixels.to(device)), labels.to(device)
        generator = make_generator(seed, "robust accuracy", number, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=pick_dtype(device) == torch.bfloat16):
            natural = right(model, x, y)
            found = pgd(model, x[natural], y[natural], eps, attack=attack, generator=generator)
            count += int(right(model, found, y[natural]).sum())
    return count / len(images)


def _batches(
    model: nn.Module, images: Images, positions: Sequence[int], threat: Threat, progress: bool
) -> Iterator[pd.DataFrame]:
    device = next(model.parameters()).device
    check_evaluating("evaluate", model)  # before it sees an image, which would update statistics
    vet("evaluate", [model], images, positions)
    for index, x, y in attacked_batches(images, positions, threat.batch, device, progress):
        with torch.no_grad():
            predict = model(x).argmax(1)
        columns = {"idx": index.numpy(), "label": y.cpu().numpy(), "predict": predict.cpu().numpy()}
        columns |= _answers(model, x, y, predict == y, threat, int(index[0]))
        yield pd.DataFrame(columns)


def _answers(
    model: nn.Module, x: Tensor, y: Tensor, natural: Tensor, threat: Threat, first: int
) -> dict[str, Any]:
    """Columns of bool, and of seconds: an image's share of its batch."""
    worst, found = natural.clone(), {"natural": natural.cpu().numpy()}
    seconds = {}
    for name, attack in _attacks(model, threat, first).items():
        start = time.perf_counter()
        robust = natural.clone()
        if natural.any():  # an image that is wrong as it is stays wrong
            robust[natural] = right(model, attack(x[natural], y[natural]), y[natural])
        worst &= robust
        found[name] = robust.cpu().numpy()
        seconds[f"{name}_seconds"] = np.full(len(x), (time.perf_counter() - start) / len(x))
    return {**found, "worst": worst.cpu().numpy(), **seconds}


def _attacks(model: nn.Module, threat: Threat, first: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    def generator(name: str, x: Tensor) -> torch.Generator:
        return make_generator(threat.seed, name, first, device=x.device)

    def by_pgd(x: Tensor, y: Tensor) -> Tensor:
        return pgd(model, x, y, threat.eps, attack=threat.pgd, generator=generator("pgd", x))

    def by_mma(x: Tensor, y: Tensor) -> Tensor:
        attack, targets = threat.pgd, threat.targets
        return mma(model, x, y, threat.eps, attack=attack, targets=targets, generator=generator("mma", x))

    def by_auto(x: Tensor, y: Tensor) -> Tensor:
        seed = fold_seed(threat.seed, "autoattack", first) % 2**31
        norm, attacks, batch = threat.norm, threat.auto, threat.batch
        return auto_attack(model, x, y, threat.eps, norm=norm, seed=seed, attacks=attacks, batch=batch)

    every: dict[str, Callable[[Tensor, Tensor], Tensor]]
    every = {"pgd": by_pgd, "mma": by_mma, "autoattack": by_auto}
    left_out = {"mma": not threat.mma, "autoattack": not threat.auto}
    return {name: attack for name, attack in every.items() if not left_out.get(name)}


@torch.no_grad()
def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the network answers x with y, bool (N,)."""
    return cast(Tensor, model(x).argmax(1) == y)


def named(threat: Threat) -> dict[str, Any]:
    """What a table records of a threat."""
    return {**asdict(threat), "norm": type(threat.norm).__name__}
