"""What the record of a table notes besides its identity, and the reasons for which a table does not go on.

The identity says which weights, images and settings the rows depend on. Here is what it cannot say in equal
digests everywhere: how the networks answer, how often a frozen one votes otherwise than its original, and how
noise is drawn. A record from before something was noted is taken as it is.

Rounding moves votes of near ties, in bfloat16 a few in a thousand: a table records its share, and more than
`BY_ROUNDING` is worth a warning. More than `MOST_OTHERWISE` says that the copy is another classifier, so a
certificate of it would say nothing of the network that was meant.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dualrs_lab.data.images import Images
from dualrs_lab.models.conduct import duplicate
from dualrs_lab.models.probe import other_answers, probe_each
from dualrs_lab.models.suited import how_suited
from dualrs_lab.smoothing.engine import Voter, as_voter
from dualrs_lab.smoothing.noise import BLOCK, Noise, NoiseBlocks, first_draws

__all__ = [
    "BY_ROUNDING",
    "MOST_OTHERWISE",
    "check_disagreement",
    "disagreement",
    "note",
    "reason_to_stop",
    "recorded_disagreement",
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


def recorded_disagreement(record: Mapping[str, Any]) -> float:
    """The largest share that the record of a table tells, 0 where it tells none."""
    told = record.get("disagreement")
    each = told if isinstance(told, list) else [told]
    return max((float(one["share"]) for one in each if isinstance(one, Mapping)), default=0.0)


def note(
    networks: Sequence[nn.Module], noise: Sequence[Noise], images: Images, *, seed: int, device: torch.device
) -> dict[str, Any]:
    """For the record: the `probe` of each network, how their classes were compared, first draws of noise."""
    first = [first_draws(one, seed=seed, device=device) for one in noise]
    return {
        "probe": probe_each(networks, images.shape),
        "classes": [how_suited(network, images) for network in networks],
        "drawn": {"device": device.type, "first": first},
    }


def reason_to_stop(found: Mapping[str, Any], noted: Mapping[str, Any], *, complete: bool) -> str:
    """Why a table of record `found` and the same identity is not one of what is `noted` now; "" if it is.

    Noise counts only where rows are to be added, as it is not `complete`.
    """
    if reason := other_answers(found, noted["probe"]):
        return reason
    if (share := recorded_disagreement(found)) > MOST_OTHERWISE:
        return (
            f"is of a frozen network that gives {share:.1%} of its votes otherwise than its original, as its "
            f"record says; wanted at most {MOST_OTHERWISE:.0%}"
        )
    before, now = found.get("drawn"), noted["drawn"]
    if complete or before is None:
        return ""
    if before["device"] != now["device"] or not _close(before["first"], now["first"]):
        return (
            f"was begun with noise drawn on {before['device']}; {now['device']} draws other noise here from "
            "the same seed"
        )
    return ""


def _close(one: Sequence[Sequence[float]], two: Sequence[Sequence[float]]) -> bool:
    pairs = [(a, b) for left, right in zip(one, two, strict=False) for a, b in zip(left, right, strict=False)]
    return [*map(len, one)] == [*map(len, two)] and all(abs(a - b) < 1e-3 for a, b in pairs)
