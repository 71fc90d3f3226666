"""`dualrs-lab certify`: certificates of a checkpoint, image by image, into a table."""

from argparse import Namespace
from typing import TYPE_CHECKING

from dualrs_lab.cli.cluster.parts import add_shard, say_part
from dualrs_lab.cli.cluster.submit import add_parts, made_elsewhere
from dualrs_lab.cli.inputs import add_inputs, behind, choose_device, read_model, told_of
from dualrs_lab.cli.outputs import want_place
from dualrs_lab.cli.parser import Command, Parser, a_number, some_numbers
from dualrs_lab.cli.tables import RADII, add_out, add_rule, print_signs, summed_up
from dualrs_lab.settings import COUNT, RADIUS, SIGMA, Range

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dualrs_lab.data.images import Images
    from dualrs_lab.smoothing.spec import Spec
    from dualrs_lab.smoothing.stopping import Stopping

__all__ = ["CERTIFY"]


def _options(parser: Parser) -> None:
    from dataclasses import fields

    from dualrs_lab.cli.options import add_option
    from dualrs_lab.smoothing.settings import Draws, FastPath, Meant

    add_inputs(parser)
    parser.add_argument(
        "--sigma", type=a_number(SIGMA), required=True, help="noise standard deviation in [0, 1] pixel units"
    )
    parser.add_argument(
        "--noise", choices=("grid", "gaussian"), default="grid",
        help="grid is exact in floats (default: %(default)s)",
    )  # fmt: skip
    for name in ("n", "n0", "alpha", "batch"):
        add_option(parser, Draws, name)
    add_rule(parser)
    parser.add_argument(
        "--sure", type=some_numbers(Range(above=0, below=1)), default=(), metavar="S,S,…",
        help="tell votes apart by these confidences, ascending: a cascade of the tables then has its experts "
        "vote only where they are so sure (default: every vote counts)",
    )  # fmt: skip
    add_out(parser)
    add_shard(parser)
    add_parts(parser)
    fewer = parser.add_argument_group("fewer draws, same guarantee (default: n for every image)")
    stop = fewer.add_mutually_exclusive_group()
    stop.add_argument(
        "--at-radii", type=some_numbers(RADIUS), metavar="R,R,…",
        help="stop an image once these radii are decided",
    )  # fmt: skip
    stop.add_argument(
        "--loss", type=a_number(Range(above=0, most=1000)), metavar="X",
        help="give an image as few draws as cost X * sigma of its radius",
    )  # fmt: skip
    fewer.add_argument(
        "--least", type=a_number(COUNT), metavar="N",
        help="with --loss, give every image N draws at least: cascades want to know who is undecided",
    )  # fmt: skip
    meant = parser.add_argument_group("the network that is certified")
    for name in ("certify", "paired"):
        add_option(meant, Meant, name)
    fast = parser.add_argument_group("steps to the network that is sampled (default: all that repay)")
    fast.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="precision; auto is what the device is fast in (default: %(default)s)",
    )  # fmt: skip
    for step in fields(FastPath):
        add_option(fast, FastPath, step.name)


def _certify(options: Namespace) -> int:
    want_place(options.name, options.out)
    if (code := made_elsewhere(options)) is not None:
        return code
    from dualrs_lab.data.sets import load_images
    from dualrs_lab.evidence.recompute import at_confidence
    from dualrs_lab.front.diagnose import explain
    from dualrs_lab.smoothing.certify import certify_table

    device = choose_device(options)
    spec = _spec(options, device)
    model, info = read_model(options)
    images = load_images(options.data, options.split).to(device)
    model, front = behind(options, model.to(device), images)
    network, model = model, _graded(options, model, images)
    table = certify_table(
        model,
        images,
        options.out,
        spec=spec,
        skip=options.skip,
        max_images=options.max,
        info=told_of(info, options.checkpoint) | {"trained_sigma": info.get("sigma", options.sigma)} | front,
        shard=options.shard,
    )
    if options.shard is not None:
        say_part(options.out, options.shard, len(table))
        return 0
    print(summed_up({options.out.stem: table}, RADII))
    counted = at_confidence(table, 0) if options.sure else table
    print_signs(explain(network, images, counted, sigma=options.sigma, seed=options.seed))
    return 0


def _graded(options: Namespace, model: "nn.Module", images: "Images") -> "nn.Module":
    # the network, which tells by its votes how sure it is where --sure asks for it
    if not options.sure:
        return model
    from dualrs_lab.models.suited import suited
    from dualrs_lab.models.sure import Graded

    try:
        return Graded(suited(options.name, model, images), options.sure)
    except ValueError as error:
        raise ValueError(f"certify: --sure: {error}") from error


def _spec(options: Namespace, device: "torch.device") -> "Spec":
    from dataclasses import fields

    from dualrs_lab.smoothing.noise import GaussianNoise, GridNoise
    from dualrs_lab.smoothing.settings import FastPath
    from dualrs_lab.smoothing.spec import Spec

    noise = GridNoise if options.noise == "grid" else GaussianNoise
    return Spec(
        noise=noise(sigma=options.sigma),
        n0=options.n0,
        n=options.n,
        alpha=options.alpha,
        seed=options.seed,
        rule=options.rule,
        stop=_stopping(options),
        dtype=_dtype(options.dtype, device),
        fast=FastPath(**{step.name: getattr(options, step.name) for step in fields(FastPath)}),
        batch=options.batch,
        certify=options.certify,
        paired=options.paired,
    )


def _stopping(options: Namespace) -> "Stopping":
    from dualrs_lab.smoothing.stopping import AllDraws, AtRadii, InputSpecific

    if options.at_radii is not None:
        try:
            return AtRadii(radii=tuple(options.at_radii))
        except ValueError as error:
            raise ValueError(f"certify: --at-radii: {error}") from error
    if options.least is not None and options.loss is None:
        raise ValueError(
            f"certify: got --least {options.least} without --loss; wanted both, as else every image gets n"
        )
    return AllDraws() if options.loss is None else InputSpecific(loss=options.loss, least=options.least)


def _dtype(name: str, device: "torch.device") -> "torch.dtype":
    import torch

    from dualrs_lab.runtime import pick_dtype

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return pick_dtype(device) if name == "auto" else known[name]


CERTIFY = Command(
    name="certify",
    help="certify a checkpoint; goes on where it was stopped",
    options=_options,
    run=_certify,
    example="dualrs-lab certify --model net.safetensors --data cifar10 --sigma 0.5 --skip 9 --out c.tsv\n"
    "dualrs-lab certify --model net.pt2 --mean 0 --std 1 --denoiser denoiser.safetensors --data cifar10 "
    "--sigma 0.25 --out d.tsv\n"
    "dualrs-lab certify --model net.safetensors --data cifar10 --sigma 0.5 --sure 0.4,0.5,0.6 --out e.tsv",
)
