"""The original beside its copy: how often the two vote differently on the same noise.

Rounding moves votes of near ties, in bfloat16 a few in a thousand: a table records its share, and more than
`BY_ROUNDING` is worth a warning. More than `MOST_OTHERWISE` says that the copy is another classifier, so a
certificate of it would say nothing of the network that was meant.
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dualrs_lab.models.conduct import duplicate
from dualrs_lab.smoothing.engine import Voter, as_voter
from dualrs_lab.smoothing.noise import BLOCK, NoiseBlocks

__all__ = ["BY_ROUNDING", "MOST_OTHERWISE", "check_disagreement", "disagreement"]


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


def check_disagreement(call: str, found: Mapping[str, float], kind: torch.dtype | str) -> None:
    """Judge a `disagreement` of a copy in numbers of this `kind`: ValueError above `MOST_OTHERWISE`.

    A warning below, and no word up to `BY_ROUNDING`.
    """
    if found["share"] <= BY_ROUNDING:
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
