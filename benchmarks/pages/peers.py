"""What docs/results.md says of other ways to a noise level for each image, and beside what was published."""

import numpy as np
import pandas as pd

from benchmarks.pages.certificates import SYSTEMS, curve_table
from benchmarks.pages.text import DATA, Facts, markdown, percent, radius, signed, significant
from benchmarks.peers import BASE, FALSE, MEMORY, RATE, SMOOTH, away_of
from benchmarks.quality import ALPHA, BOTH, SHIPPED, SIGMAS, N
from dualrs_lab.evidence import lower_bound, read_table
from dualrs_lab.peers import SmoothSigma, remembered_table, smooth_sigma_radius

__all__ = ["PEERS", "board", "curse", "facts", "gains", "memory", "smooth", "wide_rate"]

PEERS = DATA / "cifar10_peers"
ROWS = {
    **{f"σ = {s:g}{BOTH}": f"one noise level, σ = {s:g}, two bounds" for s in SIGMAS},
    "dual, published": "dual system, published certificate",
    "dual, routed": "dual system, routed certificate",
    f"dual, routed{BOTH}": "the same, two bounds",
    "cascade": "cascade, Jeong and Shin’s radius",
    "cascade, routed": "cascade, routed certificate",
    SMOOTH: f"smooth σ(x) around {BASE:g}",
    f"{SMOOTH}{BOTH}": "the same, two bounds",
    f"{SMOOTH}{FALSE}{BOTH}": "its votes as if σ were the same everywhere (not valid)",
    f"{MEMORY}{BOTH}": "σ by votes with a memory, two bounds (depends on the order: no classifier)",
    f"oracle{BOTH}": "oracle, two bounds (no classifier)",
}
AT = ("0.5", "0.75", "1")
RATES = (0.005, RATE, 0.02, 0.05)
DIMS = {"digits, 8×8": 64, "CIFAR-10, 3×32×32": 3072, "ImageNet, 3×224×224": 150_528}


def facts() -> Facts:
    """Placeholders of the page."""
    table, found = smooth(), board()
    claims, single = memory(), f"σ = {BASE:g}{BOTH}"
    cut = claims["radius"] != claims["alone"]
    lost = found.loc[f"{SMOOTH}{FALSE}{BOTH}"] - found.loc[f"{SMOOTH}{BOTH}"]
    return {
        "peers": curve_table(found, ROWS),
        "peers_images": str(len(table)),
        "peers_error": f"{50 / np.sqrt(len(table)):.1f}",
        "peers_rate": f"{RATE:g}",
        "peers_k": str(table["k"].iloc[0]),
        "peers_sigma": {
            "least": f"{table['sigma'].min():.3f}",
            "most": f"{table['sigma'].max():.3f}",
        },
        "peers_distance": {
            "least": f"{table['distance'].min():.1f}",
            "most": f"{table['distance'].max():.1f}",
            "centre": f"{table['centre'].iloc[0]:.1f}",
        },
        "peers_acr": {rule: radius(value) for rule, value in found["acr"].items()},
        "peers_lost": percent(lost["acr"] / found.loc[f"{SMOOTH}{FALSE}{BOTH}", "acr"], 0),
        "peers_below": f"{100 * (found.loc[single] - found.loc[f'{SMOOTH}{BOTH}']).drop('acr').max():.1f}",
        "peers_wide_rate": significant(wide_rate(), 2),
        "peers_curse": _curse_table(),
        "peers_left": percent(curse(wide_rate(), DIMS["CIFAR-10, 3×32×32"]), 0),
        "peers_pairs": str(len(_near())),
        "peers_cut": str(int(cut.sum())),
        "peers_memory_images": str(len(claims)),
        "peers_claims": _claims(),
        "peers_published_cost": f"{_published_cost():g}",
        "peers_overhead": {
            arm: significant(_overhead(arm)) for arm in ("dual, router n / 10", "dual, router n")
        },
    }


def smooth() -> pd.DataFrame:
    """The certificates under sigma(x)."""
    (path,) = PEERS.glob("smooth_*.tsv")
    return read_table(path)


def board() -> pd.DataFrame:
    """Certified accuracy of every rule at the radii of the columns, and ACR."""
    return pd.read_csv(PEERS / "board.csv", index_col="rule")


def memory() -> pd.DataFrame:
    """What the system with a memory claims of all images of the shipped tables, in their order."""
    singles = SHIPPED.singles(SIGMAS)
    return remembered_table(singles, away_of(_near(), np.sort(singles[BASE]["idx"].to_numpy())))


def _near() -> pd.DataFrame:
    return pd.read_csv(PEERS / "near.csv")


def wide_rate() -> float:
    """The rate at which sigma(x) goes from .25 to 1 over the distances of the images that were certified."""
    distance = smooth()["distance"]
    return float(np.log(1 / 0.25) / (distance.max() - distance.min()))


def curse(rate: float, dims: int) -> float:
    """The share of the largest radius at σ = 0.5, n draws that all agree, that this rate leaves."""
    low = lower_bound(N, N, ALPHA)
    left, whole = (smooth_sigma_radius(low, 1 - low, BASE, each, dims) for each in (rate, 0.0))
    return float(left / whole)


def _curse_table() -> str:
    distance = smooth()["distance"]
    ends = np.array([distance.min(), distance.max()])
    rows = []
    for rate in (*RATES, wide_rate()):
        level = SmoothSigma(base=BASE, rate=rate, centre=float(ends.mean()))
        span = " to ".join(f"{sigma:.2f}" for sigma in level.at(ends))
        rows.append([significant(rate, 2), span, *(percent(curse(rate, dims), 0) for dims in DIMS.values())])
    return markdown(["rate r", "σ over the images of CIFAR-10", *DIMS], rows)


def gains() -> dict[str, pd.Series]:
    """By how much a rule is above another at AT, relative to that one, on all images that both have."""
    every = pd.read_csv(SYSTEMS / "comparison.csv", index_col="rule")
    single = f"σ = {BASE:g}{BOTH}"
    pairs = {
        "published dual over Jeong and Shin’s cascade, Cohen’s radius": (every, "dual, published", "cascade"),
        "routed dual over the routed cascade, Cohen’s radius": (every, "dual, routed", "cascade, routed"),
        "routed dual over one noise level σ = 0.5, two bounds": (every, f"dual, routed{BOTH}", single),
        "routed dual over smooth σ(x), two bounds": (board(), f"dual, routed{BOTH}", f"{SMOOTH}{BOTH}"),
    }
    return {name: found.loc[a, [*AT]] / found.loc[b, [*AT]] - 1 for name, (found, a, b) in pairs.items()}


def _claims() -> str:
    told = pd.read_csv(PEERS / "published.csv")
    told = told[told["radius"].notna()]
    rows = []
    for source, group in told.groupby("source", sort=False):
        values = group.set_index("radius")["value"]
        rows.append([f"published: {source}", *(f"+{values[float(r)]:g}" for r in AT)])
    rows += [[f"here: {name}", *map(signed, found)] for name, found in gains().items()]
    return markdown(["relative gain in %", *(f"r = {r}" for r in AT)], rows)


def _published_cost() -> float:
    told = pd.read_csv(PEERS / "published.csv").set_index("what")
    return float(told.loc["cost beyond one smoothed classifier, %", "value"])


def _overhead(arm: str) -> float:
    found = pd.read_csv(DATA / "benchmarks" / "overhead.csv")
    row = found[(found["arm"] == arm) & (found["quantity"] == "more than one classifier")]
    return float(row["median"].iloc[0])
