"""What docs/results.md says of denoised smoothing, beside experts that were trained with noise alone."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmarks.gpu.certifying import RADII
from benchmarks.gpu.denoiser import SIGMAS
from benchmarks.gpu.experts import SEED
from benchmarks.pages.certificates import apart_cells, curve_table, reached_at
from benchmarks.pages.larger import WIDE
from benchmarks.pages.text import DATA, Facts, along, markdown, millions, percent, read_info
from dualrs_lab.evidence import average_radius, certified_accuracy, read_table, reclaimed

__all__ = ["DENOISED", "KINDS", "apart", "certificates", "facts", "reached"]

DENOISED = DATA / "cifar10_denoised"
KINDS = {"off the shelf": "off_the_shelf", "fine-tuned": "fine-tuned", "expert": ""}
RULES = {"cohen": "Cohen’s radius", "two-bounds": "two bounds"}
AT = [f"{r:g}" for r in RADII]


def facts() -> Facts:
    """Placeholders of the page."""
    off, tuned = certificates(SIGMAS[0], "off the shelf"), certificates(SIGMAS[0], "fine-tuned")
    return {
        "denoised": _curves(),
        "denoised_apart": _apart_table("fine-tuned", "expert"),
        "denoised_images": f"{len(tuned):,}",
        "denoised_shelf_images": f"{len(off):,}",
        "denoised_parameters": millions(DENOISED / f"{_stem(0.5, 'fine-tuned')}.safetensors"),
        "denoised_machine": read_info(DENOISED / "denoiser.json")["device_name"],
        **_trained(),
        **_compared(),
    }


def _stem(sigma: float, kind: str) -> str:
    if kind == "expert":
        return f"cifar10_jpeg_wide_start_sigma{sigma:g}_seed{SEED}"
    return f"cifar10_jpeg_denoised_wide_start_{KINDS[kind]}_sigma{sigma:g}_seed{SEED}"


def certificates(sigma: float, kind: str) -> pd.DataFrame:
    """Certificates of a network; those of an expert on the test images of the fine-tuned network."""
    folder = WIDE if kind == "expert" else DENOISED
    table = read_table(folder / f"{_stem(sigma, kind)}_smoothed{sigma:g}_n10000.tsv")
    if kind == "expert":
        table = table[table["idx"].isin(certificates(sigma, "fine-tuned")["idx"])]
    return table.reset_index(drop=True)


def reached(sigma: float, kind: str, rule: str = "two-bounds") -> pd.DataFrame:
    """By image, whether each radius is certified (0 or 1), and the radius as "acr"; a wrong answer has 0."""
    return reached_at(reclaimed(certificates(sigma, kind), rule), RADII)


def apart(sigma: float, kind: str, other: str) -> pd.DataFrame:
    """`reached` of one network less that of another on the images of both, by two bounds."""
    mine, theirs = reached(sigma, kind), reached(sigma, other)
    both = mine.index.intersection(theirs.index)
    return mine.loc[both] - theirs.loc[both]


def _curves() -> str:
    rows: dict[str, dict[str, float]] = {}
    for sigma in SIGMAS:
        for kind in KINDS:
            table = certificates(sigma, kind)
            for rule, by in RULES.items():
                claims = reclaimed(table, rule)
                curve = dict(zip(AT, certified_accuracy(claims, RADII).tolist(), strict=True))
                rows[f"σ = {sigma:g}, {kind}, {by}"] = curve | {"acr": average_radius(claims)}
    found = pd.DataFrame.from_dict(rows, orient="index")
    return curve_table(found, {name: name for name in rows}, RADII)


def _apart_table(kind: str, other: str) -> str:
    rows = [[f"σ = {sigma:g}", *apart_cells(apart(sigma, kind, other))] for sigma in SIGMAS]
    return markdown(["", *along(AT), "ACR"], rows)


def _training(stem: str) -> dict[str, Any]:
    networks = read_info(DENOISED / "networks.json")
    beside = DENOISED / f"{stem}.safetensors"
    return dict((read_info(beside) if beside.exists() else networks[stem])["training"])


def _span(values: "pd.Series[float]", digits: int = 0) -> str:
    return f"{values.min():.{digits}f} to {values.max():.{digits}f}"


def _trained() -> Facts:
    tuned = pd.DataFrame([_training(_stem(s, "fine-tuned")) for s in SIGMAS], index=SIGMAS)
    experts = pd.DataFrame([read_info(WIDE / f"{_stem(s, 'expert')}.json")["training"] for s in SIGMAS])
    clean = _training(f"cifar10_jpeg_wide_start_clean_seed{SEED}")
    shelf = _training(f"cifar10_jpeg_denoised_wide_start_off_the_shelf_seed{SEED}")
    left = {s: shelf["held_out"][f"{s:g}"] for s in SIGMAS}
    gone = pd.Series({s: 1 - told["denoised_mse"] / told["noisy_mse"] for s, told in left.items()})
    return {
        "denoised_clean": {
            "epochs": f"{clean['epochs']:.0f}",
            "seconds": f"{clean['seconds']:.0f}",
            "right": percent(clean["held_out_accuracy"], 0),
        },
        "denoised_blind": {"epochs": f"{shelf['epochs']:.0f}", "seconds": f"{shelf['seconds']:.0f}"},
        "denoised_tuned": {
            "epochs": _span(tuned["epochs"]),
            "seconds": _span(tuned["seconds"]),
            "all": _span(tuned["seconds"] + clean["seconds"] + shelf["seconds"]),
        },
        "denoised_experts": {"epochs": _span(experts["epochs"]), "seconds": _span(experts["seconds"])},
        "denoised_gone": _span(100 * gone),
        "denoised_draws": " / ".join(percent(told["accuracy"], 0) for told in left.values()),
    }


def _compared() -> Facts:
    gained = {s: apart(s, "fine-tuned", "off the shelf")["0"].mean() for s in SIGMAS}
    below = pd.concat([-100 * apart(s, "fine-tuned", "expert")[AT].mean() for s in SIGMAS])
    return {
        "denoised_gained": {f"σ = {s:g}": percent(gain, 0) for s, gain in gained.items()},
        "denoised_below": {"most": f"{below.max():.1f}"},
        "denoised_errors": _errors(),
        "denoised_acr": _of_experts({s: reached(s, "fine-tuned")["acr"].mean() for s in SIGMAS}),
    }


def _errors() -> str:
    gone = [apart(s, "fine-tuned", "expert")["acr"] for s in SIGMAS]
    return _span(pd.Series([-one.mean() / one.sem() for one in gone]), 1)


def _of_experts(found: Mapping[float, float]) -> str:
    shares = {s: acr / reached(s, "expert")["acr"].mean() for s, acr in found.items()}
    return _span(pd.Series([100 * share for share in shares.values()]), 1)
