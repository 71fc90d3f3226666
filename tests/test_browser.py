"""The panels in a real JupyterLab in a real browser: every slider moves its picture, and nothing complains.

Needs chromium and the extra `browser` (playwright drives the chromium that is installed; nothing is fetched).
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest

from dualrs_lab.charts import explorer_html
from dualrs_lab.data import shipped_pictures
from dualrs_lab.evidence import certified_accuracy, lower_bound, read_table, upper_bound
from dualrs_lab.headless import write_gallery

ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), "")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SETTINGS = {
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of sight are not in the page
}
NETWORKS = """
from dualrs_lab.data import load_images, shipped_pictures
from dualrs_lab.evidence import read_table
from dualrs_lab.experiment import Experiment, Shelf
shipped, pictures = Experiment.shipped("../data"), shipped_pictures("../data")
singles = shipped.singles()
systems, mixing, pixels = (Shelf("../data", f"cifar10_{part}") for part in ("systems", "mixing", "pixels"))
"""
MADE = {
    "votes": "from dualrs_lab.panels import VotesPanel\nVotesPanel()",
    "plane": "from dualrs_lab.panels import PlanePanel\nPlanePanel()",
    "dual": "from dualrs_lab.panels import DualPanel\nDualPanel()",
    "certified": "from dualrs_lab.panels import CertifiedPanel\nCertifiedPanel(shipped.tables())",
    "image": """
from dualrs_lab.panels import ImagePanel
ImagePanel({sigma: shipped.expert(sigma) for sigma in singles}, pictures, image=30, sigma=0.5, n=400)
""",
    "pixels": """
from dualrs_lab.panels import PixelPanel
PixelPanel(pixels.network("at"), pictures, eps=8 / 255, image=33, layer=["body.layer3", "body.layer2"])
""",
    "blend": """
from dualrs_lab.panels import BlendPanel
BlendPanel(mixing.network("accurate"), pixels.network("at"), pictures, eps=8 / 255)
""",
    "cascade": """
from dualrs_lab.panels import CascadePanel
CascadePanel(singles, pictures=pictures, image=7)
""",
    "combiner": """
from dualrs_lab.combine import read_combiner
from dualrs_lab.panels import CombinerPanel
dial = {name: read_combiner(systems.combiner(name)) for name in ("large", "even", "small")}
CombinerPanel(singles, dial, pictures=pictures, image=7)
""",
    "routed": """
from dualrs_lab.panels import RoutedPanel
RoutedPanel(read_table(systems.answers("dual")), singles, pictures=pictures, image=3)
""",
    "mix": """
from dualrs_lab.panels import MixPanel
rows = mixing.read("systems")
MixPanel(singles[0.5], curve=rows[rows["system"].str.startswith("weight")])
""",
}
HOSTILE = """
from dualrs_lab.data import Images, load_images
from dualrs_lab.models import make_model
from dualrs_lab.panels import BlendPanel, CertifiedPanel, PixelPanel
import pandas as pd
evil = "<img src=x onerror=window.hacked=true>"
digits = load_images("digits", "test")
named = Images(pixels=digits.pixels, labels=digits.labels, classes=tuple(f"{evil}{k}" for k in range(10)),
               name=evil, split="test")
g, h = (make_model("digits_cnn", classes=10, channels=1, mean=[0.3], std=[0.4], seed=seed) for seed in (0, 1))
g.body.fc.weight.data.abs_()
rows = pd.DataFrame({"idx": [0, 1], "label": 0, "predict": 0, "correct": 1, "radius": [0.1, 0.3]})
tables = {evil: rows.assign(sigma=0.5)}
display(PixelPanel(g, named, eps=0.2), BlendPanel(g, h, named, eps=0.2), CertifiedPanel(tables))
"""
CHARTS = """
import pandas as pd
from dualrs_lab.charts import curves_chart, votes_chart
rows = pd.DataFrame({"label": 0, "predict": 0, "correct": 1, "radius": [0.1, 0.3, 0.6, 0.9], "sigma": 0.5})
display(curves_chart({"σ = 0.5": rows}), votes_chart())
"""
STATE = "window.jupyterapp?.shell.currentWidget?.context?.sessionContext.session?.kernel?.status"
RUN = """() => { window.ran = false;
    window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ran = true; }); }"""
ERRORS = """() => window.jupyterapp.shell.currentWidget.content.model.toJSON().cells
    .flatMap(cell => cell.outputs || []).filter(out => out.output_type === 'error')
    .map(out => out.ename + ': ' + out.evalue)"""
DIGEST = """async image => { const data = await (await fetch(image.src)).arrayBuffer();
    const hash = await crypto.subtle.digest('SHA-256', data);
    return Array.from(new Uint8Array(hash)).join(); }"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH")]
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is missing: pip install -e .[browser]"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A JupyterLab with the shipped settings on a copy of the notebooks: its address and its root folder."""
    home, root = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    for name in ("data", "runs"):
        if (ROOT / name).is_dir():
            (root / name).symlink_to(ROOT / name)
    sources = [NETWORKS, *MADE.values()]
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    evil = [nbformat.v4.new_code_cell(HOSTILE.strip())]
    charts = [nbformat.v4.new_code_cell(CHARTS.strip())]
    for name, made in {"panels": cells, "hostile": evil, "charts": charts}.items():
        notebook = nbformat.v4.new_notebook(cells=made, metadata=kernel)
        nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
        f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    with served(command, home, root, port) as address:
        yield address, root


@pytest.fixture(scope="module")
def voila(lab: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Voilà on the notebook of the panels."""
    home, root, port = tmp_path_factory.mktemp("voila"), lab[1], free_port()
    command = [
        sys.executable, "-m", "voila", str(root / "notebooks" / "panels.ipynb"), "--show_tracebacks=True",
        "--no-browser", f"--port={port}",
    ]  # fmt: skip
    with served(command, home, root, port, ready="/nothing") as address:
        yield address, root


@contextmanager
def served(
    command: list[str], home: Path, root: Path, port: int, ready: str = "/api/status"
) -> Iterator[str]:
    """A server that runs in `root` with settings of its own: its address, once it answers at `ready`."""
    address, log = f"http://127.0.0.1:{port}", home / "log.txt"
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, env=environment(home), cwd=root, stdout=out, stderr=out, start_new_session=True
        ) as server,
    ):
        try:
            wait_for(f"{address}{ready}", server, log)
            yield address
        finally:
            stop(server)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    folders = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }  # fmt: skip
    shipped = {"JUPYTER_CONFIG_PATH": str(ROOT / "dualrs_lab"), "PYTHONPATH": str(ROOT)}
    return kept | shipped | {name: str(home / folder) for name, folder in folders.items()}


def wait_for(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except urllib.error.HTTPError:  # it answers
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not answer at {address}:\n{log.read_text()[-3000:]}")


def stop(server: "subprocess.Popen[bytes]") -> None:
    for number, patience in ((signal.SIGINT, 10), (signal.SIGKILL, 10)):
        if server.poll() is None:
            os.killpg(server.pid, number)
            try:
                server.wait(patience)
            except subprocess.TimeoutExpired:
                continue


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(120_000)
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        yield page
        page.screenshot(path=tmp_path / "end.png")
        browser.close()
    assert not failures


def run_all(page: Any, address: str, notebook: str) -> None:
    page.goto(f"{address}/lab/tree/notebooks/{notebook}?reset")
    page.wait_for_function(f"{STATE} === 'idle'")
    page.evaluate(RUN)
    page.wait_for_function("window.ran", timeout=900_000)  # some train, on machines that are busy
    assert page.evaluate(ERRORS) == []


def wait_for_change(panel: Any, before: str, what: str, said: str = "") -> str:
    """The new picture; where `said` was told below it, another note will do: two formulas may be one."""
    deadline, note = time.monotonic() + 60, panel.locator(".dualrs-note")
    while (now := settled(panel)) == before and (not said or note.inner_text() == said):
        assert time.monotonic() < deadline, f"{what} left the picture as it was"
        panel.page.wait_for_timeout(100)
    return now


def picture(panel: Any) -> str:
    return str(panel.locator("img").evaluate(DIGEST))


def settled(panel: Any) -> str:
    """The picture once nothing is under way, and none has come for a while."""
    seen = ""
    busy = panel.locator(".dualrs-stop")
    while busy.is_visible() or picture(panel) != seen:
        seen = picture(panel)
        panel.page.wait_for_timeout(250)
    return seen


def sliders_of(panel: Any) -> dict[str, Any]:
    """Handles that can be moved, by the name of their control."""
    free = panel.locator(".widget-slider:has(.noUi-target:not([disabled]))")
    named = "one => [...one.classList].find(name => name.startsWith('dualrs-'))"
    names = [free.nth(i).evaluate(named) for i in range(free.count())]
    return {name: panel.locator(f".{name} .noUi-handle") for name in names}


def drag(page: Any, handle: Any) -> None:
    """By the mouse, beyond the middle of the slider, or away from there."""
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    rail = handle.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    share = 0.2 if abs(x - rail["x"] - 0.6 * rail["width"]) < 0.15 * rail["width"] else 0.6
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(rail["x"] + share * rail["width"], y, steps=6)
    page.mouse.up()


def press(panel: Any, handle: Any, before: str, what: str) -> str:
    """A few steps, as one alone may change no answer."""
    top = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
    handle.focus()
    for _ in range(12):
        handle.press("ArrowLeft" if top else "ArrowRight")
        if (seen := settled(panel)) != before:
            return seen
    raise AssertionError(f"{what} left the picture as it was")


def move_everything(panel: Any) -> None:
    """Every slider by key and by mouse, every menu and tick: the picture follows, and nothing complains."""
    assert panel.locator("img").count() == 1
    seen, moved = settled(panel), set()

    def move_sliders(seen: str) -> str:
        for name, handle in sliders_of(panel).items():
            if name not in moved:
                seen = press(panel, handle, seen, f"{name}, by key")
                drag(panel.page, handle)
                seen = wait_for_change(panel, seen, f"{name}, by mouse")
                moved.add(name)
        return seen

    seen = move_sliders(seen)
    menus = panel.locator("select")
    for i in range(menus.count()):
        first = menus.nth(i).evaluate("menu => menu.selectedIndex")
        for place in {*range(menus.nth(i).locator("option").count())} - {first}:
            said = panel.locator(".dualrs-note").inner_text()
            menus.nth(i).select_option(index=place)
            seen = wait_for_change(panel, seen, f"menu {i}", said)
            seen = move_sliders(seen)  # those that were not free before
    ticks = panel.locator("input[type=checkbox]")
    for i in range(1, ticks.count()):
        ticks.nth(i).click()
        seen = wait_for_change(panel, seen, f"tick {i}")
    assert panel.locator(".dualrs-status").inner_text().strip() == ""
    assert panel.locator("img").count() == 1


def move_slider(chart: Any) -> None:
    """The first slider of a chart, by keys that are not JupyterLab's own: the drawing follows."""
    chart.scroll_into_view_if_needed()
    slider, before = chart.locator("input[type=range]").first, chart.locator("svg.marks").inner_html()
    lowest = slider.input_value() == slider.get_attribute("min")
    slider.focus()
    slider.press("PageUp" if lowest else "PageDown")
    chart.page.wait_for_function(
        "([chart, before]) => chart.querySelector('svg.marks').innerHTML !== before",
        arg=[chart.element_handle(), before],
    )


def test_the_shipped_settings_reach_the_lab(lab: tuple[str, Path]) -> None:
    name = "@jupyterlab/apputils-extension:kernels-settings"
    with urllib.request.urlopen(f"{lab[0]}/lab/api/settings/{name}", timeout=30) as answer:
        schema = json.load(answer)["schema"]
    assert schema["properties"]["commsOverSubshells"]["default"] == "disabled"


@pytest.mark.parametrize("server", ["lab", "voila"])
def test_every_panel_follows_its_controls(
    server: str, request: pytest.FixtureRequest, page: Any, tmp_path: Path
) -> None:
    address, _ = request.getfixturevalue(server)
    if server == "lab":
        run_all(page, address, "panels.ipynb")
        shown = page.locator(".jp-OutputArea-output img")
        assert shown.count() == len(MADE)  # the fallback PNG does not show too
    else:
        page.goto(address)
    for name in MADE:
        panel = page.locator(f".dualrs-{name}.dualrs-panel")
        panel.locator("img").wait_for()
        panel.scroll_into_view_if_needed()
        panel.screenshot(path=tmp_path / f"{name}_before.png")
        move_everything(panel)
        panel.screenshot(path=tmp_path / f"{name}_after.png")


def test_a_certificate_sharpens_and_can_be_stopped(lab: tuple[str, Path], page: Any, tmp_path: Path) -> None:
    run_all(page, lab[0], "panels.ipynb")
    panel = page.locator(".dualrs-image.dualrs-panel")
    stop, note = panel.locator(".dualrs-stop"), panel.locator(".dualrs-note")
    draws = panel.locator(".dualrs-n .noUi-handle")
    draws.focus()
    for _ in range(9):
        draws.press("ArrowRight")
    stop.wait_for(state="visible")
    playwright.expect(note).to_contain_text("a view of the first")
    views = {picture(panel) for _ in range(12) if page.wait_for_timeout(200) is None}
    assert len(views) > 3
    panel.screenshot(path=tmp_path / "on_the_way.png")
    stop.click()
    playwright.expect(panel.locator(".dualrs-status")).to_contain_text("stopped")
    playwright.expect(stop).to_be_hidden()
    draws.press("Home")
    playwright.expect(note).to_contain_text("certified from n = 100 votes")
    playwright.expect(panel.locator(".dualrs-status")).to_have_text("")


def test_charts_are_drawn_and_move_without_the_kernel(
    lab: tuple[str, Path], page: Any, tmp_path: Path
) -> None:
    run_all(page, lab[0], "charts.ipynb")
    charts = page.locator(".vega-embed")
    playwright.expect(charts).to_have_count(2)
    page.evaluate("window.jupyterapp.shell.currentWidget.context.sessionContext.shutdown()")
    for i in range(2):
        charts.nth(i).scroll_into_view_if_needed()
        move_slider(charts.nth(i))
        slider = charts.nth(i).locator("input[type=range]").first
        value = slider.input_value()
        box = charts.nth(i).locator("svg.marks").bounding_box()
        across, down = box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"]
        page.mouse.move(across, down)
        page.mouse.down()
        page.mouse.move(across + 60, down, steps=4)
        page.mouse.up()
        assert slider.input_value() != value
        charts.nth(i).screenshot(path=tmp_path / f"chart_{i}.png")


def test_names_are_text_and_never_run(lab: tuple[str, Path], page: Any, tmp_path: Path) -> None:
    run_all(page, lab[0], "hostile.ipynb")
    panels = page.locator(".dualrs-panel")
    assert panels.count() == 3
    for i in range(3):
        panels.nth(i).scroll_into_view_if_needed()
        panels.nth(i).screenshot(path=tmp_path / f"hostile_{i}.png")
    for i in range(2):  # the answer is named in a note
        playwright.expect(panels.nth(i)).to_contain_text("<img src=x onerror=window.hacked=true>")
    assert page.locator("img[src='x']").count() == 0
    assert page.evaluate("window.hacked") is None


def test_a_failure_shows_in_red_and_goes_away(lab: tuple[str, Path], page: Any, tmp_path: Path) -> None:
    run_all(page, lab[0], "panels.ipynb")
    panel = page.locator(".dualrs-certified.dualrs-panel")
    ticks, status = panel.locator("input[type=checkbox]"), panel.locator(".dualrs-status")
    for i in range(ticks.count()):
        ticks.nth(i).click()
    playwright.expect(status).to_contain_text("no table is ticked", timeout=60_000)
    panel.screenshot(path=tmp_path / "failure.png")
    ticks.nth(0).click()
    playwright.expect(status).to_have_text("", timeout=60_000)
    assert page.evaluate(ERRORS) == []


@pytest.mark.parametrize(
    "name",
    [
        "00_start_here",
        "10_lesson_smoothing",
        "11_lesson_dual",
        "12_lesson_pixels",
        "13_lesson_mixing",
        "14_lesson_certificates",
        "15_lesson_attacks",
        "22_dual",
        "23_pixel_reweighting",
        "24_mixing",
        "30_tradeoff",
    ],
)
def test_the_panels_of_the_notebooks_work_too(
    lab: tuple[str, Path], page: Any, tmp_path: Path, name: str
) -> None:
    path = lab[1] / "notebooks" / f"{name}.ipynb"
    if not path.is_file():
        pytest.skip(f"{name} is not there yet")
    if name in ("22_dual", "24_mixing", "30_tradeoff") and not list((ROOT / "runs" / "files").glob("*.tsv")):
        pytest.skip(f"{name} needs the tables of 21_certify: run `dualrs-lab run` first")
    run_all(page, lab[0], path.name)
    panels, charts = page.locator(".dualrs-panel"), page.locator(".vega-embed")
    assert panels.count() + charts.count() > 0
    for i in range(panels.count()):
        panels.nth(i).scroll_into_view_if_needed()
        move_everything(panels.nth(i))
        panels.nth(i).screenshot(path=tmp_path / f"{name}_{i}.png")
    for i in range(charts.count()):
        move_slider(charts.nth(i))
        charts.nth(i).screenshot(path=tmp_path / f"{name}_chart_{i}.png")


def test_the_explorer_works_from_disk_without_a_network(page: Any, tmp_path: Path) -> None:
    systems = ROOT / "data" / "cifar10_systems"
    tables = {name: read_table(systems / f"{name}.tsv") for name in ("dual", "combined")}
    made = explorer_html(tables, pictures=shipped_pictures(ROOT / "data"))
    (tmp_path / "board.html").write_text(made, "utf-8")
    asked: list[str] = []

    def refuse(route: Any) -> None:
        asked.append(route.request.url)
        route.abort()

    page.route(lambda url: not url.startswith(("file:", "data:", "blob:")), refuse)
    page.goto((tmp_path / "board.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.dualrs-tables tbody tr').length === 2")
    radius = "window.dualrsExplorer.state.radius"
    slider = page.locator("figure.dualrs-chart input[type=range]").first
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(f"Math.abs({radius} - 0.55) < 1e-9")
    wanted = [f"{float(certified_accuracy(tables['dual'], r)):.3f}" for r in (0.0, 0.55)]
    row = (
        "[...document.querySelectorAll('.dualrs-tables tbody tr')].find((r) => r.innerText.includes('dual'))"
    )
    page.wait_for_function(f"{row}.innerText.split('\\t').slice(-3, -1).join() === '{','.join(wanted)}'")
    place = page.locator("figure.dualrs-chart svg").first.bounding_box()
    page.mouse.move(place["x"] + 150, place["y"] + 150)
    page.mouse.down()
    page.mouse.move(place["x"] + 300, place["y"] + 150, steps=5)
    page.mouse.up()
    page.wait_for_function(f"{radius} > 1")
    log = ROOT / "data" / "published_logs" / "cohen2019_cifar10_resnet110_sigma_0.50.tsv"
    page.set_input_files("input[type=file]", [str(log), str(ROOT / "README.md")])
    page.wait_for_function("document.querySelectorAll('.dualrs-tables tbody tr').length === 3")
    notes = page.locator(".dualrs-notes").inner_text()
    assert "README.md: no column idx" in notes
    assert "label image 0 differently" in notes  # the published order is another one
    low, high = page.evaluate("window.dualrsExplorer.band(30, 250)")
    exact = (lower_bound(30, 250, 0.025), upper_bound(30, 250, 0.025))
    assert (low, high) == pytest.approx(exact, abs=1e-9)
    page.locator(".dualrs-pictures button").nth(33).click()
    assert "automobile:9940 truck:60" in page.locator(".dualrs-image").inner_text()
    page.locator(".dualrs-tables tbody button", has_text="combined").click()
    assert "method combine" in page.locator(".dualrs-picked").inner_text()
    tex = page.locator(".dualrs-tex").get_attribute("href")
    assert "tabular" in tex
    assert "cohen2019%5C_cifar10" in tex
    assert not asked


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The notebooks as they are committed, as runs: one of them failed."""
    out = tmp_path_factory.mktemp("runs")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        name, state = path.stem, "error" if path.stem == "25_adaptive" else "ok"
        status = {
            "run": name, "notebook": name, "point": "", "state": state, "message": "made to fail",
            "queued": "", "parameters": {"seed": 0}, "given": {}, "seconds": 12.0,
            "provenance": {}, "runner": {"pid": 1, "born": "", "host": "elsewhere"},
        }  # fmt: skip
        (out / name).mkdir()
        shutil.copyfile(path, out / name / path.name)
        (out / name / "status.json").write_text(json.dumps(status))
        (out / name / "records.jsonl").write_text('{"rows": [{"a": 0.123456, "b": "x"}]}\n')
    assert write_gallery(out) == len([*out.glob("*/*.html")]) == len([*(ROOT / "notebooks").glob("*.ipynb")])
    return out


def refused(page: Any) -> list[str]:
    """What a page asks of any network, which is refused."""
    asked: list[str] = []

    def refuse(route: Any) -> None:
        asked.append(route.request.url)
        route.abort()

    page.route(lambda url: not url.startswith(("file:", "data:", "blob:")), refuse)
    return asked


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_a_gallery_works_from_disk_without_a_network(page: Any, gallery: Path, tmp_path: Path) -> None:
    asked = refused(page)
    page.goto((gallery / "index.html").as_uri())
    cards = page.locator("article:visible")
    assert cards.count() == (count := len([*(ROOT / "notebooks").glob("*.ipynb")]))
    assert page.locator("article img[alt='']").count() == 0
    assert page.locator("details[open]").count() == 0
    page.get_by_label("all").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")  # ended well, failed
    assert cards.count() == 1
    assert "made to fail" in cards.inner_text()
    page.get_by_label("all").check()
    page.get_by_label("Find").fill("certificates votes")
    assert "21 · From votes to certificates" in page.locator("main").inner_text()
    assert f"{cards.count()} of {count} shown" == page.locator("output").inner_text()
    page.get_by_label("Find").fill("")
    page.locator("[id='20_train'] summary").first.press("Enter")
    assert page.locator("[id='20_train'] td.number").first.inner_text() == "0.1235"
    page.locator("article h2 a").first.click()
    page.get_by_label("hide code").check()
    assert page.locator(".jp-CodeCell .jp-InputArea:visible").count() == 0
    assert page.locator(".jp-OutputArea:visible").count() > 0
    page.locator("a", has_text="21_certify").first.click()
    assert page.url.endswith("index.html#21_certify")
    assert not asked


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_a_gallery_looks_right_everywhere(page: Any, gallery: Path, tmp_path: Path, look: str) -> None:
    if look == "phone":
        page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark" if look == "dark" else "light")
    for path in [gallery / "index.html", *sorted(gallery.glob("*/*.html"))]:
        assert path.stat().st_size <= 3e6, path.name
        page.goto(path.as_uri())
        assert fits(page), path.name
        page.screenshot(path=tmp_path / f"{path.stem}_{look}.png", full_page=path.stem == "index")
        ink, ground = page.evaluate(
            "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])"
            ".map(text => text.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0))"
        )
        assert (ink > ground) == (look == "dark")


@pytest.fixture
def front(
    request: pytest.FixtureRequest, lab: tuple[str, Path], tmp_path: Path
) -> Iterator[tuple[str, float]]:
    """`dualrs-lab lab`, with --app or without: its address, and when it was called."""
    app = ["--app"] if request.param == "app" else ["--LabApp.expose_app_in_browser=True"]
    port = free_port()
    command = [
        sys.executable, "-m", "dualrs_lab", "lab", *app, "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", "--IdentityProvider.token=", "--ServerApp.password=",
    ]  # fmt: skip
    began = time.monotonic()
    with served(command, tmp_path, lab[1], port) as address:
        yield address, began


def open_front_page(page: Any, address: str, began: float) -> None:
    page.goto(f"{address}/dualrs")
    page.locator("article h2 a").first.wait_for()
    print(f"usable after {time.monotonic() - began:.1f} s")
    titles = [title.strip() for title in page.locator("article h2").all_inner_texts()]
    assert titles == ["Explore results", "Learn", "Bring your network", "Run experiments"]
    assert page.locator("pre, textarea, .jp-InputArea").count() == 0


@pytest.mark.parametrize("front", ["lab"], indirect=True)
def test_the_front_page_opens_notebooks_that_stay_unedited(
    front: tuple[str, float], page: Any, tmp_path: Path
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_front_page(page, *front)
    for look, width, scheme in (("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 390, "light")):
        page.set_viewport_size({"width": width, "height": 1000})
        page.emulate_media(color_scheme=scheme)
        assert fits(page)
        page.screenshot(path=tmp_path / f"front_{look}.png", full_page=True)
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.locator("a", has_text="10 · Randomized smoothing").click()
    page.wait_for_function(f"{STATE} === 'idle'")
    page.wait_for_timeout(2000)  # as long as it takes JupyterLab to write what it writes
    assert not page.evaluate("window.jupyterapp.shell.currentWidget.context.model.dirty")
    assert page.locator(".Toastify__toast").count() == 0
    page.screenshot(path=tmp_path / "lab.png")
    page.get_by_role("button", name="Hide code").click()
    page.locator(".jp-InputCollapser-child, .jp-InputPlaceholder").first.wait_for()
    assert page.locator(".jp-CodeCell .jp-InputArea-editor:visible").count() == 0
    page.get_by_role("button", name="Show code").click()
    page.locator(".jp-CodeCell .jp-InputArea-editor").first.wait_for()
    assert all(url.startswith((front[0], front[0].replace("http", "ws"), "data:", "blob:")) for url in asked)


@pytest.mark.skipif(
    importlib.util.find_spec("voila") is None, reason="voila is missing: pip install -e .[app]"
)
@pytest.mark.parametrize("front", ["app"], indirect=True)
def test_an_app_shows_notebooks_without_code(front: tuple[str, float], page: Any, tmp_path: Path) -> None:
    open_front_page(page, *front)
    page.locator("a", has_text="13 · Mixing").click()
    page.locator(".dualrs-panel img.dualrs-picture").first.wait_for()
    assert page.locator(".jp-CodeCell .jp-InputArea, .jp-Editor").count() == 0
    page.screenshot(path=tmp_path / "app.png")
