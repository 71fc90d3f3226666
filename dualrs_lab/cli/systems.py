"""`dualrs-lab cascade | combine`: one certified classifier from tables of several experts."""

from argparse import ArgumentTypeError, Namespace
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
        "--ask", type=_some_experts, default=(), metavar="SIGMA[@S][:T],…",
        help="experts in the order of asking: noise level, confidence below which it is silent, of those "
        "that certify --sure told apart, and radius from which it accepts; a level may come again",
    )  # fmt: skip
    how.add_argument(
        "--train", type=a_path, metavar="VOTES.safetensors",
        help="learn from votes of these experts about training images who is asked, and the thresholds; "
        "where votes are told apart by confidences, also the order, and below which each is silent",
    )  # fmt: skip
    _add_weights(parser)
    parser.add_argument(
        "--above", type=some_numbers(Range(least=0, most=1)), default=(), metavar="A,A,…",
        help="learn for all radii at once: the least advantage over these certified accuracies there",
    )  # fmt: skip
    parser.add_argument(
        "--stages", type=a_number(Range(whole=True, least=1, most=16)), default=5,
        help="how many experts are asked at most, where their order is learnt (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--shares", type=some_numbers(SHARE), default=(), metavar="S,S,…",
        help="share of alpha for each expert, in the order of asking (default: alike)",
    )  # fmt: skip
    add_alpha(parser)
    add_radii(parser)
    add_out(parser)


def _some_experts(text: str) -> list[tuple[float, float, float]]:
    # noise level, confidence and threshold of each expert, of text such as "1@0.5:0.3,0.25"
    found = []
    for word in text.split(","):
        name, _, limit = word.partition(":")
        try:
            sigma, _, sure = name.partition("@")
            found.append((float(sigma), float(sure or 0), float(limit or 0)))
        except ValueError:
            raise ArgumentTypeError(
                f"got {word!r}; want a noise level, @confidence, :threshold, as in 0.5@0.6:0.3"
            ) from None
    return found


def _cascade(options: Namespace) -> int:
    tables = _opened(options)
    from dualrs_lab.cascade.from_tables import from_tables
    from dualrs_lab.evidence.joins import origin
    from dualrs_lab.evidence.recompute import every_vote

    cascade = _asked(options, tables)
    found = from_tables(tables, cascade=cascade, alpha=options.alpha)
    identity = {"method": "cascade", **cascade.settings(), "thresholds": cascade.limits, **origin(found)}
    identity |= {"alpha": options.alpha, "tables": made_from(options.tables)}
    experts = [tables[sigma] for sigma in dict.fromkeys(cascade.sigmas)]
    keep(options.name, options.out, found, identity, of=experts, levels=cascade.alpha_split(options.alpha))
    singles = {f"σ = {sigma:g}": every_vote(table) for sigma, table in sorted(tables.items())}
    if {alpha for table in singles.values() for alpha in table["alpha"]} != {options.alpha}:
        print(f"alpha of the cascade is {options.alpha:g}; its experts, of another level, are not beside it")
        singles = {}
    print(summed_up(singles | {"cascade": found}, options.radii))
    return 0


def _asked(options: Namespace, tables: "Mapping[float, DataFrame]") -> "Cascade":
    # who is asked, in which order, from which threshold on, and below which confidence each is silent
    from dualrs_lab.cascade.radii import Cascade

    sigmas = tuple(sorted(tables, reverse=True))
    if options.train is not None:
        return _learnt(options, sigmas)
    if options.ask:
        noise, least, limits = (tuple(column) for column in zip(*options.ask, strict=True))
        answers = _answers(tables) if any(least) else None
        sure = least if any(least) else ()
        return Cascade(noise, limits, tuple(options.shares), answers, sure)
    if options.thresholds and len(options.thresholds) != len(sigmas):
        raise ValueError(f"cascade: --thresholds: want a finite threshold for each of {len(sigmas)} experts")
    return Cascade(sigmas, tuple(options.thresholds), tuple(options.shares))


def _answers(tables: "Mapping[float, DataFrame]") -> int:
    from dualrs_lab.evidence.joins import origin

    told = {origin(table)["sure"]["answers"] for table in tables.values() if "sure" in origin(table)}
    if len(told) != 1:
        raise ValueError(
            "cascade: --ask: wanted tables whose votes are told apart by how sure they are, for as many "
            "classes: certify their networks with --sure; got "
            f"{f'{sorted(told)} classes' if told else 'none'}"
        )
    return int(told.pop())


def _learnt(options: Namespace, sigmas: tuple[float, ...]) -> "Cascade":
    from dualrs_lab.cascade.learning import cascade_front
    from dualrs_lab.cascade.search import CascadeGoal, search_cascade
    from dualrs_lab.combine.train import read_image_votes

    want_file(options.name, "file of votes", options.train)
    counts, labels, about = read_image_votes(options.train, sigmas)
    goal = CascadeGoal(weights=tuple(options.radii_weights), above=tuple(options.above))
    confidences = about.get("sure", {}).get("confidences", ())
    if confidences or options.above:
        how = {"confidences": confidences, "stages": options.stages, "alpha": options.alpha}
        found, of = search_cascade(counts, labels, sigmas, goal=goal, **how).cascade, "search"
    else:
        front = cascade_front(counts, labels, sigmas, radii=goal.radii, alpha=options.alpha)
        found, of = front.cascades[front.best(goal.weights)], f"the best of {len(front.cascades)} settings"
    said = ", ".join(
        f"σ = {sigma:g} from {limit:g} on" + (f" where it is {sure:g} sure" if sure else "")
        for sigma, limit, sure in zip(found.sigmas, found.limits, found.sure, strict=True)
    )
    shares = (
        f"; shares of alpha {', '.join(f'{share:.3g}' for share in found.shares)}" if found.shares else ""
    )
    print(f"learnt from {len(labels)} images, {of}: {said}{shares}")
    return replace(found, shares=tuple(options.shares) or found.shares)


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
    tables = _opened(options)
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
