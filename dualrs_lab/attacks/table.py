"""Tables of answers under attack: kept batch by batch, read only after they were checked.

A row for each image (and system, where several are attacked): what the answer is worth as it is and under
each attack, 1 or 0. The rules are those of tables of certificates: one writer, nothing foreign is touched.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from dualrs_lab.afar.address import address_text
from dualrs_lab.afar.fetching import at_hand
from dualrs_lab.data.images import Images
from dualrs_lab.evidence.cells import read_cells
from dualrs_lab.evidence.rows import IMAGE, check_digests, check_each, check_images
from dualrs_lab.files import replace_text
from dualrs_lab.locks import writing
from dualrs_lab.models.probe import Answers, other_answers, probe_each
from dualrs_lab.runtime import describe
from dualrs_lab.shards import Portion
from dualrs_lab.store import (
    check_place,
    plain,
    read_record,
    refuse_other,
    seal,
    step_aside,
    take_up,
    write_record,
)

__all__ = ["ANSWERS", "ATTACKS", "answers", "check_possible", "keep", "read_evaluation"]


ATTACKS = ("pgd", "mma", "autoattack")
"""Columns of a table, in the order in which they are run; `natural` comes before them, `worst` behind."""


ANSWERS = ("natural", *ATTACKS, "on_accurate", "on_robust", "end_to_end", "pushed", "worst")
"""All columns that say whether an answer is right; the later ones are those of `mixing.evaluate`."""


_KINDS: dict[str, type] = {"idx": int, "label": int, "predict": int, "system": str, "weight": float}
_KINDS |= dict.fromkeys(ANSWERS, int) | {f"{name}_seconds": float for name in ATTACKS} | {IMAGE: str}


def keep(
    call: str,
    path: Path,
    identity: dict[str, Any],
    wanted: Sequence[int],
    batches: Callable[[list[int]], Iterable[pd.DataFrame]],
    *,
    images: Images,
    networks: Sequence[nn.Module],
    replace: bool,
    info: Mapping[str, Any] | None = None,
    portion: Portion | None = None,
) -> pd.DataFrame:
    """The table of answers at `path`, after adding `batches(the idx of wanted that it lacks)` as they come.

    A table of another `identity`, or of `networks` that answer otherwise, is refused or, with `replace`, kept
    under another name; the first of them says which device it is. Raises ValueError as well for a file that
    is not ours, for one that somebody else is writing, and where the digest of an image is not that of its
    row. `info` goes into the record of a new table. What a `portion` takes goes into the table of that part,
    unless the table at `path` has it already.
    """
    identity = plain(identity)
    check_place(call, path, ".tsv")
    probed = probe_each(networks, images.shape)
    if portion is not None:
        if path.exists():
            refuse_other(call, path, read_record(path).get("identity"), identity)
        if not portion.idx:
            return pd.DataFrame({"idx": []})
        if not _has(path, identity, probed, portion.idx):
            path = portion.shard.part(path)
        wanted = portion.idx
    if _has(path, identity, probed, wanted):
        return _rows(_of_images(call, path, images), wanted)
    with writing(call, path):
        if path.exists():
            _recognise(call, path)
        begun = take_up(call, [path], identity, replace=replace)
        if begun and (reason := other_answers(read_record(path), probed)):
            step_aside(call, path, reason, replace=replace)
            begun = []
        if begun:
            table, record = _of_images(call, path, images), read_record(path)
        else:
            table, made = pd.DataFrame({"idx": []}), describe(next(networks[0].parameters()).device)
            record = {"identity": identity, "probe": probed, "provenance": made, "sha256": None}
            record |= {"info": plain(dict(info))} if info else {}
            record |= {"shard": portion.told()} if portion else {}
        todo = sorted({*wanted} - {*table["idx"]})
        for number, rows in enumerate(batches(todo)):
            if not number:
                write_record(call, path, {**record, "sha256": None})
            table = _joined(table, rows, images)
            replace_text(path, _to_numbers(table).to_csv(sep="\t", index=False, lineterminator="\n"))
        if todo or record.get("sha256", "") is None:
            seal(call, path)
        return _rows(table, wanted)


def read_evaluation(path: Path | str) -> pd.DataFrame:
    """A table that `evaluate_table` or `evaluate_systems_table` wrote; answers are bool.

    Raises ValueError that names the row for cells of the wrong kind, an image that comes twice, and answers
    that contradict each other, and where the file is not the one of which its record holds the sha256.
    """
    call, path = f"read_evaluation({address_text(path)})", at_hand("read_evaluation", path)
    table = read_cells(call, path, "a table of evaluate_table", _check_columns, _KINDS)
    _check_answers(call, table)
    return table.astype(dict.fromkeys(answers(table), bool))


def answers(table: pd.DataFrame) -> list[str]:
    """The columns of a table that say what was answered correctly, in the order of ANSWERS."""
    return [name for name in ANSWERS if name in table]


def check_possible(table: pd.DataFrame, *, slack: float = 0.01) -> None:
    """ValueError for an impossible table, or one that shows an attack which did not work.

    No image is robust that is wrong as it is, none is robust in the worst case but not under each attack, and
    AutoAttack, the strongest, leaves at most a share `slack` more of the images right than any other attack.
    """
    attacks = [name for name in ATTACKS if name in table]
    for name in attacks:
        bad = table["idx"][table[name] & ~table["natural"]].tolist()
        if bad:
            raise ValueError(
                f"check: images {bad[:10]} are right under {name} but wrong as they are; robust accuracy "
                "cannot exceed natural accuracy: the table mixes networks or images"
            )
    worst = table["natural"] & table[attacks].all(axis=1)
    if (worst != table["worst"]).any():
        bad = table["idx"][worst != table["worst"]].tolist()
        raise ValueError(f"check: worst is not the worst case of {attacks} for images {bad[:10]}")
    for name in attacks[:-1] if attacks[-1:] == ["autoattack"] else []:
        more = int(table["autoattack"].sum()) - int(table[name].sum())
        if more > slack * len(table) + 1e-9:
            raise ValueError(
                f"check: AutoAttack leaves {more / len(table):.1%} more images right than {name}; the "
                "stronger attack did not work: is the network random, or has no useful gradients?"
            )


def _to_numbers(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({name: int for name in table if table[name].dtype == bool})


def _check_columns(call: str, columns: list[str]) -> None:
    if not {"idx", "label", "natural", "worst"} <= {*columns}:
        raise ValueError(f"{call} has columns {columns}; wanted a table of evaluate_table")


def _check_answers(call: str, table: pd.DataFrame) -> None:
    columns = [name for name in table if name != "weight"]  # a weight that varies is missing
    for name in map(str, columns):
        check_each(call, table, f"something in {name}", table[name].notna().to_numpy(), name)
    check_each(call, table, "idx >= 0", (table["idx"] >= 0).to_numpy(), "idx")
    check_each(call, table, "label >= -1", (table["label"] >= -1).to_numpy(), "label")
    check_digests(call, table)
    which = [name for name in ("idx", "system") if name in table]
    check_each(call, table, "each image once", ~table.duplicated(which).to_numpy(), "idx")
    natural, found = table["natural"].to_numpy(), answers(table)
    for name in found:
        answer = table[name].to_numpy()
        check_each(call, table, "1 or 0", np.isin(answer, (0, 1)), name)
        check_each(call, table, "right only where natural is", answer <= natural, name)
        check_each(call, table, f"at least worst in {name}", answer >= table["worst"].to_numpy(), "worst")
    if "predict" in table:
        right = table["predict"].to_numpy() == table["label"].to_numpy()
        check_each(call, table, "natural 1 where predict is label, else 0", natural == right, "natural")
    for name in (str(name) for name in table if str(name).endswith("_seconds")):
        seconds = table[name].to_numpy(dtype=np.float64)
        check_each(call, table, "seconds >= 0", (seconds >= 0) & (seconds < np.inf), name)


def _has(path: Path, identity: Mapping[str, Any], probed: Sequence[Answers], wanted: Sequence[int]) -> bool:
    record = read_record(path) if path.exists() else {}
    same = record.get("identity") == identity and not other_answers(record, probed)
    finished = path.exists() and same and record.get("sha256", "") is not None
    return finished and {*wanted} <= {*read_evaluation(path)["idx"]}


def _recognise(call: str, path: Path) -> None:
    with path.open("rb") as file:
        header = file.readline(100_000).decode("utf-8", "replace").rstrip("\n").split("\t")
    try:
        _check_columns(call, header)
    except ValueError:
        raise ValueError(
            f"{call}: {path} is no table of answers, and stays as it is; choose another file"
        ) from None


def _of_images(call: str, path: Path, images: Images) -> pd.DataFrame:
    table = read_evaluation(path)
    check_images(call, path, table, images.digests)
    return table


def _joined(table: pd.DataFrame, rows: pd.DataFrame, images: Images) -> pd.DataFrame:
    if IMAGE in table or table.empty:  # else it was begun before rows had digests
        rows = rows.assign(**{IMAGE: images.digests(rows["idx"].tolist())})
    joined = pd.concat([table, rows], ignore_index=True) if len(table) else rows
    return joined.sort_values("idx", kind="stable", ignore_index=True)


def _rows(table: pd.DataFrame, wanted: Sequence[int]) -> pd.DataFrame:
    return table[table["idx"].isin(wanted)].reset_index(drop=True)
