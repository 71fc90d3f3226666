"""`dualrs-lab cascade | combine`: one certified classifier from tables of several experts."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from dualrs_lab.cli.inputs import want_file
from dualrs_lab.cli.options import add_option
from dualrs_lab.cli.parser import Command, Parser, a_number, a_path, some_numbers
from dualrs_lab.cli.tables import (
    add_alpha,
    add_out,
    add_radii,
    as_text,
    by_sigma,
    check_out,
    keep,
    made_from,
    summed_up,
)
from dualrs_lab.settings import SEED, SHARE, Range

if TYPE_CHECKING:
    from pandas import DataFrame

    from dualrs_lab.cascade.radii import Cascade
    from dualrs_lab.combine.lattice import Combiner

__all__ = ["CASCADE", "COMBINE"]


def _cascade_options(parser: Parser) -> None:
    _add_tables(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--thresholds", type=some_numbers(Range()), default=(), metavar="T,T,…",
        help="radius from which each accepts, from the largest sigma on (0: a majority)",
    )  # fmt: skip
    how.add_argument(
        "--train", type=a_path, metavar="VOTES.safetensors",
        help="learn from votes of these experts about training images who is asked, and the thresholds",
    )  # fmt: skip
    _add_weights(parser)
    parser.add_argument(
        "--shares", type=some_numbers(SHARE), default=(), metavar="S,S,…",
        help="share of alpha for each expert that is asked, from the largest sigma on (default: alike)",
    )  # fmt: skip
    parser.add_argument(
        "--sure", type=some_numbers(Range(least=0, below=1)), default=(), metavar="S,S,…",
        help="confidence below which each is silent, from the largest sigma on, of those that certify --sure "
        "told apart (0: every vote counts)",
    )  # fmt: skip
    add_alpha(parser)
    add_radii(parser)
    add_out(parser)


def _cascade(options: Namespace) -> int:
    tables = _opened(options)
    from dualrs_lab.cascade.from_tables import from_tables
    from dualrs_lab.evidence.joins import origin

    cascade, sure = _asked(options, tables)
    counted = {sigma: _counted(sigma, tables[sigma], sure[sigma]) for sigma in cascade.sigmas}
    graded = {sigma: told for sigma, one in counted.items() if (told := origin(one).get("sure"))}
    if any(told["confidence"] for told in graded.values()):
        cascade = replace(cascade, answers=max(told["answers"] for told in graded.values()))
    found = from_tables(counted, cascade=cascade, alpha=options.alpha)
    identity = {"method": "cascade", **cascade.settings(), "thresholds": cascade.limits, **origin(found)}
    if graded:
        identity["sure"] = [graded[s]["confidence"] if s in graded else 0.0 for s in cascade.sigmas]
    identity |= {"alpha": options.alpha, "tables": made_from(options.tables)}
    experts = [tables[sigma] for sigma in cascade.sigmas]
    keep(options.name, options.out, found, identity, of=experts, levels=cascade.alpha_split(options.alpha))
    singles = {f"σ = {sigma:g}": _counted(sigma, table, 0) for sigma, table in sorted(tables.items())}
    if {alpha for table in singles.values() for alpha in table["alpha"]} != {options.alpha}:
        print(f"alpha of the cascade is {options.alpha:g}; its experts, of another level, are not beside it")
        singles = {}
    print(summed_up(singles | {"cascade": found}, options.radii))
    return 0


def _asked(options: Namespace, tables: "Mapping[float, DataFrame]") -> "tuple[Cascade, dict[float, float]]":
    # who is asked, in which order, from which threshold on, and below which confidence each is silent
    from dualrs_lab.cascade.learning import cascade_front
    from dualrs_lab.cascade.radii import Cascade
    from dualrs_lab.combine.learning import Learning
    from dualrs_lab.combine.train import read_image_votes

    sigmas = tuple(sorted(tables, reverse=True))
    if options.sure and (options.train is not None or len(options.sure) != len(sigmas)):
        raise ValueError(
            f"cascade: --sure: want a confidence for each of {len(sigmas)} experts, and no --train, which "
            "learns them"
        )
    if options.thresholds and len(options.thresholds) != len(sigmas):
        raise ValueError(f"cascade: --thresholds: want a finite threshold for each of {len(sigmas)} experts")
    if options.train is None:
        _want_sure(options, tables)
        least = tuple(options.sure) or (0.0,) * len(sigmas)
        return Cascade(sigmas, tuple(options.thresholds), tuple(options.shares)), _by(sigmas, least)
    want_file(options.name, "file of votes", options.train)
    counts, labels, about = read_image_votes(options.train, sigmas)
    confidences = about.get("sure", {}).get("confidences", ())
    dial = Learning(seed=0, weights=tuple(options.radii_weights), alpha=options.alpha)
    how = {"radii": dial.radii, "alpha": options.alpha, "confidences": confidences}
    front = cascade_front(counts, labels, sigmas, **how)
    best = front.best(dial.weights)
    found, least = front.cascades[best], front.sure[best]
    said = ", ".join(
        f"σ = {sigma:g} from {limit:g} on" + (f" where it is {sure:g} sure" if sure else "")
        for sigma, limit, sure in zip(found.sigmas, found.limits, least, strict=True)
    )
    shares = (
        f"; shares of alpha {', '.join(f'{share:.3g}' for share in found.shares)}" if found.shares else ""
    )
    print(f"learnt from {len(labels)} images, the best of {len(front.cascades)} settings: {said}{shares}")
    return replace(found, shares=tuple(options.shares) or found.shares), _by(found.sigmas, least)


def _by(sigmas: tuple[float, ...], sure: tuple[float, ...]) -> dict[float, float]:
    return dict(zip(sigmas, sure, strict=True))


def _want_sure(options: Namespace, tables: "Mapping[float, DataFrame]") -> None:
    from dualrs_lab.evidence.recompute import confidences_of

    known = sorted({least for table in tables.values() for least in confidences_of(table)})
    if known and not options.sure:
        raise ValueError(
            f"cascade: votes are told apart by the confidences {', '.join(f'{s:g}' for s in known)}; say by "
            f"--sure which one counts for each of {len(tables)} experts, or 0 to count every vote"
        )


def _counted(sigma: float, table: "DataFrame", confidence: float) -> "DataFrame":
    # the table, with votes below the confidence silent where they are told apart
    from dualrs_lab.evidence.recompute import at_confidence, confidences_of

    if confidences_of(table):
        return at_confidence(table, confidence)
    if confidence:
        raise ValueError(
            f"cascade: votes of sigma {sigma:g} are not told apart by how sure they are; certify its network "
            f"with --sure {confidence:g} first"
        )
    return table


def _opened(options: Namespace) -> "dict[float, DataFrame]":
    # the tables by their sigma, and a place for what is made of them
    for path in options.tables:
        want_file(options.name, "table", path)
    check_out(options.name, options.out)
    return by_sigma(options.name, options.tables)


def _add_tables(parser: Parser) -> None:
    parser.add_argument(
        "tables", nargs="+", type=a_path, metavar="TABLE", help="one per noise level, with all draws"
    )


def _add_weights(parser: Parser) -> None:
    parser.add_argument(
        "--radii-weights", type=some_numbers(Range(least=0)), default=(), metavar="W,W,…",
        help="what it is worth to certify at 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5 and 2 (default: all alike)",
    )  # fmt: skip


def _options(parser: Parser) -> None:
    from dualrs_lab.combine.learning import Learning

    _add_tables(parser)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--train", type=a_path, metavar="VOTES.safetensors",
        help="learn the combiner from votes of these experts about training images",
    )  # fmt: skip
    how.add_argument("--combiner", type=a_path, metavar="FILE.json", help="one that was learnt before")
    how.add_argument(
        "--surest", type=some_numbers(Range()), metavar="T,T,…",
        help="who is surest answers, with a handicap for each, from the largest sigma on",
    )  # fmt: skip
    _add_weights(parser)
    for name in ("starts", "changes"):
        add_option(parser, Learning, name)
    parser.add_argument("--seed", type=a_number(SEED), default=0, help="of the search (default: %(default)s)")
    add_alpha(parser)
    add_radii(parser)
    add_out(parser)


def _combine(options: Namespace) -> int:
    tables = {sigma: _counted(sigma, table, 0) for sigma, table in _opened(options).items()}
    from dualrs_lab.combine.from_tables import combine_tables
    from dualrs_lab.evidence.joins import origin
    from dualrs_lab.evidence.summary import summarise

    combiner = _combiner(options, tuple(sorted(tables, reverse=True)))
    found = combine_tables(tables, combiner=combiner, alpha=options.alpha)
    identity = {"method": "combine", "sigmas": combiner.sigmas, "combiner": combiner.text, **origin(found)}
    identity |= {"alpha": options.alpha, "tables": made_from(options.tables)}
    experts, levels = [tables[sigma] for sigma in combiner.sigmas], options.alpha / combiner.spends
    keep(options.name, options.out, found, identity, of=experts, levels={"each bound": levels})
    print(as_text(summarise({"combiner": found}, options.radii)))
    return 0


def _combiner(options: Namespace, sigmas: tuple[float, ...]) -> "Combiner":
    from dualrs_lab.combine.lattice import Combiner
    from dualrs_lab.combine.learning import Learning
    from dualrs_lab.combine.train import learn_combiner, read_combiner, read_image_votes

    if options.surest is not None:
        if len(options.surest) != len(sigmas):
            raise ValueError(f"combine: --surest: want a handicap for each of {len(sigmas)} experts")
        return Combiner.surest(sigmas, options.surest)
    if options.combiner is not None:
        found = read_combiner(options.combiner)
        if found.sigmas != sigmas:
            raise ValueError(
                f"combine: {options.combiner} is of sigmas {found.sigmas}; the tables of {sigmas}"
            )
        return found
    want_file(options.name, "file of votes", options.train)
    counts, labels, about = read_image_votes(options.train, sigmas)
    if "sure" in about:  # a combiner counts every vote
        from dualrs_lab.evidence.votes import sure_votes

        counts = sure_votes(counts, about["sure"]["confidences"], 0)[..., :-1]
    learning = Learning(
        seed=options.seed,
        starts=options.starts,
        changes=options.changes,
        weights=tuple(options.radii_weights),
        alpha=options.alpha,
    )
    kept = options.out.with_name(f"{options.out.stem}_learnt.json")
    print(f"learning from {len(labels)} images into {kept}")
    return learn_combiner(counts, labels, sigmas, learning=learning, path=kept, about=about)


CASCADE = Command(
    name="cascade",
    help="certify a cascade of experts from their tables, without drawing anything",
    options=_cascade_options,
    run=_cascade,
    example="dualrs-lab cascade data/cifar10_jpeg/*_n10000.tsv --thresholds 0.3,0,0 --out cascade.tsv",
)


COMBINE = Command(
    name="combine",
    help="certify a combiner of experts from their tables; learn it from votes about training images",
    options=_options,
    run=_combine,
    example="dualrs-lab combine data/cifar10_jpeg/*_n10000.tsv --surest 0,0.5,1 --out combined.tsv",
)
