"""The explorer: a page that holds the rows of its tables, whatever their names say, and asks no network."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup

from dualrs_lab.charts import explorer_html
from dualrs_lab.data import Images, Pictures
from dualrs_lab.evidence import certified_accuracy

ROWS = pd.DataFrame(
    {
        "idx": [0, 40, 80, 120], "label": [0, 1, 2, 2], "predict": [0, 1, 1, -1],
        "radius": [0.5, 1.25, 0.75, 0.0], "correct": [1, 1, 0, 0],
        "votes": ["0:90 1:10", "1:100", "1:60 2:40", "0:50 2:50"], "sigma": 0.5, "alpha": 0.001,
    }
)  # fmt: skip
NAME = "</script><b>σ & co"


@pytest.fixture(scope="module")
def page() -> BeautifulSoup:
    images = Images(
        pixels=torch.zeros((2, 3, 4, 4), dtype=torch.uint8), labels=torch.tensor([0, 1]),
        classes=("<cat>", "dog"), name="some", split="test",
    )  # fmt: skip
    tables = {NAME: ROWS, "other": ROWS.iloc[:3]}
    html = explorer_html(tables, chosen=[NAME], radius=0.62, pictures=Pictures(images, (0, 40)))
    return BeautifulSoup(html, "html.parser")


def told(page: BeautifulSoup) -> list[dict[str, object]]:
    found = page.find("script", id="dualrs-tables")
    assert found is not None
    return json.loads(found.text)


def test_it_holds_the_names_of_the_pictures_and_their_labels(page: BeautifulSoup) -> None:
    found = page.find("script", id="dualrs-classes")
    assert found is not None
    assert json.loads(found.text) == {"names": ["<cat>", "dog"], "labels": {"0": 0, "40": 1}}


def rows(page: BeautifulSoup, name: str) -> pd.DataFrame:
    """The data of that name in a chart."""
    specs = [json.loads(figure.find("script").text)["spec"] for figure in page.find_all("figure")]
    (text,) = [spec["datasets"][name] for spec in specs if name in spec["datasets"]]
    return pd.read_csv(io.StringIO(text))


def test_it_holds_the_rows_of_every_table(page: BeautifulSoup) -> None:
    first, second = told(page)
    assert (first["name"], first["shown"], second["shown"]) == (NAME, True, False)
    assert first["rows"] == ROWS[["idx", "label", "predict", "radius", "correct"]].to_numpy().tolist()
    assert first["votes"] == {"votes": ROWS["votes"].tolist()}
    assert first["settings"] == {"sigma": 0.5, "alpha": 0.001}
    assert len(second["rows"]) == 3  # type: ignore[arg-type]


def test_its_first_frame_says_what_the_tables_certify(page: BeautifulSoup) -> None:
    steps = rows(page, "steps")
    assert steps["table"].unique().tolist() == [NAME]
    wanted = certified_accuracy(ROWS, steps["radius"])
    np.testing.assert_allclose(steps["accuracy"], wanted)
    (point,) = rows(page, "points").to_dict("records")
    assert (point["natural"], point["certified"], point["acr"]) == (0.5, 0.25, pytest.approx(1.75 / 4))
    assert "with a ruler at 0.62" in page.find("figure").find("img")["alt"]  # type: ignore[union-attr,index]


def test_names_are_text_and_nothing_is_fetched(page: BeautifulSoup) -> None:
    assert page.find("b") is None
    buttons = page.find_all("button", attrs={"data-idx": True})
    assert [button["title"] for button in buttons] == ["image 0, <cat>", "image 40, dog"]
    for tag in page.find_all(src=True) + page.find_all("link"):
        assert str(tag.get("src", "")).startswith("data:"), tag
    code = page.find_all("script")[-1].text
    assert not re.search(r"fetch\(|XMLHttp|https?:", code)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    for tables, chosen in (({}, None), ({"a": ROWS}, ["b"])):
        with pytest.raises(ValueError, match="got no tables to draw"):
            explorer_html(tables, chosen=chosen)
