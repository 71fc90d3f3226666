"""Words that name a network without being a path; no torch, so that the command line knows them at once."""

import re
from pathlib import Path

from dualrs_lab.afar.address import address_text

__all__ = ["FACTORY", "SCHEMES", "names_a_source", "source_name"]


SCHEMES = ("torchvision", "timm", "hf", "robustbench")
"""What a source may begin with, before a colon."""

FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""`module:factory`."""


def names_a_source(text: str) -> bool:
    """Whether `text` is an address, begins with one of `SCHEMES`, or is a `module:factory`."""
    scheme, colon, _ = text.partition(":")
    return "://" in text or bool(colon and scheme in SCHEMES) or FACTORY.fullmatch(text) is not None


def source_name(source: str | Path) -> str:
    """A source as records and names of files tell it: without folders, passwords or keys."""
    text = str(source)
    if "://" in text:
        return address_text(text)
    scheme, _, name = text.partition(":")
    if scheme == "robustbench" or (scheme == "hf" and Path(name).is_dir()):
        return f"{scheme}:{Path(name).name}"
    return text if scheme in SCHEMES or FACTORY.fullmatch(text) else Path(text).name
