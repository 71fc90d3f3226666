"""A card says what a notebook claims and shows one picture of it, whatever the notebook holds."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dualrs_lab.gallery import CARD, Card, as_card, make_card, show_run

ROOT = Path(__file__).parents[2]


def png(width: int, height: int) -> str:
    saved = io.BytesIO()
    Image.new("RGBA", (width, height), (255, 0, 0, 128)).save(saved, "PNG")
    return base64.b64encode(saved.getvalue()).decode()


def prose(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def shown(picture: str, *, alt: str = "", text: str = "<Figure>") -> dict[str, Any]:
    told = {"image/png": {"alt": alt}} if alt else {}
    output = {"output_type": "display_data", "metadata": told}
    output["data"] = {"image/png": picture, "text/plain": text}
    cell = {"cell_type": "code", "metadata": {}, "source": "x", "execution_count": 1}
    return cell | {"outputs": [output]}


def notebook(*cells: dict[str, Any]) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 4}


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        (
            "# T\n\nProse.\n\n**Claim.** *Noise* and `votes` give a [radius](x)\nthat is true. More.\n\nOn",
            "Noise and votes give a radius that is true.",
        ),
        (
            "# T\n\n**Claim.** No. Not every pixel needs the same budget of an attack. And more.",
            "No. Not every pixel needs the same budget of an attack.",
        ),
        (
            "# T\n\n| a |\n\nA first paragraph that is long enough, e.g. this one.",
            "A first paragraph that is long enough, e.g. this one.",
        ),
        ("## No title", ""),
        (f"**Claim.** {'word ' * 200}", "word " * 78 + "word…"),
    ],
)
def test_the_claim_is_one_sentence_of_the_prose(text: str, claim: str) -> None:
    assert make_card(notebook(prose(text))).claim == claim


def test_the_picture_is_the_first_that_can_be_read_and_small() -> None:
    nb = notebook(prose("# A *title*"), shown("bm8="), shown(png(1600, 800), alt="red"), shown(png(9, 9)))
    card = make_card(nb)
    image = Image.open(io.BytesIO(base64.b64decode(card.picture)))
    assert image.size == (640, 320)
    assert image.convert("RGB").getpixel((0, 0)) == pytest.approx((255, 127, 127), abs=1)  # on white
    assert (card.title, card.alt) == ("A title", "red")
    assert make_card(notebook(prose("# T"), shown(png(9, 9)))).alt == "A picture of “T”"
    assert make_card(notebook(prose("# T"), shown(png(9, 9), text="a line"))).alt == "a line"
    assert make_card(notebook()).picture == ""


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_has_a_card_to_read(path: Path) -> None:
    card = make_card(json.loads(path.read_text()))
    assert card.title.startswith(path.stem[:2])
    assert 40 <= len(card.claim) <= 250
    assert card.claim.endswith(".")
    assert "\\" not in card.claim  # a card shows no formulas
    assert 2000 < len(card.picture) < 100_000


def test_a_card_survives_a_file_and_nonsense_is_left_out() -> None:
    card = make_card(notebook(prose("# T\n\nWords."), shown(png(9, 9))))
    assert as_card(json.loads(json.dumps(card.plain()))) == card
    assert as_card([1]) == as_card({"title": 3, "more": "x"}) == Card()
    assert as_card({"title": "t", "picture": '"><b>'}) == Card(title="t")


def test_a_run_is_shown_as_a_page_with_its_card_beside_it(tmp_path: Path) -> None:
    nb = notebook(prose("# T\n\nSee `21_certify` and `this`."), shown(png(9, 9)))
    path = tmp_path / "nb.ipynb"
    path.write_text(json.dumps(nb))
    show_run(path, nb, tmp_path / "nb.html")
    assert as_card(json.loads((tmp_path / CARD).read_text())) == make_card(nb)
    page = (tmp_path / "nb.html").read_text()
    assert '<a href="../index.html">← All notebooks</a>' in page
    assert '<a href="../index.html#21_certify"><code>21_certify</code></a> and <code>this</code>' in page
