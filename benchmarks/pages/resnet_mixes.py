"""What docs/results.md says of mixes at ResNet-18 size, beside what such mixes should show."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks.gpu.adversarial import WEIGHTS
from benchmarks.pages.resnet import ADVERSARIAL, above, answers, error
from benchmarks.pages.text import Facts, markdown, percent, read_info
from dualrs_lab.attacks import read_evaluation
from dualrs_lab.mixing import by_lot, margin_groups

__all__ = [
    "Aim",
    "aims",
    "aims_count",
    "aims_table",
    "answered",
    "by_weight",
    "curve_aims",
    "facts",
    "in_words",
    "lifted",
    "margin_aims",
    "mix_table",
    "nuts_above_fixed",
    "nuts_in_words",
    "systems",
    "transferred",
]

KINDS = ["natural", "on_accurate", "on_robust", "end_to_end", "worst"]
ENDS = {"weight 0": "0: g alone", "weight 1": "1: h alone"}
INF = float("inf")
Floats = NDArray[np.float64]


class Aim(NamedTuple):
    """What a pair of networks should show, and what this one does; judged at the digits shown."""

    wanted: str
    low: float  # the least value that will do
    high: float
    here: float
    digits: int

    @property
    def holds(self) -> bool:
        """Whether the value, as it is shown, is wanted."""
        return self.low <= round(self.here, self.digits) <= self.high


def facts() -> Facts:
    """Placeholders of the page."""
    found, heights, moved, listed = systems(), lifted(), transferred(), aims()
    return {
        "resnet_mixes": mix_table(found, heights),
        "resnet_transferred": _transferred_table(moved),
        "resnet_mix_images": f"{int(found['images'].max()):,}",
        "resnet_mix_seconds": f"{read_info(ADVERSARIAL / 'adversarial_mixes.json')['seconds']:.0f}",
        "resnet_mix": in_words(found, heights) | {"half": percent(moved["clean"][0.5] - moved["clean"][0.0])},
        "resnet_nuts": nuts_in_words(),
        "resnet_aims": aims_table(listed),
        "resnet_aims_count": aims_count(listed),
    }


def systems(folder: Path = ADVERSARIAL) -> pd.DataFrame:
    """By system: accuracies of each mix under every attack."""
    return pd.read_csv(folder / "systems.csv").set_index("system")


def by_weight(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of `systems` that are mixes of a fixed weight, by that weight."""
    return found[found.index.str.startswith("weight")].set_index("weight")


@cache
def answered(folder: Path = ADVERSARIAL) -> dict[str, pd.DataFrame]:
    """By system: whether each image is right (1 or 0) under every attack."""
    table = read_evaluation(folder / "systems.tsv")
    return {
        str(system): rows.set_index("idx")[KINDS].astype(float) for system, rows in table.groupby("system")
    }


def lifted(folder: Path = ADVERSARIAL) -> dict[str, "pd.Series[float]"]:
    """By system and image: how far its worst case lies above the line of choosing g or h by lot."""
    right = answered(folder)
    return {name: above(rows, right["weight 0"], right["weight 1"], "worst") for name, rows in right.items()}


def _probabilities(logits: NDArray[np.float16]) -> Floats:
    odds = np.exp(logits.astype(float) - logits.max(1, keepdims=True))
    shares: Floats = odds / odds.sum(1, keepdims=True)
    return shares


def transferred() -> pd.DataFrame:
    """By weight: accuracy of the mix on all test images, as they are and as attacked against g or h alone."""
    kept = load_file(ADVERSARIAL / "logits.safetensors")
    rows = {}
    for what in ("clean", "by_g", "by_h"):
        g, h = (_probabilities(kept[f"{network}_{what}"]) for network in "gh")
        rows[what] = {a: float((((1 - a) * g + a * h).argmax(1) == kept["labels"]).mean()) for a in WEIGHTS}
    return pd.DataFrame(rows)


def in_words(found: pd.DataFrame, heights: Mapping[str, "pd.Series[float]"]) -> dict[str, str]:
    """What is said of mixes with fixed weights, from the rows of `mix_table`."""
    fixed = found[found.index.str.startswith("weight")]
    between = fixed[(fixed["weight"] > 0.5) & (fixed["weight"] < 1)]
    more = between[between["natural"] > fixed["natural"].iloc[0]]  # than g, so beyond the end of the line
    line = between.drop(more.index)
    above_line = [heights[str(name)] for name in line.index]
    return {
        "first": f"{line['weight'].min():g}",
        "last": f"{line['weight'].max():g}",
        "above": f"{percent(min(map(np.mean, above_line)))} to {percent(max(map(np.mean, above_line)))}",
        "errors": f"{min(one.mean() / float(one.sem()) for one in above_line):.0f}",
        "more": " and ".join(f"{a:g}" for a in more["weight"]),
        "more worst": " and ".join(map(percent, more["worst"])),
        "times": f"{(fixed['worst'] / by_lot(fixed))['weight 0.8']:.1f}",
    }


def nuts_in_words(folder: Path = ADVERSARIAL) -> dict[str, str]:
    """What is said of MixedNUTS: how far above both lines, and by how many images it was fitted."""
    return {
        "above": error(lifted(folder)["MixedNUTS"], 1),
        "fixed": error(nuts_above_fixed(folder), 1),
        "images": f"{read_info(folder / 'nuts.json')['images']:,}",
    }


def nuts_above_fixed(folder: Path = ADVERSARIAL) -> "pd.Series[float]":
    """By image, how far MixedNUTS lies above the line between the fixed weights beside it."""
    right = answered(folder)
    return above(right["MixedNUTS"], right["weight 1"], right["weight 0.9"], "worst")


def mix_table(found: pd.DataFrame, heights: Mapping[str, "pd.Series[float]"]) -> str:
    """A row for each mix: accuracies, and how far its worst case lies above the line of lots."""
    rows = []
    for system, row in found.iterrows():
        name = str(system)
        beyond = row["natural"] > found["natural"]["weight 0"]
        height = "" if name in ENDS else "–" if beyond else error(heights[name], 1)
        label = ENDS.get(name, name.removeprefix("weight "))
        rows.append([label, *(percent(row[kind]) for kind in KINDS), height])
    header = ["weight of h", "natural", "attack on g", "attack on h", "attack on the mix", "worst of all"]
    return markdown([*header, "above the line"], rows)


def _transferred_table(moved: pd.DataFrame) -> str:
    rows = [[f"{a:g}", *map(percent, row)] for a, row in zip(moved.index, moved.to_numpy(), strict=True)]
    return markdown(["weight of h", "natural", "PGD-20 against g", "PGD-20 against h"], rows)


# What such a pair should show.


def aims() -> dict[str, Aim]:
    """By what is measured; the aims are those of usual recipes and of the pairs of Bai et al. (2024)."""
    return _networks() | curve_aims(systems(), transferred()["clean"]) | margin_aims() | _sound()


def _networks() -> dict[str, Aim]:
    g, h = answers("accurate").mean(), answers("at").mean()
    return {
        "g: natural, %": Aim("at least 93", 93, INF, 100 * g["natural"], 1),
        "h: natural, %": Aim("80 to 84", 80, 84, 100 * h["natural"], 1),
        "h: PGD-20, %": Aim("48 to 52", 48, 52, 100 * h["pgd"], 1),
    }


def curve_aims(found: pd.DataFrame, clean: "pd.Series[float]") -> dict[str, Aim]:
    """What the curve over the weights should show; `clean` is natural accuracy by weight."""
    fixed = by_weight(found)
    worst, natural = fixed["worst"], fixed["natural"]
    kept = worst / worst[1.0]
    by_then = np.interp(np.interp(0.8, kept, kept.index), natural.index, natural)  # both ends of a line
    gone = (by_then - natural[1.0]) / (1 - natural[1.0])
    drift = (clean[clean.index <= 0.5] - clean[0.0]).abs().max()
    rise = clean[clean.index >= 0.5].diff().max()
    return {
        "natural up to weight 0.5, apart from g, points": Aim("at most 0.5", 0, 0.5, 100 * drift, 1),
        "natural beyond, largest rise from weight to weight, points": Aim("0", -INF, 0, 100 * rise, 1),
        "worst case up to weight 0.45, %": Aim("at most 6", 0, 6, 100 * worst[worst.index <= 0.45].max(), 1),
        "worst case at 0.6, % of that of h": Aim("at least 60", 60, INF, 100 * kept[0.6], 0),
        "worst case at 0.8, % of that of h": Aim("at least 90", 90, INF, 100 * kept[0.8], 0),
        "worst case at 0.8, times choosing by lot": Aim(
            "at least 1.8", 1.8, INF, worst[0.8] / by_lot(fixed)[0.8], 1
        ),
        "clean errors of h that are gone where 80 % of its worst case is left, %": Aim(
            "at least 50", 50, INF, 100 * gone, 0
        ),
    }


def margin_aims(folder: Path = ADVERSARIAL) -> dict[str, Aim]:
    """What the margins of both networks should show, for the mix to be robust."""
    groups = margin_groups(pd.read_csv(folder / "margins.csv"))
    mean = {name: float(values.mean()) for name, values in groups.items()}
    sure = mean["h, attacked and right"] - mean["h, clean and wrong"]
    return {
        "margin of h, attacked and right, less clean and wrong": Aim("at least 0.2", 0.2, INF, sure, 2),
        "margin of g, attacked and wrong": Aim("at least 0.95", 0.95, INF, mean["g, attacked and wrong"], 2),
    }


def _sound() -> dict[str, Aim]:
    right = answered()
    otherwise = 0
    for system, arm in (("weight 0", "accurate"), ("weight 1", "at")):
        mixed, alone = right[system]["natural"], answers(arm)["natural"]
        otherwise += int((mixed != alone.loc[mixed.index]).sum())
    broken = sum(int((rows["worst"] > rows.min(axis=1)).sum()) for rows in right.values())
    return {
        "images that weights 0 and 1 answer otherwise than g and h": Aim("0", 0, 0, otherwise, 0),
        "answers that are right in the worst case and wrong otherwise": Aim("0", 0, 0, broken, 0),
    }


def aims_count(found: Mapping[str, Aim]) -> dict[str, str]:
    """How many aims there are, and how many hold."""
    return {"held": str(sum(aim.holds for aim in found.values())), "all": str(len(found))}


def aims_table(found: Mapping[str, Aim]) -> str:
    """A row for each aim: what is wanted, what is here, and whether that will do."""
    rows = [
        [name, aim.wanted, f"{aim.here:.{aim.digits}f}", "yes" if aim.holds else "**no**"]
        for name, aim in found.items()
    ]
    return markdown(["", "wanted", "here", "holds"], rows)
