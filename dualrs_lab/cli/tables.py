"""`dualrs-lab cascade | mix | summary`: what tables of certificates say, without drawing anything."""

from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dualrs_lab.cli.parser import Command, Parser, numbers

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["CASCADE", "MIX", "RADII", "SUMMARY", "add_out", "as_text"]

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def as_text(summary: "DataFrame") -> str:
    """A summary for a person: numbers rounded down."""
    from dualrs_lab.evidence.summary import floor_text

    return summary.to_string(float_format=floor_text)


def _add_radii(parser: Parser) -> None:
    shown = ",".join(f"{radius:g}" for radius in RADII)
    parser.add_argument("--radii", default=shown, help="l2 radii, comma separated (default: %(default)s)")


def add_out(parser: Parser) -> None:
    """The option for the table that a command makes."""
    parser.add_argument("--out", type=Path, required=True, metavar="TABLE.tsv", help="where the table goes")


def _check_tables(name: str, paths: Iterable[Path]) -> None:
    if missing := [path for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"{name}: table {missing[0]} not found")


def _check_out(name: str, path: Path) -> None:
    if path.exists():
        raise ValueError(f"{name}: {path} is there already; choose another file or remove it")


def _keep(path: Path, table: "DataFrame", identity: Mapping[str, object]) -> None:
    from dualrs_lab.evidence.table import write_table
    from dualrs_lab.files import provenance, replace_json

    replace_json(path.with_suffix(".json"), {"identity": dict(identity), "provenance": provenance()})
    write_table(path, table)


def _made_from(paths: Iterable[Path]) -> dict[str, str]:
    from dualrs_lab.files import digest

    return {path.name: digest(path.read_text()) for path in paths}


def _cascade_options(parser: Parser) -> None:
    from dualrs_lab.settings import ALPHA

    parser.add_argument(
        "tables", nargs="+", type=Path, metavar="TABLE", help="one per noise level, with all draws"
    )
    parser.add_argument(
        "--thresholds", help="radius from which each accepts, from the largest sigma on (0: a majority)"
    )
    parser.add_argument(
        "--alpha", type=float, default=ALPHA,
        help="failure probability of each certificate (default: %(default)s)",
    )  # fmt: skip
    _add_radii(parser)
    add_out(parser)


def _cascade(options: Namespace) -> int:
    radii = numbers("--radii", options.radii)
    limits = tuple(numbers("--thresholds", options.thresholds)) if options.thresholds else ()
    _check_tables("cascade", options.tables)
    _check_out("cascade", options.out)
    from dualrs_lab.cascade.from_tables import from_tables
    from dualrs_lab.cascade.radii import Cascade
    from dualrs_lab.evidence.joins import origin
    from dualrs_lab.evidence.summary import summarise

    tables = _by_sigma(options.tables)
    cascade = Cascade(tuple(sorted(tables, reverse=True)), limits)
    found = from_tables(tables, cascade=cascade, alpha=options.alpha)
    identity = {"method": "cascade", "sigmas": cascade.sigmas, "thresholds": cascade.limits, **origin(found)}
    _keep(options.out, found, identity | {"alpha": options.alpha, "tables": _made_from(options.tables)})
    singles = {f"σ = {sigma:g}": table for sigma, table in sorted(tables.items())}
    if {alpha for table in singles.values() for alpha in table["alpha"]} != {options.alpha}:
        print(f"alpha of the cascade is {options.alpha:g}; its experts, of another level, are not beside it")
        singles = {}
    print(as_text(summarise(singles | {"cascade": found}, radii)))
    return 0


def _by_sigma(paths: Iterable[Path]) -> "dict[float, DataFrame]":
    from dualrs_lab.evidence.table import read_table

    tables: dict[float, DataFrame] = {}
    for path in paths:
        table = read_table(path)
        levels = sorted({*table.get("sigma", [])})
        if len(levels) != 1 or levels[0] in tables:
            raise ValueError(f"cascade: {path} is of sigma {levels}; wanted one table for each of several")
        tables[levels[0]] = table
    return tables


def _mix_options(parser: Parser) -> None:
    parser.add_argument(
        "table", type=Path, metavar="TABLE", help="of the smoothed network, or a published log"
    )
    parser.add_argument(
        "--weight", type=float, required=True, help="of the robust network; nothing is certified up to 0.5"
    )
    parser.add_argument(
        "--form", choices=("closed", "exact", "smoothing", "lipschitz"), default="closed",
        help="closed and exact are sharp, smoothing and lipschitz theorems 5 and 4 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--classes", type=int, metavar="K", help="bound each of the K - 1 other classes by its votes (exact)"
    )
    parser.add_argument("--sigma", type=float, help="of a log that has no column sigma")
    _add_radii(parser)
    add_out(parser)


def _mix(options: Namespace) -> int:
    radii = numbers("--radii", options.radii)
    if not 0 <= options.weight <= 1:
        raise ValueError(f"mix: --weight {options.weight}: want a share in [0, 1]")
    _check_tables("mix", [options.table])
    _check_out("mix", options.out)
    if options.classes is not None and options.form == "closed":
        raise ValueError("mix: --classes counts the votes of each class; wanted it with --form exact")
    from dualrs_lab.evidence.joins import shared_origin
    from dualrs_lab.evidence.summary import summarise
    from dualrs_lab.evidence.table import read_table
    from dualrs_lab.mixing.certificate import check_mixed, mixed, noise_of

    table = read_table(options.table)
    sigma = noise_of(table, sigma=options.sigma)
    others = "rest" if options.classes is None else "votes"
    how = {"form": options.form, "others": others, "classes": options.classes}
    found = mixed(table, options.weight, **how, sigma=options.sigma)
    # h with the same votes; without them, its own table is the evidence
    check_mixed(found, table if others == "rest" else mixed(table, 1.0, **how, sigma=options.sigma))
    identity = {"method": "mix", "weight": options.weight, **how, "sigma": sigma, **shared_origin(table)}
    _keep(options.out, found, identity | {"table": _made_from([options.table])})
    shown = {"the robust network": table, f"mix, weight {options.weight:g}": found}
    print(as_text(summarise(shown, radii)))
    return 0


def _summary_options(parser: Parser) -> None:
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE", help="ours, or a published log")
    _add_radii(parser)


def _summary(options: Namespace) -> int:
    radii = numbers("--radii", options.radii)
    _check_tables("summary", options.tables)
    from dualrs_lab.evidence.summary import summarise
    from dualrs_lab.evidence.table import read_table

    short = len({path.stem for path in options.tables}) == len(options.tables)
    tables = {path.stem if short else str(path): read_table(path) for path in options.tables}
    print(as_text(summarise(tables, radii)))
    return 0


CASCADE = Command(
    name="cascade",
    help="certify a cascade of experts from their tables, without drawing anything",
    options=_cascade_options,
    run=_cascade,
)
MIX = Command(
    name="mix",
    help="certificates of a mix from the table of its robust network, without drawing anything",
    options=_mix_options,
    run=_mix,
)
SUMMARY = Command(
    name="summary",
    help="certified accuracy and ACR of tables or published logs",
    options=_summary_options,
    run=_summary,
)
