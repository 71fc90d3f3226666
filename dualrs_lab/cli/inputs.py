"""A checkpoint and the images that it is judged on, as `certify` and `attack` take them."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualrs_lab.cli.parser import Parser

if TYPE_CHECKING:
    from torch import nn

__all__ = ["add_inputs", "read_model"]


def add_inputs(parser: Parser, table: Callable[..., Any]) -> None:
    """Options for what `table` takes, the function that judges images one by one."""
    from dualrs_lab.cli.options import add_option
    from dualrs_lab.runtime import pick_device

    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="FILE",
        help="a .safetensors of this package, or a published .pth.tar",
    )  # fmt: skip
    parser.add_argument("--data", required=True, help="digits, cifar10, …, or folder:PATH")
    parser.add_argument("--split", default="test", help="train or test (default: %(default)s)")
    add_option(parser, table, "skip", help="take every SKIP-th image")
    add_option(parser, table, "max_images", flag="--max", help="take at most MAX images; -1: all")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default: %(default)s)")
    add_option(parser, pick_device, "name", flag="--device", help="auto, cpu, cuda, cuda:1, …")


def read_model(options: Namespace) -> "tuple[nn.Module, dict[str, Any]]":
    """The network of --checkpoint, ours or a published one, and what is known of it."""
    path: Path = options.checkpoint
    if not path.is_file():
        raise FileNotFoundError(f"{options.name}: checkpoint {path} not found")
    from dualrs_lab.models.checkpoints import load_checkpoint
    from dualrs_lab.models.published import import_checkpoint

    return load_checkpoint(path) if path.suffix == ".safetensors" else import_checkpoint(path)
