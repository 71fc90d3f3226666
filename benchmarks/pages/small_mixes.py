"""What docs/results.md says of a mix of two small networks, which a GPU trained and a CPU attacked."""

from functools import cache

import numpy as np
import pandas as pd

from benchmarks.pages.resnet import ADVERSARIAL, above, answers, error
from benchmarks.pages.resnet_mixes import (
    Aim,
    aims_count,
    aims_table,
    answered,
    by_weight,
    curve_aims,
    in_words,
    lifted,
    margin_aims,
    mix_table,
    nuts_in_words,
    systems,
)
from benchmarks.pages.text import DATA, Facts, millions, percent
from dualrs_lab.attacks import read_evaluation

__all__ = ["SMALL", "WEIGHT", "aims", "alone", "by_lot", "facts", "in_curve", "missed_by_apgd", "mix"]

SMALL = DATA / "cifar10_small_mixes"
WEIGHT = "weight 0.8"  # of h
ROBUST = ADVERSARIAL / "cifar10_jpeg_wide_start_small_at_seed0.safetensors"
KINDS = ["natural", "on_accurate", "on_robust", "end_to_end", "autoattack", "worst"]


@cache
def mix() -> pd.DataFrame:
    """By image, whether the mix is right (1 or 0) under each attack."""
    table = read_evaluation(SMALL / "autoattack.tsv")
    return table[table["system"] == WEIGHT].set_index("idx")[KINDS].astype(float)


@cache
def alone(arm: str) -> pd.DataFrame:
    """The same of one of its networks, as it is and under PGD-20."""
    return answers(arm).loc[mix().index]


def in_curve() -> "pd.Series[float]":
    """By image of `mix`, whether it is right in the worst case of the curve over the weights."""
    return answered(SMALL)[WEIGHT].loc[mix().index, "worst"]


def missed_by_apgd() -> "pd.Series[float]":
    """By image of `mix`: right in the worst case of the curve, less right under AutoAttack."""
    return in_curve() - mix()["autoattack"]


def by_lot() -> "pd.Series[float]":
    """By image, how far AutoAttack leaves the mix above the line of choosing g or h by lot.

    g and h are granted what PGD-20 leaves them, a weaker attack than AutoAttack.
    """
    found = mix()[["natural", "autoattack"]].rename(columns={"autoattack": "pgd"})
    return above(found, alone("small_accurate"), alone("small_at"), "pgd")


def aims() -> dict[str, Aim]:
    """By what is measured: what the curve and the margins of such a pair should show."""
    found = systems(SMALL)
    return curve_aims(found, by_weight(found)["natural"]) | margin_aims(SMALL)


def facts() -> Facts:
    """Placeholders of the page."""
    found, h, curve, listed = mix(), alone("small_at"), systems(SMALL), aims()
    heights = lifted(SMALL)
    return {
        "small_mixes": mix_table(curve, heights),
        "small_mixes_images": f"{int(curve['images'].max()):,}",
        "small_mixes_words": in_words(curve, heights),
        "small_nuts": nuts_in_words(SMALL),
        "small_aims": aims_table(listed),
        "small_aims_count": aims_count(listed),
        "small_mix": {kind: percent(share) for kind, share in found.mean().items()}
        | {
            "parameters": millions(ROBUST, 2),
            "images": f"{len(found):,}",
            "error": f"{50 / np.sqrt(len(found)):.1f}",
            "g natural": percent(alone("small_accurate")["natural"].mean()),
            "h natural": percent(h["natural"].mean()),
            "h pgd": percent(h["pgd"].mean()),
            "kept": percent(found["autoattack"].mean() / h["pgd"].mean(), 0),
            "by lot": error(by_lot(), 1),
            "curve worst": percent(in_curve().mean()),
            "missed": error(missed_by_apgd(), 1),
        },
    }
