"""A network and the images that it is judged on, as `certify` and `attack` take them."""

import os
from argparse import Namespace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualrs_lab.adapters.sources import names_a_source
from dualrs_lab.afar.address import is_file_afar
from dualrs_lab.cli.parser import Afar, Parser, a_name, a_number, a_path, some_numbers
from dualrs_lab.settings import COUNT, Range

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dualrs_lab.data.images import Images

__all__ = [
    "a_source",
    "add_inputs",
    "add_network",
    "behind",
    "choose_device",
    "read_model",
    "read_source",
    "told_of",
    "want_file",
]


def add_network(parser: Parser, *, required: bool = True) -> None:
    """Options for a network from anywhere."""
    parser.add_argument(
        "--checkpoint", "--model", type=a_source, required=required, metavar="SOURCE",
        help="a checkpoint, a file of weights, .onnx, .pt2, torchvision:NAME, timm:NAME, hf:ORG/NAME, "
        "robustbench:FILE, http://HOST/PATH, or module:factory",
    )  # fmt: skip
    how = parser.add_argument_group("a network from elsewhere (what its source does not say)")
    how.add_argument(
        "--weights", type=a_path, metavar="FILE", help="its weights: safetensors, or a state dict"
    )
    for name in ("mean", "std"):
        within = Range() if name == "mean" else Range(above=0)
        how.add_argument(
            f"--{name}", type=some_numbers(within), metavar="X,X,…",
            help=f"{name} of images in [0, 1] by which it normalises, one or one a channel",
        )  # fmt: skip
    how.add_argument(
        "--size", type=a_number(Range(whole=True, least=1, most=9999)), help="side to which it resizes images"
    )
    how.add_argument("--classes", type=a_number(COUNT), help="how many, where labels come back")


def add_inputs(parser: Parser) -> None:
    """Options for a network, a data set, and which of its images are taken."""
    from dualrs_lab.cli.options import add_option
    from dualrs_lab.settings import Subset

    add_network(parser)
    parser.add_argument(
        "--denoiser", type=a_denoiser, metavar="FILE",
        help="in front of the network: what `dualrs-lab denoiser` made, or diffusers:NAME at the noise of "
        "--sigma",
    )  # fmt: skip
    parser.add_argument("--data", type=a_name, required=True, help="digits, cifar10, …, or folder:PATH")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="(default: %(default)s)")
    add_option(parser, Subset, "skip")
    add_option(parser, Subset, "max_images", flag="--max")
    add_option(parser, Subset, "seed")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: %(default)s)")


def want_file(call: str, what: str, path: Path) -> None:
    """An error unless there is a regular file at `path`: a pipe would keep its reader waiting."""
    if not path.exists():
        raise FileNotFoundError(f"{call}: {what} {path} not found")
    if not path.is_file():
        raise ValueError(f"{call}: {what} {path} is no regular file")


def choose_device(options: Namespace) -> "torch.device":
    """The device of --device."""
    from dualrs_lab.runtime import pick_device

    try:
        return pick_device(options.device)
    except ValueError as error:
        raise ValueError(f"{options.name}: --device {options.device!r}: {error}") from error


def a_source(text: str) -> "Path | Afar | str":
    """Reads a word that names a network: a file here or afar, unless it begins as another source does."""
    if is_file_afar(a_name(text)):
        return a_path(text)
    return text if names_a_source(text) and not os.path.lexists(text) else a_path(text)


def a_denoiser(text: str) -> "Path | Afar | str":
    """Reads a word that names a denoiser: a path, or diffusers:NAME."""
    return a_name(text) if text.startswith("diffusers:") and not os.path.lexists(text) else a_path(text)


def behind(options: Namespace, model: "nn.Module", images: "Images") -> "tuple[nn.Module, dict[str, Any]]":
    """`model` behind the denoiser of --denoiser, if there is one, and what a record tells of the two."""
    source: Path | str | None = options.denoiser
    if source is None:
        return model, {}
    if isinstance(source, Path):
        want_file(options.name, "denoiser", source)
    from dualrs_lab.denoising.behind import Behind
    from dualrs_lab.denoising.sources import find_denoiser
    from dualrs_lab.models.checkpoints import fingerprint
    from dualrs_lab.models.suited import suited

    model = suited(options.name, model, images)
    denoiser, told = find_denoiser(
        source,
        shape=images.shape,
        sigma=getattr(options, "sigma", None),
        device=choose_device(options),
    )
    return Behind(denoiser, model), {"denoiser": told, "network_fingerprint": fingerprint(model)}


def read_model(options: Namespace) -> "tuple[nn.Module, dict[str, Any]]":
    """The network of --checkpoint (--model), and what is known of it."""
    if isinstance(options.weights, Path):
        want_file(options.name, "weights", options.weights)
    from dualrs_lab.adapters.network import one_or_many

    return read_source(
        options,
        options.checkpoint,
        "checkpoint",
        weights=options.weights,
        mean=one_or_many(options.mean or ()),
        std=one_or_many(options.std or ()),
        size=options.size,
        classes=options.classes,
    )


def read_source(
    options: Namespace, source: "Path | str", what: str, **how: Any
) -> "tuple[nn.Module, dict[str, Any]]":
    """The network of `source`, which is `what` to the caller, and what is known of it."""
    if isinstance(source, Path):
        want_file(options.name, what, source)
    from dualrs_lab.adapters.load import load_network

    model = load_network(source, **how, device=choose_device(options))
    info: dict[str, Any] = getattr(model, "info", {})
    return model, info


def told_of(info: "dict[str, Any]", source: str | Path) -> "dict[str, Any]":
    """What a record tells of the network of `read_model`: where it is from, and the digest of a file."""
    # of our checkpoints, their json says the rest
    ours, file = info.get("kind") in ("checkpoint", "published checkpoint"), Path(source)
    names = {name: value for name, value in info.items() if name != "names"}
    told: dict[str, Any] = {} if ours else {"network": names}
    if file.is_file():
        told["checkpoint_sha256"] = sha256(file.read_bytes()).hexdigest()
    return {"checkpoint": info["source"], **told}
