"""Work of which only the newest counts: a thread that takes the last thing it was given."""

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Ended", "Latest", "Tick", "still"]


Tick = Callable[[int, int], None]
"""Told how much is done, of how much; raises `Ended` where nobody waits for the rest."""


class Ended(Exception):
    """The work was stopped, or what it was for is no longer wanted."""


def still(done: int, total: int) -> None:
    """For those who wait for the end."""


class Latest:
    """Calls `work(item, ended)` in a thread for the newest item that was given.

    `ended()` says that a newer one is there, or that `stop` was called: what takes long asks it now and then,
    and gives up. Items that were overtaken before their turn are never worked on.
    """

    def __init__(self, work: Callable[[Any, Callable[[], bool]], None]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._given: list[Any] = []  # at most one
        self._busy = self._stopped = False

    def give(self, item: Any) -> None:
        """Let it be worked on as soon as what is under way has ended."""
        with self._changed:
            self._given, self._stopped = [item], False
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """End what is under way; nothing else follows."""
        with self._changed:
            self._given, self._stopped = [], True

    @property
    def stopped(self) -> bool:
        """Whether `stop` came last."""
        return self._stopped

    def wait(self, seconds: float | None = None) -> bool:
        """Until nothing is under way; whether that is so after at most so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, seconds)

    def _ended(self) -> bool:
        return self._stopped or bool(self._given)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._given:
                    self._busy = False
                    self._changed.notify_all()
                    return
                item = self._given.pop()
            self._work(item, self._ended)
