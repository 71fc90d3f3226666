"""Plain lines where nobody watches, live ones on a terminal."""

import io

import pytest

from dualrs_lab.headless import Progress, progress, span


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2 s"), (59.9, "59.9 s"), (187, "3:07"), (7509, "2:05:09"), (3599.9, "1:00:00")],
)
def test_span(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_without_a_terminal_only_events_are_printed() -> None:
    stream = io.StringIO()
    shown = Progress(stream)
    shown.draw(["live"])
    shown.event("one")
    assert stream.getvalue() == "one\n"


def test_on_a_terminal_live_lines_give_way_to_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PERIOD", -1.0)
    stream = Terminal()
    shown = Progress(stream)
    shown.draw(["a", "b"])
    shown.event("one")
    shown.draw(["c" * 500])
    assert stream.getvalue() == "a\nb\n\x1b[2A\x1b[Jone\n" + "c" * 100 + "\n"
