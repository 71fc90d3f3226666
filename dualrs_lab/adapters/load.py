"""Any network, by one string or one call: where it is from decides which room reads it."""

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dualrs_lab.adapters.endpoint import ask_endpoint
from dualrs_lab.adapters.graphs import exported, is_exported, is_script, onnx_graph, scripted
from dualrs_lab.adapters.network import Adapted, Found, Numbers, adapt
from dualrs_lab.adapters.outside import Outside, black_box
from dualrs_lab.adapters.robustbench import by_names, robustbench_network
from dualrs_lab.adapters.sources import FACTORY, SCHEMES, source_name
from dualrs_lab.adapters.weights import Weights, fill_in, read_weights, want_weights_file
from dualrs_lab.adapters.zoos import ZOOS, guess, hint_of, torchvision_filled
from dualrs_lab.afar.address import is_file_afar
from dualrs_lab.afar.fetching import at_hand
from dualrs_lab.models.checkpoints import load_checkpoint
from dualrs_lab.models.conduct import duplicate, in_evaluation
from dualrs_lab.models.networks import Classifier
from dualrs_lab.models.published import import_checkpoint
from dualrs_lab.runtime import pick_device

__all__ = ["load_network"]


_WANTED = (
    "a file (a checkpoint, weights, .onnx, TorchScript, .pt2), torchvision:NAME, timm:NAME, hf:ORG/NAME or "
    "hf:FOLDER, robustbench:FILE, http://HOST:PORT/PATH, a file at an address (s3://…), or module:factory"
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
    device: torch.device | str | None = None,
) -> nn.Module:
    """The network behind `source`: float images `(B, C, H, W)` in [0, 1] -> logits, in evaluation mode.

    `source` is one of: a checkpoint of ours or in Cohen et al.'s layout; a file of weights that name their
    network; `.onnx`, TorchScript or `.pt2`; `torchvision:NAME`, `timm:NAME`, `hf:ORG/NAME` or `hf:FOLDER`,
    published or with `weights`, a file; `robustbench:FILE`; `module:factory`, a function of your code that
    gives a network, perhaps for `weights`; `http://…` (see `Endpoint`); a network, or a function of images
    (see `black_box`). A file may be at an address that fsspec reads (`s3://…`, `hf://…`); behind http(s), one
    that ends as files of networks do is such a file, and any other a box that answers.

    `mean` and `std`, a number each or one a channel, are of images in [0, 1]; they become the first layer. A
    source that does not say them is refused, unless they are given. Images are brought to `size` inside, so
    radii stay in the pixels of the images that come. `classes` is wanted where labels come back, and compared
    elsewhere. The attribute `info` says what was loaded, and by what a table knows it. `device` is the CPU by
    default; a network that is given stays as it is and where it is, and a copy goes to another device. Files
    are read as plain tensors: nothing is unpickled, and only a `module:factory` runs code.

    Raises FileNotFoundError or ValueError that says what came, what was wanted and what to do.
    """
    if weights is not None:
        weights = at_hand("load_network", weights)
    place = pick_device(device) if isinstance(device, str) else device
    how = _How(weights, mean, std, size, classes, place or torch.device("cpu"))
    if isinstance(source, str | Path):
        return _named(source, how).to(how.device).eval()
    if weights is not None:
        raise ValueError("load_network: got weights for a network that is there; load them into it before")
    if isinstance(source, nn.Module) and not isinstance(source, Outside):
        return _given(source, how, place)
    box = source if isinstance(source, Outside) else black_box(source, classes=classes)
    return _outside(box, box.as_is, how).to(how.device).eval()


class _How(NamedTuple):
    # what was said of a network, and where it goes

    weights: str | Path | None
    mean: Numbers | None
    std: Numbers | None
    size: int | Sequence[int] | None
    classes: int | Sequence[str] | None
    device: torch.device

    @property
    def number(self) -> int | None:
        return self.classes if self.classes is None or isinstance(self.classes, int) else len(self.classes)

    def adapted(self, found: Found, name: str) -> Adapted:
        return adapt(found, source=name, mean=self.mean, std=self.std, size=self.size, classes=self.number)


def _named(source: str | Path, how: _How) -> nn.Module:
    text = str(source)
    scheme, _, name = text.partition(":")
    if os.path.lexists(text):
        return _in_file(Path(source), how)
    if is_file_afar(text):
        return _in_file(at_hand("load_network", text), how)
    if scheme in ("http", "https"):
        _alone(text, weights=how.weights)
        return _outside(ask_endpoint(text, classes=how.classes), source_name(text), how)
    if "://" in text:
        raise ValueError(f"load_network: got {text!r}; wanted {_WANTED}")
    if scheme in SCHEMES:
        return _in_zoo(text, scheme, name, how)
    if FACTORY.fullmatch(text):
        return _by_factory(text, how)
    raise FileNotFoundError(f"load_network: no file {text}; wanted {_WANTED}")


def _alone(text: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"load_network: {text} is whole; leave {name} out")


def _in_zoo(text: str, scheme: str, name: str, how: _How) -> Adapted:
    if not name.strip():
        raise ValueError(f"load_network: got {text!r}, which names nothing; wanted {_WANTED}")
    if scheme == "robustbench":
        _alone(text, weights=how.weights)
        return how.adapted(robustbench_network(name), source_name(text))
    network = how.adapted(ZOOS[scheme](name, how.weights, how.number), source_name(text))
    if how.weights is not None:
        network.info.setdefault("weights", Path(how.weights).name)
    return network


def _by_factory(text: str, how: _How) -> Adapted:
    made = _made(text, how.weights)
    if not isinstance(made, nn.Module):
        return _outside(black_box(made, classes=how.classes, name=text), text, how)
    return how.adapted(Found(body=made, kind="a factory"), text)


def _given(network: nn.Module, how: _How, place: torch.device | None) -> nn.Module:
    # what is there already takes images in [0, 1], as our networks do, unless it is said what it takes
    first = next((part.device for part in network.parameters()), how.device)
    here = first if place is None else place
    asked = in_evaluation("load_network", network if here == first else duplicate(network).to(here))
    if how.mean is None and how.std is None and how.size is None:
        return asked
    plain = how if how.mean is not None or how.std is not None else how._replace(mean=0.0, std=1.0)
    return plain.adapted(Found(body=asked, kind="a network"), type(network).__name__).to(here).eval()


def _outside(box: Outside, name: str, how: _How) -> Adapted:
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
    return how._replace(classes=None).adapted(found, name)


def _in_file(path: Path, how: _How) -> nn.Module:
    want_weights_file(path)
    _alone(str(path), weights=how.weights)
    ready = _checkpoint(path, how)
    return how.adapted(_from_file(path, how.number, how.device), path.name) if ready is None else ready


def _checkpoint(path: Path, how: _How) -> nn.Module | None:
    # ours, or in the layout of Cohen et al.: normalisation is in there, or known
    if path.suffix == ".safetensors" and path.with_suffix(".json").exists():
        _alone(path.name, mean=how.mean, std=how.std, size=how.size)
        model, info = load_checkpoint(path)
        return _told(model, info, path, "checkpoint", how)
    if path.suffix in (".safetensors", ".onnx", ".pt2") or is_script(path) or is_exported(path):
        return None
    held = read_weights(path)
    if held.arch not in _OF_COHEN:
        return None
    _alone(path.name, size=how.size)
    means, stds = (
        value if value is None or isinstance(value, Sequence) else [value] * 3
        for value in (how.mean, how.std)
    )
    try:
        model, info = import_checkpoint(path, mean=means, std=stds)
    except ValueError as error:
        raise ValueError(f"{' '.join(str(error).split())[:500]}{hint_of(held.state)}") from None
    return _told(model, info, path, "published checkpoint", how)


def _told(model: Classifier, info: dict[str, Any], path: Path, kind: str, how: _How) -> nn.Module:
    outputs = model.architecture["classes"]
    if how.number not in (None, outputs):
        raise ValueError(
            f"load_network: {path.name} tells {outputs} classes, {how.number} were wanted; choose the "
            "network of these images"
        )
    model.info = {**info, "source": path.name, "kind": kind}  # type: ignore[assignment]
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
