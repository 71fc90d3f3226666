"""A network is known by its weights and by its answers to fixed images.

Weights are not all: the same ones behind another normalisation, in another mix or under a hook answer
otherwise. Answers are kept beside an identity as numbers, not as a digest, and compared up to rounding: other
machines, numbers of threads and versions of torch sum in another order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dualrs_lab.models.conduct import apart, asked, duplicate

__all__ = ["other_answers", "probe", "probe_each", "probe_images", "same_answers"]


Answers = list[list[float]]  # logits (4, K) of one network


def probe_images(shape: Sequence[int]) -> Tensor:
    """Four images (4, *shape) on the 1/255 grid in [0, 1], always the same: textures and ramps."""
    count = int(torch.Size(shape).numel())
    place = torch.arange(2 * count, dtype=torch.int64)
    texture = ((place + 1) * 2654435761 % 2**32 >> 13) % 256
    ramp = place[:count] * 255 // max(1, count - 1)
    mixed = (ramp + texture[:count]) // 2
    images = torch.stack([texture[:count], 96 + texture[count:] // 4, ramp, 255 - mixed])
    return images.view(4, *shape).float() / 255


@torch.no_grad()
def probe(model: nn.Module, shape: Sequence[int]) -> Answers:
    """Logits (4, K) of `probe_images`, to six digits; in float32 on the CPU, in evaluation mode."""
    parts = [*model.parameters(), *model.buffers()]
    fit = all(part.device.type == "cpu" for part in parts) and not any(m.training for m in model.modules())
    fit &= all(part.dtype == torch.float32 for part in parts if part.is_floating_point())
    network = model if fit else duplicate(model).cpu().float()
    logits = asked("probe", network, probe_images(shape)).float().flatten(1)
    return [[float(f"{value:.6g}") for value in row] for row in logits.tolist()]


def probe_each(networks: Sequence[nn.Module], shape: Sequence[int]) -> list[Answers]:
    """The `probe` of each network; one that comes several times is asked once."""
    each = {id(network): network for network in networks}
    known = {key: probe(network, shape) for key, network in each.items()}
    return [known[id(network)] for network in networks]


def other_answers(record: Mapping[str, Any], answers: Sequence[Answers]) -> str:
    """What a `record` of equal weights says against networks with these `answers`; "" where that is nothing.

    Records from before there were probes say nothing.
    """
    found = record.get("probe")
    if found is None or (len(found) == len(answers) and all(map(same_answers, found, answers))):
        return ""
    return (
        "was made by other networks: their weights are equal, their answers to the fixed images of a probe "
        "are not"
    )


def same_answers(found: Answers, wanted: Answers) -> bool:
    """Whether two probes are of one network, up to rounding."""
    if [*map(len, found)] != [*map(len, wanted)]:
        return False
    far, rounding = apart(torch.tensor(found), torch.tensor(wanted))
    return far <= rounding
