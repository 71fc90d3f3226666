# PYTHON_ARGCOMPLETE_OK
"""The command line: `dualrs-lab new | run | lab | train | certify | …`; `dualrs-lab --help` lists all.

Ends with 0 if all is well, 1 if a run failed, 2 with one line on stderr for bad input, 70 with one line for a
fault of this package, 130 after Ctrl-C. With DUALRS_TRACEBACK=1 a traceback comes before the line. Only the
command that was called adds its options, and none of them needs torch to say what it takes.
"""

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence

from dualrs_lab import __version__
from dualrs_lab.cli.attack import ATTACK
from dualrs_lab.cli.board import BOARD, LITE
from dualrs_lab.cli.certify import CERTIFY
from dualrs_lab.cli.cluster.jobs import CANCEL
from dualrs_lab.cli.cluster.manifest import MANIFEST
from dualrs_lab.cli.cluster.parts import MERGE
from dualrs_lab.cli.faults import explain, one_line_warnings
from dualrs_lab.cli.making.denoiser import DENOISER
from dualrs_lab.cli.making.part import PART
from dualrs_lab.cli.making.soup import SOUP
from dualrs_lab.cli.making.train import TRAIN
from dualrs_lab.cli.outputs import at_hand
from dualrs_lab.cli.parser import Parser
from dualrs_lab.cli.run import GALLERY, LAB, NEW, RUN, STATUS
from dualrs_lab.cli.systems import CASCADE, COMBINE
from dualrs_lab.cli.tables import MIX, SUMMARY
from dualrs_lab.cli.verify import GRADE, VERIFY

__all__ = ["COMMANDS", "main", "make_parser"]

COMMANDS = (
    *(NEW, RUN, STATUS, CANCEL, GALLERY, LAB),
    *(TRAIN, PART, SOUP, DENOISER, CERTIFY, ATTACK),
    *(CASCADE, COMBINE, MIX),
    *(MERGE, MANIFEST),
    *(SUMMARY, VERIFY, BOARD),
    *(GRADE, LITE),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = Namespace()
    if "_ARGCOMPLETE" in os.environ and arguments is None:
        _complete()
    try:
        with one_line_warnings():
            parsed, rest = make_parser(words).parse_known_args(words)
            options = parsed
            if rest and not options.command.takes_rest:
                raise ValueError(f"unknown argument {rest[0]!r} (see dualrs-lab --help)")
            options.rest, options.words = rest, words
            with at_hand(options):
                code: int = options.command.run(options)
            sys.stdout.flush()  # here a full disk can still be told
            return code
    except KeyboardInterrupt:
        print("dualrs-lab: cancelled", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        _forget_output()
        return 0
    except Exception as error:  # the one place from which errors reach people
        if os.environ.get("DUALRS_TRACEBACK") == "1":
            traceback.print_exc()
        text, code = explain(error, _called(words), options)
        print(f"dualrs-lab: error: {text}", file=sys.stderr)
        _write_out()
        return code


def _complete() -> None:
    """Answer the shell, which asks in the environment how the typed line may go on; does not return."""
    import argcomplete

    typed = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT") or 0)]
    argcomplete.autocomplete(make_parser(typed.split()[1:]))


def make_parser(words: Sequence[str]) -> Parser:
    """The parser of all commands, with the options of the one that `words` call."""
    parser = Parser(
        prog="dualrs-lab",
        description="The accuracy-robustness trade-off on one bench.",
        example="dualrs-lab new bench && cd bench && dualrs-lab run --jobs 2\ndualrs-lab certify --help",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")
    called = _called(words)
    for command in COMMANDS:
        own = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            example=command.example,
            add_help=not command.takes_rest,
        )
        own.set_defaults(command=command)
        if command.name == called:
            command.options(own)
    return parser


def _called(words: Sequence[str]) -> str:
    word = next((word for word in words if not word.startswith("-")), "")
    return word if word in [command.name for command in COMMANDS] else ""


def _write_out() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _forget_output()


def _forget_output() -> None:
    """What is still to be written has no reader, and would be an error again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    sys.exit(main())
