"""`dualrs-lab soup`: the mean of the weights of networks that began as one."""

from argparse import Namespace

from dualrs_lab.cli.inputs import choose_device, want_file
from dualrs_lab.cli.options import CHECKED
from dualrs_lab.cli.outputs import want_place
from dualrs_lab.cli.parser import Command, Parser, a_name, a_number, a_weights, new_weights, some_numbers
from dualrs_lab.settings import SEED, SIGMA, Range

__all__ = ["SOUP"]


def _options(parser: Parser) -> None:
    add = parser.add_argument
    add("networks", nargs="+", type=a_weights, metavar="FILE", help="checkpoints that began as one network")
    add("--data", type=a_name, required=True, help="digits, cifar10, …, or folder:PATH: to measure BatchNorm")
    add("--sigma", type=a_number(SIGMA), help="noise that it is for (default: that of the networks)")
    add(
        "--shares", type=some_numbers(Range(above=0)), default=(), metavar="X,X,…",
        help="how much of each network (default: alike)",
    )  # fmt: skip
    add("--seed", type=a_number(SEED), default=0, help="of images and noise (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, … (default: %(default)s)")
    add("--replace", action="store_true", help="keep a network of other settings there under another name")
    add(
        "--out",
        type=new_weights,
        required=True,
        metavar="FILE",
        help="name.safetensors; its json lies beside",
    )


def _soup(options: Namespace) -> int:
    for file in options.networks:
        want_file(options.name, "network", file)
    want_place(options.name, options.out)
    from dualrs_lab.data.sets import load_images
    from dualrs_lab.models.checkpoints import load_checkpoint
    from dualrs_lab.training.batches import accuracy
    from dualrs_lab.training.checkpoints import soup_checkpoint

    device = choose_device(options)
    images, check = load_images(options.data, "train"), load_images(options.data, "test").spread(CHECKED)
    members = [load_checkpoint(file, device=device) for file in options.networks]
    levels = {float(info.get("sigma") or 0) for _, info in members}
    if options.sigma is None and (len(levels) > 1 or 0 in levels):
        raise ValueError(
            f"{options.name}: the networks are for noise {sorted(levels)}; say by --sigma what theirs is for"
        )
    sigma = levels.pop() if options.sigma is None else options.sigma
    made, _ = soup_checkpoint(
        options.out, options.networks, images, sigma=sigma, shares=options.shares, seed=options.seed,
        device=device, replace=options.replace,
    )  # fmt: skip
    judged = [*zip(options.networks, (member for member, _ in members), strict=True), (options.out, made)]
    for file, network in judged:
        print(f"accuracy {accuracy(network, check, sigma=sigma, seed=options.seed):.3f}   {file}")
    return 0


SOUP = Command(
    name="soup",
    help="a network with the mean of the weights of several that began as one",
    description="Averages weights (Wortsman et al. 2022) of networks that went on from one start by other "
    "recipes or seeds (train --start), and measures BatchNorm anew under noise. The accuracy of each under "
    "that noise is shown: of networks that began apart, the mean is worth nothing.",
    options=_options,
    run=_soup,
    example="dualrs-lab soup a.safetensors b.safetensors --data cifar10 --out soup.safetensors\n"
    "dualrs-lab soup a.safetensors b.safetensors --shares 1,2 --data cifar10 --out soup.safetensors",
)
