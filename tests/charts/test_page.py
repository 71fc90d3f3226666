"""A page asks no network: its formulas are MathML, its charts move, and its pictures say what they show."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup  # comes with nbconvert

from dualrs_lab.charts import (
    INK,
    chart_outputs,
    curves_chart,
    export_page,
    figure_html,
    page_html,
    runtime_html,
)
from dualrs_lab.figures.style import BLACK

ROWS = pd.DataFrame({"label": 0, "predict": 0, "correct": 1, "radius": [0.1, 0.3, 0.6, 0.9]})
TEXT = """# 1 · A <b>claim</b>

Inline $\\sigma\\,\\Phi^{-1}(p)$, displayed $$R = \\min_j \\max(r_j, R_j)$$ and \\begin{align}a_1\\end{align};
$\\text{<script>hacked=1</script>}$, one that is none: $a^b^c < 1$. No formula: `$x$`, and 5 $ an hour."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    data, metadata = curves_chart({"</script><b>": ROWS})._repr_mimebundle_()
    picture = {"image/png": data["image/png"], "text/plain": "<Page size 1x1>"}
    told = {"image/png": {"alt": 'two "curves" & a band', "width": 20}}
    shown = [
        nbformat.v4.new_output("display_data", data=one, metadata=more)
        for one, more in [(data, metadata), (picture, {}), (picture, told), (data, metadata)]
    ]
    cells = [nbformat.v4.new_markdown_cell(TEXT), nbformat.v4.new_code_cell("1", outputs=shown)]
    folder = tmp_path_factory.mktemp("page")
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "nb.ipynb")
    export_page(folder / "nb.ipynb", folder / "nb.html")
    return (folder / "nb.html").read_text("utf-8")


def test_formulas_are_mathml(page: str) -> None:
    assert page.count("<math ") == 3
    assert page.count('display="block"') == 2
    assert "<code>a^b^c &lt; 1</code>" in page  # what cannot be read is shown as it was typed
    assert "&lt;script&gt;hacked" in page
    assert "<script>hacked" not in page
    assert "<code>$x$</code>, and 5 $ an hour" in page


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    assert "mathjax" not in page.lower()
    without = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # the runtime names addresses
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(["']?(?:https?:)?//""", without)
    assert not re.search(r"""<script[^>]* src=""", page)


def test_the_runtime_is_there_once_and_only_for_charts(page: str, tmp_path: Path) -> None:
    assert page.count("window.vegaEmbed=") == 1
    assert page.count('class="dualrs-chart"') == 2
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(TEXT)]), tmp_path / "nb.ipynb"
    )
    export_page(tmp_path / "nb.ipynb", tmp_path / "nb.html")
    assert "vegaEmbed" not in (tmp_path / "nb.html").read_text("utf-8")


def test_a_name_cannot_leave_its_chart(page: str) -> None:
    assert "</script><b>" not in page
    own = figure_html({"x": "<!--</script>"}, name="a'b", alt='"><i>', files={"csv": "a,b\n"}, picture=b"")
    assert "<!--" not in own
    assert "<i>" not in own
    assert 'download="a&#39;b.csv" href="data:text/csv;charset=utf-8,a%2Cb%0A"' in own
    assert "LaTeX" not in own


def test_every_picture_says_what_it_shows(page: str) -> None:
    found = [image["alt"] for image in BeautifulSoup(page, "html.parser").find_all("img")]
    words = curves_chart({"</script><b>": ROWS}).alt
    assert found == [words, "Picture under “1 · A <b>claim</b>”", 'two "curves" & a band', words]


def test_a_page_of_charts_alone(page: str) -> None:
    chart = curves_chart({"a": ROWS})
    html = page_html("a < b", [chart.figure()])
    assert "<title>a &lt; b</title>" in html
    assert html.count(str(runtime_html())) == 1
    assert chart.html().count('class="dualrs-chart"') == 1
    assert chart_outputs({"data": {"text/plain": "1"}}) is None


def test_the_ink_of_a_light_page_is_that_of_figures() -> None:
    assert INK["light"]["axis"]["domainColor"] == BLACK
    assert INK["light"].keys() == INK["dark"].keys()


def test_voila_gets_what_it_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    chart = curves_chart({"a": ROWS})
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    data, metadata = chart._repr_mimebundle_()
    assert data == {"text/html": chart.figure() + runtime_html(), "text/plain": chart.alt}
    assert metadata == {}
    assert "<body" not in data["text/html"].rpartition("<script>if (!window.vegaEmbed)")[0]


def test_solutions_wait_until_asked_for_and_dead_links_are_text(tmp_path: Path) -> None:
    solution = nbformat.v4.new_code_cell("1 + 1", metadata={"tags": ["solution"]})
    text = nbformat.v4.new_markdown_cell(
        "A [glossary](../glossary.md), [here](../here.md) and [off](https://a.b/c)."
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[text, solution]), tmp_path / "nb.ipynb")
    (tmp_path / "here.md").write_text("")
    (tmp_path / "pages").mkdir()
    export_page(tmp_path / "nb.ipynb", tmp_path / "pages" / "nb.html")
    made = BeautifulSoup((tmp_path / "pages" / "nb.html").read_text("utf-8"), "html.parser")
    assert made.find(id="dualrs-solutions")
    assert made.find(class_="celltag_solution")
    assert {link["href"] for link in made.find_all("a")} >= {"../here.md", "https://a.b/c"}
    assert "../glossary.md" not in {link["href"] for link in made.find_all("a")}
    assert "A glossary, here and off." in made.get_text()
    nbformat.write(nbformat.v4.new_notebook(cells=[text]), tmp_path / "nb.ipynb")
    export_page(tmp_path / "nb.ipynb", tmp_path / "nb.html")
    assert 'dualrs-solutions"/>' not in (tmp_path / "nb.html").read_text("utf-8")


def test_what_is_revealed_on_request_stays_within_its_details(tmp_path: Path) -> None:
    text = "<details><summary>Reveal</summary>\n\nThe answer is *four*.\n\n</details>\n\nOn we go."
    notebook, made = tmp_path / "nb.ipynb", tmp_path / "nb.html"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), notebook)
    export_page(notebook, made)
    found = re.search(r"<details>(.*?)</details>(.*?)</main>", made.read_text(), re.DOTALL)
    assert found
    assert "<em>four</em>" in found[1]
    assert "On we go." in found[2]
