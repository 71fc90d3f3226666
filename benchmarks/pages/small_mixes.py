"""What docs/results.md says of mixes of two small networks, which a GPU trained and a CPU attacked."""

import pandas as pd

from benchmarks.pages.resnet import ADVERSARIAL
from benchmarks.pages.resnet_mixes import in_words, lifted, mix_table, systems
from benchmarks.pages.text import DATA, Facts, millions, percent, read_info
from dualrs_lab.mixing import margin_groups

__all__ = ["SMALL", "facts", "kept", "sureness"]

SMALL = DATA / "cifar10_small_mixes"
ROBUST = ADVERSARIAL / "cifar10_jpeg_wide_start_small_at_seed0.safetensors"


def kept(weight: float, large: bool = False) -> float:
    """Which share of the worst case of h a mix keeps."""
    worst = (systems() if large else systems(SMALL))["worst"]
    return float(worst[f"weight {weight:g}"] / worst["weight 1"])


def sureness(large: bool = False) -> float:
    """How much surer h is where it withstands than where it errs, in the mean margin."""
    groups = margin_groups(pd.read_csv((ADVERSARIAL if large else SMALL) / "margins.csv"))
    return float(groups["h, attacked and right"].mean() - groups["h, clean and wrong"].mean())


def facts() -> Facts:
    """Placeholders of the page."""
    found, heights = systems(SMALL), lifted(SMALL)
    return {
        "small_mixes": mix_table(found, heights),
        "small_mix": in_words(found, heights)
        | {
            "parameters": millions(ROBUST, 2),
            "images": f"{int(found['images'].max()):,}",
            "kept": percent(kept(0.8), 0),
            "kept large": percent(kept(0.8, large=True), 0),
            "sure": f"{sureness():.2f}",
            "sure large": f"{sureness(large=True):.2f}",
            "fitted": f"{read_info(SMALL / 'nuts.json')['images']:,}",
        },
    }
