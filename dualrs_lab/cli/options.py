"""Options read from the code: a default, a type and a help are said where the setting is.

Imported by the command that is called, with the modules that hold its settings; no other waits for them.
"""

import argparse
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args

__all__ = ["add_option"]


def add_option(
    parser: "argparse._ActionsContainer", owner: Callable[..., Any], name: str, *, flag: str = "", **own: Any
) -> None:
    """Add --NAME for a field of a dataclass or a parameter of a function, with its default, type and help.

    `own` is what the command line says otherwise, as for `add_argument`; `flag` another name.
    """
    parameter = inspect.signature(owner).parameters[name]
    default = own.pop("default", parameter.default)
    text = own.pop("help", "") or _help(owner, name)
    required = default is inspect.Parameter.empty
    parser.add_argument(
        flag or f"--{name.replace('_', '-')}",
        help=text.replace("%", "%%") + ("" if required else _shown(default)),
        default=None if required else default,
        required=required,
        **_taken(parameter.annotation, default),
        **own,
    )


def _help(owner: Callable[..., Any], name: str) -> str:
    settings = fields(owner) if isinstance(owner, type) and is_dataclass(owner) else ()
    return next((str(one.metadata["help"]) for one in settings if one.name == name), "")


def _shown(default: object) -> str:
    if default is None or default is False:  # the help itself says what that means
        return ""
    return " (default: on)" if default is True else " (default: %(default)s)"


def _taken(hint: Any, default: object) -> dict[str, Any]:
    """How `add_argument` takes a value of this type, or of this type or None; a bool needs no value."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    kind = kinds[0] if len(kinds) < len(get_args(hint)) else hint
    if kind is not bool:
        return {"type": kind}
    return {"action": "store_true" if default is False else argparse.BooleanOptionalAction}
