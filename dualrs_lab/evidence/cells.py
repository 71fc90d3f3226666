"""The cells of a table, read exactly: plain digits, floats to the last bit, nothing guessed.

Python's own `int` and `float` take more than a table may hold (`1_0.25`, ` 7`, digits of other scripts).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dualrs_lab.store import unchanged

__all__ = ["read_cells", "split_cells", "typed"]


_WHOLE = re.compile(r"-?[0-9]+")


_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?inf|nan")


_CLOCK = re.compile(r"(?:[0-9]+ days?, )?[0-9]+:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?")


def read_cells(
    call: str, path: Path, wanted: str, check: Callable[[str, list[str]], None], kinds: Mapping[str, type]
) -> pd.DataFrame:
    """The file at `path` as `typed` reads it, with columns that passed `check(call, columns)`.

    Raises FileNotFoundError that says what was `wanted`, and ValueError as `store.unchanged`, `split_cells`
    and `typed` do.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{call}: no such file; wanted {wanted}")
    cells = split_cells(call, unchanged(call.partition("(")[0], path))
    check(call, [*cells])
    try:
        return typed(cells, kinds)
    except ValueError as error:
        raise ValueError(f"{call}: {error}.") from None


def split_cells(call: str, data: bytes) -> dict[str, list[str]]:
    """The cells of a tab separated file by column, each line whole; a ValueError says which one is not."""
    if not data.endswith(b"\n"):
        raise ValueError(f"{call}: the last line is unfinished; repair_table cuts it, a newline accepts it.")
    try:
        lines = data.decode("utf-8").replace("\r\n", "\n")[:-1].split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{call}: not a table, but bytes that are no UTF-8 ({error.reason}).") from None
    header, *rows = (line.split("\t") for line in lines)
    if len(set(header)) < len(header):
        raise ValueError(f"{call}: wanted a tab separated header of different names, got {header}.")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"{call}: line {number} has {len(row)} cells, the header has {len(header)}.")
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    return {name: list(cells) for name, cells in zip(header, columns, strict=True)}


def typed(cells: Mapping[str, Sequence[str]], kinds: Mapping[str, type]) -> pd.DataFrame:
    """A table of these cells; a column without a kind takes the first of int, float, str that fits all.

    An empty cell is a missing value. Raises ValueError that names the column and the cell.
    """
    return pd.DataFrame({name: _column(name, texts, kinds.get(name)) for name, texts in cells.items()})


def _column(name: str, texts: Sequence[str], known: type | None) -> "pd.Series[Any]":
    failure = ""
    for kind in (int, float, str) if known is None else (known,):
        read = _seconds if name == "time" else _READERS[kind]
        try:
            values = [read(text) if text else None for text in texts]
            dtype = {int: "Int64" if None in values else "int64", float: "float64", str: "str"}[kind]
            return pd.Series(values, dtype=dtype)
        except (ValueError, OverflowError) as error:
            failure = str(error)
    raise ValueError(f"column {name}: {failure}")


def _whole(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"not a whole number in plain digits: {text!r}")
    return int(text)


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"could not convert string to float: {text!r}")
    return float(text)


def _seconds(text: str) -> float:
    # published logs write seconds or str(timedelta)
    return float(pd.to_timedelta(text).total_seconds()) if _CLOCK.fullmatch(text) else _number(text)


_READERS: dict[type, Callable[[str], object]] = {int: _whole, float: _number, str: str}
