"""Files at addresses, read through a cache that is whole or absent: a file that changed is fetched anew.

What a file is known by there (its etag, checksum, generation, time) names its copy here. A result comes with
its record, both as of one moment.
"""

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath

from dualrs_lab.afar.address import address_text, is_afar, note_copy, say, size_text
from dualrs_lab.afar.far import OWN_CACHES, Far, Version, safe_name, telling
from dualrs_lab.files import sync_folder
from dualrs_lab.locks import TakenError, writing
from dualrs_lab.store import is_recorded

__all__ = ["at_hand", "cache_folder", "expand"]


_OLD = 7 * 24 * 3600.0  # seconds after which a copy of an earlier version, not read since, is removed


_SAID: set[tuple[str, str]] = set()


def cache_folder() -> Path:
    """Where copies are kept, and results worked on: `DUALRS_AFAR`, or a folder of the user's cache."""
    folder = Path(os.environ.get("DUALRS_AFAR") or "~/.cache/dualrs-lab/afar").expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def expand(call: str, address: str) -> list[str]:
    """The addresses that a pattern such as `s3://bucket/*.tsv` stands for, in order."""
    if not re.search(r"[*?\[]", address) or re.match(r"https?://", OWN_CACHES.sub("", address)):
        return [address]
    far = Far.open(call, address)
    with telling(call, address, "listed"):
        found = sorted(str(path) for path in far.fs.glob(far.path))
    for path in found:
        safe_name(call, path.rsplit("/", 1)[-1])
    if not found:
        raise FileNotFoundError(f"{call}: {address_text(address)} matches no file")
    return [str(far.fs.unstrip_protocol(path)) for path in found]


def at_hand(call: str, place: str | Path) -> Path:
    """Where the file of `place` is here: itself, or the copy of what is at an address, with its record.

    A copy is used again as long as the file there is the same. Raises FileNotFoundError, ValueError that says
    what to install, or OSError: with nothing half left behind, and without a password or a key.
    """
    if not is_afar(place):
        return Path(place)
    far = Far.open(call, str(place))
    names = {far.path: far.name}
    if is_recorded(far.name):
        record = str(PurePosixPath(far.name).with_suffix(".json"))
        names[far.beside(record)] = record
    base = cache_folder() / "read" / _digest(far.address)
    for _ in range(3):
        versions = _look(far, names)
        with _turn(call, base / "fetching"):
            folder, came = _kept(far, base, names, versions)
        if folder is not None:
            break
    else:
        raise OSError(f"{call}: {far.told} changes while it is read; try again when it is finished")
    for path in versions:
        note_copy(folder / names[path], far.told.removesuffix(far.name) + names[path])
    _say_fetched(far, names, versions, folder, came)
    return folder / far.name


def _look(far: Far, names: Mapping[str, str]) -> dict[str, Version]:
    found = {far.path: far.want(far.path)}
    for path in names.keys() - found.keys():
        with suppress(PermissionError):  # a store that may not be listed says so of what is not there
            if (version := far.look(path)) is not None:
                found[path] = version
    return found


def _kept(
    far: Far, base: Path, names: Mapping[str, str], versions: Mapping[str, Version]
) -> tuple[Path | None, bool]:
    # the folder of this version, and whether it came just now; no folder where another version came meanwhile
    certain = all(version.known for version in versions.values())
    called = _digest(*(version.text for version in versions.values())) if certain else secrets.token_hex(8)
    folder = base / called
    if folder.is_dir():
        os.utime(folder)
        return folder, False
    for part in base.glob(".*.tmp"):  # of who was killed: nobody else is at work here
        shutil.rmtree(part, ignore_errors=True)
    part = base / f".{called}.tmp"
    part.mkdir()
    try:
        try:
            for path, version in versions.items():
                far.get(path, version, part / names[path])
        except OSError:
            if _look(far, names) == versions:
                raise
            return None, False
        if _look(far, names) != versions:
            return None, False
        sync_folder(part)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_folder(base)
    for other in base.glob("[!.]*"):
        if other.is_dir() and other != folder and time.time() - other.stat().st_mtime > _OLD:
            shutil.rmtree(other, ignore_errors=True)
    return folder, True


@contextmanager
def _turn(call: str, place: Path) -> Iterator[None]:
    # who comes while another fetches the same waits, and finds it done
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(writing(call, place))
                break
            except TakenError:
                time.sleep(0.2)
        yield


def _say_fetched(
    far: Far, names: Mapping[str, str], versions: Mapping[str, Version], folder: Path, came: bool
) -> None:
    key = (far.address, folder.name)
    if key not in _SAID:
        _SAID.add(key)
        size = size_text(
            sum(version.size or (folder / names[path]).stat().st_size for path, version in versions.items())
        )
        record = f" {'with its' if len(versions) > 1 else 'without a'} .json" if is_recorded(far.name) else ""
        how = "fetched" if came else "unchanged, so it is read from its copy"
        say(f"{far.told}{record}: {how}, {size}, in {folder}")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
