"""Options read from the code: default, type, range and help are said where the setting is.

Imported by the command that is called; the modules that hold settings need no torch.
"""

import argparse
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from dualrs_lab.cli.parser import Parser, a_name, a_number, a_path, some_numbers
from dualrs_lab.settings import COUNT, SEED, SIGMA, OneOf, Range

__all__ = ["CHECKED", "add_option", "add_training"]


CHECKED = 1000  # test images, evenly spaced, by which commands that train say what came of it


def add_training(parser: Parser, made: str, *, sigmas: str, metavar: str, epochs: int) -> None:
    """What commands that train ask for: images, levels of noise, and how long; `made` is what they train."""
    add = parser.add_argument
    add("--data", type=a_name, required=True, help="digits, cifar10, …, or folder:PATH")
    levels = some_numbers(Range(least=0, most=SIGMA.most))
    add("--sigmas", type=levels, required=True, metavar=metavar, help=sigmas)
    over = "over the training images (default: %(default)s)"
    add("--epochs", type=a_number(COUNT), default=epochs, help=over)
    add("--seed", type=a_number(SEED), default=0, help="of weights, order and noise (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: %(default)s)")
    kept = f"keep a {made} of other settings there under another name"
    add("--replace", action="store_true", help=kept)


def add_option(
    parser: "argparse._ActionsContainer", owner: type[Any], name: str, *, flag: str = "", **own: Any
) -> None:
    """Add --NAME for a field of a dataclass, with its default, type, range and help.

    `own` is what the command line says otherwise, as for `add_argument`; `flag` another name.
    """
    one = next(one for one in fields(owner) if one.name == name)
    default = own.pop("default", one.default)
    text = own.pop("help", "") or str(one.metadata["help"])
    required = default is MISSING
    parser.add_argument(
        flag or f"--{name.replace('_', '-')}",
        help=text.replace("%", "%%") + ("" if required else _shown(default)),
        default=None if required else default,
        required=required,
        **_taken(one, default) | own,
    )


def _shown(default: object) -> str:
    if default is None or default is False:  # the help itself says what that means
        return ""
    return " (default: on)" if default is True else " (default: %(default)s)"


def _taken(one: "Field[Any]", default: object) -> dict[str, Any]:
    """How `add_argument` takes a value of this type, or of this type or None; a bool needs no value."""
    kinds = [kind for kind in get_args(one.type) if kind is not NoneType]
    kind: Any = kinds[0] if len(kinds) < len(get_args(one.type)) else one.type
    if kind is bool:
        return {"action": "store_true" if default is False else argparse.BooleanOptionalAction}
    within = one.metadata.get("within")
    if isinstance(within, OneOf):
        return {"choices": within.names}
    readers: dict[Any, Callable[[str], Any]] = {
        int: a_number(within or Range(whole=True)),
        float: a_number(within or Range()),
        Path: a_path,
    }
    return {"type": readers.get(kind, kind)}
