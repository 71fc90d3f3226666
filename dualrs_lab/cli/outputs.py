"""Where a command's files are: what is afar is brought here before, and what it makes is sent after.

A table's place is seen to before anything is loaded, drawn or computed for it.
"""

import os
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dualrs_lab.afar.address import address_text, note_copy, want_no_secret
from dualrs_lab.cli.parser import Afar

__all__ = ["at_hand", "want_place"]


RECORDS = ("status.json", "records.jsonl")  # of a run: what it was and how it ended


def want_place(call: str, path: Path) -> None:
    """ValueError unless a table and its json can be made, or gone on with, at `path`.

    What is there must be regular files, the nearest folder that is there a folder in which files can be made.
    """
    for place in (path, path.with_suffix(".json")):
        if place.is_symlink() or (place.exists() and not place.is_file()):
            raise ValueError(f"{call}: --out {path}: {place} is no regular file; choose another name")
    above = next(place for place in (*path.parents, Path(path.anchor or ".")) if place.exists())
    if not above.is_dir():
        raise ValueError(f"{call}: --out {path}: {above} is no folder; choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{call}: --out {path}: no file can be made in {above}; choose another place")


@contextmanager
def at_hand(options: Namespace) -> Iterator[None]:
    """Within, every address among `options` is a path: files that were brought, and places to work in.

    What is made there is sent when the command has ended without an error, whatever its exit code.
    """
    given = {name: value for name, value in vars(options).items() if _addresses(value)}
    if not given:
        yield
        return
    _check(options, given)
    with ExitStack() as stack:
        for name, value in sorted(given.items(), key=lambda one: _addresses(one[1])[0].use == "read"):
            several = _spread(options.name, value) if isinstance(value, list) else [value]
            here = [_path(stack, options, one) for one in several]
            setattr(options, name, here if isinstance(value, list) else here[0])
        yield


def _addresses(value: object) -> list[Afar]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, Afar)]


def _check(options: Namespace, given: dict[str, object]) -> None:
    """ValueError for what cannot be afar, before anything is fetched."""
    call = options.name
    written = [one for value in given.values() for one in _addresses(value) if one.use != "read"]
    if getattr(options, "on", "here") == "slurm":
        want_no_secret(call, options.words, "the record of a submission")
        if written:
            raise ValueError(
                f"{call}: --on slurm with {address_text(written[0].address)}: tasks work in a folder that "
                "they all see; wanted a path there, and to copy what it holds once all have ended"
            )
    if getattr(options, "remove_parts", False):
        raise ValueError(f"{call}: --remove-parts: nothing is removed at an address; remove the parts there")
    if getattr(options, "update", False) or getattr(options, "report", False):
        raise ValueError(f"{call}: --update and --report are for a folder here; wanted a path")
    if call == "train" and written + _addresses(given.get("folder")):
        raise ValueError("train: --folder: networks are trained into a folder here; wanted a path")


def _spread(call: str, values: list[Any]) -> list[Any]:
    """Patterns as what they stand for: a shell sees no files afar."""
    from dualrs_lab.afar.fetching import expand

    found = [expand(call, one.address) if isinstance(one, Afar) else [one] for one in values]
    return [Afar(one) if isinstance(one, str) else one for several in found for one in several]


def _path(stack: ExitStack, options: Namespace, value: Any) -> Any:
    if not isinstance(value, Afar):
        return value
    if value.use == "read":
        from dualrs_lab.afar.fetching import at_hand as brought

        path = brought(options.name, value.address)
    elif value.use == "write":
        path = _made(stack, options, value.address)
    else:
        path = _folder(stack, options, value.address)
    if getattr(options, "on", "here") == "here":
        _say_otherwise(options, value.address, path)
    return path


def _say_otherwise(options: Namespace, address: str, path: Path) -> None:
    # the words are those of parts as well, which are made here
    for number, word in enumerate(options.words):
        if word == address or word.endswith(f"={address}"):
            options.words[number] = word.removesuffix(address) + str(path)


def _made(stack: ExitStack, options: Namespace, address: str) -> Path:
    """Where the file of `address` is made; of a part of a table, the place of the whole beside it."""
    from dualrs_lab.afar.sending import sending

    call, name = options.name, Path(address.rpartition("/")[2])
    if shard := getattr(options, "shard", None):
        part = f"{address.removesuffix(name.name)}{shard.part(name).name}"
        here = stack.enter_context(sending(call, part)).with_name(name.name)
        note_copy(here, address)
        return here
    pattern = re.compile(rf"{re.escape(name.stem)}\.part-\d+-of-\d+\.(tsv|json)")
    more = [f"{name.stem}_learnt.json"] if getattr(options, "train", None) else []
    beside = pattern.fullmatch if call == "merge" else lambda name: None
    return stack.enter_context(sending(call, address, beside=lambda name: bool(beside(name)), more=more))


def _folder(stack: ExitStack, options: Namespace, address: str) -> Path:
    from dualrs_lab.afar.sending import bring_folder, sending_folder
    from dualrs_lab.headless.report import write_report

    if options.name == "status":
        return bring_folder("status", address, lambda name: name.rpartition("/")[2] in RECORDS)
    send = not getattr(options, "dry_run", False)
    return stack.enter_context(
        sending_folder(options.name, address, first=_stage, again=write_report, send=send)
    )


def _stage(name: str) -> int:
    """Files first, then what says that a run has ended, then the pages and tables of all runs."""
    return 2 if "/" not in name else int(name.rpartition("/")[2] == "status.json")
