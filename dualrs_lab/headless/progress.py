"""How a run of many notebooks looks: live lines on a terminal, one plain line for each event elsewhere."""

import sys
import time
from collections.abc import Sequence
from typing import TextIO

__all__ = ["Progress", "span"]


PERIOD = 0.5  # seconds between two drawings of the live lines


def span(seconds: float) -> str:
    """A duration for people: 4.2 s, 3:07, 2:05:09."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Events scroll by; below them, on a terminal only, one line per run in progress is kept up to date."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._drawn = 0
        self._last = 0.0

    def event(self, text: str) -> None:
        """Print a line (or several) that stays."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def draw(self, lines: Sequence[str]) -> None:
        """Show the present state, at most every PERIOD; nothing without a terminal."""
        if not self._live or time.monotonic() - self._last < PERIOD:
            return
        self._clear()
        self._stream.write("".join(f"{line[:100]}\n" for line in lines))
        self._stream.flush()
        self._drawn, self._last = len(lines), time.monotonic()

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0
