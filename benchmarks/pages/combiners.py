"""What docs/results.md says of combiners, and of experts that were trained for one."""

import pandas as pd

from benchmarks.combiners import CHOSEN, DRAWS
from benchmarks.pages.certificates import SHOWN, SYSTEMS, curve_table
from benchmarks.pages.text import Facts, along, markdown, percent, radius, read_info, signed
from benchmarks.quality import BOTH, SIGMAS
from dualrs_lab.combine import read_image_votes

__all__ = ["facts", "trained_board"]


TRAINED = {
    f"σ = 1{BOTH}": "σ = 1, as above",
    "combiner": "learnt combiner, as above",
    **{f"trained alone, σ = {s:g}{BOTH}": f"each for its own radius: σ = {s:g}" for s in SIGMAS},
    "trained alone, combiner as it was": "these experts, the same combiner",
    **{f"trained together, σ = {s:g}{BOTH}": f"through the combiner: σ = {s:g}" for s in SIGMAS},
    "trained together, combiner as it was": "these experts, the same combiner",
    "trained together, combiner": "these experts, a combiner learnt from their votes",
    f"oracle{BOTH}": "oracle of the networks above",
    f"trained together, oracle{BOTH}": "oracle of those trained through the combiner",
}
"""Rows of comparison_combined.csv, all by two bounds."""


def facts() -> Facts:
    """Placeholders of the page."""
    return {**_dial(), **_trained()}


def trained_board() -> pd.DataFrame:
    """Certified accuracy of experts that were trained for one epoch more, one by one and combined."""
    return pd.read_csv(SYSTEMS / "comparison_combined.csv", index_col="rule")


def _trained() -> Facts:
    board = trained_board()
    shown = {rule: label for rule, label in TRAINED.items() if rule in board.index}
    at = [f"{r:g}" for r in SHOWN]
    alone, mixed, through = (
        board.loc[rule, at].astype(float)
        for rule in (f"trained alone, σ = 1{BOTH}", "trained alone, combiner as it was",
                     "trained together, combiner as it was")
    )  # fmt: skip
    return {
        "trained_for_a_combiner": curve_table(board, shown),
        "trained_acr": {rule: radius(value) for rule, value in board["acr"].items()},
        "trained_gain": {f"r{r}": signed(value) for r, value in (mixed - alone).items()},
        "trained_loss": percent(-(mixed - alone).min()),
        "trained_through": {f"r{r}": signed(value) for r, value in (through - mixed).items()},
    }


def _dial() -> Facts:
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
        "combiners": markdown(["weights of radii 0, 0.25, …, 2", *along(at), "ACR"], rows),
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
