"""Tables of certificates: one row per image, the field's log format and our columns.

A table is a TSV whose first six columns are `idx label predict radius correct time`, so published logs load
here and ours load in the field's tools. Radii are l2 in the [0, 1] pixel unit, at full precision.
"""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dualrs_lab.evidence.certificate import COLUMNS
from dualrs_lab.evidence.claim import LOG_COLUMNS, Claim, Claims
from dualrs_lab.files import replace_text
from dualrs_lab.store import read_record

__all__ = ["append_rows", "as_table", "frame", "read_table", "repair_table", "write_table"]


TEXTS = ("method", "selection", "votes", "bound")


WHOLE = ("idx", "label", "predict", "correct", "n0", "n", "successes", "seed", "drawn")


def frame(claims: Iterable[Claim]) -> pd.DataFrame:
    """One row per claim, by the columns of its method; equal to what `read_table` reads of `append_rows`."""
    rows = [claim.to_row() for claim in claims]
    names = dict.fromkeys(name for row in rows for name in row) if rows else COLUMNS
    return _typed({name: [str(row.get(name, "")) for row in rows] for name in names})


def as_table(claims: Claims) -> pd.DataFrame:
    """A table of claims: as it is, or of claims one after the other by `frame`."""
    return claims if isinstance(claims, pd.DataFrame) else frame(claims)


def append_rows(
    path: str | Path,
    rows: Iterable[Claim | Mapping[str, object]],
    *,
    columns: Sequence[str] = COLUMNS,
) -> None:
    """Append whole rows and force them to the disk; the first call writes the header `columns`.

    A method with more to say passes more `columns`, and mappings as rows; a cell that a row lacks stays
    empty. Raises ValueError for a cell without a column, an unknown header, or an unfinished last line.
    """
    path, call = Path(path), f"append_rows({path})"
    started = path.exists() and path.stat().st_size > 0
    header = _header(path, call) if started else list(columns)
    _check_header(call, header)
    cells = [row.to_row() if isinstance(row, Claim) else row for row in rows]
    for row in cells:
        if wrong := row.keys() - set(header) or set(LOG_COLUMNS) - row.keys():
            raise ValueError(f"{call}: {sorted(wrong)} missing in the row or in the table of {header}.")
    text = _tsv(pd.DataFrame(cells, columns=header, dtype=object), header=not started)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def repair_table(path: str | Path) -> int:
    """Cut off an unfinished last line, as a kill leaves it; returns the number of whole rows (0 if no file).

    A file that ends within its header becomes empty, which `append_rows` takes for a new one.
    """
    path = Path(path)
    if not path.exists():
        return 0
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return max(0, whole.count(b"\n") - 1)


def read_table(path: str | Path) -> pd.DataFrame:
    """A table of ours, or a published log (six columns; time as h:mm:ss or in seconds): one row per line.

    Every line is kept, or the call fails with a ValueError that says which line has too many or too few cells
    or is unfinished (`repair_table` cuts it off). A log without `method` gets the method "published".
    """
    path, call = Path(path), f"read_table({path})"
    if not path.is_file():
        raise FileNotFoundError(f"{call}: no such file; wanted a certificate table or a published log.")
    header = _header(path, call)
    _check_header(call, header)
    rows = [line.split("\t") for line in path.read_text("utf-8")[:-1].split("\n")[1:]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"{call}: line {number} has {len(row)} cells, the header has {len(header)}.")
    try:
        table = _typed({name: [row[i] for row in rows] for i, name in enumerate(header)})
    except ValueError as error:
        raise ValueError(f"{call}: {error}.") from None
    return _with_record(table if "method" in table else table.assign(method="published"), path)


def _with_record(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    identity = read_record(path).get("identity")
    table.attrs = {"file": path.name} | ({"identity": identity} if isinstance(identity, dict) else {})
    return table


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table, whole or not at all, as the field's tools read it: the six columns come first."""
    _check_header(f"write_table({path})", [name for name in LOG_COLUMNS if name in table])
    order = [*LOG_COLUMNS, *(name for name in table.columns if name not in LOG_COLUMNS)]
    replace_text(path, _tsv(table[order], header=True))


def _header(path: Path, call: str) -> list[str]:
    with path.open("rb") as file:
        header = file.readline()
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 1))
        if file.read() != b"\n":
            raise ValueError(
                f"{call}: the last line is unfinished; repair_table cuts it, a newline accepts it."
            )
    return header.decode("utf-8").rstrip("\r\n").split("\t")


def _check_header(call: str, columns: Sequence[str]) -> None:
    if tuple(columns[:6]) != LOG_COLUMNS or len(set(columns)) < len(columns):
        wanted = f"a tab separated header of different names that starts with {' '.join(LOG_COLUMNS)}"
        raise ValueError(f"{call}: wanted {wanted}, got {list(columns)}.")


def _tsv(table: pd.DataFrame, *, header: bool) -> str:
    # pandas writes floats by repr, so they are read back bit for bit; a tab or line end in a cell is an error
    whole = table.assign(correct=table["correct"].astype("int64"))
    return str(
        whole.to_csv(None, sep="\t", header=header, index=False, lineterminator="\n", quoting=csv.QUOTE_NONE)
    )


def _typed(cells: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    return pd.DataFrame({name: _column(name, texts) for name, texts in cells.items()})


def _column(name: str, texts: Sequence[str]) -> "pd.Series[Any]":
    # Python's own int and float, exact to the last bit. A column that is not ours takes the first kind that
    # fits all its cells; an empty cell (a row of another method) is a missing value.
    known = str if name in TEXTS else int if name in WHOLE else float
    failure = ""
    for kind in (known,) if name in COLUMNS else (int, float, str):
        read = _seconds if name == "time" else kind
        try:
            values = [read(text) if text else None for text in texts]
        except ValueError as error:
            failure = str(error)
            continue
        whole = "Int64" if None in values else "int64"
        return pd.Series(values, dtype={int: whole, str: "str"}.get(kind, "float64"))
    raise ValueError(f"column {name}: {failure}")


def _seconds(text: str) -> float:
    # published logs write seconds or str(timedelta)
    return float(pd.to_timedelta(text).total_seconds()) if ":" in text else float(text)
