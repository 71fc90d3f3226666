"""`python docs/make_pictures.py`: the picture in the README, drawn from the data that the repository ships.

A panel of the lessons, certified accuracy of four noise levels and of a cascade, and the board of methods.
"""

import argparse
import io
from pathlib import Path

import pandas as pd
from PIL import Image

from dualrs_lab import figures
from dualrs_lab.evidence import every_vote, read_table, reclaimed
from dualrs_lab.figures import board, points, read_points
from dualrs_lab.panels import PlanePanel

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
SIGMAS = (0.25, 0.5, 1.0)
DPI, GAP, COLOURS = 150, 30, 200


def panel() -> figures.Page:
    """A point of the plane: noisy copies, votes, the certified and the exact disc."""
    shown = PlanePanel()
    return shown.render(shown.state)


@figures.style()
def certified() -> figures.Page:
    """Certified accuracy of a classifier for each noise level, and of a cascade; what Dual RS reports."""
    stem = "cifar10_jpeg_wide_start_CAT-RS_sigma{0:g}_seed0_smoothed{0:g}_n10000.tsv"
    singles = {sigma: read_table(DATA / "cifar10_recipes" / stem.format(sigma)) for sigma in SIGMAS}
    between = "cifar10_jpeg_wide_start_between_sigma0.7_seed0_graded0.7_n10000.tsv"
    singles[0.7] = every_vote(read_table(DATA / "cifar10_recipes" / between))
    cascade = read_table(DATA / "cifar10_recipes" / "cascade_silent_between.tsv")
    same = {sigma: table[table["idx"].isin(cascade["idx"])] for sigma, table in sorted(singles.items())}
    tables = {f"σ = {sigma:g}": reclaimed(table, "two-bounds") for sigma, table in same.items()}
    tables["cascade, silent where unsure"] = cascade
    dual = pd.read_csv(DATA / "published_dual.csv").rename(columns={"system": "method"})
    published = dual[dual["method"].str.startswith("Dual RS")].assign(sigma=float("nan"))
    radii = [0.25 * i for i in range(9)]
    drawn = figures.new_axes(None, 4.5, 3.2)
    axes = figures.certified_curves(tables, radii, band=None, published=published, ax=drawn)
    axes.set_title("CIFAR-10, certified: noise levels and a cascade")
    return axes.figure


@figures.style()
def methods() -> figures.Page:
    """Natural against attacked accuracy of what was measured here, and of what was published."""
    arms = pd.read_csv(DATA / "cifar10_pixels" / "arms.csv").groupby("arm")[["natural", "worst"]].mean()
    mixes = pd.read_csv(DATA / "cifar10_mixing" / "systems.csv").set_index("system")
    larger = pd.read_csv(DATA / "cifar10_adversarial" / "systems.csv").set_index("system")
    kinds = {
        "mixes of two ResNet-18": larger[larger.index.str.startswith("weight")],
        "adversarial training and PART": arms,
        "mixes": mixes[mixes.index.str.startswith("weight")],
        "adaptive mixes": mixes[mixes.index.str.startswith(("adaptive", "MixedNUTS"))],
    }
    own = [
        points(table, threat="linf 8/255", family=name, attack="worst of several")
        for name, table in kinds.items()
    ]
    published = read_points([DATA / "published_robust.csv"])
    found = pd.concat([*own, published[published["threat"] == "linf 8/255"]], ignore_index=True)
    axes = board(found, ax=figures.new_axes(None, 5.9, 3.2))
    axes.set_title("CIFAR-10, attacked with 8/255 (linf)")
    return axes.figure


def stacked(rows: list[list[figures.Page]]) -> Image.Image:
    """Figures in rows on a white sheet, each row centred."""
    drawn = [
        [Image.open(io.BytesIO(figures.png(page, dpi=DPI))).convert("RGB") for page in row] for row in rows
    ]
    widths = [sum(one.width for one in row) + GAP * (len(row) - 1) for row in drawn]
    heights = [max(one.height for one in row) for row in drawn]
    sheet = Image.new("RGB", (max(widths) + 2 * GAP, sum(heights) + GAP * (len(rows) + 1)), "white")
    y = GAP
    for row, width, height in zip(drawn, widths, heights, strict=True):
        x = (sheet.width - width) // 2
        for one in row:
            sheet.paste(one, (x, y))
            x += one.width + GAP
        y += height + GAP
    return sheet


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder (default: docs)")
    out = parser.parse_args().out / "workbench.png"
    sheet = stacked([[panel()], [certified(), methods()]])
    sheet.quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
