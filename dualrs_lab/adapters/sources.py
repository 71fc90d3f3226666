"""Words that name a network without being a path; no torch, so that the command line knows them at once."""

import re

__all__ = ["FACTORY", "SCHEMES", "names_a_source"]


SCHEMES = ("torchvision", "timm", "hf", "robustbench")
"""What a source may begin with, before a colon."""

FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""`module:factory`."""


def names_a_source(text: str) -> bool:
    """Whether `text` is an address, begins with one of `SCHEMES`, or is a `module:factory`."""
    scheme, colon, _ = text.partition(":")
    return "://" in text or bool(colon and scheme in SCHEMES) or FACTORY.fullmatch(text) is not None
