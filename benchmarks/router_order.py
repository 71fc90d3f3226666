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

from benchmarks.quality import ALPHA, BOTH, SHIPPED, SHIPPED_SYSTEMS, SIGMAS, at_radii, quick
from dualrs_lab.combine import read_image_votes
from dualrs_lab.data import Images, load_images
from dualrs_lab.dual import (
    Cuts,
    DualSpec,
    Stakes,
    certify_dual_table,
    compare,
    mapped_radii,
    numbered,
    train_router,
)
from dualrs_lab.experiment import Shelf
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.models import Classifier, load_checkpoint, with_head
from dualrs_lab.runtime import describe, pick_device
from dualrs_lab.training import TrainConfig

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
        cuts = _router(name, order, images, experts, args.out)
        tables[name] = _certified(name, order, cuts, experts, test, args.out)
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
    return f"dual_{order.replace(' ', '_')}"


def _router(
    name: str, order: tuple[float, ...], images: Images, experts: dict[float, Classifier], out: Path
) -> list[Classifier]:
    # as the shipped router was trained, from other votes
    rule = _rule(order)
    return train_router(
        out / f"router_{name.replace(' ', '_')}",
        lambda k: with_head(experts[rule.sigmas[k]], classes=2, seed=k),
        numbered(images),
        objective=Stakes(radii=_promised(order, images, rule), sigmas=rule.sigmas),
        config=TrainConfig(epochs=SIZE.epochs, seed=0, batch=256, lr=0.05),
        device=next(experts[order[0]].parameters()).device,
        progress=False,
    )


def _promised(order: tuple[float, ...], images: Images, rule: Cuts) -> Tensor:
    # the radius (N, K) that each expert would certify
    counts, labels, about = read_image_votes(VOTES, order)
    if images.fingerprint() != about["images"]:
        raise ValueError(
            f"router_order: {VOTES.name} holds votes about other images; wanted --data to be those of "
            "data/README.md"
        )
    own = torch.from_numpy(counts[np.arange(len(labels)), :, labels])
    level = rule.split(len(order), ALPHA).experts[0]
    radii = mapped_radii(own, n=about["n"], draws=SHIPPED.n, alpha=level, sigmas=order)
    return torch.from_numpy(radii).float()


def _rule(order: tuple[float, ...]) -> Cuts:
    # a cut has the larger noise of the two levels that it parts
    return Cuts(tuple(max(both) for both in pairwise(order)))


def _certified(
    name: str,
    order: tuple[float, ...],
    cuts: list[Classifier],
    experts: dict[float, Classifier],
    test: Images,
    out: Path,
) -> pd.DataFrame:
    how = quick(next(cuts[0].parameters()).device)
    spec = DualSpec(
        estimator=_rule(order), sigmas=order, seed=0, n=SHIPPED.n, n_estimator=SIZE.n_estimator, alpha=ALPHA,
        **how,
    )  # fmt: skip
    return certify_dual_table(
        cuts,
        [experts[s] for s in order],
        test,
        Shelf(out).answers(table_name(name)),
        spec=spec,
        recorded=[SHIPPED.certificates(s) for s in order],
        skip=SIZE.skip,
        max_images=SIZE.images,
        progress=False,
    )


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
