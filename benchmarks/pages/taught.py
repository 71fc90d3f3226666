"""What docs/results.md says of recipes for experts, compared at equal time on a GPU."""

import pandas as pd

from benchmarks.gpu.certifying import RADII, SEED
from benchmarks.gpu.recipes import FULL, SIGMAS
from benchmarks.pages.certificates import apart_cells, curve_table, reached_at
from benchmarks.pages.larger import WIDE, points, published
from benchmarks.pages.text import DATA, Facts, along, markdown, percent, read_info
from benchmarks.quality import BOTH
from dualrs_lab.evidence import average_radius, certified_accuracy, read_table, reclaimed

__all__ = ["TAUGHT", "facts", "gained", "trials"]

TAUGHT = DATA / "cifar10_recipes"
AT = [f"{r:g}" for r in RADII]
FINE = 100_000
ROWS = {
    **{f"σ = {s:g}{BOTH}": f"CAT-RS, σ = {s:g}" for s in SIGMAS},
    "cascade, routed": "their cascade, routed certificate",
    "cascade, routed, t = 0.3": "the same, t = 0.3 at σ = 1",
    f"oracle{BOTH}": "oracle (no classifier)",
}


def facts() -> Facts:
    """Placeholders of the page."""
    small = pd.read_csv(TAUGHT / "recipes_cpu.csv", index_col="recipe")
    found, board = trials(), pd.read_csv(TAUGHT / "board.csv", index_col="rule")
    trained = pd.DataFrame([read_info(TAUGHT / f"{_stem(s)}.json")["training"] for s in SIGMAS], index=SIGMAS)
    best = found["score"].drop("as it began").idxmax()
    fine = {s: _table(s, FINE) for s in SIGMAS if (TAUGHT / f"{_stem(s)}_smoothed{s:g}_n{FINE}.tsv").exists()}
    behind = -points(board.loc[f"envelope{BOTH}"], published("CAT-RS"))
    return {
        "taught_trials": _trials(found),
        "taught_small": _trials(small),
        "taught_small_seconds": f"{read_info(TAUGHT / 'recipes_cpu.csv')['seconds']:g}",
        "taught_small_epochs": {name: f"{value:.1f}" for name, value in small["epochs"].items()},
        "taught_dropped": percent(FULL.threshold, 0),
        "taught_behind": f"{behind.min():.1f} to {behind.max():.1f}",
        "taught_seconds": f"{found['seconds'].drop('as it began').max():.0f}",
        "taught_score": {name: percent(found["score"][name], 2) for name in found.index},
        "taught_best": str(best),
        "taught_board": curve_table(board, ROWS, [float(r) for r in AT]),
        "taught_gained": _gained(),
        "taught_epochs": f"{trained['epochs'].min():.1f} to {trained['epochs'].max():.1f}",
        "taught_each": f"{trained['seconds'].min():.0f} to {trained['seconds'].max():.0f}",
        "taught_machine": read_info(TAUGHT / "trained.json")["device_name"],
        "taught_fine": _fine(fine),
        "taught_fine_images": f"{len(next(iter(fine.values()))):,}",
        "taught_fine_n": f"{FINE:,}",
    }


def trials() -> pd.DataFrame:
    """A row a recipe, as the stage kept it."""
    return pd.read_csv(TAUGHT / "recipes.csv", index_col="recipe")


def gained(sigma: float) -> pd.DataFrame:
    """By image, what CAT-RS reaches by two bounds less what consistency alone does; "acr" is the radius."""
    wide = f"cifar10_jpeg_wide_start_sigma{sigma:g}_seed{SEED}_smoothed{sigma:g}_n10000.tsv"
    mine, other = (reclaimed(one, "two-bounds") for one in (_table(sigma, 10_000), read_table(WIDE / wide)))
    return reached_at(mine, RADII) - reached_at(other, RADII)


def _stem(sigma: float) -> str:
    return f"cifar10_jpeg_wide_start_CAT-RS_sigma{sigma:g}_seed{SEED}"


def _table(sigma: float, n: int) -> pd.DataFrame:
    return read_table(TAUGHT / f"{_stem(sigma)}_smoothed{sigma:g}_n{n}.tsv")


def _trials(found: pd.DataFrame) -> str:
    rows = [
        [name, f"{row['epochs']:.1f}", *(percent(row[r]) for r in AT[:-1]), percent(row["score"], 2)]
        for name, row in found.iterrows()
    ]
    return markdown(["", "epochs", *along(AT[:-1]), "mean"], rows)  # type: ignore[arg-type]


def _gained() -> str:
    rows = [[f"σ = {sigma:g}", *apart_cells(gained(sigma))] for sigma in SIGMAS]
    return markdown(["", *along(AT), "ACR"], rows)


def _fine(tables: dict[float, pd.DataFrame]) -> str:
    rows = {}
    for sigma, table in tables.items():
        for n, some in ((FINE, table), (10_000, _table(sigma, 10_000))):
            claims = reclaimed(some[some["idx"].isin(table["idx"])], "two-bounds")
            curve = dict(zip(AT, certified_accuracy(claims, RADII).tolist(), strict=True))
            rows[f"σ = {sigma:g}, n = {n:,}"] = curve | {"acr": average_radius(claims)}
    found = pd.DataFrame.from_dict(rows, orient="index")
    return curve_table(found, {name: name for name in rows}, [float(r) for r in AT])
