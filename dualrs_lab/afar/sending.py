"""Results that go to an address: worked on here, where a kill loses nothing, and sent whole at the end.

The place here lies in the cache, one for each address, and goes on after a kill. What is at the address
already is brought there first, so it decides as a file here does: done, gone on with, refused or set aside. A
record goes before its table: a reader never meets half a file, nor a table without its record.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dualrs_lab.afar.address import is_afar, note_copy, say
from dualrs_lab.afar.far import Far, telling
from dualrs_lab.afar.fetching import cache_folder
from dualrs_lab.afar.work import Workplace, key_of, want_writable
from dualrs_lab.locks import writing
from dualrs_lab.store import is_recorded, record_path

__all__ = ["bring_folder", "sending", "sending_folder"]


@contextmanager
def sending(
    call: str,
    place: str | Path,
    *,
    beside: Callable[[str], bool] = lambda name: False,
    more: Sequence[str] = (),
) -> Iterator[Path]:
    """Where the file of `place` is made here, with its record: sent there when all went well within.

    A path is itself. Files in the folder of the address whose names are `beside`, such as parts, are brought
    as well; those that are called `more` are sent, where they are made. Raises ValueError where another
    process of this machine is at it, where the address has something of other settings, or takes no files
    whole; after any error, what was made here stays, and the same call goes on from there.
    """
    if not is_afar(place):
        yield Path(place)
        return
    far = Far.open(call, str(place))
    want_writable(far)
    names = [far.name, *([record_path(far.name).name] if is_recorded(far.name) else [])]
    names = [*dict.fromkeys([*names, *more, *filter(beside, _listed(far))])]
    work = Workplace(far, cache_folder() / "work" / key_of(far), names)
    for name in names:
        note_copy(work.folder / name, far.told.removesuffix(far.name) + name)
    with writing(call, work.folder / far.name):
        work.bring()
        with _said_where(work):
            yield work.folder / far.name
            work.send()


@contextmanager
def sending_folder(
    call: str,
    place: str | Path,
    *,
    first: Callable[[str], object],
    again: Callable[[Path], object],
    send: bool = True,
) -> Iterator[Path]:
    """Where the folder of `place` is worked on here: what is new is sent when all went well within.

    What the folder has already is brought first. Files are sent in the order of `first(name)`. Where others
    sent something meanwhile, that is brought as well, and `again(folder)` writes anew what speaks of all.
    What is hidden, locks among it, stays here, and so do links. Raises as `sending`, and ValueError for a
    file that was changed at both places, and for a name there that leads anywhere else. Without `send`,
    nothing is sent.
    """
    if not is_afar(place):
        yield Path(place)
        return
    far = Far.open(call, str(place).rstrip("/"))
    want_writable(far)
    work = Workplace(far, cache_folder() / "work" / key_of(far, "folder"), order=first, again=again)
    lock = work.folder / f"{far.name} as a whole"
    for one in (work.here, lock):
        note_copy(one, far.address)
    with writing(call, lock):
        work.here.mkdir(exist_ok=True)
        work.bring()
        with _said_where(work):
            yield work.here
            if send:
                work.send()


def bring_folder(call: str, place: str, wanted: Callable[[str], bool]) -> Path:
    """A copy of the files of a folder whose relative names are `wanted`; nothing is written there."""
    far = Far.open(call, place.rstrip("/"))
    folder = cache_folder() / "read" / key_of(far, "folder")
    work = Workplace(far, folder, order=lambda name: 0, wanted=wanted)
    note_copy(work.here, far.address)
    with writing(call, folder / "fetching"):
        work.here.mkdir(parents=True, exist_ok=True)
        work.bring()
    return work.here


def _listed(far: Far) -> list[str]:
    if far.is_web:
        return []
    with telling(far.call, far.address, "listed"):
        folder = far.beside("").rstrip("/") or far.fs.root_marker
        found = far.fs.ls(folder, detail=False) if far.fs.isdir(folder) else []
    return [str(path).rstrip("/").rsplit("/", 1)[-1] for path in found]


@contextmanager
def _said_where(work: Workplace) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if any(work.unsent()):
            say(f"{work.far.told}: not sent; the same call goes on from {work.folder}")
        raise
