"""`dualrs-lab mix | summary`: what tables of certificates say, without drawing anything."""

from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualrs_lab.afar.address import by_address
from dualrs_lab.afar.fetching import at_hand
from dualrs_lab.cli.inputs import want_file
from dualrs_lab.cli.outputs import want_place
from dualrs_lab.cli.parser import Command, Parser, a_number, a_path, a_table, some_numbers
from dualrs_lab.settings import ALPHA, LEVEL, RADIUS, RULE, SHARE, SIGMA

if TYPE_CHECKING:
    from pandas import DataFrame

    from dualrs_lab.front.signs import Sign

__all__ = [
    "MIX",
    "RADII",
    "SUMMARY",
    "add_alpha",
    "add_out",
    "add_radii",
    "add_rule",
    "as_text",
    "by_sigma",
    "check_out",
    "keep",
    "made_from",
    "print_signs",
    "summed_up",
    "summed_up_answers",
]

RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def as_text(summary: "DataFrame") -> str:
    """A summary for a person: numbers rounded down."""
    from dualrs_lab.evidence.summary import floor_text

    return summary.to_string(float_format=floor_text)


def summed_up(tables: "Mapping[str, DataFrame]", radii: Sequence[float]) -> str:
    """What tables certify at radii, for a person, and by which rule each was claimed.

    Where some are for the original of what voted: for which network each is, and what that cost. Where votes
    are told apart by how sure they are: what is certified by each confidence, 0 for every vote.
    """
    from dualrs_lab.evidence.joins import certified_for
    from dualrs_lab.evidence.recompute import at_confidence, confidences_of, for_copy, rules_behind
    from dualrs_lab.evidence.summary import summarise

    shown: dict[str, DataFrame] = {}
    for name, table in tables.items():
        if confidences := confidences_of(table):
            shown |= {f"{name}, sure {s:g}": at_confidence(table, s) for s in (0, *confidences)}
            continue
        shown[name] = table
        if "paired" in table:
            shown[f"{name}, its copy"] = for_copy(table)
    found = summarise(shown, radii)
    found.insert(0, "rule", [rules_behind(table) for table in shown.values()])
    kinds = [certified_for(table) for table in shown.values()]
    if "original" in kinds:
        found.insert(1, "for", kinds)
    lost = [_lost(name, table, radii) for name, table in tables.items() if "paired" in table]
    return "\n".join([as_text(found), *lost])


def summed_up_answers(table: "DataFrame") -> str:
    """What is right under each attack, for a person: of one network, or of each mix."""
    if "system" in table:
        from dualrs_lab.mixing.evaluate import summarise_systems

        return as_text(summarise_systems(table).round(4))
    from dualrs_lab.attacks.evaluate import summarise_attacks

    return as_text(summarise_attacks(table).round(4))


def _lost(name: str, table: "DataFrame", radii: Sequence[float]) -> str:
    from dualrs_lab.evidence.summary import lost_against_copy

    radius, *shares = lost_against_copy(table, radii).values()
    at = ", ".join(f"{_up(share)} at {r:g}" for r, share in zip(radii, shares, strict=True))
    return (
        f"{name}: for the original, by {table['paired'].iloc[0]:,} paired draws of each image; against its "
        f"copy, by the same votes, a mean radius of {_up(radius)} is lost, and certified accuracy {at}"
    )


def _up(loss: float) -> str:
    # rounded up: rounding down would hide some of it
    from dualrs_lab.evidence.summary import floor_text

    text = floor_text(-loss)
    return text.removeprefix("-") if text.startswith("-") or not float(text) else f"-{text}"


def print_signs(signs: "Sequence[Sign]", of: str = "") -> None:
    """Why so little is certified, where signs of it were seen."""
    for sign in signs:
        print(f"\n{of}{': ' if of else ''}{sign.name}. {sign.text}")


def add_alpha(parser: Parser) -> None:
    """The option for the level of what is made."""
    parser.add_argument(
        "--alpha", type=a_number(LEVEL), default=ALPHA,
        help="failure probability of each certificate (default: %(default)s)",
    )  # fmt: skip


def add_radii(parser: Parser) -> None:
    shown = ",".join(f"{radius:g}" for radius in RADII)
    parser.add_argument(
        "--radii", type=some_numbers(RADIUS), default=shown,
        help="l2 radii, comma separated (default: %(default)s)",
    )  # fmt: skip


def add_out(parser: Parser) -> None:
    """The option for the table that a command makes."""
    parser.add_argument(
        "--out", type=a_table, required=True, metavar="TABLE.tsv", help="where the table goes"
    )


def add_rule(parser: Parser, more: str = "") -> None:
    """The option for the rule by which a radius follows."""
    parser.add_argument(
        "--rule", choices=RULE.names, default=RULE.names[0],
        help=f"how a radius follows from the votes{more} (default: %(default)s)",
    )  # fmt: skip


def _check_tables(name: str, paths: Iterable[Path]) -> None:
    for path in paths:
        want_file(name, "table", path)


def check_out(name: str, path: Path) -> None:
    from dualrs_lab.store import check_place

    want_place(name, path)
    check_place(name, path, ".tsv")
    if path.exists():
        raise ValueError(f"{name}: {path} is there already; choose another file or remove it")


def keep(
    name: str,
    path: Path,
    table: "DataFrame",
    identity: Mapping[str, object],
    *,
    of: "Iterable[DataFrame]",
    levels: Mapping[str, float],
) -> None:
    """Write a table made from those `of` networks: the record names them, and how alpha is split."""
    from dualrs_lab.evidence.joins import origin
    from dualrs_lab.evidence.resume import keep_table
    from dualrs_lab.files import provenance

    named = [known["model"] for one in of if "model" in (known := origin(one))]
    record = {"identity": dict(identity), "networks": named, "levels": dict(levels)}
    keep_table(name, path, table, {**record, "provenance": provenance()})


def made_from(paths: Iterable[Path]) -> dict[str, str]:
    from dualrs_lab.files import digest

    return {path.name: digest(path.read_text()) for path in paths}


def by_sigma(name: str, paths: Iterable[Path]) -> "dict[float, DataFrame]":
    from dualrs_lab.evidence.table import read_table

    tables: dict[float, DataFrame] = {}
    for path in paths:
        table = read_table(path)
        if "sigma" not in table or "votes" not in table:
            raise ValueError(f"{name}: {path} holds no votes; wanted a table that certify made")
        levels = sorted({*table["sigma"]})
        if len(levels) != 1 or levels[0] in tables:
            raise ValueError(f"{name}: {path} is of sigma {levels}; wanted one table for each of several")
        tables[levels[0]] = table
    return tables


def _mix_options(parser: Parser) -> None:
    parser.add_argument(
        "table", type=a_path, metavar="TABLE", help="of the smoothed network, or a published log"
    )
    parser.add_argument(
        "--weight", type=a_number(SHARE), required=True,
        help="of the robust network; nothing is certified up to 0.5",
    )  # fmt: skip
    parser.add_argument(
        "--form", choices=("exact", "closed", "smoothing", "lipschitz"), default="exact",
        help="exact and closed are sharp, smoothing and lipschitz theorems 5 and 4 (default: %(default)s)",
    )  # fmt: skip
    add_rule(parser, "; of a log without votes and for the closed form: cohen")
    parser.add_argument("--sigma", type=a_number(SIGMA), help="of a log that has no column sigma")
    add_radii(parser)
    add_out(parser)


def _mix(options: Namespace) -> int:
    _check_tables("mix", [options.table])
    check_out("mix", options.out)
    if options.form == "closed" and options.rule != "cohen":
        raise ValueError("mix: --form closed knows no rival; wanted --rule cohen with it")
    from dualrs_lab.evidence.joins import shared_origin
    from dualrs_lab.evidence.radii import rule_levels
    from dualrs_lab.evidence.table import read_table
    from dualrs_lab.mixing.certificate import check_mixed, mixed, noise_of

    table = read_table(options.table)
    sigma = noise_of(table, sigma=options.sigma)
    if options.rule != "cohen" and "votes" not in table:
        raise ValueError(f"mix: {options.table} holds no votes of rivals; wanted --rule cohen for such a log")
    how = {"form": options.form, "rule": options.rule}
    found = mixed(table, options.weight, **how, sigma=options.sigma)
    alone = mixed(table, 1.0, **how, sigma=options.sigma)
    check_mixed(found, alone)
    identity = {"method": "mix", "weight": options.weight, **how, "sigma": sigma, **shared_origin(table)}
    identity |= {"table": made_from([options.table])}
    alphas = {*table.get("alpha", [])}
    levels = rule_levels(options.rule, alphas.pop()) if len(alphas) == 1 else {}
    keep(options.name, options.out, found, identity, of=[table], levels=levels)
    shown = {"the robust network": alone, f"mix, weight {options.weight:g}": found}
    print(summed_up(shown, options.radii))
    return 0


def _summary_options(parser: Parser) -> None:
    parser.add_argument("tables", nargs="+", type=a_path, metavar="TABLE", help="ours, or a published log")
    parser.add_argument(
        "--rule",
        choices=RULE.names,
        help="claim all of them by this rule, from their votes (default: as claimed)",
    )
    add_radii(parser)


def _summary(options: Namespace) -> int:
    _check_tables("summary", options.tables)
    from dualrs_lab.evidence.recompute import reclaimed
    from dualrs_lab.evidence.table import read_table

    short = len({path.stem for path in options.tables}) == len(options.tables)
    paths = {path.stem if short else by_address(path): path for path in options.tables}
    attacked = {name: path for name, path in paths.items() if _holds_answers(path)}
    if attacked and options.rule is not None:
        raise ValueError(f"summary: --rule is for certificates, and {attacked.popitem()[1]} is of attacks")
    tables = {name: read_table(path) for name, path in paths.items() if name not in attacked}
    if options.rule is not None:
        tables = {name: reclaimed(table, options.rule) for name, table in tables.items()}
    if tables:
        print(summed_up(tables, options.radii))
    from dualrs_lab.front.signs import table_signs

    for name, table in tables.items():
        print_signs(table_signs(table), of=name if len(paths) > 1 else "")
    for name, path in attacked.items():
        from dualrs_lab.attacks.table import read_evaluation

        print(f"{name}:\n{summed_up_answers(read_evaluation(path))}")
    return 0


def _holds_answers(path: Path) -> bool:
    """Whether a table is of attacks, by its columns."""
    with at_hand("summary", path).open("rb") as file:
        return {b"natural", b"worst"} <= {*file.readline(10_000).rstrip().split(b"\t")}


MIX = Command(
    name="mix",
    help="certificates of a mix from the table of its robust network, without drawing anything",
    options=_mix_options,
    run=_mix,
    example="dualrs-lab mix certified.tsv --weight 0.76 --out mix.tsv",
)
SUMMARY = Command(
    name="summary",
    help="certified accuracy and ACR of tables or published logs, accuracy of tables of attacks",
    options=_summary_options,
    run=_summary,
    example="dualrs-lab summary data/published_logs/*.tsv --radii 0,0.5,1\n"
    "dualrs-lab summary data/cifar10_small_mixes/*.tsv",
)
