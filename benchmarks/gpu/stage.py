"""What the stages share: a clock that they keep, a record of what ran, and archives to carry away.

`python -m benchmarks.gpu.stage DIR` packs a folder of results, `… --unpack DIR` restores it.
"""

import argparse
import platform
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dualrs_lab.files import replace_json
from dualrs_lab.runtime import describe, pick_device

__all__ = ["Clock", "halve", "pack", "parser", "parts", "stage", "unpack"]

ARCHIVE, ARCHIVES, PIECE = 15 * 2**20, 8, 14 * 2**20  # bytes of an archive, archives, bytes of a file in one
GRACE = 20.0  # seconds beyond its minutes after which a stage is interrupted: what one call may take
_PART = ".piece"


class Clock:
    """So many minutes of wall clock from now; what is said is printed with its second and kept in `steps`."""

    def __init__(self, minutes: float) -> None:
        self._start, self._seconds = time.monotonic(), 60 * minutes
        self.steps: list[tuple[float, str]] = []

    def passed(self) -> float:
        """Seconds since construction."""
        return time.monotonic() - self._start

    def left(self) -> float:
        """Seconds left, negative when they are over."""
        return self._seconds - self.passed()

    def enough(self, seconds: float) -> bool:
        """Whether so many seconds are left."""
        return self.left() >= seconds

    def say(self, text: str) -> None:
        """Print a step at once, and keep it for the record."""
        self.steps.append((round(self.passed(), 2), text))
        print(f"[{self.passed():6.1f} s] {text}", flush=True)


def parser(doc: str, *, minutes: float) -> argparse.ArgumentParser:
    """The options of every stage; `minutes` is what it takes by itself."""
    options = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    add = options.add_argument
    add("--minutes", type=float, default=minutes, help="of wall clock, kept by itself (%(default)s)")
    add("--toy", action="store_true", help="everything tiny, for a dry run on a CPU")
    add("--out", type=Path, help="folder for the results (runs/gpu/STAGE)")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--data", default="", help="real images, folder:PATH or the name of a data set")
    add("--commit", default="", help="of this code, where the checkout cannot tell")
    return options


def stage(
    name: str, work: Callable[[argparse.Namespace, Clock, Path], None], arguments: argparse.Namespace
) -> int:
    """Run `work(arguments, clock, out)`; whatever happens, out/record.json tells it. 0, or 1 if it failed.

    A request to end (SIGTERM) counts as a failure, and so do more than GRACE seconds beyond the minutes.
    """
    clock, error = Clock(arguments.minutes), ""
    out: Path = arguments.out or Path("runs/gpu") / name
    out.mkdir(parents=True, exist_ok=True)
    before = {s: signal.signal(s, signal.default_int_handler) for s in (signal.SIGTERM, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_REAL, max(0.0, clock.left()) + GRACE)
    try:
        work(arguments, clock, out)
    except BaseException:  # an interrupt as well: the record is what comes back
        error = traceback.format_exc().replace(f"{Path.cwd()}/", "")
        print(error, flush=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    clock.say(f"{name} {'failed' if error else 'ended'}")
    replace_json(out / "record.json", _record(name, arguments, clock, error))
    return int(bool(error))


def parts(clock: Clock, works: Mapping[str, tuple[float, Callable[[], None]]]) -> None:
    """Run {name: (seconds it needs, part)} in turn; one without the time is left out, a failure stops none.

    Raises RuntimeError at the end that names those that failed.
    """
    failed = []
    for name, (seconds, work) in works.items():
        if not clock.enough(seconds):
            clock.say(f"{name}: left out, {clock.left():.0f} s left of {seconds:.0f} s that it needs")
            continue
        clock.say(f"{name} …")
        try:
            work()
            clock.say(f"{name}: done")
        except Exception as error:
            failed.append(name)
            traceback.print_exc()
            clock.say(f"{name}: failed, {type(error).__name__}: {error}")
    if failed:
        raise RuntimeError(f"failed: {', '.join(failed)}")


def halve(path: Path) -> None:
    """Rewrite a .safetensors with float32 tensors in half precision; its metadata stays."""
    tensors = load_file(path)
    if all(tensor.dtype != torch.float32 for tensor in tensors.values()):
        return
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    half = {k: t.half() if t.dtype == torch.float32 else t for k, t in tensors.items()}
    save_file(half, path, metadata)


def pack(out: Path) -> None:
    """Turn everything under `out` into at most 8 archives of at most 15 MiB: out/NAME_1.zip, …

    Small files go first, so tables and logs are never what does not fit; checkpoints become half precision;
    a file that is too large for an archive goes into several, piece by piece (`unpack` puts it together).
    Files are removed once they are archived. ValueError at the end names what did not fit and stays.
    """
    for path in out.rglob("*.safetensors"):
        halve(path)
    files = sorted((p for p in out.rglob("*") if p.is_file()), key=lambda p: (p.stat().st_size, p))
    number, used, missed = 0, ARCHIVE, []
    for path in files:
        if number == ARCHIVES and used + _packed(path.read_bytes()) > ARCHIVE:
            missed.append(path.relative_to(out).as_posix())
            continue
        for name, data in _pieces(path, out):
            size = _packed(data)
            if used + size > ARCHIVE:
                number, used = number + 1, 0
            used += size
            with ZipFile(out / f"{out.resolve().name}_{number}.zip", "a", ZIP_DEFLATED) as archive:
                archive.writestr(name, data)
        path.unlink()
    for folder in sorted((p for p in out.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    if missed:
        raise ValueError(f"pack({out.name}): {ARCHIVES} archives do not hold {', '.join(missed)}")


def unpack(folder: Path) -> None:
    """Restore what `pack` made of `folder`; the archives stay."""
    for archive in sorted(folder.glob("*_?.zip")):
        with ZipFile(archive) as file:
            file.extractall(folder)
    for first in sorted(folder.rglob(f"*{_PART}00")):
        whole = first.with_name(first.name.removesuffix(f"{_PART}00"))
        pieces = sorted(first.parent.glob(f"{whole.name}{_PART}??"))
        whole.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
        for piece in pieces:
            piece.unlink()


def _pieces(path: Path, out: Path) -> Iterator[tuple[str, bytes]]:
    name, data = path.relative_to(out).as_posix(), path.read_bytes()
    if len(data) <= PIECE:
        yield name, data
        return
    for number, start in enumerate(range(0, len(data), PIECE)):
        yield f"{name}{_PART}{number:02d}", data[start : start + PIECE]


def _packed(data: bytes) -> int:
    return len(zlib.compress(data)) + 1024  # names and headers, told twice in an archive


def _record(name: str, arguments: argparse.Namespace, clock: Clock, error: str) -> dict[str, object]:
    described = describe(pick_device(arguments.device))
    ends = [seconds for seconds, _ in clock.steps[1:]] + [round(clock.passed(), 2)]
    return {
        **described,
        "stage": name,
        "commit": arguments.commit or described["commit"],
        "command": _command(name, arguments),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "error": error,
        "seconds": round(clock.passed(), 2),
        "steps": [
            {"at": at, "seconds": round(end - at, 2), "step": text}
            for (at, text), end in zip(clock.steps, ends, strict=True)
        ],
    }


def _command(name: str, arguments: argparse.Namespace) -> str:
    words = [f"python -m benchmarks.gpu.{name}"]
    for option, value in vars(arguments).items():
        if value not in (None, False, ""):
            words.append(f"--{option.replace('_', '-')}" + ("" if value is True else f" {_told(value)}"))
    return " ".join(words)


def _told(value: object) -> str:
    # names of files and folders, without the folders above them, which mean nothing elsewhere
    if isinstance(value, list | tuple):
        return ",".join(map(_told, value))
    kind, colon, path = str(value).rpartition(":")
    return f"{kind}{colon}{path.rstrip('/').rpartition('/')[2]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Pack a folder, or restore it."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("folder", type=Path)
    options.add_argument("--unpack", action="store_true")
    given = options.parse_args(argv)
    (unpack if given.unpack else pack)(given.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
