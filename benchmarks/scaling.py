"""`python -m benchmarks.scaling`: how a certificate of ImageNet grows from one GPU to a thousand.

Two answers to one question. The model: a GPU's share of all draws, and a start for each part that it makes.
The simulation: the draws of each image of a shipped table, laid out class by class as ImageNet is, go through
the parts that `--shard I/N` takes, and each worker takes the next part when it is free. What the shared disk
has to bear is counted from rows and beats, beside appends that are timed here. Writes the tables
scaling.csv, .json and .md into `--out`.
"""

import argparse
import heapq
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.measure import Row, frame
from benchmarks.report import table
from dualrs_lab.cluster import BEAT
from dualrs_lab.evidence import append_rows, read_table
from dualrs_lab.files import provenance, replace_json, replace_text
from dualrs_lab.shards import Portion, Shard

__all__ = ["Cost", "main", "makespan", "predicted", "replayed", "shares"]

DATA = Path(__file__).resolve().parent.parent / "data"
REPLAYED = DATA / "cifar10_systems" / "dual.tsv"  # where images take different numbers of draws
IMAGES, N = 50_000, 100_000
WORKERS, PARTS = (1, 8, 64, 256, 1000), (1, 4, 16)  # GPUs, and parts for each of them
WAVE = 64  # images whose rows are appended together


@dataclass(frozen=True)
class Cost:
    """What a draw takes, and what it takes before the first: seconds."""

    draw: float
    start: float


def replayed(path: Path, images: int, n: int) -> NDArray[np.float64]:
    """Draws (images,) of a data set in class order, by the rows of a table: their number grows with its n."""
    found = read_table(path)
    rows = found.sort_values("label", kind="stable")
    drawn = rows["drawn"].to_numpy(dtype=np.float64) * (n / found.attrs["identity"]["n"])
    return drawn[np.arange(images) * len(drawn) // images]


def shares(draws: NDArray[np.float64], parts: int, *, strided: bool = True) -> NDArray[np.float64]:
    """Draws (parts,) of each part: of those that `--shard` takes, or of blocks of images in a row."""
    if not strided:
        return np.array([block.sum() for block in np.array_split(draws, parts)])
    taken = (Portion(Shard(k, parts), len(draws), 1).idx for k in range(1, parts + 1))
    return np.array([draws[idx].sum() for idx in taken])


def makespan(parts: NDArray[np.float64], workers: int, cost: Cost) -> tuple[float, float]:
    """Seconds until the last part is done, and the share of the workers' time in which they had none.

    Each worker takes the next part as soon as it is free.
    """
    free = [0.0] * workers
    for draws in parts:
        heapq.heappush(free, heapq.heappop(free) + cost.start + cost.draw * float(draws))
    end = max(free)
    return end, 1 - sum(free) / (workers * end)


def predicted(draws: NDArray[np.float64], parts: int, workers: int, cost: Cost) -> float:
    """Seconds by the model: an even share of all draws, and a start for each part that a worker makes."""
    return cost.draw * float(draws.sum()) / workers + cost.start * -(-parts // workers)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Compute, print and write."""
    args = _options(argv)
    cost = Cost(draw=args.draw * 1e-6, start=args.start)
    draws = replayed(args.table, args.images, args.n)
    rows = [
        Row("cost", "assumed", "time per draw", "µs", [args.draw]),
        Row("cost", "assumed", "start of a part", "s", [args.start]),
        Row("cost", "replayed", "images", "", [len(draws)]),
        Row("cost", "replayed", "mean draws per image", "", [float(draws.mean())]),
        Row(
            "cost", "replayed", "most draws of an image / mean", "times", [float(draws.max() / draws.mean())]
        ),
        Row("cost", "replayed", "on one GPU", "h", [cost.draw * float(draws.sum()) / 3600]),
    ]
    for workers in args.workers:
        for each in PARTS:
            rows += _scaled(draws, workers, each, cost)
        rows += _disk(draws, workers, cost)
    rows.append(Row("disk", "measured", "append of a wave of rows", "ms", _appends(args.table)))
    for part in ("cost", "strided", "disk"):
        print(table([row for row in rows if row.part == part], part), end="\n\n")
    how = {"table": args.table.name, "n": args.n, "images": args.images, "provenance": provenance()}
    replace_json(args.out / "scaling.json", how | {"rows": [asdict(row) for row in rows]})
    replace_text(args.out / "scaling.csv", frame(rows).to_csv(index=False, lineterminator="\n"))
    shown = (table([row for row in rows if row.part == part], part) for part in ("cost", "strided", "disk"))
    replace_text(args.out / "scaling.md", "\n\n".join(shown) + "\n")
    return rows


def _scaled(draws: NDArray[np.float64], workers: int, each: int, cost: Cost) -> list[Row]:
    parts, arm = workers * each, f"{workers} GPUs" if workers > 1 else "1 GPU"
    how = {"setting": f"{each} parts a GPU" if each > 1 else "1 part a GPU", "at": float(each)}
    found = []
    for kind in ("strided", "blocks"):
        end, idle = makespan(shares(draws, parts, strided=kind == "strided"), workers, cost)
        found += [
            Row(kind, arm, "time", "h", [end / 3600], **how),
            Row(kind, arm, "idle", "%", [100 * idle], **how),
            Row(
                kind,
                arm,
                "more than the model",
                "%",
                [100 * (end / predicted(draws, parts, workers, cost) - 1)],
                **how,
            ),
        ]
    return found


def _disk(draws: NDArray[np.float64], workers: int, cost: Cost) -> list[Row]:
    # appends that are forced to the disk, and touches, of all workers
    wave = WAVE * cost.draw * float(draws.mean())
    arm = f"{workers} GPUs" if workers > 1 else "1 GPU"
    return [
        Row("disk", arm, "waves appended", "1/s", [workers / wave]),
        Row("disk", arm, "beats", "1/s", [workers / BEAT]),
        Row("disk", arm, "files of parts, four a GPU", "", [2.0 * 4 * workers]),
    ]


def _appends(path: Path, rounds: int = 20) -> list[float]:
    # milliseconds of appending a wave of rows to a local disk, forced there
    rows = pd.read_csv(path, sep="\t", nrows=WAVE).to_dict("records")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        columns = [*rows[0]]
        for _ in range(rounds):
            start = time.perf_counter()
            append_rows(
                Path(folder, "t.tsv"), [{str(k): v for k, v in row.items()} for row in rows], columns=columns
            )
            found.append(1e3 * (time.perf_counter() - start))
    return found


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    from benchmarks.pages.gpu import sampled
    from benchmarks.pages.speed import Bench

    machine = Bench("gpu_speed", "machine").rows
    peak = machine.loc[machine["quantity"] == "matmul bfloat16", "median"].max() * 1e9
    resnet50 = 2 * 4.09e9  # operations of a ResNet-50 at 224 pixels, as torchvision tells
    prepared = Bench("gpu_speed", "preparation").rows
    start = prepared.loc[prepared["arm"].str.startswith("+ compiled"), "median"].max()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--table", type=Path, default=REPLAYED, help="whose draws are replayed")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--n", type=int, default=N, help="draws of an expert that is asked")
    parser.add_argument(
        "--draw", type=float, default=1e6 * resnet50 / (sampled()["wide"].share * peak),
        help="µs (default: ResNet-50 at the share of an H100's matrix product that the wide experts reached)",
    )  # fmt: skip
    parser.add_argument(
        "--start", type=float, default=30.0 + float(start),
        help="s (default: 30 for Python, torch and the network, and the longest compilation on an H100)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
