"""What `check` says of an answer: right, or what is wrong with a case it fails on; never the solution."""

import base64
import html
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["MIME", "Picture", "Verdict", "drawn_by"]

MIME = "application/vnd.dualrs.verdict+json"
"""Under this type an output of a notebook says the exercise and its state, for grading."""

_STATES = {True: "right", False: "not yet", None: "open"}


class Picture(NamedTuple):
    """A PNG of a case, and what it shows in words."""

    png: bytes
    alt: str


def drawn_by(figure: str, alt: str) -> Callable[..., Picture]:
    """What draws a case and an answer by the figure of this name, which is loaded when something is drawn."""

    def draw(*given: Any, **how: Any) -> Picture:
        figures: Any = importlib.import_module("dualrs_lab.figures")
        return Picture(figures.png(getattr(figures, figure)(*given, **how).figure), alt)

    return draw


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Right (True), wrong (False), or not answered yet (None); `case` is one on which the answer fails.

    `picture` draws it when the verdict is shown, and not before.
    """

    exercise: str
    right: bool | None
    says: str
    case: Mapping[str, Any] = field(default_factory=dict)
    picture: Callable[[], Picture] | None = field(default=None, compare=False)

    @property
    def state(self) -> str:
        """In a word: right, not yet, open."""
        return _STATES[self.right]

    def __str__(self) -> str:
        return f"{self.exercise}: {self.state}. {self.says}".rstrip()

    __repr__ = __str__

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        told = {"exercise": self.exercise, "state": self.state}
        return {"text/plain": str(self), "text/html": self._html(), MIME: told}

    def _html(self) -> str:
        mark = {True: "✓", False: "✗", None: "…"}[self.right]
        colour = {True: "#1a7f37", False: "#b35900", None: "#57606a"}[self.right]
        return (
            f'<div role="status" style="border-left:4px solid {colour};padding:.4em .8em;margin:.3em 0">'
            f'<span style="color:{colour};font-weight:600">{mark} {html.escape(self.exercise)}: {self.state}'
            f"</span><br>{html.escape(self.says)}{self._drawn()}</div>"
        )

    def _drawn(self) -> str:
        if self.picture is None:
            return ""
        try:
            png, alt = self.picture()
        except Exception:  # of an answer that nobody can draw; what is wrong with it is said in words
            return ""
        shown = base64.b64encode(png).decode("ascii")
        return f'<br><img alt="{html.escape(alt)}" src="data:image/png;base64,{shown}"/>'
