"""The page of all runs: cards, filters, and everything else folded away. It asks no network."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dualrs_lab.gallery.cards import Card
from dualrs_lab.gallery.values import as_grid, shown

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["Entry", "gallery_html", "page_template"]


PICTURES = 1_500_000  # characters of pictures on one page; a sweep of thousands shows those of its first runs


FILES_SHOWN = 300


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run: its record, how it stands ("ok", "open" or "bad"), what there is to open, what it recorded."""

    status: Mapping[str, Any]
    kind: str
    files: Mapping[str, str]  # by what they are: page, notebook, log, record
    took: str  # for people
    log: str
    card: Card
    records: Mapping[str, Any]


def gallery_html(entries: Sequence[Entry], *, origin: Sequence[str], files: Sequence[tuple[str, int]]) -> str:
    """The page: `origin` says what made the latest run, `files` are paths below its folder, with bytes."""
    states = [entry.status["state"] for entry in entries]
    kinds = [entry.kind for entry in entries]
    return page_template("gallery.html.j2").render(
        entries=list(_with_pictures(entries)),
        good=states.count("ok"),
        damaged=states.count("damaged"),
        kinds={kind: kinds.count(kind) for kind in ("ok", "bad", "open") if kind in kinds},
        origin=origin,
        sweeps=list(_sweeps(entries)),
        files=[(path, f"{size / 1000:,.1f}") for path, size in files[:FILES_SHOWN]],
        more=max(0, len(files) - FILES_SHOWN),
    )


def _with_pictures(entries: Sequence[Entry]) -> Iterator[tuple[Entry, str, str]]:
    """Each run, the name that links find it by, and its picture while there is room for pictures."""
    left, names = PICTURES, set[str]()
    for entry in entries:
        name = entry.status["notebook"]
        picture = entry.card.picture if len(entry.card.picture) <= left else ""
        left -= len(picture)
        yield entry, name if name not in names else entry.status["run"], picture
        names.add(name)


def _sweeps(entries: Sequence[Entry]) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[object]]]]:
    """A table for each notebook that ran at several points: a row a point, a column a number."""
    notebooks: dict[str, list[Entry]] = {}
    for entry in entries:
        notebooks.setdefault(entry.status["notebook"], []).append(entry)
    for notebook, own in notebooks.items():
        names = [
            n for n in dict.fromkeys(n for e in own for n in e.records) if any(_plain(e, n) for e in own)
        ]
        if len(own) > 1 and names:
            rows = [(e.status["point"] or "–", *(e.records.get(n, "") for n in names)) for e in own]
            yield notebook, ["point", *names], rows


def _plain(entry: Entry, name: str) -> bool:
    return isinstance(entry.records.get(name), int | float | str)


def _link(path: str) -> str:
    """A relative address: names are bytes, and may be no text."""
    return quote(os.fsencode(path))


@cache
def page_template(name: str) -> "Template":
    """The form of a page. Jinja2 is loaded with it, for pages alone: notebooks that record need none."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"shown": shown, "grid": as_grid, "link": _link}
    return environment.get_template(name)
