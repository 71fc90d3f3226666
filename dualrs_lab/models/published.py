"""Checkpoints that the field publishes, read into our networks."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualrs_lab.models.networks import Classifier, make_model
from dualrs_lab.models.reading import want_finite, why_not_read
from dualrs_lab.models.suited import made_for

__all__ = ["import_checkpoint"]


_PUBLISHED_NAMES = {
    "cifar_resnet20": "resnet20",
    "cifar_resnet56": "resnet56",
    "cifar_resnet110": "resnet110",
    "resnet50": "resnet50",
}


_CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def import_checkpoint(
    path: Path | str, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> tuple[Classifier, dict[str, Any]]:
    """Read a checkpoint that the field publishes into our network, with the same outputs.

    The layout is that of Cohen et al. 2019, shared by SmoothAdv, MACER, Consistency and CAT-RS: a dict with
    `arch` and `state_dict`, a normalisation layer in front of the network, `module.` prefixes where it was
    trained on several GPUs. Normalisation comes from `mean` and `std`, else from the checkpoint, else from
    the statistics that these repositories hard-code for CIFAR-10 and ImageNet (they do not save them). Only
    tensors and plain values are unpickled.

    Returns the network in evaluation mode and its info (architecture, origin, epoch where given).
    Raises FileNotFoundError or ValueError that names the file and what does not fit.
    """
    path = Path(path)
    published = _read_published(path)
    weights = want_finite("import_checkpoint", path, _strip_prefixes(published["state_dict"]))
    stored_mean, stored_std = (weights.pop(key, None) for key in ("means", "sds"))
    default = _IMAGENET_STATISTICS if published["arch"] == "resnet50" else _CIFAR10_STATISTICS
    try:
        means = mean if mean is not None else _channel_values(stored_mean, default[0])
        stds = std if std is not None else _channel_values(stored_std, default[1])
        classes, channels = len(weights["fc.weight"]), weights["conv1.weight"].shape[1]
        model = make_model(
            _PUBLISHED_NAMES[published["arch"]],
            classes=classes,
            channels=channels,
            mean=means,
            std=stds,
            seed=0,
        )
        model.body.load_state_dict(weights)
    except Exception as error:  # whatever shapes and names a foreign file may have
        raise ValueError(
            f"import_checkpoint: {path} (arch {published['arch']!r}) does not hold the weights of a "
            f"{_PUBLISHED_NAMES[published['arch']]}: {error}"
        ) from error
    info = {"architecture": model.architecture, "origin": path.name, "arch": published["arch"]}
    if isinstance(published.get("epoch"), int):
        info["epoch"] = published["epoch"]
    model.made_for = made_for(info)
    return model.eval(), info


def _read_published(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"import_checkpoint: no file {path}")
    try:
        with warnings.catch_warnings():  # of torch, about pickles that it refuses then
            warnings.simplefilter("ignore")
            published = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for what is damaged, foreign or hostile
        raise ValueError(
            f"import_checkpoint: {path} cannot be read as plain tensors: {why_not_read(error)}"
        ) from None
    if not isinstance(published, Mapping) or not {"arch", "state_dict"} <= set(published):
        raise ValueError(f"import_checkpoint: {path} is not a dict with 'arch' and 'state_dict'")
    state = published["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"import_checkpoint: {path} holds a state_dict that is no dict of tensors by name")
    if not isinstance(published["arch"], str) or published["arch"] not in _PUBLISHED_NAMES:
        raise ValueError(
            f"import_checkpoint: {path} has arch {published['arch']!r}; wanted one of "
            f"{', '.join(_PUBLISHED_NAMES)}"
        )
    return dict(published)


def _strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop leading `module.` and positions ("0." normalisation, "1." network) of an nn.Sequential."""
    plain = {}
    for name, tensor in state.items():
        parts = name.split(".")
        while parts and (parts[0] == "module" or parts[0] in ("0", "1")):
            parts = parts[1:]
        plain[".".join(parts)] = tensor
    return plain


def _channel_values(stored: Tensor | None, default: Sequence[float]) -> list[float]:
    return list(default) if stored is None else [float(value) for value in stored.flatten()]
