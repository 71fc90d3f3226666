"""Tables to be explored: found by paths and patterns, read, and given names that a legend can hold."""

import glob
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import pandas as pd

from dualrs_lab.afar.address import is_afar
from dualrs_lab.afar.fetching import at_hand, expand
from dualrs_lab.evidence.recompute import every_vote
from dualrs_lab.evidence.table import read_table

__all__ = ["find_tables", "read_tables"]


SHIPPED = (
    "cifar10_jpeg/*_n10000.tsv",
    "cifar10_systems/dual.tsv",
    "cifar10_systems/combined.tsv",
    "cifar10_wide/*_n10000.tsv",
    "cifar10_recipes/*_smoothed*_n10000.tsv",
    "published_logs/*.tsv",
)


_LEVEL = re.compile(r"_sigma_?([0-9.]*[1-9])0*(_seed\d+)?(_smoothed[0-9.]+)?(_n\d+)?$")


def find_tables(named: Iterable[Path | str], *, own: Path | str, shipped: Path | str) -> list[Path]:
    """The files of these paths, addresses and patterns; of none, the shipped ones and all in `own`.

    FileNotFoundError for what matches no file, and where there is nothing at all.
    """
    texts = [*map(str, named)]
    addresses = [one for text in texts if is_afar(text) for one in expand("find_tables", text)]
    brought = [at_hand("find_tables", address) for address in addresses]
    wanted = [text for text in texts if not is_afar(text)]
    if brought and not wanted:
        return brought
    for text in wanted:
        if not glob.glob(text, recursive=True):
            raise FileNotFoundError(f"find_tables: {text} matches no file")
    wanted = wanted or [*(str(Path(shipped, pattern)) for pattern in SHIPPED), str(Path(own, "*.tsv"))]
    found = [Path(path) for text in wanted for path in sorted(glob.glob(text, recursive=True))]
    if not found:
        raise FileNotFoundError(f"find_tables: there are no tables in {own} or {shipped}; name some")
    return [*dict.fromkeys([*found, *brought])]


def read_tables(
    paths: Sequence[Path], *, strict: bool
) -> tuple[dict[str, pd.DataFrame], dict[Path, ValueError]]:
    """Tables by name, each radius computed again; unless `strict`, what is none is left out, with the reason.

    Of votes that are told apart by how sure they are, every one counts: the plain network is shown.
    ValueError for a file that is no table of certificates if `strict`, and where none of them is one.
    """
    tables: dict[str, pd.DataFrame] = {}
    left: dict[Path, ValueError] = {}
    for path in paths:
        try:
            table = every_vote(read_table(path))
            if not {"predict", "radius", "correct"} <= {*table}:
                raise ValueError(f"{path}: no table of certificates")
        except ValueError as error:
            if strict:
                raise
            left[path] = error
            continue
        tables[_name(path, tables)] = table
    if not tables:
        raise ValueError("read_tables: none of the tables there is one of certificates; name some")
    return tables, left


def _name(path: Path, taken: Collection[str]) -> str:
    """The noise level of what was smoothed, and what it is; the whole name where that is taken."""
    short = _LEVEL.sub(r" σ = \1", path.stem.removeprefix("cifar10_jpeg_"))
    name = path.stem if short in taken else short
    while name in taken:
        name += "′"
    return name
