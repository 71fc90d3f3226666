"""What every source gives, and how it becomes a network of images in [0, 1]: resize, normalise, answer."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.models.networks import Normalize
from dualrs_lab.models.suited import MadeFor

__all__ = ["Adapted"]


Numbers = float | Sequence[float]


# How the first two stages are called: in torchvision and most ResNets, in those of DeepMind, in wide ResNets,
# in Big Transfer, in timm.
_STAGES = (
    ("layer1", "layer2"),
    ("layer_0", "layer_1"),
    ("layer.0", "layer.1"),
    ("block1", "block2"),
    ("body.block1", "body.block2"),
    ("stages.0", "stages.1"),
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A network from outside, and what its source says of it; None where it does not say."""

    body: nn.Module
    kind: str
    mean: Numbers | None = None
    std: Numbers | None = None
    size: tuple[int, int] | None = None
    outputs: int | None = None
    channels: int | None = None
    names: Sequence[str] | None = None  # of the classes
    known_by: str = "a digest of its parameters, and its answers to fixed images"
    hint: str = ""  # where the normalisation may be found
    info: dict[str, Any] = field(default_factory=dict)


class Adapted(nn.Module):
    """Images in [0, 1] `(B, C, H, W)` -> what `body` answers, `(B, classes)`.

    Images of another size than `size`, if there is one, are brought to it inside: noise, budgets and radii
    stay in the pixels of the images that come. `info` says where the network is from.
    """

    made_for: MadeFor | None
    size: Tensor | None

    def __init__(self, body: nn.Module, mean: Numbers, std: Numbers, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.normalize = Normalize(_listed(mean), _listed(std))
        self.body = body
        self.side = size
        # a buffer, since the digest of a network is one of what it holds
        self.register_buffer("size", None if size is None else torch.tensor(size))
        if not [*body.parameters()]:  # the device of a network is that of its parameters
            self.place = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.outputs: int | None = None
        self.info: dict[str, Any] = {}
        self.made_for = None

    def forward(self, x: Tensor) -> Tensor:
        fitted = fitting(x, len(self.normalize.mean), self.side)
        return answering(self.body(self.normalize(fitted)), self.outputs)

    def look(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """As of a `Classifier`: the feature maps after two stages of `body`, and the logits, from one pass.

        Raises ValueError for a body whose stages are not found by their names.
        """
        maps: list[Tensor] = []
        hooks = [
            stage.register_forward_hook(lambda _, __, out: maps.append(out)) for stage in _stages(self.body)
        ]
        try:
            logits = self(x)
        finally:
            for hook in hooks:
                hook.remove()
        return maps, logits


def _stages(body: nn.Module) -> list[nn.Module]:
    # the first two, by the names that families of networks have for them
    there = dict(body.named_modules())
    for names in _STAGES:
        if {*names} <= {*there}:
            return [there[name] for name in names]
    raise ValueError(
        f"load_network: a {type(body).__name__} shows no feature maps, which the head of an adaptive mix "
        f"looks at; wanted stages that are called {', or '.join(' and '.join(one) for one in _STAGES)}"
    )


@torch.fx.wrap  # one step to a tracer, which cannot look at shapes
def answering(logits: Any, outputs: int | None) -> Tensor:
    if outputs is not None and isinstance(logits, Tensor) and logits.shape[1:] not in ((), (outputs,)):
        raise ValueError(
            f"load_network: the network answers {tuple(logits.shape)}, and {outputs} classes were wanted; "
            "choose the network of these images"
        )
    return cast(Tensor, logits)


@torch.fx.wrap
def fitting(x: Tensor, channels: int, side: tuple[int, int] | None) -> Tensor:
    if channels > 1 and x.shape[1] != channels:
        raise ValueError(
            f"load_network: the network is for images of {channels} channels, got {tuple(x.shape)}; load "
            "them with as many (folder:PATH?channels=...)"
        )
    if side is None or x.shape[2:] == side:
        return x
    # in float32: a CPU has no such step in bfloat16
    large = F.interpolate(x.float(), size=side, mode="bilinear", antialias=True, align_corners=False)
    return large.to(x.dtype)


def adapt(
    found: Found,
    *,
    source: str,
    mean: Numbers | None,
    std: Numbers | None,
    size: int | Sequence[int] | None,
    classes: int | None,
) -> Adapted:
    """The network of a source, behind its normalisation; what is given wins over what the source says."""
    if classes is not None and found.outputs not in (None, classes):
        raise ValueError(
            f"load_network: {source} tells {found.outputs} classes, {classes} were wanted; choose the "
            "network of these images"
        )
    means, stds = _normalisation(found, source, mean, std)
    side = found.size if size is None else as_size(size)
    network = Adapted(found.body, means, stds, side)
    outputs = classes if found.outputs is None else found.outputs
    network.outputs = classes
    if outputs is not None and found.channels is not None:
        network.made_for = MadeFor(outputs=outputs, channels=found.channels)
    network.info = {
        **found.info,
        "source": source,
        "kind": found.kind,
        "known_by": found.known_by,
        "mean": _listed(means),
        "std": _listed(stds),
        "size": side,
        "outputs": outputs,
    }
    if found.names is not None:
        network.info["names"] = tuple(found.names)
    return network


def _normalisation(
    found: Found, source: str, mean: Numbers | None, std: Numbers | None
) -> tuple[Numbers, Numbers]:
    if (mean is None) != (std is None):
        raise ValueError(f"load_network: {source}: got one of mean and std; wanted both, or neither")
    if mean is not None and std is not None:
        return mean, std
    if found.mean is not None and found.std is not None:
        return found.mean, found.std
    raise ValueError(
        f"load_network: {source} does not say how its images are normalised, and a guess would certify "
        "another network. Say mean and std of images in [0, 1], one number a channel, as in its training "
        "(ImageNet's are 0.485,0.456,0.406 and 0.229,0.224,0.225); or mean 0 and std 1 where it takes "
        f"pixels in [0, 1] as they are, or normalises them itself{found.hint and '. '}{found.hint}"
    )


def as_size(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a number or two."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and 0 < side < 10_000 for side in sides):
        raise ValueError(
            f"load_network: got size {size!r}; wanted the side of its images, or height and width"
        )
    return sides[0], sides[1]


def _listed(numbers: Numbers) -> tuple[float, ...]:
    return (float(numbers),) if isinstance(numbers, int | float) else tuple(map(float, numbers))


def one_or_many(numbers: Iterable[float]) -> Numbers | None:
    """What a person said who lists numbers: nothing, one for all channels, or one for each."""
    each = [*numbers]
    return each[0] if len(each) == 1 else each or None


def same_numbers(one: Numbers, scale: float) -> tuple[float, ...]:
    """Each of the numbers times `scale`, rounded to what float32 tells apart."""
    return tuple(float(f"{number * scale:.8g}") for number in _listed(one) if math.isfinite(number))


def want_package(call: str, package: str, extra: str) -> ModuleType:
    """The optional library `package`; ValueError with the command that installs it where it is missing."""
    try:
        there = find_spec(package) is not None
    except ValueError:  # it was blocked
        there = False
    if not there:
        raise ValueError(f"{call}: this needs {package}: pip install 'dualrs-lab[{extra}]'")
    return import_module(package)
