"""Recorded results as people read them: numbers of few digits, and lists of rows as small tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Grid", "as_grid", "shown"]


ROWS, COLUMNS = 40, 12  # of a table on the page; results.csv has all


ITEMS, LETTERS = 8, 200  # of a list or of a text; likewise


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A small table: texts that are shown, and which of its columns are numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    more: int = 0  # rows that are not shown


def as_grid(value: object) -> Grid | None:
    """A table where a result is one: a list of rows, or rows by their names; None for anything else."""
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        return _grid([one for one in value if isinstance(one, Mapping)], names=None)
    if not isinstance(value, Mapping) or not value:
        return None
    rows = list(value.values())
    if all(isinstance(one, Mapping) for one in rows):
        return _grid(rows, names=list(value))
    return _grid([{"value": one} for one in rows], names=list(value))


def _grid(found: Sequence[Mapping[str, object]], names: Sequence[str] | None) -> Grid:
    columns = list(dict.fromkeys(str(name) for row in found for name in row))[:COLUMNS]
    rows: list[list[object]] = [[row.get(name, "") for name in columns] for row in found[:ROWS]]
    if names is not None:
        columns, rows = ["", *columns], [[name, *row] for name, row in zip(names, rows, strict=False)]
    return Grid(header=columns, rows=rows, more=max(0, len(found) - ROWS))


def shown(value: object) -> str:
    """A value to read: numbers with four digits, the beginning of a long list or text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if value in ("", []):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and not any(isinstance(one, list | Mapping) for one in value):
        head = ", ".join(shown(one) for one in value[:ITEMS])
        return head if len(value) <= ITEMS else f"{head}, … ({len(value)} values)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"
