"""`python -m benchmarks.combiners --data folder:PATH`: combiners of the shipped experts, learnt, certified.

Votes of the experts about every eighth training image are drawn once; from them a combiner is learnt for each
setting of the dial, what it is worth to certify at each radius; and all are certified on the shipped votes
about test images, which they never saw. About an hour on two CPU cores; a run that was killed goes on where
it stopped.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.quality import ALPHA, RADII, SHIPPED, SIGMAS, quick
from dualrs_lab.combine import Combiner, Learning, combine_tables, learn_combiner, read_image_votes
from dualrs_lab.data import load_images
from dualrs_lab.evidence import average_radius, certified_accuracy, keep_table
from dualrs_lab.files import provenance, replace_text
from dualrs_lab.models import load_checkpoint
from dualrs_lab.runtime import pick_device
from dualrs_lab.smoothing import image_votes

__all__ = ["DIAL", "certify", "for_weights", "front_of", "main"]

ORDER = SIGMAS[::-1]
STEP, DRAWS, SEED = 8, 400, 7

# What it is worth to certify at radius 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5 and 2.
DIAL = {
    "large": (1.5, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0),
    "even": (2.0, 1.0, 1.0, 1.5, 1.5, 1.5, 1.5, 1.5),
    "alike": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "small": (2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "least": (3.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
}
CHOSEN = "even"  # the one whose table is kept


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing; print, write and return the front."""
    args = _options(argv)
    votes = args.out / "votes_trained.safetensors"
    if not votes.exists():
        _draw(args.data, args.device, votes)
    counts, labels, about = read_image_votes(votes, ORDER)
    found = {}
    for name in args.dial:
        learning = for_weights(name, starts=args.starts, changes=args.changes)
        kept = args.out / f"combiner_{name}.json"
        found[name] = learn_combiner(counts, labels, ORDER, learning=learning, path=kept, about=about)
    if CHOSEN in found:
        certify(found[CHOSEN], SHIPPED.singles(SIGMAS), args.out / "combined.tsv")
    front = front_of(found)
    replace_text(args.out / "combiners.csv", front.round(6).to_csv(lineterminator="\n", index=False))
    print(front.round(4).to_string(index=False))
    return front


def for_weights(name: str, *, starts: int, changes: int) -> Learning:
    """How a combiner is learnt for a setting of the dial."""
    return Learning(seed=0, weights=DIAL[name], terms=24, starts=starts, changes=changes, alpha=ALPHA)


def front_of(found: dict[str, Combiner]) -> pd.DataFrame:
    """Each combiner on the shipped votes: weights, certified accuracy at RADII, ACR, and terms."""
    tables = SHIPPED.singles(SIGMAS)
    rows = []
    for name, combiner in found.items():
        table = combine_tables(tables, combiner=combiner, alpha=ALPHA)
        curve = dict(zip([f"{r:g}" for r in RADII], certified_accuracy(table, RADII).tolist(), strict=True))
        weights = " ".join(f"{weight:g}" for weight in DIAL[name])
        rows.append({"dial": name, "weights": weights, **curve, "acr": average_radius(table)})
    return pd.DataFrame(rows)


def _draw(data: str, device: str, path: Path) -> None:
    train, where = load_images(data, "train"), pick_device(device)
    experts = [load_checkpoint(SHIPPED.expert(sigma), device=where)[0] for sigma in SIGMAS]
    image_votes(
        experts,
        train.select(range(0, len(train), STEP)),
        path,
        sigmas=SIGMAS,
        n=DRAWS,
        seed=SEED,
        **quick(where),
    )


def certify(combiner: Combiner, tables: Mapping[float, pd.DataFrame], path: Path) -> None:
    """Keep the table of a combiner that follows from those of its experts."""
    if not path.exists():
        table = combine_tables(tables, combiner=combiner, alpha=ALPHA)
        identity = {"method": "combine", "alpha": ALPHA, "combiner": combiner.text, **table.attrs["identity"]}
        keep_table("benchmarks.combiners", path, table, {"identity": identity, "provenance": provenance()})


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.combiners", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)")
    add("--dial", nargs="+", choices=[*DIAL], default=[*DIAL], help="which settings to learn for (all)")
    add("--starts", type=int, default=3, help="searches for each (%(default)s)")
    add("--changes", type=int, default=100_000, help="changes that each search tries (%(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/combiners"), help="folder for the results (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
