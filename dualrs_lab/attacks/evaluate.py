"""Natural and attacked accuracy on the same images, image by image; impossible tables are refused.

One call runs PGD, the minimum-margin attack and AutoAttack. An image counts as robust under an attack if it
is answered correctly both as it is and at what the attack found; in the worst case, if this holds under all
of them. These are upper bounds on robust accuracy, not certificates.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dualrs_lab.attacks.auto import STANDARD, auto_attack
from dualrs_lab.attacks.checks import check_evaluating
from dualrs_lab.attacks.norms import LINF, Linf, Norm
from dualrs_lab.attacks.pgd import PGD, mma, pgd
from dualrs_lab.attacks.settings import Effort
from dualrs_lab.data.images import Images, to_float
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.models.checkpoints import fingerprint
from dualrs_lab.runtime import describe, fold_seed, make_generator, pick_dtype
from dualrs_lab.store import plain, positions, take_up

__all__ = [
    "ANSWERS",
    "ATTACKS",
    "Threat",
    "answers",
    "attacked_batches",
    "check",
    "evaluate",
    "evaluate_table",
    "keep",
    "mean_answers",
    "named",
    "read_evaluation",
    "right",
    "robust_accuracy",
    "summarise_attacks",
]


ATTACKS = ("pgd", "mma", "autoattack")
"""Columns of a table, in the order in which they are run; `natural` comes before them, `worst` behind."""


ANSWERS = ("natural", *ATTACKS, "on_accurate", "on_robust", "end_to_end", "pushed", "worst")
"""All columns that say whether an answer is right; the later ones are those of `mixing.evaluate`."""


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
        return 0.01 if {*STANDARD} <= {*self.auto} else 1.0


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
    table = pd.concat([*_batches(model, images, some, threat, progress)], ignore_index=True)
    check(table, slack=threat.slack)
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
) -> pd.DataFrame:
    """As `evaluate`, kept at `path` (TSV, with a json of what made it); images in it are not attacked again.

    A table of another network, other images or another threat is refused or, with `replace`, kept under
    another name.
    """
    identity = {"model": fingerprint(model), "images": images.fingerprint(), "threat": named(threat)}
    table = keep(
        "evaluate_table",
        Path(path),
        identity,
        positions("evaluate_table", len(images), skip, max_images),
        lambda todo: _batches(model, images, todo, threat, progress),
        device=next(model.parameters()).device,
        replace=replace,
    )
    check(table, slack=threat.slack)
    return table


def keep(
    call: str,
    path: Path,
    identity: dict[str, Any],
    wanted: Sequence[int],
    batches: Callable[[list[int]], Iterable[pd.DataFrame]],
    *,
    device: torch.device,
    replace: bool,
) -> pd.DataFrame:
    """The table of answers at `path`, after adding `batches(the idx of wanted that it lacks)` as they come.

    A table of another `identity` is refused or, with `replace`, kept under another name.
    """
    identity = plain(identity)
    there = take_up(call, [path], identity, replace=replace)
    table = read_evaluation(path) if there else pd.DataFrame({"idx": []})
    if not there:
        replace_json(path.with_suffix(".json"), {"identity": identity, "provenance": describe(device)})
    for rows in batches(sorted({*wanted} - {*table["idx"]})):
        table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
        table = table.sort_values("idx", kind="stable", ignore_index=True)
        replace_text(path, _to_numbers(table).to_csv(sep="\t", index=False, lineterminator="\n"))
    return table[table["idx"].isin(wanted)].reset_index(drop=True)


def read_evaluation(path: Path | str) -> pd.DataFrame:
    """A table that `evaluate_table` wrote."""
    table = pd.read_csv(path, sep="\t", dtype={"system": str})
    if not {"idx", "label", "natural", "worst"} <= {*table}:
        raise ValueError(
            f"read_evaluation: {path} has columns {list(table)}; wanted a table of evaluate_table"
        )
    return table.astype(dict.fromkeys(answers(table), bool))


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


def answers(table: pd.DataFrame) -> list[str]:
    """The columns of a table that say what was answered correctly, in the order of ANSWERS."""
    return [name for name in ANSWERS if name in table]


def check(table: pd.DataFrame, *, slack: float = 0.01) -> None:
    """ValueError for an impossible table, or one that shows an attack which did not work.

    No image is robust that is wrong as it is, none is robust in the worst case but not under each attack, and
    AutoAttack, the strongest, leaves at most a share `slack` more of the images right than any other attack.
    """
    attacks = [name for name in ATTACKS if name in table]
    for name in attacks:
        bad = table["idx"][table[name] & ~table["natural"]].tolist()
        if bad:
            raise ValueError(
                f"check: images {bad[:10]} are right under {name} but wrong as they are; robust accuracy "
                "cannot exceed natural accuracy: the table mixes networks or images"
            )
    worst = table["natural"] & table[attacks].all(axis=1)
    if (worst != table["worst"]).any():
        bad = table["idx"][worst != table["worst"]].tolist()
        raise ValueError(f"check: worst is not the worst case of {attacks} for images {bad[:10]}")
    for name in attacks[:-1] if attacks[-1:] == ["autoattack"] else []:
        more = int(table["autoattack"].sum()) - int(table[name].sum())
        if more > slack * len(table) + 1e-9:
            raise ValueError(
                f"check: AutoAttack leaves {more / len(table):.1%} more images right than {name}; the "
                "stronger attack did not work: is the network random, or has no useful gradients?"
            )


def robust_accuracy(
    model: nn.Module, images: Images, *, eps: float | Tensor, attack: PGD, seed: int, batch: int = 500
) -> float:
    """Share of `images` that are right as they are and under one `pgd`: quick, to choose between epochs.

    Autocast as in training; `eps` is a budget of `pgd` that fits every batch.
    """
    device = next(model.parameters()).device
    count = 0
    for number, first in enumerate(range(0, len(images), batch)):
        pixels, labels = images.batch(torch.arange(first, min(first + batch, len(images))))
        x, y = to_float(pixels.to(device)), labels.to(device)
        generator = make_generator(seed, "robust accuracy", number, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=pick_dtype(device) == torch.bfloat16):
            natural = right(model, x, y)
            found = pgd(model, x[natural], y[natural], eps, attack=attack, generator=generator)
            count += int(right(model, found, y[natural]).sum())
    return count / len(images)


def attacked_batches(
    images: Images, positions: Sequence[int], threat: Threat, device: torch.device, progress: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of the threat's size: idx (N,), x (N, C, H, W) in [0, 1] and labels, on `device`."""
    for start in tqdm(
        range(0, len(positions), threat.batch), desc="attack", unit="batch", disable=not progress
    ):
        index = torch.tensor(positions[start : start + threat.batch])
        pixels, labels = images.batch(index)
        x = to_float(pixels.to(device)).contiguous(memory_format=torch.channels_last)
        yield index, x, labels.to(device)


def _batches(
    model: nn.Module, images: Images, positions: Sequence[int], threat: Threat, progress: bool
) -> Iterator[pd.DataFrame]:
    device = next(model.parameters()).device
    check_evaluating("evaluate", model)  # before it sees an image, which would update statistics
    for index, x, y in attacked_batches(images, positions, threat, device, progress):
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
        return auto_attack(model, x, y, threat.eps, norm=threat.norm, seed=seed, attacks=threat.auto)

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


def _to_numbers(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({name: int for name in table if table[name].dtype == bool})
