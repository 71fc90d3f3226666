"""What docs/results.md says of budgets per pixel: PART beside its controls."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from benchmarks.pages.text import DATA, Facts, markdown, percent
from dualrs_lab.attacks import read_evaluation

__all__ = ["PIXELS", "facts"]

PIXELS = DATA / "cifar10_pixels"
KINDS = ("natural_all", "pgd", "mma")
ARMS = {
    "at": "AT: 8 for all pixels",
    "part7": "PART: 8 for the top 30 % of pixels, 7 elsewhere",
    "uniform7": "uniform, equal mean",
    "part4": "PART: 8 for the top 30 %, 4 elsewhere",
    "uniform4": "uniform, equal mean",
    "random4": "random pixels, as many",
    "others4": "the masks of other images",
}
MORE = {
    "trades": "TRADES",
    "trades_part4": "TRADES with PART, 4 elsewhere",
    "trades_uniform4": "TRADES, uniform, equal mean",
    "mart": "MART",
    "mart_part4": "MART with PART, 4 elsewhere",
    "mart_uniform4": "MART, uniform, equal mean",
    "part5": "PART, 5 elsewhere",
    "uniform5": "uniform, equal mean",
    "part6": "PART, 6 elsewhere",
    "uniform6": "uniform, equal mean",
}


def facts() -> Facts:
    """Placeholders of the page."""
    arms = pd.read_csv(PIXELS / "arms.csv")
    natural = arms.groupby("arm")["natural_all"].mean()
    gains = {arm: natural[arm] - natural["at"] for arm in ("part4", "uniform4", "random4", "others4")}
    auto = pd.read_csv(PIXELS / "autoattack.csv").set_index("arm")
    images, share = auto["images"].iloc[0], auto["autoattack"].mean()
    below, part7 = _below_the_line(arms), _mma_of_part_7(arms["seed"].unique())
    return {
        "arms": _arms(arms),
        "more": _more(),
        "gains": {arm: percent(gain / gains["part4"], 0) for arm, gain in gains.items()},
        "below": {"least": percent(below.min()), "most": percent(below.max())},
        "part7_mma": f"{percent(part7.mean())} ± {percent(part7.sem())}",
        "auto": {arm: percent(value) for arm, value in auto["autoattack"].items()},
        "auto_images": str(images),
        "auto_error": percent(np.sqrt(share * (1 - share) / images), 0),
    }


def _arms(arms: pd.DataFrame) -> str:
    by_arm = arms.groupby("arm")
    mean, spread, budget = by_arm[[*KINDS]].mean(), by_arm[[*KINDS]].std(), by_arm["budget"].mean()
    rows = [
        [label, f"{budget[arm]:.1f}"]
        + [f"{percent(mean.loc[arm, kind])} ± {percent(spread.loc[arm, kind])}" for kind in KINDS]
        for arm, label in ARMS.items()
    ]
    return markdown(["trained with", "mean budget (of 255)", "natural", "PGD-20", "MMA"], rows)


def _more() -> str:
    found = pd.read_csv(PIXELS / "more.csv").set_index("arm")
    rows = [[label, *(percent(found.loc[arm, kind]) for kind in KINDS)] for arm, label in MORE.items()]
    return markdown(["one seed", "natural", "PGD-20", "MMA"], rows)


def _below_the_line(arms: pd.DataFrame) -> "pd.Series[float]":
    # By arm with an uneven budget and seed: how far below the line from AT to the uniform budget it lies.
    natural, pgd = (arms.pivot(index="seed", columns="arm", values=what) for what in ("natural_all", "pgd"))
    uneven = ["part4", "random4", "others4"]
    share = natural[uneven].sub(natural["at"], axis=0).div(natural["uniform4"] - natural["at"], axis=0)
    line = share.mul(pgd["uniform4"] - pgd["at"], axis=0).add(pgd["at"], axis=0)
    return (line - pgd[uneven]).stack()


def _mma_of_part_7(seeds: Iterable[int]) -> "pd.Series[float]":
    # By image: the share of seeds in which PART withstands MMA, less that of its uniform control.
    def withstood(arm: str) -> pd.DataFrame:
        tables = [read_evaluation(PIXELS / f"{arm}_seed{seed}_attacked.tsv") for seed in seeds]
        return pd.concat([table.set_index("idx")["mma"].astype(float) for table in tables], axis=1)

    return withstood("part7").mean(axis=1) - withstood("uniform7").mean(axis=1)
