"""`python -m benchmarks.router_order --data folder:PATH`: which noise level should a router ask about first?

The cuts of a router are asked in turn, and the first one that says yes decides. So the cut that is asked
first meets every image, under its own noise, and the next one what that leaves. Two routers for the shipped
experts at sigma = 0.25, 0.5 and 1, one that asks about the smallest first and one that asks about the
largest, begin as the experts of their noise levels and learn from the shipped votes about training images, by
the same objective and for as many epochs. Both dual systems are certified on the same test images, from the
votes in the experts' tables. An hour on one core; a run that was killed goes on where it stopped.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.quality import (
    BOTH,
    SHIPPED,
    SHIPPED_SYSTEMS,
    SIGMAS,
    at_radii,
    certified_dual,
    trained_router,
)
from dualrs_lab.combine import read_image_votes
from dualrs_lab.data import Images, load_images
from dualrs_lab.dual import Cuts, compare
from dualrs_lab.experiment import Shelf
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.models import load_checkpoint
from dualrs_lab.runtime import describe, pick_device

__all__ = ["ORDERS", "SHOWN", "board", "main", "table_name"]

ORDERS = {"smallest first": SIGMAS, "largest first": SIGMAS[::-1]}
SHOWN = [f"dual, {rule}{end}" for rule in ("published", "routed") for end in ("", BOTH)]
VOTES = SHIPPED_SYSTEMS.folder / "votes_trained.safetensors"
STEP = 8  # it is about every 8th training image


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    epochs: int = 8
    n_estimator: int = 2000  # draws of each cut
    skip: int = 20
    images: int = 500


SIZE = Size()


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Train and certify what is missing; print, write and return a row for each order and rule."""
    args = _options(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    device = pick_device(args.device)
    train, test = load_images(args.data, "train"), load_images(args.data, "test")
    experts = {s: load_checkpoint(SHIPPED.expert(s), device=device)[0] for s in SIGMAS}
    images, tables = train.select(range(0, len(train), STEP)), {}
    for name, order in ORDERS.items():
        asked, rule = {s: experts[s] for s in order}, _rule(order)
        votes, draws = _votes(order, images)
        path = args.out / f"router_{_joined(name)}"
        cuts = trained_router(
            path, asked, images, votes, rule=rule, n=draws, epochs=SIZE.epochs, files=SHIPPED
        )
        tables[name] = certified_dual(
            Shelf(args.out).answers(table_name(name)), cuts, asked, test, rule=rule, files=SHIPPED,
            n_estimator=SIZE.n_estimator, skip=SIZE.skip, images=SIZE.images,
        )  # fmt: skip
    found = board(tables)
    replace_text(args.out / "router_order.csv", found.round(6).to_csv(lineterminator="\n"))
    record = {"images": len(images), "epochs": SIZE.epochs, "draws": SIZE.n_estimator}
    replace_json(args.out / "router_order.json", record | {"provenance": describe(device)})
    print((100 * found).round(1).to_string())
    return found


def board(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Certified accuracy by order and rule, from the table of each dual system."""
    singles = SHIPPED.singles(SIGMAS)
    each = {name: at_radii(compare(singles, table)).loc[SHOWN] for name, table in tables.items()}
    return pd.concat(each, names=["order", "rule"])


def table_name(order: str) -> str:
    """How the table of the dual system with this order is called."""
    return f"dual_{_joined(order)}"


def _joined(order: str) -> str:
    return order.replace(" ", "_")


def _votes(order: tuple[float, ...], images: Images) -> tuple[Tensor, int]:
    # votes (N, K) of each expert for the label, and of how many
    counts, labels, about = read_image_votes(VOTES, order)
    if images.fingerprint() != about["images"]:
        raise ValueError(
            f"router_order: {VOTES.name} holds votes about other images; wanted --data to be those of "
            "data/README.md"
        )
    return torch.from_numpy(counts[np.arange(len(labels)), :, labels]), int(about["n"])


def _rule(order: tuple[float, ...]) -> Cuts:
    # a cut has the larger noise of the two levels that it parts
    return Cuts(tuple(max(both) for both in pairwise(order)))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.router_order", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)")
    add("--threads", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/router_order"), help="folder for the results (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
