"""Tables that people write: which values to try, as a list of points, and what profiles.toml says."""

import itertools
import math
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualrs_lab.files import digest
from dualrs_lab.headless.parameters import nearest
from dualrs_lab.headless.reading import parse_json, read_text

__all__ = ["needs_of", "point_name", "profile_table", "read_profiles", "read_sweep", "read_sweep_table"]


PROFILES = ("quick", "paper")  # that are always there; profiles.toml may describe others


_DESCRIBED = "profiles"  # the table of it that does


SWEEP_TABLES = ("grid", "zip", "list", "seeds")


MOST_POINTS = 100_000  # each is a process, a folder and a row of the report


def read_sweep(path: Path) -> list[dict[str, Any]]:
    """The points of a sweep file (.toml or .json), as parameter values.

    `grid` (name -> values, all combinations), `zip` (name -> values, side by side), `list` (whole points) and
    `seeds` (a count or a list, for the parameter `seed`) multiply with each other.
    """
    table = read_sweep_table(path)
    if unknown := sorted(set(table) - set(SWEEP_TABLES)):
        raise ValueError(f"sweep {path}: unknown table {unknown[0]!r}; {nearest(unknown[0], SWEEP_TABLES)}")
    grid, zipped = _columns(path, table, "grid"), _columns(path, table, "zip")
    seeds = _seeds(path, table.get("seeds", []))
    listed = table.get("list", [{}])
    if len({len(values) for values in zipped.values()}) > 1:
        raise ValueError(f"sweep {path}: the lists under zip differ in length")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ValueError(f"sweep {path}: list wants a list of tables, one for each point")
    number = math.prod([len(values) for values in grid.values()] + [len(seeds) or 1, len(listed)])
    if number > MOST_POINTS:
        raise ValueError(f"sweep {path} has {number} points; want at most {MOST_POINTS}")
    parts: list[list[dict[str, Any]]] = [
        [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())],
        [dict(zip(zipped, values, strict=True)) for values in zip(*zipped.values(), strict=True)] or [{}],
        listed,
        [{"seed": seed} for seed in seeds] or [{}],
    ]
    points = [_merged(path, combination) for combination in itertools.product(*parts)]
    if not points or points == [{}]:
        raise ValueError(f"sweep {path} has no points; give it grid, zip, list or seeds")
    names = Counter(point_name(point) for point in points)
    if twice := [name for name, times in names.items() if times > 1]:
        raise ValueError(f"sweep {path} has the point {twice[0]} more than once")
    return points


def _seeds(path: Path, seeds: object) -> Sequence[int]:
    """A count means 0, 1, 2, …, as a range: however large, it takes no memory before it is refused."""
    if type(seeds) is int and seeds > 0:
        return range(seeds)
    if isinstance(seeds, list) and all(type(seed) is int for seed in seeds):
        return seeds
    raise ValueError(f"sweep {path}: seeds = {seeds!r}: want a count such as 3, or a list such as [0, 1, 2]")


def read_sweep_table(path: Path) -> dict[str, Any]:
    """A TOML or JSON file as a table; FileNotFoundError or ValueError says what is wrong with the file."""
    kind = path.suffix.lstrip(".") or "TOML"
    try:
        text = read_text(path)
        table = parse_json(text, "it") if kind == "json" else tomllib.loads(text)
    except FileNotFoundError:
        raise FileNotFoundError(f"file {path} not found") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as {kind}: {error}") from None
    if not isinstance(table, dict):
        raise ValueError(f"{path} holds a {type(table).__name__}; want a table of names")
    return table


def _columns(path: Path, table: Mapping[str, Any], key: str) -> dict[str, list[Any]]:
    columns = table.get(key, {})
    if not isinstance(columns, dict) or not all(isinstance(v, list) and v for v in columns.values()):
        raise ValueError(f"sweep {path}: {key} wants name = [values], at least one value each")
    return columns


def _merged(path: Path, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = [name for part in parts for name in part]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"sweep {path} gives {twice[0]!r} twice; name each parameter in one place")
    return {name: value for part in parts for name, value in part.items()}


def point_name(point: Mapping[str, Any]) -> str:
    """A readable folder name; a hash is added where characters had to be dropped or the name is long."""
    plain = ",".join(f"{name}={value}" for name, value in point.items())
    safe = re.sub(r"[^\w.,=+-]+", "-", plain, flags=re.ASCII)[:80]
    return safe if safe == plain else f"{safe[:70]}-{digest(plain)[:8]}"


def read_profiles(folder: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of the profiles that profiles.toml in `folder` knows, and what it says of each notebook."""
    file = folder / "profiles.toml"
    tables = read_sweep_table(file) if file.is_file() else {}
    described = tables.pop(_DESCRIBED, {})
    texts = described.values() if isinstance(described, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"profiles.toml: {_DESCRIBED} wants name = 'what it is for', got {described!r}")
    return tuple(dict.fromkeys((*PROFILES, *described))), tables


def profile_table(notebook: Path) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Names of all profiles, and what profiles.toml beside a notebook says of it.

    A name there that nothing has is refused.
    """
    profiles, tables = read_profiles(notebook.parent)
    notebooks = [path.stem for path in notebook.parent.glob("*.ipynb")]
    if unknown := sorted(set(tables) - {*notebooks}):
        raise ValueError(f"profiles.toml: no notebook {unknown[0]!r}; {nearest(unknown[0], notebooks)}")
    table = tables.get(notebook.stem, {})
    where = f"profiles.toml, {notebook.stem}"
    if not isinstance(table, dict):
        raise ValueError(f"{where}: want a table of needs, inputs, seconds and profiles, got {table!r}")
    known = ("needs", "inputs", "seconds", "trains", *profiles)
    if unknown := sorted(set(table) - {*known}):
        raise ValueError(f"{where}: unknown entry {unknown[0]!r}; {nearest(unknown[0], known)}")
    for key, value in (
        *((key, table.get(key, [])) for key in ("needs", "inputs")),
        *((f"needs of {one}", needs_of(table, one)) for one in profiles),
    ):
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"{where}: {key} wants a list of names, got {value!r}")
    seconds = table.get("seconds", 1.0)
    if type(seconds) not in (int, float) or not 0 < seconds < float("inf"):
        raise ValueError(f"{where}: seconds wants a positive number, got {seconds!r}")
    if not isinstance(table.get("trains", False), bool):
        raise ValueError(f"{where}: trains wants true or false, got {table['trains']!r}")
    for key in profiles:
        if not isinstance(table.get(key, {}), dict):
            raise ValueError(f"{where}: {key} wants name = value, got {table[key]!r}")
    return profiles, table


def needs_of(table: Mapping[str, Any], profile: str) -> Any:
    """A profile may need less, or something else, and says so among its values."""
    own = table.get(profile, {})
    return own["needs"] if isinstance(own, dict) and "needs" in own else table.get("needs", [])
