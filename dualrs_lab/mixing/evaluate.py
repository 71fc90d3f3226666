"""Accuracy of mixes under attacks on each network, end to end, and in the worst case of all, image by image.

One attack on a mix says little: for small weights of the robust network, an input made against the accurate
one alone fools the mix more often than an attack on the mix itself, which meets saturated probabilities. So
every input that any attack finds is shown to every system, and an image withstands the worst case only if
none fools it.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dualrs_lab.attacks.apgd import APGD
from dualrs_lab.attacks.auto import auto_attack
from dualrs_lab.attacks.batches import attacked_batches, vet
from dualrs_lab.attacks.evaluate import Threat, named
from dualrs_lab.attacks.pgd import PGD, mma, pgd
from dualrs_lab.attacks.table import answers, keep
from dualrs_lab.data.images import Images, to_float
from dualrs_lab.mixing.mix import worst_margin
from dualrs_lab.models.checkpoints import fingerprint
from dualrs_lab.models.suited import suited
from dualrs_lab.runtime import fold_seed, make_generator
from dualrs_lab.shards import Portion, Shard
from dualrs_lab.store import positions

__all__ = [
    "System",
    "answer_margins",
    "attacked_logits",
    "by_lot",
    "evaluate_systems",
    "evaluate_systems_table",
    "margin_groups",
    "summarise_systems",
]


@runtime_checkable
class System(Protocol):
    """A mix of one accurate and one robust network: a module that also takes their logits, see `mixing.Mix`.

    `settings` is what it depends on besides its tensors. It may have `surrogate`, a module to attack in its
    place where it has no useful gradients, and `pushed`, pairs of a module and a loss that also attack its
    weight, see `adaptive`.
    """

    @property
    def settings(self) -> dict[str, Any]: ...

    def from_logits(self, x: Tensor, g: Tensor, h: Tensor) -> Tensor: ...


def evaluate_systems(
    accurate: nn.Module,
    robust: nn.Module,
    systems: Mapping[str, nn.Module],
    images: Images,
    *,
    threat: Threat,
    skip: int = 1,
    max_images: int = -1,
    progress: bool = True,
) -> pd.DataFrame:
    """A row per image and system, idx ascending: idx, label, system, weight (NaN: varies), bool answers.

    The answers: `natural`; `on_accurate` and `on_robust`, at what APGD finds against one network;
    `end_to_end`, against the system itself; `pushed`, where the weight of some system is attacked too (the
    same as `end_to_end` for systems without one); `mma` and `autoattack` against the system, where the threat
    has them; `worst`, at all of these and all that was found against other systems. In float32. Gradients may
    vanish on single images, since the worst case counts; otherwise raises ValueError as `pgd` does.
    """
    some = positions("evaluate_systems", len(images), skip, max_images)
    _want_suited("evaluate_systems", accurate, robust, systems, images)
    parts = _batches(accurate, robust, systems, images, some, threat, progress)
    return pd.concat([*parts]).sort_values("idx", kind="stable", ignore_index=True)


def evaluate_systems_table(
    accurate: nn.Module,
    robust: nn.Module,
    systems: Mapping[str, nn.Module],
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
    """As `evaluate_systems`, kept at `path` as by `attacks.evaluate_table`, or that `shard` of it."""
    _want_suited("evaluate_systems_table", accurate, robust, systems, images)
    identity = {
        "networks": [fingerprint(accurate), fingerprint(robust)],
        "systems": {
            name: {"kind": type(one).__name__, "weights": fingerprint(one), **_system(name, one).settings}
            for name, one in systems.items()
        },
        "images": images.fingerprint(),
        "threat": {**named(threat), "attack": "APGD"},
    }
    some = positions("evaluate_systems_table", len(images), skip, max_images)
    return keep(
        "evaluate_systems_table",
        Path(path),
        identity,
        some,
        lambda todo: _batches(accurate, robust, systems, images, todo, threat, progress),
        images=images,
        networks=[robust, accurate, *systems.values()],
        replace=replace,
        info=info,
        portion=None if shard is None else Portion(shard, len(some), skip, threat.batch),
    )


def summarise_systems(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by system (in the order of the table) for each column of answers, and the number of images."""
    groups = table.groupby("system", sort=False)
    found = groups[answers(table)].mean()
    found.insert(0, "weight", groups["weight"].first())
    return found.assign(images=groups.size())


def by_lot(curve: pd.DataFrame) -> "pd.Series[float]":
    """Worst-case accuracy of choosing between g and h by lot, at the natural accuracy of each row.

    `curve` is a summary whose first row is g and whose last is h. A mix is worth something above it.
    """
    clean, worst = curve["natural"], curve["worst"]
    share_of_h = (clean.iloc[0] - clean) / (clean.iloc[0] - clean.iloc[-1])
    found: pd.Series[float] = worst.iloc[0] + share_of_h * (worst.iloc[-1] - worst.iloc[0])
    return found


def attacked_logits(
    network: nn.Module, images: Images, *, eps: float, seed: int, batch: int | None = None
) -> dict[str, Tensor]:
    """Logits (N, K) of "clean" images and of "attacked" ones, at what PGD-20 finds, and their "labels" (N,).

    linf. On the CPU, for `mixing.fit_nuts` and `answer_margins`; images without a gradient stay as they are.
    They pass 250 at a time, above 64x64 fewer, or `batch`.
    """
    network, parts = suited("attacked_logits", network, images), []
    device, batch = next(network.parameters()).device, batch or images.at_once(250)
    attack = PGD(steps=20, step=eps / 4, blind=1.0)
    for number, start in enumerate(range(0, len(images), batch)):
        pixels, labels = images.batch(range(start, min(start + batch, len(images))))
        x, y = to_float(pixels.to(device)), labels.to(device)
        generator = make_generator(seed, "margins", number, device=device)
        found = pgd(network, x, y, eps, attack=attack, generator=generator)
        with torch.no_grad():
            parts.append((network(x).float().cpu(), network(found).float().cpu(), labels.cpu()))
    return {
        name: torch.cat(part)
        for name, part in zip(("clean", "attacked", "labels"), zip(*parts, strict=True), strict=True)
    }


def answer_margins(
    networks: Mapping[str, nn.Module], images: Images, *, eps: float, seed: int
) -> pd.DataFrame:
    """How sure networks are of their answers, and whether these are right: why a mix can work.

    A row a network and image, "clean" and "attacked" on its own: network, images, right (1 or 0), margin, the
    first probability less the second.
    """
    rows = []
    for name, network in networks.items():
        logits = attacked_logits(network, images, eps=eps, seed=seed)
        for kind in ("clean", "attacked"):
            right = (logits[kind].argmax(1) == logits["labels"]).int()
            columns = {"right": right.numpy(), "margin": worst_margin(logits[kind]).double().numpy()}
            rows.append(pd.DataFrame({"network": name, "images": kind, **columns}))
    return pd.concat(rows, ignore_index=True)


def margin_groups(found: pd.DataFrame) -> dict[str, "pd.Series[float]"]:
    """The `answer_margins` that matter: of h where it withstands or errs, and of g where it is fooled."""
    groups = {
        "h, attacked and right": ("robust", "attacked", 1),
        "h, clean and wrong": ("robust", "clean", 0),
        "g, attacked and wrong": ("accurate", "attacked", 0),
    }
    by_kind = dict(list(found.groupby(["network", "images", "right"])["margin"]))
    return {name: by_kind.get(group, pd.Series(dtype=np.float64)) for name, group in groups.items()}


def _batches(
    accurate: nn.Module,
    robust: nn.Module,
    systems: Mapping[str, nn.Module],
    images: Images,
    some: Sequence[int],
    threat: Threat,
    progress: bool,
) -> Iterator[pd.DataFrame]:
    for name, system in systems.items():
        _system(name, system)
    device = next(robust.parameters()).device
    vet("evaluate_systems", [accurate, robust, *systems.values()], images, some)
    for index, x, y in attacked_batches(images, some, threat.batch, device, progress):
        found = _points(accurate, robust, systems, x, y, threat, int(index[0]))
        right = {at: _answers(accurate, robust, systems, point, y) for at, point in found.items()}
        parts = [_rows(name, system, right, index, y.cpu()) for name, system in systems.items()]
        yield pd.concat(parts, ignore_index=True).sort_values("idx", kind="stable")


def _points(
    accurate: nn.Module,
    robust: nn.Module,
    systems: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    threat: Threat,
    first: int,
) -> dict[str, Tensor]:
    """What each attack found: inputs (N, C, H, W) by name; "natural" are the images themselves."""
    standard = APGD(
        steps=threat.steps, step=2 * threat.eps, restarts=threat.restarts, norm=threat.norm, blind=1.0
    )

    def generator(name: str) -> torch.Generator:
        return make_generator(threat.seed, name, first, device=x.device)

    def ascend(name: str, model: nn.Module, attack: PGD = standard) -> Tensor:
        return pgd(model, x, y, threat.eps, attack=attack, generator=generator(name))

    found = {"natural": x}
    for name, network in {"on_accurate": accurate, "on_robust": robust}.items():
        found[name] = ascend(name, network)
    for name, system in systems.items():
        target = getattr(system, "surrogate", system)
        found[f"end_to_end {name}"] = ascend(name, target)
        for number, (module, loss) in enumerate(getattr(system, "pushed", [])):
            attack = dataclasses.replace(standard, loss=loss)
            found[f"pushed {name} {number}"] = ascend(f"{name} pushed {number}", module, attack)
        if threat.mma:
            found[f"mma {name}"] = mma(
                target, x, y, threat.eps, attack=standard, generator=generator(f"{name} mma"),
                targets=threat.targets,
            )  # fmt: skip
        if threat.auto:
            found[f"autoattack {name}"] = auto_attack(
                target, x, y, threat.eps, seed=fold_seed(threat.seed, name, first), norm=threat.norm,
                attacks=threat.auto, batch=len(x),
            )  # fmt: skip
    return found


@torch.no_grad()
def _answers(
    accurate: nn.Module, robust: nn.Module, systems: Mapping[str, nn.Module], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Whether each system answers correctly, bool (N,), from one forward pass of each network."""
    g, h = accurate(x).float(), robust(x).float()
    mixes = {name: _system(name, system) for name, system in systems.items()}
    return {name: (mix.from_logits(x, g, h).argmax(1) == y).cpu() for name, mix in mixes.items()}


def _rows(
    name: str, system: nn.Module, right: Mapping[str, Mapping[str, Tensor]], index: Tensor, labels: Tensor
) -> pd.DataFrame:
    own = {at: answered[name] for at, answered in right.items()}
    natural, weight = own["natural"], getattr(system, "weight", None)
    columns: dict[str, Any] = {"idx": index.numpy(), "label": labels.numpy(), "system": name}
    columns["weight"] = float(weight) if isinstance(weight, int | float) else math.nan
    columns["natural"] = natural.numpy()
    for column in ("on_accurate", "on_robust"):
        columns[column] = (natural & own[column]).numpy()
    for column in ("end_to_end", "mma", "autoattack"):
        if f"{column} {name}" in own:
            columns[column] = (natural & own[f"{column} {name}"]).numpy()
    if any(at.startswith("pushed ") for at in own):
        pushed = [answered for at, answered in own.items() if at.startswith(f"pushed {name} ")]
        pushed = pushed or [own[f"end_to_end {name}"]]
        columns["pushed"] = torch.stack([natural, *pushed]).all(0).numpy()
    columns["worst"] = torch.stack([*own.values()]).all(0).numpy()
    return pd.DataFrame(columns)


def _want_suited(
    call: str, accurate: nn.Module, robust: nn.Module, systems: Mapping[str, nn.Module], images: Images
) -> None:
    # systems are made of networks, so these cannot be put in another order behind their backs
    for network in (accurate, robust, *systems.values()):
        if suited(call, network, images) is not network:
            raise ValueError(
                f"{call}: the classes of a network come in another order than those of the images; make the "
                "systems of networks that models.suited has put in their order, and pass these"
            )


def _system(name: str, system: nn.Module) -> System:
    if not isinstance(system, System):
        raise ValueError(
            f"evaluate_systems: {name} is a {type(system).__name__}; wanted a mix, see mixing.Mix"
        )
    return system
