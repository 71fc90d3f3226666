"""Several processes for one training: `--processes N`, or as torchrun started them."""

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dualrs_lab.cli.parser import Parser, a_number
from dualrs_lab.settings import Range

if TYPE_CHECKING:
    from dualrs_lab.training.ranks import Ranks

__all__ = ["add_processes", "launched", "together"]


def add_processes(parser: Parser) -> None:
    """How many processes train a network together, on this machine."""
    parser.add_argument(
        "--processes", type=a_number(Range(whole=True, least=1, most=1024)), default=1, metavar="N",
        help="that train each network together, a GPU each, or on a CPU some cores each; torchrun may start "
        "them as well (default: %(default)s)",
    )  # fmt: skip


def launched(options: Namespace) -> int | None:
    """Call this command in its --processes and return its exit code; None in one of them, or alone.

    Raises ValueError where they cannot be, and where torchrun started another number.
    """
    from dualrs_lab.training.ranks import device_of_rank, started_together

    name, processes = options.name, options.processes
    if started_together():
        if processes not in (1, started := int(os.environ["WORLD_SIZE"])):
            raise ValueError(f"{name}: --processes {processes}, but torchrun started {started}; say it once")
        return None
    if processes == 1:
        return None
    try:
        device_of_rank(options.device, 0, processes)
    except ValueError as error:
        raise ValueError(f"{name}: --processes {processes}: {error}") from error
    from dualrs_lab.training.launch import launch_together

    return launch_together(name, options.words, processes)


@contextmanager
def together(options: Namespace) -> Iterator["Ranks"]:
    """The processes of this command, of which this is one."""
    from dualrs_lab.cli.inputs import choose_device
    from dualrs_lab.training.ranks import Ranks, join_ranks, started_together

    if started_together():
        with join_ranks(options.device) as ranks:
            yield ranks
    else:
        yield Ranks(device=choose_device(options))
