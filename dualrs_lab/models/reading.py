"""What a file of weights must be before a network is made of it: errors name the file and what is wrong."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualrs_lab.models.networks import MODELS
from dualrs_lab.settings import Range

__all__ = ["read_architecture", "want_finite", "why_not_read"]


_CLASSES, _CHANNELS = (Range(whole=True, least=1, most=most) for most in (100_000, 1000))


def read_architecture(call: str, path: Path, info: Mapping[str, Any], tensors: object) -> dict[str, Any]:
    """Name, classes and channels of the network whose json is `info`, if `tensors` can be its weights.

    Raises ValueError where the json does not say them, where the last layer is of another number of classes,
    or where a weight is not finite: such a network answers nothing.
    """
    said = info.get("architecture")
    where = f"{call}: {path.with_suffix('.json')}"
    if not isinstance(said, Mapping) or not {"name", "classes", "channels"} <= {*said}:
        raise ValueError(f"{where} says no architecture; wanted the json that was saved with {path.name}")
    name, classes, channels = said["name"], said["classes"], said["channels"]
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(f"{where} names the network {name!r}; wanted one of {', '.join(MODELS)}")
    for what, value, within in (("classes", classes, _CLASSES), ("channels", channels, _CHANNELS)):
        if value not in within:
            raise ValueError(f"{where} says {what} {value!r}; wanted {within}")
    weights = want_finite(call, path, tensors)
    last = weights.get("body.fc.weight")
    if last is not None and last.shape[:1] != (classes,):
        raise ValueError(
            f"{where} says {classes} classes, the last layer in {path.name} is {tuple(last.shape)}; wanted "
            "a json and weights of one network"
        )
    return {"name": name, "classes": classes, "channels": channels}


def want_finite(call: str, path: Path, tensors: object) -> dict[str, Tensor]:
    """`tensors` by name; ValueError for what are no such tensors, or hold NaN or infinite numbers."""
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.device.type == "cpu"
        for name, tensor in tensors.items()
    ):
        raise ValueError(f"{call}: {path} does not hold tensors by name; wanted the weights of a network")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"{call}: {path} holds numbers in {name} that are not finite; its training went astray: take "
                "an earlier checkpoint"
            )
    return dict(tensors)


def why_not_read(error: Exception) -> str:
    """Why torch refused to unpickle a file, without its advice to run what is in there after all."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    wants = f"it wants to run {found[1]}" if found else "it is damaged, or no file of plain tensors"
    return f"{wants}; nothing in a checkpoint is ever run"
