"""Certificate tables that survive a kill: all rows of one making, appended whole, resumed without loss.

Beside a table `NAME.tsv` lies `NAME.json`, whose `identity` holds all that the rows depend on. A table is
continued only with the same identity.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from dualrs_lab.certificates import (
    COLUMNS,
    Certificate,
    append_rows,
    read_table,
    repair_table,
    to_row,
    write_table,
)
from dualrs_lab.files import replace_json, set_aside

__all__ = ["append_groups", "begin", "fill", "plain", "read_record", "refuse_other", "rows_at", "sort_rows"]

Row = Certificate | Mapping[str, object]


def plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """`identity` as a json file returns it, with lists for tuples."""
    return dict(json.loads(json.dumps(identity)))


def read_record(path: Path) -> dict[str, Any]:
    """The json file beside the table at `path`; empty if there is none."""
    made = path.with_suffix(".json")
    return dict(json.loads(made.read_text())) if made.exists() else {}


def begin(call: str, path: Path, identity: Mapping[str, Any], *, replace: bool = False) -> set[int]:
    """The idx that the table at `path` already holds; an unfinished last line is cut.

    A table with another identity raises ValueError or, with `replace`, is kept under another name with a
    warning.
    """
    if repair_table(path) == 0:
        path.unlink(missing_ok=True)  # its header may be of other columns
        return set()
    found = read_record(path).get("identity")
    if found == identity:
        return set(read_table(path)["idx"].tolist())
    if not replace:
        refuse_other(call, path, found, identity)
    kept = set_aside(path, path.with_suffix(".json"))
    warnings.warn(f"{path.name} was made with other settings; it is now {kept[0].name}", stacklevel=3)
    return set()


def refuse_other(call: str, path: Path, found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
    """ValueError that names what differs between the identity found for `path` and the wanted one, if any."""
    known = found or {}
    differing = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
    if differing:
        there = {key: known.get(key) for key in differing} if found else "no record beside it"
        here = {key: wanted.get(key) for key in differing}
        raise ValueError(
            f"{call}: {path} was made with other settings ({', '.join(differing)}): found {there}, "
            f"wanted {here}; choose another file or remove it"
        )


def fill(
    call: str,
    path: Path,
    positions: Sequence[int],
    groups: Callable[[list[int]], Iterable[Sequence[Row]]],
    *,
    record: Mapping[str, Any],
    disagreement: Callable[[], Any],
    replace: bool,
    progress: bool,
    columns: Sequence[str] = COLUMNS,
) -> pd.DataFrame:
    """The table at `path`, after appending `groups(the positions that it lacks)` as they come.

    `record`, with its `identity`, goes into the json, and so does `disagreement()`, measured when a table is
    begun. As with `begin`, a table with another identity is refused or kept under another name.
    """
    before = read_record(path)
    done = begin(call, path, record["identity"], replace=replace)
    measured = before.get("disagreement") if done else disagreement()
    replace_json(path.with_suffix(".json"), {**record, "disagreement": measured})
    todo = [position for position in positions if position not in done]
    initial = len(positions) - len(todo)
    append_groups(
        path, groups(todo), total=len(positions), initial=initial, progress=progress, columns=columns
    )
    sort_rows(path)
    return rows_at(path, positions)


def append_groups(
    path: Path,
    groups: Iterable[Sequence[Row]],
    *,
    total: int,
    initial: int,
    progress: bool,
    columns: Sequence[str] = COLUMNS,
) -> None:
    """Append and flush each group of at least one row; show rate, time left and the share certified correct.

    `total` counts the images of the table, `initial` those that it already holds.
    """
    right = seen = 0
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    interval = 0.5 if watched else 30.0  # a log file gets a line every now and then
    with tqdm(
        total=total, initial=initial, unit="image", desc=path.name, disable=not progress, mininterval=interval
    ) as bar:
        for group in groups:
            rows = [to_row(row) if isinstance(row, Certificate) else row for row in group]
            append_rows(path, rows, columns=columns)
            right, seen = right + sum(bool(row["correct"]) for row in rows), seen + len(rows)
            bar.set_postfix(certified=f"{right / seen:.3f}", refresh=False)
            bar.update(len(rows))


def sort_rows(path: Path) -> None:
    """Order by idx on disk: with early stopping, images are not done in the order in which they came."""
    table = read_table(path)
    if not table["idx"].is_monotonic_increasing:
        write_table(path, table.sort_values("idx"))


def rows_at(path: Path, positions: Sequence[int]) -> pd.DataFrame:
    """The rows of these idx."""
    table = read_table(path)
    return table[table["idx"].isin(positions)].reset_index(drop=True)
