"""`dualrs-lab attack`: natural and attacked accuracy of a checkpoint, image by image, into a table."""

from argparse import Namespace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dualrs_lab.cli.cluster.parts import add_shard, say_part
from dualrs_lab.cli.cluster.submit import add_parts, made_elsewhere
from dualrs_lab.cli.inputs import add_inputs, behind, choose_device, read_model, told_of
from dualrs_lab.cli.outputs import want_place
from dualrs_lab.cli.parser import Command, Parser, a_fraction
from dualrs_lab.cli.tables import add_out, as_text
from dualrs_lab.settings import BUDGET

if TYPE_CHECKING:
    from dualrs_lab.attacks.evaluate import Threat

__all__ = ["ATTACK"]


def _options(parser: Parser) -> None:
    from dualrs_lab.attacks.settings import Effort
    from dualrs_lab.cli.options import add_option

    add_inputs(parser)
    add_option(parser, Effort, "eps", type=a_fraction(BUDGET))
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf", help="(default: %(default)s)")
    parser.add_argument("--no-auto", dest="auto", action="store_false", help="leave AutoAttack out: minutes")
    for name in ("restarts", "batch"):
        add_option(parser, Effort, name)
    add_out(parser)
    add_shard(parser)
    add_parts(parser)


def _attack(options: Namespace) -> int:
    want_place(options.name, options.out)
    if (code := made_elsewhere(options)) is not None:
        return code
    threat = _threat(options)
    from dualrs_lab.attacks.evaluate import evaluate_table, summarise_attacks
    from dualrs_lab.data.sets import load_images
    from dualrs_lab.models.conduct import want_gradients

    device = choose_device(options)
    model, info = read_model(options)
    want_gradients("attack", model)
    images = load_images(options.data, options.split)
    model, front = behind(options, model.to(device).eval(), images)
    table = evaluate_table(
        model,
        images,
        options.out,
        threat=threat,
        skip=options.skip,
        max_images=options.max,
        info=told_of(info, options.checkpoint) | front,
        shard=options.shard,
    )
    if options.shard is not None:
        say_part(options.out, options.shard, len(table))
        return 0
    print(as_text(summarise_attacks(table).round(4)))
    return 0


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
    help="natural and attacked accuracy of a checkpoint; goes on where it was stopped",
    options=_options,
    run=_attack,
    example="dualrs-lab attack --checkpoint net.safetensors --data cifar10 --eps 8/255 --no-auto --out a.tsv",
)
