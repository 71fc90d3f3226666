"""What a notebook may be given: the typed literals of its `parameters` cell, and strict readers for values.

papermill only warns about an unknown name and accepts any text for a number; here both stop at once.
"""

import ast
import difflib
import io
import json
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass

from dualrs_lab.headless.reading import encodable

__all__ = ["KINDS", "Parameter", "Value", "nearest", "read_parameters"]


KINDS = ("int", "float", "str", "bool", "list[int]", "list[float]", "list[str]", "list[bool]")


Value = int | float | str | bool | list[int] | list[float] | list[str] | list[bool]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One line `name: kind = default  # help` of the cell; `notebook` is for messages."""

    name: str
    kind: str
    default: Value
    help: str
    notebook: str

    def check(self, value: object) -> Value:
        """`value` as this kind, int widened to float; ValueError for all else (1 is no bool, True no int)."""
        item = self.kind[5:-1] if self.kind.startswith("list[") else ""
        try:
            if not item:
                return _scalar(self.kind, value)
            if not isinstance(value, list | tuple):
                raise TypeError
            return [_scalar(item, one) for one in value]  # type: ignore[return-value]  # one kind throughout
        except TypeError:
            raise ValueError(self._wrong(value)) from None

    def parse(self, text: str) -> Value:
        """Text from the command line as this kind; a list is JSON or separated by commas."""
        try:
            if not self.kind.startswith("list["):
                return _from_text(self.kind, text)
            if text.lstrip().startswith("["):
                return self.check(json.loads(text))
            pieces = [piece.strip() for piece in text.split(",")] if text.strip() else []
            return [_from_text(self.kind[5:-1], piece) for piece in pieces]  # type: ignore[return-value]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(self._wrong(text)) from None

    def _wrong(self, value: object) -> str:
        want = {"bool": "bool (true or false)", "list": self.kind + " (JSON or comma separated)"}
        kind = want.get(self.kind.partition("[")[0], self.kind)
        return f"parameter {self.name} of {self.notebook}: {value!r} is not of type {kind}"


def _scalar(kind: str, value: object) -> int | float | str | bool:
    if kind == "float" and type(value) is int:
        return float(value)
    if type(value).__name__ != kind or not isinstance(value, int | float | str):
        raise TypeError(kind)
    if isinstance(value, str) and encodable(value) != value:
        raise TypeError("half a surrogate pair, which no file can hold")
    return value


def _from_text(kind: str, text: str) -> int | float | str | bool:
    if kind == "bool":
        return {"true": True, "false": False}[text.lower()]
    if kind == "str":
        return _scalar(kind, text)
    return int(text) if kind == "int" else float(text)


def read_parameters(source: str, notebook: str) -> dict[str, Parameter]:
    """The parameters declared by the source of the `parameters` cell, in its order.

    Every statement must be `name: kind = literal` with one of KINDS; ValueError names a line that is not.
    """
    where = f"parameters cell of {notebook}"
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"{where}, line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{where} cannot be read: {error or type(error).__name__}") from None
    comments = _comments(source)
    found: dict[str, Parameter] = {}
    for node in statements:
        text = (ast.get_source_segment(source, node) or "").splitlines()[0]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            raise ValueError(
                f"{where}, line {node.lineno}: want `name: type = literal  # help`, got `{text}`"
            )
        name, kind = node.target.id, ast.unparse(node.annotation)
        if kind not in KINDS:
            raise ValueError(
                f"{where}, line {node.lineno}: type {kind} of {name} is none of {', '.join(KINDS)}"
            )
        try:
            default = ast.literal_eval(node.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise ValueError(f"{where}, line {node.lineno}: {name} must be a literal, got `{text}`") from None
        help_text = comments.get(node.end_lineno or node.lineno, "")
        draft = Parameter(name=name, kind=kind, default=0, help=help_text, notebook=notebook)
        found[name] = Parameter(
            name=name, kind=kind, default=draft.check(default), help=help_text, notebook=notebook
        )
    return found


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the closest known name, or all of them."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
