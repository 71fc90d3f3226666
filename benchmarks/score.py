"""Whether speed was lost: ratios of this run beside those of the last tables from a machine of the same kind.

Times depend on the machine and on who else uses it; ratios within one run hardly do, as long as the processor
has the same instructions. So a run is compared with the last table whose provenance names the same device and
instructions, on the same network and images, and not at all where there is none.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["TIMES", "crept", "fell", "judged", "last_table"]

TIMES = "times"  # the unit of a ratio
FASTER = "/ this"  # how quantities end of which more is better


def crept(before: pd.DataFrame, now: pd.DataFrame, *, most: float) -> list[str]:
    """A sentence for each cost, as a ratio, that is more than `most` times what it was."""
    return [
        f"{what}: {value:.3g}, and {was:.3g} in the last table"
        for what, value, was in _pairs(before, now)
        if not what.endswith(FASTER) and value > most * was
    ]


def fell(before: pd.DataFrame, now: pd.DataFrame, *, least: float) -> list[str]:
    """A sentence for each "textbook / this" that is less than `least` of what it was."""
    return [
        f"{what}: {value:.3g} times, and {was:.3g} in the last table"
        for what, value, was in _pairs(before, now)
        if what.endswith(FASTER) and value < least * was
    ]


def judged(folder: Path, record: Mapping[str, Any], now: pd.DataFrame, *, least: float) -> list[str]:
    """What `fell` finds against the last table in `folder` that can be compared; or why none can."""
    path = last_table(folder, record)
    if path is None:
        return [f"nothing to compare with: {folder.name} has no table of {_named(record)}"]
    lost = fell(pd.read_csv(path.with_suffix(".csv")), now, least=least)
    if lost:
        return [f"slower than in {path.stem}, of {_named(record)}:", *lost]
    return [f"as quick as in {path.stem}, of {_named(record)}"]


def last_table(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """The json of the newest table in `folder` that was made on such a machine of the same subjects."""
    found = []
    for path in sorted(folder.glob("*.json")):
        known = json.loads(path.read_text())
        if path.with_suffix(".csv").is_file() and "provenance" in known and _kind(known) == _kind(record):
            found.append((str(known["provenance"].get("finished", "")), path))
    return max(found)[1] if found else None


def _kind(record: Mapping[str, Any]) -> tuple[Any, ...]:
    made = record["provenance"]
    if not made.get("instructions"):
        return (id(record),)  # not told: like no other
    machine = (made["device_name"], made["instructions"])
    return (*machine, *sorted(record.get("subjects", {}).items()))


def _named(record: Mapping[str, Any]) -> str:
    made = record["provenance"]
    return f"{made['device_name']} with {made.get('instructions') or 'instructions that are not told'}"


def _pairs(before: pd.DataFrame, now: pd.DataFrame) -> list[tuple[str, float, float]]:
    if before.empty or now.empty:
        return []
    keys = ["arm", "quantity", "setting"]
    known: dict[Any, float] = dict(_ratios(before).set_index(keys)["median"].items())
    pairs: Sequence[tuple[Any, float]] = list(_ratios(now).set_index(keys)["median"].items())
    return [
        (", ".join(part for part in (key[0], key[2], key[1]) if part), value, known[key])
        for key, value in pairs
        if key in known
    ]


def _ratios(table: pd.DataFrame) -> pd.DataFrame:
    found = table[table["unit"] == TIMES]
    return found.assign(setting=found["setting"].astype(object).fillna(""))
