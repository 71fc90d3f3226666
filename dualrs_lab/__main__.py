"""The command line: `dualrs-lab run | status | certify | attack | cascade | mix | summary | lab`.

Ends with 0 if all is well, 1 if a run failed, 2 with one line on stderr for bad input, 130 after Ctrl-C. Only
the command that was called adds its options, and with them what it takes to know their defaults.
"""

import os
import sys
from collections.abc import Sequence

from dualrs_lab import __version__
from dualrs_lab.cli.attack import ATTACK
from dualrs_lab.cli.certify import CERTIFY
from dualrs_lab.cli.parser import Parser
from dualrs_lab.cli.run import LAB, RUN, STATUS
from dualrs_lab.cli.tables import CASCADE, MIX, SUMMARY

__all__ = ["COMMANDS", "main", "make_parser"]

COMMANDS = (RUN, STATUS, CERTIFY, ATTACK, CASCADE, MIX, SUMMARY, LAB)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options, rest = make_parser(words).parse_known_args(words)
        if rest and not options.command.takes_rest:
            raise ValueError(f"unknown argument {rest[0]!r} (see dualrs-lab --help)")
        options.rest = rest
        code: int = options.command.run(options)
        return code
    except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        text = " ".join(str(error).split())
        print(f"dualrs-lab: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dualrs-lab: cancelled", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def make_parser(words: Sequence[str]) -> Parser:
    """The parser of all commands, with the options of the one that `words` call."""
    parser = Parser(prog="dualrs-lab", description="The accuracy-robustness trade-off on one bench.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")
    called = next((word for word in words if not word.startswith("-")), "")
    for command in COMMANDS:
        own = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            add_help=not command.takes_rest,
        )
        own.set_defaults(command=command)
        if command.name == called:
            command.options(own)
    return parser


if __name__ == "__main__":
    sys.exit(main())
