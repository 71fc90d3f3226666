"""Results are read, not dumped: rows become tables, long lists are cut, and nothing is lost but digits."""

from dualrs_lab.gallery import Grid, as_grid, shown


def test_numbers_and_texts_are_short() -> None:
    assert [shown(value) for value in (0.123456, 1e-9, 12345, True, None, "text")] == [
        "0.1235", "1e-09", "12345", "yes", "–", "text",
    ]  # fmt: skip
    assert (shown(""), shown([])) == ('""', "[]")
    assert shown([0.5] * 3) == "0.5, 0.5, 0.5"
    assert shown(list(range(20))) == "0, 1, 2, 3, 4, 5, 6, 7, … (20 values)"
    assert shown([[1], [2]]) == "[[1], [2]]"
    assert shown("x" * 300) == "x" * 200 + "…"


def test_rows_are_a_table() -> None:
    assert as_grid([{"a": 1, "b": 2.0}, {"b": 3.0}]) == Grid(header=["a", "b"], rows=[[1, 2.0], ["", 3.0]])
    assert as_grid({"x": {"a": 1}, "y": {"a": 2}}) == Grid(header=["", "a"], rows=[["x", 1], ["y", 2]])
    assert as_grid({"x": 1, "y": [2]}) == Grid(header=["", "value"], rows=[["x", 1], ["y", [2]]])
    assert [as_grid(value) for value in ([], {}, 1.0, "x", [1, 2], [{"a": 1}, 2])] == [None] * 6


def test_a_long_table_is_cut_and_says_so() -> None:
    grid = as_grid([dict.fromkeys(map(str, range(30)), i) for i in range(50)])
    assert grid is not None
    assert (len(grid.rows), len(grid.rows[0]), len(grid.header), grid.more) == (40, 12, 12, 10)
