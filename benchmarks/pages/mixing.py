"""What docs/results.md says of mixes of an accurate and a robust classifier."""

import pandas as pd

from benchmarks.pages.certificates import published_log
from benchmarks.pages.pixels import PIXELS
from benchmarks.pages.text import DATA, Facts, along, markdown, millions, percent, read_info
from dualrs_lab.attacks import read_evaluation
from dualrs_lab.evidence import certified_accuracy
from dualrs_lab.mixing import mixed

__all__ = ["MIXING", "facts"]

MIXING = DATA / "cifar10_mixing"
SYSTEMS = {
    "weight 0": "0: g alone",
    **{f"weight {a}": a for a in ("0.5", "0.6", "0.7", "0.8", "0.9")},
    "weight 1": "1: h alone",
    "adaptive 0.5-1": "adaptive, 0.5 to 1",
    "adaptive 0.7-0.99": "adaptive, 0.7 to 0.99",
    "MixedNUTS": "MixedNUTS",
}
CERTIFIED = {
    (1.0, "closed"): "h alone",
    (0.76, "smoothing"): "mix, a = 0.76, theorem 5",
    (0.76, "closed"): "mix, a = 0.76, sharp",
    (0.76, "two-bounds"): "mix, a = 0.76, sharp, two bounds",
}


def facts() -> Facts:
    """Placeholders of the page."""
    found = pd.read_csv(MIXING / "systems.csv").set_index("system")
    margins = pd.read_csv(MIXING / "margins.csv").groupby(["network", "images", "right"])["margin"].mean()
    return {
        **_autoattack(),
        **_published_logs(),
        "mixes": _mixes(found),
        "mix_images": f"{int(found['images'].iloc[0]):,}",
        "by_lot": f"{_times_by_lot(found):.1f}",
        "mix_worst": {system: percent(share) for system, share in found["worst"].items()},
        "paper_kept": _kept_in_the_paper(),
        "margin": f"{margins['robust', 'attacked', 1]:.2f}",
        "head_parameters": millions(MIXING / "head_seed0.safetensors"),
        "nuts_images": f"{read_info(MIXING / 'nuts.json')['images']:,}",
        "certified_mixes": _certified_mixes(),
    }


def _mixes(found: pd.DataFrame) -> str:
    kinds = ("natural", "on_accurate", "on_robust", "end_to_end", "worst")
    rows = []
    for system, label in SYSTEMS.items():
        cells = {kind: percent(found.loc[system, kind]) for kind in (*kinds, "pushed")}
        if cells["pushed"] != cells["end_to_end"]:
            cells["end_to_end"] += f" ({cells['pushed']})"
        rows.append([label, *(cells[kind] for kind in kinds)])
    header = ["weight of h", "natural", "attack on g", "attack on h", "attack on the mix", "worst of all"]
    return markdown(header, rows)


def _times_by_lot(found: pd.DataFrame) -> float:
    # the worst case at weight 0.8 over that of choosing g or h by lot at the same clean accuracy
    clean, worst = found["natural"], found["worst"]
    share = (clean["weight 0"] - clean["weight 0.8"]) / (clean["weight 0"] - clean["weight 1"])
    return float(worst["weight 0.8"] / (share * worst["weight 1"]))


def _kept_in_the_paper() -> dict[str, str]:
    published = pd.read_csv(DATA / "published_robust.csv")
    robust = published[published["family"] == "published mixes of large networks"].set_index("label")[
        "robust"
    ]
    return {label: percent(robust[label] / robust["a = 1"], 0) for label in ("a = 0.6", "a = 0.8")}


def _autoattack() -> Facts:
    found = pd.read_csv(MIXING / "autoattack.csv").set_index("system")
    images = read_evaluation(MIXING / "autoattack.tsv")["idx"].unique()
    alone = read_evaluation(PIXELS / "at_seed0_autoattack.tsv").set_index("idx").loc[images, "autoattack"]
    return {
        "mix_auto": {system: percent(share, 0) for system, share in found["autoattack"].items()},
        "mix_auto_worst": {system: percent(share, 0) for system, share in found["worst"].items()},
        "mix_auto_alone": percent(alone.mean(), 0),
        "mix_auto_images": str(len(images)),
    }


def _certified_mixes() -> str:
    found = pd.read_csv(MIXING / "certified.csv")
    found = found[found["sigma"] == 0.5].set_index(["weight", "form"])
    radii = ["0", "0.25", "0.5", "0.75", "1"]
    rows = [
        [label, *(percent(found.loc[key, what]) for what in ("natural", *radii))]
        for key, label in CERTIFIED.items()
    ]
    return markdown(["", "natural", *along(radii)], rows)


def _published_logs() -> Facts:
    mixes = {
        form: mixed(published_log(0.5), 0.76, form=form, rule="cohen", sigma=0.5)
        for form in ("closed", "smoothing")
    }
    return {
        f"logs_{form}": {f"r = {r:g}": percent(float(certified_accuracy(table, r))) for r in (0.5, 1.0)}
        for form, table in mixes.items()
    }
