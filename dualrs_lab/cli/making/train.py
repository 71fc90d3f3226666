"""`dualrs-lab train`: networks as notebook 20 trains them, into the same files."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualrs_lab.cli.cluster.processes import add_processes, launched, together
from dualrs_lab.cli.inputs import want_file
from dualrs_lab.cli.options import CHECKED, add_training
from dualrs_lab.cli.parser import Command, Parser, a_name, a_number, a_path, a_weights
from dualrs_lab.settings import SHARE, Range

if TYPE_CHECKING:
    from dualrs_lab.data.images import Images
    from dualrs_lab.experiment import Experiment
    from dualrs_lab.models.networks import Classifier
    from dualrs_lab.training.easiness import Course
    from dualrs_lab.training.ranks import Ranks

__all__ = ["TRAIN", "add_average", "want_folder", "want_model"]


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
    parser.add_argument(
        "--start", type=a_weights, metavar="FILE",
        help="a checkpoint from which each network goes on (default: fresh weights)",
    )  # fmt: skip
    add_average(parser)
    add_processes(parser)
    parser.add_argument(
        "--folder", type=a_path, default=Path("runs/files"), metavar="DIR",
        help="where checkpoints are kept, as notebook 20 does (default: %(default)s)",
    )  # fmt: skip


def add_average(parser: Parser) -> None:
    """The option --average."""
    parser.add_argument(
        "--average", type=a_number(SHARE), default=0.0, metavar="SHARE",
        help="keep the running mean of the weights, which remembers this share of the steps, such as 0.05, "
        "with BatchNorm measured anew; 0: the last weights (default: %(default)s)",
    )  # fmt: skip


def _train(options: Namespace) -> int:
    if len(set(options.sigmas)) < len(options.sigmas):
        raise ValueError(f"train: --sigmas: a level comes twice in {options.sigmas}")
    want_folder(options)
    from dualrs_lab.data.sets import load_images
    from dualrs_lab.experiment import Experiment
    from dualrs_lab.models.networks import pick_model

    want_model(options)
    known = _start_of(options)
    for sigma in options.sigmas:
        _objective(options, sigma)  # an unknown recipe is told before anything is loaded or trained
    if (code := launched(options)) is not None:
        return code
    with together(options) as ranks:
        with ranks.in_turn():
            images, test = load_images(options.data, "train"), load_images(options.data, "test")
        check = test.spread(CHECKED)
        name = known or pick_model(options.model, images.shape)
        lab = Experiment(folder=options.folder, data=images.title, model=name, seed=options.seed)
        for sigma in options.sigmas:
            info = _one(options, lab, sigma, images, check, ranks)
            right = _last(info.get("history", []), "validation")
            if ranks.first:
                print(
                    f"σ = {sigma:<5g} {info['seconds']:6.1f} s   accuracy {right:.3f}   {lab.expert(sigma)}"
                )
    return 0


def want_folder(options: Namespace) -> None:
    """ValueError where --folder is a file."""
    if options.folder.exists() and not options.folder.is_dir():
        raise ValueError(f"{options.name}: --folder {options.folder}: it is a file; name a folder")


def want_model(options: Namespace) -> None:
    """ValueError where --model is no architecture."""
    from dualrs_lab.models.networks import MODELS

    if options.model not in ("auto", *MODELS):
        raise ValueError(f"{options.name}: --model {options.model!r}: wanted auto, {', '.join(MODELS)}")


def _start_of(options: Namespace) -> str:
    """The name of the architecture of --start, if there is one; it must be that of --model."""
    if not options.start:
        return ""
    want_file(options.name, "start", options.start)
    from dualrs_lab.models.checkpoints import load_checkpoint

    name = str(load_checkpoint(options.start)[0].architecture["name"])
    if options.model not in ("auto", name):
        raise ValueError(
            f"{options.name}: --start {options.start} is a {name}, --model {options.model}; leave --model out"
        )
    return name


def _one(
    options: Namespace,
    lab: "Experiment",
    sigma: float,
    images: "Images",
    check: "Images",
    ranks: "Ranks",
) -> dict[str, Any]:
    from dualrs_lab.training.batches import accuracy
    from dualrs_lab.training.checkpoints import train_checkpoint
    from dualrs_lab.training.config import recipe

    _, info = train_checkpoint(
        lab.expert(sigma),
        lambda: _begun(options, lab.model, images),
        images,
        objective=_objective(options, sigma),
        config=replace(recipe(images, epochs=options.epochs, seed=options.seed), average=options.average),
        device=ranks.device,
        start=options.start,
        validate=lambda network: accuracy(network, check, sigma=sigma, seed=options.seed),
        replace=options.replace,
        ranks=ranks,
    )
    return info


def _begun(options: Namespace, name: str, images: "Images") -> "Classifier":
    from dualrs_lab.models.checkpoints import load_checkpoint
    from dualrs_lab.models.suited import suited
    from dualrs_lab.training.batches import new_network

    if options.start:
        return suited(options.name, load_checkpoint(options.start)[0], images)
    return new_network(name, images, seed=options.seed)


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
    "dualrs-lab train --data cifar10 --sigmas 0.5 --recipe cat-rs --epochs 20 --start net.safetensors "
    "--folder more\n"
    "dualrs-lab train --data imagenet --sigmas 0.5 --epochs 90 --processes 4",
)
