"""What the commands share: a parser that says what is wrong in one line. Loads at once, as help must."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NamedTuple, NoReturn

__all__ = ["Command", "Parser", "numbers"]


class Parser(ArgumentParser):
    """Says what is wrong in one line, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


class Command(NamedTuple):
    """A command: `options` adds what it takes to its parser, and is called only where the command is."""

    name: str
    help: str
    options: Callable[[Parser], None]
    run: Callable[[Namespace], int]
    description: str | None = None
    takes_rest: bool = False  # words that its parser does not know are no mistake, but `options.rest`


def numbers(option: str, text: str) -> list[float]:
    """The numbers of a text such as 0,0.25,0.5."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r}: want numbers separated by commas") from None
