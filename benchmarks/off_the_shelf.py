"""`python -m benchmarks.off_the_shelf --data folder:PATH`: a published network, behind a denoiser made here.

The network is the ResNet-18 for CIFAR-10 that the package `pyautoattack` brings along: a stranger's, trained
on clean images alone. A small denoiser is trained by squared error, and then for the answers of this network
(Salman et al. 2020); the network is certified alone and behind each, and from the tables of two noise levels
follow those of systems, without a draw. Under two hours on one CPU core; each of `--parts` can run by itself
and goes on where it was killed.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from benchmarks.quality import BOTH, InParts, make_parts, part_options, read_parts
from dualrs_lab.adapters import load_network
from dualrs_lab.combine import Combiner, combine_tables
from dualrs_lab.data import Images, load_images
from dualrs_lab.denoising import Behind, Denoising, Stability, load_denoiser, train_denoiser
from dualrs_lab.dual import compare, curves
from dualrs_lab.evidence import average_radius, certified_accuracy, read_table, reclaimed
from dualrs_lab.experiment import Shelf
from dualrs_lab.files import replace_text
from dualrs_lab.runtime import pick_device
from dualrs_lab.smoothing import GridNoise, Spec, certify_table
from dualrs_lab.training import Standard, TrainConfig, accuracy, new_network, train

__all__ = [
    "ALONE",
    "CALLED",
    "FULL",
    "KINDS",
    "PARTS",
    "RADII",
    "SIGMAS",
    "SQUARES",
    "STABLE",
    "board",
    "main",
    "shipped_network",
    "table_name",
]

ALPHA, SEED = 0.001, 0
SIGMAS = (0.12, 0.25)
ALONE, SQUARES, STABLE = "alone", "denoised", "stable"  # nothing in front; a denoiser by either objective
KINDS = (ALONE, SQUARES, STABLE)
CALLED = {
    ALONE: "alone",
    SQUARES: "behind a denoiser (squared error)",
    STABLE: "behind a denoiser (stability)",
}
RADII = [0.0, 0.125, 0.25, 0.375, 0.5]
RULES = {"cohen": "", "two-bounds": BOTH}
HANDICAPS = (0.0, 0.3)  # of σ = 0.25 and 0.12, where whoever is surest answers


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    widths: tuple[int, int]
    noise: tuple[float, float]  # from which σ is drawn in training, image by image
    squares: TrainConfig
    stable: TrainConfig
    few: int  # every so many-th training image is taken for stability, which asks the network itself
    anchor: float
    n: int
    skip: int  # every so many-th test image is certified
    seen: int  # test images for the accuracies
    plain: bool = False  # networks as they are, without a quicker copy


FULL = Size(
    widths=(64, 128), noise=(0.05, 0.35), few=8, anchor=10.0, n=1000, skip=200, seen=1000,
    squares=TrainConfig(epochs=5, seed=SEED, batch=128, lr=0.3, weight_decay=1e-5),
    stable=TrainConfig(epochs=2, seed=SEED, batch=64, lr=0.02, weight_decay=1e-5),
)  # fmt: skip
_TOY = {"seed": SEED, "batch": 64, "crop": 0, "flip": False}
TOY = Size(
    widths=(16, 32), noise=(0.05, 0.35), few=3, anchor=10.0, n=100, skip=40, seen=200, plain=True,
    squares=TrainConfig(epochs=2, lr=0.05, **_TOY), stable=TrainConfig(epochs=1, lr=0.02, **_TOY),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bench(InParts):
    """What all parts share."""

    network: nn.Module
    source: str

    @property
    def shelf(self) -> Shelf:
        """Where results go."""
        return Shelf(self.out)

    def denoiser(self, kind: str) -> Path:
        """Where the denoiser of a kind is kept."""
        return self.out / f"denoiser_{kind}.safetensors"

    def pair(self, kind: str) -> nn.Module:
        """What is certified."""
        if kind == ALONE:
            return self.network
        return Behind(load_denoiser(self.denoiser(kind), device=self.device), self.network)

    def table(self, kind: str, sigma: float) -> Path:
        """Its certificates."""
        return self.shelf.answers(table_name(kind, sigma, self.size.n))


def table_name(kind: str, sigma: float, n: int = FULL.n) -> str:
    """How a table of certificates is called."""
    return f"{kind}_smoothed{sigma:g}_n{n}"


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing of the parts; print, write and return the comparison, if it is one of them."""
    parser = part_options("off_the_shelf", __doc__, PARTS)
    parser.add_argument("--network", help="another one, as load_network names it, of pixels in [0, 1]")
    args = read_parts(parser, argv)
    device = pick_device(args.device)
    bench = _toy(args.out, device) if args.toy else _full(args, device)
    return make_parts(PARTS, args.parts, bench)


def _squares(bench: Bench) -> None:
    objective = Denoising(low=bench.size.noise[0], high=bench.size.noise[1])
    _trained(bench, SQUARES, bench.train, objective=objective, config=bench.size.squares)


def _stable(bench: Bench) -> None:
    size = bench.size
    low, high = size.noise
    _trained(
        bench,
        STABLE,
        bench.train.select(range(0, len(bench.train), size.few)),
        objective=Stability(low=low, high=high, classifier=bench.network, anchor=size.anchor),
        config=size.stable,
        start=load_denoiser(bench.denoiser(SQUARES), device=bench.device),
    )


def _trained(bench: Bench, kind: str, images: Images, **how: Any) -> None:
    given = {"widths": bench.size.widths, "device": bench.device, "progress": False}
    train_denoiser(bench.denoiser(kind), images, **how, **given)


def _certify(bench: Bench, kind: str, sigma: float) -> None:
    spec = Spec(noise=GridNoise(sigma), seed=SEED, n=bench.size.n, alpha=ALPHA, **bench.how)
    front = {} if kind == ALONE else {"denoiser": bench.denoiser(kind).name}
    certify_table(
        bench.pair(kind),
        bench.test,
        bench.table(kind, sigma),
        spec=spec,
        skip=bench.size.skip,
        progress=False,
        info={"checkpoint": bench.source} | front,
    )


def _accuracy(bench: Bench) -> pd.DataFrame:
    """Accuracy with one noisy copy of each image, and without noise."""
    images, levels = bench.test.spread(bench.size.seen), (0.0, *SIGMAS)
    rows = {
        CALLED[kind]: [accuracy(bench.pair(kind), images, sigma=sigma, seed=SEED) for sigma in levels]
        for kind in KINDS
    }
    found = pd.DataFrame.from_dict(rows, orient="index", columns=[f"{level:g}" for level in levels])
    return _written(bench, "accuracy", found.assign(images=len(images)))


def _board(bench: Bench) -> pd.DataFrame:
    there = {
        kind: {s: read_table(path) for s in SIGMAS if (path := bench.table(kind, s)).exists()}
        for kind in KINDS
    }
    return _written(bench, "board", board(there))


def board(tables: dict[str, dict[float, pd.DataFrame]]) -> pd.DataFrame:
    """Certified accuracy and ACR of each network at each level, and of the systems of two levels.

    A row for each network and rule, on all images of its tables; single levels by Cohen's rule and by two
    bounds.
    """
    return pd.concat({CALLED[kind]: _rules(singles) for kind, singles in tables.items() if singles})


def _rules(singles: dict[float, pd.DataFrame]) -> pd.DataFrame:
    if len(singles) > 1:
        order = SIGMAS[::-1]
        surest = combine_tables(singles, combiner=Combiner.surest(order, HANDICAPS), alpha=ALPHA)
        return curves(compare(singles, others={"whoever is surest": surest}), RADII)
    ((sigma, table),) = singles.items()
    rows = {f"σ = {sigma:g}{end}": reclaimed(table, rule) for rule, end in RULES.items()}
    found = [[*certified_accuracy(one, RADII), average_radius(one)] for one in rows.values()]
    return pd.DataFrame(found, index=[*rows], columns=[*(f"{r:g}" for r in RADII), "acr"])


def _written(bench: Bench, name: str, found: pd.DataFrame) -> pd.DataFrame:
    names = ["network", "rule"][: found.index.nlevels]
    text = found.round(6).rename_axis(names).to_csv(lineterminator="\n")
    replace_text(bench.shelf.table(name), text)
    return found


def _parts() -> dict[str, Callable[[Bench], Any]]:
    """Each with what it makes; those that another one needs come before it."""
    parts: dict[str, Callable[[Bench], Any]] = {SQUARES: _squares, STABLE: _stable, "accuracy": _accuracy}
    for kind in KINDS:
        parts |= {f"certify-{kind}-{s:g}": partial(_certify, kind=kind, sigma=s) for s in SIGMAS}
    return parts | {"board": _board}


PARTS = _parts()


def shipped_network() -> str:
    """The source of the network that comes with `pyautoattack`; FileNotFoundError says how to get it."""
    package = find_spec("pyautoattack")
    file = Path((package and package.origin) or "").parent / "examples" / "model_test.pt"
    if package is None or not file.exists():
        raise FileNotFoundError(
            "off_the_shelf: the network is that of pyautoattack, examples/model_test.pt; "
            "pip install pyautoattack==0.2.0, or name another one: --network robustbench:FILE"
        )
    return f"robustbench:{file}"


def _full(args: argparse.Namespace, device: torch.device) -> Bench:
    source = args.network or shipped_network()
    network = load_network(source, mean=0, std=1, device=device)  # it takes pixels as they are
    return Bench(
        network=network, source=network.info["source"], out=args.out, data=args.data, device=device, size=FULL
    )


def _toy(out: Path, device: torch.device) -> Bench:
    """Everything tiny, for a dry run: a network for the embedded digits that never saw noise."""
    images = load_images("digits", "train")
    network = new_network("digits_narrow", images, seed=SEED).to(device)
    train(network, images, objective=Standard(), config=TOY.squares, progress=False)
    return Bench(network=network, source="digits_narrow", out=out, data="digits", device=device, size=TOY)


if __name__ == "__main__":
    main()
