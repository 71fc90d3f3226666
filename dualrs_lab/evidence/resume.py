"""Certificate tables that survive a kill: all rows of one making, appended whole, resumed without loss.

Beside a table `NAME.tsv` lies `NAME.json`, whose `identity` holds all that the rows depend on. A table is
continued only with the same identity.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from dualrs_lab.evidence.certificate import COLUMNS
from dualrs_lab.evidence.claim import Claim
from dualrs_lab.evidence.table import append_rows, read_table, repair_table, write_table
from dualrs_lab.files import replace_json
from dualrs_lab.store import read_record, take_up

__all__ = ["append_groups", "fill", "rows_at", "sort_rows", "taken_up"]


Row = Claim | Mapping[str, object]


def taken_up(call: str, path: Path, identity: Mapping[str, Any], *, replace: bool = False) -> set[int]:
    """The idx that the table at `path` already holds, see `store.take_up`; an unfinished last line is cut."""
    if repair_table(path) == 0:
        path.unlink(missing_ok=True)  # its header may be of other columns
        return set()
    there = take_up(call, [path], identity, replace=replace)
    return set(read_table(path)["idx"].tolist()) if there else set()


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

    `record`, with its `identity`, goes into the json; `disagreement()` as well, measured when a table is
    begun. A table of another identity is refused, or with `replace` kept under another name.
    """
    before = read_record(path)
    done = taken_up(call, path, record["identity"], replace=replace)
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
            rows = [row.to_row() if isinstance(row, Claim) else row for row in group]
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
