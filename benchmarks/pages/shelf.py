"""What docs/results.md says of a network off the shelf, certified alone and behind denoisers trained here."""

import numpy as np
import pandas as pd

from benchmarks.off_the_shelf import CALLED, FULL, KINDS, RADII, SIGMAS, STABLE, table_name
from benchmarks.pages.certificates import curve_table
from benchmarks.pages.text import DATA, Facts, markdown, millions, percent, read_info
from dualrs_lab.evidence import read_table
from dualrs_lab.experiment import Shelf

__all__ = ["SHELF", "facts", "tables"]

SHELF = Shelf(DATA, "cifar10_off_the_shelf")
LEVELS = ("0", *(f"{sigma:g}" for sigma in SIGMAS))
AT = [f"{r:g}" for r in RADII]
SYSTEMS = ("cascade, routed", "whoever is surest")
BOTH = ", two bounds"


def facts() -> Facts:
    """Placeholders of the page."""
    seen, board = pd.read_csv(SHELF.table("accuracy"), index_col=0), read_board()
    stable = read_info(SHELF.folder / f"denoiser_{STABLE}.json")
    behind = board.loc[CALLED[STABLE]]
    single = [f"σ = {sigma:g}{BOTH}" for sigma in SIGMAS]
    return {
        "shelf_accuracy": _accuracies(seen),
        "shelf_seen": f"{int(seen['images'].iloc[0]):,}",
        "shelf_board": _curves(board),
        "shelf_images": f"{len(tables()[STABLE, SIGMAS[1]])}",
        "shelf_n": f"{FULL.n:,}",
        "shelf_error": f"{50 / np.sqrt(len(tables()[STABLE, SIGMAS[1]])):.0f}",  # at a share of one half
        "shelf_parameters": millions(SHELF.folder / f"denoiser_{STABLE}.safetensors"),
        "shelf_epochs": f"{FULL.squares.epochs}",
        "shelf_passes": f"{len(stable['history'])}",
        "shelf_few": f"{FULL.few}",
        "shelf_right": {
            kind: {level: percent(seen.loc[CALLED[kind], level]) for level in LEVELS} for kind in KINDS
        },
        "shelf_zero": {kind: percent(board.loc[(CALLED[kind], single[1]), "0"], 0) for kind in KINDS},
        "shelf_systems": {
            "routed": percent(behind.loc[SYSTEMS[0], "0"], 0),
            "small": percent(behind.loc[single[0], "0"], 0),
        },
    }


def read_board() -> pd.DataFrame:
    """Certified accuracy by network and rule."""
    return pd.read_csv(SHELF.table("board"), index_col=[0, 1])


def tables() -> dict[tuple[str, float], pd.DataFrame]:
    """The certificates that are shipped, by kind and noise level."""
    paths = {(kind, s): SHELF.answers(table_name(kind, s)) for kind in KINDS for s in SIGMAS}
    return {key: read_table(path) for key, path in paths.items() if path.exists()}


def _accuracies(seen: pd.DataFrame) -> str:
    rows = [[name, *(percent(row[level]) for level in LEVELS)] for name, row in seen.iterrows()]
    return markdown(["", "no noise", *(f"σ = {level}" for level in LEVELS[1:])], [map(str, r) for r in rows])


def _curves(board: pd.DataFrame) -> str:
    wanted = (*(f"σ = {sigma:g}{end}" for sigma in SIGMAS for end in ("", BOTH)), *SYSTEMS)
    rows = {
        f"{network}: {rule}": row
        for (network, rule), row in board.iterrows()
        if rule in wanted and (network == CALLED[STABLE] or rule not in SYSTEMS)
    }
    found = pd.DataFrame.from_dict(rows, orient="index")
    return curve_table(found, {name: name for name in rows}, RADII)
