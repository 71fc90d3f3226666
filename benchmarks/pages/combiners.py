"""What docs/results.md says of combiners."""

import pandas as pd

from benchmarks.combiners import CHOSEN, DRAWS
from benchmarks.pages.certificates import SHOWN, SYSTEMS
from benchmarks.pages.text import Facts, markdown, percent, radius, read_info
from benchmarks.quality import BOTH, SIGMAS
from dualrs_lab.combine import read_image_votes

__all__ = ["facts"]


def facts() -> Facts:
    """Placeholders of the page."""
    front = pd.read_csv(SYSTEMS / "combiners.csv", index_col="dial")
    board = pd.read_csv(SYSTEMS / "comparison.csv", index_col="rule")
    at = [f"{r:g}" for r in SHOWN]
    single = board.loc[f"σ = 1{BOTH}"]
    gained = 100 * (front.loc[CHOSEN, at] - single[at]).astype(float)
    rows = [[weights, *(percent(front.loc[name, r]) for r in at), radius(front.loc[name, "acr"])]
            for name, weights in front["weights"].items()]  # fmt: skip
    rows = [["σ = 1 alone", *(percent(single[r]) for r in at), radius(single["acr"])], *rows]
    counts, *_ = read_image_votes(SYSTEMS / "votes_trained.safetensors", SIGMAS)
    return {
        "combiners": markdown(["weights of radii 0, 0.25, …, 2", f"r = {at[0]}", *at[1:], "ACR"], rows),
        "combiner_images": f"{len(counts):,}",
        "combiner_draws": str(DRAWS),
        "combiner_gain": {f"r{r}": f"{value:+.1f}" for r, value in gained.items()},
        "combiner_loss": f"{-gained.min():.1f}",
        "combiner_acr": radius(front.loc[CHOSEN, "acr"]),
        "combiner_weights": str(front.loc[CHOSEN, "weights"]).replace(" ", ", "),
        "combiner_terms": str(1 + _learnt()["combiner"].count("|")),
    }


def _learnt() -> dict[str, str]:
    return read_info(SYSTEMS / f"combiner_{CHOSEN}.json")
