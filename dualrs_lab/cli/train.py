"""`dualrs-lab train`: a network for each noise level, as notebook 20 trains them, into the same files."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualrs_lab.cli.inputs import choose_device
from dualrs_lab.cli.options import CHECKED, add_training
from dualrs_lab.cli.parser import Command, Parser, a_name, a_number, a_path
from dualrs_lab.settings import Range

if TYPE_CHECKING:
    import torch

    from dualrs_lab.data.images import Images
    from dualrs_lab.experiment import Experiment
    from dualrs_lab.training.easiness import Course

__all__ = ["TRAIN"]


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
        "--folder", type=a_path, default=Path("runs/files"), metavar="DIR",
        help="where checkpoints are kept, as notebook 20 does (default: %(default)s)",
    )  # fmt: skip


def _train(options: Namespace) -> int:
    if len(set(options.sigmas)) < len(options.sigmas):
        raise ValueError(f"train: --sigmas: a level comes twice in {options.sigmas}")
    if options.folder.exists() and not options.folder.is_dir():
        raise ValueError(f"train: --folder {options.folder}: it is a file; name a folder")
    from dualrs_lab.data.sets import load_images
    from dualrs_lab.experiment import Experiment
    from dualrs_lab.models.networks import MODELS, pick_model

    if options.model not in ("auto", *MODELS):
        raise ValueError(f"train: --model {options.model!r}: wanted auto, {', '.join(MODELS)}")
    for sigma in options.sigmas:
        _objective(options, sigma)  # an unknown recipe is told before anything is loaded or trained
    device = choose_device(options)
    images, check = load_images(options.data, "train"), load_images(options.data, "test").spread(CHECKED)
    name = pick_model(options.model, images.shape)
    lab = Experiment(folder=options.folder, data=images.title, model=name, seed=options.seed)
    for sigma in options.sigmas:
        info = _one(options, lab, sigma, images, check, device)
        validation = _last(info.get("history", []), "validation")
        print(f"σ = {sigma:<5g} {info['seconds']:6.1f} s   accuracy {validation:.3f}   {lab.expert(sigma)}")
    return 0


def _one(
    options: Namespace,
    lab: "Experiment",
    sigma: float,
    images: "Images",
    check: "Images",
    device: "torch.device",
) -> dict[str, Any]:
    from dualrs_lab.training.batches import accuracy, new_network
    from dualrs_lab.training.checkpoints import train_checkpoint
    from dualrs_lab.training.config import recipe

    _, info = train_checkpoint(
        lab.expert(sigma),
        lambda: new_network(lab.model, images, seed=options.seed),
        images,
        objective=_objective(options, sigma),
        config=recipe(images, epochs=options.epochs, seed=options.seed),
        device=device,
        validate=lambda network: accuracy(network, check, sigma=sigma, seed=options.seed),
        replace=options.replace,
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
    "dualrs-lab train --data cifar10 --sigmas 0.5 --recipe cat-rs --epochs 60",
)
