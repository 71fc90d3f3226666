"""A card: title, claim and one small picture of an executed notebook. Standard library and Pillow only."""

import base64
import binascii
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

__all__ = ["CARD", "Card", "as_card", "make_card"]


CARD = "card.json"  # where a run leaves it, beside its record


WIDTH, COLOURS = 640, 64  # of the picture: sharp on a screen with two dots a pixel, some 20 kB


LEAST = 40  # characters of a claim: "No." alone says nothing


LONGEST = 400


_CLAIM = re.compile(r"\*\*Claim\.\*\*\s*(.+?)(?:\n\s*\n|\Z)", re.DOTALL)


_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"“(*$]*[A-Z])")


_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


_MARKS = re.compile(r"\*\*|(?<!\w)[*_]|[*_](?!\w)|[`$]")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is seen of a notebook before it is opened; what it lacks is empty."""

    title: str = ""
    claim: str = ""
    picture: str = ""  # a PNG in base64
    alt: str = ""  # what the picture shows, in words

    def plain(self) -> dict[str, str]:
        """As JSON takes it; `as_card` reads it."""
        return asdict(self)


def as_card(value: object) -> Card:
    """A card from JSON that anybody may have written: what is no text, or no picture, is left out."""
    found = value if isinstance(value, Mapping) else {}
    texts = {one.name: found.get(one.name) for one in fields(Card)}
    card = Card(**{name: text for name, text in texts.items() if isinstance(text, str)})
    is_base64 = re.fullmatch(r"[A-Za-z0-9+/=]*", card.picture)
    return card if is_base64 else replace(card, picture="")


def make_card(notebook: Mapping[str, Any], *, picture: bool = True) -> Card:
    """The card of an executed notebook, given as its JSON (nbformat 4); with its picture, or without."""
    prose = "\n\n".join(_text(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")
    heading = re.search(r"^#\s+(.+?)\s*#*$", prose, re.MULTILINE)
    title = _plain(heading[1]) if heading else ""
    small, alt = next(_pictures(notebook), ("", "")) if picture else ("", "")
    return Card(title=title, claim=_claim(prose), picture=small, alt=alt or f"A picture of “{title}”")


def _claim(prose: str) -> str:
    """The first sentence of what stands after "Claim.", else of the first paragraph."""
    paragraphs = (part.strip() for part in re.split(r"\n\s*\n", prose))
    first = next((part for part in paragraphs if part and not part.startswith(("#", "|", "<", "!["))), "")
    found = _CLAIM.search(prose)
    said = ""
    for sentence in _SENTENCE.split(found[1] if found else first):
        said = _plain(f"{said} {sentence}")
        if len(said) >= LEAST:
            break
    return said if len(said) <= LONGEST else said[: LONGEST - 1].rpartition(" ")[0] + "…"


def _plain(markdown: str) -> str:
    return " ".join(_MARKS.sub("", _LINK.sub(r"\1", markdown)).split())


def _pictures(notebook: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """All pictures among the outputs that can be read, made small, each with its words."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data and (small := _small("".join(data["image/png"]))):
                words = output.get("metadata", {}).get("image/png", {}).get("alt")
                text = _text(data.get("text/plain", ""))
                yield small, str(words or ("" if text.startswith("<") else text))


def _small(picture: str) -> str:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(base64.b64decode(picture)), formats=["PNG"])
        rgba = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, binascii.Error, Image.DecompressionBombError):
        return ""
    ground = Image.new("RGBA", rgba.size, "white")
    ground.alpha_composite(rgba)
    flat = ground.convert("RGB")
    flat.thumbnail((WIDTH, WIDTH))
    saved = io.BytesIO()
    flat.quantize(COLOURS, dither=Image.Dither.NONE).save(saved, "PNG", optimize=True)
    return base64.b64encode(saved.getvalue()).decode("ascii")


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)
