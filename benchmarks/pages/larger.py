"""What docs/results.md says of the larger experts that a GPU trained, beside published networks."""

import numpy as np
import pandas as pd

from benchmarks.gpu.experts import ALPHA, SEED, SIGMAS
from benchmarks.pages.certificates import curve_table
from benchmarks.pages.text import DATA, Facts, along, markdown, millions, percent, read_info
from benchmarks.quality import BOTH
from dualrs_lab.cascade import Cascade, from_tables
from dualrs_lab.evidence import read_table, reclaimed

__all__ = ["METHODS", "WIDE", "board", "cascade_beyond", "facts", "points", "published"]

WIDE = DATA / "cifar10_wide"
METHODS = ("Cohen 2019", "Consistency", "SmoothAdv", "MACER", "CAT-RS")
ROWS = {
    **{f"σ = {s:g}": f"σ = {s:g}, Cohen’s radius" for s in SIGMAS},
    "envelope": "their envelope (no classifier)",
    **{f"σ = {s:g}{BOTH}": f"σ = {s:g}, two bounds" for s in SIGMAS},
    f"envelope{BOTH}": "their envelope (no classifier)",
    "cascade, routed": "cascade, routed certificate",
    "cascade, routed, t = 0.15": "the same, t = 0.15 at σ = 1",
    "cascade, routed, t = 0.3": "the same, t = 0.3 at σ = 1",
    "oracle": "oracle (no classifier), Cohen’s radius",
    f"oracle{BOTH}": "oracle (no classifier), two bounds",
}


def facts() -> Facts:
    """Placeholders of the page."""
    return {**_experts(), **_beside_published(), **_cascade()}


def board() -> pd.DataFrame:
    """Certified accuracy of every rule at the radii of the columns, and ACR."""
    return pd.read_csv(WIDE / "board.csv", index_col="rule")


def published(method: str, sigma: float | None = None) -> "pd.Series[float]":
    """Certified accuracy at the radii of the board, for one noise level or for the best at each radius."""
    found = pd.read_csv(DATA / "published_cifar10.csv")
    found = found[(found["method"] == method) & (True if sigma is None else found["sigma"] == sigma)]
    best = found.groupby("radius")["certified_accuracy"].max()
    return best.rename(lambda r: f"{r:g}").loc[board().columns[:-1]]


def points(these: "pd.Series[float]", those: "pd.Series[float]") -> "pd.Series[float]":
    """By radius, how many points these lie above those, where either certifies any image."""
    these = these[those.index]
    return 100 * (these - those)[(these > 0) | (those > 0)]


def _stem(sigma: float) -> str:
    return f"cifar10_jpeg_wide_start_sigma{sigma:g}_seed{SEED}"


def _tables() -> dict[float, pd.DataFrame]:
    return {s: read_table(WIDE / f"{_stem(s)}_smoothed{s:g}_n10000.tsv") for s in SIGMAS}


def _span(values: "pd.Series[float]", digits: int = 0) -> str:
    return f"{values.min():.{digits}f} to {values.max():.{digits}f}"


def _experts() -> Facts:
    found, stage = board(), read_info(WIDE / "experts.json")
    trained = pd.DataFrame([read_info(WIDE / f"{_stem(s)}.json")["training"] for s in SIGMAS], index=SIGMAS)
    objective, recipe = (pd.DataFrame(trained[key].tolist(), index=SIGMAS) for key in ("objective", "recipe"))
    table = _tables()[0.5]
    return {
        "wide": curve_table(found, ROWS, [float(r) for r in found.columns[:-1]]),
        "wide_parameters": millions(WIDE / f"{_stem(0.5)}.safetensors", 2),
        "wide_machine": stage["device_name"],
        "wide_epochs": _span(trained["epochs"]),
        "wide_seconds": _span(trained["seconds"]),
        "wide_minutes": f"{stage['seconds'] / 60:.1f}",
        "wide_trained_on": f"{(recipe['batch'] * trained['steps'] / trained['epochs']).mean():,.0f}",
        "wide_strength": {f"σ = {s:g}": f"{objective['strength'][s]:g}" for s in SIGMAS},
        "wide_images": f"{len(table):,}",
        "wide_n": f"{table['n'].iloc[0]:,}",
        "wide_error": f"{50 / np.sqrt(len(table)):.1f}",  # at most, at a share of one half
        "wide_of_oracle": percent(found["acr"]["cascade, routed"] / found["acr"]["oracle"], 0),
    }


def _beside_published() -> Facts:
    found = board()
    cohen = {s: points(found.loc[f"σ = {s:g}"], published("Cohen 2019", s)) for s in SIGMAS}
    consistency = [points(found.loc[f"σ = {s:g}"], published("Consistency", s)) for s in SIGMAS[1:]]
    named = {f"Cohen et al., σ = {s:g}": published("Cohen 2019", s) for s in SIGMAS}
    named |= {f"Consistency, σ = {s:g}": published("Consistency", s) for s in SIGMAS[1:]}
    named |= {f"{method.replace(' 2019', ' et al.')}, best σ": published(method) for method in METHODS}
    at = list(found.columns[:-1])
    images = pd.read_csv(DATA / "published_cifar10.csv").groupby("method")["images"].first()
    rows = [[label, *map(percent, values)] for label, values in named.items()]
    return {
        "wide_cohen_images": f"{images['Cohen 2019']:,}",
        "wide_other_images": f"{images['CAT-RS']:,}",
        "wide_published": markdown(["", *along(at)], rows),
        "wide_above_cohen": _span(points(found.loc["envelope"], published("Cohen 2019")), 1),
        "wide_below_cohen": {f"σ = {s:g}": f"{-cohen[s]['0']:.1f}" for s in (0.5, 1.0)},
        "wide_above_levels": _span(pd.concat([above.drop("0") for above in cohen.values()]), 1),
        "wide_below_consistency": _span(-pd.concat(consistency), 1),
        "wide_below_best": f"{-points(found.loc['envelope'], published('CAT-RS')).min():.1f}",
    }


def cascade_beyond() -> np.ndarray:
    """By image, the radius of the cascade less that of σ = 1 by two bounds; a wrong answer has radius 0."""
    tables = _tables()
    cascade = from_tables(tables, cascade=Cascade(SIGMAS[::-1]), alpha=ALPHA)
    mine, other = (
        (table["radius"] * table["correct"]).to_numpy()
        for table in (cascade, reclaimed(tables[1.0], "two-bounds"))
    )
    return np.asarray(mine - other)


def _cascade() -> Facts:
    found, beyond = board(), cascade_beyond()
    inner = [f"{r:g}" for r in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)]
    below, above = (
        sign * points(found.loc["cascade, routed"], found.loc[f"σ = {s:g}{BOTH}"])[inner]
        for sign, s in ((-1, 0.5), (1, 1.0))
    )
    return {
        "wide_below_half": _span(below, 1),
        "wide_above_one": _span(above, 1),
        "wide_beyond": f"{beyond.mean():.4f} ± {beyond.std(ddof=1) / np.sqrt(len(beyond)):.4f}",
    }
