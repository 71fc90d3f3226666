"""`python -m benchmarks.dial --data folder:PATH`: cascades of the larger experts, chosen by held-out images.

For each noise level there are up to two networks, by consistency and by CAT-RS. Who is asked, from which
threshold on and with which share of alpha is learnt from the shipped votes about held-out training images;
every cascade that no other one beats there, at small radii and at large ones, is then certified from the
shipped tables of test images, without a draw. A quarter of an hour on one core.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks.gpu.certifying import ALPHA, RADII, SEED
from benchmarks.quality import SHIPPED
from dualrs_lab.cascade import Cascade, CascadeFront, cascade_front, from_tables
from dualrs_lab.data import load_images
from dualrs_lab.evidence import average_radius, certified_accuracy, keep_table, origin, read_table
from dualrs_lab.files import provenance, replace_text

__all__ = [
    "ALIKE", "BETWEEN", "CAT_RS", "CONSISTENCY", "LARGE", "NAMED", "SMALL", "SOUP", "TAUGHT", "VOTES",
    "certified", "chosen_for", "keep_cascade", "kind_at", "main", "network_of", "of_row", "table_of",
]  # fmt: skip

CONSISTENCY, CAT_RS, SOUP, BETWEEN = "consistency", "CAT-RS", "soup", "between"
DATA = SHIPPED.expert(0.5).parent.parent
WIDE, TAUGHT = DATA / "cifar10_wide", DATA / "cifar10_recipes"
VOTES = {
    CONSISTENCY: (WIDE / "cifar10_jpeg_wide_start_votes_held_out.safetensors", (0.12, 0.25, 0.5, 1.0)),
    CAT_RS: (TAUGHT / "cifar10_jpeg_wide_start_CAT-RS_votes.safetensors", (0.25, 0.5, 1.0)),
}
ORDER = (1.0, 0.5, 0.25, 0.12)

# What a certified image is worth at each of RADII.
SMALL = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
LARGE = (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0)
ALIKE = (1.0,) * len(RADII)
NAMED = {"alike": ALIKE, "small": tuple(3 * w + 1 for w in SMALL), "large": tuple(3 * w + 1 for w in LARGE)}


class Setting(NamedTuple):
    """A cascade, and which network it asks at each of its noise levels."""

    cascade: Cascade
    kinds: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Learn, certify; print, write and return a row for each cascade."""
    args = _options(argv)
    found = [*_learnt(args.data)]
    curves = np.asarray([curve for _, curve in found])
    pool = CascadeFront(tuple(RADII), tuple(setting.cascade for setting, _ in found), curves)
    chosen = {number: list[str]() for number in pool.undominated([SMALL, LARGE]).tolist()}
    for name, weights in NAMED.items():
        chosen.setdefault(pool.best(weights), []).append(name)
    for kind in VOTES:  # where there are networks of one recipe alone
        own = [number for number, (setting, _) in enumerate(found) if {*setting.kinds} == {kind}]
        best = max(own, key=lambda number: float(curves[number] @ ALIKE))
        chosen.setdefault(best, []).append(f"alike, {kind} alone")
    rows = [_row(found[number][0], curves[number], "; ".join(names)) for number, names in chosen.items()]
    dial = pd.DataFrame(rows).sort_values(["held_out_small", "held_out_large"]).reset_index(drop=True)
    replace_text(args.out / "dial.csv", dial.round(6).to_csv(lineterminator="\n", index=False))
    back = of_row(chosen_for(dial, f"alike, {CAT_RS} alone"))
    keep_cascade(args.out / "cascade_falling_back.tsv", back.cascade, certified(back), back.kinds)
    print(dial.round(3).to_string(index=False))
    return dial


def chosen_for(dial: pd.DataFrame, name: str) -> "pd.Series[Any]":
    """The row of the dial that was chosen for this."""
    named = dial["chosen_for"].fillna("").map(lambda names: name in str(names).split("; "))
    return dial[named].iloc[0]


def of_row(row: "Mapping[str, object] | pd.Series[Any]") -> Setting:
    """The cascade of a row of the dial."""
    told = (str(row[name]).split() for name in ("sigmas", "thresholds", "shares"))
    sigmas, limits, shares = (tuple(float(word) for word in words if word != "nan") for words in told)
    return Setting(Cascade(sigmas, limits, shares), tuple(str(row["kinds"]).split()))


def certified(setting: Setting) -> pd.DataFrame:
    """The table of a cascade, from those of its experts about test images."""
    asked = zip(setting.cascade.sigmas, setting.kinds, strict=True)
    tables = {sigma: read_table(table_of(sigma, kind)) for sigma, kind in asked}
    return from_tables(tables, cascade=setting.cascade, alpha=ALPHA)


def table_of(sigma: float, kind: str) -> Path:
    """Where the certificates of an expert are."""
    network = network_of(sigma, kind)
    return network.with_name(f"{network.stem}_smoothed{sigma:g}_n10000.tsv")


def kind_at(sigma: float, kind: str) -> str:
    """Which network answers at a noise level: one for a level between those of CAT-RS goes with these."""
    return CAT_RS if kind == BETWEEN and sigma in VOTES[CAT_RS][1] else kind


def network_of(sigma: float, kind: str) -> Path:
    """Where an expert is."""
    kind = kind_at(sigma, kind)
    folder, more = (WIDE, "") if kind == CONSISTENCY else (TAUGHT, f"_{kind}")
    return folder / f"cifar10_jpeg_wide_start{more}_sigma{sigma:g}_seed{SEED}.safetensors"


def _learnt(data: str) -> Iterator[tuple[Setting, NDArray[np.float64]]]:
    # for each choice of networks the cascades that no other one beats, by votes about held-out images
    labels = load_images(data, "train").labels.numpy()
    votes = {kind: load_file(path) for kind, (path, _) in VOTES.items()}
    index = votes[CONSISTENCY]["index"]
    if not (votes[CAT_RS]["index"] == index).all():
        raise ValueError("dial: the votes of both kinds are about different images")
    seen = set[Setting]()
    for kinds in product(*([kind for kind, (_, sigmas) in VOTES.items() if s in sigmas] for s in ORDER)):
        counts = [
            votes[kind]["counts"][:, VOTES[kind][1].index(s)] for s, kind in zip(ORDER, kinds, strict=True)
        ]
        front = _front([count.astype(np.int64) for count in counts], labels[index])
        asks = [tuple(kinds[ORDER.index(s)] for s in cascade.sigmas) for cascade in front.cascades]
        chosen = {*front.undominated([SMALL, LARGE]).tolist(), *map(front.best, NAMED.values())}
        worth = front.curves @ ALIKE
        for kind in VOTES:  # and the best of one recipe alone
            chosen.add(int(np.where([{*own} == {kind} for own in asks], worth, -1).argmax()))
        for number in chosen:
            setting = Setting(front.cascades[number], asks[number])
            if setting not in seen:
                seen.add(setting)
                yield setting, front.curves[number]


def _front(counts: Sequence[NDArray[np.int64]], labels: NDArray[np.int64]) -> CascadeFront:
    # shares of votes count, so files with fewer votes of an image need no other treatment
    return cascade_front(np.stack(counts, axis=1), labels, ORDER, radii=RADII, alpha=ALPHA)


def _row(setting: Setting, curve: NDArray[np.float64], name: str) -> dict[str, object]:
    cascade, table = setting.cascade, certified(setting)
    told = {
        "chosen_for": name,
        "kinds": " ".join(setting.kinds),
        "sigmas": " ".join(f"{s:g}" for s in cascade.sigmas),
        "thresholds": " ".join(f"{limit:g}" for limit in cascade.limits),
        "shares": " ".join(map(repr, cascade.shares)),
        "held_out_small": float(curve @ SMALL / sum(SMALL)),
        "held_out_large": float(curve @ LARGE / sum(LARGE)),
    }
    reached = certified_accuracy(table, RADII).tolist()
    return (
        told | {f"{r:g}": at for r, at in zip(RADII, reached, strict=True)} | {"acr": average_radius(table)}
    )


def keep_cascade(path: Path, cascade: Cascade, table: pd.DataFrame, kinds: Sequence[str]) -> None:
    """Keep the table of a cascade with its settings and kinds of networks, in place of an older one."""
    identity = {"method": "cascade", "alpha": ALPHA, **cascade.settings(), **origin(table)}
    identity |= {"thresholds": cascade.limits}
    record = {"identity": identity, "kinds": kinds, "provenance": provenance()}
    for older in (path, path.with_suffix(".json")):
        older.unlink(missing_ok=True)
    keep_table("benchmarks.dial", path, table, record)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dial", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)")
    add("--out", type=Path, default=Path("runs/dial"), help="folder for the results (%(default)s)")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    main()
