"""`dualrs-lab denoiser`: a denoiser that makes any network fit for noise, trained on images alone."""

from argparse import Namespace
from typing import TYPE_CHECKING

from dualrs_lab.cli.inputs import add_network, choose_device, read_model, want_file
from dualrs_lab.cli.options import CHECKED, add_training
from dualrs_lab.cli.outputs import want_place
from dualrs_lab.cli.parser import Command, Parser, a_number, a_weights, new_weights, some_numbers
from dualrs_lab.settings import Range

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dualrs_lab.data.images import Images
    from dualrs_lab.denoising.training import Denoising

__all__ = ["DENOISER"]


def _options(parser: Parser) -> None:
    add_training(
        parser, "denoiser", metavar="LOW,HIGH", epochs=10,
        sigmas="each image gets a noise level between these, in [0, 1] pixel units",
    )  # fmt: skip
    parser.add_argument(
        "--widths", type=some_numbers(Range(whole=True, least=1, most=10_000)), default=[64, 128],
        metavar="N,N", help="channels at half and a quarter of the resolution (default: 64,128)",
    )  # fmt: skip
    parser.add_argument(
        "--start", type=a_weights, metavar="FILE", help="a denoiser of this command, to train on"
    )
    add_network(parser, required=False)
    parser.add_argument(
        "--anchor", type=a_number(Range(least=0)), default=10.0,
        help="weight of the squared error where a network is given (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        type=new_weights,
        required=True,
        metavar="FILE",
        help="name.safetensors; its json lies beside",
    )


def _denoiser(options: Namespace) -> int:
    _check(options)
    from dualrs_lab.data.sets import load_images
    from dualrs_lab.denoising.training import denoiser_recipe, load_denoiser, train_denoiser

    device = choose_device(options)
    images, check = load_images(options.data, "train"), load_images(options.data, "test").spread(CHECKED)
    network = _network(options, images, device)
    made = train_denoiser(
        options.out,
        images,
        objective=_objective(options, network),
        config=denoiser_recipe(images, epochs=options.epochs, seed=options.seed, stable=network is not None),
        device=device,
        start=load_denoiser(options.start) if options.start else None,
        widths=(options.widths[0], options.widths[1]),
        replace=options.replace,
    )
    for sigma in sorted({*options.sigmas} - {0.0}):
        print(_judged(made, network, check, sigma, options.seed, device))
    print(options.out)
    return 0


def _check(options: Namespace) -> None:
    name = options.name
    if len(options.sigmas) != 2 or not options.sigmas[0] <= options.sigmas[1] > 0:
        raise ValueError(f"{name}: --sigmas: got {options.sigmas}; wanted the least and the greatest level")
    if len(options.widths) != 2:
        raise ValueError(f"{name}: --widths: got {options.widths}; wanted two numbers of channels")
    if options.start:
        want_file(name, "denoiser", options.start)
    want_place(name, options.out)


def _network(options: Namespace, images: "Images", device: "torch.device") -> "nn.Module | None":
    if options.checkpoint is None:
        return None
    from dualrs_lab.models.conduct import want_gradients
    from dualrs_lab.models.suited import suited

    model, _ = read_model(options)
    want_gradients(options.name, model)
    return suited(options.name, model.to(device), images)


def _objective(options: Namespace, network: "nn.Module | None") -> "Denoising":
    from dualrs_lab.denoising.training import Denoising, Stability

    low, high = options.sigmas
    if network is None:
        return Denoising(low=low, high=high)
    return Stability(low=low, high=high, classifier=network, anchor=options.anchor)


def _judged(
    denoiser: "nn.Module",
    network: "nn.Module | None",
    images: "Images",
    sigma: float,
    seed: int,
    device: "torch.device",
) -> str:
    from dualrs_lab.denoising.behind import Behind
    from dualrs_lab.denoising.training import squared_error
    from dualrs_lab.training.batches import accuracy

    left = squared_error(denoiser, images, sigma=sigma, seed=seed, device=device)
    told = f"σ = {sigma:<5g} squared error {sigma**2:.4f}, denoised {left:.4f}"
    if network is None:
        return told
    before, after = (
        accuracy(one, images, sigma=sigma, seed=seed) for one in (network, Behind(denoiser, network))
    )
    return f"{told}   accuracy {before:.3f}, behind the denoiser {after:.3f}"


DENOISER = Command(
    name="denoiser",
    help="train a denoiser to put in front of any network; goes on where it was stopped",
    description="Trains a small denoiser on images alone, by squared error, for certify --denoiser and "
    "attack --denoiser. With a network, it is trained for the answers that this network gives to clean "
    "images, best from a denoiser that is there (--start).",
    options=_options,
    run=_denoiser,
    example="dualrs-lab denoiser --data cifar10 --sigmas 0.05,0.35 --epochs 5 --out denoiser.safetensors\n"
    "dualrs-lab denoiser --data cifar10 --sigmas 0.05,0.35 --epochs 1 --start denoiser.safetensors "
    "--model net.safetensors --out stable.safetensors",
)
