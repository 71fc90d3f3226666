"""Parameters are typed literals; anything else is named with its line, its value and what was wanted."""

import pytest

from dualrs_lab.headless import Parameter, Value, nearest, read_parameters

CELL = '''"""What to run."""
n: int = 100  # noisy copies = votes
sigma: float = 1  # noise
name: str = "digits"
fast: bool = True
sigmas: list[float] = [0.25, 1]  # several
big: int = -1
'''


def one(kind: str, default: str) -> Parameter:
    return read_parameters(f"x: {kind} = {default}", "nb")["x"]


def test_reads_names_kinds_values_and_help() -> None:
    found = read_parameters(CELL.partition("\n")[2], "20_train")
    assert {name: p.default for name, p in found.items()} == {
        "n": 100, "sigma": 1.0, "name": "digits", "fast": True, "sigmas": [0.25, 1.0], "big": -1,
    }  # fmt: skip
    assert type(found["sigma"].default) is float
    assert found["n"].help == "noisy copies = votes"
    assert found["name"].help == ""
    assert found["sigmas"].kind == "list[float]"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("n = 3", "line 1: want `name: type = literal  # help`, got `n = 3`"),
        ("n: int", "want `name: type = literal"),
        ("n: int = 2 * 3", "n must be a literal, got `n: int = 2 \\* 3`"),
        ("import os", "got `import os`"),
        ("n: float | None = None", r"type float \| None of n is none of int, float"),
        ("n: 'int' = 3", "type 'int' of n"),
        ("n: int = 3.5", "parameter n of nb: 3.5 is not of type int"),
        ("n: int = True", "True is not of type int"),
        ("ok: int = 1\nn: int =", "line 2: invalid syntax"),
    ],
)
def test_refuses_what_papermill_would_let_through(line: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_parameters(line, "nb")


@pytest.mark.parametrize(
    ("kind", "default", "text", "value"),
    [
        ("int", "0", "12", 12),
        ("float", "0.0", "3", 3.0),
        ("float", "0.0", "1e-3", 0.001),
        ("bool", "False", "true", True),
        ("bool", "True", "False", False),
        ("str", "''", "5", "5"),
        ("str", "''", "a=b,c", "a=b,c"),
        ("list[float]", "[]", "0.25, 1", [0.25, 1.0]),
        ("list[float]", "[]", "[0.25, 1]", [0.25, 1.0]),
        ("list[str]", "[]", "a,b", ["a", "b"]),
        ("list[int]", "[1]", "", []),
        ("list[bool]", "[]", "true,false", [True, False]),
    ],
)
def test_parses_the_command_line(kind: str, default: str, text: str, value: Value) -> None:
    parsed = one(kind, default).parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("kind", "default", "text"),
    [
        ("int", "0", "12x"), ("int", "0", "1.0"), ("int", "0", "1e3"), ("int", "0", ""),
        ("bool", "True", "1"), ("bool", "True", "yes"), ("float", "0.0", "a"), ("list[int]", "[]", "1,a"),
        ("list[int]", "[]", "[1, 2.5]"), ("list[int]", "[]", "[1"), ("list[bool]", "[]", "1"),
    ],
)  # fmt: skip
def test_refuses_text_of_another_type(kind: str, default: str, text: str) -> None:
    with pytest.raises(ValueError, match="parameter x of nb: '.*' is not of type " + kind.partition("[")[0]):
        one(kind, default).parse(text)


@pytest.mark.parametrize(
    ("kind", "default", "value"),
    [("int", "0", True), ("int", "0", 1.0), ("int", "0", "1"), ("bool", "True", 1), ("str", "''", 1),
     ("list[int]", "[]", [1, True]), ("list[int]", "[]", 1), ("float", "0.0", "1"), ("float", "0.0", None)],
)  # fmt: skip
def test_refuses_values_of_another_type(kind: str, default: str, value: object) -> None:
    with pytest.raises(ValueError, match="is not of type"):
        one(kind, default).check(value)


def test_nearest_helps() -> None:
    assert nearest("simga", ["sigma", "n"]) == "did you mean 'sigma'?"
    assert nearest("zzz", ["sigma", "n"]) == "known: n, sigma"
    assert nearest("zzz", []) == "known: none"
