"""The front page: a few doors, each with a picture and what lies behind it. No code, no network."""

from collections.abc import Sequence
from dataclasses import dataclass

from dualrs_lab.gallery.page import page_template

__all__ = ["Door", "Way", "front_html", "wait_html"]


@dataclass(frozen=True, kw_only=True)
class Way:
    """Something to open: its address, its name, and one sentence on it."""

    address: str
    name: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Door:
    """What a person may want to do, and the ways to it; the first is the main one."""

    title: str
    text: str
    ways: Sequence[Way]
    call: str = ""  # the same from the command line
    picture: str = ""  # a PNG in base64
    alt: str = ""


def front_html(doors: Sequence[Door], *, others: Sequence[Way] = ()) -> str:
    """The page; `others` are ways that belong to no door, for its foot."""
    return page_template("front.html.j2").render(doors=doors, others=others)


def wait_html(what: str) -> str:
    """A page that says what is being made, and asks again each second."""
    return page_template("wait.html.j2").render(what=what)
