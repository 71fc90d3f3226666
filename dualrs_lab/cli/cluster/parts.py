"""`--shard I/N` and `dualrs-lab merge`: a table in parts, made anywhere, and the table of all parts."""

import os
from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualrs_lab.afar.address import by_address
from dualrs_lab.cli.parser import Command, Parser, a_table
from dualrs_lab.cli.tables import RADII, summed_up, summed_up_answers
from dualrs_lab.shards import Shard, auto_shard, find_parts, merge_parts
from dualrs_lab.store import read_record, record_path

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["MERGE", "a_shard", "add_shard", "say_part"]


def a_shard(text: str) -> Shard:
    """Reads a word such as 3/16, or auto: what the scheduler says."""
    try:
        return auto_shard(os.environ) if text == "auto" else Shard.read(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error).removeprefix("--shard auto: ")) from None


def add_shard(parser: Parser) -> None:
    """The option for one part of a table."""
    parser.add_argument(
        "--shard", type=a_shard, metavar="I/N",
        help="only part I of N, into TABLE.part-I-of-N.tsv, for `dualrs-lab merge`; auto: the number of this "
        "task of Slurm (SLURM_ARRAY_TASK_ID) or of Kubernetes (JOB_COMPLETION_INDEX of JOB_COMPLETIONS)",
    )  # fmt: skip


def say_part(table: Path, shard: Shard, rows: int) -> None:
    """What was made of a table, and what is to be done with it."""
    if rows:
        told = f"part {shard}: {rows} images in {shard.part(table)}; with all {shard.of} parts: merge {table}"
        print(by_address(told))
    else:
        print(f"part {shard} is empty: there are fewer images, or batches of them, than parts")


def _options(parser: Parser) -> None:
    parser.add_argument(
        "table", type=a_table, metavar="TABLE.tsv", help="the --out of the commands that made the parts"
    )
    parser.add_argument(
        "--remove-parts", action="store_true", help="once the table is whole and checked (default: kept)"
    )


def _merge(options: Namespace) -> int:
    table: Path = options.table
    attacked = any("threat" in read_record(part).get("identity", {}) for part in find_parts(table).values())
    if attacked:
        print(summed_up_answers(_merged_answers(options.name, table)))
    else:
        print(summed_up({table.stem: _merged_certificates(options.name, table)}, RADII))
    if options.remove_parts:
        for part in find_parts(table).values():
            record_path(part).unlink()
            part.unlink()
    return 0


def _merged_certificates(call: str, table: Path) -> "DataFrame":
    from dualrs_lab.evidence.rows import check_rows
    from dualrs_lab.evidence.table import read_table
    from dualrs_lab.smoothing.job import reason_to_stop

    def otherwise(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
        return reason_to_stop(first, other, complete=False)

    def check(rows: "DataFrame", record: Mapping[str, Any]) -> None:
        check_rows(call, rows)

    found = merge_parts(call, table, read=read_table, otherwise=otherwise, check=check)
    found.attrs = {"identity": read_record(table).get("identity", {})}  # which says how votes are told apart
    return found


def _merged_answers(call: str, table: Path) -> "DataFrame":
    from dualrs_lab.attacks.evaluate import slack_of
    from dualrs_lab.attacks.table import check_possible, read_evaluation
    from dualrs_lab.models.probe import other_answers

    def otherwise(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
        return other_answers(first, other["probe"])

    def as_one(rows: "DataFrame", record: Mapping[str, Any]) -> None:
        if "system" not in rows:  # the worst case of a mix is that of all attacks on all mixes
            check_possible(rows, slack=slack_of(record["identity"]["threat"]["auto"]))

    return merge_parts(call, table, read=read_evaluation, otherwise=otherwise, check=as_one)


MERGE = Command(
    name="merge",
    help="one table of the parts that --shard made",
    description="Checks that all parts are there, whole, and of one making, and names those that are not. "
    "The table is, but for times, the one that a single process makes.",
    options=_options,
    run=_merge,
    example="dualrs-lab certify --model net.safetensors --data digits --sigma 0.5 --out c.tsv --shard 1/2\n"
    "dualrs-lab certify --model net.safetensors --data digits --sigma 0.5 --out c.tsv --shard 2/2\n"
    "dualrs-lab merge c.tsv",
)
