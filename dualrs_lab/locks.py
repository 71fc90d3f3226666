"""One writer at a time: a lock beside a file, which the system takes back when its holder dies.

The lock of `t.tsv` is the hidden file `.t.tsv.lock`. What counts is not that it is there but that a living
process holds it (`fcntl.lockf`, also on NFS; not inherited by children), so a killed writer blocks nobody.
"""

import errno
import os
import platform
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dualrs_lab.files import want_regular

try:
    import fcntl
except ImportError:  # a system without POSIX locks
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK_WAIT", "TakenError", "lock_path", "writing"]


LOCK_WAIT = "DUALRS_LOCK_WAIT"
"""The environment variable that says for how many seconds to wait for another writer; without it, for none.

Tasks of a cluster wait: the lock of a machine that died is given back only after a while.
"""


class _Holder(NamedTuple):
    process: int  # a fork inherits this list, but not the locks
    thread: int


_HELD: dict[Path, _Holder] = {}


_GUARD = threading.RLock()


# What a file system says that has no locks.
_WITHOUT = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def writing(call: str, *paths: Path) -> Iterator[None]:
    """Hold `paths` as their only writer; the thread that holds a path may hold it again, within.

    Folders are made. Raises ValueError that names `call`, the path and who holds it, at once, or where
    `LOCK_WAIT` is set after that time.
    Where the file system has no locks, a warning says so and nobody is kept out.
    """
    for path in paths:
        want_regular(call, path)
    with ExitStack() as stack:
        for place in sorted({Path(os.path.realpath(path.parent), path.name) for path in paths}):
            stack.enter_context(_one(call, place))
        yield


def lock_path(path: Path) -> Path:
    """Where the lock of `path` is; there only while it is held, and after a kill until the next writer."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def _one(call: str, path: Path) -> Iterator[None]:
    with _GUARD:
        before, own = _HELD.get(path), _Holder(os.getpid(), threading.get_ident())
        held = before is not None and before.process == own.process
        if held and before != own:
            raise _taken(call, path, "another thread of this process")
        if not held:
            file = _take(call, path)
            _HELD[path] = own
    try:
        yield
    finally:
        if not held:
            with _GUARD:
                lock_path(path).unlink(missing_ok=True)  # first: whoever opened it sees that it is gone
                os.close(file)
                del _HELD[path]


def _take(call: str, path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    want_regular(call, lock_path(path))
    until = time.monotonic() + float(os.environ.get(LOCK_WAIT) or 0)
    while True:
        file = os.open(lock_path(path), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(call, path, file)
            if _is_at(file, lock_path(path)):
                with suppress(OSError):  # a full disk: the lock is ours, and only says not whose it is
                    os.ftruncate(file, 0)
                    os.write(file, _self().encode())
                return file
        except TakenError:
            os.close(file)
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
            continue
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the holder before us has just removed it


def _lock(call: str, path: Path, file: int) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no locks")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            who = os.pread(file, 200, 0).decode(errors="replace") or "another process"
            raise _taken(call, path, who) from None
        if error.errno not in _WITHOUT:
            raise
        told = f"{call}: {path.parent} is on a file system without locks; see that nobody else writes {path}"
        warnings.warn(told, stacklevel=2)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _self() -> str:
    return f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


class TakenError(ValueError):
    """Somebody else writes the file."""


def _taken(call: str, path: Path, who: str) -> TakenError:
    return TakenError(
        f"{call}: {path} is being written by {who}; wait until that is done, or choose another file"
    )
