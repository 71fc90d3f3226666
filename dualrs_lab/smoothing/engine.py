"""The Monte Carlo engine: noise in, class votes out.

A block of noise (`smoothing.noise`) is shared by all images of a run. So an image gets the same votes alone,
in a sweep, after a resume and at any batch size. The unit of work is one image under one block of noise; a
pass through the network takes any mix of units, so it stays full while images leave early.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dualrs_lab.models.conduct import check_conduct, check_logits, in_evaluation
from dualrs_lab.smoothing.noise import BLOCK, GridNoise, Noise, NoiseBlocks

__all__ = ["Finished", "Unit", "Voter", "as_voter", "count_votes", "images_together", "sample"]


_VETTED_BY = 3  # inputs, each under one draw of noise


_SIDE_BY_SIDE = 16  # images in progress at least, so that a block of noise serves as many


def images_together(shape: tuple[int, ...], device: torch.device, batch: int | None = None) -> int:
    """How many blocks of noisy inputs of `shape` go through the network in one pass.

    By `batch`, a number of noisy inputs, or by default to suit the device: what stays in the caches of a CPU,
    what fills a GPU.
    """
    numbers, most = (650_000, 2_000) if device.type == "cpu" else (32_000_000, 20_000)
    return max(1, (min(most, numbers // math.prod(shape)) if batch is None else batch) // BLOCK)


class Voter:
    """Votes of a base classifier under noise: inputs (U, ...), noise (U, BLOCK, ...) -> int64 (U, BLOCK).

    `model` maps (B, ...) in `dtype` to logits (B, classes). A network of which some part is in training mode
    is copied as it is now, and the copy is asked in evaluation mode; a function around one is a ValueError. A
    vote for the class `classes`, one past the last, says that the logits were NaN. `units` is the size U of a
    full pass; with `padded`, every pass has it.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        noise: Noise,
        *,
        classes: int,
        units: int,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        padded: bool = False,
    ) -> None:
        self.model, self.noise = in_evaluation("Voter", model), noise
        self.classes, self.dtype = classes, dtype
        self.units, self.channels_last, self.padded = units, channels_last, padded
        self.vetted = False

    def __call__(self, x: Tensor, noise: Tensor) -> Tensor:
        noisy = self._noisy(x, noise)
        logits = self.model(noisy)
        check_logits("count_votes", logits, len(noisy), self.classes)
        top, votes = logits.max(1)
        return torch.where(top.isnan(), self.classes, votes).view(noise.shape[:2])

    def vet(self, x: Tensor, noise: Tensor) -> None:
        """Refuse, once, a model whose answers to inputs (N, ...) under noise (BLOCK, ...) depend on others.

        See `models.check_conduct`.
        """
        if not self.vetted:
            few = self._noisy(x[:_VETTED_BY], noise[None, :1])
            check_conduct("count_votes", self.model, few, classes=self.classes)
            self.vetted = True

    def _noisy(self, x: Tensor, noise: Tensor) -> Tensor:
        noisy = self.noise.add(x.unsqueeze(1), noise, self.dtype).flatten(0, 1)
        last = self.channels_last and noisy.ndim == 4
        return noisy.contiguous(memory_format=torch.channels_last) if last else noisy


def as_voter(
    model: Callable[[Tensor], Tensor] | Voter,
    noise: Noise,
    shape: tuple[int, ...],
    device: torch.device,
    *,
    classes: int,
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Voter:
    """`model` itself if it is a `Voter`, otherwise a voter that asks it in passes of `images_together`.

    Raises ValueError for a voter that was made for another noise or number of classes.
    """
    if isinstance(model, Voter):
        if (model.noise, model.classes) != (noise, classes):
            raise ValueError(
                f"as_voter: got a voter made for {model.noise} and {model.classes} classes; wanted one for "
                f"{noise} and {classes}: what it answers under other noise is not what is certified"
            )
        return model
    return Voter(model, noise, classes=classes, units=images_together(shape, device, batch), dtype=dtype)


class Finished(NamedTuple):
    """An image whose draws are done: its position in `x`, its votes (classes,), and its share of the time."""

    position: int
    counts: NDArray[np.int64]
    seconds: float


Done = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]


class Unit(NamedTuple):
    """One input under one block of noise."""

    position: int  # of the input
    number: int  # of the block of noise
    wanted: int  # of its draws


Seen = Callable[[list[Unit], Tensor, Tensor, Tensor], None]


@torch.inference_mode()
def sample(
    voter: Voter,
    x: Tensor,
    blocks: NoiseBlocks,
    *,
    draws: ArrayLike,
    done: Done | None = None,
    ahead: int | None = None,
    seen: Seen | None = None,
) -> Iterator[list[Finished]]:
    """Count the votes of inputs `x` (N, ...) over `draws` of noise (one number, or one per input).

    Yields inputs as they finish, a pass at a time. After every block, `done(positions (A,), counts (A, K))`
    may end inputs early, A different ones per call. It sees the draws of an input in their order, whatever
    else is in the pass, so what an input gets does not depend on its company. The next inputs move up at
    once, and the last ones take several blocks in a pass: passes stay full. `ahead` passes are started before
    the first is counted (None: one on a GPU); what they draw for an input that is done is dropped.
    `seen(units, inputs (U, ...), noise (U, BLOCK, ...), votes (U, BLOCK))` is told of every pass at once, as
    its votes may not be there later. Raises ValueError for shapes, dtypes or logits that do not fit, blocks
    of another noise than the voter's, and a model whose answers are not a function of one input (see
    `Voter.vet`), FloatingPointError for NaN logits.
    """
    _check_input(voter, x, blocks)
    most = np.broadcast_to(np.asarray(draws, dtype=np.int64), len(x))
    if len(x) and most.min() < 1:
        raise ValueError(f"count_votes: got n = {most.min()}; wanted at least one draw")
    if len(x):
        voter.vet(x, blocks[0])
    counts = np.zeros((len(x), voter.classes), dtype=np.int64)
    seconds = np.zeros(len(x))
    active: dict[int, int] = {}  # position -> number of its next block
    waiting = iter(range(len(x)))
    under_way: deque[tuple[list[Unit], Tensor]] = deque()
    lag = ahead if ahead is not None else int(x.device.type == "cuda")
    window = max(voter.units, _SIDE_BY_SIDE)
    start = time.perf_counter()
    while True:
        drawing = sum(number * BLOCK < most[position] for position, number in active.items())
        active.update((position, 0) for position in _some(waiting, window - drawing))
        if units := _take_units(active, most, voter.units):
            under_way.append((units, tally_of(voter, x, blocks, units, seen)))
        if not under_way:
            return
        if units and len(under_way) <= lag:
            continue
        units, tally = under_way.popleft()
        rounds = _by_round(units, tally.cpu().numpy())
        now = time.perf_counter()
        for unit in units:
            seconds[unit.position] += (now - start) / len(units)
        finished = _count(rounds, active, counts, most, done)
        start = time.perf_counter()
        if finished:
            yield [Finished(position, counts[position], float(seconds[position])) for position in finished]
            start = time.perf_counter()


def count_votes(
    model: Callable[[Tensor], Tensor] | Voter,
    x: Tensor,
    blocks: NoiseBlocks,
    *,
    n: int,
    classes: int,
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> NDArray[np.int64]:
    """How often `model` answers each class over `n` draws of noise: int64 (N, classes), rows sum to n.

    `x` is (N, ...), uint8 for `GridNoise`; `model` maps (B, ...) in `dtype` to logits (B, classes), or is a
    `Voter` itself. About `batch` noisy inputs go through it at a time (None: as suits the device), and votes
    are counted on the device of `x`. A network is asked in evaluation mode and left as it is. Raises as
    `sample` does.
    """
    voter = as_voter(model, blocks.noise, blocks.shape, x.device, classes=classes, batch=batch, dtype=dtype)
    counts = np.zeros((len(x), classes), dtype=np.int64)
    for finished in sample(voter, x, blocks, draws=n):
        for position, votes, _ in finished:
            counts[position] = votes
    return counts


def _some(items: Iterator[int], most: int) -> list[int]:
    return [item for _, item in zip(range(most), items, strict=False)]


def _take_units(active: dict[int, int], most: NDArray[np.int64], room: int) -> list[Unit]:
    # The next block of the inputs that are least advanced, then the one after it, while there is room.
    units: list[Unit] = []
    growing = True
    while growing and len(units) < room:
        growing = False
        for position, number in sorted(active.items(), key=lambda item: item[1]):
            if number * BLOCK < most[position] and len(units) < room:
                units.append(Unit(position, number, min(BLOCK, int(most[position]) - number * BLOCK)))
                active[position] = number + 1
                growing = True
    return units


def tally_of(voter: Voter, x: Tensor, blocks: NoiseBlocks, units: list[Unit], seen: Seen | None) -> Tensor:
    # (U, K + 1) votes of each unit, on the device of x; those of NaN logits come last
    padding = voter.units - len(units) if voter.padded else 0
    full = units + units[-1:] * padding
    positions = torch.tensor([unit.position for unit in full], device=x.device)
    inputs, noise = x[positions], blocks.stack([unit.number for unit in full])
    votes = voter(inputs, noise)[: len(units)]
    if seen is not None:
        seen(units, inputs[: len(units)], noise[: len(units)], votes)
    # Whole blocks always: kernels may round differently for other batch shapes, a vote must not.
    wanted = torch.tensor([unit.wanted for unit in units], device=x.device).unsqueeze(1)
    ones = (torch.arange(BLOCK, device=x.device) < wanted).to(torch.int64)
    return torch.zeros((len(units), voter.classes + 1), dtype=torch.int64, device=x.device).scatter_add_(
        1, votes, ones
    )


def _by_round(
    units: list[Unit], tally: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    # (positions, votes) with every position once, in the order of each position's draws
    if tally[:, -1].any():
        raise FloatingPointError("count_votes: the model gave NaN logits; its votes would mean nothing")
    seen: dict[int, int] = {}
    rounds: list[list[int]] = []
    for row, unit in enumerate(units):
        turn = seen[unit.position] = seen.get(unit.position, -1) + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(row)
    return [(np.array([units[row].position for row in rows]), tally[rows, :-1]) for rows in rounds]


def _count(
    rounds: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    active: dict[int, int],
    counts: NDArray[np.int64],
    most: NDArray[np.int64],
    done: Done | None,
) -> list[int]:
    # Adds the votes round by round; inputs that are done leave `active` and take no more.
    finished: list[int] = []
    for positions, votes in rounds:
        going = np.array([position in active for position in positions])
        positions, votes = positions[going], votes[going]
        if len(positions):
            counts[positions] += votes
            over = counts[positions].sum(axis=1) >= most[positions]
            if done is not None:
                over |= done(positions, counts[positions])
            for position in positions[over].tolist():
                del active[position]
                finished.append(position)
    return sorted(finished)


def _check_input(voter: Voter, x: Tensor, blocks: NoiseBlocks) -> None:
    if voter.noise != blocks.noise:
        raise ValueError(
            f"count_votes: got a voter made for {voter.noise} and blocks of {blocks.noise}; wanted the same "
            "noise, by which the votes are judged"
        )
    if x.shape[1:] != blocks.shape:
        raise ValueError(
            f"count_votes: got inputs {tuple(x.shape)}; the noise has shape (N, "
            f"{', '.join(map(str, blocks.shape))})"
        )
    if isinstance(blocks.noise, GridNoise) and x.dtype != torch.uint8:
        raise ValueError(
            f"count_votes: got {x.dtype} inputs; GridNoise wants uint8 pixels, use GaussianNoise for floats"
        )
