"""Options read from the code: default, type, range and help are said where the setting is.

Imported by the command that is called; the modules that hold settings need no torch.
"""

import argparse
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from dualrs_lab.cli.parser import a_number, a_path
from dualrs_lab.settings import OneOf, Range

__all__ = ["add_option"]


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
