"""Certificate tables that survive a kill: all rows of one making, appended whole, resumed without loss.

Beside a table `NAME.tsv` lies `NAME.json`, whose `identity` holds all that the rows depend on. A table is
continued only with the same identity, by one writer at a time. While rows are missing, its `sha256` is null;
of a finished table it is that of the file.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from dualrs_lab.evidence.certificate import COLUMNS
from dualrs_lab.evidence.claim import LOG_COLUMNS, Claim
from dualrs_lab.evidence.rows import IMAGE
from dualrs_lab.evidence.table import (
    append_rows,
    check_log,
    ends_whole,
    read_table,
    repair_table,
    write_table,
)
from dualrs_lab.locks import writing
from dualrs_lab.store import check_place, read_record, seal, take_up, write_record

__all__ = ["append_groups", "fill", "finished", "keep_table", "rows_at", "sort_rows", "spread", "taken_up"]


Row = Claim | Mapping[str, object]


_LATER = (IMAGE, "rule")  # columns that the first tables do not have; of rules they knew Cohen's only


def finished(
    call: str, path: Path, identity: Mapping[str, Any], positions: Sequence[int]
) -> pd.DataFrame | None:
    """The rows of `positions`, where the table at `path` has them all, of this identity; else None.

    Only reads. A table that some run has not finished yet, or that a kill has left, is not complete.
    """
    record = read_record(path)
    if record.get("identity") != identity or record.get("sha256", "") is None or not path.is_file():
        return None
    if not ends_whole(path):
        return None
    table = read_table(path)
    complete = set(positions) <= {*table["idx"]} and table["idx"].is_monotonic_increasing
    return _rows(table, positions) if complete else None


def taken_up(call: str, path: Path, identity: Mapping[str, Any], *, replace: bool = False) -> set[int]:
    """The idx that the table at `path` already holds, see `store.take_up`; an unfinished last line is cut.

    Nothing is touched unless the file begins as a table does and its record is one of ours: else ValueError.
    """
    with writing(call, path):
        table = _begun(call, path, identity, replace=replace)
        return set() if table is None else {*table["idx"].tolist()}


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
    check: Callable[[pd.DataFrame], None] = lambda _: None,
) -> pd.DataFrame:
    """The table at `path`, after appending `groups(the positions that it lacks, spread)` as they come.

    `record`, with its `identity`, goes into the json; `disagreement()` as well, measured when a table is
    begun. A table of another identity is refused, or with `replace` kept under another name; one that
    somebody else is writing is a ValueError that says who. `check` raises where the rows that are there are
    not to be gone on with. Rows may bring `IMAGE`; a table that was begun without goes on without it.
    """
    with writing(call, path):
        table = _begun(call, path, record["identity"], replace=replace)
        done, before = set[int](), dict[str, Any]()
        if table is not None:
            check(table)
            done, before = {*table["idx"].tolist()}, read_record(path)
        todo = spread([position for position in positions if position not in done])
        if todo:
            measured = before.get("disagreement") if done else disagreement()
            begun = {**record, "disagreement": measured, "sha256": None}
            append_groups(
                path,
                _recorded(call, path, begun, _as_begun(path, groups(todo))),
                total=len(positions),
                initial=len(positions) - len(todo),
                progress=progress,
                columns=columns,
            )
        table = sort_rows(path)
        if todo or "sha256" in before:
            seal(call, path)
        return _rows(table, positions)


def spread(positions: Sequence[int]) -> list[int]:
    """In an order of which every beginning lies evenly over all of them (van der Corput 1935).

    Test sets often come class by class: so a table that is cut short has as many of each, and what is
    certified so far tells what to expect.
    """
    bits = max(1, (len(positions) - 1).bit_length())
    order = sorted(range(len(positions)), key=lambda k: f"{k:0{bits}b}"[::-1])
    return [positions[k] for k in order]


def keep_table(call: str, path: Path, table: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """Write a whole table that took no time to make, with its record; an existing one is a ValueError."""
    with writing(call, path):
        check_place(call, path, ".tsv")
        if path.exists():
            raise ValueError(f"{call}: {path} is there already; choose another file or remove it")
        write_record(call, path, {**record, "sha256": None})
        write_table(path, table)
        seal(call, path)


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
            rows = [_cells(row) for row in group]
            append_rows(path, rows, columns=columns)
            right, seen = right + sum(bool(row["correct"]) for row in rows), seen + len(rows)
            bar.set_postfix(certified=f"{right / seen:.3f}", refresh=False)
            bar.update(len(rows))


def sort_rows(path: Path) -> pd.DataFrame:
    """Order by idx on disk: with early stopping, images are not done in the order in which they came."""
    table = read_table(path)
    if not table["idx"].is_monotonic_increasing:
        table = table.sort_values("idx", ignore_index=True)
        write_table(path, table)
    return table


def rows_at(path: Path, positions: Sequence[int]) -> pd.DataFrame:
    """The rows of these idx."""
    return _rows(read_table(path), positions)


def _begun(call: str, path: Path, identity: Mapping[str, Any], *, replace: bool) -> pd.DataFrame | None:
    # the whole rows of the table that is to be continued, if there is one
    check_place(call, path, ".tsv")
    rows = _recognised(call, path)
    if not take_up(call, [path], identity, replace=replace):
        return None
    if not rows:
        path.unlink()  # its header may be of other columns
        return None
    repair_table(path)
    return read_table(path)


def _rows(table: pd.DataFrame, positions: Sequence[int]) -> pd.DataFrame:
    return table[table["idx"].isin(positions)].reset_index(drop=True)


def _cells(row: Row) -> Mapping[str, object]:
    return row.to_row() if isinstance(row, Claim) else row


def _recorded(
    call: str, path: Path, record: Mapping[str, Any], groups: Iterable[Sequence[Row]]
) -> Iterator[Sequence[Row]]:
    # the record is written before the first row, and not before there is one: a run that fails leaves nothing
    for number, group in enumerate(groups):
        if not number:
            write_record(call, path, record)
        yield group


def _as_begun(path: Path, groups: Iterable[Sequence[Row]]) -> Iterator[Sequence[Row]]:
    # a table that was begun by an earlier version lacks columns
    known = _first_line(path).decode().rstrip("\r\n").split("\t") if path.exists() else _LATER
    lacking = {*_LATER} - {*known}
    for group in groups:
        if lacking:
            rows = [_cells(row).items() for row in group]
            group = [{name: cell for name, cell in row if name not in lacking} for row in rows]
        yield group


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline(100_000)


def _recognised(call: str, path: Path) -> int:
    # the number of whole rows of a table of ours, by its first line; it may have been cut within that
    if not path.exists():
        return 0
    line, start = _first_line(path), "\t".join(LOG_COLUMNS).encode()
    try:
        if line.endswith(b"\n"):
            check_log(call, line.decode("utf-8").rstrip("\r\n").split("\t"))
        elif not (start.startswith(line) or line.startswith(start + b"\t")):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{call}: {path} is no table of certificates, and stays as it is; choose another file"
        ) from None
    return max(0, path.read_bytes().count(b"\n") - 1)
