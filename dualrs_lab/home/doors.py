"""What the front page leads to: notebooks by what they are for, the explorer, and what ran."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dualrs_lab.gallery import Card, Door, Way, make_card
from dualrs_lab.headless import read_notebook

__all__ = ["BOARD", "find_doors"]


BOARD = "dualrs/board"  # where the explorer is served


LONG = 20  # seconds; who waits for longer is told so before


Address = Callable[[str], str]  # of a file below the root


class _Kind(NamedTuple):
    """What a person wants to do: which notebooks are for it, by how their names begin, and whose picture."""

    title: str
    text: str
    begins: str
    picture: str
    call: str = ""


KINDS = (
    _Kind(
        "Explore results",
        "Certified curves, natural against certified and attacked accuracy, single images: all methods side "
        "by side, with your own tables and published logs dropped among them.",
        "3",
        "30_tradeoff",
        "dualrs-lab board TABLE…",
    ),
    _Kind(
        "Learn",
        "Lessons with sliders, on problems that can be drawn: predict, move, see why.",
        "01",
        "10_lesson_smoothing",
    ),
    _Kind(
        "Bring your network",
        "From torchvision, timm or transformers, a file, or your own code; with your own images. It is "
        "certified as it is, and where little is certified, it is told why.",
        "",
        "21_certify",
        "dualrs-lab run 21_certify -p model=torchvision:resnet50 -p dataset=folder:PATH",
    ),
    _Kind(
        "Run experiments",
        "Train, certify and attack: each notebook shows what it claims, and goes on where it was stopped.",
        "2",
        "24_mixing",
        "dualrs-lab run",
    ),
)
OWN = {
    "21_certify": 'Set model, and dataset = "folder:PATH", in its first cell, then run all cells.',
    "20_train": "Or train one on your images: the same dataset, in the first cell.",
}


def find_doors(root: Path, *, address: Address, base: str, waits: bool = False) -> list[Door]:
    """The doors of a workbench at `root`; `address` opens a notebook, `base` is where the server is.

    `waits`: notebooks run when they are opened, so that it is said how long that takes.
    """
    cards = {path.stem: _card(path) for path in sorted((root / "notebooks").glob("*.ipynb"))}
    seconds = _seconds(root / "notebooks" / "profiles.toml") if waits else {}
    doors = []
    for kind in KINDS:
        own = [*OWN] if not kind.begins else [name for name in cards if name[0] in kind.begins]
        said = (
            {} if kind.begins or waits else OWN
        )  # where there are no cells, there is nothing to set in them
        notes = {name: said.get(name, cards[name].claim) for name in own if name in cards}
        ways = [
            Way(address=address(f"notebooks/{name}.ipynb"), name=cards[name].title or name, note=note)
            for name in notes
            for note in [" ".join([notes[name], _wait(seconds.get(name, 0))]).strip()]
        ]
        if kind.begins == "3":
            ways = [
                Way(address=f"{base}{BOARD}", name="The explorer", note="All tables, in one page."),
                *ways,
            ]
        if kind.begins in ("2", "3") and (root / "runs" / "index.html").is_file():
            ways.append(
                Way(address=f"{base}files/runs/index.html", name="What ran", note="The pages of runs/.")
            )
        if ways:
            doors.append(_door(kind, ways, cards))
    return doors


def _door(kind: _Kind, ways: Sequence[Way], cards: Mapping[str, Card]) -> Door:
    shown = cards.get(kind.picture, Card())
    return Door(
        title=kind.title, text=kind.text, ways=ways, call=kind.call, picture=shown.picture, alt=shown.alt
    )


def _card(path: Path) -> Card:
    """Of a notebook that may be anybody's; one that cannot be read is listed by its name."""
    try:
        return make_card(read_notebook(path), picture=path.stem in {kind.picture for kind in KINDS})
    except (ValueError, FileNotFoundError):
        return Card()


def _seconds(profiles: Path) -> dict[str, float]:
    try:
        tables: dict[str, Any] = tomllib.loads(profiles.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: table.get("seconds", 0) for name, table in tables.items() if isinstance(table, dict)}


def _wait(seconds: float) -> str:
    took = f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
    return f"(Takes about {took} to open.)" if seconds >= LONG else ""
