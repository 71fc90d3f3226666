"""`python -m benchmarks.combined_experts --data folder:PATH`: experts trained through a combiner.

From the shipped networks, their tables and the shipped combiner it makes, each once and into `--out`: the
experts trained for one epoch through that combiner, and each of them trained for its own radius by two bounds
instead; their tables; a combiner that is learnt anew from their votes about training images; and
`comparison_combined.csv`, all of them by the same rules on the same test images. Hours on two CPU cores; each
of `--parts` can run by itself, several at a time where none needs another, and goes on where it was killed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.combiners import CHOSEN, DRAWS, ORDER, SEED, STEP, certify, for_weights
from benchmarks.quality import (
    ALPHA,
    BOTH,
    SHIPPED,
    SHIPPED_SYSTEMS,
    SIGMAS,
    InParts,
    at_radii,
    by_both_rules,
    certified,
    make_parts,
    part_options,
    read_parts,
)
from dualrs_lab.combine import (
    CombinedRadius,
    Combiner,
    combine_tables,
    learn_combiner,
    read_combiner,
    read_image_votes,
)
from dualrs_lab.dual import compare
from dualrs_lab.evidence import read_table
from dualrs_lab.experiment import Experiment, Shelf
from dualrs_lab.files import replace_text
from dualrs_lab.models import Classifier, load_checkpoint
from dualrs_lab.runtime import pick_device
from dualrs_lab.smoothing import GridNoise, Spec, certify_table, image_votes
from dualrs_lab.training import Gaussian, TrainConfig, new_network, train_checkpoint, train_together

__all__ = ["PARTS", "Bench", "board", "main"]

TOGETHER, ALONE = "combiner", "alone"  # the radius that experts are trained for
NAMES = {TOGETHER: "combined", ALONE: "alone"}  # what parts and files are called
CALLED = {TOGETHER: "trained together", ALONE: "trained alone"}  # in the comparison
ACCURACY = 0.3  # weight of the cross-entropy, as for the experts of a cascade
TUNED = TrainConfig(epochs=1, seed=0, batch=128, lr=0.05)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    config: TrainConfig = TUNED
    step: int = STEP  # every so many-th training image is voted on
    draws: int = DRAWS
    skip: int = 40  # every so many-th test image is certified
    starts: int = 3
    changes: int = 100_000
    plain: bool = False  # networks as they are, without a quicker copy


FULL = Size()
TOY = Size(
    config=TrainConfig(epochs=1, seed=0, batch=64, lr=0.05, crop=0, flip=False),
    step=20, draws=40, skip=20, starts=2, changes=400, plain=True,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bench(InParts):
    """What all parts share; `first` are the experts as they were, with the `shelf` of their combiner."""

    first: Experiment
    shelf: Shelf

    @cached_property
    def kept(self) -> Combiner:
        """The combiner that the experts are trained through."""
        return read_combiner(self.shelf.combiner(CHOSEN))

    @property
    def files(self) -> Experiment:
        """Where the new experts and their tables go; what is missing is an error that says who makes it."""
        return replace(self.first, folder=self.out)

    def expert(self, sigma: float) -> Classifier:
        """As it was."""
        return load_checkpoint(self.first.made.expert(sigma), device=self.device)[0]

    def tuned(self, sigma: float, through: str) -> Classifier:
        """As it was trained."""
        return load_checkpoint(self.files.made.tuned(sigma, through=through), device=self.device)[0]

    def tables(self, through: str) -> dict[float, pd.DataFrame]:
        """Of each expert by itself; of those that were trained alone, as far as there are any."""
        files = self.files.made if through == TOGETHER else self.files
        paths = {s: files.tuned_certificates(s, through=through) for s in SIGMAS}
        return {s: read_table(path) for s, path in paths.items() if path.exists()}

    def combiner(self, through: str) -> Path:
        """Where the one that is learnt anew is kept."""
        return Shelf(self.out).combiner(NAMES[through])

    def votes(self, through: str) -> Path:
        """Where the votes are kept that it is learnt from."""
        return self.out / f"votes_{NAMES[through]}.safetensors"


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing of the parts; print, write and return the comparison, if it is one of them."""
    args = read_parts(part_options("combined_experts", __doc__, PARTS), argv)
    device = pick_device(args.device)
    if args.toy:
        bench = _toy(args.out, device)
    else:
        given = {"data": args.data, "device": device, "size": FULL}
        bench = Bench(first=SHIPPED, shelf=SHIPPED_SYSTEMS, out=args.out, **given)
    return make_parts(PARTS, args.parts, bench)


def _together(bench: Bench) -> None:
    _trained(bench, TOGETHER, bench.kept)


def _alone(bench: Bench, sigma: float) -> None:
    _trained(bench, ALONE, Combiner.single((sigma,), 0))


def _trained(bench: Bench, through: str, combiner: Combiner) -> None:
    sigmas = combiner.sigmas
    train_together(
        [bench.files.tuned(s, through=through) for s in sigmas],
        lambda k: bench.expert(sigmas[k]),
        bench.train,
        objective=CombinedRadius(combiner=combiner, accuracy=ACCURACY),
        config=bench.size.config,
        device=bench.device,
        progress=False,
    )


def _vote(bench: Bench, through: str) -> None:
    size, images = bench.size, bench.train
    image_votes(
        [bench.tuned(s, through) for s in SIGMAS],
        images.select(range(0, len(images), size.step)),
        bench.votes(through),
        sigmas=SIGMAS,
        n=size.draws,
        seed=SEED,
        **bench.how,
    )


def _learn(bench: Bench, through: str) -> None:
    counts, labels, about = read_image_votes(bench.votes(through), ORDER)
    learning = for_weights(CHOSEN, starts=bench.size.starts, changes=bench.size.changes)
    learn_combiner(counts, labels, ORDER, learning=learning, path=bench.combiner(through), about=about)


def _certify(bench: Bench, sigma: float, through: str) -> None:
    model, size = bench.tuned(sigma, through), bench.size
    certified(model, bench.test, bench.files, sigma, size.skip, how=bench.how, through=through)


def _board(bench: Bench) -> pd.DataFrame:
    tables = bench.tables(TOGETHER)
    certify(read_combiner(bench.combiner(TOGETHER)), tables, bench.out / "combined_tuned.tsv")
    found = board(bench)
    written = found.round(6).to_csv(lineterminator="\n")
    replace_text(bench.out / "comparison_combined.csv", written)
    return found


def board(bench: Bench) -> pd.DataFrame:
    """Experts before and after, one by one and combined, on the test images that all tables hold.

    Those that were trained alone are there as far as their parts were run, and combined with the others as
    they began. Only beside these is it seen what training *through* the combiner brings.
    """
    singles, tables = bench.first.singles(SIGMAS), {t: bench.tables(t) for t in (ALONE, TOGETHER)}
    tables = {through: own for through, own in tables.items() if own}
    others = {"combiner": combine_tables(singles, combiner=bench.kept, alpha=ALPHA)}
    for through, own in tables.items():
        others |= by_both_rules(CALLED[through], own)
    for through, own in tables.items():
        whole, called = _on_the_images_of(singles, own) | own, f"{CALLED[through]}, combiner"
        others[f"{called} as it was"] = combine_tables(whole, combiner=bench.kept, alpha=ALPHA)
        if through == TOGETHER or bench.combiner(through).exists():
            anew = read_combiner(bench.combiner(through))
            others[called] = combine_tables(whole, combiner=anew, alpha=ALPHA)
    found = at_radii(compare(singles, others=others))
    for through, own in tables.items():
        each = at_radii(compare(own))
        for bound in ("envelope", f"envelope{BOTH}", "oracle", f"oracle{BOTH}"):
            found.loc[f"{CALLED[through]}, {bound}"] = each.loc[bound]
    return found


def _on_the_images_of(
    singles: Mapping[float, pd.DataFrame], own: Mapping[float, pd.DataFrame]
) -> dict[float, pd.DataFrame]:
    known = next(iter(own.values()))["idx"]
    return {s: table[table["idx"].isin(known)].reset_index(drop=True) for s, table in singles.items()}


def _parts() -> dict[str, Callable[[Bench], Any]]:
    """Each with what it makes; those that another one needs come before it."""
    parts: dict[str, Callable[[Bench], Any]] = {NAMES[TOGETHER]: _together}
    parts |= {f"{NAMES[ALONE]}-{s:g}": partial(_alone, sigma=s) for s in SIGMAS}
    for through, name in NAMES.items():
        parts |= {f"certify-{name}-{s:g}": partial(_certify, sigma=s, through=through) for s in SIGMAS}
        parts |= {f"votes-{name}": partial(_vote, through=through)}
        parts |= {f"learn-{name}": partial(_learn, through=through)}
    return parts | {"board": _board}


PARTS = _parts()


def _toy(out: Path, device: torch.device) -> Bench:
    """Everything tiny, for a dry run: small experts for the embedded digits, with tables and a combiner."""
    folder = out / "first"
    first = Experiment(folder=folder, data="digits", model="digits_narrow", n=200)
    given = {"data": "digits", "device": device, "size": TOY}
    bench = Bench(first=first, shelf=Shelf(folder), out=out, **given)
    models = [_toy_expert(bench, sigma) for sigma in SIGMAS]
    votes, few = folder / "votes.safetensors", bench.train.select(range(0, len(bench.train), TOY.step))
    image_votes(models, few, votes, sigmas=SIGMAS, n=TOY.draws, seed=SEED, **bench.how)
    counts, labels, about = read_image_votes(votes, ORDER)
    learning = for_weights(CHOSEN, starts=TOY.starts, changes=TOY.changes)
    kept = bench.shelf.combiner(CHOSEN)
    learn_combiner(counts, labels, ORDER, learning=learning, path=kept, about=about)
    return bench


def _toy_expert(bench: Bench, sigma: float) -> Classifier:
    model, _ = train_checkpoint(
        bench.first.expert(sigma),
        lambda: new_network(bench.first.model, bench.train, seed=0),
        bench.train,
        objective=Gaussian(sigma=sigma),
        config=replace(TOY.config, lr=0.1),
        device=bench.device,
        progress=False,
    )
    spec = Spec(noise=GridNoise(sigma), seed=0, n=bench.first.n, alpha=ALPHA, **bench.how)
    table = bench.first.certificates(sigma)
    certify_table(model, bench.test, table, spec=spec, skip=TOY.skip, progress=False)
    return model


if __name__ == "__main__":
    main()
