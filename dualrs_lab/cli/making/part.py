"""`dualrs-lab part`: networks as notebook 23 trains them, into the same files."""

from argparse import Namespace
from itertools import product
from pathlib import Path

from dualrs_lab.cli.cluster.processes import add_processes, launched, together
from dualrs_lab.cli.making.train import add_average, want_folder, want_model
from dualrs_lab.cli.parser import Command, Parser, a_fraction, a_name, a_number, a_path
from dualrs_lab.settings import COUNT, SEED, Range

__all__ = ["PART"]


def _options(parser: Parser) -> None:
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
    add_average(parser)
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
    want_folder(options)
    from dualrs_lab.data.images import hold_out
    from dualrs_lab.data.sets import load_images
    from dualrs_lab.experiment import Experiment
    from dualrs_lab.models.networks import pick_model
    from dualrs_lab.training.arms import Arms, train_arm

    names = ("eps", "fraction", "steps", "step", "warmup")
    arms = Arms(lows=tuple(options.lows), **{name: getattr(options, name) for name in names})
    want_model(options)
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
    options=_options,
    run=_part,
    example="dualrs-lab part --data digits --eps 0.2 --lows 0.1 --steps 2 --step 0.12 --epochs 5 --warmup 1\n"
    'dualrs-lab part --data imagenet --eps 4/255 --lows 3/255 --arms "AT,PART 0.0117647" --processes 4',
)
