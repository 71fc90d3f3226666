"""Large files are read in blocks, and mean what they mean cell by cell."""

import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dualrs_lab.evidence import decide, frame, read_cells, read_column, read_table, typed, write_table

WIDTH = 6
ODD = (
    "", "0", "-0", "7", "-12", "1.5", ".5", "5.", "1e5", "1e-400", "1e400", "inf", "-inf", "nan", "+3", "+.5",
    " 7", "7 ", "1_0", "0x1p-2", "١", "--1", "1-2", "-", "+", ".", "e5", "1e", "NaN", "Infinity", "True", "a",
    "1 day, 2:03:04", "99999999999999999999", "\x0b1", "1\x00",
)  # fmt: skip


def by_hand(text: str, kind: type) -> object:
    """One cell, by the grammar: what the reader of blocks has to agree with."""
    grammar = {
        int: r"-?[0-9]+", str: r"(?s:.*)",
        float: r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf|nan",
    }  # fmt: skip
    if not re.fullmatch(grammar[kind], text) or (kind is int and abs(int(text)) >= 2**63):
        raise ValueError(text)
    return kind(text)


def read(path: Path, kinds: dict[str, type]) -> pd.DataFrame:
    return read_cells("call", path, "a table", lambda call, columns: None, kinds)


def lines(path: Path, rows: list[list[str]]) -> Path:
    head = [f"c{column}" for column in range(WIDTH)]
    path.write_bytes("".join("\t".join(row) + "\n" for row in [head, *rows]).encode())
    return path


@pytest.mark.parametrize("kind", [int, float, str])
def test_every_cell_is_taken_or_refused_as_by_hand(kind: type) -> None:
    taken = 0
    for text in ODD:
        for others in ([], ["1"], ["1", "1"]):  # alone, and in a column that is not all alike
            try:
                wanted = None if text == "" else by_hand(text, kind)
            except ValueError:
                with pytest.raises(ValueError, match="column c: "):
                    typed({"c": [text, *others]}, {"c": kind})
                continue
            found = typed({"c": [text, *others]}, {"c": kind})["c"].iloc[0]
            missing = wanted is None or wanted != wanted
            assert pd.isna(found) if missing else (found == wanted and str(found) == str(wanted)), text
            taken += 1
    assert taken in range(9, 3 * len(ODD) + 1)


def test_a_column_without_a_kind_takes_the_first_that_fits_all_its_cells() -> None:
    cells = {"a": ["1", "", "-0"], "b": ["1", "", "-0.0"], "c": ["1", "", "x"], "d": ["1", "2", "3"]}
    table = typed(cells, {})
    text = str(pd.Series(["x"], dtype="str").dtype)  # older versions of pandas call it object
    assert [str(dtype) for dtype in table.dtypes] == ["Int64", "float64", text, "int64"]
    assert str(table["b"].iloc[2]) == "-0.0"  # not the -0 of a whole number
    assert table["c"].tolist()[::2] == ["1", "x"]
    assert table.iloc[1].isna().tolist() == [True, True, True, False]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blocks_of_lines_make_the_table_that_its_cells_make(tmp_path: Path, end: str) -> None:
    chance = np.random.default_rng(0)
    columns = {
        "whole": [str(number) for number in chance.integers(-(10**6), 10**6, 5000)],
        "alike": ["0.001"] * 5000,
        "number": [repr(number) for number in chance.normal(size=5000).tolist()],
        "gaps": ["" if gap else "12" for gap in chance.random(5000) < 0.1],
        "text": ["" if gap else f"é{gap:.6f}" for gap in chance.random(5000) * (chance.random(5000) < 0.9)],
        "late": ["1"] * 4999 + ["0.5"],
    }
    path = tmp_path / "t.tsv"
    rows = zip(*columns.values(), strict=True)
    path.write_bytes("".join("\t".join(row) + end for row in [(*columns,), *rows]).encode())
    assert path.stat().st_size > 3 * 2**16
    kinds = {"whole": int, "alike": float, "number": float, "text": str}
    pd.testing.assert_frame_equal(read(path, kinds), typed(columns, kinds))
    assert read(path, kinds)["number"].tolist() == [float(text) for text in columns["number"]]


@pytest.mark.parametrize("at", [0, 1, 20_000, 29_999])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row[:-1], "has 5 cells, the header has 6"),
        (lambda row: [*row, "0"], "has 7 cells, the header has 6"),
        (lambda row: [""], "has 1 cells, the header has 6"),
        (lambda row: [*row, *row], "has 12 cells, the header has 6"),
        (lambda row: [*row[:3], "\n", *row[3:]], "has 4 cells, the header has 6"),
    ],
)
def test_a_line_that_is_not_whole_is_named(tmp_path: Path, at: int, change: Callable, said: str) -> None:
    rows = [[str(row + column) for column in range(WIDTH)] for row in range(30_000)]
    rows[at] = change(rows[at])
    with pytest.raises(ValueError, match=rf"call: line {at + 2} {said}\."):
        read(lines(tmp_path / "t.tsv", rows), {})


def test_two_lines_that_make_up_for_each_other_are_refused(tmp_path: Path) -> None:
    rows = [[str(column) for column in range(WIDTH)] for _ in range(10)]
    rows[3], rows[4] = [*rows[3], "6"], rows[4][:-1]
    with pytest.raises(ValueError, match="line 5 has 7 cells"):
        read(lines(tmp_path / "t.tsv", rows), {})


def test_bytes_that_are_no_text_are_refused_wherever_they_are(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.tsv", [["a"] * WIDTH for _ in range(30_000)])
    path.write_bytes(path.read_bytes()[:-3] + b"\xff\n")
    with pytest.raises(ValueError, match="no UTF-8"):
        read(path, {})


def test_votes_are_found_in_their_rows_beyond_a_block() -> None:
    chance = np.random.default_rng(0)
    counts = chance.integers(1, 1000, (70_000, 3)) * (chance.random((70_000, 3)) < 0.5)
    cells = [" ".join(f"{k}:{n}" for k, n in enumerate(row) if n) for row in counts.tolist()]
    found = read_column("votes", cells)
    assert (found.counts_of(np.arange(3)) == counts).all()
    assert found.totals().tolist() == counts.sum(axis=1).tolist()
    empty = counts.sum(axis=1) == 0
    assert (found.leaders() == np.where(empty, -1, counts.argmax(axis=1))).all()
    cells[69_999] = "1:2\n1:2"
    with pytest.raises(ValueError, match="line 70001: votes"):
        read_column("votes", cells)
    cells[69_999] = "2:2 1:2"
    with pytest.raises(ValueError, match="line 70001: votes '2:2 1:2'; wanted each class once"):
        read_column("votes", cells)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50,000 certificates."""
    chance = np.random.default_rng(0)
    some = [
        decide(
            chance.multinomial(100, p := chance.dirichlet([0.3] * 3)), chance.multinomial(10_000, p), idx=i,
            label=i % 3, sigma=0.5, alpha=0.001, seed=1, seconds=0.1,
        )
        for i in range(2000)
    ]  # fmt: skip
    table = pd.concat([frame(some)] * 25, ignore_index=True).assign(idx=range(50_000))
    path = tmp_path_factory.mktemp("large") / "t.tsv"
    write_table(path, table.assign(time=chance.random(50_000).round(4)))
    return path


def test_a_large_table_is_read_in_little_time_and_memory(large: Path) -> None:
    read_table(large)
    start = time.process_time()
    table = read_table(large)
    assert time.process_time() - start < 1.5  # 0.2 s, and 1 s cell by cell
    del table
    tracemalloc.start()
    try:
        table = read_table(large)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(table) == 50_000
    assert peak < 5 * large.stat().st_size  # 3 times; cell by cell it was 13 times
