"""Same settings? Go on. Others? Refuse, or set aside and say so: for tables, networks and labels alike.

Beside a file `NAME.…` lies its record `NAME.json`, which holds all that the file depends on.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualrs_lab.files import set_aside

__all__ = ["plain", "positions", "read_record", "refuse_other", "step_aside", "take_up"]


_ABSENT = object()


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` as a json file gives them back, where tuples are lists."""
    return dict(json.loads(json.dumps(settings)))


def read_record(path: Path | str) -> dict[str, Any]:
    """The json file beside the file at `path`; empty if there is none."""
    made = Path(path).with_suffix(".json")
    return dict(json.loads(made.read_text())) if made.exists() else {}


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
    under other names, a warning says so, and none is left. Nothing is ever overwritten.
    """
    there = [file for file in files if file.exists()]
    found = {file: read_record(file).get(key) for file in there}
    others = [file for file in there if found[file] != wanted]
    if others and not replace:
        remedy = "choose another file or remove it; replace=True keeps it under another name"
        refuse_other(call, others[0], found[others[0]], wanted, remedy=remedy)
    if others:
        moved = [one for file in files for one in (file, file.with_suffix(".json")) if one.exists()]
        now = dict(zip(moved, set_aside(*moved), strict=True))
        told = f"{others[0].name} was made with other settings; it is now {now[others[0]].name}"
        warnings.warn(told, stacklevel=3)
    return [] if others else there


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
        raise ValueError(
            f"{call}: {path} {reason}; choose another file or remove it; replace=True keeps it under another "
            "name"
        )
    there = [one for one in (path, path.with_suffix(".json")) if one.exists()]
    now = dict(zip(there, set_aside(*there), strict=True))
    if path in now:
        warnings.warn(f"{path.name} {reason}; it is now {now[path].name}", stacklevel=3)


def positions(call: str, count: int, skip: int, max_images: int) -> range:
    """Every `skip`-th of `count` images, `max_images` at most (-1: all)."""
    if skip < 1 or (max_images < 1 and max_images != -1):
        raise ValueError(
            f"{call}: got skip {skip}, max_images {max_images}; wanted skip >= 1, max_images >= 1 or -1"
        )
    every = range(0, count, skip)
    return every if max_images == -1 else every[:max_images]
