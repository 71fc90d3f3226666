"""`python -m benchmarks.pixels --data folder:PATH`: pixel-reweighted adversarial training and its controls.

For each seed, every arm starts from the same adversarially trained network (the warm-up) and goes on for a
few epochs with its own budget; then all are attacked on the same test images. With `--start`, all seeds start
from a network that is there, and differ in what is drawn. Networks, tables and `arms.csv` go into `--out`,
each made once; a run that was killed goes on where it stopped. The defaults suit a CPU: a small network, two
attack steps in training.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from dualrs_lab.attacks import PGD, Threat, evaluate_table, robust_accuracy, summarise_attacks
from dualrs_lab.data import Images, hold_out, load_images
from dualrs_lab.experiment import Shelf
from dualrs_lab.files import replace_text
from dualrs_lab.models import Classifier, load_checkpoint
from dualrs_lab.pixels import OtherImages, Pixels, RandomPixels, TopFraction, Uniform, mean_budget
from dualrs_lab.runtime import pick_device
from dualrs_lab.training import (
    INNER,
    Adversarial,
    Mart,
    Objective,
    Trades,
    TrainConfig,
    accuracy,
    new_network,
    train_checkpoint,
)

__all__ = ["main"]

EPS = 8 / 255
FRACTION = 0.3  # share of the pixels that are important
CORE = ("at", "part4", "uniform4", "random4", "others4", "part7", "uniform7")


def arms(attack: PGD) -> dict[str, Objective]:
    """Name -> objective; a number is epsilon_low in 1/255."""

    def part(low: int) -> Pixels:
        return Pixels(mask=TopFraction(fraction=FRACTION), high=EPS, low=low / 255)

    def mean(low: int) -> Uniform:
        return Uniform(eps=FRACTION * EPS + (1 - FRACTION) * low / 255)

    found: dict[str, Objective] = {"at": Adversarial(attack=attack)}
    for low in (4, 5, 6, 7):
        found[f"part{low}"] = Adversarial(budget=part(low), attack=attack)
        found[f"uniform{low}"] = Adversarial(budget=mean(low), attack=attack)
        found[f"random{low}"] = Adversarial(budget=RandomPixels(of=part(low)), attack=attack)
        found[f"others{low}"] = Adversarial(budget=OtherImages(of=part(low)), attack=attack)
    for name, budget in {"": Uniform(), "_part4": part(4), "_uniform4": mean(4)}.items():
        found[f"trades{name}"] = Trades(budget=budget, attack=attack)
        found[f"mart{name}"] = Mart(budget=budget, attack=attack)
    return found


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Make what is missing; print, write and return a row for each network."""
    args = _options(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    device = pick_device(args.device)
    train, test = load_images(args.data, "train"), load_images(args.data, "test")
    held_out, train = hold_out(train, args.held_out)
    shelf = Shelf(args.out)
    attack = PGD(steps=args.steps, step=1.25 * EPS / args.steps, best=False, blind=0.99)
    objectives = arms(INNER if args.steps == INNER.steps else attack)
    rows = []
    for seed, name in itertools.product(args.seeds, args.arms):
        warm = args.start or shelf.network("warmup", seed)
        if not args.start:
            config = TrainConfig(epochs=args.warmup, seed=seed, batch=args.batch, lr=0.1)
            _trained(warm, None, train, held_out, objectives["at"], config, device, args.model)
        config = TrainConfig(epochs=args.epochs, seed=1000 + seed, batch=args.batch, lr=args.lr)
        path = shelf.network(name, seed)
        model = _trained(path, warm, train, held_out, objectives[name], config, device, args.model)
        found = _attacked(model, shelf, name, seed, test, args)
        rows.append({"arm": name, "seed": seed, **found, **_examined(model, path, test, objectives[name])})
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    replace_text(args.out / args.table, table.round(6).to_csv(index=False, lineterminator="\n"))
    return table


def _attacked(
    model: Classifier, shelf: Shelf, name: str, seed: int, test: Images, args: argparse.Namespace
) -> dict[str, float]:
    """Accuracies on evenly spaced test images, `natural_all` on all of them."""
    by_pgd = Threat(eps=EPS, seed=0, auto=(), mma=not args.without_mma)
    by_auto = Threat(eps=EPS, seed=0, mma=False)
    how = {"threat": by_pgd, "skip": test.stride(args.images), "progress": False}
    under = summarise_attacks(evaluate_table(model, test, shelf.attacked(name, seed), **how))["accuracy"]
    found = {str(attack): float(value) for attack, value in under.items()}
    found["natural_all"] = accuracy(model, test, seed=0)
    if args.auto_images:
        how |= {"threat": by_auto, "skip": test.stride(args.auto_images)}
        table = evaluate_table(model, test, shelf.autoattack(name, seed), **how)
        found["autoattack"] = float(table["autoattack"].mean())
    return found


def _examined(model: Classifier, path: Path, test: Images, objective: Objective) -> dict[str, float]:
    """What the arm cost: its mean budget, and seconds an epoch."""
    budget = getattr(objective, "budget", Uniform())
    found = {"budget": 255 * mean_budget(model, test.select(range(0, len(test), 10)), budget, seed=0)}
    _, info = load_checkpoint(path)
    found["seconds_per_epoch"] = sorted(row["seconds"] for row in info["history"])[len(info["history"]) // 2]
    return found


def _trained(
    path: Path,
    start: Path | None,
    train: Images,
    held_out: Images,
    objective: Objective,
    config: TrainConfig,
    device: torch.device,
    name: str,
) -> Classifier:
    def make() -> Classifier:
        if start:
            return load_checkpoint(start, device=device)[0]
        return new_network(name, train, seed=config.seed)

    def validate(model: Classifier) -> float:
        attack = PGD(steps=10, step=2 / 255)
        return robust_accuracy(
            model, held_out.select(range(min(1000, len(held_out)))), eps=EPS, attack=attack, seed=0
        )

    model, _ = train_checkpoint(
        path,
        make,
        train,
        objective=objective,
        config=config,
        device=device,
        start=start,
        validate=validate,
        keep_best=True,
        progress=False,
    )
    return model


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pixels", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="CIFAR-10 re-encoded as JPEG, folder:PATH, or a data set's name")
    add("--model", default="fast_narrow")
    add("--start", type=Path, metavar="FILE", help="checkpoint to go on from, instead of a warm-up")
    add("--arms", type=lambda text: text.split(","), default=list(CORE), help="comma-separated (%(default)s)")
    add("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0, 1, 2])
    add("--warmup", type=int, default=4, help="epochs of plain adversarial training (%(default)s)")
    add("--epochs", type=int, default=3, help="epochs of each arm (%(default)s)")
    add("--lr", type=float, default=0.05, help="rate of each arm, at most (%(default)s)")
    add("--steps", type=int, default=2, help="of the attack in training (%(default)s)")
    add("--images", type=int, default=1000, help="test images, attacked by PGD-20 and MMA (%(default)s)")
    add("--without-mma", action="store_true", help="attack test images by PGD-20 alone")
    add("--auto-images", type=int, default=0, help="test images, attacked by AutoAttack (%(default)s)")
    add("--table", default="arms.csv", help="file name of the table (%(default)s)")
    add(
        "--held-out", type=int, default=2000, help="training images for choosing the best epoch (%(default)s)"
    )
    add("--batch", type=int, default=128)
    add("--threads", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/pixels"), help="folder for the results (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
