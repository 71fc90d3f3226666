"""`dualrs-lab board | lite`: a page to explore tables in, and a site of lessons that a browser runs alone."""

from argparse import Namespace
from pathlib import Path

from dualrs_lab.afar.address import by_address
from dualrs_lab.cli.inputs import want_file
from dualrs_lab.cli.outputs import want_place
from dualrs_lab.cli.parser import Command, Parser, a_new_file, a_number, a_path
from dualrs_lab.settings import RADIUS

__all__ = ["BOARD", "LITE"]


OWN = Path("runs/files")
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
    parser.add_argument("--out", type=a_new_file, default=Path("board.html"), metavar="PAGE",
                        help="(default: %(default)s)")  # fmt: skip


def _board(options: Namespace) -> int:
    want_place("board", options.out)
    if options.out.suffix != ".html":
        raise ValueError(f"board: --out {options.out}: want a name that ends in .html")
    for path in options.tables:
        want_file("board", "the table", path)
    from dualrs_lab.charts.explorer import explorer_html
    from dualrs_lab.charts.tables import find_tables, read_tables
    from dualrs_lab.data.pictures import shipped_pictures
    from dualrs_lab.files import replace_text

    paths = options.tables or find_tables([], own=OWN, shipped=options.data)
    tables, left = read_tables(paths, strict=bool(options.tables))
    there = (options.data / "cifar10_pictures").is_dir()
    pictures = shipped_pictures(options.data) if there else None
    chosen = None if options.tables else [*tables][:FIRST]
    page = explorer_html(tables, chosen=chosen, radius=options.radius, pictures=pictures)
    replace_text(options.out, page)
    for path, error in left.items():
        print(by_address(f"board: left out {path}: {error}"))
    print(f"board: {len(tables)} tables; open {by_address(options.out)} in a browser")
    return 0


BOARD = Command(
    name="board",
    help="a page to explore tables and logs in: curves, plane, images; drop more on it",
    options=_board_options,
    run=_board,
    example="dualrs-lab board\ndualrs-lab board mine.tsv data/published_logs/*.tsv --out mine.html",
)


def _lite_options(parser: Parser) -> None:
    parser.add_argument("folder", type=a_path, metavar="DIR", help="a folder that is not there, or empty")
    parser.add_argument("--solutions", action="store_true", help="keep the solutions in the lessons")


def _lite(options: Namespace) -> int:
    from dualrs_lab.headless.workbench import find_notebooks
    from dualrs_lab.home import build_site

    checkout = find_notebooks().parent
    if not (checkout / "dualrs_lab").is_dir() or not (checkout / "pyproject.toml").is_file():
        raise ValueError(
            f"lite: {checkout} is no checkout of this package, of which the site takes its wheel"
        )
    lessons = build_site(options.folder, checkout, solutions=options.solutions)
    print(f"lite: {', '.join(lessons)} in {options.folder}")
    print(f"to look at it: python -m http.server --directory {options.folder}")
    return 0


LITE = Command(
    name="lite",
    help="a site of the lessons that a browser runs alone, by JupyterLite; from a checkout",
    options=_lite_options,
    run=_lite,
    example="dualrs-lab lite site && python -m http.server --directory site",
)
