"""A notebook as a page of HTML that asks no network: charts that move, formulas, words for pictures.

Charts are drawn by a runtime that the page holds once. Formulas are MathML, which browsers lay out by
themselves. A picture says in words what it shows, where its maker said so (`alt` in its metadata), else under
which heading it stands. The page is light or dark as the reader's system is.
"""

import re
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from dualrs_lab.charts.embed import chart_outputs, runtime_html
from dualrs_lab.files import replace_text

__all__ = ["export_page"]


_PICTURE = Markup('<img alt="{alt}" {size}src="data:image/png;base64,{data}"/>')


_MATHML = re.compile(
    r"(\{.*\})?(math|m(enclose|frac|i|n|o|over|padded|phantom|root|row|s|space|sqrt|style|sub|subsup|sup)"
    r"|m(table|td|text|tr|under|underover))"
)


_HEADING = re.compile(r"^#+\s+(.+?)\s*#*$", re.MULTILINE)


_LOADED = re.compile(r'<script src="[^"]*"[^>]*>\s*</script>')


_MATHJAX = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", re.DOTALL)


_MERMAID = re.compile(r'<script type="module">(?:(?!</script>).)*mermaid.*?</script>', re.DOTALL)


_NIGHT = """
:root { color-scheme: dark; }
body { background: var(--jp-layout-color0); color: var(--jp-content-font-color1); }
.jp-RenderedImage img, .jp-RenderedHTMLCommon > img { background: #fff; }
"""


_BODY = re.compile(r"<body[^>]*>")


_NAMED = re.compile(r"<code>(\d\d_\w+)</code>")


_NAME_LINK = Markup('<a href="{home}#{name}"><code>{name}</code></a>')


_BAR = Markup(
    """
<nav class="dualrs-bar">{home}<label><input type="checkbox" id="dualrs-fold"/> hide code</label>
{more}</nav>"""
)


_SOLUTIONS = Markup('<label><input type="checkbox" id="dualrs-solutions"/> show solutions</label>')


_BESIDE = re.compile(r'<a href="(\.\./[^":#]+)"[^>]*>(.*?)</a>')


_HOME = Markup('<a href="{home}">← All notebooks</a>')


@cache
def _own() -> str:
    return (resources(__package__) / "notebook.css").read_text("utf-8")


def _bar(home: str, nb: Any) -> Markup:
    """Above a page: the way to all notebooks, a tick that folds the code, and one for solutions, if any."""
    more = _SOLUTIONS if any("solution" in cell.metadata.get("tags", ()) for cell in nb.cells) else ""
    return _BAR.format(home=_HOME.format(home=home) if home else "", more=more)


def export_page(notebook: Path, page: Path, *, home: str = "") -> None:
    """Write the notebook as one HTML file, without widget state, that works from disk and asks no network.

    `home` is the address, from the page, of one that lists all of them: names of notebooks in the text lead
    to their places there. A link to a file that is not there, seen from the page, becomes plain text. Cells
    with the tag `solution` are shown when asked for, outputs of those with `reveal` when pointed at.
    """
    import nbformat

    nb = nbformat.read(notebook, as_version=4)
    charts = _for_a_page(nb)
    exporter = _exporter()(require_js_url="", mermaid_js_url="", mathjax_url="", embed_images=True)
    body, _ = exporter.from_notebook_node(nb, {"metadata": {"name": notebook.stem}})
    for asked in (_MATHJAX, _MERMAID, _LOADED):
        body = asked.sub("", body)
    dark, _, _ = exporter.environment.loader.get_source(exporter.environment, "static/theme-dark.css")
    night = (
        f"<style>\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n{_NIGHT}}}\n</style>\n</head>"
    )
    body = body.replace("</head>", f"<style>\n{_own()}</style>\n{night}", 1)
    body = _BESIDE.sub(lambda link: link[0] if (page.parent / link[1]).exists() else link[2], body)
    body = _BODY.sub(lambda found: found[0] + str(_bar(home, nb)), body, count=1)
    if home:
        body = _NAMED.sub(lambda found: str(_NAME_LINK.format(home=home, name=found[1])), body)
    if charts:  # last: the runtime is a megabyte that nobody has to parse as HTML
        head, end, tail = body.rpartition("</body>")
        body = f"{head}{runtime_html()}\n{end}{tail}"
    replace_text(page, body)


def _for_a_page(nb: Any) -> int:
    """Turn charts and pictures among the outputs into HTML; how many charts there are."""
    heading, charts = "", 0
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            heading = (_HEADING.findall(cell.source) or [heading])[-1]
        for output in cell.get("outputs", []):
            chart = chart_outputs(output)
            charts += chart is not None
            if (html := chart or _picture(output, heading)) is not None:
                output["data"] = {"text/html": str(html)}
    return charts


def _picture(output: Any, heading: str) -> Markup | None:
    """A picture with words for those who do not see it; None where the output shows something else."""
    data = output.get("data", {})
    if "image/png" not in data or "text/html" in data:
        return None
    about = output.get("metadata", {}).get("image/png", {})
    size = [Markup('{}="{}" ').format(side, about[side]) for side in ("width", "height") if side in about]
    text = "".join(data.get("text/plain", ""))
    alt = about.get("alt") or (text if text and not text.startswith("<") else f"Picture under “{heading}”")
    shown = "".join("".join(data["image/png"]).split())
    return _PICTURE.format(alt=alt, size=Markup("").join(size), data=shown)


@cache
def _exporter() -> Any:
    """nbconvert's exporter, but for formulas."""
    from jinja2 import pass_context
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):  # type: ignore[misc]  # nbconvert has no types
        def inline_math(self, body: str) -> str:
            return _formula(body, "inline")

        def block_math(self, body: str) -> str:
            return _formula(body, "block")

        def latex_environment(self, name: str, body: str) -> str:
            return _formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    class Exporter(HTMLExporter):  # type: ignore[misc]
        @pass_context
        def markdown2html(self, context: Any, source: str) -> str:
            attachments = context.get("cell", {}).get("attachments", {})
            renderer = Renderer(escape=False, attachments=attachments, embed_images=True)
            return str(MarkdownWithMath(renderer=renderer).render(source))

    return Exporter


def _formula(latex: str, display: str) -> str:
    """LaTeX as MathML; as it was typed, where it is none that is known, or brings elements of its own."""
    from latex2mathml.converter import convert

    try:
        found = str(convert(latex, display=display))
        parts = list(ElementTree.fromstring(found).iter())
    except Exception:  # of many kinds
        parts = []
    if parts and all(_MATHML.fullmatch(part.tag) for part in parts):
        return found
    return str(Markup("<code>{}</code>").format(latex))
