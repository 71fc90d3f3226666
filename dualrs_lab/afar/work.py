"""A folder here that stands for files at an address: what is there is brought, what is new here is sent.

A list in it says what was the same at both places. Nothing here is overwritten that was not sent, nothing at
an address is removed, and each file appears there at once or not at all.
"""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dualrs_lab.afar.address import say, size_text
from dualrs_lab.afar.far import Far, Version, safe_name, telling
from dualrs_lab.files import digest, replace_json, set_aside
from dualrs_lab.locks import writing
from dualrs_lab.store import is_recorded, read_record, record_path, refuse_other

__all__ = ["Workplace", "key_of", "want_writable"]


# Stores in which an object is there when it is whole, and not before; elsewhere a file is moved into place.
_AT_ONCE = frozenset(["s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "oss", "oci", "tos"])


_MOVED = frozenset(["file", "local", "memory", "sftp", "ssh", "hdfs"])


_MANIFEST = ".afar.json"


def want_writable(far: Far) -> None:
    """ValueError for an address to which nothing is sent whole; FileNotFoundError of no bucket."""
    call = far.call
    if "::" in far.address:
        raise ValueError(f"{call}: {far.told} goes through another file system; wanted a plain address")
    if far.is_web:
        raise ValueError(f"{call}: {far.told}: http(s) is only read; wanted s3://, gs://, hf:// or a path")
    if not (_protocols(far) & (_AT_ONCE | _MOVED)):
        raise ValueError(
            f"{call}: {far.told}: nobody knows whether files appear there whole or not at all; wanted "
            "s3://, gs://, az://, hf://, sftp:// or a path"
        )
    if _protocols(far) & _AT_ONCE - {"hf"}:  # before hours are spent; a right to write shows when it is sent
        with suppress(PermissionError), telling(call, far.address, "written to"):
            far.fs.info(far.path.partition("/")[0])


def _protocols(far: Far) -> set[str]:
    named = far.fs.protocol
    return {named} if isinstance(named, str) else {*named}


def key_of(far: Far, *more: str) -> str:
    """Of what a folder here for it, and for `more`, is called."""
    return hashlib.sha256("\0".join([far.address, *more]).encode()).hexdigest()[:16]


@dataclass
class Workplace:
    """A folder here that stands for `names` beside `far`, or, without names, for all that is below it."""

    far: Far
    folder: Path
    names: Sequence[str] = ()
    order: Callable[[str], object] | None = None
    again: Callable[[Path], object] = lambda folder: None
    wanted: Callable[[str], bool] = lambda name: True
    brought: int = field(default=0, init=False)

    @property
    def whole(self) -> bool:
        """Whether it is a folder."""
        return self.order is not None

    @property
    def here(self) -> Path:
        """The folder of the files here."""
        return self.folder / self.far.name if self.whole else self.folder

    def bring(self) -> None:
        """Have here what is there: nothing that was made here is overwritten."""
        known, there, mine = self.known(), self.there(), self.mine()
        changed = {
            name for name, (_, version) in there.items() if known.get(name, {}).get("version") != version.text
        }
        gone = known.keys() - there.keys()
        if not (changed or gone):
            return
        unsent = {*self.unsent(known, mine)}
        for name in gone - unsent:  # removed there, and a copy here
            (self.here / name).unlink(missing_ok=True)
        known = {name: one for name, one in known.items() if name not in gone}
        for name in sorted(changed & unsent):  # the same at both places: whoever sent it was killed just then
            if self._is_the_same(name, there, mine[name]):
                known[name] = {"version": there[name][1].text, "digest": mine[name]}
                changed.remove(name)
                unsent.remove(name)
        changed -= self._ours_that_stay(changed, unsent, there)
        size = 0
        for name in sorted(changed):
            self._get(*there[name], self.here / name)
            known[name] = {"version": there[name][1].text, "digest": digest(self.here / name)}
            size += (self.here / name).stat().st_size
        replace_json(self.folder / _MANIFEST, known)
        self.brought += len(changed)
        if changed:
            say(f"{self.far.told}: {_all(changed)} fetched, {size_text(size)}, into {self.folder}")

    def send(self) -> None:
        """Send what is new here; what others sent meanwhile is looked at before."""
        with ExitStack() as alone:
            if "file" in _protocols(self.far) and not self.whole:  # on this machine there is a lock for it
                alone.enter_context(writing(self.far.call, Path(self.far.path)))
            self.brought = 0
            self.bring()
            if self.brought:
                self.again(self.here)
            known, mine = self.known(), self.mine()
            todo = sorted(self.unsent(known, mine), key=lambda name: (self._stage(name), _record_first(name)))
            size = 0
            for name in todo:
                known[name] = {"version": self._put(name).text, "digest": mine[name]}
                replace_json(self.folder / _MANIFEST, known)
                size += (self.here / name).stat().st_size
            if todo and self.whole:  # a listing may tell other signs of a file than a look at it
                there = self.there()
                known |= {name: {**known[name], "version": there[name][1].text} for name in todo}
                replace_json(self.folder / _MANIFEST, known)
        told = self.far.told
        if todo:
            say(f"{told}: {_all(todo)} sent, {size_text(size)}; a copy stays in {self.folder}")
        else:
            say(f"{told} is as it was: there was nothing to send")

    def known(self) -> dict[str, dict[str, str]]:
        """What was the same at both places when it was last looked at."""
        with suppress(FileNotFoundError, ValueError):
            return dict(json.loads((self.folder / _MANIFEST).read_text()))
        return {}

    def there(self) -> dict[str, tuple[str, Version]]:
        """The files there: their paths and versions, by name."""
        if not self.whole:
            paths = {name: self.far.beside(name) for name in self.names}
            return {name: (path, version) for name, path in paths.items() if (version := self.far.look(path))}
        with telling(self.far.call, self.far.address, "listed"):
            try:
                is_folder = self.far.fs.info(self.far.path).get("type") == "directory"
            except FileNotFoundError:
                return {}
            found = self.far.fs.find(self.far.path, detail=True)
        if not is_folder:
            raise ValueError(f"{self.far.call}: {self.far.told} is a file; name a folder")
        named = {_below(self.far, str(path)): (str(path), info) for path, info in found.items()}
        return {
            name: (path, Version.of(info))
            for name, (path, info) in named.items()
            if not _hidden(name) and self.wanted(name)
        }

    def mine(self) -> dict[str, str]:
        """The digests of the files here, by name."""
        if not self.whole:
            return {name: digest(self.folder / name) for name in self.names if (self.folder / name).is_file()}
        found: dict[str, str] = {}
        for folder, inner, files in os.walk(self.here):
            inner[:] = [one for one in inner if not _hidden(one)]
            paths = [Path(folder, one) for one in files if not _hidden(one)]
            found |= {
                path.relative_to(self.here).as_posix(): digest(path)
                for path in paths
                if path.is_file() and not path.is_symlink()
            }
        return found

    def unsent(
        self, known: Mapping[str, Mapping[str, str]] | None = None, mine: Mapping[str, str] | None = None
    ) -> Iterator[str]:
        """The names of files here that are not as they were when both places had the same."""
        known = self.known() if known is None else known
        mine = self.mine() if mine is None else mine
        return (name for name, found in mine.items() if known.get(name, {}).get("digest") != found)

    def _is_the_same(self, name: str, there: Mapping[str, tuple[str, Version]], ours: str) -> bool:
        scratch = self.folder / ".theirs"
        try:
            self._get(*there[name], scratch)
            return digest(scratch) == ours
        finally:
            scratch.unlink(missing_ok=True)

    def _ours_that_stay(
        self, changed: set[str], unsent: set[str], there: Mapping[str, tuple[str, Version]]
    ) -> set[str]:
        """Of what was changed there, what counts as it is here; ValueError where nobody can say."""
        own = set() if self.whole else {*self.names[: 1 + is_recorded(self.far.name)]}
        kept = set() if not (own & changed and own & unsent) or self._take_theirs(there) else own
        both = sorted(name for name in (changed & unsent) - own if not self._made_again(name))
        if both:
            raise ValueError(
                f"{self.far.call}: {both[0]} was changed in {self.far.told} and in {self.here}, and was "
                "not sent yet; set one of the two aside"
            )
        return kept

    def _take_theirs(self, there: Mapping[str, tuple[str, Version]]) -> bool:
        """Whether what somebody else sent counts, and not what was made here, which is then set aside."""
        ours, told = self.folder / self.far.name, self.far.told
        if not is_recorded(self.far.name):
            set_aside(ours)
            return True
        mine, theirs = read_record(ours), self._record_of(there)
        remedy = (
            f"what was made here lies in {self.folder}; name another address, or set one of the two aside"
        )
        refuse_other(self.far.call, told, _identity(theirs) or None, _identity(mine), remedy=remedy)
        if self.far.name not in there or theirs.get("sha256", "") is None:
            return False  # a sender was killed, or is at work on the same
        if theirs.get("rows", 0) < mine.get("rows", 0):
            say(
                f"{told} has {theirs.get('rows', 0)} rows of the same making; {mine['rows']} take their place"
            )
            return False
        aside = set_aside(ours, record_path(ours))
        say(
            f"{told} was made by somebody else meanwhile, and stays; what was made here is kept as {aside[0]}"
        )
        return True

    def _record_of(self, there: Mapping[str, tuple[str, Version]]) -> dict[str, Any]:
        # the record of what is there, read beside nothing of ours
        name, scratch = record_path(self.far.name).name, self.folder / ".theirs"
        if name not in there:
            return {}
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            self._get(*there[name], scratch / name)
            return read_record(scratch / self.far.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _made_again(self, name: str) -> bool:
        # pages and tables of all runs: written anew from the runs themselves
        return self.whole and "/" not in name

    def _get(self, path: str, version: Version, here: Path) -> None:
        part = here.with_name(f".{here.name}.afar.tmp")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        try:
            self.far.get(path, version, part)
            os.replace(part, here)
        finally:
            part.unlink(missing_ok=True)

    def _put(self, name: str) -> Version:
        """Send one file, at once or not at all; what it is known by there."""
        here, path, fs = self.here / name, self._path(name), self.far.fs
        with telling(self.far.call, self.far.address, "sent"):
            if _protocols(self.far) & _AT_ONCE:
                fs.put_file(str(here), path)
            else:
                self._move_in(here, path)
            version = Version.of(fs.info(path))
            if version.size != here.stat().st_size:
                raise OSError(f"of {here.stat().st_size} bytes of {name}, {version.size} are there")
        return version

    def _move_in(self, here: Path, path: str) -> None:
        fs, (folder, _, name) = self.far.fs, path.rpartition("/")
        part = f"{folder}/.{name}.{key_of(self.far, platform.node(), str(self.folder))}.tmp"
        fs.makedirs(folder, exist_ok=True)
        try:
            fs.put_file(str(here), part)
            if fs.info(part)["size"] != here.stat().st_size:
                raise OSError("what arrived is not of the same size")
            fs.mv(part, path)
        except BaseException:
            with suppress(Exception):
                fs.rm_file(part)
            raise

    def _path(self, name: str) -> str:
        return f"{self.far.path}/{name}" if self.whole else self.far.beside(name)

    def _stage(self, name: str) -> object:
        return self.order(name) if self.order is not None else 0


def _identity(record: Mapping[str, Any]) -> Mapping[str, Any]:
    # of a checkpoint, all that its record says
    found = record.get("identity", record)
    return found if isinstance(found, Mapping) else record


def _all(names: Collection[str]) -> str:
    return " and ".join(sorted(names)) if len(names) < 3 else f"{len(names)} files"


def _record_first(name: str) -> tuple[str, bool, str]:
    path = PurePosixPath(name)
    return str(path.with_suffix("")), path.suffix != ".json", name


def _below(far: Far, path: str) -> str:
    """The name of a listed file below the folder; ValueError where it leads out of it."""
    name = path.removeprefix(far.path).lstrip("/") if path.startswith(far.path.rstrip("/") + "/") else path
    for part in name.split("/"):
        safe_name(f"{far.call}: {far.told}", part)
    if name == path:
        raise ValueError(f"{far.call}: {far.told} lists {path!r}, which is not below it")
    return name


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
