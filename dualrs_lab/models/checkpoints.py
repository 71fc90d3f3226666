"""Checkpoints: safetensors beside a json that says what they hold. Nothing is ever unpickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dualrs_lab.afar.fetching import at_hand
from dualrs_lab.files import digest, replace_bytes
from dualrs_lab.models.networks import Classifier, make_model
from dualrs_lab.models.reading import read_architecture
from dualrs_lab.models.suited import made_for
from dualrs_lab.store import read_record, write_record

__all__ = ["fingerprint", "load_checkpoint", "read_info", "save_checkpoint", "save_tensors"]


def fingerprint(model: nn.Module) -> str:
    """A digest of all that a network holds, by name; what it makes of it, only `models.probe` tells."""
    return digest(*(part for name, tensor in model.state_dict().items() for part in (name, _raw(tensor))))


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def save_checkpoint(path: Path | str, model: Classifier, **info: Any) -> None:
    """Write `path` (safetensors) and its `.json` twin (architecture and `info`), each replaced atomically."""
    save_tensors(Path(path), model, {"architecture": model.architecture, **info})


def save_tensors(path: Path, module: nn.Module, info: Mapping[str, Any]) -> None:
    """What `module` holds at `path`, and `info` in its `.json` twin, each replaced atomically.

    Raises ValueError for a `path` that does not end in .safetensors, or whose json belongs to another file.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    write_record("save_tensors", path, info)
    replace_bytes(path, save(tensors))


def read_info(call: str, path: Path) -> dict[str, Any]:
    """The json beside `path`; FileNotFoundError names the file that is missing, if one of the two is."""
    for needed in (path, path.with_suffix(".json")):
        if not needed.is_file():
            raise FileNotFoundError(
                f"{call}: {needed} is missing; a checkpoint is a .safetensors with its .json"
            )
    made = path.with_suffix(".json")
    try:
        found = json.loads(made.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{call}: {made} is no json ({error}); wanted the one saved with {path.name}"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{call}: {made} holds no table; wanted the json saved with {path.name}")
    if not (info := read_record(path)):
        raise ValueError(f"{call}: {made} is not the record of {path}; wanted the json saved with it")
    return info


def load_checkpoint(
    path: Path | str, *, device: torch.device | str = "cpu"
) -> tuple[Classifier, dict[str, Any]]:
    """The network in evaluation mode, with what it is `made_for`, and its json; `path` may be an address.

    Raises FileNotFoundError or ValueError that names the file.
    """
    path = at_hand("load_checkpoint", path)
    info = read_info("load_checkpoint", path)
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors and torch raise different types for a damaged or foreign file
        raise ValueError(f"load_checkpoint: {path} is no whole file of safetensors: {error}") from error
    shape = read_architecture("load_checkpoint", path, info, tensors)
    channels = shape["channels"]
    model = make_model(**shape, mean=[0.0] * channels, std=[1.0] * channels, seed=0)
    try:
        model.load_state_dict(tensors)
    except Exception as error:
        raise ValueError(f"load_checkpoint: {path} does not hold a {shape['name']}: {error}") from error
    model.made_for = made_for(info)
    return model.to(device).eval(), info
