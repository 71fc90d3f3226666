"""The Monte Carlo engine: noise in, class votes out.

Noise is drawn in blocks of `BLOCK` draws. A block depends on (seed, stream, block number), sigma and the
image shape alone, and is shared by all images of a run, so an image gets the same votes alone, in a sweep,
after a resume and at any batch size.

Images are 8-bit, so `GridNoise` is drawn on the same 1/255 grid with exact probabilities and added as
integers: what the network sees is a function of the noisy grid point alone, and certificates hold in floating
point, which they need not for sums of floats (Voráček & Hein 2023). On the grid, the base classifier is the
network behind rounding to the grid.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import mpmath
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from dualrs_lab.runtime import make_generator

__all__ = [
    "BLOCK",
    "GaussianNoise",
    "GridNoise",
    "Noise",
    "NoiseBlocks",
    "count_votes",
    "evaluation_copy",
    "images_together",
]

BLOCK = 100
"""Draws in a noise block: divides the usual n0 = 100 and n = 10,000."""

_BITS = 60  # of every uniform draw; thresholds are exact to one part in 2^60
_COARSE = 16  # leading bits that decide nearly every draw through one table


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

    The named alternative to `GridNoise`: floating-point rounding is not covered by its certificates.
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
    """Coarse table (2^16,), sorted integer thresholds, and the lowest step.

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
    """The noise of one stream of a run, block by block:

    drawn when first asked for, kept while `keep_bytes` lasts.
    """

    def __init__(
        self,
        noise: Noise,
        shape: tuple[int, ...],
        *,
        seed: int,
        stream: str,
        device: torch.device | str = "cpu",
        keep_bytes: int = 2**29,
    ) -> None:
        self.noise, self.shape, self.seed, self.stream = noise, shape, seed, stream
        self.device = torch.device(device)
        self._kept: dict[int, Tensor] = {}
        self._room = keep_bytes

    def __getitem__(self, number: int) -> Tensor:
        """Noise `(BLOCK, *shape)`."""
        if number not in self._kept:
            generator = make_generator(self.seed, "noise", self.stream, number, device=self.device)
            block = self.noise.draw((BLOCK, *self.shape), generator)
            size = block.numel() * block.element_size()
            if size > self._room:
                return block
            self._room -= size
            self._kept[number] = block
        return self._kept[number]


def images_together(shape: tuple[int, ...], device: torch.device, batch: int | None = None) -> int:
    """How many images of `shape` go through the network with one block of noise.

    From `batch`, a number of noisy inputs, or by default from the device: what stays in the caches of a CPU,
    what fills a GPU.
    """
    numbers = 650_000 if device.type == "cpu" else 32_000_000
    return max(1, (min(20_000, numbers // math.prod(shape)) if batch is None else batch) // BLOCK)


def evaluation_copy(model: nn.Module, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network that is sampled: a copy in evaluation mode, BatchNorm folded, channels last, in `dtype`.

    It is another base classifier than the float32 original, by rounding; certificates are for this copy.
    """
    frozen = fuse(copy.deepcopy(model).eval().cpu())
    return frozen.to(device=device, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_(False)


@torch.inference_mode()
def count_votes(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    blocks: NoiseBlocks,
    *,
    n: int,
    classes: int,
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> NDArray[np.int64]:
    """How often `model` answers each class over `n` draws of noise: int64 (N, classes), rows sum to n.

    `x` is (N, ...), uint8 for `GridNoise`; `model` maps (B, ...) in `dtype` to logits (B, classes). About
    `batch` noisy inputs go through the network at a time (None: as suits the device), and votes are counted
    on the device of `x`. Raises ValueError for shapes, dtypes or logits that do not fit, FloatingPointError
    for logits that are NaN.
    """
    _check_input(x, blocks, n)
    together = images_together(blocks.shape, x.device, batch)
    counts = torch.zeros((len(x), classes), dtype=torch.int64, device=x.device)
    for number in range(-(-n // BLOCK)):
        noise = blocks[number].unsqueeze(0)
        for first in range(0, len(x), together):
            part = x[first : first + together].unsqueeze(1)
            noisy = blocks.noise.add(part, noise, dtype).flatten(0, 1)
            # Whole blocks always: kernels may round differently for other batch shapes, a vote must not.
            votes = _votes(model, noisy, classes).view(len(part), -1)[:, : n - number * BLOCK]
            counts[first : first + together].scatter_add_(1, votes, torch.ones_like(votes))
    return counts.cpu().numpy()


def _votes(model: Callable[[Tensor], Tensor], noisy: Tensor, classes: int) -> Tensor:
    if noisy.ndim == 4:
        noisy = noisy.contiguous(memory_format=torch.channels_last)
    logits = model(noisy)
    if logits.shape != (len(noisy), classes):
        raise ValueError(
            f"count_votes: the model gave logits {tuple(logits.shape)} for {len(noisy)} inputs; wanted "
            f"({len(noisy)}, {classes})"
        )
    top, votes = logits.max(1)
    if bool(top.isnan().any()):
        raise FloatingPointError("count_votes: the model gave NaN logits; its votes would mean nothing")
    return votes


def _check_input(x: Tensor, blocks: NoiseBlocks, n: int) -> None:
    if x.shape[1:] != blocks.shape:
        raise ValueError(
            f"count_votes: got inputs {tuple(x.shape)}; the noise has shape (N, "
            f"{', '.join(map(str, blocks.shape))})"
        )
    if isinstance(blocks.noise, GridNoise) and x.dtype != torch.uint8:
        raise ValueError(
            f"count_votes: got {x.dtype} inputs; GridNoise wants uint8 pixels, use GaussianNoise for floats"
        )
    if n < 1:
        raise ValueError(f"count_votes: got n = {n}; wanted at least one draw")
