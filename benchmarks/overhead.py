"""`python -m benchmarks.overhead --data folder:PATH`: what a system of several noise levels costs.

Every arm certifies the same images with the shipped CIFAR-10 experts at the same n and total alpha. A round
is a share of the images, and arms take turns within it. The cost of a system is its time compared with that
of one smoothed classifier at equal n, round by round. Writes overhead.json (every value), .csv and .md into
`--out`.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Row, frame, interleave, ratio
from benchmarks.report import table
from dualrs_lab.cascade import Cascade, CascadeSpec, certify_cascade
from dualrs_lab.data import load_images
from dualrs_lab.dual import Cuts, DualSpec, certify_dual
from dualrs_lab.experiment import Experiment
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.models import load_checkpoint
from dualrs_lab.runtime import describe, pick_device, pick_dtype
from dualrs_lab.smoothing import FastPath, FrozenVoter, GridNoise, Spec, certify, freeze

__all__ = ["main"]

DATA = Path(__file__).resolve().parent.parent / "data"
SIGMAS, CUTS, ALPHA, SINGLE = (0.25, 0.5, 1.0), (0.5, 1.0), 0.001, 0.5
PART, BASE = "overhead", f"one classifier, σ = {SINGLE:g}"


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write."""
    args = _options(argv)
    device = pick_device(args.device)
    test = load_images(args.data, "test")
    count = args.rounds * args.images
    every = torch.linspace(0, len(test) - 1, count).round().long()
    shuffled = every[torch.randperm(count, generator=torch.Generator().manual_seed(args.seed))]
    x, _ = test.batch(shuffled)
    arms, drawn = _arms(x.to(device), args, device)
    seconds = interleave(arms, args.rounds)
    rows = []
    for name, taken in seconds.items():
        rows.append(Row(PART, name, "time per image", "s", [s / args.images for s in taken]))
        more = [100 * (factor - 1) for factor in ratio(taken, seconds[BASE])]
        rows.append(Row(PART, name, "more than one classifier", "%", more))
        rows.append(Row(PART, name, "mean draws per image", "", [float(np.mean(drawn[name]))]))
    print(table(rows, PART))
    record = {"n": args.n, "rounds": args.rounds, "images": args.images, "alpha": ALPHA, "data": test.title}
    replace_json(
        args.out / "overhead.json",
        record | {"provenance": describe(device), "rows": [asdict(row) for row in rows]},
    )
    replace_text(args.out / "overhead.csv", frame(rows).to_csv(index=False, lineterminator="\n"))
    replace_text(args.out / "overhead.md", table(rows, PART) + "\n")
    return rows


def _arms(
    x: torch.Tensor, args: argparse.Namespace, device: torch.device
) -> tuple[dict[str, Callable[[int], None]], dict[str, list[int]]]:
    size, n, seed = args.images, args.n, args.seed

    def voter(path: Path, sigma: float, classes: int) -> FrozenVoter:
        model, _ = load_checkpoint(path)
        fast = FastPath(compile=args.compile, cuda_graph=device.type == "cuda")
        shape, dtype = tuple(x.shape[1:]), pick_dtype(device)
        return freeze(model, GridNoise(sigma), shape, classes=classes, device=device, dtype=dtype, fast=fast)

    experts = {s: voter(Experiment.shipped(DATA).expert(s), s, 10) for s in SIGMAS}
    router = [DATA / f"cifar10_systems/router_cut{k + 1}.safetensors" for k in range(len(CUTS))]
    cuts = [voter(path, s, 2) for path, s in zip(router, CUTS, strict=True)]
    drawn: dict[str, list[int]] = {}
    arms: dict[str, Callable[[int], None]] = {}

    def arm(name: str, certified: Callable[[torch.Tensor], Sequence[int]]) -> None:
        drawn[name] = []

        def run(turn: int) -> None:
            drawn[name].extend(certified(x[turn * size : (turn + 1) * size]))

        arms[name] = run

    single = Spec(noise=GridNoise(SINGLE), seed=seed, n=n, alpha=ALPHA)
    arm(
        BASE,
        lambda some: [c.n0 + c.drawn for c in certify(experts[SINGLE], some, classes=10, spec=single)],
    )
    for share in (1, 10):
        spec = DualSpec(
            estimator=Cuts(CUTS), sigmas=SIGMAS, seed=seed, n=n, n_estimator=n // share, alpha=ALPHA
        )
        arm(
            f"dual, router n / {share}" if share > 1 else "dual, router n",
            lambda some, spec=spec: [  # type: ignore[misc]
                c.drawn for c in certify_dual(cuts, list(experts.values()), some, spec=spec)
            ],
        )
        of = CascadeSpec(cascade=Cascade(SIGMAS[::-1]), seed=seed, n=n, n_side=n // share, alpha=ALPHA)
        arm(
            f"cascade, others n / {share}" if share > 1 else "cascade, others n",
            lambda some, of=of: [  # type: ignore[misc]
                c.drawn for c in certify_cascade([experts[s] for s in SIGMAS[::-1]], some, spec=of)
            ],
        )
    return arms, drawn


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="32x32 colour images, folder:PATH or the name of a data set")
    add("--n", type=int, default=10_000, help="draws of an expert (%(default)s)")
    add("--images", type=int, default=4, help="images a round (%(default)s)")
    add("--rounds", type=int, default=5, help="rounds (%(default)s)")
    add("--no-compile", dest="compile", action="store_false", help="leave the compiled step out")
    add("--seed", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/overhead"), help="folder for the results (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
