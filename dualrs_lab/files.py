"""Files that are whole or absent, and the record of what made them; standard library only, loads at once."""

import hashlib
import json
import os
import platform
import secrets
import subprocess
from importlib import metadata
from pathlib import Path

from dualrs_lab import __version__

__all__ = ["digest", "provenance", "replace_bytes", "replace_json", "replace_text", "set_aside"]


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

    The bytes go to a hidden file beside `path`, reach the disk and are renamed over it. Folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with part.open("xb") as file:  # not tempfile, whose files are private: results follow the umask
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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
    present = [Path(path) for path in paths if Path(path).exists()]
    for number in range(1, 1_000_000):
        renamed = [path.with_name(f"{path.stem}_old{number}{path.suffix}") for path in present]
        if not any(path.exists() for path in renamed):
            break
    for path, new in zip(present, renamed, strict=True):
        path.rename(new)
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
