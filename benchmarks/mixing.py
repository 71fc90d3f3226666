"""`python -m benchmarks.mixing --data folder:PATH`: mixes of an accurate and a robust network on images.

Trains the accurate network, attacks mixes at many weights, fits MixedNUTS on held-out images, trains the head
of an adaptive mix, and evaluates all of them on the same test images. Networks, tables and `systems.csv` go
into `--out`, each made once; a run that was killed goes on where it stopped. The defaults suit a CPU.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from dualrs_lab.attacks import L2, PGD, STANDARD, Threat
from dualrs_lab.data import Images, hold_out, load_images, to_float
from dualrs_lab.evidence import read_table
from dualrs_lab.experiment import Shelf
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.mixing import (
    PUBLISHED,
    AdaptiveMix,
    Mix,
    MixingLoss,
    NutsMix,
    answer_margins,
    attacked_logits,
    evaluate_systems_table,
    fit_nuts,
    make_head,
    mix_curves,
    summarise_systems,
    train_mixing,
)
from dualrs_lab.models import Classifier, load_checkpoint
from dualrs_lab.runtime import describe, pick_device
from dualrs_lab.training import Standard, TrainConfig, new_network, train_checkpoint

__all__ = ["main"]

EPS = 8 / 255
WEIGHTS = (0.0, 0.3, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0)
LOGIT_WEIGHTS = (0.3, 0.5, 0.7, 0.8, 0.9)  # of the published mix of logits
SCALES = (2.0, 4.0)  # by which the logits of h are multiplied
CERTIFIED_WEIGHTS = (0.0, 0.5, 0.55, 0.6, 0.67, 0.76, 0.85, 0.9, 0.95, 1.0)
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
FORMS = {
    "closed": {"form": "closed", "rule": "cohen"},
    "two-bounds": {"form": "exact", "rule": "two-bounds"},
    "smoothing": {"form": "smoothing", "rule": "cohen"},
    "lipschitz": {"form": "lipschitz", "rule": "cohen"},
}
RANGES = ((0.5, 1.0), (0.6, 0.95), (0.7, 0.99))  # of the adaptive weight
AUTO = ("weight 0.8", "adaptive 0.5-1", "adaptive 0.7-0.99", "MixedNUTS")
KINDS = ("weights", "logits", "adaptive", "nuts")


class Bench(NamedTuple):
    """Both networks, and the images: for training the head, held out for fitting, and for evaluation."""

    accurate: Classifier
    robust: Classifier
    train: Images
    held_out: Images
    test: Images
    args: argparse.Namespace

    def mix(self, weight: float, **how: Any) -> Mix:
        """The mix of both networks."""
        return Mix(self.accurate, self.robust, weight, **how)

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self.robust.parameters()).device

    @property
    def shelf(self) -> Shelf:
        """Where the results go."""
        return Shelf(self.args.out)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing; print, write and return a row for each system."""
    args = _options(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    device = pick_device(args.device)
    train, test = load_images(args.data, "train"), load_images(args.data, "test")
    held_out, train = hold_out(train, args.held_out)
    if args.accurate:
        accurate, _ = load_checkpoint(args.accurate, device=device)
    else:
        accurate = _accurate(args, train, device)
    robust, _ = load_checkpoint(args.robust, device=device)
    bench = Bench(accurate, robust, train, held_out, test, args)
    parts = {
        "sharpened": _sharpened,
        "l2": _l2,
        "certified": _certified,
        "margins": _margins,
        "systems": _systems,
        "autoattack": _autoattack,
    }
    made = {}
    for part in args.parts:
        made[part] = parts[part](bench)
        print(made[part].to_string(), flush=True)
    return made[args.parts[-1]] if made else pd.DataFrame()


def _accurate(args: argparse.Namespace, train: Images, device: torch.device) -> Classifier:
    model, _ = train_checkpoint(
        Shelf(args.out).network("accurate"),
        lambda: new_network(args.model, train, seed=0),
        train,
        objective=Standard(),
        config=TrainConfig(epochs=args.epochs, seed=0, batch=args.batch),
        device=device,
        progress=False,
    )
    return model


def _sharpened(bench: Bench) -> pd.DataFrame:
    """Mixes with the logits of h multiplied first: a network that is unsure leaves the mix no margin."""
    systems: dict[str, nn.Module] = {
        f"h x {scale:g}, weight {a:g}": bench.mix(a, scales=(1.0, scale))
        for scale in SCALES
        for a in (0.55, 0.6, 0.7, 0.8)
    }
    return _judged("sharpened", systems, bench)


def _l2(bench: Bench) -> pd.DataFrame:
    systems: dict[str, nn.Module] = {
        f"weight {a:g}": bench.mix(a) for a in (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    }
    threat = Threat(eps=0.5, norm=L2(), seed=0, auto=(), mma=False, batch=125)
    return _judged("weights_l2", systems, bench, threat)


def _certified(bench: Bench) -> pd.DataFrame:
    """Clean accuracy of mixes with smoothed networks, from their votes, and what each form certifies."""
    parts = []
    for path in bench.args.tables:
        table = read_table(path)
        pixels, labels = bench.test.batch(torch.tensor(table["idx"].to_numpy()))
        if labels.tolist() != table["label"].tolist():
            raise ValueError(f"mixing: the labels of {path} are not those of the test images")
        with torch.no_grad():
            logits = bench.accurate(to_float(pixels.to(bench.device))).float().cpu().numpy()
        for form, how in FORMS.items():
            rows = mix_curves(table, logits, CERTIFIED_WEIGHTS, RADII, **how)
            parts.append(rows.assign(form=form))
    found = pd.concat(parts).sort_values(["sigma", "weight"], kind="stable")
    text = found.round(6).to_csv(index=False, lineterminator="\n")
    replace_text(bench.shelf.table("certified"), text)
    return found


def _systems(bench: Bench) -> pd.DataFrame:
    return _judged("systems", _compared(bench), bench)


def _compared(bench: Bench) -> dict[str, nn.Module]:
    """The kinds of systems that are asked for, by name: what none of them needs is not trained."""
    return {name: one for kind in bench.args.kinds for name, one in MADE[kind](bench).items()}


def _weights(bench: Bench) -> dict[str, nn.Module]:
    return {f"weight {a:g}": bench.mix(a) for a in WEIGHTS}


def _logits(bench: Bench) -> dict[str, nn.Module]:
    of_logits = PUBLISHED["R = 1 on logits"]
    return {f"logits {a:g}": bench.mix(a, scaling=of_logits) for a in LOGIT_WEIGHTS}


def _ranged(bench: Bench) -> dict[str, nn.Module]:
    adaptive = _adaptive(bench)
    return {f"adaptive {low:g}-{high:g}": adaptive.ranged(low, high) for low, high in RANGES}


def _adaptive(bench: Bench) -> AdaptiveMix:
    head = make_head("pooled", bench.accurate, bench.robust, shape=bench.train.shape, seed=0)
    mix, _ = train_mixing(
        bench.shelf.network("head"),
        AdaptiveMix(bench.accurate, bench.robust, head).to(bench.device),
        bench.train,
        objective=MixingLoss(
            eps=EPS,
            attack=PGD(steps=bench.args.steps, step=1.6 * EPS / bench.args.steps, best=False, blind=0.99),
        ),
        config=TrainConfig(epochs=bench.args.head_epochs, seed=0, batch=256, lr=0.05),
        progress=False,
    )
    return mix


def _nuts(bench: Bench) -> dict[str, nn.Module]:
    fitted = bench.held_out.select(range(bench.args.fitted))
    fit = fit_nuts(**attacked_logits(bench.robust, fitted, eps=EPS, seed=0))
    found = {"curve": vars(fit.curve), "weight": fit.weight, "kept": fit.kept, "lost": fit.lost}
    replace_json(
        bench.args.out / "nuts.json",
        {**found, "images": bench.args.fitted, "provenance": describe(bench.device)},
    )
    return {"MixedNUTS": NutsMix(bench.accurate, bench.robust, fit.curve, fit.weight)}


MADE = dict(zip(KINDS, (_weights, _logits, _ranged, _nuts), strict=True))


def _margins(bench: Bench) -> pd.DataFrame:
    """Margins of both networks on clean and on attacked test images: why mixing works."""
    networks = {"accurate": bench.accurate, "robust": bench.robust}
    table = answer_margins(networks, bench.test.spread(bench.args.images), eps=EPS, seed=0).round(6)
    replace_text(bench.shelf.table("margins"), table.to_csv(index=False, lineterminator="\n"))
    return table.groupby(["network", "images", "right"])["margin"].agg(["mean", "median", "size"])


def _autoattack(bench: Bench) -> pd.DataFrame:
    """Some of the systems under AutoAttack end to end, and under all other attacks with as many steps."""
    systems = _compared(bench)
    if unknown := {*bench.args.auto} - {*systems}:
        raise ValueError(f"mixing: got --auto {sorted(unknown)}; wanted some of {', '.join(systems)}")
    some = {name: systems[name] for name in bench.args.auto}
    threat = Threat(
        eps=EPS, seed=0, mma=False, auto=bench.args.auto_attacks, steps=bench.args.auto_steps, batch=50
    )
    return _judged("autoattack", some, bench, threat, bench.args.auto_images)


def _judged(
    name: str,
    systems: dict[str, nn.Module],
    bench: Bench,
    threat: Threat | None = None,
    images: int | None = None,
) -> pd.DataFrame:
    skip = bench.test.stride(images or bench.args.images)
    threat = threat or Threat(eps=EPS, seed=0, auto=(), mma=False, batch=125)
    place = bench.shelf.answers(name)
    table = evaluate_systems_table(
        bench.accurate, bench.robust, systems, bench.test, place, threat=threat, skip=skip, progress=False
    )
    summary = summarise_systems(table)
    replace_text(bench.shelf.table(name), summary.round(6).to_csv(lineterminator="\n"))
    return summary


def _some_kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := {*kinds} - {*KINDS}:
        raise argparse.ArgumentTypeError(f"got {sorted(unknown)}; wanted some of {', '.join(KINDS)}")
    return kinds


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mixing", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH, or a data set's name")
    add("--accurate", type=Path, metavar="FILE", help="checkpoint of the accurate network: none is trained")
    add("--model", default="fast_narrow", help="of the accurate network (%(default)s)")
    add("--robust", type=Path, required=True, metavar="FILE", help="checkpoint of the robust network")
    add("--tables", type=Path, nargs="*", default=[], help="of smoothed networks, for the part certified")
    add("--parts", type=lambda text: [part for part in text.split(",") if part],
        default=["margins", "systems"],
        help="margins,systems (default), sharpened, l2, certified, autoattack; empty: only g")  # fmt: skip
    add("--kinds", type=_some_kinds, default=[*KINDS], metavar="NAMES",
        help="comma-separated: what is made of the part systems (%(default)s)")  # fmt: skip
    add("--epochs", type=int, default=12, help="of the accurate network (%(default)s)")
    add("--head-epochs", type=int, default=2, help="of the adaptive weight (%(default)s)")
    add("--steps", type=int, default=4, help="of the attack that the head learns from (%(default)s)")
    add("--images", type=int, default=1000, help="test images (%(default)s)")
    add("--fitted", type=int, default=1000, help="held-out images that MixedNUTS is fitted on (%(default)s)")
    add("--auto-images", type=int, default=100, help="test images for AutoAttack (%(default)s)")
    add("--auto", type=lambda text: text.split(","), metavar="NAMES", default=[*AUTO],
        help="comma-separated: what AutoAttack judges of the part systems (%(default)s)")  # fmt: skip
    add("--auto-attacks", type=lambda text: tuple(text.split(",")), metavar="NAMES", default=STANDARD,
        help=f"parts of AutoAttack (default: {','.join(STANDARD)})")  # fmt: skip
    add("--auto-steps", type=int, default=100, help="of the other attacks there (%(default)s)")
    add("--held-out", type=int, default=2000, help="training images left out (%(default)s)")
    add("--batch", type=int, default=512)
    add("--threads", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/mixing"), help="folder for the results (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
