"""Charts in a page that is opened from disk, every request blocked: they move, and they move as the package.

Needs chromium and the extra `browser` (playwright drives the chromium that is installed; nothing is fetched).
"""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

from dualrs_lab.charts import (
    attacked_chart,
    board_chart,
    curves_chart,
    export_page,
    plane_chart,
    votes_chart,
    walk_chart,
)
from dualrs_lab.evidence import certified_accuracy, ruled_radius
from dualrs_lab.figures import certified_points
from dualrs_lab.lessons import SmoothedPlane, first_wrong, lesson_plane, walk
from tests.test_browser import CHROMIUM, FLAGS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH")]
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is missing: pip install -e .[browser]"
)
RADII = np.linspace(0.005, 1.2, 300)
TABLES = {
    name: pd.DataFrame({"label": 0, "predict": 0, "correct": 1, "radius": RADII * share, "sigma": sigma})
    for name, share, sigma in (("<b>small</b>", 0.4, 0.25), ("large", 1.0, 1.0))
}
WALKED = SmoothedPlane(lesson_plane(), 0.1)
TURNED = {1: [0.9, 0.6, 0.2], 1000: [0.9, 0.9, 0.9]}
DIALLED: dict[str, Any] = {"dialled": TURNED, "label": "weak", "dial": "scale", "eps": 0.1}
DRAWN = "[...document.querySelectorAll('figure.dualrs-chart')].every(figure => figure.dataset.drawn === '1')"
REACTION = """async ([input, steps]) => {
    const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    const taken = [];
    for (let step = 0; step < steps; step++) {
        input.value = Number(input.min) + (step % 2 ? 0.6 : 0.3) * (Number(input.max) - Number(input.min));
        await frame();
        const before = performance.now();
        input.dispatchEvent(new Event('input', {bubbles: true}));
        await frame();
        taken.push(performance.now() - before);
    }
    return taken;
}"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    points = pd.concat([certified_points(TABLES, family="here", radius=r) for r in (0.1, 0.3)])
    attacks = (
        walk_chart(WALKED, ways={"long": {"step": 0.02}, "short": {"step": 0.003}}, x=0.77, y=0.53),
        attacked_chart({"truth": [0.9, 0.5, 0.1]}, [0, 0.1, 0.2], **DIALLED),
    )
    charts = (
        curves_chart(TABLES), votes_chart(), board_chart(points, tables=TABLES), plane_chart(), *attacks,
    )  # fmt: skip
    outputs = [
        nbformat.v4.new_output("display_data", data=data, metadata=metadata)
        for data, metadata in (chart._repr_mimebundle_() for chart in charts)
    ]
    text = nbformat.v4.new_markdown_cell("# Charts\n\nA radius is $\\sigma\\,\\Phi^{-1}(p)$.")
    cells = [text, nbformat.v4.new_code_cell("charts", outputs=outputs)]
    folder = tmp_path_factory.mktemp("page")
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "nb.ipynb")
    export_page(folder / "nb.ipynb", folder / "nb.html")
    return folder / "nb.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[("light", 1100), ("dark", 1100), ("light", 390)], ids=["light", "dark", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, path: Path, tmp_path: Path) -> Iterator[Any]:
    scheme, width = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(120_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type in ("error", "warning") else None)
    page.route(
        "**/*", lambda route: route.continue_() if route.request.url == path.as_uri() else route.abort()
    )
    page.on(
        "request",
        lambda asked: (
            None
            if asked.url in (path.as_uri(),) or asked.url.startswith("data:")
            else faults.append(asked.url)
        ),
    )
    page.goto(path.as_uri())
    page.wait_for_function(DRAWN)
    yield page
    page.screenshot(path=tmp_path / "end.png", full_page=True)
    page.close()
    assert faults == []


def figure(page: Any, number: int) -> Any:
    found = page.locator("figure.dualrs-chart").nth(number)
    found.scroll_into_view_if_needed()
    return found


def signal(chart: Any, name: str) -> Any:
    return chart.evaluate("(figure, name) => figure.view.signal(name)", name)


def drag(page: Any, chart: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """With the mouse, between places of the view as shares of its width and of its height."""
    box = chart.locator("svg.marks").bounding_box()
    for number, (across, down) in enumerate((start, end)):
        at = box["x"] + across * box["width"], box["y"] + down * box["height"]
        page.mouse.move(*at, steps=1 if number == 0 else 6)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def test_a_ruler_is_moved_by_keys_and_dragged_and_says_what_the_table_says(page: Any) -> None:
    chart = figure(page, 0)
    seen = chart.locator("svg.marks").inner_html()
    slider = chart.locator("input[type=range]")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("([chart, seen]) => chart.querySelector('svg.marks').innerHTML !== seen",
                           arg=[chart.element_handle(), seen])  # fmt: skip
    by_keys = float(slider.input_value())
    assert by_keys == pytest.approx(0.25 + 3 * 0.01)
    drag(page, chart, (0.5, 0.3), (0.7, 0.35))
    by_mouse = float(slider.input_value())
    assert by_mouse > by_keys + 0.2
    said = chart.locator("[aria-live]").inner_text()
    want = ", ".join(
        f"{name} {float(certified_accuracy(table, by_mouse)):.3f}" for name, table in TABLES.items()
    )
    assert said == f"at radius {by_mouse:.3f}: {want}"
    assert chart.locator("b").count() == 0  # names are text


def test_radii_in_the_browser_are_those_of_the_package(page: Any) -> None:
    chart = figure(page, 1)
    share, rival, sigma = (chart.locator("input[type=range]").nth(i) for i in range(3))
    draws, alpha = (chart.locator("select").nth(i) for i in range(2))
    for size, level, steps in ((1000, 0.001, 1), (100, 0.1, 4), (100_000, 0.01, 9)):
        draws.select_option(label=f"{size:,}")
        alpha.select_option(label=f"{level:g}")
        for slider in (share, rival, sigma):
            slider.focus()
            for _ in range(steps):
                page.keyboard.press("ArrowRight")
        p, q, s = (float(slider.input_value()) for slider in (share, rival, sigma))
        own = np.floor(size * p + 1e-6)
        theirs = min(np.ceil(size * min(q, 1 - p) - 1e-6), size - own)
        for name, rule in (("radius", "two-bounds"), ("cohen", "cohen")):
            want = float(ruled_radius(rule, own, theirs, size, level, s))
            assert signal(chart, name) == pytest.approx(want, abs=1e-9), (rule, size, level)
    drag(page, chart, (0.5, 0.6), (0.6, 0.6))
    assert float(share.input_value()) != p


def test_a_point_is_clicked_or_chosen_and_a_threat_too(page: Any) -> None:
    chart = figure(page, 2)
    point, threat = (chart.locator("select").nth(i) for i in range(2))
    point.select_option(label="large")
    assert signal(chart, "picked")["label"] == ["large"]
    threat.select_option(label="l2 0.3 certified")
    playwright.expect(chart.locator("svg.marks")).to_contain_text("l2 0.3 certified · large")


def test_a_point_of_the_plane_is_dragged(page: Any) -> None:
    chart = figure(page, 3)
    before = chart.locator("[aria-live]").inner_text()
    drag(page, chart, (0.5, 0.5), (0.75, 0.3))
    x, y = (float(chart.locator("input[type=range]").nth(i).input_value()) for i in range(2))
    assert x > 0.6
    assert y > 0.5
    assert chart.locator("[aria-live]").inner_text() != before


def test_an_attack_is_dragged_and_steps_as_the_package_does(page: Any) -> None:
    chart = figure(page, 4)
    ways, steps = chart.locator("select"), chart.locator("input[type=range]").last
    drag(page, chart, (0.8, 0.5), (0.45, 0.45))
    x, y = (signal(chart, "ruler")[side][0] for side in "xy")
    assert (x, y) != (0.77, 0.53)
    at = np.array([[x, y]])
    kind = WALKED.predict(at)
    for name, step in (("long", 0.02), ("short", 0.003)):
        ways.select_option(label=name)
        found = int(first_wrong(WALKED, walk(WALKED, at, kind, 0.1, steps=10, step=step), kind)[0])
        steps.focus()
        page.keyboard.press("End")
        want = (
            f"10 steps: another class, at step {found}" if found >= 0 else f"10 steps: still class {kind[0]}"
        )
        playwright.expect(chart.locator("[aria-live]")).to_contain_text(want)


def test_a_scale_is_chosen_and_the_curve_follows(page: Any) -> None:
    chart = figure(page, 5)
    chart.locator("select").select_option(label="1000")
    playwright.expect(chart.locator("[aria-live]")).to_contain_text("weak 0.900")
    playwright.expect(chart.locator("[aria-live]")).to_contain_text("truth 0.500")


def test_nothing_is_wider_than_its_page_and_all_is_named(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.images].every(image => image.alt)")
    assert page.locator("math").count() == 1
    charts = page.locator("figure.dualrs-chart")
    for i in range(charts.count()):
        assert charts.nth(i).locator("[role='graphics-document']").get_attribute("aria-label")
        for kind in ("input", "select"):
            controls = charts.nth(i).locator(kind)
            assert all(controls.nth(j).evaluate("one => one.labels.length") for j in range(controls.count()))
        assert charts.nth(i).locator("a[download$='.csv']").get_attribute("href").startswith("data:text/csv")


def test_a_chart_follows_at_once(page: Any) -> None:
    for number in range(2):
        slider = figure(page, number).locator("input[type=range]").first
        taken = slider.evaluate("(input, steps) => (" + REACTION + ")([input, steps])", 20)
        assert statistics.median(taken) < 500  # on a busy machine; benchmarks/panels.py measures
