"""What docs/speed.md says of a GPU: what a draw and a certified image cost there, and how copies vote."""

import re
from typing import NamedTuple

import pandas as pd

from benchmarks.pages.larger import WIDE
from benchmarks.pages.speed import Bench
from benchmarks.pages.text import DATA, Facts, markdown, percent, read_info, significant

__all__ = ["Sampled", "facts", "sampled"]

FAST, DEEP = "per_draw", "per_draw, resnet110"
PEAK, TIMES = "of the matmul peak", "textbook / this"
STEPS = {
    "textbook": "textbook loop (passes of 400)",
    "textbook, passes of 2,000": "textbook loop, passes of 2,000",
    "float32, as it is": "the engine, float32",
    "+ channels last": "+ channels last",
    "+ BatchNorm folded": "+ BatchNorm folded",
    "+ bfloat16": "+ bfloat16",
    "+ CUDA graph": "+ CUDA graph",
    "+ compiled": "+ compiled, without a graph",
    "+ compiled, CUDA graph": "+ compiled, CUDA graph",
}


class Sampled(NamedTuple):
    """Operations a draw, and the share of the best matrix product at which they were done."""

    operations: float
    share: float


def facts() -> Facts:
    """Placeholders of the page."""
    return {**_draws(), **_images(), **_checks()}


def sampled() -> dict[str, Sampled]:
    """How quickly the larger experts and `fast_narrow` were sampled, both in bfloat16 by CUDA graphs."""
    machine, steps = Bench("gpu_speed", "machine").rows, read_info(WIDE / "experts.json")["steps"]
    said = (
        re.search(r"sampling with .* (\d+) votes a second, ([\d.]+) TFLOP/s", step["step"]) for step in steps
    )
    (found,) = filter(None, said)
    peak = machine.loc[machine["quantity"] == "matmul bfloat16", "median"].max() * 1e9
    done = machine.loc[machine["quantity"] == "operations per draw", "median"].iloc[0] * 1e6
    taken = Bench("gpu_speed", "split").median("fast path", "add to count, as sampled") / 1e6
    wide = float(found[2]) * 1e12
    return {
        "wide": Sampled(operations=wide / float(found[1]), share=wide / peak),
        "fast": Sampled(operations=done, share=done / taken / peak),
    }


def _draws() -> Facts:
    benches = {part: Bench("gpu_speed", part) for part in (FAST, DEEP)}
    best = {part: _quickest(bench) for part, bench in benches.items()}
    machine, split = (Bench("gpu_speed", part) for part in ("machine", "split"))
    done = machine.rows[machine.rows["quantity"] == "operations per draw"]["median"]
    taken = split.rows[split.rows["arm"] == "fast path"].set_index("quantity")["median"]
    rest = taken[["noise", "add", "count"]].sum()
    by = {"fast": FAST, "deep": DEEP}
    return {
        "gpu_per_draw": _per_draw(benches),
        "gpu_times": {key: _ratio(benches[part], best[part]) for key, part in by.items()},
        "gpu_peak": {key: f"{benches[part].median(best[part], PEAK):.0f}" for key, part in by.items()},
        "gpu_copy": {
            key: f"{benches[part].median(best[part], 'of the copy bandwidth'):.0f}"
            for key, part in by.items()
        },
        "gpu_textbook": significant(benches[FAST].median("textbook", "time per draw"), 2),
        "gpu_rounds": {key: str(benches[part].row("textbook", TIMES)["values"]) for key, part in by.items()},
        "gpu_flops": {key: f"{value:.0f}" for key, value in zip(by, done, strict=True)},
        "gpu_rest": percent(rest / (rest + taken["network"]), 0),
        "gpu_wide_flops": f"{sampled()['wide'].operations / 1e6:.0f}",
        "gpu_sampled": {key: percent(found.share, 0) for key, found in sampled().items()},
    }


def _quickest(bench: Bench) -> str:
    timed = bench.rows[bench.rows["quantity"] == "time per draw"].set_index("arm")["median"]
    return str(timed.idxmin())


def _ratio(bench: Bench, arm: str) -> str:
    row = bench.row(arm, TIMES)
    return f"{row['median']:.1f} [{row['q1']:.1f}, {row['q3']:.1f}]"


def _per_draw(benches: dict[str, Bench]) -> str:
    rows = []
    for arm, label in STEPS.items():
        cells = [label]
        for bench in benches.values():
            if arm in set(bench.rows["arm"]):
                share = f"{bench.median(arm, PEAK):.1f} %"
                cells += [significant(bench.median(arm, "time per draw")), _ratio(bench, arm), share]
            else:
                cells += ["–"] * 3
        rows.append(cells)
    header = [
        f"{name}{what}"
        for name in ("`fast_narrow`, ", "ResNet-110, ")
        for what in ("µs per draw", TIMES, "of peak")
    ]
    return markdown(["", *header], rows)


def _images() -> Facts:
    bench, stops = (
        Bench("gpu_speed", "per_image"),
        {
            "all draws": "all draws",
            "at radii": "until these radii are settled",
            "at radii, n/2": "the same, with at most n/2 draws",
            "input-specific": "as its own radius needs (`--loss 0.05`)",
        },
    )
    scaled, whole = (
        bench.median("textbook", f"time per image{how}") for how in (" (per draw x n)", ", in full")
    )
    rows = [["textbook, per draw × n", "", significant(scaled), "1", "–"]]
    for arm, label in stops.items():
        seconds, times = bench.median(arm, "time per image"), bench.median(arm, "textbook (per draw x n)")
        lost = bench.row(arm, "claims lost")
        count = f"{lost['median']:.0f} {lost['unit']}"
        rows.append(
            [
                label,
                significant(bench.median(arm, "mean draws")),
                significant(seconds),
                significant(times, 2),
                count,
            ]
        )
    radii = sorted(bench.rows["at"].dropna().unique())
    header = ["", "draws per image", "seconds per image", "times faster than the textbook"]
    return {
        "gpu_per_image": markdown(
            [*header, f"claims lost at r = {', '.join(f'{r:g}' for r in radii)}"], rows
        ),
        "gpu_images": str(bench.row("at radii", "draws per image")["values"]),
        "gpu_image_rounds": str(bench.row("all draws", "time per image")["values"]),
        "gpu_scaled": significant(scaled, 2),
        "gpu_whole": significant(whole, 2),
        "gpu_whole_times": {
            arm: significant(whole / bench.median(arm, "time per image"), 2) for arm in stops
        },
    }


def _checks() -> Facts:
    votes = pd.read_csv(DATA / "benchmarks" / "gpu_disagreement.csv")
    by = votes.pivot(index="copy", columns="sigma", values="otherwise_percent")
    labels = {arm: label for arm, label in STEPS.items() if arm in by.index}
    rows = [
        [label, *("–" if pd.isna(share) else f"{share:.2f}" for share in by.loc[arm])]
        for arm, label in labels.items()
    ]
    done, made = (
        pd.read_csv(DATA / "benchmarks" / "gpu_checks.csv"),
        read_info(DATA / "benchmarks" / "gpu_checks.json"),
    )
    passed = done[done["outcome"] == "ok"].groupby("part")["name"]
    return {
        "gpu_disagreement": markdown(["", *(f"σ = {s:g}" for s in by.columns)], rows),
        "gpu_votes": f"{votes['votes'].iloc[0]:,}",
        "gpu_tests": str(passed.count()["tests"]),
        "gpu_machine": made["device_name"],
        "gpu_torch": ".".join(made["versions"]["torch"].split(".")[:2]),
    }
