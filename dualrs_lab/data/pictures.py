"""Pictures people know, for panels: 200 test images of CIFAR-10 with their places in the test set.

They lie under data/cifar10_pictures, 20 a class, each named by its place: so the rows of a shipped table that
speak of one are found. All tables of every tenth, twentieth or fortieth image hold them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dualrs_lab.data.images import Images
from dualrs_lab.data.sets import load_images

__all__ = ["Pictures", "shipped_pictures"]


@dataclass(frozen=True, eq=False)
class Pictures:
    """`images`, and of each its place in the data set that it was taken from."""

    images: Images
    places: tuple[int, ...]

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of `table` about these pictures, in their order.

        Raises ValueError where it lacks some, and where it labels one otherwise, as tables of another data
        set or order do.
        """
        lacking = sorted(set(self.places) - set(table["idx"]))
        if lacking:
            raise ValueError(
                f"Pictures.rows: the table has no row for image {lacking[0]} and {len(lacking) - 1} others "
                f"of {len(self.places)}; certify every 40th test image, or all"
            )
        found = table.set_index("idx").loc[list(self.places)].reset_index()
        other = np.flatnonzero(found["label"].to_numpy() != self.images.labels.numpy())
        if len(other):
            raise ValueError(
                f"Pictures.rows: the table labels image {self.places[other[0]]} {found['label'][other[0]]}, "
                f"and the picture is of class {int(self.images.labels[other[0]])}; take a table about the "
                "test set of CIFAR-10, sorted by class"
            )
        return found


def shipped_pictures(data: str | Path = "data") -> Pictures:
    """Those that lie under the folder `data` of the repository or of a workbench.

    Raises FileNotFoundError where they do not.
    """
    folder = Path(data) / "cifar10_pictures"
    images = load_images(f"folder:{folder}", "all")
    files = sorted(path for path in folder.glob("*/*.jpg"))
    return Pictures(images, tuple(int(path.stem) for path in files))
