"""Random numbers of a batch, in a process that may hold only a slice of it.

Processes that train together (`training.Ranks`) share each batch. All of them draw for the whole batch from
the same seed, and each keeps what belongs to its images. So an image gets the same noise whatever the number
of processes, and the same as from one process. It costs the draws of a whole batch in each of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["SliceGenerator", "drawn", "of_batch", "of_slice"]


class SliceGenerator(torch.Generator):
    """The generator of images `first` to `stop` of a batch of `count`, of which `whole` is the generator.

    `total(values)` adds up what all processes have, in each of them. Only `drawn` may draw from it: what is
    drawn from it directly would be the same numbers for other images in each process, and `check` tells.
    """

    def __new__(
        cls,
        whole: torch.Generator,
        *,
        first: int,
        stop: int,
        count: int,
        total: Callable[[Tensor], Tensor],
    ) -> "SliceGenerator":
        return super().__new__(cls, device=whole.device)  # type: ignore[call-arg]

    def __init__(
        self,
        whole: torch.Generator,
        *,
        first: int,
        stop: int,
        count: int,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        self.whole, self.first, self.stop, self.count, self.total = whole, first, stop, count, total
        self.untouched = self.get_state()

    def check(self, call: str, who: str) -> None:
        """ValueError that names `who` drew from this generator by itself."""
        if not torch.equal(self.get_state(), self.untouched):
            raise ValueError(
                f"{call}: {who} draws from its generator by itself, so that every process has the same noise "
                "for other images; draw with dualrs_lab.draws.drawn, or train in one process"
            )


def drawn(
    kind: Callable[..., Tensor],
    shape: Sequence[int],
    *,
    generator: torch.Generator,
    images: int = 0,
    **where: Any,
) -> Tensor:
    """What `kind` (`torch.randn`, `torch.rand`, …) draws, of which dimension `images` counts the images.

    Several draws of each image may lie in that dimension, all images of a draw together. From a
    `SliceGenerator`, this process's part of what one process would draw for the whole batch.
    """
    if not isinstance(generator, SliceGenerator):
        return kind(tuple(shape), generator=generator, **where)
    own = generator.stop - generator.first
    several, left = divmod(shape[images], own) if own else (1, shape[images])
    if left:
        raise ValueError(
            f"drawn: got a shape {tuple(shape)} whose dimension {images} should count {own} images, once or "
            "several times; say which dimension does"
        )
    whole = list(shape)
    whole[images] = several * generator.count
    every = kind(tuple(whole), generator=generator.whole, **where)
    every = every.view(*shape[:images], several, generator.count, *shape[images + 1 :])
    return every.narrow(images + 1, generator.first, own).flatten(images, images + 1)


def of_batch(values: Tensor, generator: torch.Generator) -> Tensor:
    """`values` (B, …) of all images of the batch, where the generator is of a slice of it; else `values`."""
    if not isinstance(generator, SliceGenerator):
        return values
    number = values.dtype if values.dtype != torch.bool else torch.uint8
    whole = values.new_zeros((generator.count, *values.shape[1:]), dtype=number)
    whole[generator.first : generator.stop] = values
    return generator.total(whole).to(values.dtype)


def of_slice(values: Tensor, generator: torch.Generator) -> Tensor:
    """Of `values` (N, …) of all images of a batch, those of the slice that the generator is for."""
    if not isinstance(generator, SliceGenerator):
        return values
    return values[generator.first : generator.stop]
