"""What a run prints: `log.txt`, within bounds. Who prints for ever keeps the first and the last words."""

import contextlib
import fcntl
import os
import select
import sys
import threading
from pathlib import Path

from dualrs_lab.headless.reading import printable, read_tail

__all__ = ["Log", "log_tail"]


HEAD, TAIL = 1_000_000, 1_000_000  # bytes of the beginning and of the end that are kept


ROOM = HEAD + 3 * TAIL  # the file's largest size: what is between the two goes when it is full


PIPE_SIZE = 1_000_000  # bytes that wait in the pipe while this process is busy


SHOWN = 64_000  # bytes that are read to show the last lines


LAST_READS = 16  # of the pipe after the run's end: a process that escaped may print into it for ever


WAIT = 100  # milliseconds


CUT = b"\n[dualrs-lab left out %d bytes here]\n"


class Log:
    """A pipe into which the processes of a run print (`pipe`), and a thread that keeps what comes out.

    All of it is taken, also where the disk is full: else the notebook would wait for ever. `name` is how
    Linux calls the pipe for a process that holds it. Raises OSError where the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._cut = 0  # bytes that were left out
        self._begin = self._notice = 0  # then: how long the beginning and the line after it are
        self._end = threading.Event()
        self._out, self.pipe = os.pipe()
        os.set_blocking(self._out, False)
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # a person may have few such pipes
                fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.name = f"pipe:[{os.fstat(self._out).st_ino}]"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close_pipe(self) -> None:
        """Leave the pipe to the processes that print into it."""
        os.close(self.pipe)

    def close(self) -> None:
        """Keep what waits in the pipe and go; who still holds its other end is not waited for."""
        self._end.set()
        self._thread.join()
        self._file.close()

    def _listen(self) -> None:
        waiting = select.poll()
        waiting.register(self._out, select.POLLIN)
        last = 0
        while last < LAST_READS:
            last += self._end.is_set()
            ready = waiting.poll(0 if last else WAIT)
            data = os.read(self._out, PIPE_SIZE) if ready else b""
            if data:
                self._keep(data)
            elif ready or last:  # no process holds the pipe any more, or none that is waited for
                break
        os.close(self._out)

    def _keep(self, data: bytes) -> None:
        try:
            if self._file.tell() + len(data) > ROOM:
                data = self._make_room(data)
            while data:
                data = data[self._file.write(data) :]
        except OSError:  # the disk is full: what was printed is lost, and counted
            self._cut += len(data)

    def _make_room(self, data: bytes) -> bytes:
        """Cut the file down to its beginning and a line that says so; returns the end, which is to follow."""
        if not self._begin:
            data = self._fill_beginning(data)
        size, since = self._file.tell(), self._begin + self._notice
        self._file.seek(max(since, size - TAIL))
        end = (self._file.read(TAIL) + data)[-TAIL:]
        end = end[end.find(b"\n") + 1 :]
        self._cut += size - since + len(data) - len(end)
        self._file.seek(self._begin)
        self._file.truncate()
        self._notice = self._file.write(CUT % self._cut)
        return end

    def _fill_beginning(self, data: bytes) -> bytes:
        """Find where its last whole line ends; returns what of `data` was not needed for that."""
        needed = max(0, HEAD - self._file.tell())
        self._file.write(data[:needed])
        self._file.seek(0)
        self._begin = self._file.read(HEAD).rfind(b"\n") + 1 or HEAD
        self._file.seek(0, os.SEEK_END)
        return data[needed:]


def log_tail(folder: Path, lines: int = 15) -> str:
    """The last lines of a run's log, indented, for a person who wants to know what went wrong."""
    text = read_tail(folder / "log.txt", SHOWN)
    return "\n".join(f"    | {printable(line)}" for line in text.rstrip().splitlines()[-lines:])
