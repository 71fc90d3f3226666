"""`python -m benchmarks.pages`: fill in the pages of docs/ whose numbers come from the tables under data/.

A page NAME.md is written as NAME.md.in: prose in which every measured number is a {placeholder}, as
`str.format` takes it. A test holds the pages to what this makes of them and refuses numbers that are typed.
"""

import textwrap
from collections.abc import Callable
from pathlib import Path

from benchmarks.pages import (
    between,
    certificates,
    cifar100,
    combiners,
    denoised,
    dial,
    from_start,
    gpu,
    larger,
    mixing,
    panels,
    peers,
    photographs,
    pixels,
    resnet,
    resnet_mixes,
    router_order,
    scaling,
    shelf,
    silence,
    small_mixes,
    soups,
    speed,
    streamed,
    taught,
)
from benchmarks.pages.text import Facts

__all__ = ["DOCS", "PAGES", "WIDTH", "main", "render"]

DOCS = Path(__file__).resolve().parents[2] / "docs"
WIDTH = 120
PAGES: dict[str, Callable[[], Facts]] = {
    "results": lambda: (
        certificates.facts()
        | combiners.facts()
        | larger.facts()
        | taught.facts()
        | router_order.facts()
        | peers.facts()
        | dial.facts()
        | silence.facts()
        | between.facts()
        | soups.facts()
        | from_start.facts()
        | denoised.facts()
        | shelf.facts()
        | photographs.facts()
        | pixels.facts()
        | mixing.facts()
        | cifar100.facts()
        | resnet.facts()
        | resnet_mixes.facts()
        | small_mixes.facts()
    ),
    "speed": lambda: speed.facts() | gpu.facts() | streamed.facts() | panels.facts(),
    "scaling": scaling.facts,
}


def render(page: str) -> str:
    """The text of a page; raises ValueError for a placeholder without a value."""
    source = DOCS / f"{page}.md.in"
    try:
        text = source.read_text("utf-8").format(**PAGES[page]())
    except KeyError as error:
        raise ValueError(f"render: {source.name} asks for {error}; no table gives a value for it.") from None
    return "\n\n".join(map(_wrapped, text.rstrip().split("\n\n"))) + "\n"


def _wrapped(block: str) -> str:
    # prose at the width of all pages; tables, headings and pictures as they are
    prose = not block.startswith(("|", "#", "!", "```", "- "))
    return textwrap.fill(block, WIDTH, break_long_words=False, break_on_hyphens=False) if prose else block


def main() -> None:
    """Write every page."""
    for page in PAGES:
        text = render(page)
        (DOCS / f"{page}.md").write_text(text, "utf-8")
        print(f"docs/{page}.md")


if __name__ == "__main__":
    main()
