"""Networks that are trained together: the cuts of a router, the experts of a cascade or combiner."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.data.images import Images
from dualrs_lab.models.checkpoints import fingerprint, load_checkpoint, save_checkpoint
from dualrs_lab.models.networks import Classifier
from dualrs_lab.runtime import describe
from dualrs_lab.store import making, plain
from dualrs_lab.training.checkpoints import state_path, told_of
from dualrs_lab.training.config import TrainConfig
from dualrs_lab.training.loop import settings, train
from dualrs_lab.training.objectives import noisy_copies

__all__ = ["JointObjective", "Pool", "train_together"]


class JointObjective(Protocol):
    """What a batch should cost the networks of a `Pool`, one for each of its `sigmas`."""

    @property
    def sigmas(self) -> tuple[float, ...]: ...

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor: ...


class Pool(nn.Module):
    """Networks that are trained together: the cuts of a router, or the experts of a cascade or combiner.

    A cut has logits (B, 2) for the answers "at most k" (class 0) and "more than k".
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)


def soft_votes(
    model: nn.Module, x: Tensor, y: Tensor, *, sigmas: Sequence[float], draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    # mean probabilities (B, K, C) of the experts of a `Pool` over noisy copies, and the sum of their costs
    p, cost = [], x.new_zeros(())
    for expert, sigma in zip(cast(Pool, model).members, sigmas, strict=True):
        logits = expert(noisy_copies(x, sigma, draws, generator)).float()
        cost = cost + F.cross_entropy(logits, y.repeat(draws))
        p.append(torch.softmax(logits, dim=1).view(draws, len(x), -1).mean(dim=0))
    return torch.stack(p, dim=1), cost


def train_together(
    paths: Sequence[Path | str],
    make: Callable[[int], Classifier],
    images: Images,
    *,
    objective: JointObjective,
    config: TrainConfig,
    device: torch.device,
    replace: bool = False,
    progress: bool = True,
) -> list[Classifier]:
    """The networks of a `Pool`, from their checkpoints at `paths` or trained now.

    `make(k)` builds network k = 0, …, from nothing or from another one (`models.with_head`). All are trained
    at once; interrupted training goes on where it was. Checkpoints with other settings, or that began from
    other weights, raise ValueError or, with `replace`, are kept under another name with a warning. Nothing is
    ever overwritten.
    """
    members = [make(k).to(device) for k in range(len(objective.sigmas))]
    begun = {"start": [fingerprint(member) for member in members]}
    made_by = plain(settings(config, objective, images) | begun)
    files = [Path(path) for path in paths]
    with making("train_together", files, made_by, key="training", replace=replace) as there:
        if len(there) == len(files):
            return [load_checkpoint(file, device=device)[0] for file in files]
        state = state_path(files[0], made_by)
        history = train(
            Pool(members), images, objective=objective, config=config, state=state, progress=progress
        )
        for file, member, sigma in zip(files, members, objective.sigmas, strict=True):
            save_checkpoint(
                file,
                member,
                data=told_of(member, images),
                sigma=sigma,
                training=made_by,
                history=history.to_dict("records"),
                seconds=float(history["seconds"].sum()),
                provenance=describe(device),
            )
        state.unlink(missing_ok=True)  # only now: a kill between two checkpoints loses nothing
        return [load_checkpoint(file, device=device)[0] for file in files]
