"""What every row of a table has to say, checked once at the door, all rows together.

Parts that contradict each other, and numbers that are none, are refused and named, with their line.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dualrs_lab.evidence.claim import ABSTAIN, LOG_COLUMNS

__all__ = ["IMAGE", "check_digests", "check_each", "check_images", "check_rows"]


IMAGE = "image"
"""The last column of a table that is made from images: a digest of the pixels of each, 16 hex digits."""


_DIGEST = re.compile(r"[0-9a-f]{16}")


def check_rows(call: str, table: pd.DataFrame) -> None:
    """ValueError that names the first row where the columns of the published logs contradict each other.

    An image may come only once: twice, it would count twice.
    """
    for name in LOG_COLUMNS:
        check_each(call, table, f"something in {name}", table[name].notna().to_numpy(), name)
    idx, label, predict = (table[name].to_numpy(dtype=np.int64) for name in ("idx", "label", "predict"))
    radius, seconds = (table[name].to_numpy(dtype=np.float64) for name in ("radius", "time"))
    correct, abstains = table["correct"].to_numpy(dtype=np.int64), predict == ABSTAIN
    check_each(call, table, "idx >= 0", idx >= 0, "idx")
    check_each(call, table, "each image once", ~table["idx"].duplicated().to_numpy(), "idx")
    check_each(call, table, "label >= -1", label >= -1, "label")
    check_each(call, table, "predict >= -1", predict >= -1, "predict")
    check_each(call, table, "a finite radius >= 0", (radius >= 0) & (radius < np.inf), "radius")
    check_each(call, table, "radius 0 where predict is -1", ~abstains | (radius == 0), "radius")
    right = (predict == label) & ~abstains
    check_each(call, table, "correct 1 where predict is label, else 0", correct == right, "correct")
    check_each(call, table, "time >= 0", (seconds >= 0) & (seconds < np.inf), "time")
    check_digests(call, table)


def check_digests(call: str, table: pd.DataFrame) -> None:
    """ValueError that names the first row whose digest of an image is none; a table may lack the column."""
    if IMAGE in table:
        match = _DIGEST.fullmatch
        fine = np.array([match(str(text)) is not None for text in table[IMAGE].tolist()], dtype=bool)
        check_each(call, table, "16 hexadecimal digits of the image", fine, IMAGE)


def check_images(
    call: str, path: Path, table: pd.DataFrame, digests: Callable[[list[int]], list[str]]
) -> None:
    """ValueError where the images that a call was given are not those of the rows, by the digests of both.

    A table that was begun before rows had digests is taken as it is.
    """
    if IMAGE not in table:
        return
    idx = table["idx"].tolist()
    for number, said, found in zip(idx, table[IMAGE].tolist(), digests(idx), strict=True):
        if said != found:
            raise ValueError(
                f"{call}: {path} is about other pixels: image {number} is not the one of its row; wanted the "
                "images that it was made from, or another file"
            )


def check_each(call: str, table: pd.DataFrame, wanted: str, fine: NDArray[np.bool_], name: str) -> None:
    """ValueError that names the first row that is not `fine` (N,), and what it has under `name`."""
    if not fine.all():
        at = int(np.argmin(fine))
        idx, got = table["idx"].tolist()[at], table[name].tolist()[at]
        raise ValueError(
            f"{call}: image {idx} (line {at + 2}): wanted {wanted}, got {name} {got!r}; the table was "
            "changed, or is none of this kind."
        )
