"""The original beside its copy: how often the two vote differently on the same noise.

The original is the network as it came, in strict float32: without TF32 on a GPU or bfloat16 products on a
CPU, without a step of `FastPath`, in passes of one size. What it votes on the noise of the first draws of a
copy certifies it by the votes of the copy, see `evidence.radii`. A network that is sampled without any step,
where float32 is strict, is this original itself: its own votes certify it, and no pairs are asked for. One
that is folded, or lies in another memory layout, is not, as its sums are rounded otherwise.

Rounding moves votes of near ties, in bfloat16 a few in a thousand: a table records its share, and more than
`BY_ROUNDING` is worth a warning. More than `MOST_OTHERWISE` says that the copy is another classifier, so a
certificate of it would say nothing of the network that was meant.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from dualrs_lab.evidence.radii import PairedCounts
from dualrs_lab.models.conduct import duplicate
from dualrs_lab.smoothing.engine import Unit, Voter, as_voter
from dualrs_lab.smoothing.noise import BLOCK, Noise, NoiseBlocks
from dualrs_lab.smoothing.settings import FastPath

__all__ = [
    "BY_ROUNDING",
    "MOST_OTHERWISE",
    "PairedVotes",
    "StrictVoter",
    "check_disagreement",
    "disagreement",
    "is_original",
    "strict_float32",
]


BY_ROUNDING = 0.01
"""The share of votes that rounding moves at most, as a rule: recorded without a word."""


MOST_OTHERWISE = 0.05
"""The share of votes that a frozen network may give otherwise than its original in float32."""


@torch.inference_mode()
def disagreement(model: nn.Module, voter: Voter, x: Tensor, blocks: NoiseBlocks) -> dict[str, float]:
    """How often `voter` votes differently from `model` in plain float32, on the same noise.

    One block of noise for the first inputs of `x` (N, ...) that fill a pass; {"draws": …, "share": …}. Raises
    ValueError where the voter was made for another noise than that of `blocks`.
    """
    as_voter(voter, blocks.noise, blocks.shape, x.device, classes=voter.classes)
    voted = compared = 0
    plain = Voter(
        duplicate(model).to(device=x.device, dtype=torch.float32),
        blocks.noise,
        classes=voter.classes,
        units=1,
    )
    x = x[: voter.units]
    noise = blocks.stack([0] * voter.units)
    fast = voter(x.repeat(-(-voter.units // len(x)), *[1] * (x.ndim - 1))[: voter.units], noise)
    for one, votes in zip(x, fast, strict=False):
        voted += int((plain(one.unsqueeze(0), noise[:1])[0] != votes).sum())
        compared += BLOCK
    return {"draws": compared, "share": voted / compared}


def check_disagreement(
    call: str, found: Mapping[str, float], kind: torch.dtype | str, *, certify: str = "copy"
) -> None:
    """Judge a `disagreement` of a copy in numbers of this `kind`: ValueError above `MOST_OTHERWISE`.

    A warning below, and no word up to `BY_ROUNDING`, nor where radii of the original account for it.
    """
    if found["share"] <= (BY_ROUNDING if certify == "copy" else MOST_OTHERWISE):
        return
    told = (
        f"{call}: the frozen network ({str(kind).removeprefix('torch.')}) gives {found['share']:.2%} of "
        f"{found['draws']} votes otherwise than its original in float32"
    )
    if found["share"] > MOST_OTHERWISE:
        raise ValueError(
            f"{told}; wanted at most {MOST_OTHERWISE:.0%}, as it is another classifier. Sample it in float32 "
            "(dtype), or without steps (FastPath.plain())"
        )
    warnings.warn(f"{told}; certificates are for the frozen one", stacklevel=3)


@contextmanager
def strict_float32(device: torch.device) -> Iterator[None]:
    """Within it, float32 is float32 on `device`: no TF32, no products in bfloat16, no autocast."""
    before = _precisions(device)
    _set_precisions(dict.fromkeys(before, "ieee"))
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _set_precisions(before)


def is_original(dtype: torch.dtype, fast: FastPath, device: torch.device) -> bool:
    """Whether what is sampled on `device` by these steps is the original itself, in the same arithmetic.

    No step may be taken or left open, and float32 has to be strict as it is set now.
    """
    graph = fast.cuda_graph is False or (fast.cuda_graph is None and device.type != "cuda")
    plain = not (fast.fold or fast.channels_last) and fast.compile is False and graph
    strict = {*_precisions(device).values()} <= {"ieee", "none"} and not torch.is_autocast_enabled(
        device.type
    )
    return plain and strict and dtype == torch.float32


class StrictVoter(Voter):
    """Votes of the original `model`, on `device`: a copy of it in float32, in passes of `units` blocks."""

    def __init__(
        self, model: nn.Module, noise: Noise, *, classes: int, units: int, device: torch.device
    ) -> None:
        network = duplicate(model).to(device=device, dtype=torch.float32)
        super().__init__(network, noise, classes=classes, units=units, channels_last=False, padded=True)

    def __call__(self, x: Tensor, noise: Tensor) -> Tensor:
        padding = self.units - len(x)
        x, noise = (torch.cat([part, part[-1:].expand(padding, *part.shape[1:])]) for part in (x, noise))
        with strict_float32(x.device):
            return super().__call__(x, noise)[: len(x) - padding]


class PairedVotes:
    """What the original votes on the first `paired` draws of each input, beside its copy.

    To be told of the copy's passes, as `sample` does by `seen`. `guesses` (N,) are the classes in question.
    """

    def __init__(self, original: StrictVoter, guesses: ArrayLike, paired: int, device: torch.device) -> None:
        self.original, self.paired = original, paired
        self._guess = torch.as_tensor(guesses, device=device)
        self._kept, self._lost = (torch.zeros_like(self._guess) for _ in range(2))
        # by class; the last counts NaN logits
        self._gained = self._guess.new_zeros((len(self._guess), original.classes + 1))

    def __call__(self, units: list[Unit], x: Tensor, noise: Tensor, votes: Tensor) -> None:
        wanted = [min(unit.wanted, self.paired - unit.number * BLOCK) for unit in units]
        rows = [row for row, draws in enumerate(wanted) if draws > 0]
        for start in range(0, len(rows), self.original.units):
            some = rows[start : start + self.original.units]
            at = torch.tensor([units[row].position for row in some], device=x.device)
            draws = torch.tensor([[wanted[row]] for row in some], device=x.device)
            self._count(at, votes[some], self.original(x[some], noise[some]), draws)

    def _count(self, at: Tensor, copy: Tensor, own: Tensor, draws: Tensor) -> None:
        counted = torch.arange(BLOCK, device=at.device) < draws
        guess = self._guess[at].unsqueeze(1)
        self._kept.index_add_(0, at, (counted & (own == guess)).sum(1))
        self._lost.index_add_(0, at, (counted & (copy == guess) & (own != guess)).sum(1))
        gained = (counted & (own != guess) & (own != copy)).to(torch.int64)
        self._gained.index_put_((at.unsqueeze(1).expand_as(own), own), gained, accumulate=True)

    def of(self, position: int) -> PairedCounts:
        """The counts of the input at `position`, all of whose draws were seen; FloatingPointError for NaN."""
        gained = self._gained[position]
        if gained[-1]:
            raise FloatingPointError(
                "certify: the original gave NaN logits; its votes would mean nothing. Is it a network whose "
                "numbers are beyond float32?"
            )
        return PairedCounts(
            self.paired, int(self._kept[position]), int(self._lost[position]), int(gained.max())
        )


# How float32 is multiplied, where that can be set for each kind of operation, as from torch 2.9 on.
_OPERATIONS = {
    "cpu": ("mkldnn.conv", "mkldnn.rnn", "mkldnn.matmul"),
    "cuda": ("cudnn.conv", "cudnn.rnn", "cuda.matmul"),
}


def _precisions(device: torch.device) -> dict[str, str]:
    found = {name: _operation(name) for name in _OPERATIONS.get(device.type, ())}
    if all(hasattr(one, "fp32_precision") for one in found.values()):
        return {name: one.fp32_precision for name, one in found.items()}
    product = torch.get_float32_matmul_precision()
    products = {"products": "ieee" if product == "highest" else product}
    if device.type != "cuda":
        return products
    return products | {"convolutions": "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"}


def _set_precisions(wanted: Mapping[str, str]) -> None:
    for name, precision in wanted.items():
        if name == "convolutions":
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
        elif name == "products":
            torch.set_float32_matmul_precision("highest" if precision == "ieee" else precision)
        else:
            _operation(name).fp32_precision = precision


def _operation(name: str) -> Any:
    backend, kind = name.split(".")
    return getattr(getattr(torch.backends, backend), kind, None)
