"""What the commands share: a parser that says what is wrong in one line, and options read from the code."""

import argparse
import inspect
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

__all__ = ["Command", "Parser", "add_option", "numbers"]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: `options` adds what it takes to its parser, and is called only where the command is."""

    name: str
    help: str
    options: Callable[[Parser], None]
    run: Callable[[Namespace], int]
    description: str | None = None
    takes_rest: bool = False  # words that its parser does not know are no mistake, but `options.rest`


def add_option(
    parser: "argparse._ActionsContainer", owner: Callable[..., Any], name: str, *, flag: str = "", **own: Any
) -> None:
    """Add --NAME for a field of a dataclass or a parameter of a function, with its default, type and help.

    `own` is what the command line says otherwise, as for `add_argument`; `flag` another name.
    """
    default = own.pop("default", inspect.signature(owner).parameters[name].default)
    text = own.pop("help", "") or _help(owner, name)
    required = default is inspect.Parameter.empty
    parser.add_argument(
        flag or f"--{name.replace('_', '-')}",
        help=text.replace("%", "%%") + ("" if required else _shown(default)),
        default=None if required else default,
        required=required,
        **_taken(get_type_hints(owner)[name], default),
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


def numbers(option: str, text: str) -> list[float]:
    """The numbers of a text such as 0,0.25,0.5."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r}: want numbers separated by commas") from None
