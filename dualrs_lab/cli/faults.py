"""What a command tells of what went wrong: one line that names command and file, and a code. No torch here.

Our own errors say what came, what was wanted and what to do. The others that input can cause (the disk, the
memory, the device, a damaged file) are told in the same form. What remains is a fault of this package, and is
told as that.
"""

import errno
import pickle
import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualrs_lab.afar.address import by_address, without_secrets
from dualrs_lab.store import KEPT_BY

__all__ = ["INTERNAL", "REFUSED", "explain", "one_line_warnings"]


REFUSED, INTERNAL = 2, 70  # exit codes: of input that is no good, and of a fault of this package


TRACEBACK = "DUALRS_TRACEBACK"
"""The environment variable that shows developers where an error came from."""


_FORESEEN = (
    ValueError,
    OSError,
    MemoryError,
    RecursionError,
    ArithmeticError,
    EOFError,
    ImportError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


# RuntimeErrors by which torch says what the machine or the input lacks, not what is wrong with its caller.
_OF_THE_MACHINE = re.compile(
    r"memory|allocat|cuda|cudnn|hip|mps\b|device|out of range|overflow", re.IGNORECASE
)


_REMEDIES = {
    errno.ENOSPC: "make room, or choose another place",
    errno.EDQUOT: "make room, or choose another place",
    errno.EFBIG: "choose another place",
    errno.EROFS: "choose another place",
    errno.EACCES: "see to the right to it, or choose another",
    errno.EPERM: "see to the right to it, or choose another",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENOTDIR: "a part of it is a file; name a folder there",
    errno.EEXIST: "it is there already; choose another name",
    errno.ELOOP: "its links go in a circle; remove them",
    errno.EMFILE: "close other programs",
}


def explain(error: Exception, command: str, options: Namespace | None) -> tuple[str, int]:
    """One line about `error`, for the person who called `command`, and the exit code.

    Names the files of `options` where the error itself names none.
    """
    if _foreseen(error):
        text, code = _text(error).replace(KEPT_BY, _kept_by(options)), REFUSED
        if options is not None and (files := _files(options, error)) and not _names(text, options, files):
            text += f" (in {', '.join(map(str, dict.fromkeys(files)))})"
    else:
        name = f"{type(error).__name__}: {error}"
        text, code = (
            f"internal error ({name}); set {TRACEBACK}=1 to see where, and please report it",
            INTERNAL,
        )
    text = _printable(without_secrets(by_address(text)))
    return (text if not command or text.startswith(f"{command}: ") else f"{command}: {text}"), code


def _foreseen(error: Exception) -> bool:
    if isinstance(error, _FORESEEN) or type(error).__module__.partition(".")[0] == "safetensors":
        return True
    return isinstance(error, RuntimeError) and bool(_OF_THE_MACHINE.search(str(error)))


def _kept_by(options: Namespace | None) -> str:
    return KEPT_BY.replace("replace=True", "--replace") if hasattr(options, "replace") else ""


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        named = [str(name) for name in (error.filename, error.filename2) if name is not None]
        remedy = _REMEDIES.get(error.errno or 0, "")
        return ": ".join([*named[:1], error.strerror]) + (f"; {remedy}" if remedy else "")
    if isinstance(error, MemoryError):
        return f"not enough memory ({str(error) or 'of this machine'}); take fewer or smaller at a time"
    if isinstance(error, RecursionError):
        return "a file holds lists within lists without end; see that it is what it should be"
    if isinstance(error, UnicodeDecodeError):
        return (
            f"a file is not UTF-8 text ({error.reason} at byte {error.start}); see that it is the right one"
        )
    if isinstance(error, ImportError):
        return f"{error}; install what is missing, see the README"
    return str(error) or type(error).__name__


def _files(options: Namespace, error: Exception) -> list[Path]:
    # what the command reads; where it writes as well for what the system says without the name of a file
    written = () if isinstance(error, OSError) else ("out",)
    values = [value for name, value in vars(options).items() if name not in written]
    several = [one for value in values if isinstance(value, list) for one in value]
    return [one for one in (*values, *several) if isinstance(one, Path)]


def _names(text: str, options: Namespace, files: list[Path]) -> bool:
    data = str(getattr(options, "data", "")).removeprefix("folder:").partition("?")[0]
    sources = [getattr(options, name, None) for name in ("checkpoint", "accurate")]
    made = getattr(options, "out", None)
    also = (made.name if isinstance(made, Path) else "", data, *(s for s in sources if isinstance(s, str)))
    known = (*(file.name for file in files), *also)
    return "--" in text or any(name and name in text for name in known)


def _printable(text: str, most: int = 1500) -> str:
    """One line that moves no cursor and rings no bell, whatever was in the names of files."""
    line = " ".join(text.split())
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in line)
    return shown if len(shown) <= most else f"{shown[:most]} …"


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Warnings as a person at a terminal reads them: a line each, without the place in the code."""

    def line(message: Warning | str, *_: object, **__: object) -> str:
        return f"dualrs-lab: warning: {_printable(without_secrets(by_address(message)))}\n"

    before = warnings.formatwarning
    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = before
