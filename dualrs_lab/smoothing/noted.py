"""What the record of a table notes besides its identity, and the reasons for which a table does not go on.

The identity says which weights, images and settings the rows depend on. Here is what it cannot say in equal
digests everywhere: how the networks answer, and how noise is drawn. A record from before something was noted
is taken as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dualrs_lab.data.images import Images
from dualrs_lab.models.probe import other_answers, probe_each
from dualrs_lab.models.suited import how_suited
from dualrs_lab.smoothing.agreement import MOST_OTHERWISE, recorded_disagreement
from dualrs_lab.smoothing.noise import Noise, first_draws

__all__ = ["note", "reason_to_stop"]


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
