"""Tables of certificates: one row per image, the field's log format and our columns.

A table is a TSV whose first six columns are `idx label predict radius correct time`, so published logs load
here and ours load in the field's tools. Radii are l2 in the [0, 1] pixel unit, at full precision.
"""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from dualrs_lab.afar.address import address_text
from dualrs_lab.afar.fetching import at_hand
from dualrs_lab.evidence.cells import read_cells, typed
from dualrs_lab.evidence.certificate import COLUMNS, PAIRED
from dualrs_lab.evidence.claim import LOG_COLUMNS, Claim, Claims
from dualrs_lab.evidence.recompute import check_evidence
from dualrs_lab.evidence.rows import IMAGE, check_rows
from dualrs_lab.files import replace_text, sync_folder
from dualrs_lab.store import read_record

__all__ = [
    "append_rows",
    "as_table",
    "check_log",
    "frame",
    "read_table",
    "repair_table",
    "write_table",
]


_TEXTS = ("method", "selection", "votes", "bound", "rule", IMAGE)


_WHOLE = ("idx", "label", "predict", "correct", "n0", "n", "successes", "seed", "drawn", *PAIRED)


_KINDS: dict[str, type] = dict.fromkeys(COLUMNS, float) | dict.fromkeys(_TEXTS, str)
_KINDS |= dict.fromkeys(_WHOLE, int)


def frame(claims: Iterable[Claim]) -> pd.DataFrame:
    """One row per claim, by the columns of its method; equal to what `read_table` reads of `append_rows`."""
    rows = [claim.to_row() for claim in claims]
    names = dict.fromkeys(name for row in rows for name in row) if rows else COLUMNS
    return typed({name: [str(row.get(name, "")) for row in rows] for name in names}, _KINDS)


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
    empty. Raises ValueError for a cell without a column, an unknown header, or an unfinished last line, and
    OSError that names the file where the disk is full or the like; what was there before stays, whole.
    """
    path, call = Path(path), f"append_rows({path})"
    started = path.exists() and path.stat().st_size > 0
    header = _header(path, call) if started else list(columns)
    check_log(call, header)
    cells = [row.to_row() if isinstance(row, Claim) else row for row in rows]
    for row in cells:
        if wrong := row.keys() - set(header) or set(LOG_COLUMNS) - row.keys():
            raise ValueError(f"{call}: {sorted(wrong)} missing in the row or in the table of {header}.")
    text = _tsv(pd.DataFrame(cells, columns=header, dtype=object), header=not started)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _append(path, text.encode("utf-8"))
    except OSError as error:
        if not error.errno:
            raise
        told = f"{error.strerror}; the rows before are kept, and the same call goes on from there"
        raise OSError(error.errno, told, str(path)) from error
    if not started:
        sync_folder(path.parent)


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

    `path` may be an address, see `afar.at_hand`.

    Every line is kept, and believed only after it was checked: columns that contradict each other, an image
    that comes twice, a radius that is not that of its votes, or a file that is not the one of which its
    record holds the sha256 are a ValueError that names the row; so is a line that is unfinished
    (`repair_table` cuts it off) or has too many or too few cells. A log without `method` gets the method
    "published": it has no votes, and only contradictions can be found.
    """
    call, path = f"read_table({address_text(path)})", at_hand("read_table", path)
    table = read_cells(call, path, "a certificate table or a published log.", check_log, _KINDS)
    check_rows(call, table)
    if "method" in table:
        check_evidence(call, table)
    else:
        table = table.assign(method="published")
    return _with_record(table, path)


def _with_record(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    identity = read_record(path).get("identity")
    table.attrs = {"file": path.name} | ({"identity": identity} if isinstance(identity, dict) else {})
    return table


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table, whole or not at all, as the field's tools read it: the six columns come first."""
    check_log(f"write_table({path})", [name for name in LOG_COLUMNS if name in table])
    order = [*LOG_COLUMNS, *(name for name in table.columns if name not in LOG_COLUMNS)]
    replace_text(path, _tsv(table[order], header=True))


def _header(path: Path, call: str) -> list[str]:
    if not ends_whole(path):
        raise ValueError(f"{call}: the last line is unfinished; repair_table cuts it, a newline accepts it.")
    with path.open("rb") as file:
        header = file.readline()
    return header.decode("utf-8").rstrip("\r\n").split("\t")


def ends_whole(path: Path) -> bool:
    """Whether the last line of the file is finished; only its last byte is read."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read() == b"\n"


def check_log(call: str, columns: Sequence[str]) -> None:
    """ValueError unless these are the columns of a table: those of the published logs, then any others."""
    if tuple(columns[:6]) != LOG_COLUMNS or len(set(columns)) < len(columns):
        wanted = f"a tab separated header of different names that starts with {' '.join(LOG_COLUMNS)}"
        raise ValueError(f"{call}: wanted {wanted}, got {list(columns)}.")


def _append(path: Path, data: bytes) -> None:
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:  # a full disk takes a part, and refuses the next
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def _tsv(table: pd.DataFrame, *, header: bool) -> str:
    # pandas writes floats by repr, so they are read back bit for bit; a tab or line end in a cell is an error
    whole = table.assign(correct=table["correct"].astype("int64"))
    return str(
        whole.to_csv(None, sep="\t", header=header, index=False, lineterminator="\n", quoting=csv.QUOTE_NONE)
    )
