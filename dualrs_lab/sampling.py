"""The Monte Carlo engine: noise in, class votes out.

Noise is drawn in blocks of `BLOCK` draws. A block depends on (seed, stream, block number), sigma and the
image shape alone, and is shared by all images of a run. So an image gets the same votes alone, in a sweep,
after a resume and at any batch size. The unit of work is one image under one block of noise; a pass through
the network takes any mix of units, so it stays full while images leave early.

Images are 8-bit, so `GridNoise` is drawn on the same 1/255 grid with exact probabilities and added as
integers. What the network sees is a function of the noisy grid point alone, and certificates hold in floating
point, as they need not for sums of floats (Voráček & Hein 2023). The base classifier is then the network
applied after rounding to the grid.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import mpmath
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dualrs_lab.runtime import make_generator

__all__ = [
    "BLOCK",
    "Finished",
    "GaussianNoise",
    "GridNoise",
    "Noise",
    "NoiseBlocks",
    "Voter",
    "as_voter",
    "count_votes",
    "images_together",
    "sample",
]

BLOCK = 100
"""Draws in a noise block: divides the usual n0 = 100 and n = 10,000."""

_BITS = 60  # of every uniform draw; thresholds are exact to one part in 2^60
_COARSE = 16  # leading bits that decide nearly every draw through one table
_SLAB_BYTES, _SLAB_BLOCKS = 2**26, 100  # of noise that is kept in one allocation, at most
_KEPT_BYTES = {"cuda": 2**30}  # on a GPU, where drawing a block again holds up a pass; elsewhere 2^25
_RECENT = 4  # blocks of noise beyond those that are kept
_SIDE_BY_SIDE = 16  # images in progress at least, so that a block of noise serves as many


@dataclass(frozen=True)
class GridNoise:
    """Gaussian noise rounded to the 1/255 grid: P[i] = Phi((2i+1)/(510 sigma)) - Phi((2i-1)/(510 sigma)).

    x on the grid plus this noise is exactly `round(x + sigma Z)`, so the radius formula of randomized
    smoothing applies unchanged. `sigma` is in the unit of [0, 1] pixels.
    """

    sigma: float

    def __post_init__(self) -> None:
        _check_sigma("GridNoise", self.sigma, most=10.0)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """int16 grid steps of the given shape, on the generator's device."""
        table, thresholds, lowest = (part.to(generator.device) for part in _grid_tables(self.sigma))
        bits = torch.randint(2**_BITS, shape, generator=generator, device=generator.device).flatten()
        steps = table.index_select(0, bits >> (_BITS - _COARSE))
        unsure = (steps == _UNSURE).nonzero().squeeze(1)
        fine = bits[unsure]
        position = torch.searchsorted(thresholds, fine, right=True)
        # A draw in the same 2^-60 cell as a threshold would need more bits: about once in 10^7 runs of 10,000
        # draws at 3x32x32. Failing there is what keeps the probabilities exact.
        if len(fine) and bool((thresholds[(position - 1).clamp(min=0)] == fine).any()):
            raise ArithmeticError(
                "GridNoise.draw: a draw fell on a threshold (a chance of about 1e-7); choose another seed"
            )
        steps[unsure] = (position + lowest).to(torch.int16)
        return steps.view(shape)

    def add(self, pixels: Tensor, steps: Tensor, dtype: torch.dtype) -> Tensor:
        """Noisy images as floats on the grid: uint8 (I, 1, ...) + int16 (1, D, ...) -> (I, D, ...)."""
        return ((pixels.to(torch.int16) + steps).to(torch.float32) / 255).to(dtype)


@dataclass(frozen=True)
class GaussianNoise:
    """Plain Gaussian floats, as in the literature's code; also for inputs that are not 8-bit.

    To be chosen explicitly, in place of `GridNoise`: its certificates do not cover floating-point rounding.
    """

    sigma: float

    def __post_init__(self) -> None:
        _check_sigma("GaussianNoise", self.sigma, most=float("inf"))

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """float32 noise of the given shape, on the generator's device."""
        return self.sigma * torch.randn(shape, generator=generator, device=generator.device)

    def add(self, x: Tensor, noise: Tensor, dtype: torch.dtype) -> Tensor:
        """Noisy images: uint8 or float in [0, 1] (I, 1, ...) + float (1, D, ...) -> (I, D, ...)."""
        return ((x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x) + noise).to(dtype)


Noise = GridNoise | GaussianNoise


def _check_sigma(call: str, sigma: float, *, most: float) -> None:
    if not 0 < sigma < most:
        raise ValueError(f"{call}: got sigma {sigma}; wanted a standard deviation > 0 in [0, 1] pixel units")


_UNSURE = torch.iinfo(torch.int16).min


@lru_cache(maxsize=16)
def _grid_tables(sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """The coarse table (2^16,), sorted integer thresholds, and the lowest step.

    Threshold t_i = floor(2^60 Phi((2i+1)/(510 sigma))): a 60-bit uniform u in (t_{i-1}, t_i) means step i.
    """
    with mpmath.workprec(120):
        upper: list[int] = []  # floor(2^60 (1 - Phi)) for i = 0, 1, …: precise in the tail
        while not upper or upper[-1] > 0:
            tail = mpmath.ncdf(-mpmath.mpf(2 * len(upper) + 1) / (510 * mpmath.mpf(sigma)))
            upper.append(int(mpmath.floor(tail * 2**_BITS)))
    # Phi(-z) gives the lower half; by symmetry the upper half is 2^60 - 1 - floor(2^60 (1 - Phi)).
    upper_half = [2**_BITS - 1 - tail for tail in upper]
    thresholds = torch.tensor(upper[::-1] + upper_half, dtype=torch.int64)
    lowest = -len(upper)
    cells = torch.arange(2**_COARSE, dtype=torch.int64) << (_BITS - _COARSE)
    width = 1 << (_BITS - _COARSE)
    first = torch.searchsorted(thresholds, cells, right=False)
    last = torch.searchsorted(thresholds, cells + width, right=False)
    table = torch.where(first == last, first + lowest, _UNSURE).to(torch.int16)
    return table, thresholds, torch.tensor(lowest)


class NoiseBlocks:
    """The noise of one stream of a run, block by block, drawn when asked for.

    The first blocks, which every image needs, are kept while `keep_bytes` lasts (None: as suits the device).
    So are a few recent ones, which images that go through the network together need next: memory does not
    grow with the number of draws.
    """

    def __init__(
        self,
        noise: Noise,
        shape: tuple[int, ...],
        *,
        seed: int,
        stream: str,
        device: torch.device | str = "cpu",
        keep_bytes: int | None = None,
    ) -> None:
        self.noise, self.shape, self.seed, self.stream = noise, shape, seed, stream
        self.device = torch.device(device)
        self._kept: dict[int, Tensor] = {}
        self._free: list[Tensor] = []
        self._recent: dict[int, Tensor] = {}
        self._room = _KEPT_BYTES.get(self.device.type, 2**25) if keep_bytes is None else keep_bytes

    def __getitem__(self, number: int) -> Tensor:
        """Noise `(BLOCK, *shape)`."""
        for known in (self._kept, self._recent):
            if number in known:
                return known[number]
        generator = make_generator(self.seed, "noise", self.stream, number, device=self.device)
        block = self.noise.draw((BLOCK, *self.shape), generator)
        size = block.numel() * block.element_size()
        if size <= self._room:
            self._room -= size
            self._kept[number] = self._place(block).copy_(block)
            return self._kept[number]
        self._recent[number] = block
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]
        return block

    def _place(self, block: Tensor) -> Tensor:
        # Many blocks in one allocation: kept one by one, they would lie between temporaries of the drawing
        # and hold three times their own memory.
        if not self._free:
            size = block.numel() * block.element_size()
            many = max(1, min(_SLAB_BYTES // size, (self._room + size) // size, _SLAB_BLOCKS))
            self._free = list(block.new_empty((many, *block.shape)).unbind())
        return self._free.pop(0)

    def stack(self, numbers: Sequence[int]) -> Tensor:
        """Noise `(len(numbers), BLOCK, *shape)`; a number may occur several times."""
        return torch.stack([self[number] for number in numbers])


def images_together(shape: tuple[int, ...], device: torch.device, batch: int | None = None) -> int:
    """How many blocks of noisy inputs of `shape` go through the network in one pass.

    By `batch`, a number of noisy inputs, or by default to suit the device: what stays in the caches of a CPU,
    what fills a GPU.
    """
    numbers, most = (650_000, 2_000) if device.type == "cpu" else (32_000_000, 20_000)
    return max(1, (min(most, numbers // math.prod(shape)) if batch is None else batch) // BLOCK)


class Voter:
    """Votes of a base classifier under noise: inputs (U, ...), noise (U, BLOCK, ...) -> int64 (U, BLOCK).

    `model` maps (B, ...) in `dtype` to logits (B, classes). A vote for the class `classes`, one past the
    last, says that the logits were NaN. `units` is the size U of a full pass; with `padded`, every pass has
    it.
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
        self.model, self.noise, self.classes, self.dtype = model, noise, classes, dtype
        self.units, self.channels_last, self.padded = units, channels_last, padded

    def __call__(self, x: Tensor, noise: Tensor) -> Tensor:
        noisy = self.noise.add(x.unsqueeze(1), noise, self.dtype).flatten(0, 1)
        if self.channels_last and noisy.ndim == 4:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        logits = self.model(noisy)
        if logits.shape != (len(noisy), self.classes):
            raise ValueError(
                f"count_votes: the model gave logits {tuple(logits.shape)} for {len(noisy)} inputs; wanted "
                f"({len(noisy)}, {self.classes})"
            )
        top, votes = logits.max(1)
        return torch.where(top.isnan(), self.classes, votes).view(noise.shape[:2])


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
    """`model` itself if it is a `Voter`, otherwise a voter that asks it in passes of `images_together`."""
    if isinstance(model, Voter):
        return model
    return Voter(model, noise, classes=classes, units=images_together(shape, device, batch), dtype=dtype)


class Finished(NamedTuple):
    """An image whose draws are done: its position in `x`, its votes (classes,), and its share of the time."""

    position: int
    counts: NDArray[np.int64]
    seconds: float


Done = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]


class _Unit(NamedTuple):
    position: int
    number: int  # of the block of noise
    wanted: int  # of its draws


@torch.inference_mode()
def sample(
    voter: Voter,
    x: Tensor,
    blocks: NoiseBlocks,
    *,
    draws: ArrayLike,
    done: Done | None = None,
    ahead: int | None = None,
) -> Iterator[list[Finished]]:
    """Count the votes of inputs `x` (N, ...) over `draws` of noise (one number, or one per input).

    Yields inputs as they finish, a pass at a time. After every block, `done(positions (A,), counts (A, K))`
    may end inputs early, A different ones per call. It sees the draws of an input in their order, whatever
    else is in the pass, so what an input gets does not depend on its company. The next inputs move up at
    once, and the last ones take several blocks in a pass: passes stay full. `ahead` passes are started before
    the first is counted (None: one on a GPU); what they draw for an input that is done is dropped. Raises
    ValueError for shapes, dtypes or logits that do not fit, FloatingPointError for NaN logits.
    """
    _check_input(x, blocks)
    most = np.broadcast_to(np.asarray(draws, dtype=np.int64), len(x))
    if len(x) and most.min() < 1:
        raise ValueError(f"count_votes: got n = {most.min()}; wanted at least one draw")
    counts = np.zeros((len(x), voter.classes), dtype=np.int64)
    seconds = np.zeros(len(x))
    active: dict[int, int] = {}  # position -> number of its next block
    waiting = iter(range(len(x)))
    under_way: deque[tuple[list[_Unit], Tensor]] = deque()
    lag = ahead if ahead is not None else int(x.device.type == "cuda")
    window = max(voter.units, _SIDE_BY_SIDE)
    start = time.perf_counter()
    while True:
        drawing = sum(number * BLOCK < most[position] for position, number in active.items())
        active.update((position, 0) for position in _some(waiting, window - drawing))
        if units := _take_units(active, most, voter.units):
            under_way.append((units, _tally(voter, x, blocks, units)))
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
    are counted on the device of `x`. Raises as `sample` does.
    """
    voter = as_voter(model, blocks.noise, blocks.shape, x.device, classes=classes, batch=batch, dtype=dtype)
    counts = np.zeros((len(x), classes), dtype=np.int64)
    for finished in sample(voter, x, blocks, draws=n):
        for position, votes, _ in finished:
            counts[position] = votes
    return counts


def _some(items: Iterator[int], most: int) -> list[int]:
    return [item for _, item in zip(range(most), items, strict=False)]


def _take_units(active: dict[int, int], most: NDArray[np.int64], room: int) -> list[_Unit]:
    # The next block of the inputs that are least advanced, then the one after it, while there is room.
    units: list[_Unit] = []
    growing = True
    while growing and len(units) < room:
        growing = False
        for position, number in sorted(active.items(), key=lambda item: item[1]):
            if number * BLOCK < most[position] and len(units) < room:
                units.append(_Unit(position, number, min(BLOCK, int(most[position]) - number * BLOCK)))
                active[position] = number + 1
                growing = True
    return units


def _tally(voter: Voter, x: Tensor, blocks: NoiseBlocks, units: list[_Unit]) -> Tensor:
    # (U, K + 1) votes of each unit, on the device of x; those of NaN logits come last
    padding = voter.units - len(units) if voter.padded else 0
    full = units + units[-1:] * padding
    positions = torch.tensor([unit.position for unit in full], device=x.device)
    votes = voter(x[positions], blocks.stack([unit.number for unit in full]))[: len(units)]
    # Whole blocks always: kernels may round differently for other batch shapes, a vote must not.
    wanted = torch.tensor([unit.wanted for unit in units], device=x.device).unsqueeze(1)
    ones = (torch.arange(BLOCK, device=x.device) < wanted).to(torch.int64)
    return torch.zeros((len(units), voter.classes + 1), dtype=torch.int64, device=x.device).scatter_add_(
        1, votes, ones
    )


def _by_round(
    units: list[_Unit], tally: NDArray[np.int64]
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


def _check_input(x: Tensor, blocks: NoiseBlocks) -> None:
    if x.shape[1:] != blocks.shape:
        raise ValueError(
            f"count_votes: got inputs {tuple(x.shape)}; the noise has shape (N, "
            f"{', '.join(map(str, blocks.shape))})"
        )
    if isinstance(blocks.noise, GridNoise) and x.dtype != torch.uint8:
        raise ValueError(
            f"count_votes: got {x.dtype} inputs; GridNoise wants uint8 pixels, use GaussianNoise for floats"
        )
