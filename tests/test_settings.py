"""A setting's default and help are said once, and reach the command line from there."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest

from dualrs_lab.cli.options import add_option
from dualrs_lab.cli.parser import Parser
from dualrs_lab.settings import setting


@dataclass(frozen=True, kw_only=True)
class Wish:
    size: float
    number: int = setting(3, "how many, 100 % of them")
    limit: int | None = setting(None, "at most (default: any)")
    bold: bool = setting(False, "in bold")
    kept: bool = setting(True, "kept")
    chosen: bool | None = setting(None, "chosen (default: if it repays)")
    place: Path = setting(Path("here"), "where it goes")
    silent: int = 0


def grant(number: int, much: str = "a little") -> None:
    del number, much


def parse(parser: Parser, *words: str) -> argparse.Namespace:
    for name in ("number", "limit", "bold", "kept", "chosen", "place"):
        add_option(parser, Wish, name)
    return parser.parse_args(words)


def test_a_setting_is_a_field_with_its_help() -> None:
    assert Wish(size=1).number == Wish.number == 3
    assert dataclasses.replace(Wish(size=1), number=4).number == 4
    help = {field.name: field.metadata.get("help") for field in dataclasses.fields(Wish)}
    assert (help["size"], help["bold"]) == (None, "in bold")


def test_defaults_come_from_the_fields() -> None:
    parsed = vars(parse(Parser()))
    assert Wish(size=1, **parsed) == Wish(size=1)


def test_types_come_from_the_fields() -> None:
    words = ["--number", "4", "--limit", "5", "--bold", "--no-kept", "--no-chosen", "--place", "there"]
    parsed = vars(parse(Parser(), *words))
    expected = {"number": 4, "limit": 5, "bold": True, "kept": False, "chosen": False, "place": Path("there")}
    assert parsed == expected
    with pytest.raises(ValueError, match="argument --number: invalid int value: 'x'"):
        parse(Parser(), "--number", "x")
    with pytest.raises(ValueError, match="argument --limit: invalid int value: 'x'"):
        parse(Parser(), "--limit", "x")


def test_help_and_its_default_come_from_the_fields() -> None:
    parser = Parser()
    parse(parser)
    shown = " ".join(parser.format_help().split())
    for text in (
        "how many, 100 % of them (default: 3)", "at most (default: any) ", "in bold ",
        "kept (default: on)", "chosen (default: if it repays)", "where it goes (default: here)",
    ):  # fmt: skip
        assert text in f"{shown} "
    assert shown.count("(default:") == 5


def test_the_command_line_may_say_otherwise() -> None:
    parser = Parser()
    add_option(parser, Wish, "silent", default=7, help="quiet", flag="--hush", metavar="H")
    add_option(parser, grant, "much", help="how much")
    assert vars(parser.parse_args([])) == {"hush": 7, "much": "a little"}
    assert "--hush H quiet (default: 7)" in " ".join(parser.format_help().split())


def test_without_a_default_it_is_required_and_without_help_refused() -> None:
    parser = Parser()
    add_option(parser, Wish, "size", help="how large")
    assert parser.parse_args(["--size", "2"]).size == 2.0
    with pytest.raises(ValueError, match="required: --size"):
        parser.parse_args([])
    with pytest.raises(KeyError, match="help"):
        add_option(parser, Wish, "silent")
