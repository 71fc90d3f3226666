"""`dualrs-lab board`: tables and logs as one page to explore, in any browser, without a network."""

import re
from argparse import Namespace
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualrs_lab.cli.inputs import want_file
from dualrs_lab.cli.outputs import want_place
from dualrs_lab.cli.parser import Command, Parser, a_number, a_path
from dualrs_lab.settings import RADIUS

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["BOARD"]


SHIPPED = (
    "cifar10_jpeg/*_n10000.tsv",
    "cifar10_systems/dual.tsv",
    "cifar10_systems/combined.tsv",
    "cifar10_wide/*_n10000.tsv",
    "published_logs/*.tsv",
)
OWN = "runs/files/*.tsv"
FIRST = 5  # tables that are drawn at first, where nobody named any


def _board_options(parser: Parser) -> None:
    parser.add_argument(
        "tables", nargs="*", type=a_path, metavar="TABLE",
        help="tables of certificates or published logs (default: those of runs/files, and the shipped ones)",
    )  # fmt: skip
    parser.add_argument("--data", type=a_path, default=Path("data"), metavar="DIR",
                        help="where shipped tables and pictures are (default: %(default)s)")  # fmt: skip
    parser.add_argument("--radius", type=a_number(RADIUS), default=0.5,
                        help="where the ruler stands at first (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=a_path, default=Path("board.html"), metavar="PAGE",
                        help="(default: %(default)s)")  # fmt: skip


def _board(options: Namespace) -> int:
    want_place("board", options.out)
    if options.out.suffix != ".html":
        raise ValueError(f"board: --out {options.out}: want a name that ends in .html")
    paths = options.tables or _found(options.data)
    for path in paths:
        want_file("board", "the table", path)
    from dualrs_lab.charts.explorer import explorer_html
    from dualrs_lab.data.pictures import shipped_pictures
    from dualrs_lab.files import replace_text

    tables, left = _read(paths, chosen=bool(options.tables))
    there = (options.data / "cifar10_pictures").is_dir()
    pictures = shipped_pictures(options.data) if there else None
    chosen = None if options.tables else [*tables][:FIRST]
    page = explorer_html(tables, chosen=chosen, radius=options.radius, pictures=pictures)
    replace_text(options.out, page)
    for path, error in left.items():
        print(f"board: left out {path}: {error}")
    print(f"board: {len(tables)} tables; open {options.out} in a browser")
    return 0


def _found(data: Path) -> list[Path]:
    places = [*(data.glob(pattern) for pattern in SHIPPED), Path().glob(OWN)]
    found = [path for place in places for path in sorted(place)]
    if not found:
        raise ValueError(
            f"board: there are no tables in runs/files or {data}; name some, or say --data with the folder "
            "of the shipped ones"
        )
    return found


def _read(paths: Sequence[Path], *, chosen: bool) -> tuple[dict[str, "DataFrame"], dict[Path, Exception]]:
    """Tables by name, each radius computed again; of those that nobody named, others are left out."""
    from dualrs_lab.evidence.table import read_table

    tables: dict[str, DataFrame] = {}
    left: dict[Path, Exception] = {}
    for path in paths:
        try:
            table = read_table(path)
            if not {"predict", "radius", "correct"} <= {*table}:
                raise ValueError("no table of certificates")
        except ValueError as error:
            if chosen:
                raise
            left[path] = error
            continue
        tables[_name(path, tables)] = table
    if not tables:
        raise ValueError("board: none of the tables there is one of certificates; name some")
    return tables, left


def _name(path: Path, taken: Collection[str]) -> str:
    """The noise level of what was smoothed, and what it is; the whole name where that is taken."""
    level = r"_sigma_?([0-9.]*[1-9])0*(_seed\d+)?(_smoothed[0-9.]+)?(_n\d+)?$"
    short = re.sub(level, r" σ = \1", path.stem.removeprefix("cifar10_jpeg_"))
    name = path.stem if short in taken else short
    while name in taken:
        name += "′"
    return name


BOARD = Command(
    name="board",
    help="a page to explore tables and logs in: curves, plane, images; drop more on it",
    options=_board_options,
    run=_board,
    example="dualrs-lab board\ndualrs-lab board mine.tsv data/published_logs/*.tsv --out mine.html",
)
