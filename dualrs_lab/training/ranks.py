"""Processes that train one network together: who holds which images, who writes, and what all agree on.

Each process (a *rank*) has the whole network and a slice of each batch; gradients are averaged by torch's
DistributedDataParallel, backend nccl on CUDA and gloo on a CPU. Nothing that the weights depend on knows how
many there are: order and noise are those of one process (`draws`), BatchNorm normalises by the whole batch
(`training.normalisation`), the loss is the mean over the whole batch. So the same seed gives the same weights
for any number of processes, within the rounding of float sums; and what one number of processes has begun,
another can end. Rank 0 alone reads states, writes files and reports.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from dualrs_lab.draws import SliceGenerator
from dualrs_lab.runtime import pick_device
from dualrs_lab.training.normalisation import whole_batch_statistics
from dualrs_lab.training.objectives import Objective

__all__ = ["ALONE", "Ranks", "device_of_rank", "join_ranks", "started_together"]


PATIENCE = timedelta(
    hours=2
)  # for rank 0, which validates while the others wait; a dead rank is known at once


GRACE = 5.0  # seconds in which the launcher, who knows which rank died, ends the others


_CPU = torch.device("cpu")


T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes of one training, and which of them this is; `ALONE` where there is only one."""

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def slice(self, count: int) -> slice:
        """Which of the `count` images of a batch are those of this process; sizes differ by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def generator(self, whole: torch.Generator, count: int) -> torch.Generator:
        """The generator for this process's slice of a batch of `count`."""
        if self.size == 1:
            return whole
        own = self.slice(count)
        return SliceGenerator(whole, first=own.start, stop=own.stop, count=count, total=self.total)

    def total(self, values: Tensor) -> Tensor:
        """The sum of what all processes have, which replaces `values` in each of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, find: Callable[[], T]) -> T:
        """What `find` gives in rank 0, which alone calls it: a value that json holds."""
        if self.size == 1:
            return find()
        return json.loads(self.share(json.dumps(find()).encode() if self.first else b""))  # type: ignore[no-any-return]

    def share(self, data: bytes) -> bytes:
        """The `data` of rank 0, in all."""
        if self.size == 1:
            return data
        length = torch.tensor([len(data)], device=self.device)
        dist.broadcast(length, 0)
        buffer = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
        if self.first and data:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, 0)
        return buffer.cpu().numpy().tobytes()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Rank 0 does what is within first, then the others: what it downloads or keeps, they find."""
        if not self.first:
            self.total(torch.zeros(1, device=self.device))
        yield
        if self.first:
            self.total(torch.zeros(1, device=self.device))

    @contextmanager
    def step(self, model: nn.Module) -> Iterator["Step"]:
        """The loss of a batch, of which this process has a part: (objective, x, y, generator, count) -> loss.

        Its gradients are those of the mean over the whole batch of `count`, once `backward` was called. All
        processes begin with the weights of rank 0. While it lasts, BatchNorm sees the whole batch.
        """
        if self.size == 1:
            yield Step(model, self)
            return
        with whole_batch_statistics(model):
            # not the network is wrapped but its loss: objectives ask the network many times, attack it and
            # look into it, and gradients are averaged once, after all of that
            yield DistributedDataParallel(Step(model, self))  # type: ignore[misc]


class Step(nn.Module):
    """This process's part of a batch's loss, such that gradients averaged over processes are the mean's."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        super().__init__()
        self.model, self.ranks = model, ranks

    def forward(
        self, objective: Objective, x: Tensor, y: Tensor, generator: torch.Generator, count: int
    ) -> Tensor:
        loss = objective(self.model, x, y, generator)
        if isinstance(generator, SliceGenerator):
            generator.check("train", type(objective).__name__)
        return loss if self.ranks.size == 1 else loss * (self.ranks.size * len(x) / count)


ALONE = Ranks()
"""One process."""


def started_together() -> bool:
    """Whether a launcher such as torchrun started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1") and "RANK" in os.environ


def device_of_rank(name: str, local: int, each: int) -> torch.device:
    """The device of process `local` of `each` on this machine: its own GPU, or the CPU that they share.

    Raises ValueError where there are fewer GPUs than processes, and for one GPU by its number.
    """
    device = pick_device(name)
    if device.type == "cuda" and ":" in name:
        raise ValueError(
            f"--device {name}: {each} processes take a GPU each; say cuda, and choose by CUDA_VISIBLE_DEVICES"
        )
    if device.type == "cuda" and each > torch.cuda.device_count():
        raise ValueError(
            f"{each} processes want a GPU each, and there are {torch.cuda.device_count()}; start as many as "
            "there are GPUs, or say --device cpu"
        )
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"--device {name}: several processes train on CUDA or on a CPU; start one")
    return torch.device("cuda", local) if device.type == "cuda" else device


@contextmanager
def join_ranks(name: str) -> Iterator[Ranks]:
    """The processes that a launcher started together, by RANK and WORLD_SIZE; `ALONE` where it started one.

    `name` is a device as in `pick_device`. An error in one process ends all of them: it is told once, by the
    process in which it was, and the others end without a word.
    """
    if not started_together():
        yield Ranks(device=pick_device(name))
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _end_with_the_launcher()
    store, _, _ = next(iter(rendezvous("env://", timeout=PATIENCE)))
    try:
        device = device_of_rank(
            name, int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", size))
        )
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        yield Ranks(rank, size, device)
        dist.destroy_process_group()
    except KeyboardInterrupt:  # the launcher tells
        raise SystemExit(130) from None
    except Exception as error:
        lost = _lost(error)
        if lost:
            time.sleep(GRACE)
        if _told_before(store):
            raise SystemExit(1) from error
        if lost:
            raise ConnectionError(
                f"train: process {rank} of {size} has lost the others ({error}); start all again, and they "
                "go on after the last whole epoch"
            ) from error
        raise


def _lost(error: Exception) -> bool:
    # gloo knows no class of its own
    text = str(error)
    return isinstance(error, RuntimeError) and (
        isinstance(error, getattr(dist, "DistError", ())) or "gloo" in text or "Connection" in text
    )


def _told_before(store: Any) -> bool:
    try:
        return int(store.add("dualrs_lab/told", 1)) > 1
    except RuntimeError:  # the launcher, who holds the store, has ended
        return False


def _end_with_the_launcher() -> None:
    """End this process when the one that started it is gone, as after kill -9: nobody else would."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
