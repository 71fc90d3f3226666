"""Small files that anybody may have written: read in bounded time, and never trusted.

A notebook may write into its own run's folder, a kill or a full disk may leave half a file there. Whatever is
found, reading it ends; what cannot be read is one ValueError that says why. Standard library only.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["encodable", "parse_json", "printable", "read_tail", "read_text"]


LARGEST = 64_000_000  # bytes; nothing that is read here is meant to come near it


DEEPEST = 100  # levels of lists and tables; a hostile file has thousands, and breaks who walks through them


def read_text(path: Path, *, largest: int = LARGEST) -> str:
    """The UTF-8 text of a regular file.

    Raises FileNotFoundError where there is none, ValueError for what is no file (a FIFO would never end), too
    large, unreadable or no text.
    """
    with _regular(path) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"{path.name} takes more than {largest / 1e6:g} MB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_tail(path: Path, size: int) -> str:
    """The end of a text file, `size` bytes at most; "" for what is missing or no readable file."""
    try:
        with _regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size).decode("utf-8", errors="replace")
    except (ValueError, FileNotFoundError):
        return ""


@contextmanager
def _regular(path: Path) -> Iterator[BinaryIO]:
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # does not wait at a FIFO
        with os.fdopen(number, "rb") if stat.S_ISREG(os.fstat(number).st_mode) else _no_file(number) as file:
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} not found") from None
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror or error}") from None


def _no_file(number: int) -> BinaryIO:
    os.close(number)
    raise OSError("it is no regular file")


def parse_json(text: str, what: str) -> Any:
    """The value of JSON text; `what` names it in the ValueError for anything that could harm a reader later.

    That is text that is no JSON, lists within lists without end, and halves of surrogate pairs, which no file
    can hold.
    """
    try:
        value = json.loads(text)
        _check(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON that can be kept: {error}") from None
    return value


def _check(value: object) -> None:
    level = [value]
    for _ in range(DEEPEST):
        for one in level:
            if isinstance(one, str):
                one.encode("utf-8")
        tables = [one for one in level if isinstance(one, dict)]
        inner: list[object] = [part for table in tables for pair in table.items() for part in pair]
        level = inner + [part for one in level if isinstance(one, list) for part in one]
        if not level:
            return
    raise ValueError(f"more than {DEEPEST} lists or tables within each other")


def encodable(text: str) -> str:
    """Text that every file can hold: halves of surrogate pairs are written as their escapes."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def printable(text: str) -> str:
    """Text for one line of a terminal: what would move the cursor, ring or hide is written as its escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
