"""What docs/results.md says of PART at ResNet-18 size, which a GPU trained."""

import pandas as pd

from benchmarks.gpu.adversarial import PLANS
from benchmarks.pages.pixels import ARMS
from benchmarks.pages.text import DATA, Facts, markdown, percent, read_info, signed
from dualrs_lab.attacks import read_evaluation

__all__ = ["ADVERSARIAL", "CONTROLS", "above", "answers", "apart", "error", "facts", "line"]

ADVERSARIAL = DATA / "cifar10_adversarial"
CONTROLS = {"part7": "uniform7", "part4": "uniform4"}
ORDER = ("at", "part7", "uniform7", "part4", "uniform4")
LABELS = {**{arm: ARMS[arm] for arm in ORDER}, "small_at": "AT, `wide_start`"}


def facts() -> Facts:
    """Placeholders of the page."""
    arms = pd.read_csv(ADVERSARIAL / "arms.csv").set_index("arm")
    whole, networks = (read_info(ADVERSARIAL / f"{name}.json") for name in ("adversarial", "networks"))
    warmup = networks[_stem("warmup")]["training"]
    return {
        "resnet_arms": _arms(arms),
        "resnet_apart": _apart(),
        "resnet": {
            "machine": whole["device_name"],
            "minutes": f"{whole['seconds'] / 60:.1f}",
            "steps": str(warmup["objective"]["attack"]["steps"]),
            "warm-up": f"{warmup['epochs']:.0f}",
            "images": f"{int(arms['attacked_images'].max()):,}",
            "APGD images": f"{int(arms['apgd_images'].max()):,}",
            "AT": percent(arms.loc["at", "pgd"], 0),
            "APGD": error(apart("part4", "at", "apgd")["autoattack"], 1),
        },
        **_beside_controls(arms),
    }


def _stem(arm: str) -> str:
    network = "wide_start" if PLANS[arm].small else "resnet18"
    return f"cifar10_jpeg_{network}_{arm}_seed0"


def answers(arm: str, what: str = "attacked") -> pd.DataFrame:
    """Right or wrong (1 or 0) of a network as it is and under attack, by image."""
    table = read_evaluation(ADVERSARIAL / f"{_stem(arm)}_{what}.tsv").set_index("idx")
    return table[[one for one in ("natural", "pgd", "autoattack") if one in table]].astype(float)


def apart(arm: str, other: str, what: str = "attacked") -> pd.DataFrame:
    """By image, the answers of one network less those of another.

    The `sem` of a column is the error of McNemar's comparison: it counts images that only one answers.
    """
    mine, theirs = answers(arm, what), answers(other, what)
    if not mine.index.equals(theirs.index):
        raise ValueError(f"apart: {arm} and {other} were not attacked on the same images")
    return mine - theirs


def above(one: pd.DataFrame, start: pd.DataFrame, end: pd.DataFrame, robust: str) -> "pd.Series[float]":
    """By image, how far `one` lies above the line from `start` to `end` in natural and `robust` accuracy.

    The mean is the height. `sem` is its error to first order, with that of the place on the line.
    """
    gone, whole = one - start, end - start
    share = gone["natural"].mean() / whole["natural"].mean()
    slope = whole[robust].mean() / whole["natural"].mean()
    off = gone - share * whole
    found: pd.Series[float] = off[robust] - slope * off["natural"]
    return found


def line(part: str) -> "pd.Series[float]":
    """By image, how far PART lies above the line from AT to its control, under PGD-20."""
    return above(answers(part), answers("at"), answers(CONTROLS[part]), "pgd")


def error(values: "pd.Series[float]", digits: int = 2) -> str:
    """A mean over images in points, with its sign and one standard error."""
    return f"{signed(float(values.mean()), digits)} ± {percent(float(values.sem()), digits)}"


def _arms(arms: pd.DataFrame) -> str:
    rows = []
    for arm, label in LABELS.items():
        row = arms.loc[arm]
        apgd = "–" if pd.isna(row["apgd"]) else percent(row["apgd"])
        numbers = [
            f"{row['budget']:.1f}",
            f"{row['epochs']:.1f}",
            percent(row["natural"]),
            percent(row["pgd"]),
        ]
        rows.append([label, *numbers, apgd])
    return markdown(["trained with", "mean budget (of 255)", "epochs", "natural", "PGD-20", "APGD"], rows)


def _apart() -> str:
    rows = []
    for part, control in CONTROLS.items():
        low = f"{PLANS[part].low:g}"
        for name, gone, height in (
            (f"PART with {low}, less its control", apart(part, control), error(line(part))),
            (f"PART with {low}, less AT", apart(part, "at"), ""),
            ("its control, less AT", apart(control, "at"), ""),
        ):
            rows.append([name, error(gone["natural"]), error(gone["pgd"]), height])
    return markdown(["", "natural", "PGD-20", "above the line from AT to the control"], rows)


def _beside_controls(arms: pd.DataFrame) -> Facts:
    found: Facts = {}
    for part, control in CONTROLS.items():
        gone, height = apart(part, control), line(part)
        found[f"resnet_{part}"] = {
            "natural": error(gone["natural"]),
            "pgd": error(gone["pgd"]),
            "line": error(height),
            "gain": percent(apart(part, "at")["natural"].mean()),
            "control gain": percent(apart(control, "at")["natural"].mean()),
            "longer": percent(arms.loc[control, "epochs"] / arms.loc[part, "epochs"] - 1, 0),
        }
    return found
