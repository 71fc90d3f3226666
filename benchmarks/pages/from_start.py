"""What docs/results.md says of experts that are trained as a system from the start."""

import numpy as np
import pandas as pd

from benchmarks.from_start import ARMS, LAST
from benchmarks.gpu.certifying import RADII
from benchmarks.pages.taught import TAUGHT
from benchmarks.pages.text import Facts, along, markdown, percent, read_info, signed

__all__ = ["LONGER", "SHORT", "SMALL", "ahead", "arms", "facts", "means"]

AT = [f"{r:g}" for r in RADII]
SMALL = 4  # radii up to 0.75
SHORT, LONGER = "from_start", "from_start_longer"


def arms(name: str = SHORT) -> pd.DataFrame:
    """A row for each arm and for what is judged of it: each level alone, and a cascade."""
    return pd.read_csv(TAUGHT / f"{name}.csv").set_index(["arm", "judged"])


def means(name: str = SHORT) -> "pd.Series[float]":
    """Certified accuracy in the mean over all radii."""
    return arms(name)[AT].mean(axis=1)


def ahead(arm: str, name: str = SHORT) -> "pd.Series[float]":
    """By radius, what the cascade of an arm promises more than that of experts trained each for itself."""
    found = arms(name)[AT]
    return found.loc[(arm, "cascade")] - found.loc[("each for itself", "cascade")]


def _span(these: "pd.Series[float]") -> str:
    return f"{signed(float(these.min()))} to {signed(float(these.max()))}"


def facts() -> Facts:
    """Placeholders of the page."""
    record = read_info(TAUGHT / "from_start.csv")
    epochs = arms()["epochs"].groupby(level="arm").first()
    shown = [
        [arm if judged == "σ = 1" else "", judged, *(percent(float(row[r])) for r in AT),
         percent(float(row[AT].mean()))]
        for (arm, judged), row in arms().iterrows()
    ]  # fmt: skip
    longer = [
        [arm, *map(percent, arms(LONGER).loc[(arm, "cascade")][AT]), percent(float(mean))]
        for arm, mean in means(LONGER).xs("cascade", level="judged").items()
    ]
    return {
        "from_start_longer": markdown(["cascade of", *along(AT), "mean"], longer),
        "from_start_longer_seconds": f"{read_info(TAUGHT / f'{LONGER}.csv')['seconds']:,.0f}",
        "from_start_mean": {arm: percent(float(means()[arm, "cascade"])) for arm in ARMS},
        "from_start_small": _span(ahead("one trunk")[:SMALL]),
        "from_start_large": _span(ahead("one trunk")[SMALL:]),
        "from_start": markdown(["arm", "judged", *along(AT), "mean"], shown),
        "from_start_seconds": f"{record['seconds']:g}",
        "from_start_draws": f"{record['draws']:g}",
        "from_start_images": f"{record['images']:,}",
        "from_start_error": f"{50 / np.sqrt(record['images']):.1f}",
        "from_start_last": f"{LAST:g}",
        "from_start_epochs": {arm: f"{epochs[arm]:.1f}" for arm in ARMS},
    }
