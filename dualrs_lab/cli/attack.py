"""`dualrs-lab attack`: natural and attacked accuracy of a network or of mixes, image by image, in a table."""

from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualrs_lab.cli.cluster.parts import add_shard, say_part
from dualrs_lab.cli.cluster.submit import add_parts, made_elsewhere
from dualrs_lab.cli.inputs import (
    a_source,
    add_inputs,
    behind,
    choose_device,
    read_model,
    read_source,
    told_of,
)
from dualrs_lab.cli.outputs import want_place
from dualrs_lab.cli.parser import Command, Parser, a_fraction, some_numbers
from dualrs_lab.cli.tables import add_out, summed_up_answers
from dualrs_lab.settings import BUDGET, SHARE

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import nn

    from dualrs_lab.attacks.evaluate import Threat
    from dualrs_lab.data.images import Images

__all__ = ["ATTACK"]


def _options(parser: Parser) -> None:
    from dualrs_lab.attacks.settings import Effort
    from dualrs_lab.cli.options import add_option

    add_inputs(parser)
    add_option(parser, Effort, "eps", type=a_fraction(BUDGET))
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf", help="(default: %(default)s)")
    parser.add_argument("--no-auto", dest="auto", action="store_false", help="leave AutoAttack out: minutes")
    parser.add_argument(
        "--accurate", type=a_source, metavar="SOURCE",
        help="attack mixes of the network with this accurate one, each end to end, and both networks",
    )  # fmt: skip
    parser.add_argument(
        "--mix", type=some_numbers(SHARE), metavar="A,A,…",
        help="weights of the network in these mixes: above 0.5 its margins count",
    )  # fmt: skip
    for name in ("restarts", "batch"):
        add_option(parser, Effort, name)
    add_out(parser)
    add_shard(parser)
    add_parts(parser)


def _attack(options: Namespace) -> int:
    if (options.accurate is None) != (options.mix is None):
        raise ValueError("attack: a mix has two networks and a weight: wanted both --accurate and --mix")
    if len({*map(_mix_name, options.mix or ())}) < len(options.mix or ()):
        raise ValueError(f"attack: --mix {options.mix}: wanted each weight once")
    want_place(options.name, options.out)
    if (code := made_elsewhere(options)) is not None:
        return code
    threat = _threat(options)
    from dualrs_lab.data.sets import load_images
    from dualrs_lab.models.conduct import want_gradients

    device = choose_device(options)
    model, info = read_model(options)
    want_gradients("attack", model)
    accurate, more = _accurate(options)
    images = load_images(options.data, options.split)
    model, front = behind(options, model.to(device).eval(), images)
    told = told_of(info, options.checkpoint) | front | more
    table = _table(options, model, accurate, images, threat, told)
    if options.shard is not None:
        say_part(options.out, options.shard, table["idx"].nunique())
        return 0
    print(summed_up_answers(table))
    return 0


def _accurate(options: Namespace) -> "tuple[nn.Module | None, dict[str, Any]]":
    """The network of --accurate, if there is one, and what a record tells of it."""
    source: Path | str | None = options.accurate
    if source is None:
        return None, {}
    model, info = read_source(options, source, "accurate network")
    return model.to(choose_device(options)).eval(), {"accurate": told_of(info, source)}


def _table(
    options: Namespace,
    model: "nn.Module",
    accurate: "nn.Module | None",
    images: "Images",
    threat: "Threat",
    told: "dict[str, Any]",
) -> "DataFrame":
    how: dict[str, Any] = {"threat": threat, "skip": options.skip, "max_images": options.max}
    how |= {"info": told, "shard": options.shard}
    if accurate is None:
        from dualrs_lab.attacks.evaluate import evaluate_table

        return evaluate_table(model, images, options.out, **how)
    from dualrs_lab.mixing.evaluate import evaluate_systems_table
    from dualrs_lab.mixing.mix import Mix

    mixes = {_mix_name(a): Mix(accurate, model, a) for a in options.mix}
    return evaluate_systems_table(accurate, model, mixes, images, options.out, **how)


def _mix_name(weight: float) -> str:
    return f"weight {weight:g}"


def _threat(options: Namespace) -> "Threat":
    if options.auto and not find_spec("pyautoattack"):
        raise ValueError(
            "attack: AutoAttack needs pyautoattack: pip install 'dualrs-lab[attacks]', or --no-auto"
        )
    from dualrs_lab.attacks.auto import STANDARD
    from dualrs_lab.attacks.evaluate import Threat
    from dualrs_lab.attacks.norms import L2, LINF

    try:
        return Threat(
            eps=options.eps,
            seed=options.seed,
            norm=L2() if options.norm == "l2" else LINF,
            restarts=options.restarts,
            auto=STANDARD if options.auto else (),
            batch=options.batch,
        )
    except ValueError as error:
        raise ValueError(f"attack: --eps {options.eps:g} --norm {options.norm}: {error}") from error


ATTACK = Command(
    name="attack",
    help="natural and attacked accuracy of a network, or of its mixes; goes on where it was stopped",
    options=_options,
    run=_attack,
    example="dualrs-lab attack --model net.safetensors --data cifar10 --eps 8/255 --no-auto --out a.tsv\n"
    "dualrs-lab attack --model robust.safetensors --accurate net.safetensors --mix 0.6,0.8 --data cifar10 "
    "--eps 8/255 --skip 20 --out mixes.tsv",
)
