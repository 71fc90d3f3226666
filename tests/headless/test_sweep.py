"""Sweep files give the points they say, and mistakes in them are named."""

from pathlib import Path

import pytest

from dualrs_lab.headless import point_name, read_sweep


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("grid = {a = [1, 2], b = [3]}", [{"a": 1, "b": 3}, {"a": 2, "b": 3}]),
        ("grid = {a = [1], b = [3, 4]}", [{"a": 1, "b": 3}, {"a": 1, "b": 4}]),
        ("zip = {a = [1, 2], b = [3, 4]}", [{"a": 1, "b": 3}, {"a": 2, "b": 4}]),
        ("list = [{a = 1}, {b = 2}]", [{"a": 1}, {"b": 2}]),
        ("seeds = 2", [{"seed": 0}, {"seed": 1}]),
        ("seeds = [5]\ngrid.a = [1, 2]", [{"a": 1, "seed": 5}, {"a": 2, "seed": 5}]),
        ("zip = {a = [1, 2]}\nlist = [{b = 1}]", [{"a": 1, "b": 1}, {"a": 2, "b": 1}]),
    ],
)  # fmt: skip
def test_sweep_files(tmp_path: Path, text: str, points: list[dict[str, object]]) -> None:
    (tmp_path / "s.toml").write_text(text)
    assert read_sweep(tmp_path / "s.toml") == points


def test_json_sweeps_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"grid": {"sigma": [0.25, 0.5]}}')
    assert read_sweep(tmp_path / "s.json") == [{"sigma": 0.25}, {"sigma": 0.5}]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("gird.a = [1]", "unknown table 'gird'; did you mean 'grid'"),
        ("grid.a = 1", "grid wants name = \\[values\\]"),
        ("grid.a = []", "grid wants name = \\[values\\]"),
        ("zip = {a = [1], b = [1, 2]}", "differ in length"),
        ("list = 3", "list wants a list of tables"),
        ("grid.a = [1]\nlist = [{a = 2}]", "gives 'a' twice"),
        ("grid.a = [1, 1]", "has the point a=1 more than once"),
        ("", "has no points"),
        ("grid", "cannot be read as toml"),
    ],
)
def test_bad_sweeps_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read_sweep(tmp_path / "s.toml")


@pytest.mark.parametrize(
    ("point", "name"),
    [({}, ""), ({"sigma": 0.5, "seed": 1}, "sigma=0.5,seed=1"), ({"model": "cnn"}, "model=cnn")],
)
def test_point_names_can_be_read(point: dict[str, object], name: str) -> None:
    assert point_name(point) == name


def test_different_points_never_share_a_name() -> None:
    names = {point_name({"path": text}) for text in ("a/b", "a:b", "a b", "x" * 100, "x" * 101)}
    assert len(names) == 5
