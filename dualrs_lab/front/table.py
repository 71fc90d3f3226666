"""A table of certificates as a newcomer meets it: what is certified in words, a curve, a file. No torch.

Behind it is the frame of all claims with their votes, which every other wing takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dualrs_lab.afar.fetching import at_hand
from dualrs_lab.afar.sending import sending
from dualrs_lab.evidence import table as files
from dualrs_lab.evidence.claim import ABSTAIN
from dualrs_lab.evidence.joins import agree, aligned
from dualrs_lab.evidence.resume import keep_table
from dualrs_lab.evidence.summary import floor_text, summarise
from dualrs_lab.front.signs import Sign, table_signs
from dualrs_lab.store import read_record

if TYPE_CHECKING:
    from dualrs_lab.figures.style import Axes

__all__ = ["Table", "compare", "read_table", "summary"]


_STEPS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """Certificates, one row an image: `frame` holds claims and votes, `record` what they depend on.

    `signs` say why so few are certified, where that was asked and measured; see `diagnose`.
    """

    frame: pd.DataFrame
    record: Mapping[str, Any] = field(default_factory=dict)
    signs: Sequence[Sign] = ()
    name: str = "table"

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label; without, nothing is said of accuracy."""
        return bool((self.frame["label"] >= 0).all())

    def summary(self, radii: Sequence[float] | None = None) -> pd.DataFrame:
        """One row: images, share abstaining, certified accuracy at l2 `radii`, average radius."""
        return summary({self.name: self}, radii)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Certified accuracy against the radius, or the share certified where there are no labels."""
        return _curves({self.name: self}, ax)

    def save(self, path: Path | str) -> Path:
        """Write the table (.tsv) and its record (.json), as `dualrs-lab summary` and `read_table` take them.

        `path` may be an address; the table then lies in the returned place as well.

        Raises ValueError for a name that does not end in .tsv, or a file that is there.
        """
        if not self.record:
            raise ValueError(f"Table.save: {self.name} was read without a record; copy its file instead")
        with sending("Table.save", path) as here:
            keep_table("Table.save", here, self.frame, self.record)
        return here

    def said(self) -> list[str]:
        """What the table says, in sentences."""
        return [*filter(None, (self._made(), self._found(), self._means(), *self._notes()))]

    def __repr__(self) -> str:
        lines = [*self.said(), "", self.summary().to_string(float_format=floor_text)]
        return "\n".join([*lines, *("\n" + sign.text for sign in self.signs)])

    def _repr_html_(self) -> str:
        sentences = "".join(f"<li>{escape(text)}</li>" for text in self.said())
        numbers = self.summary().to_html(float_format=floor_text, border=0)
        signs = "".join(f"<li><b>{escape(sign.name)}</b>: {escape(sign.text)}</li>" for sign in self.signs)
        why = f"<p>Why so little is certified, by what was measured:</p><ul>{signs}</ul>" if signs else ""
        return f"<div><ul>{sentences}</ul>{numbers}{why}</div>"

    def _made(self) -> str:
        sigma, n = self._only("sigma"), self._only("n")
        network = self.record.get("info", {}).get("network")
        by = "" if sigma is None else f", smoothed with noise of standard deviation σ = {sigma:g}"
        draws = "" if n is None else f", {n:,} draws an image"
        return f"{network or self.name}: {len(self.frame):,} images{by}{draws}."

    def _found(self) -> str:
        one = self.summary((0.0,)).iloc[0]
        silent = f"{_percent(one['abstain'])} abstain"
        if self.labelled:
            acr = floor_text(one["acr"])
            right = _percent(one["0"])
            return f"{right} are certified as their label, {silent}; the average certified radius is {acr}."
        median = floor_text(one["median radius"])
        return (
            f"{_percent(one['0'])} have a certified answer, {silent}; the median radius is {median}. Without "
            "labels nothing is said of accuracy."
        )

    def _means(self) -> str:
        alpha = self._only("alpha")
        if alpha is None:
            return "A radius is an l2 norm, of pixels in [0, 1]."
        return (
            f"For each image by itself, with probability at least {1 - alpha:.12g} over the draws: no "
            "change of its pixels of an l2 norm up to its radius (pixels in [0, 1]) changes what the "
            "smoothed network answers."
        )

    def _notes(self) -> list[str]:
        noise = self.record.get("identity", {}).get("noise")
        if noise != "GaussianNoise":
            return []
        return [
            "The noise is plain Gaussian in floating point, whose rounding the guarantee does not cover; "
            "uint8 images get noise on their 8-bit grid, where it does."
        ]

    def _only(self, column: str) -> Any:
        values = [*self.frame[column].unique()] if column in self.frame else []
        return values[0] if len(values) == 1 else None


Given = Table | pd.DataFrame | str | Path


def read_table(path: Path | str) -> Table:
    """A table that was saved, or a published log, checked row by row as by `evidence.read_table`.

    Where most images abstain, or no more are right than by chance, `signs` say what the table shows of why.
    """
    path = at_hand("read_table", path)
    frame = files.read_table(path)
    return Table(frame, read_record(path), table_signs(frame), Path(path).stem)


def summary(
    tables: Given | Mapping[str, Given] | Sequence[Given], radii: Sequence[float] | None = None
) -> pd.DataFrame:
    """One row per table: images, share abstaining, certified accuracy at l2 `radii` (columns), and `acr`.

    Where images have no labels: the share with a certificate at the radii, and the `median radius`. Raises
    ValueError for tables of different images or levels.
    """
    known = _named("summary", tables)
    chosen = _radii(known) if radii is None else radii
    if all(table.labelled for table in known.values()):
        return summarise({name: table.frame for name, table in known.items()}, chosen)
    agree("summary", {name: table.frame for name, table in known.items()})
    found = summarise({name: _as_if_right(table.frame) for name, table in known.items()}, chosen)
    medians = [float(np.median(table.frame["radius"])) for table in known.values()]
    return found.drop(columns="acr").assign(**{"median radius": medians})


def compare(tables: Mapping[str, Given] | Sequence[Given], *, ax: "Axes | None" = None) -> "Axes":
    """Certified accuracy of several tables against the radius, on the images that all of them hold.

    Raises ValueError for tables of other images or another level, naming two and what differs.
    """
    known = _named("compare", tables)
    same = aligned("compare", {name: table.frame for name, table in known.items()})
    return _curves({name: Table(frame, name=name) for name, frame in same.items()}, ax)


def _curves(tables: Mapping[str, Table], ax: "Axes | None") -> "Axes":
    from dualrs_lab.figures.smoothing import certified_curves

    labelled = all(table.labelled for table in tables.values())
    frames = {name: t.frame if labelled else _as_if_right(t.frame) for name, t in tables.items()}
    drawn = certified_curves(frames, _radii(tables), ax=ax)
    if not labelled:
        drawn.set_ylabel("share with a certificate")
    return drawn


def _as_if_right(frame: pd.DataFrame) -> pd.DataFrame:
    # what is certified, whatever the label
    answers = frame["predict"] != ABSTAIN
    label = frame["predict"].where(answers, 0)
    return frame.assign(label=label, correct=answers.astype(np.int64))


def _radii(tables: Mapping[str, Table]) -> list[float]:
    last = max((float(table.frame["radius"].max()) for table in tables.values() if len(table)), default=0.0)
    step = next(step for step in (*_STEPS, last) if last <= 7 * step)
    return [round(step * k, 10) for k in range(int(last / step) + 2)]


def _named(call: str, tables: Given | Mapping[str, Given] | Sequence[Given]) -> dict[str, Table]:
    if isinstance(tables, Table | pd.DataFrame | str | Path):
        tables = [tables]
    if not isinstance(tables, Mapping):
        found = [_as_table(one) for one in tables]
        names = [one.name for one in found]
        twice = len({*names}) < len(names)
        tables = {f"{n + 1}: {one.name}" if twice else one.name: one for n, one in enumerate(found)}
    if not tables:
        raise ValueError(f"{call}: got no table; wanted at least one")
    return {name: _as_table(one) for name, one in tables.items()}


def _as_table(one: Given) -> Table:
    if isinstance(one, Table):
        return one
    return Table(one) if isinstance(one, pd.DataFrame) else read_table(one)


def _percent(share: float) -> str:
    return f"{floor_text(100 * share, 1)} %"
