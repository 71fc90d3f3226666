"""What a command says of its progress: the bars that it printed, with rate and time left.

Every long command of the package prints bars of `tqdm`, one for each thing it does: a training, a table, an
attack. What was printed last of each is how far it is. Standard library only.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from dualrs_lab.headless.reading import read_tail

__all__ = ["TAIL", "Bar", "bars_of", "read_bars"]


TAIL = 64_000  # bytes of a log in which the last state of its bars is looked for


_BAR = re.compile(
    r"(?P<name>[^\r\n:]+): +(?P<percent>\d+)%\|[^|\r\n]*\| *(?P<done>\d+)/(?P<total>\d+) "
    r"\[(?P<taken>[\d:]+)<(?P<left>[\d:?]+), *(?P<rate>[^\],\r\n]+)[^\]\r\n]*\]"
)


@dataclass(frozen=True)
class Bar:
    """`done` of `total`, the time it took and the time left in seconds (None: not known), and the rate."""

    name: str
    done: int
    total: int
    taken: int
    left: int | None
    rate: str

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.done / self.total if self.total else 1.0


def bars_of(folder: Path) -> list[Bar]:
    """How far the command is that prints into log.txt of this folder: a task, or the run of a notebook."""
    return read_bars(read_tail(folder / "log.txt", TAIL))


def read_bars(log: str) -> list[Bar]:
    """The last state of each bar in what was printed, in the order in which they began."""
    found = {one["name"].strip(): one for one in _BAR.finditer(log)}
    return [
        Bar(
            name=name,
            done=int(one["done"]),
            total=int(one["total"]),
            taken=_seconds(one["taken"]),
            left=None if "?" in one["left"] else _seconds(one["left"]),
            rate="" if "?" in one["rate"] else one["rate"].strip(),
        )
        for name, one in found.items()
    ]


def _seconds(text: str) -> int:
    seconds = 0
    for part in text.split(":"):
        seconds = 60 * seconds + int(part)
    return seconds
