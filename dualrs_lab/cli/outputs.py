"""Where a command's table goes: seen to before anything is loaded, drawn or computed for it."""

import os
from pathlib import Path

__all__ = ["want_place"]


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
