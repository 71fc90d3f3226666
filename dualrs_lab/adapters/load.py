"""Any network, by one string or one call: where it is from decides which room reads it."""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dualrs_lab.adapters.endpoint import ask_endpoint
from dualrs_lab.adapters.graphs import exported, is_exported, is_script, onnx_graph, scripted
from dualrs_lab.adapters.network import Adapted, Found, Numbers, adapt
from dualrs_lab.adapters.outside import Outside, black_box
from dualrs_lab.adapters.robustbench import by_names, robustbench_network
from dualrs_lab.adapters.weights import Weights, fill_in, read_weights, want_weights_file
from dualrs_lab.adapters.zoos import ZOOS, guess, hint_of, torchvision_filled
from dualrs_lab.models.checkpoints import load_checkpoint
from dualrs_lab.models.conduct import in_evaluation
from dualrs_lab.models.published import import_checkpoint
from dualrs_lab.runtime import pick_device

__all__ = ["load_network"]


_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


_WANTED = (
    "a file (a checkpoint, weights, .onnx, TorchScript, .pt2), torchvision:NAME, timm:NAME, hf:ORG/NAME or "
    "hf:FOLDER, robustbench:FILE, http://HOST:PORT/PATH, or module:factory"
)


_OF_COHEN = ("cifar_resnet20", "cifar_resnet56", "cifar_resnet110", "resnet50")


def load_network(
    source: str | Path | nn.Module | Callable[..., Any],
    *,
    weights: str | Path | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: int | Sequence[int] | None = None,
    classes: int | Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """The network behind `source`: float images `(B, C, H, W)` in [0, 1] -> logits, in evaluation mode.

    `source` is one of: a checkpoint of ours or in Cohen et al.'s layout; a file of weights that name their
    network; `.onnx`, TorchScript or `.pt2`; `torchvision:NAME`, `timm:NAME`, `hf:ORG/NAME` or `hf:FOLDER`,
    published or with `weights`, a file; `robustbench:FILE`; `module:factory`, a function of your code that
    gives a network, perhaps for `weights`; `http://…` (see `Endpoint`); a network, or a function of images
    (see `black_box`).

    `mean` and `std`, a number each or one a channel, are of images in [0, 1]; they become the first layer. A
    source that does not say them is refused, unless they are given. Images are brought to `size` inside, so
    radii stay in the pixels of the images that come. `classes` is wanted where labels come back, and compared
    elsewhere. The attribute `info` says what was loaded, and by what a table knows it. Files are read as
    plain tensors: nothing is unpickled, and only a `module:factory` runs code.

    Raises FileNotFoundError or ValueError that says what came, what was wanted and what to do.
    """
    place = pick_device(device) if isinstance(device, str) else device
    network = _loaded(source, weights, mean, std, size, classes, place)
    return network.to(place).eval()


def source_name(source: str | Path) -> str:
    """A source as records tell it: without folders, passwords or keys."""
    text = str(source)
    if text.startswith(("http://", "https://")):
        return re.sub(r"[?#].*", "", re.sub(r"//[^/@]*@", "//", text))
    scheme, _, name = text.partition(":")
    if scheme == "robustbench" or (scheme == "hf" and Path(name).is_dir()):
        return f"{scheme}:{Path(name).name}"
    return text if scheme in ZOOS or _FACTORY.fullmatch(text) else Path(text).name


def _loaded(
    source: str | Path | nn.Module | Callable[..., Any],
    weights: str | Path | None,
    mean: Numbers | None,
    std: Numbers | None,
    size: int | Sequence[int] | None,
    classes: int | Sequence[str] | None,
    device: torch.device,
) -> nn.Module:
    if not isinstance(source, str | Path):
        if weights is not None:
            raise ValueError(
                "load_network: got weights for a network that is there; load them into it before"
            )
        return _given(source, mean, std, size, classes)
    text = str(source)
    number = classes if classes is None or isinstance(classes, int) else len(classes)
    if text.startswith(("http://", "https://")):
        _alone(text, weights=weights)
        return _outside(ask_endpoint(text, classes=classes), text, mean, std, size)
    scheme, _, name = text.partition(":")
    if not os.path.lexists(text) and scheme not in ZOOS and scheme != "robustbench" and "://" in text:
        raise ValueError(f"load_network: got {text!r}; wanted {_WANTED}")
    if scheme in (*ZOOS, "robustbench") and not name.strip():
        raise ValueError(f"load_network: got {text!r}, which names nothing; wanted {_WANTED}")
    if scheme in ZOOS and not os.path.lexists(text):
        if isinstance(weights, Path) or (isinstance(weights, str) and "/" in weights):
            want_weights_file(Path(weights), "no weights")
        found = ZOOS[scheme](name, weights, number)
    elif scheme == "robustbench" and not os.path.lexists(text):
        _alone(text, weights=weights)
        found = robustbench_network(name)
    elif _FACTORY.fullmatch(text) and not os.path.lexists(text):
        made = _made(text, weights)
        if not isinstance(made, nn.Module):
            return _outside(black_box(made, classes=classes, name=text), text, mean, std, size)
        found = Found(body=made, kind="a factory", outputs=None)
    else:
        path = Path(source)
        if not path.exists() and path.name == text and not path.suffix:  # a word, not a path
            raise FileNotFoundError(f"load_network: no file {text}; wanted {_WANTED}")
        want_weights_file(path)
        _alone(text, weights=weights)
        ready = _checkpoint(path, mean, std, size)
        if ready is not None:
            return ready
        found = _from_file(path, number, device)
    how = {"mean": mean, "std": std, "size": size}
    network = adapt(found, source=source_name(source), classes=number, **how)  # type: ignore[arg-type]
    if weights is not None:
        network.info.setdefault("weights", Path(weights).name)
    return network


def _alone(text: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"load_network: {text} is whole; leave {name} out")


def _given(
    source: nn.Module | Callable[..., Any],
    mean: Numbers | None,
    std: Numbers | None,
    size: int | Sequence[int] | None,
    classes: int | Sequence[str] | None,
) -> nn.Module:
    # what is there already takes images in [0, 1], as our networks do, unless it is said what it takes
    if not isinstance(source, nn.Module):
        return _outside(black_box(source, classes=classes), "", mean, std, size)
    if isinstance(source, Outside):
        return _outside(source, "", mean, std, size)
    network = in_evaluation("load_network", source)
    assert isinstance(network, nn.Module)
    if mean is None and std is None and size is None:
        return network
    plain = {"mean": 0.0, "std": 1.0} if mean is None and std is None else {"mean": mean, "std": std}
    found = Found(body=network, kind="a network")
    number = classes if classes is None or isinstance(classes, int) else len(classes)
    return adapt(found, source=type(network).__name__, size=size, classes=number, **plain)


def _outside(
    box: Outside, source: str, mean: Numbers | None, std: Numbers | None, size: int | Sequence[int] | None
) -> Adapted:
    # a box takes images in [0, 1] by its contract, unless mean and std say that it does not
    found = Found(
        body=box,
        kind="black box",
        mean=0.0,
        std=1.0,
        outputs=box.classes,
        names=box.names,
        known_by="its name, and its answers to fixed images",
    )
    return adapt(
        found,
        source=source_name(source) if source else box.as_is,
        mean=mean,
        std=std,
        size=size,
        classes=None,
    )


def _checkpoint(
    path: Path, mean: Numbers | None, std: Numbers | None, size: int | Sequence[int] | None
) -> nn.Module | None:
    # ours, or in the layout of Cohen et al.: normalisation is in there, or known
    if path.suffix == ".safetensors" and path.with_suffix(".json").exists():
        _alone(path.name, mean=mean, std=std, size=size)
        model, info = load_checkpoint(path)
        model.info = {**info, "source": path.name, "kind": "checkpoint"}  # type: ignore[assignment]
        return model
    if path.suffix in (".safetensors", ".onnx", ".pt2") or is_script(path) or is_exported(path):
        return None
    held = read_weights(path)
    if held.arch not in _OF_COHEN:
        return None
    _alone(path.name, size=size)
    means, stds = (
        value if value is None or isinstance(value, Sequence) else [value] * 3 for value in (mean, std)
    )
    try:
        model, info = import_checkpoint(path, mean=means, std=stds)
    except ValueError as error:
        raise ValueError(f"{' '.join(str(error).split())[:500]}{hint_of(held.state)}") from None
    model.info = {**info, "source": path.name, "kind": "published checkpoint"}  # type: ignore[assignment]
    return model


def _from_file(path: Path, classes: int | None, device: torch.device) -> Found:
    if path.suffix == ".onnx":
        return onnx_graph(path, device)
    if path.suffix == ".pt2" or is_exported(path):
        return exported(path)
    return scripted(path) if is_script(path) else _told_by_weights(path, read_weights(path), classes)


def _told_by_weights(path: Path, held: Weights, classes: int | None) -> Found:
    from torchvision.models import list_models

    if name := held.arch if held.arch in list_models() else guess(held.state):
        return torchvision_filled(name, held.state, classes)
    if found := by_names(held.state, path.name):
        return found
    json = f" A checkpoint of ours has a {path.stem}.json beside it." if path.suffix == ".safetensors" else ""
    raise ValueError(
        f"load_network: {path} holds weights ({', '.join([*held.state][:3])}, …), and not of which network"
        f"{f' ({held.arch!r} is none of torchvision)' if held.arch else ''}; name it: torchvision:NAME, "
        f"timm:NAME, hf:NAME or module:factory with weights={path.name} (--weights).{json}"
    )


def _made(text: str, weights: str | Path | None) -> Any:
    module, _, name = text.partition(":")
    with _working_folder():
        try:
            factory = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"load_network: {text} cannot be imported ({error}); wanted a function of a module that "
                f"Python finds from here, or {_WANTED}"
            ) from error
    made = factory
    if callable(factory) and not isinstance(factory, nn.Module):
        try:
            inspect.signature(factory).bind()
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"load_network: {text} wants arguments ({error}); name a function that takes none and "
                "gives a network"
            ) from None
        made = factory()
    if weights is None:
        return made
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"load_network: {text} gives a {type(made).__name__}; weights are for a torch.nn.Module"
        )
    return fill_in(made, read_weights(weights).state, text)


@contextmanager
def _working_folder() -> Iterator[None]:
    # a command finds modules of the folder that it is called in, as `python -m` does
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
