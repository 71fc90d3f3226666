"""Same settings? Go on. Others? Refuse, or set aside and say so: for tables, networks and labels alike.

Beside a result `NAME.tsv` or `NAME.safetensors` lies its record `NAME.json`, which holds all that the file
depends on. A record belongs to one result. Nothing that is not recognised is ever changed.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dualrs_lab.files import replace_json, set_aside, want_regular
from dualrs_lab.locks import writing

__all__ = [
    "KEPT_BY",
    "check_place",
    "is_recorded",
    "making",
    "plain",
    "positions",
    "read_record",
    "record_path",
    "refuse_other",
    "seal",
    "step_aside",
    "take_up",
    "unchanged",
    "unedited",
    "write_record",
]


_ABSENT = object()


KEPT_BY = "; replace=True keeps it under another name"
"""How refusals of what is there end; the command line says it in its own words."""


# What has a record, and the keys by which a record from before `record_of` is known for one of them.
_KNOWN_BY = {".tsv": {"identity"}, ".safetensors": {"architecture", "identity", "training"}}


_OWN = "record_sha256"  # under which a record holds the digest of all else in it


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` as a json file gives them back, where tuples are lists."""
    return dict(json.loads(json.dumps(settings)))


def record_path(path: Path | str) -> Path:
    """The record of the result at `path`: NAME.json for NAME.tsv or NAME.safetensors.

    Any other name is a ValueError: of t_0.25 and t_0.5 both, the record would be t_0.json.
    """
    path = Path(path)
    if path.suffix not in _KNOWN_BY:
        raise ValueError(f"record_path: got {path}; wanted a name that ends in {' or '.join(_KNOWN_BY)}")
    return path.with_suffix(".json")


def is_recorded(name: str) -> bool:
    """Whether a file of this name is a result, with a record beside it."""
    return Path(name).suffix in _KNOWN_BY


def check_place(call: str, path: Path, ending: str) -> None:
    """ValueError unless `path` can be, or become, a result of this package with a record of its own.

    Wanted: a name with this `ending`; a regular file, or none, there and at the place of its record; no json
    there that is the record of another file, or not of this package; and where tensors go, tensors (whoever
    keeps tables knows their headers). Nothing is opened for writing.
    """
    if path.suffix != ending:
        raise ValueError(f"{call}: got {path}; wanted a name that ends in {ending}")
    record = record_path(path)
    for place in (path, record):
        want_regular(call, place)
    if record.exists() and (owner := _owner(_loaded(record), path)) != ending:
        whose = f"the record of {path.with_suffix(owner).name}" if owner else "no record of this package"
        raise ValueError(f"{call}: {record} is {whose}, and stays as it is; choose another name for {path}")

    if ending == ".safetensors" and path.exists() and not _holds_tensors(path):
        raise ValueError(f"{call}: {path} holds no tensors, and stays as it is; choose another file")


def read_record(path: Path | str) -> dict[str, Any]:
    """The record of the file at `path`; empty if there is none, or what is there belongs to another file."""
    path = Path(path)
    if path.suffix not in _KNOWN_BY or not record_path(path).is_file():
        return {}
    found = _loaded(record_path(path))
    found.pop(_OWN, None)
    return found if _owner(found, path) == path.suffix else {}


def write_record(call: str, path: Path, record: Mapping[str, Any]) -> None:
    """Write the record of the result at `path`, whole, with a digest of itself; ValueError as `check_place`.

    Raises ValueError for what json cannot hold, too.
    """
    check_place(call, path, path.suffix)
    try:
        whole = plain({**record, "record_of": path.suffix})
    except TypeError as error:
        raise ValueError(f"{call}: {error}; wanted numbers, text, lists and dicts for a record") from None
    replace_json(record_path(path), {**whole, _OWN: _digest_of(whole)})


def unedited(path: Path | str) -> bool:
    """Whether the record of the file at `path` is as it was written, by the digest of itself that it holds.

    True where there is none: of the first records, nothing tells. `dualrs-lab verify` asks.
    """
    found = _loaded(record_path(path)) if record_path(path).is_file() else {}
    said = found.pop(_OWN, None)
    return said is None or said == _digest_of(found)


def _digest_of(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode("utf-8")).hexdigest()


def seal(call: str, path: Path) -> None:
    """Put the sha256 of the finished file at `path` into its record, by which readers know it, whole.

    Of a table, the number of its rows as well.
    """
    data = path.read_bytes()
    known = {**read_record(path), "sha256": hashlib.sha256(data).hexdigest()}
    rows = {"rows": data.count(b"\n") - 1} if path.suffix == ".tsv" else {}
    write_record(call, path, known | rows)


def unchanged(call: str, path: Path) -> bytes:
    """The content of the file at `path`; ValueError where its record says otherwise, by sha256.

    A file without a record, one that is not finished yet, and one from before there were digests are read as
    they are. An unfinished last line, as a kill leaves it after a finished table, does not count.
    """
    while True:
        said, data = read_record(path).get("sha256"), path.read_bytes()
        if said in (None, *_digests(data)):
            return data
        if read_record(path).get("sha256") == said:  # else a writer was at work
            raise ValueError(
                f"{call}: {path} is not the file that was finished: sha256 {_digests(data)[0]}, and "
                f"{record_path(path).name} says {said}; restore it, or remove both and make it again"
            )


def take_up(
    call: str,
    files: Sequence[Path],
    wanted: Mapping[str, Any],
    *,
    key: str = "identity",
    replace: bool = False,
) -> list[Path]:
    """Which of `files` are there, all of them made with `wanted`, as the records say under `key`.

    Where one was made with other settings: ValueError that says what differs, or with `replace` all are kept
    under other names, a warning says so, and none is left. A file without a record of its own is a ValueError
    in any case, as `check_place`. Nothing is ever overwritten.
    """
    for file in files:
        check_place(call, file, file.suffix)
    there = [file for file in files if file.exists()]
    recorded = [file for file in files if file in there or record_path(file).exists()]
    found = {file: read_record(file).get(key) for file in recorded}
    others = [file for file in recorded if found[file] != wanted]
    for other in others:
        if not read_record(other):
            refuse_other(call, other, None, wanted)
    if others and not replace:
        remedy = f"choose another file or remove it{KEPT_BY}"
        refuse_other(call, others[0], found[others[0]], wanted, remedy=remedy)
    if others:
        now = _aside(files)
        which = others[0] if others[0] in now else record_path(others[0])
        warnings.warn(f"{which.name} was made with other settings; it is now {now[which].name}", stacklevel=3)
    return [] if others else there


@contextmanager
def making(
    call: str,
    files: Sequence[Path],
    wanted: Mapping[str, Any],
    *,
    key: str = "identity",
    replace: bool = False,
    otherwise: Callable[[Mapping[str, Any]], str] = lambda record: "",
) -> Iterator[list[Path]]:
    """As `take_up`, with `files` held against other writers while they are made; what is complete is free.

    For results that are whole or absent. `otherwise` says what a record of the same settings has against its
    file, which then steps aside. Raises ValueError as `take_up`, `step_aside` and `locks.writing` do.
    """
    for file in files:
        check_place(call, file, file.suffix)
    records = [read_record(file) if file.exists() else {} for file in files]
    if all(record.get(key) == wanted and not otherwise(record) for record in records):
        yield list(files)
        return
    with writing(call, *files):
        there = take_up(call, files, wanted, key=key, replace=replace)
        for file in there:
            if reason := otherwise(read_record(file)):
                step_aside(call, file, reason, replace=replace)
        yield [file for file in there if file.exists()]


def refuse_other(
    call: str,
    path: Path | str,
    found: Mapping[str, Any] | None,
    wanted: Mapping[str, Any],
    *,
    remedy: str = "choose another file or remove it",
) -> None:
    """ValueError that names what differs between the settings found for `path` and those wanted, if any."""
    known = found or {}
    keys = sorted({*known, *wanted})
    differing = [key for key in keys if known.get(key, _ABSENT) != wanted.get(key, _ABSENT)]
    if differing or found is None:
        there = {key: known[key] for key in differing if key in known} if found else "no record beside it"
        here = {key: wanted[key] for key in differing if key in wanted}
        raise ValueError(
            f"{call}: {path} was made with other settings ({', '.join(differing)}): found {there}, "
            f"wanted {here}; {remedy}"
        )


def step_aside(call: str, path: Path, reason: str, *, replace: bool) -> None:
    """ValueError that the file at `path` cannot go on, for a `reason` that is no setting of its record.

    With `replace` the file and its record are kept under other names instead, and a warning says so.
    """
    if not replace:
        raise ValueError(f"{call}: {path} {reason}; choose another file or remove it{KEPT_BY}")
    now = _aside([path])
    if path in now:
        warnings.warn(f"{path.name} {reason}; it is now {now[path].name}", stacklevel=3)


def _aside(files: Sequence[Path]) -> dict[Path, Path]:
    # results and their records, as far as they are there, and the names under which they are kept now
    there = [one for file in files for one in (file, record_path(file)) if one.exists()]
    return dict(zip(there, set_aside(*there), strict=True))


def positions(call: str, count: int, skip: int, max_images: int) -> range:
    """Every `skip`-th of `count` images, `max_images` at most (-1: all)."""
    if skip < 1 or (max_images < 1 and max_images != -1):
        raise ValueError(
            f"{call}: got skip {skip}, max_images {max_images}; wanted skip >= 1, max_images >= 1 or -1"
        )
    every = range(0, count, skip)
    return every if max_images == -1 else every[:max_images]


def _holds_tensors(path: Path) -> bool:
    # a safetensors file begins with the length of its json header
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _loaded(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_text("utf-8"))
    except (ValueError, RecursionError):
        return {}  # no json at all: not ours
    return found if isinstance(found, dict) else {}


def _owner(found: Mapping[str, Any], path: Path) -> str:
    # the ending of the file that the record `found`, in the place of that of `path`, belongs to
    if "record_of" in found:
        return str(found["record_of"])
    fit = [ending for ending, keys in _KNOWN_BY.items() if keys & found.keys()]
    fit = [ending for ending in fit if path.with_suffix(ending).exists()] or fit
    return path.suffix if path.suffix in fit else next(iter(fit), "")


def _digests(data: bytes) -> list[str]:
    # of the whole, and of its whole lines
    ends = {len(data), data.rfind(b"\n") + 1}
    return [hashlib.sha256(data[:end]).hexdigest() for end in sorted(ends, reverse=True)]
