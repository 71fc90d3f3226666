"""The cells of a table, read exactly: plain digits, floats to the last bit, nothing guessed.

Python's own `int` and `float` take more than a table may hold (`1_0.25`, ` 7`, digits of other scripts). A
file is read in blocks of lines, and cells of a known kind become numbers block by block: a million rows take
little more memory than the file and the table.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.store import unchanged

__all__ = ["read_cells", "typed"]


_WHOLE = re.compile(r"-?[0-9]+")


_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?inf|nan")


_CLOCK = re.compile(r"(?:[0-9]+ days?, )?[0-9]+:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?")


_BLOCK_BYTES = 2**16  # of lines that are split at a time: what stays in the caches


_SHARED = 2**16  # different texts of a column that are held once for all rows, at most


def read_cells(
    call: str, path: Path, wanted: str, check: Callable[[str, list[str]], None], kinds: Mapping[str, type]
) -> pd.DataFrame:
    """The tab separated file at `path` as `typed` reads it, with columns that passed `check(call, columns)`.

    Raises FileNotFoundError that says what was `wanted`, and ValueError as `store.unchanged` and `typed` do,
    for bytes that are no UTF-8, for names of columns that come twice, and for a last line that is unfinished
    or any that has other cells than the header.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{call}: no such file; wanted {wanted}")
    data = unchanged(call.partition("(")[0], path)
    header, first = _header(call, data)
    check(call, header)
    rows = data.count(b"\n") - 1
    columns = [_Column(name, kinds.get(name), rows) for name in header]
    for cells in _blocks(call, data, first, len(header)):
        with _saying(call):
            for column, texts in zip(columns, cells, strict=True):
                column.add(texts)
    del data
    with _saying(call):
        return _table(columns)


def typed(cells: Mapping[str, Sequence[str]], kinds: Mapping[str, type]) -> pd.DataFrame:
    """A table of these cells; a column without a kind takes the first of int, float, str that fits all.

    An empty cell is a missing value. Raises ValueError that names the column and the cell.
    """
    columns = [_Column(name, kinds.get(name), len(texts)) for name, texts in cells.items()]
    for column, texts in zip(columns, cells.values(), strict=True):
        column.add(list(texts))
    return _table(columns)


@contextmanager
def _saying(call: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{call}: {error}.") from None


def _header(call: str, data: bytes) -> tuple[list[str], int]:
    # the names of the columns, and where the first row begins
    if not data.endswith(b"\n"):
        raise ValueError(f"{call}: the last line is unfinished; repair_table cuts it, a newline accepts it.")
    first = data.index(b"\n") + 1
    header = _lines(call, data[:first]).split("\t")
    if len(set(header)) < len(header):
        raise ValueError(f"{call}: wanted a tab separated header of different names, got {header}.")
    return header, first


def _lines(call: str, data: bytes) -> str:
    # whole lines as text, without the end of the last
    try:
        return data.decode("utf-8").replace("\r\n", "\n").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{call}: not a table, but bytes that are no UTF-8 ({error.reason}).") from None


def _blocks(call: str, data: bytes, first: int, width: int) -> Iterator[list[list[str]]]:
    # some rows at a time from the byte `first` on, each of `width` cells, column by column
    line = 2
    while first < len(data):
        end = data.index(b"\n", min(first + _BLOCK_BYTES, len(data) - 1)) + 1
        text, first = _lines(call, data[first:end]), end
        count = text.count("\n") + 1
        cells = text.replace("\n", "\t\n\t").split("\t")  # with a cell "\n" between two rows
        if len(cells) != count * (width + 1) - 1 or cells[width :: width + 1].count("\n") != count - 1:
            _refuse_lines(call, text, line, width)
        yield [cells[column :: width + 1] for column in range(width)]
        line += count


def _refuse_lines(call: str, text: str, line: int, width: int) -> None:
    for number, row in enumerate(text.split("\n"), start=line):
        if (found := row.count("\t") + 1) != width:
            raise ValueError(f"{call}: line {number} has {found} cells, the header has {width}.")


class _Column:
    """`rows` cells under one name, taken some at a time; without a kind they wait as texts that say it."""

    def __init__(self, name: str, kind: type | None, rows: int) -> None:
        self.name, self.kind = name, kind
        self._values = np.zeros(rows, dtype=kind if kind in (int, float) else object)
        self._gaps = np.zeros(rows, dtype=bool)  # where a cell is empty
        self._taken = 0
        self._known: dict[str, str] = {}

    def add(self, texts: list[str]) -> None:
        """Take the next cells; ValueError names one that is not of the kind of the column."""
        here = slice(self._taken, self._taken + len(texts))
        self._taken = here.stop
        if "" in texts:
            self._gaps[here] = [not text for text in texts]
        if self.kind in (int, float):
            self._values[here] = _numbers(self.name, texts, self.kind)
        else:
            self._values[here] = self._shared(texts)

    def series(self) -> "pd.Series[Any]":
        """All cells."""
        if self.kind in (int, float):
            return _series(self._values, self._gaps)
        if self.kind is None:
            for kind in (int, float):
                with suppress(ValueError, OverflowError):
                    return _series(_numbers(self.name, self._values.tolist(), kind), self._gaps)
        self._values[self._gaps] = None
        return pd.Series(self._values, dtype="str")

    def _shared(self, texts: list[str]) -> list[str]:
        # equal texts as one object, as long as a column does not hold too many different ones
        known = self._known
        if _alike(texts):
            return [known.setdefault(texts[0], texts[0])] * len(texts)
        if len(known) < _SHARED:
            return [known.setdefault(text, text) for text in texts]
        return [known.get(text, text) for text in texts]


def _table(columns: Sequence[_Column]) -> pd.DataFrame:
    return pd.DataFrame({column.name: column.series() for column in columns}, copy=False)


def _series(values: NDArray[Any], gaps: NDArray[np.bool_]) -> "pd.Series[Any]":
    if not gaps.any():
        return pd.Series(values)
    if values.dtype.kind == "i":
        return pd.Series(pd.arrays.IntegerArray(values, gaps))
    values[gaps] = np.nan
    return pd.Series(values)


def _alike(texts: Sequence[str]) -> bool:
    return len(texts) > 0 and texts.count(texts[0]) == len(texts)


def _numbers(name: str, texts: Sequence[str], kind: type) -> NDArray[Any]:
    # an empty cell becomes 0
    alike = _alike(texts)
    try:
        found = _read([text or "0" for text in (texts[:1] if alike else texts)], name, kind)
        return np.full(len(texts), found[0], dtype=kind) if alike else np.array(found, dtype=kind)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"column {name}: {error}") from None


# Texts of these signs alone are read by Python's own function exactly if they are by ours.
_SIGNS = {int: b"0123456789-\t", float: b"0123456789-+.eE\t"}


def _read(texts: Sequence[str], name: str, kind: type) -> list[Any]:
    if not "\t".join(texts).encode("utf-8").translate(None, _SIGNS[kind]):
        with suppress(ValueError):  # ours says what is wrong
            return [*map(kind, texts)]
    read = _seconds if name == "time" else _whole if kind is int else _number
    return [read(text) for text in texts]


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
