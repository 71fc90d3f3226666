"""`python -m benchmarks.between --data folder:PATH`: an expert for a noise level between those of the others.

10,000 votes at σ = 0.5 certify no radius beyond 1.6, and σ = 1 pays for its reach with accuracy at all other
radii. 0.7 is about the least level that certifies 2. An expert for it goes on by consistency from the one by
CAT-RS for σ = 0.5 (part `network`, under an hour on two cores). What else was tried for it, at equal time, is
judged by votes about every second held-out image (`tried`, an hour and a half). What the network is worth in
cascades whose experts may be silent, beside σ = 1, is learnt from votes about all of them (`worth`, minutes),
which `benchmarks.silence --networks between` counts and from which it certifies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.dial import BETWEEN, CAT_RS, TAUGHT, network_of
from benchmarks.gpu.certifying import RADII, SEED, STRENGTH, keep, split
from benchmarks.gpu.trainer import Consistent, Recipe
from benchmarks.silence import ASKED, Bench, count_at, in_parts
from benchmarks.silent_votes import GOALS, NEAREST, TOLD, alone, counted, worth
from dualrs_lab.data import Images, load_images
from dualrs_lab.files import digest, replace_text
from dualrs_lab.models import Classifier, load_checkpoint

__all__ = ["LEGS", "LEVEL", "STARTS", "TRIED", "Leg", "main", "record", "trained"]

LEVEL = ASKED[BETWEEN][0]
STARTS = (0.5, 1.0)  # levels of the experts to go on from; the first one is that of the network
N, SKIP = 400, 2  # votes about every so many-th held-out image, by which arms are judged


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One schedule of training: so many seconds of this process, on all of its cores together."""

    seconds: float
    lr: float


LEGS = (Leg(seconds=1500, lr=0.03), Leg(seconds=3600, lr=0.04))
RECIPE = Recipe(batch=128, warmup=0.1, ramp=0.01, average=0.1, statistics=20)
TRIED = {
    **{f"from σ = {start:g}": start for start in STARTS},
    f"σ = {STARTS[1]:g} as it is, asked at {LEVEL:g}": None,
}


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing of the parts; print, write and return the table of the last one."""
    return in_parts("between", __doc__ or "", PARTS, argv, kind=BETWEEN, n=N, skip=SKIP)


def trained(path: Path, start: Path, images: Images, legs: Sequence[Leg], device: torch.device) -> Classifier:
    """The network at `path`, which goes on from another for `LEVEL`; it is trained unless it is there."""
    if not path.exists():
        taught, told = images.select(split(images)[0]), list[dict[str, Any]]()
        model, knobs = load_checkpoint(start, device=device)[0], {"sigma": LEVEL, "strength": STRENGTH[0.5]}
        for seed, leg in enumerate(legs, SEED):
            trainer = Consistent(model, taught, replace(RECIPE, lr=leg.lr), partial(print, flush=True))
            model, how = trainer.within(leg.seconds, model, steps=100_000, pace=6, seed=seed, **knobs)
            told.append(how)
        keep(path, model, images, LEVEL, record(start, told))
    return load_checkpoint(path, device=device)[0]


def record(start: Path, legs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the record of a network says of its training, from what each leg was."""
    history = [{"leg": number} | row for number, leg in enumerate(legs) for row in leg["history"]]
    told = [{name: value for name, value in leg.items() if name != "history"} for leg in legs]
    about = {"objective": "consistency", "sigma": LEVEL, "strength": STRENGTH[0.5]}
    return about | {"start": {start.name: digest(start)}, "legs": told, "history": history}


def _network(bench: Bench) -> None:
    path = bench.out / network_of(LEVEL, BETWEEN).name
    trained(path, network_of(STARTS[0], CAT_RS), load_images(bench.data, "train"), LEGS, bench.device)
    print(path)


def _tried(bench: Bench) -> pd.DataFrame:
    images, rows, known = load_images(bench.data, "train"), dict[str, list[float]](), counted(TOLD)
    labels = known.labels[::SKIP]
    for sigma, counts in zip(known.levels, known.every()[::SKIP].swapaxes(0, 1), strict=True):
        rows[f"σ = {sigma:g}"] = alone(counts, labels, sigma)
    for number, (name, start) in enumerate(TRIED.items()):
        begun, made = network_of(start or STARTS[1], CAT_RS), bench.out / f"tried{number}.safetensors"
        network = (
            trained(made, begun, images, LEGS[:1], bench.device)
            if start
            else load_checkpoint(begun, device=bench.device)[0]
        )
        votes = count_at(bench, LEVEL, network, bench.out / f"tried{number}_votes.safetensors")
        rows[name] = alone(counted(votes, [LEVEL]).every()[:, 0], labels, LEVEL)
    found = pd.DataFrame.from_dict(rows, orient="index", columns=[f"{r:g}" for r in RADII])
    kept = found.round(6).to_csv(lineterminator="\n", index_label="arm")
    replace_text(bench.out / "between_tried.csv", kept)
    return found


def _worth(bench: Bench) -> pd.DataFrame:
    own = bench.votes if bench.votes.exists() else TAUGHT / bench.votes.name
    found = worth({CAT_RS: counted(TOLD), BETWEEN: counted(own, ASKED[BETWEEN])}, [*GOALS, NEAREST])
    replace_text(bench.out / "between.csv", found.round(6).to_csv(lineterminator="\n", index=False))
    return found.set_index(["goal", "networks"])


PARTS = {"network": _network, "tried": _tried, "worth": _worth}


if __name__ == "__main__":
    main()
