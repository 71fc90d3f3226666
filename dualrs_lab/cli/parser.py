"""What the commands share: a parser that says what is wrong in one line. Loads at once, as help must.

Every word is read strictly where it is given: what is no number of the range that its setting has, no path,
or no table of ours is refused before anything is loaded.
"""

from argparse import ArgumentParser, ArgumentTypeError, HelpFormatter, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from dualrs_lab.afar.address import address_text, is_afar, last_name
from dualrs_lab.settings import Range

__all__ = [
    "Afar",
    "Command",
    "Parser",
    "a_fraction",
    "a_name",
    "a_new_file",
    "a_number",
    "a_path",
    "a_run_folder",
    "a_table",
    "a_weights",
    "new_weights",
    "some_numbers",
]


EXAMPLE = "example:"


class _Help(HelpFormatter):
    """Lays text out to the width of the terminal, but for examples: lines that are meant to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLE) else super()._fill_text(text, width, indent)


class Parser(ArgumentParser):
    """Says what is wrong in one line, without the usage in front."""

    def __init__(self, *, example: str = "", **kwargs: Any) -> None:
        epilog = "".join([EXAMPLE, *(f"\n  {line}" for line in example.splitlines())]) if example else None
        super().__init__(**kwargs, epilog=epilog, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        for word in args or ():
            if word.startswith("--") and word.endswith("=--"):  # argparse takes it for the end of options
                self.error(f"argument {word[:-3]}: '--' is no value")
        return super().parse_known_args(args, namespace)


class Afar(NamedTuple):
    """What an option says that is an address, until `outputs.at_hand` puts a path in its place."""

    address: str
    use: str = "read"  # a file; or "write" one, or work in a "folder"


class Command(NamedTuple):
    """A command: `options` adds what it takes to its parser, and is called only where the command is."""

    name: str
    help: str
    options: Callable[[Parser], None]
    run: Callable[[Namespace], int]
    example: str  # lines with which its help ends
    description: str | None = None
    takes_rest: bool = False  # words that its parser does not know are no mistake, but `options.rest`


def a_number(within: Range) -> Callable[[str], int | float]:
    """Reads a word that is a number of this range."""

    def read(text: str) -> int | float:
        try:
            return within.read(text)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from None

    return read


def some_numbers(within: Range) -> Callable[[str], list[float]]:
    """Reads a word such as 0,0.25,0.5 whose numbers are all of this range."""

    def read(text: str) -> list[float]:
        try:
            return [within.read(part) for part in text.split(",")]
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r}: want numbers separated by commas: {error}") from None

    return read


def a_fraction(within: Range) -> Callable[[str], float]:
    """Reads a word such as 8/255 or 0.03 that is in this range."""

    def read(text: str) -> float:
        above, slash, below = text.partition("/")
        try:
            value = Range().read(above) / (Range().read(below) if slash else 1)
        except (ValueError, ArithmeticError):
            raise ArgumentTypeError(f"{text}: want a number or a fraction such as 8/255") from None
        if value not in within:
            raise ArgumentTypeError(f"{text}: want {within}, such as 8/255")
        return value

    return read


def a_name(text: str) -> str:
    """Reads a word that can name something."""
    if not text.strip() or "\0" in text:
        raise ArgumentTypeError(f"{text!r} names nothing")
    return text


def a_path(text: str) -> Path | Afar:
    """Reads a word that can be a path, or the address of a file that is read."""
    return Afar(text) if is_afar(a_name(text)) else Path(text)


def a_new_file(text: str) -> Path | Afar:
    """Reads a word that says where a file goes."""
    return _ending("", text, "write")


def a_run_folder(text: str) -> Path | Afar:
    """Reads a word that names a folder of runs."""
    return _ending("", text, "folder")


def a_table(text: str) -> Path | Afar:
    """Reads a word that names a table to be made."""
    return _ending(".tsv", text, "write")


def a_weights(text: str) -> Path | Afar:
    """Reads a word that names a file of weights of ours."""
    return _ending(".safetensors", text, "read")


def new_weights(text: str) -> Path | Afar:
    """Reads a word that says where a file of weights of ours goes."""
    return _ending(".safetensors", text, "write")


def _ending(ending: str, text: str, use: str) -> Path | Afar:
    place = a_path(text)
    name = last_name(text) if isinstance(place, Afar) else place.name
    if not name.endswith(ending) or name == ending:
        raise ArgumentTypeError(f"{address_text(text)}: want a name that ends in {ending}")
    return Afar(text, use) if isinstance(place, Afar) else place
