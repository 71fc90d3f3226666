"""What docs/speed.md says: what a certificate, a system and a mask cost, as the benchmarks measured it."""

from typing import Any

import numpy as np
import pandas as pd

from benchmarks.pages.certificates import SYSTEMS, shipped
from benchmarks.pages.text import DATA, Facts, markdown, percent, read_info, significant
from benchmarks.quality import ALPHA, SIGMAS
from dualrs_lab.cascade import Cascade, first_to_accept, steps
from dualrs_lab.evidence import join_votes

__all__ = ["SOURCES", "Bench", "facts", "machine", "thinned_cascade"]


def facts() -> Facts:
    """Placeholders of the page."""
    return {
        **_certification(),
        **_half(),
        **_int8(),
        **_overhead(),
        **_pixel_cost(),
        **_training(),
        "sources": _sources(),
    }


SOURCES = {
    "certify_cpu": "certify",
    "certify_cpu_half": "certify",
    "certify_cpu_int8": "certify",
    "gpu_speed": "gpu.speed",
    "gpu_checks": "gpu.checks",
    "overhead": "overhead",
    "pixel_cost": "pixel_cost",
    "training": "training",
    "training_bfloat16": "training",
    "panels": "panels",
    "build": "build",
}
"""Tables of speed under data/benchmarks and the command that makes each."""


def _sources() -> str:
    """Which table each number is read from, on which machine it was made and by which code."""
    rows = []
    for called, command in SOURCES.items():
        # what the GPU gave in one go has one record
        info = read_info(DATA / "benchmarks" / f"{'gpu_checks' if called == 'gpu_speed' else called}.json")
        made = info.get("provenance", info)
        device = made["cpu"] if made["device_name"] == "cpu" else made["device_name"]
        file = f"[`{called}.csv`](../data/benchmarks/{called}.csv)"
        torch, commit = made["versions"]["torch"], made["commit"].removesuffix("+dirty")[:7]
        rows.append(
            [file, f"`python -m benchmarks.{command}`", f"{device}, {made['cores']} cores", torch, commit]
        )
    return markdown(["table", "command", "machine", "PyTorch", "commit"], rows)


class Bench:
    """What one benchmark measured, by arm and the beginning of a quantity: all of it, or one part."""

    def __init__(self, called: str, part: str = "") -> None:
        rows = pd.read_csv(DATA / "benchmarks" / f"{called}.csv")
        self.rows = rows[rows["part"] == part] if part else rows
        self.info = read_info(DATA / "benchmarks" / f"{called}.json")

    def row(self, arm: str, quantity: str, at: float | None = None) -> "pd.Series[float]":
        """The only row that fits."""
        fits = (self.rows["arm"] == arm) & self.rows["quantity"].str.startswith(quantity)
        (found,) = self.rows[fits if at is None else fits & (self.rows["at"] == at)].index
        return self.rows.loc[found]

    def median(self, arm: str, quantity: str, at: float | None = None) -> float:
        """Over the rounds."""
        return float(self.row(arm, quantity, at)["median"])

    def spread(self, arm: str, quantity: str, unit: str = "") -> str:
        """Median and quartiles, whole: "200 % [197, 211]"."""
        row = self.row(arm, quantity)
        return f"{row['median']:.0f}{unit} [{row['q1']:.0f}, {row['q3']:.0f}]"


def _certification() -> Facts:
    bench = Bench("certify_cpu")
    options, made = bench.info["options"], bench.info["provenance"]
    least, most = (bound(options["memory_draws"]) for bound in (min, max))
    return {
        "per_draw": _per_draw(bench),
        "per_image": _per_image(bench),
        "peak_share": f"{bench.median('+ compiled', 'of the matmul peak'):.0f}",
        "peak": f"{bench.median('machine', 'matmul bfloat16'):.0f}",
        "images": str(options["images"]),
        "compared": str(options["compare"]),
        "n": f"{options['n']:,}",
        "rounds": str(options["rounds"]),
        "alpha": f"{options['alpha']:g}",
        "torch": ".".join(made["versions"]["torch"].split(".")[:2]),
        "machine": f"{made['cores']} cores of an {made['cpu']}",
        "disagreement": f"{bench.median('+ compiled', 'of 10,000 votes'):.1f}",
        "memory_draws": {"least": f"{least:,}", "most": f"{most:,}"},
        "memory": {
            arm: f"{bench.median(arm, 'peak memory', most) - bench.median(arm, 'peak memory', least):,.0f}"
            for arm in ("ours", "ART")
        },
    }


def _per_draw(bench: Bench) -> str:
    labels = {
        "textbook": "textbook loop (float32, one image at a time, votes counted in Python)",
        "ART": f"Adversarial Robustness Toolbox {bench.info['provenance']['toolbox']}",
        "float32, as it is": "the engine, float32",
        "+ channels last": "+ channels last",
        "+ BatchNorm folded": "+ BatchNorm folded",
        "+ bfloat16": "+ bfloat16",
        "+ compiled": "+ compiled, weights frozen",
    }
    rows = [
        [
            label,
            significant(bench.median(arm, "time per draw")),
            significant(bench.median(arm, "textbook / this"), 2),
        ]
        for arm, label in labels.items()
    ]
    return markdown(["", "µs per draw", "textbook / this"], rows)


def _per_image(bench: Bench) -> str:
    labels = {
        "all draws": "all draws",
        "at radii": "until these radii are settled (`--at-radii`)",
        "input-specific": "as its own radius needs (`--loss 0.05`)",
    }
    draws = {arm: significant(bench.median(arm, "mean draws")) for arm in labels}
    textbook = significant(bench.median("textbook", "time per image, in full"))
    rows = [["textbook, in full", draws["all draws"], textbook, "1", "–"]]
    for arm, label in labels.items():
        seconds, times = bench.median(arm, "time per image"), bench.median(arm, "textbook (per draw x n)")
        lost = bench.row(arm, "claims lost")
        count = f"{lost['median']:.0f} {lost['unit']}" if lost["median"] else "0"
        rows.append([label, draws[arm], significant(seconds), significant(times, 2), count])
    radii = ", ".join(f"{r:g}" for r in bench.info["options"]["radii"])
    header = ["", "draws per image", "seconds per image", "times faster than the textbook"]
    return markdown([*header, f"claims lost at r = {radii}"], rows)


def _half() -> Facts:
    bench, times = Bench("certify_cpu_half"), "textbook (per draw x n)"
    accuracy = bench.rows[bench.rows["quantity"].str.startswith("certified accuracy, all")]
    by_arm = accuracy.pivot(index="at", columns="arm", values="median")
    lost = by_arm["at radii"] - by_arm["at radii, n/2"]
    return {
        "half_images": str(bench.info["options"]["images"]),
        "half_all": bench.spread("at radii", times),
        "half": bench.spread("at radii, n/2", times),
        "half_lost": f"{lost.min():.0f} to {lost.max():.1f}",
    }


def _overhead() -> Facts:
    bench = Bench("overhead")
    labels = {
        "dual, router n": "dual system, as many draws for each cut of the router as for an expert",
        "dual, router n / 10": "dual system, a tenth of them for each cut",
        "cascade, others n": "cascade, as many draws for each expert",
        "cascade, others n / 10": "cascade, a tenth of them for those that do not answer",
    }
    rows = [
        [
            label,
            bench.spread(arm, "more than one classifier", " %"),
            significant(bench.median(arm, "mean draws")),
        ]
        for arm, label in labels.items()
    ]
    whole = pd.read_csv(SYSTEMS / "comparison.csv", index_col="rule").loc["cascade, routed", "acr"]
    return {
        "overhead": markdown(["", "more time than σ = 0.5 alone", "draws per image"], rows),
        "overhead_rounds": str(bench.info["rounds"]),
        "overhead_images": str(bench.info["images"]),
        "overhead_n": f"{bench.info['n']:,}",
        "thinned": percent(1 - thinned_cascade(0.1) / whole, 0),
    }


def thinned_cascade(share: float, *, seed: int = 0) -> float:
    """ACR of the shipped cascade if experts that do not answer had this share of their recorded votes."""
    cascade, rng = Cascade(SIGMAS[::-1]), np.random.default_rng(seed)
    joined = join_votes({sigma: shipped(sigma) for sigma in SIGMAS}, cascade.sigmas)
    expert, y = first_to_accept(joined.selection, cascade)
    votes = joined.votes.copy()
    for i, j in zip(*np.nonzero(np.arange(len(SIGMAS)) != expert[:, None]), strict=True):
        votes[i, j] = rng.multivariate_hypergeometric(votes[i, j], round(share * votes[i, j].sum()))
    reach = steps(votes, np.maximum(y, 0), cascade=cascade, alpha=ALPHA).radius
    return float(np.where(y == joined.label, np.maximum(reach, 0), 0).mean())


def _int8() -> Facts:
    """What a quantised copy adds where the processor multiplies bytes, and what the noise still costs."""
    bench = Bench("certify_cpu_int8")
    made, drawn = bench.info["provenance"], bench.median("fast path", "noise")
    arms = ("+ bfloat16", "+ compiled", "+ int8")
    return {
        "int8_machine": machine(made),
        "int8_times": {arm: significant(bench.median(arm, "textbook / this"), 2) for arm in arms},
        "int8_peak": f"{bench.median('+ compiled', 'of the matmul peak'):.0f}",
        "int8_disagreement": f"{bench.median('+ int8', 'of 10,000 votes'):.1f}",
        "noise_alone": percent(drawn / (drawn + bench.median("fast path", "add to count, as sampled")), 0),
    }


def machine(made: dict[str, Any]) -> str:
    used = f"one of {made['cores']} cores" if made["threads"] == 1 else f"{made['cores']} cores"
    return f"{used} of an {made['cpu']} with {made['instructions']}"


def _training() -> Facts:
    """What a training step costs against loops as published, with the levers that `train` does not use."""
    bench, other = Bench("training_bfloat16"), Bench("training")
    rows = []
    for arm in dict.fromkeys(bench.rows["arm"]):
        cells = [_spread(bench.row(arm, quantity)) for quantity in ("time per batch", "as published")]
        known = bench.rows[(bench.rows["arm"] == arm) & (bench.rows["quantity"] == "in convolutions")]
        rows.append([str(arm), *cells, "" if known.empty else f"{known['median'].item():.0f}"])
    kinds = ("PGD-2", "PGD-10")

    def times(bench: Bench, arm: str) -> dict[str, str]:
        return {kind: f"{bench.median(f'{kind}: {arm}', 'as published'):.1f}" for kind in kinds}

    trained = "+ bfloat16, as train does"
    shares = [bench.median(f"{kind}: {trained}", "in convolutions") for kind in kinds]
    return {
        "training": markdown(["", "seconds per batch", "as published / this", "in convolutions, %"], rows),
        "training_rounds": str(bench.info["rounds"]),
        "training_batch": str(bench.info["batch"]),
        "training_machine": machine(bench.info["provenance"]),
        "training_other_machine": machine(other.info["provenance"]),
        "training_times": times(bench, trained),
        "training_folded": times(bench, "attack on a folded copy"),
        "training_other": times(other, "+ float32, as train does"),
        "training_convolutions": f"{min(shares):.0f} to {max(shares):.0f}",
        "training_bound": f"{max(100 / share for share in shares):.1f}",
    }


def _spread(row: "pd.Series[float]") -> str:
    return f"{row['median']:.3g} [{row['q1']:.3g}, {row['q3']:.3g}]"


def _pixel_cost() -> Facts:
    bench, faster = Bench("pixel_cost"), "times faster than the loop"
    return {
        "mask_step": {
            f"{count} steps": bench.spread(f"AT with pixels, {count} attack steps", "more than without", " %")
            for count in bench.info["steps"]
        },
        "mask_batch": str(bench.info["batch"]),
        "mask_rounds": str(bench.info["rounds"]),
        "mask_training": bench.spread("masks, the same as in training (autocast)", faster),
        "mask_float32": bench.spread("masks, batch in closed form", faster),
    }
