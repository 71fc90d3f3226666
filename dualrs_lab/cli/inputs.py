"""A checkpoint and the images that it is judged on, as `certify` and `attack` take them."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualrs_lab.cli.parser import Parser, a_name, a_path

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["add_inputs", "choose_device", "read_model", "want_file"]


def add_inputs(parser: Parser) -> None:
    """Options for a network, a data set, and which of its images are taken."""
    from dualrs_lab.cli.options import add_option
    from dualrs_lab.settings import Subset

    parser.add_argument(
        "--checkpoint", type=a_path, required=True, metavar="FILE",
        help="a .safetensors of this package, or a published .pth.tar",
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


def read_model(options: Namespace) -> "tuple[nn.Module, dict[str, Any]]":
    """The network of --checkpoint, ours or a published one, and what is known of it."""
    path: Path = options.checkpoint
    want_file(options.name, "checkpoint", path)
    from dualrs_lab.models.checkpoints import load_checkpoint
    from dualrs_lab.models.published import import_checkpoint

    return load_checkpoint(path) if path.suffix == ".safetensors" else import_checkpoint(path)
