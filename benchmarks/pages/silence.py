"""What docs/results.md says of cascades whose experts are silent where they are not sure."""

import numpy as np
import pandas as pd

from benchmarks.gpu.certifying import RADII
from benchmarks.pages.larger import published
from benchmarks.pages.taught import TAUGHT
from benchmarks.pages.text import DATA, Facts, markdown, percent, read_info, signed
from benchmarks.silence import ARMS, CONFIDENCES, GOALS, NEAREST, SHOWN
from dualrs_lab.combine import read_image_votes

__all__ = ["facts", "gained", "promised", "tried"]

AT = [f"{r:g}" for r in RADII]
VOTES = TAUGHT / "cifar10_jpeg_wide_start_CAT-RS_graded_votes.safetensors"


def promised() -> pd.DataFrame:
    """A row for each goal and arm: what was chosen by half of the images promises of the other half."""
    return pd.read_csv(TAUGHT / "silence_promised.csv").set_index(["goal", "arm"])[AT]


def gained(goal: str) -> "pd.Series[float]":
    """By radius, what silence promises more than every vote does, for a goal."""
    found = promised()
    return found.loc[(goal, ARMS[0])] - found.loc[(goal, ARMS[1])]


def tried() -> pd.DataFrame:
    """What other ways to silence promised on held-out images."""
    return pd.read_csv(TAUGHT / "silence_tried.csv").set_index("lever")


def facts() -> Facts:
    """Placeholders of the page."""
    known = read_info(VOTES)["identity"]
    beyond = {arm: (promised().loc[(SHOWN, arm)] - _dual())[AT[1:]] for arm in ARMS}
    _, labels, _ = read_image_votes(VOTES, tuple(known["sigmas"]))
    return {
        "silence": _board(),
        "silence_held_out": f"{len(labels):,}",
        "silence_half": f"{len(labels) // 2:,}",
        "silence_error": f"{50 / np.sqrt(len(labels)):.1f}",
        "silence_draws": f"{known['n']:,}",
        "silence_levels": ", ".join(f"{s:g}" for s in CONFIDENCES),
        "silence_gained": markdown(
            ["goal", f"r = {AT[0]}", *AT[1:], "mean"],
            [
                [goal, *map(signed, gained(goal)), signed(float(gained(goal).mean()))]
                for goal in (*GOALS, NEAREST)
            ],
        ),
        "silence_least": {arm: signed(float(each.min())) for arm, each in beyond.items()},
        "silence_where": {arm: str(each.idxmin()) for arm, each in beyond.items()},
        "silence_tried": _tried(),
    }


def _dual() -> "pd.Series[float]":
    found = pd.read_csv(DATA / "published_dual.csv")
    found = found[found["system"] == "Dual RS, fine-tuned"].set_index("radius")["certified_accuracy"]
    return pd.Series({f"{r:g}": float(found[r]) for r in RADII})


def _board() -> str:
    rows = [[f"{goal}: {arm}", *map(percent, curve)] for (goal, arm), curve in promised().iterrows()]  # type: ignore[misc]
    rows.append(["published: Dual RS, fine-tuned", *map(percent, _dual())])
    best = published("CAT-RS", 0.5)
    rows.append(["published: CAT-RS, σ = 0.5, n = 100,000", *(percent(float(best[r])) for r in AT)])
    return markdown(["goal", f"r = {AT[0]}", *AT[1:]], rows)


def _tried() -> str:
    found = tried()
    rows = [
        [str(lever), *map(percent, curve), percent(float(curve.mean()))] for lever, curve in found.iterrows()
    ]
    return markdown(["", f"r = {found.columns[0]}", *found.columns[1:], "mean"], rows)
