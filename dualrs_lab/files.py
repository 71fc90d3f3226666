"""Files that are whole or absent, and the record of what made them; standard library only, loads at once."""

import hashlib
import json
import os
import platform
import secrets
import stat
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from dualrs_lab import __version__

__all__ = [
    "digest",
    "provenance",
    "replace_bytes",
    "replace_json",
    "replace_text",
    "set_aside",
    "sync_folder",
    "want_regular",
]


# What a result may depend on: the versions that a reader of an old table asks for first.
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "papermill",
    "ipywidgets",
    "jupyterlab",
)


def replace_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`; a reader, or a kill at any moment, finds the old file or the new one, whole.

    The bytes go to a hidden file beside `path`, reach the disk and are renamed over it, which reaches the
    disk as well. Folders are made. Raises ValueError for what is no regular file, see `want_regular`, and
    OSError that names `path` where the disk is full or the like; the old file stays.
    """
    path = Path(path)
    want_regular("replace_bytes", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with part.open("xb") as file:  # not tempfile, whose files are private: results follow the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in `folder` to the disk: until then a power cut may undo a rename."""
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened, and names are written at once
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def want_regular(call: str, path: Path) -> None:
    """ValueError where `path` is there, but is no regular file: neither read, nor replaced, nor waited for.

    A link would be replaced by a file, a FIFO would block, a device be overwritten.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        kind = next((kind for kind, is_one in _KINDS.items() if is_one(mode)), "special file")
        raise ValueError(f"{call}: {path} is a {kind}; wanted a regular file, or a name that is free")


_KINDS: dict[str, Callable[[int], bool]] = {
    "folder": stat.S_ISDIR,
    "symbolic link": stat.S_ISLNK,
    "FIFO": stat.S_ISFIFO,
    "socket": stat.S_ISSOCK,
    "device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
}


def replace_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with its line ends as they are; see `replace_bytes`."""
    replace_bytes(path, text.encode("utf-8"))


def replace_json(path: str | Path, value: object) -> None:
    """Write `value` as JSON with sorted keys, so that equal values are equal files; see `replace_bytes`.

    Raises ValueError for what JSON cannot hold (NaN is written as Python's own reader accepts it).
    """
    try:
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    except TypeError as error:
        raise ValueError(
            f"replace_json({Path(path).name}): {error}; convert it to numbers, text, lists or dicts first"
        ) from None
    replace_text(path, text + "\n")


def set_aside(*paths: str | Path) -> list[Path]:
    """Rename files that are in the way to NAME_old1, NAME_old2, …: the first number that is free for all.

    Nothing is overwritten and nothing is lost. Returns the new paths of those that existed.
    """
    present = [Path(path) for path in paths if os.path.lexists(path)]  # also links to nothing
    for number in range(1, 1_000_000):
        renamed = [path.with_name(f"{path.stem}_old{number}{path.suffix}") for path in present]
        if not any(os.path.lexists(path) for path in renamed):
            break
    for path, new in zip(present, renamed, strict=True):
        path.rename(new)
    for folder in {path.parent for path in present}:
        sync_folder(folder)
    return renamed


def digest(*parts: bytes | str | Path) -> str:
    """A sha256 prefix (16 hex digits) over texts, bytes and the contents of files; where one ends counts."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        else:
            whole.update(hashlib.sha256(part.encode("utf-8") if isinstance(part, str) else part).digest())
    return whole.hexdigest()[:16]


def provenance() -> dict[str, object]:
    """What made a result: versions, machine and the commit of this checkout ("unknown" where it is not one).

    `commit` ends in "+dirty" where tracked files differ from it. Versions are read without imports.
    """
    return {
        "package": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _processor(),
        "cores": os.cpu_count() or 0,
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on most Linux systems
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # installed elsewhere: a repository further up is not ours
        return "unknown"
    head = _git(root, "rev-parse", "HEAD")
    return (
        head + ("+dirty" if head and _git(root, "status", "--porcelain", "--untracked-files=no") else "")
        or "unknown"
    )


def _git(root: Path, *arguments: str) -> str:
    try:
        # Without optional locks: asking for the status must not block a commit in the same checkout.
        command = ["git", "--no-optional-locks", *arguments]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
