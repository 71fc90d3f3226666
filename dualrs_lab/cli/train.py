"""`dualrs-lab train` and `part`: networks as notebooks 20 and 23 train them, into the same files."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualrs_lab.cli.cluster.processes import add_processes, launched, together
from dualrs_lab.cli.options import CHECKED, add_training
from dualrs_lab.cli.parser import Command, Parser, a_fraction, a_name, a_number, a_path
from dualrs_lab.settings import COUNT, SEED, SHARE, Range

if TYPE_CHECKING:
    from dualrs_lab.data.images import Images
    from dualrs_lab.experiment import Experiment
    from dualrs_lab.training.easiness import Course
    from dualrs_lab.training.ranks import Ranks

__all__ = ["PART", "TRAIN"]


def _options(parser: Parser) -> None:
    add_training(
        parser, "network", metavar="S,S,…", epochs=15,
        sigmas="noise levels, in [0, 1] pixel units, a network for each; 0 is no noise",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=a_name, default="auto",
        help="auto is digits_narrow for 8x8, fast_narrow up to 64x64 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--recipe", type=a_name, default="gaussian",
        help="gaussian, consistency, smoothadv, smoothadv-consistency, macer, cat-rs, attacked-noise or "
        "own-radius; with -easy at its end, on images that are worth it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--consistency", type=a_number(Range(least=0)), default=0.0,
        help="strength of consistency regularisation (Jeong and Shin 2020) instead of the published one",
    )  # fmt: skip
    _add_average(parser)
    add_processes(parser)
    parser.add_argument(
        "--folder", type=a_path, default=Path("runs/files"), metavar="DIR",
        help="where checkpoints are kept, as notebook 20 does (default: %(default)s)",
    )  # fmt: skip


def _add_average(parser: Parser) -> None:
    parser.add_argument(
        "--average", type=a_number(SHARE), default=0.0, metavar="SHARE",
        help="keep the running mean of the weights, which remembers this share of the steps, such as 0.05, "
        "with BatchNorm measured anew; 0: the last weights (default: %(default)s)",
    )  # fmt: skip


def _train(options: Namespace) -> int:
    if len(set(options.sigmas)) < len(options.sigmas):
        raise ValueError(f"train: --sigmas: a level comes twice in {options.sigmas}")
    _want_folder(options)
    from dualrs_lab.data.sets import load_images
    from dualrs_lab.experiment import Experiment
    from dualrs_lab.models.networks import pick_model

    _want_model(options)
    for sigma in options.sigmas:
        _objective(options, sigma)  # an unknown recipe is told before anything is loaded or trained
    if (code := launched(options)) is not None:
        return code
    with together(options) as ranks:
        with ranks.in_turn():
            images, test = load_images(options.data, "train"), load_images(options.data, "test")
        check, name = test.spread(CHECKED), pick_model(options.model, images.shape)
        lab = Experiment(folder=options.folder, data=images.title, model=name, seed=options.seed)
        for sigma in options.sigmas:
            info = _one(options, lab, sigma, images, check, ranks)
            right = _last(info.get("history", []), "validation")
            if ranks.first:
                print(
                    f"σ = {sigma:<5g} {info['seconds']:6.1f} s   accuracy {right:.3f}   {lab.expert(sigma)}"
                )
    return 0


def _want_folder(options: Namespace) -> None:
    if options.folder.exists() and not options.folder.is_dir():
        raise ValueError(f"{options.name}: --folder {options.folder}: it is a file; name a folder")


def _want_model(options: Namespace) -> None:
    from dualrs_lab.models.networks import MODELS

    if options.model not in ("auto", *MODELS):
        raise ValueError(f"{options.name}: --model {options.model!r}: wanted auto, {', '.join(MODELS)}")


def _one(
    options: Namespace,
    lab: "Experiment",
    sigma: float,
    images: "Images",
    check: "Images",
    ranks: "Ranks",
) -> dict[str, Any]:
    from dualrs_lab.training.batches import accuracy, new_network
    from dualrs_lab.training.checkpoints import train_checkpoint
    from dualrs_lab.training.config import recipe

    _, info = train_checkpoint(
        lab.expert(sigma),
        lambda: new_network(lab.model, images, seed=options.seed),
        images,
        objective=_objective(options, sigma),
        config=replace(recipe(images, epochs=options.epochs, seed=options.seed), average=options.average),
        device=ranks.device,
        validate=lambda network: accuracy(network, check, sigma=sigma, seed=options.seed),
        replace=options.replace,
        ranks=ranks,
    )
    return info


def _objective(options: Namespace, sigma: float) -> "Course":
    from dualrs_lab.training.recipes import for_noise

    return for_noise(sigma, recipe=options.recipe, consistency=options.consistency, epochs=options.epochs)


def _last(history: Sequence[dict[str, float]], name: str) -> float:
    return float(history[-1][name]) if history else float("nan")


TRAIN = Command(
    name="train",
    help="train a network for each noise level; goes on where it was stopped",
    description="Trains as notebook 20_train does, with the same settings and into the same files, so that "
    "notebooks and commands go on from each other. A network that is there already is not trained again.",
    options=_options,
    run=_train,
    example="dualrs-lab train --data digits --sigmas 0,0.25 --epochs 5\n"
    "dualrs-lab train --data folder:photos --sigmas 0.25,0.5 --consistency 10\n"
    "dualrs-lab train --data cifar10 --sigmas 0.5 --recipe cat-rs --epochs 60\n"
    "dualrs-lab train --data imagenet --sigmas 0.5 --epochs 90 --processes 4",
)


def _part_options(parser: Parser) -> None:
    add, budget = parser.add_argument, a_fraction(Range(least=0, most=1))
    add("--data", type=a_name, required=True, help="digits, cifar10, …, or folder:PATH")
    add(
        "--arms", type=_names, metavar="A,A,…",
        help='of these, such as "AT,PART 0.1,uniform 0.1,TRADES PART" (default: AT, PART and its controls)',
    )  # fmt: skip
    add("--eps", type=budget, default=8 / 255, help="of each pixel, in linf (default: 8/255)")
    add(
        "--lows", type=lambda text: [budget(part) for part in text.split(",")], default=[7 / 255],
        metavar="X,X,…", help="of less important pixels; most controls belong to the first (default: 7/255)",
    )  # fmt: skip
    share = "of the pixels of an image are important (default: %(default)s)"
    add("--fraction", type=a_number(Range(above=0, most=1)), default=0.3, help=share)
    add("--steps", type=a_number(COUNT), default=10, help="of the attack (default: %(default)s)")
    add("--step", type=budget, default=2 / 255, help="their length (default: 2/255)")
    add("--epochs", type=a_number(COUNT), default=80, help="in all (default: %(default)s)")
    warmup = "of these: plain adversarial training (default: %(default)s)"
    add("--warmup", type=a_number(Range(whole=True, least=0)), default=20, help=warmup)
    seeds = "a network of each arm for each (default: 0)"
    add("--seeds", type=_some_seeds, default=[0], metavar="S,S,…", help=seeds)
    add(
        "--model", type=a_name, default="auto",
        help="auto is digits_narrow for 8x8, fast_narrow up to 64x64 (default: %(default)s)",
    )  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: %(default)s)")
    _add_average(parser)
    add_processes(parser)
    add(
        "--folder", type=a_path, default=Path("runs/files"), metavar="DIR",
        help="where checkpoints are kept, as notebook 23 does (default: %(default)s)",
    )  # fmt: skip
    kept = "keep a network of other settings there under another name"
    add("--replace", action="store_true", help=kept)


def _names(text: str) -> list[str]:
    return [part.strip() for part in a_name(text).split(",")]


def _some_seeds(text: str) -> list[int]:
    return [int(a_number(SEED)(part)) for part in text.split(",")]


_ARM = ("epochs", "average", "replace")  # which `train_arm` takes as they are


def _part(options: Namespace) -> int:
    _want_folder(options)
    from dualrs_lab.data.images import hold_out
    from dualrs_lab.data.sets import load_images
    from dualrs_lab.experiment import Experiment
    from dualrs_lab.models.networks import pick_model
    from dualrs_lab.training.arms import Arms, train_arm

    names = ("eps", "fraction", "steps", "step", "warmup")
    arms = Arms(lows=tuple(options.lows), **{name: getattr(options, name) for name in names})
    _want_model(options)
    if unknown := [arm for arm in options.arms or () if arm not in (known := arms.courses((1, 8, 8)))]:
        raise ValueError(f"part: --arms {unknown[0]!r}: wanted one of {', '.join(known)}")
    if (code := launched(options)) is not None:
        return code
    with together(options) as ranks:
        with ranks.in_turn():
            whole = load_images(options.data, "train")
        held_out, images = hold_out(whole, len(whole) // 10)
        name = pick_model(options.model, images.shape)
        lab = Experiment(folder=options.folder, data=images.title, model=name, seed=options.seeds[0])
        how = {"arms": arms, "model": name, **{key: getattr(options, key) for key in _ARM}}
        for arm, seed in product(options.arms or arms.budgets(images.shape), options.seeds):
            path = lab.arm(arm, seed)
            _, info = train_arm(
                path, arm, images, held_out, seed=seed, device=ranks.device, ranks=ranks, **how
            )
            if ranks.first:
                print(f"{arm:<20} seed {seed}   {info['seconds']:6.1f} s   {path}")
    return 0


PART = Command(
    name="part",
    help="train with budgets by pixel (PART) and its controls; goes on where it was stopped",
    description="Adversarial training with the budget that the notebook 23_pixel_reweighting compares, with "
    "the same settings and into the same files, so that notebook and command go on from each other.",
    options=_part_options,
    run=_part,
    example="dualrs-lab part --data digits --eps 0.2 --lows 0.1 --steps 2 --step 0.12 --epochs 5 --warmup 1\n"
    'dualrs-lab part --data imagenet --eps 4/255 --lows 3/255 --arms "AT,PART 0.0117647" --processes 4',
)
