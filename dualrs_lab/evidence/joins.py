"""Tables side by side: about the same images, classes, level and noise, or one sentence says what differs.

What a table is about stands in its rows (idx, label, a digest of each image where there is one, alpha, sigma,
seed) and, where it was read from a file, in the record beside it, which `read_table` keeps in
`attrs["identity"]`. Whoever puts tables together asks here, and reads votes here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.evidence.claim import Claim, Claims
from dualrs_lab.evidence.recompute import every_vote
from dualrs_lab.evidence.table import as_table
from dualrs_lab.evidence.votes import Votes, are_votes, cell_votes, leader, level_text, vote_counts

__all__ = [
    "Joined",
    "agree",
    "aligned",
    "at_sigma",
    "certified_for",
    "counted_votes",
    "each_once",
    "holds_all_draws",
    "holds_fixed_draws",
    "join_experts",
    "join_votes",
    "joined_table",
    "of_what_voted",
    "origin",
    "shared_origin",
]


Ints = NDArray[np.int64]


_ALL, _PILOT = "AllDraws", "InputSpecific"  # rules that fix the number of draws


_OWN = ("sigma", "alpha", "seed")  # cells of every row that the record of a table says as well


_SHARED = ("images", "classes", "noise")  # what records must have in common


def origin(table: pd.DataFrame) -> dict[str, Any]:
    """What the record beside the file says that the rows of `table` depend on; empty where none is known."""
    return dict(table.attrs.get("identity", {}))


def _rule_of(table: pd.DataFrame) -> str:
    return str(origin(table).get("stop", {"rule": _ALL})["rule"])  # a record may be older than rules


def shared_origin(*tables: pd.DataFrame) -> dict[str, Any]:
    """Data set, classes and noise of tables that agree, where a record says them: for a table from them."""
    return {what: origin(table)[what] for table in tables for what in _SHARED if what in origin(table)}


def each_once(call: str, table: pd.DataFrame, name: str = "the table") -> None:
    """ValueError where an image comes twice, which would count twice; without idx, nothing tells."""
    idx = table.get("idx", pd.Series(dtype="int64"))
    twice = idx[idx.duplicated()]
    if len(twice):
        raise ValueError(
            f"{call}: an idx comes twice in {_called(name, table)}, {twice.iloc[0]} first; wanted one row "
            "for each image, of one method and sigma at a time"
        )


def agree(call: str, tables: Mapping[str, Claims], *, same: Sequence[str] = ("alpha",)) -> None:
    """ValueError that names two of `tables` and what differs, where they cannot be put side by side.

    They hold each image once, no two of them know another label, digest, data set, classes or noise, nor
    other values in the columns `same`, and no table contradicts its own record. Tables may hold different
    images of one set; what a table does not say is not compared.
    """
    known = {name: as_table(claims) for name, claims in tables.items()}
    for name, table in known.items():
        each_once(call, table, name)
        for what, rows, record in _contradictions(table):
            raise ValueError(
                f"{call}: {_called(name, table)} and the record beside it differ in {what}: {rows} and "
                f"{record}; one of the two was changed"
            )
    for (a, left), (b, right) in combinations(known.items(), 2):
        for what, here, there in _differences(left, right, same):
            raise ValueError(
                f"{call}: {_called(a, left)} and {_called(b, right)} differ in {what}: {here} and {there}; "
                "wanted tables of the same images, classes, noise and level"
            )


def aligned(
    call: str, tables: Mapping[str, Claims], *, same: Sequence[str] = ("alpha",)
) -> dict[str, pd.DataFrame]:
    """The rows of each table about the images that all of them hold, by ascending idx.

    Raises ValueError as `agree` does, and where no image is common.
    """
    known = {name: as_table(claims) for name, claims in tables.items()}
    agree(call, known, same=same)
    common = set.intersection(*(set(table["idx"]) for table in known.values())) if known else set()
    if not common:
        counts = ", ".join(f"{len(table)} in {_called(name, table)}" for name, table in known.items())
        raise ValueError(f"{call}: wanted tables with common images, got no common idx ({counts or 'none'})")
    return {name: table[table["idx"].isin(common)].sort_values("idx") for name, table in known.items()}


def at_sigma(call: str, name: str, table: pd.DataFrame, sigma: float) -> None:
    """ValueError unless all rows of `table` say that their noise is `sigma`: radii are in its unit."""
    found = sorted({*table.get("sigma", [])})
    if found != [sigma]:
        raise ValueError(
            f"{call}: {_called(name, table)} is of sigma {found or 'unknown'}; wanted a table made at "
            f"{sigma:g}, whose radii are in that unit"
        )


def certified_for(table: pd.DataFrame) -> str:
    """The network that a table is about: the "original", the "copy" that was sampled, "" for published logs.

    Where nothing was done to the original before it was sampled, its own votes certify it without pairs.
    """
    if "paired" in table or origin(table).get("certify") == "original":
        return "original"
    return "copy" if "votes" in table else ""


def of_what_voted(call: str, name: str, table: pd.DataFrame) -> None:
    """ValueError for votes of a copy that certify its original: here, votes must be of what is certified."""
    if "paired" in table:
        raise ValueError(
            f"{call}: {_called(name, table)} certifies the original, by votes of its copy and pairs, which "
            f"{call} does not take: its bounds are of votes alone, and pairs are about no class but the one "
            "that a network guesses by itself. Wanted a table that was certified for the copy "
            "(certify='copy'), or of the original itself, sampled in float32 without any step"
        )


def counted_votes(call: str, table: pd.DataFrame) -> tuple[list[Votes], list[Votes]]:
    """Selection and votes of each row, where n0, n and successes are what these votes say; else ValueError.

    A radius that follows from `successes` of `n` must follow from the votes beside them.
    """
    selection, votes = ([*map(cell_votes, table[name])] for name in ("selection", "votes"))
    told = [name for name in ("successes", "n", "n0") if name in table]
    cells = zip(*(table[name] for name in told), strict=True) if told else ((),) * len(table)
    for idx, guess, row, given in zip(table["idx"], selection, votes, cells, strict=True):
        if not (guess and are_votes(guess) and row and are_votes(row)):
            raise ValueError(
                f"{call}: image {idx} has selection {guess} and votes {row}; wanted each class once, "
                "ascending, with a positive count"
            )
        counts = dict(row).get(leader(guess), 0), _total(row), _total(guess)
        counted = dict(zip(("successes", "n", "n0"), counts, strict=True))
        said = dict(zip(told, given, strict=True))
        if said != {name: counted[name] for name in told}:
            raise ValueError(
                f"{call}: got {', '.join(told)} {tuple(said.values())} of image {idx}, whose votes say "
                f"{tuple(counted[name] for name in told)}; the table was changed"
            )
    return selection, votes


class Joined(NamedTuple):
    """What the tables of several experts hold about the images that are in all of them."""

    idx: Ints  # (N,)
    label: Ints  # (N,)
    selection: Ints  # (N, K, C)
    votes: Ints  # (N, K, C)
    seed: int
    seconds: NDArray[np.float64]  # (N,) of all experts together
    image: NDArray[np.object_] | None  # (N,) digests, where the tables have them
    about: dict[str, Any]  # data set, classes and noise, where the tables' records say them


def joined_table(joined: Joined, columns: Sequence[str], certify: Callable[..., Claim]) -> pd.DataFrame:
    """A row for each image: `certify(selection, votes, idx=, label=, seed=, seconds=)`, with these columns.

    Digests of the images, and what the experts' records say of the data set and of the noise, come along.
    """
    told = zip(joined.selection, joined.votes, joined.idx, joined.label, joined.seconds, strict=True)
    rows = [
        certify(selection, votes, idx=idx, label=label, seed=joined.seed, seconds=seconds).to_row()
        for selection, votes, idx, label, seconds in told
    ]
    found = pd.DataFrame(rows, columns=list(columns))
    found.attrs = {"identity": joined.about}
    return found if joined.image is None else found.assign(image=joined.image)


def join_votes(tables: Mapping[float, Claims], sigmas: Sequence[float]) -> Joined:
    """Votes of the experts at `sigmas`, from `tables` of `smoothing.certify_table` by sigma.

    All draws must be in them, in a number that was fixed before them: votes that stopped early depend on a
    level of their own. Votes that are told apart by how sure they are (`models.Graded`) all count. Raises
    ValueError for a sigma without its table or with that of another, for votes that stopped early or that
    contradict their counts, and as `evidence.aligned` does, where seeds differ as well.
    """
    if missing := [sigma for sigma in sigmas if sigma not in tables]:
        raise ValueError(
            f"join_votes: no table for sigma {missing[0]:g}; wanted tables of {tuple(sigmas)}, got "
            f"{sorted(tables)}"
        )
    counted = {sigma: every_vote(as_table(tables[sigma])) for sigma in sigmas}
    return join_experts({level_text(sigma): (sigma, table) for sigma, table in counted.items()})


def join_experts(experts: Mapping[str, tuple[float, Claims]]) -> Joined:
    """As `join_votes`, of sigma and table of each expert by its name: a sigma may come more than once.

    Draws of one sigma are the same draws, whose time counts once.
    """
    sigmas = [sigma for sigma, _ in experts.values()]
    given = {f"σ = {name}": as_table(table) for name, (_, table) in experts.items()}
    for sigma, (name, table) in zip(sigmas, given.items(), strict=True):
        if not holds_fixed_draws(table):
            raise ValueError(
                f"join_votes: votes of {name} stopped early, or are not there; wanted a table of all draws, "
                "the same number for each image, or one that its record says a pilot chose"
            )
        at_sigma("join_votes", name, table, sigma)
        of_what_voted("join_votes", name, table)
    same = [*aligned("join_votes", given, same=("alpha", "seed")).values()]
    pairs = [*zip(*(counted_votes("join_votes", table) for table in same), strict=True)]
    classes = 1 + max(kind for every in pairs for rows in every for row in rows for kind, _ in row)
    selection, votes = (np.stack([vote_counts(rows, classes) for rows in every], axis=1) for every in pairs)
    first = same[0]
    digests = [table["image"] for table in same if "image" in table and table["image"].notna().all()]
    return Joined(
        first["idx"].to_numpy(),
        first["label"].to_numpy(),
        selection,
        votes,
        seed=int(first["seed"].iloc[0]),
        seconds=np.sum(
            [*{s: table["time"].to_numpy() for s, table in zip(sigmas, same, strict=True)}.values()], 0
        ),
        image=np.asarray(digests[0], dtype=object) if digests else None,
        about=shared_origin(*same),
    )


def holds_all_draws(table: pd.DataFrame) -> bool:
    """Whether a table of `smoothing.certify_table` has votes, all that were drawn, as many for each image.

    Neither draws that stopped early nor numbers that a pilot chose for each image are all draws.
    """
    return _rule_of(table) == _ALL and holds_fixed_draws(table)


def holds_fixed_draws(table: pd.DataFrame) -> bool:
    """Whether it has all of them, in a number that was fixed for each image before: by a pilot, too."""
    stop = _rule_of(table)
    if not {"selection", "votes", "n"} <= set(table) or stop not in (_ALL, _PILOT):
        return False  # a published log, or draws that stopped early
    alike = table["n"].nunique() <= 1 or stop == _PILOT  # or else nobody says who chose the numbers
    counted = (table.get("drawn", table["n"]) == table["n"]).all()  # older tables say neither of these
    return bool(alike and counted and ("bound" not in table or (table["bound"] == "clopper-pearson").all()))


def _called(name: str, table: pd.DataFrame) -> str:
    file = str(table.attrs.get("file", ""))
    return f"{name} ({file})" if file.removesuffix(".tsv") not in name else name


def _total(votes: Votes) -> int:
    return sum(count for _, count in votes)


Difference = tuple[str, Any, Any]  # what differs, and both values


def _contradictions(table: pd.DataFrame) -> Iterator[Difference]:
    record = origin(table)
    for what in _OWN:
        if what in table and what in record and {*table[what]} - {record[what]}:
            yield what, sorted({*table[what]}), record[what]


def _differences(a: pd.DataFrame, b: pd.DataFrame, same: Sequence[str]) -> Iterator[Difference]:
    yield from _images(a, b)
    left, right = origin(a), origin(b)
    for what in _SHARED:
        known = what in left and what in right and not (what == "images" and _digests_agree(a, b))
        if known and left[what] != right[what]:
            yield what, left[what], right[what]
    for what in same:
        if what in a and what in b:
            here, there = sorted({*a[what].dropna()}), sorted({*b[what].dropna()})
            if len({*here, *there}) > 1:
                yield what, here, there


def _images(a: pd.DataFrame, b: pd.DataFrame) -> Iterator[Difference]:
    # labels and digests of the images that are in both
    left, right = _common(a, b)
    for what in ("label", "image"):
        if what in left and what in right:
            known = left[what].notna() & right[what].notna()
            other = known & (left[what] != right[what])
            if other.any():
                idx = other.index[other][0]
                yield f"the {what} of idx {idx}", left[what][idx], right[what][idx]


def _common(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    if "idx" not in a or "idx" not in b:
        return a[:0], b[:0]
    names = ("idx", "label", "image")
    left, right = (table[[name for name in names if name in table]].set_index("idx") for table in (a, b))
    both = left.index.intersection(right.index)
    return left.loc[both], right.loc[both]


def _digests_agree(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    # then it does not matter from which selection of a data set the images came
    left, right = _common(a, b)
    if not len(left) or "image" not in left or "image" not in right:
        return False
    return bool((left["image"].notna() & (left["image"] == right["image"])).all())
