"""`python -m benchmarks.quality --data folder:PATH`: systems with several noise levels on CIFAR-10.

From the shipped networks at sigma = 0.25, 0.5, 1.0 and their tables it makes, each once and into `--out`:
a router with its table (published and routed certificate), the experts trained together for the radius of
their cascade, their tables, and `comparison*.csv`: every rule on the same images at the same total alpha.
About two hours on two CPU cores; a run that was killed goes on where it stopped.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from dualrs_lab.cascade import Cascade, CascadeRadius, from_tables
from dualrs_lab.combine import Combiner, combine_tables, read_combiner
from dualrs_lab.data import Images, load_images
from dualrs_lab.dual import (
    Cuts,
    DualSpec,
    Stakes,
    certify_dual_table,
    compare,
    curves,
    mapped_radii,
    numbered,
    train_router,
)
from dualrs_lab.evidence import reclaimed
from dualrs_lab.experiment import Experiment, Shelf
from dualrs_lab.files import replace_text
from dualrs_lab.models import Classifier, load_checkpoint, with_head
from dualrs_lab.runtime import pick_device, pick_dtype
from dualrs_lab.smoothing import FastPath, GridNoise, Spec, certify_table, label_votes
from dualrs_lab.training import TrainConfig, train_together

__all__ = [
    "InParts",
    "at_radii",
    "by_both_rules",
    "certified",
    "certified_dual",
    "main",
    "make_parts",
    "part_options",
    "quick",
    "read_parts",
    "trained_router",
]

SHIPPED = Experiment.shipped(Path(__file__).resolve().parent.parent / "data")
SHIPPED_SYSTEMS = Shelf(Path(__file__).resolve().parent.parent / "data", "cifar10_systems")
HANDICAPS = (0.0, 0.5, 1.0)  # of σ = 1, 0.5 and 0.25, where whoever is surest answers
SIGMAS, ALPHA, N = (0.25, 0.5, 1.0), 0.001, SHIPPED.n
RADII = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5]
# Majorities only, and a cascade that leaves more to small sigmas.
PLAIN, STRICTER, DIAL = Cascade(SIGMAS[::-1]), Cascade(SIGMAS[::-1], (0.3, 0.0, 0.0)), ", t = 0.3"
BOTH = ", two bounds"  # how names of systems end whose radii look at the rival's votes, too


@dataclass(frozen=True, kw_only=True)
class InParts:
    """What the parts of a benchmark share: where results go, on which images, and how votes are sampled."""

    out: Path
    data: str
    device: torch.device
    size: Any  # of the benchmark; networks stay as they are where it is `plain`

    @cached_property
    def train(self) -> Images:
        """Images to train on and to vote on."""
        return load_images(self.data, "train")

    @cached_property
    def test(self) -> Images:
        """Images to certify."""
        return load_images(self.data, "test")

    @property
    def how(self) -> dict[str, Any]:
        """How votes are sampled."""
        return {"dtype": torch.float32, "fast": FastPath.plain()} if self.size.plain else quick(self.device)


def make_parts(
    parts: Mapping[str, Callable[[Any], Any]], names: Sequence[str] | None, bench: object
) -> pd.DataFrame:
    """Make some parts, in their order, or all; print and return the table that the last one gives."""
    found = None
    for name in names or parts:
        print(f"part {name}", flush=True)
        found = parts[name](bench)
    if found is None:
        return pd.DataFrame()
    print((100 * found).round(1).to_string())
    return pd.DataFrame(found)


def part_options(
    name: str, about: str | None, parts: Mapping[str, object], *, toy: bool = True
) -> argparse.ArgumentParser:
    """The command line of a benchmark in parts, for `read_parts`; `about` is the docstring of its module.

    Only with `toy` has it a dry run.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=(about or "").split("\n\n")[0]
    )
    add = parser.add_argument
    data = "CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)"
    add("--data", required=not toy, help=data)
    add("--parts", nargs="+", choices=[*parts], metavar="PART", help=f"{', '.join(parts)} (all of them)")
    if toy:
        add("--toy", action="store_true", help="everything tiny and on the embedded digits, for a dry run")
    add("--threads", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs") / name, help="folder for the results (%(default)s)")
    return parser


def read_parts(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for, with as many threads; it ends unless there are images."""
    args = parser.parse_args(argv)
    if not args.data and not args.toy:
        parser.error("give --data, or --toy")
    torch.set_num_threads(args.threads or torch.get_num_threads())
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    """Make what is missing; print, write and return the comparisons."""
    args = _options(argv)
    device, out = pick_device(args.device), args.out
    train, test = load_images(args.data, "train"), load_images(args.data, "test")
    experts = {s: load_checkpoint(SHIPPED.expert(s), device=device)[0] for s in SIGMAS}
    singles, own_files = SHIPPED.singles(SIGMAS), replace(SHIPPED, folder=out)
    cuts = _router(train, experts, out, args.step)
    dual = certified_dual(out / "dual.tsv", cuts, experts, test, rule=_rule())
    tuned = _tuned(train, experts, own_files)
    how = quick(device)
    own = {s: certified(tuned[s], test, own_files, s, args.tuned_skip, how=how) for s in SIGMAS}
    found = {"comparison": board(singles, dual), "comparison_tuned": tuned_board(singles, own)}
    for called, table in found.items():
        replace_text(out / f"{called}.csv", table.round(6).to_csv(lineterminator="\n"))
        print((100 * table).round(1).to_string(), end="\n\n")
    return found


def board(singles: dict[float, pd.DataFrame], dual: pd.DataFrame) -> pd.DataFrame:
    """Every rule for the shipped experts, on the images that all tables hold."""
    stricter = from_tables(singles, cascade=STRICTER, alpha=ALPHA)
    surest = combine_tables(singles, combiner=Combiner.surest(SIGMAS[::-1], HANDICAPS), alpha=ALPHA)
    others = {f"cascade, routed{DIAL}": stricter, "whoever is surest": surest}
    if (kept := SHIPPED_SYSTEMS.combiner("even")).exists():
        learnt = combine_tables(singles, combiner=read_combiner(kept), alpha=ALPHA)
        others["combiner"] = learnt
    return at_radii(compare(singles, dual, others=others))


def tuned_board(singles: dict[float, pd.DataFrame], own: dict[float, pd.DataFrame]) -> pd.DataFrame:
    """The experts trained together, alone and in their cascade, beside the shipped ones on their images."""
    alone = by_both_rules("tuned", own)
    cascades = {
        f"tuned cascade, routed{dial}": from_tables(own, cascade=cascade, alpha=ALPHA)
        for dial, cascade in {"": PLAIN, DIAL: STRICTER}.items()
    }
    found = at_radii(compare(singles, others=alone | cascades))
    for oracle in ("oracle", f"oracle{BOTH}"):
        found.loc[f"tuned, {oracle}"] = at_radii(compare(own)).loc[oracle]
    return found


def by_both_rules(called: str, own: Mapping[float, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Experts one by one, by Cohen's rule and by two bounds, each under a name for the comparison."""
    return {
        f"{called}, σ = {s:g}{end}": reclaimed(own[s], rule)
        for rule, end in (("cohen", ""), ("two-bounds", BOTH))
        for s in sorted(own)
    }


def at_radii(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What is shown of a comparison."""
    return curves(tables, RADII).rename_axis("rule")


def _router(train: Images, experts: dict[float, Classifier], out: Path, step: int) -> list[Classifier]:
    """Two cuts that begin as the experts of their noise levels, from labels of every `step`-th image."""
    rule, images = _rule(), train.select(range(0, len(train), step))
    device = next(experts[0.5].parameters()).device
    votes = label_votes(
        list(experts.values()),
        images,
        out / "labels.safetensors",
        sigmas=SIGMAS,
        seed=7,
        dtype=pick_dtype(device),
    )
    return trained_router(out / "router", experts, images, votes, rule=rule, n=100, epochs=3)


def trained_router(
    path: Path,
    experts: Mapping[float, Classifier],
    images: Images,
    votes: Tensor,
    *,
    rule: Cuts,
    n: int,
    epochs: int,
    files: Experiment = SHIPPED,
) -> list[Classifier]:
    """Cuts for experts in their order, from how many of `n` votes (N, K) of each were for the label."""
    order = tuple(experts)
    level = rule.split(len(order), ALPHA).experts[0]
    radii = torch.from_numpy(mapped_radii(votes, n=n, draws=files.n, alpha=level, sigmas=order)).float()
    return train_router(
        path,
        lambda k: with_head(experts[rule.sigmas[k]], classes=2, seed=k),
        numbered(images),
        objective=Stakes(radii=radii, sigmas=rule.sigmas),
        config=TrainConfig(epochs=epochs, seed=0, batch=256, lr=0.05),
        device=next(experts[order[0]].parameters()).device,
        progress=False,
    )


def _rule() -> Cuts:
    return Cuts((0.5, 1.0))


def certified_dual(
    path: Path,
    cuts: Sequence[Classifier],
    experts: Mapping[float, Classifier],
    test: Images,
    *,
    rule: Cuts,
    files: Experiment = SHIPPED,
    n_estimator: int = 2000,
    skip: int = 20,
    images: int = 500,
) -> pd.DataFrame:
    """The table of a dual system, whose experts have tables in `files` and come in the order of the cuts."""
    how = quick(next(cuts[0].parameters()).device)
    order = tuple(experts)
    spec = DualSpec(
        estimator=rule, sigmas=order, seed=0, n=files.n, n_estimator=n_estimator, alpha=ALPHA, **how
    )
    return certify_dual_table(
        cuts,
        list(experts.values()),
        test,
        path,
        spec=spec,
        recorded=[files.certificates(s) for s in order],
        skip=skip,
        max_images=images,
        progress=False,
    )


def _tuned(train: Images, experts: dict[float, Classifier], files: Experiment) -> dict[float, Classifier]:
    """The experts trained together for one epoch, in the order of asking."""
    order = SIGMAS[::-1]
    made = train_together(
        [files.tuned(s) for s in order],
        lambda k: experts[order[k]],
        train,
        objective=CascadeRadius(sigmas=order, accuracy=0.3),
        config=TrainConfig(epochs=1, seed=0, batch=128, lr=0.05),
        device=next(experts[0.5].parameters()).device,
        progress=False,
    )
    return dict(zip(order, made, strict=True))


def certified(
    model: Classifier,
    test: Images,
    files: Experiment,
    sigma: float,
    skip: int,
    *,
    how: Mapping[str, Any],
    through: str = "cascade",
) -> pd.DataFrame:
    """The table of an expert that was trained on, with as many draws as `files` say."""
    spec = Spec(noise=GridNoise(sigma), seed=0, n=files.n, alpha=ALPHA, **how)
    made_from = {"checkpoint": files.tuned(sigma, through=through).name, "trained_sigma": sigma}
    return certify_table(
        model,
        test,
        files.tuned_certificates(sigma, through=through),
        spec=spec,
        skip=skip,
        progress=False,
        info=made_from,
    )


def quick(device: torch.device) -> dict[str, Any]:
    """How networks are sampled: compiled, in the quickest precision."""
    return {"dtype": pick_dtype(device), "fast": FastPath(compile=True, cuda_graph=device.type == "cuda")}


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH (or another encoding of it)")
    add("--step", type=int, default=3, help="label every so many-th training image (%(default)s)")
    add("--tuned-skip", type=int, default=40, help="certify every so many-th test image with these experts")
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/quality"), help="folder for the results (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
