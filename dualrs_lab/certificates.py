"""What a certificate is, and tables of them: one row per image, in the field's log format plus our columns.

A table is a TSV whose first six columns are `idx label predict radius correct time`, so published logs load
here and ours load in the field's tools. Radii are l2 in the [0, 1] pixel unit, at full precision.
"""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dualrs_lab.bounds import (
    anytime_lower_bound,
    anytime_upper_bound,
    lower_bound,
    rs_radius,
    upper_bound,
)
from dualrs_lab.claim import ABSTAIN, LOG_COLUMNS, Claim, Claims, answered, reach, whole
from dualrs_lab.files import replace_text

__all__ = [
    "ABSTAIN",
    "BOUNDS",
    "COLUMNS",
    "UPPER_BOUNDS",
    "Certificate",
    "Votes",
    "agreement",
    "append_rows",
    "are_votes",
    "as_table",
    "as_votes",
    "average_radius",
    "cell_votes",
    "certified_accuracy",
    "confidence_band",
    "decide",
    "floor_text",
    "frame",
    "leader",
    "level_text",
    "read_table",
    "read_votes",
    "repair_table",
    "summarise",
    "vote_counts",
    "votes_text",
    "write_table",
]

_REQUIRED = (*LOG_COLUMNS, "method", "sigma", "n0", "n", "successes", "alpha", "seed", "selection", "votes")
COLUMNS = (*_REQUIRED, "bound", "drawn")  # tables that lack these two are Clopper–Pearson on all draws
TEXTS = ("method", "selection", "votes", "bound")
WHOLE = ("idx", "label", "predict", "correct", "n0", "n", "successes", "seed", "drawn")
BOUNDS = {
    "clopper-pearson": lower_bound,  # at a number of draws that the votes had no say in
    "betting": anytime_lower_bound,  # wherever the votes made it stop
}
UPPER_BOUNDS = {"clopper-pearson": upper_bound, "betting": anytime_upper_bound}

Votes = tuple[tuple[int, int], ...]  # (class, count), classes ascending, counts positive


@dataclass(frozen=True, kw_only=True)
class Certificate(Claim):
    """With probability >= 1 - alpha over the draws the smoothed class is `predict` within `radius`.

    The evidence comes along: `selection` guessed the class on n0 draws, separate `votes` on n draws bound its
    probability, `successes` of them for that class; `bound` names the bound, `drawn` >= n counts every draw
    that was looked at.
    """

    method: str
    sigma: float
    n0: int
    n: int
    successes: int
    alpha: float
    seed: int
    selection: Votes
    votes: Votes
    bound: str = "clopper-pearson"
    drawn: int

    counts: ClassVar[tuple[str, ...]] = (*Claim.counts, "n0", "n", "successes", "seed", "drawn")

    @property
    def guess(self) -> int:
        """The class that the selection draws chose; the lowest class wins a tie."""
        return leader(self.selection)

    def recomputed(self) -> float:
        """The radius that the votes alone give; what `decide` certifies has exactly this radius."""
        return float(rs_radius(BOUNDS[self.bound](self.successes, self.n, self.alpha), self.sigma))

    def evidence(self) -> dict[str, object]:
        """As `Claim.evidence`."""
        row = {name: getattr(self, name) for name in COLUMNS if name not in LOG_COLUMNS}
        return row | {"selection": votes_text(self.selection), "votes": votes_text(self.votes)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """As `Claim.from_row`; without `bound` and `drawn`, as first tables: Clopper–Pearson on all draws."""
        return cls(**cls._fields(row))

    @classmethod
    def _fields(cls, row: Mapping[str, Any]) -> dict[str, Any]:
        said = cls._said(row, _REQUIRED)
        given = {"bound": "clopper-pearson", "drawn": row["n"]} | dict(row)
        said |= {name: whole(given[name]) for name in cls.counts if name not in said}
        said |= {name: float(given[name]) for name in ("sigma", "alpha")}
        said |= {name: read_votes(str(given[name])) for name in ("selection", "votes")}
        return said | {name: str(given[name]) for name in ("method", "bound")}

    def _want_evidence(self) -> None:
        self._want(self.method.isprintable() and self.method != "", f"a method name, got {self.method!r}")
        self._want_votes("selection", self.selection, self.n0)
        self._want_votes("votes", self.votes, self.n)
        self._want(self.drawn >= self.n, f"at least its {self.n} votes drawn, got {self.drawn}")
        self._want(self.bound in BOUNDS, f"a bound of {', '.join(BOUNDS)}, got {self.bound!r}")
        counted = dict(self.votes).get(self.guess, 0)
        self._want(self.successes == counted, f"successes {counted}, as in votes, got {self.successes}")

    def _want_votes(self, name: str, votes: Votes, draws: int) -> None:
        fine = f"{name} with each class once, ascending, and positive counts, got {votes}"
        self._want(are_votes(votes), fine)
        total = sum(count for _, count in votes)
        self._want(total == draws >= 1, f"{name} that sum to its {draws} >= 1 draws, got {total}")


def decide(
    selection_counts: ArrayLike,
    votes_counts: ArrayLike,
    *,
    idx: int,
    label: int,
    sigma: float,
    alpha: float,
    seed: int,
    seconds: float,
    method: str = "rs",
    bound: str = "clopper-pearson",
    drawn: int | None = None,
) -> Certificate:
    """Cohen's CERTIFY from votes (K,) to a certificate: guess on one set of draws, bound on the other.

    The two counts must come from independent draws, or the bound does not hold at level `alpha`. Votes that
    had a say in their own number, or that were picked afterwards from those `drawn` (None: there are no
    others), need the bound "betting". Raises ValueError for counts that are not counts and for an unknown
    bound.
    """
    if bound not in BOUNDS:
        raise ValueError(f"decide: wanted a bound of {', '.join(BOUNDS)}, got {bound!r}.")
    selection, votes = _sparse("selection_counts", selection_counts), _sparse("votes_counts", votes_counts)
    top = int(np.argmax(np.asarray(selection_counts)))
    n, successes = sum(count for _, count in votes), dict(votes).get(top, 0)
    radius = float(rs_radius(BOUNDS[bound](successes, n, alpha), sigma))
    return Certificate(
        idx=int(idx),
        label=int(label),
        predict=int(answered(top, radius)),
        radius=radius,
        seconds=float(seconds),
        method=method,
        sigma=float(sigma),
        n0=sum(count for _, count in selection),
        n=n,
        successes=successes,
        alpha=float(alpha),
        seed=int(seed),
        selection=selection,
        votes=votes,
        bound=bound,
        drawn=n if drawn is None else int(drawn),
    )


def leader(votes: Votes) -> int:
    """The class with the most votes; the lowest class wins a tie."""
    return max(votes, key=lambda pair: (pair[1], -pair[0]))[0]


def votes_text(votes: Votes) -> str:
    """Votes as a table holds them: "3:97 5:3"."""
    return " ".join(f"{kind}:{count}" for kind, count in votes)


def read_votes(text: str) -> Votes:
    """Votes back from `votes_text`."""
    pairs = (pair.split(":") for pair in text.split())
    return tuple((int(kind), int(count)) for kind, count in pairs)


def cell_votes(cell: object) -> Votes:
    """Votes back from a cell of a table, which is empty for an expert that was not asked."""
    return read_votes("" if pd.isna(cell) else str(cell))  # type: ignore[call-overload]


def as_votes(counts: NDArray[np.int64]) -> Votes:
    """Counts (C,) as votes; a class without votes is left out."""
    return tuple((kind, int(count)) for kind, count in enumerate(counts) if count)


def are_votes(votes: Votes, below: float = np.inf) -> bool:
    """Whether each class, `below` this number, comes once, ascending, and with a positive count."""
    kinds = [kind for kind, _ in votes]
    return kinds == sorted(set(kinds)) and all(0 <= kind < below and count > 0 for kind, count in votes)


def vote_counts(votes: Sequence[Votes], classes: int) -> NDArray[np.int64]:
    """The votes of S streams as counts (S, C)."""
    counts = np.zeros((len(votes), classes), dtype=np.int64)
    for stream, pairs in enumerate(votes):
        for kind, count in pairs:
            counts[stream, kind] = count
    return counts


def level_text(sigma: float) -> str:
    """A noise level in the name of a column: "0.25", "1"; read back, it is sigma to the last bit."""
    return repr(float(sigma)).removesuffix(".0")


def frame(claims: Iterable[Claim]) -> pd.DataFrame:
    """One row per claim, by the columns of its method; equal to what `read_table` reads of `append_rows`."""
    rows = [claim.to_row() for claim in claims]
    names = dict.fromkeys(name for row in rows for name in row) if rows else COLUMNS
    return _typed({name: [str(row.get(name, "")) for row in rows] for name in names})


def as_table(claims: Claims) -> pd.DataFrame:
    """A table of claims: as it is, or of claims one after the other by `frame`."""
    return claims if isinstance(claims, pd.DataFrame) else frame(claims)


def append_rows(
    path: str | Path,
    rows: Iterable[Claim | Mapping[str, object]],
    *,
    columns: Sequence[str] = COLUMNS,
) -> None:
    """Append whole rows and force them to the disk; the first call writes the header `columns`.

    A method with more to say passes more `columns`, and mappings as rows; a cell that a row lacks stays
    empty. Raises ValueError for a cell without a column, an unknown header, or an unfinished last line.
    """
    path, call = Path(path), f"append_rows({path})"
    started = path.exists() and path.stat().st_size > 0
    header = _header(path, call) if started else list(columns)
    _check_header(call, header)
    cells = [row.to_row() if isinstance(row, Claim) else row for row in rows]
    for row in cells:
        if wrong := row.keys() - set(header) or set(LOG_COLUMNS) - row.keys():
            raise ValueError(f"{call}: {sorted(wrong)} missing in the row or in the table of {header}.")
    text = _tsv(pd.DataFrame(cells, columns=header, dtype=object), header=not started)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def repair_table(path: str | Path) -> int:
    """Cut off an unfinished last line, as a kill leaves it; returns the number of whole rows (0 if no file).

    A file that ends within its header becomes empty, which `append_rows` takes for a new one.
    """
    path = Path(path)
    if not path.exists():
        return 0
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return max(0, whole.count(b"\n") - 1)


def read_table(path: str | Path) -> pd.DataFrame:
    """A table of ours, or a published log (six columns; time as h:mm:ss or in seconds): one row per line.

    Every line is kept, or the call fails with a ValueError that says which line has too many or too few cells
    or is unfinished (`repair_table` cuts it off). A log without `method` gets the method "published".
    """
    path, call = Path(path), f"read_table({path})"
    if not path.is_file():
        raise FileNotFoundError(f"{call}: no such file; wanted a certificate table or a published log.")
    header = _header(path, call)
    _check_header(call, header)
    rows = [line.split("\t") for line in path.read_text("utf-8")[:-1].split("\n")[1:]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"{call}: line {number} has {len(row)} cells, the header has {len(header)}.")
    try:
        table = _typed({name: [row[i] for row in rows] for i, name in enumerate(header)})
    except ValueError as error:
        raise ValueError(f"{call}: {error}.") from None
    return table if "method" in table else table.assign(method="published")


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table, whole or not at all, as the field's tools read it: the six columns come first."""
    _check_header(f"write_table({path})", [name for name in LOG_COLUMNS if name in table])
    order = [*LOG_COLUMNS, *(name for name in table.columns if name not in LOG_COLUMNS)]
    replace_text(path, _tsv(table[order], header=True))


def certified_accuracy(table: Claims, radii: ArrayLike) -> NDArray[np.float64]:
    """Share of rows that are correct with radius >= r, in the shape of `radii`; abstaining counts as wrong.

    The published convention. At r = 0 it is the share that is correct and does not abstain.
    """
    reached, r = _reached("certified_accuracy", table), np.asarray(radii, dtype=np.float64)
    return np.asarray((reached >= r[..., None]).mean(axis=-1), dtype=np.float64)


def average_radius(table: Claims) -> float:
    """ACR: the mean radius, where wrong or abstaining rows count 0 (Zhai et al. 2020)."""
    return float(np.maximum(_reached("average_radius", table), 0.0).mean())


def confidence_band(
    table: Claims, radii: ArrayLike, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(low, high) in the shape of `radii`: exact two-sided band for the certified accuracy on new images.

    Pointwise Clopper–Pearson: at each radius it misses the true accuracy with probability <= 1 - level.
    """
    side = (1 - level) / 2
    hits = np.rint(certified_accuracy(table, radii) * len(table))
    return lower_bound(hits, len(table), side), upper_bound(hits, len(table), side)


def summarise(tables: Mapping[str, Claims], radii: Sequence[float]) -> pd.DataFrame:
    """One row per table: images, share abstaining, certified accuracy at radii (columns "0.25", …), acr."""
    rows = [
        {"images": len(table), "abstain": float((table["predict"] == ABSTAIN).mean())}
        | dict(zip([f"{r:g}" for r in radii], certified_accuracy(table, radii).tolist(), strict=True))
        | {"acr": average_radius(table)}
        for table in map(as_table, tables.values())
    ]
    return pd.DataFrame(rows, index=pd.Index(list(tables), name="table"))


def agreement(a: Claims, b: Claims) -> dict[str, float]:
    """How far two tables agree about their common images: shares of them, and gaps between radii."""
    a, b = as_table(a), as_table(b)
    if a["idx"].duplicated().any() or b["idx"].duplicated().any():
        raise ValueError("agreement: an idx occurs twice in a table; compare one method and sigma at a time.")
    left, right = a.set_index("idx"), b.set_index("idx")
    common = left.index.intersection(right.index)
    if common.empty:
        raise ValueError(
            f"agreement: no common idx among {len(a)} and {len(b)} rows; were they the same images?"
        )
    left, right = left.loc[common], right.loc[common]
    gap = (left["radius"] - right["radius"]).abs()
    return {
        "images": len(common),
        "same_prediction": float((left["predict"] == right["predict"]).mean()),
        "abstain_a": float((left["predict"] == ABSTAIN).mean()),
        "abstain_b": float((right["predict"] == ABSTAIN).mean()),
        "largest_difference": float(gap.max()),
        "mean_difference": float(gap.mean()),
    }


def floor_text(radius: float, digits: int = 3) -> str:
    """A radius to be read, rounded down to `digits` decimals: rounding up would claim too much."""
    exact = Decimal(repr(float(radius)))
    return (
        str(exact.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR))
        if exact.is_finite()
        else str(radius)
    )


def _reached(call: str, claims: Claims) -> NDArray[np.float64]:
    table = as_table(claims)
    if table.empty:
        raise ValueError(f"{call}: the table has no rows.")
    if (table["label"] == -1).any():
        raise ValueError(
            f"{call}: {int((table['label'] == -1).sum())} rows have no label (-1); accuracy needs labels."
        )
    return reach(table)


def _sparse(name: str, counts: ArrayLike) -> Votes:
    given = np.asarray(counts)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"decide: {name} wants whole counts per class (K,), got {given.dtype} {given.shape}."
        )
    return tuple((kind, int(count)) for kind, count in enumerate(given) if count)


def _header(path: Path, call: str) -> list[str]:
    with path.open("rb") as file:
        header = file.readline()
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 1))
        if file.read() != b"\n":
            raise ValueError(
                f"{call}: the last line is unfinished; repair_table cuts it, a newline accepts it."
            )
    return header.decode("utf-8").rstrip("\r\n").split("\t")


def _check_header(call: str, columns: Sequence[str]) -> None:
    if tuple(columns[:6]) != LOG_COLUMNS or len(set(columns)) < len(columns):
        wanted = f"a tab separated header of different names that starts with {' '.join(LOG_COLUMNS)}"
        raise ValueError(f"{call}: wanted {wanted}, got {list(columns)}.")


def _tsv(table: pd.DataFrame, *, header: bool) -> str:
    # pandas writes floats by repr, so they are read back bit for bit; a tab or line end in a cell is an error
    whole = table.assign(correct=table["correct"].astype("int64"))
    return str(
        whole.to_csv(None, sep="\t", header=header, index=False, lineterminator="\n", quoting=csv.QUOTE_NONE)
    )


def _typed(cells: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    return pd.DataFrame({name: _column(name, texts) for name, texts in cells.items()})


def _column(name: str, texts: Sequence[str]) -> "pd.Series[Any]":
    # Python's own int and float, exact to the last bit. A column that is not ours takes the first kind that
    # fits all its cells; an empty cell (a row of another method) is a missing value.
    known = str if name in TEXTS else int if name in WHOLE else float
    failure = ""
    for kind in (known,) if name in COLUMNS else (int, float, str):
        read = _seconds if name == "time" else kind
        try:
            values = [read(text) if text else None for text in texts]
        except ValueError as error:
            failure = str(error)
            continue
        whole = "Int64" if None in values else "int64"
        return pd.Series(values, dtype={int: whole, str: "str"}.get(kind, "float64"))
    raise ValueError(f"column {name}: {failure}")


def _seconds(text: str) -> float:
    # published logs write seconds or str(timedelta)
    return float(pd.to_timedelta(text).total_seconds()) if ":" in text else float(text)
