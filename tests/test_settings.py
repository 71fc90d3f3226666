"""A setting's default and help are said once, and reach the command line from there."""

import argparse
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dualrs_lab.cli.options import add_option
from dualrs_lab.cli.parser import Parser
from dualrs_lab.settings import SEED, Range, check_settings, required, setting


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
    size_kept: int = setting(5, "within bounds", Range(whole=True, least=1, most=9))


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
    assert vars(parser.parse_args([])) == {"hush": 7}
    assert "--hush H quiet (default: 7)" in " ".join(parser.format_help().split())


def test_without_a_default_it_is_required_and_without_help_refused() -> None:
    parser = Parser()
    add_option(parser, Wish, "size", help="how large")
    assert parser.parse_args(["--size", "2"]).size == 2.0
    with pytest.raises(ValueError, match="required: --size"):
        parser.parse_args([])
    with pytest.raises(KeyError, match="help"):
        add_option(parser, Wish, "silent")


# ---- ranges


@pytest.mark.parametrize(
    ("within", "fine", "wrong"),
    [
        (Range(), ["0", "-1.5", "+2", "1e3", ".5", "5.", " 7 "], ["", "x", "1e", "1_0", "nan", "0x1", "１"]),
        (Range(), ["-1e-300"], ["inf", "-inf", "infinity", "1e999", "1 2", "--1"]),
        (Range(whole=True), ["0", "-3", "12345678901234567890"], ["1.0", "1e3", "1_0", "--1", "9" * 500]),
        (Range(least=1, most=2), ["1", "2"], ["0.99", "2.01"]),
        (Range(above=1, below=2), ["1.01", "1.99"], ["1", "2"]),
        (Range(whole=True, least=1, also=-1), ["-1", "1"], ["0", "-2"]),
        (SEED, ["0", str(2**63 - 1)], ["-1", str(2**63)]),
    ],
)  # fmt: skip
def test_a_range_reads_its_numbers_and_refuses_all_else(
    within: Range, fine: list[str], wrong: list[str]
) -> None:
    for text in fine:
        assert within.read(text) in within
        assert within.read(text) == float(text) or within.whole
    for text in wrong:
        with pytest.raises(ValueError, match=f"want {re.escape(str(within))}$"):
            within.read(text)


@pytest.mark.parametrize("value", [True, "1", None, 1.0, float("nan"), float("inf"), [1], 1 + 0j])
def test_what_is_no_whole_number_is_in_no_range_of_whole_numbers(value: object) -> None:
    assert value not in Range(whole=True)
    assert np.int64(3) in Range(whole=True)
    assert np.float32(3) in Range(least=3)


def test_a_range_says_what_it_is() -> None:
    assert str(Range()) == "a number"
    assert str(SEED) == "a whole number >= 0 and <= 2^63 - 1"
    wide = Range(whole=True, least=1, most=10**9, also=-1)
    assert str(wide) == "a whole number >= 1 and <= 1,000,000,000, or -1"
    assert str(Range(above=0, below=0.5)) == "a number > 0 and < 0.5"


@dataclass(frozen=True, kw_only=True)
class Bound:
    seed: int = required("of everything", SEED)
    few: int = setting(3, "few", Range(whole=True, least=1, most=9))
    open: int | None = setting(None, "left open", Range(whole=True, least=1))

    def __post_init__(self) -> None:
        check_settings(self)


def test_settings_out_of_range_are_refused_by_class_name_and_value() -> None:
    assert Bound(seed=0, open=2).few == 3
    for changes, text in [
        ({"seed": -1}, "Bound: got seed -1; wanted a whole number >= 0 and <= 2^63 - 1"),
        ({"seed": 0, "few": 3.0}, "Bound: got few 3.0; wanted a whole number >= 1 and <= 9"),
        ({"seed": 0, "few": None}, "Bound: got few None"),
        ({"seed": 0, "open": 0}, "Bound: got open 0; wanted a whole number >= 1"),
    ]:
        with pytest.raises(ValueError, match=re.escape(text)):
            Bound(**changes)
    with pytest.raises(TypeError, match="seed"):
        Bound()
    parser = Parser()
    add_option(parser, Bound, "few")
    with pytest.raises(ValueError, match="argument --few: 10: want a whole number >= 1 and <= 9"):
        parser.parse_args(["--few", "10"])
