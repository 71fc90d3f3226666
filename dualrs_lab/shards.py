"""One part of n of a table, made on any machine, and the table made of all parts.

Part i of n of `T.tsv` is `T.part-i-of-n.tsv`, a table with a record of its own. Its images are strided: an
n-th of them from all over the data set, so that one part is about as long as another. A table merged from
parts is, but for times, byte for byte the one that a single process makes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dualrs_lab.files import replace_bytes
from dualrs_lab.locks import writing
from dualrs_lab.settings import COUNT
from dualrs_lab.store import (
    check_place,
    read_record,
    record_path,
    refuse_other,
    seal,
    unchanged,
    write_record,
)

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Portion", "Shard", "auto_shard", "find_parts", "is_finished", "merge_parts", "numbers_text"]


_PART = re.compile(r"\.part-([1-9]\d*)-of-([1-9]\d*)\.tsv")


@dataclass(frozen=True, order=True)
class Shard:
    """Part `number` of `of` parts, counted from 1; ValueError for any other numbers."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if self.number not in COUNT or self.of not in COUNT or self.number > self.of:
            raise ValueError(f"{self}: want I/N with 1 <= I <= N, for example 1/4")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def read(cls, text: str) -> "Shard":
        """The shard that a text such as 1/4 names."""
        number, _, of = text.partition("/")
        try:
            numbers = int(COUNT.read(number)), int(COUNT.read(of))
        except ValueError:
            raise ValueError(f"{text!r}: want I/N, for example 1/4") from None
        return cls(*numbers)

    def part(self, table: Path) -> Path:
        """Where this part of `table` lies."""
        return table.with_name(f"{table.stem}.part-{self.number}-of-{self.of}.tsv")

    def take(self, idx: Sequence[int], together: int = 1) -> list[int]:
        """Every `of`-th group of `together` of `idx`, from group `number` on; empty if there are fewer."""
        firsts = range((self.number - 1) * together, len(idx), self.of * together)
        return [number for first in firsts for number in idx[first : first + together]]


class Portion(NamedTuple):
    """What `shard` takes of every `skip`-th image, `images` in all; groups of `together` are not split.

    An attack draws for a batch, so its groups are batches; a certificate depends on its image alone.
    """

    shard: Shard
    images: int
    skip: int
    together: int = 1

    @property
    def idx(self) -> list[int]:
        """The images of this part."""
        return self.shard.take(range(0, self.images * self.skip, self.skip), self.together)

    def told(self, **whole: int) -> dict[str, Any]:
        """What the record of a part says under `shard`; `whole` is what that of the whole table is to say."""
        taken = {"images": self.images, "skip": self.skip, "together": self.together}
        return {"number": self.shard.number, "of": self.shard.of, **taken, "whole": whole}


def auto_shard(environment: Mapping[str, str]) -> Shard:
    """The shard that this process is, as its scheduler says: Slurm, or an Indexed Job of Kubernetes.

    `JOB_COMPLETION_INDEX` counts from 0, and `JOB_COMPLETIONS` has to be set beside it. An array may begin at
    0 or 1 and has no gaps: of some tasks of an array nobody can tell how many there were. ValueError for all
    else.
    """
    if "JOB_COMPLETION_INDEX" in environment:
        number, of = _told(environment, "JOB_COMPLETION_INDEX"), _told(environment, "JOB_COMPLETIONS")
        return Shard(number + 1, of)
    if "SLURM_ARRAY_TASK_ID" not in environment:
        raise ValueError(
            "--shard auto: neither SLURM_ARRAY_TASK_ID, of an array of Slurm, nor JOB_COMPLETION_INDEX, of "
            "an Indexed Job, is set; wanted one of them, or --shard I/N"
        )
    least, most, count, number = (
        _told(environment, f"SLURM_ARRAY_TASK_{x}") for x in ("MIN", "MAX", "COUNT", "ID")
    )
    if least not in (0, 1) or count != most - least + 1:
        raise ValueError(
            f"--shard auto: the array has {count} tasks from {least} to {most}; wanted one that begins at 0 "
            "or 1 and has no gaps, or --shard $SLURM_ARRAY_TASK_ID/N"
        )
    return Shard(number - least + 1, count)


def _told(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ValueError(f"--shard auto: {name} is {text!r}; wanted a whole number, or --shard I/N")
    return int(text)


def find_parts(table: Path) -> dict[Shard, Path]:
    """The parts of `table` that lie beside it, in order."""
    found = {}
    for path in table.parent.glob("*.tsv") if table.parent.is_dir() else ():
        name = (
            _PART.fullmatch(path.name.removeprefix(table.stem)) if path.name.startswith(table.stem) else None
        )
        if name and int(name[1]) <= int(name[2]) <= 10**9:
            found[Shard(int(name[1]), int(name[2]))] = path
    return dict(sorted(found.items()))


def is_finished(path: Path) -> bool:
    """Whether the table or part at `path` was finished, as its record says."""
    return path.is_file() and read_record(path).get("sha256") is not None


def numbers_text(numbers: Sequence[int]) -> str:
    """Whole numbers that ascend, as an array of Slurm takes them: 1,3-5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def merge_parts(
    call: str,
    table: Path,
    *,
    read: "Callable[[Path], DataFrame]",
    otherwise: Callable[[Mapping[str, Any], Mapping[str, Any]], str],
    check: "Callable[[DataFrame, Mapping[str, Any]], None]",
) -> "DataFrame":
    """Make `table` of its parts, and return it; a table that is there and says the same is left as it is.

    `read` reads a part and believes nothing, `otherwise` says what the record of the first part has against
    that of another, and `check` looks at all rows together, with the record. Raises FileNotFoundError where
    there are no parts, and ValueError for parts that are missing, unfinished, foreign, made otherwise,
    changed, or being written: it names them. No part is changed.
    """
    check_place(call, table, ".tsv")
    parts = _of_one_number(call, table, find_parts(table))
    with writing(call, table, *parts.values()):
        records = _records(call, parts)
        portion = _portion(call, parts, records)
        _complete(call, table, portion, parts, records)
        first = next(iter(records))
        for shard, record in records.items():
            what = f"{parts[shard].name} and {parts[first].name} are not of one making"
            refuse_other(
                f"{call}: {what}", parts[shard], record["identity"], records[first]["identity"], remedy=_AGAIN
            )
            if reason := otherwise(records[first], record):
                raise ValueError(f"{call}: {what}: the first {reason}; {_AGAIN}")
        import pandas as pd

        rows = pd.concat([read(part) for part in parts.values()], ignore_index=True)
        rows = rows.sort_values("idx", kind="stable", ignore_index=True)
        record = _whole_record(portion, records)
        check(rows, record)
        _write(call, table, _joined(call, parts, records, portion), record)
    return rows


_AGAIN = "set the parts aside that are not wanted, and make theirs again"


def _of_one_number(call: str, table: Path, parts: dict[Shard, Path]) -> dict[Shard, Path]:
    numbers = sorted({shard.of for shard in parts})
    if not numbers:
        raise FileNotFoundError(
            f"{call}: no parts {table.stem}.part-I-of-N.tsv in {table.parent}; --shard I/N makes them"
        )
    if len(numbers) > 1:
        raise ValueError(
            f"{call}: {table} has parts of {' and of '.join(map(str, numbers))}; wanted all of one number: "
            f"{_AGAIN}"
        )
    return parts


def _records(call: str, parts: Mapping[Shard, Path]) -> dict[Shard, dict[str, Any]]:
    found = {}
    for shard, part in parts.items():
        record = read_record(part)
        said = record.get("shard")
        if not isinstance(said, dict) or (said.get("number"), said.get("of")) != (shard.number, shard.of):
            was = (
                f"that it is part {said.get('number')} of {said.get('of')}"
                if isinstance(said, dict)
                else "of no part"
            )
            raise ValueError(
                f"{call}: {part} is not part {shard}: {record_path(part).name} tells {was}; {_AGAIN}"
            )
        found[shard] = record
    return found


def _portion(call: str, parts: Mapping[Shard, Path], records: Mapping[Shard, Mapping[str, Any]]) -> Portion:
    """What the first part took, and all others say as well, of which images."""
    told = {shard: {**record["shard"], "number": 1} for shard, record in records.items()}
    first = next(iter(told))
    for shard, one in told.items():
        if one != told[first]:
            what = f"{call}: {parts[shard].name} and {parts[first].name} are not of the same images"
            refuse_other(what, parts[shard], one, told[first], remedy=_AGAIN)
    one = told[first]
    return Portion(first, one["images"], one["skip"], one["together"])


def _complete(
    call: str,
    table: Path,
    portion: Portion,
    parts: Mapping[Shard, Path],
    records: Mapping[Shard, Mapping[str, Any]],
) -> None:
    of = portion.shard.of
    groups = -(-portion.images // portion.together)  # of more shards than groups the last are empty
    missing = [number for number in range(1, min(of, groups) + 1) if Shard(number, of) not in parts]
    begun = [shard.number for shard, record in records.items() if record.get("sha256") is None]
    told = [
        f"{numbers_text(numbers)} {what}"
        for numbers, what in ((missing, "missing"), (begun, "unfinished"))
        if numbers
    ]
    if told:
        raise ValueError(
            f"{call}: of the {of} parts of {table}: {', '.join(told)}; call the command that made the others "
            f"with --shard I/{of} for each of these, then merge again"
        )


def _whole_record(portion: Portion, records: Mapping[Shard, Mapping[str, Any]]) -> dict[str, Any]:
    """The record of the first part, as a single process writes it, and what the parts were."""
    first = dict(next(iter(records.values())))
    told: dict[str, int] = first.pop("shard")["whole"]
    for name in ("sha256", "rows", "record_of"):
        first.pop(name, None)
    made: dict[str, list[Any]] = {"parts": [], "provenance": []}
    for record in records.values():
        made["parts"].append(record["sha256"])
        if record.get("provenance") not in made["provenance"]:
            made["provenance"].append(record.get("provenance"))
    return {**first, **told, "merged": {"of": portion.shard.of, **made}}


def _joined(
    call: str, parts: Mapping[Shard, Path], records: Mapping[Shard, Mapping[str, Any]], portion: Portion
) -> bytes:
    """The lines of all parts as they are, in the order of their images, all of which have as many."""
    lines: dict[int, list[bytes]] = {}
    head = b""
    for shard, part in parts.items():
        header, *rows = unchanged(call, part).splitlines(keepends=True)
        if header != (head := head or header):
            raise ValueError(f"{call}: {part} has other columns than the parts before it; {_AGAIN}")
        idx = [int(row.partition(b"\t")[0]) for row in rows]
        wanted = portion._replace(shard=shard).idx
        each = max(1, len(idx) // max(1, len(wanted)))
        if idx != [number for number in wanted for _ in range(each)]:
            odd = sorted({*idx} ^ {*wanted}) or idx
            raise ValueError(
                f"{call}: {part} is not the part it says: image {odd[0]} is missing, or too many; {_AGAIN}"
            )
        for number, row in zip(idx, rows, strict=True):
            lines.setdefault(number, []).append(row)
    return head + b"".join(row for number in sorted(lines) for row in lines[number])


def _write(call: str, table: Path, data: bytes, record: Mapping[str, Any]) -> None:
    if table.exists():
        known = read_record(table)
        same = known.get("identity") == record["identity"] and table.read_bytes() == data
        if not (same and known.get("sha256")):
            raise ValueError(
                f"{call}: {table} is there already, and is not what the parts make; set it aside, or them"
            )
        return
    write_record(call, table, {**record, "sha256": None})
    replace_bytes(table, data)
    seal(call, table)
