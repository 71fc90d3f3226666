"""A setting says once what it is: the dataclass that holds it gives its default and its help.

The command line reads both from there, see `cli.parser.add_option`.
"""

from dataclasses import field
from typing import TypeVar

__all__ = ["ALPHA", "setting"]


ALPHA = 0.001  # failure probability of a certificate where nobody asks for another


T = TypeVar("T")


def setting(default: T, help: str) -> T:
    """A field of a dataclass, with what it means to the person who sets it."""
    value: T = field(default=default, metadata={"help": help})
    return value
