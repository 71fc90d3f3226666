"""Noise in blocks of `BLOCK` draws, and its law.

A block depends on (seed, stream, block number), sigma and the image shape alone, and is shared by all images
of a run.

Images are 8-bit, so `GridNoise` is drawn on the same 1/255 grid with exact probabilities and added as
integers. What the network sees is a function of the noisy grid point alone, and certificates hold in floating
point, as they need not for sums of floats (Voráček & Hein 2023). The base classifier is then the network
behind rounding: off the 1/255 grid, too, it is asked at round(x + sigma Z), and a certificate speaks of all
points of its ball in this sense. The network on sums that are not rounded is another classifier. So is one
whose first convolution, being linear, answers image and block of noise apart and adds: in floats, the sum
depends on both, and not on the noisy grid point alone. (It would save a hundredth of the work.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mpmath
import torch
from torch import Tensor

from dualrs_lab.runtime import fold_seed, make_generator
from dualrs_lab.settings import SIGMA

__all__ = ["BLOCK", "GaussianNoise", "GridNoise", "Noise", "NoiseBlocks", "drawing_device", "first_draws"]


BLOCK = 100
"""Draws in a noise block: divides the usual n0 = 100 and n = 10,000."""


_BITS = 60  # of every uniform draw; thresholds are exact to one part in 2^60


_COARSE = 16  # leading bits that decide nearly every draw through one table


_SLAB_BYTES, _SLAB_BLOCKS = 2**26, 100  # of noise that is kept in one allocation, at most


_KEPT_BYTES = {"cuda": 2**30}  # on a GPU, where drawing a block again holds up a pass; elsewhere 2^25


_RECENT = 4  # blocks of noise beyond those that are kept


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
        """int16 grid steps of the given shape, on the generator's device.

        Raises ArithmeticError on a device whose random integers lack bits, see `drawing_device`.
        """
        _want_all_bits(generator.device)
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
    if sigma not in SIGMA or not sigma < most:
        within = f"{SIGMA}" + (f" and < {most:g}" if most < SIGMA.most else "")
        raise ValueError(
            f"{call}: got sigma {sigma!r}; wanted a standard deviation in [0, 1] pixel units, {within}"
        )


def drawing_device(device: torch.device) -> torch.device:
    """Where the noise for inputs on `device` is drawn: there on a CPU or with CUDA, else on the CPU.

    Noise wants 60 random bits a draw, and others need not have them: Apple's MPS has 31.
    """
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


@lru_cache(maxsize=16)
def _want_all_bits(device: torch.device) -> None:
    # Each bit must be seen as 0 and as 1: chance fails that once in 2^250.
    generator = torch.Generator(device=device).manual_seed(0)
    some = torch.randint(2**_BITS, (256, 1), generator=generator, device=device)
    ones = (some >> torch.arange(_BITS, device=device) & 1).sum(dim=0)
    stuck = int(((ones == 0) | (ones == len(some))).sum())
    if stuck:
        raise ArithmeticError(
            f"GridNoise.draw: {stuck} of {_BITS} bits of random integers never change on {device}, so its "
            "noise would have another law; draw on the CPU and move the noise, as NoiseBlocks does"
        )


def first_draws(noise: Noise, *, seed: int, device: torch.device) -> list[float]:
    """A few draws of `noise` from a stream of its own, by which a record tells how this device draws.

    Kinds of devices draw otherwise from the same seed, and so may versions of torch.
    """
    generator = make_generator(seed, "noise", "first draws", device=drawing_device(device))
    return [round(float(value), 5) for value in noise.draw((16,), generator).tolist()]


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
    """The noise of one stream of a run, block by block, drawn when asked for (see `drawing_device`).

    No two blocks are the same draws, though the generators of a CPU know 2^32 streams only: where the bits of
    a seed that count are those of an earlier block, which hardly ever happens, the seed is folded again.

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
        self._drawn_on = drawing_device(self.device)
        self._seeds: list[int] = []  # of the blocks, by number
        self._taken: set[int] = set()  # the bits of them that count
        self._kept: dict[int, Tensor] = {}
        self._free: list[Tensor] = []
        self._recent: dict[int, Tensor] = {}
        self._room = _KEPT_BYTES.get(self.device.type, 2**25) if keep_bytes is None else keep_bytes

    def __getitem__(self, number: int) -> Tensor:
        """Noise `(BLOCK, *shape)`."""
        for known in (self._kept, self._recent):
            if number in known:
                return known[number]
        generator = torch.Generator(device=self._drawn_on).manual_seed(self._seed_of(number))
        block = self.noise.draw((BLOCK, *self.shape), generator).to(self.device)
        size = block.numel() * block.element_size()
        if size <= self._room:
            self._room -= size
            self._kept[number] = self._place(block).copy_(block)
            return self._kept[number]
        self._recent[number] = block
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]
        return block

    def _seed_of(self, number: int) -> int:
        bits = 2**32 - 1 if self._drawn_on.type == "cpu" else 2**63 - 1
        while len(self._seeds) <= number:
            path: list[int | str] = ["noise", self.stream, len(self._seeds)]
            while (seed := fold_seed(self.seed, *path)) & bits in self._taken:
                path.append("again")
            self._seeds.append(seed)
            self._taken.add(seed & bits)
        return self._seeds[number]

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
