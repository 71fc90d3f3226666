"""`python -m benchmarks.panels`: how long charts and panels take to follow, from an event to what is seen.

Every chart stands in a page that is opened from disk in headless Chromium, with all requests blocked. Each of
its sliders and menus moves to and fro; the time runs from the event to the end of the next painted frame, so
that half a frame of waiting is in it. Panels with a kernel are served: see `kernel_panels`. Writes
panels.json (every value), .csv and .md into `--out`.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import kernel_panels
from benchmarks.measure import Row, frame
from benchmarks.report import table
from dualrs_lab.charts import (
    Chart,
    board_chart,
    cascade_chart,
    curves_chart,
    dual_chart,
    mix_chart,
    page_html,
    plane_chart,
    votes_chart,
)
from dualrs_lab.evidence import read_table
from dualrs_lab.experiment import Experiment
from dualrs_lab.figures import certified_points
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.runtime import describe, pick_device

__all__ = ["main"]

DATA = Path(__file__).resolve().parent.parent / "data"
PART = "panels"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
REACTION = """async ([figure, number, count]) => {
    const control = figure.querySelectorAll('input[type=range], select')[number];
    const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    const taken = [];
    for (let step = 0; step < count; step++) {
        const share = step % 2 ? 0.6 : 0.3;
        if (control.tagName === 'SELECT') control.selectedIndex = step % Math.min(2, control.options.length);
        else control.value = Number(control.min) + share * (Number(control.max) - Number(control.min));
        await frame();
        const before = performance.now();
        for (const kind of ['input', 'change']) control.dispatchEvent(new Event(kind, {bubbles: true}));
        await frame();
        taken.push(performance.now() - before);
    }
    return taken;
}"""
NAMES = """figure => [...figure.querySelectorAll('input[type=range], select')].map(
    one => one.labels[0].querySelector('.vega-bind-name').textContent)"""
DRAWN = "[...document.querySelectorAll('figure.dualrs-chart')].every(figure => figure.dataset.drawn === '1')"


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write."""
    args = _options(argv)
    charts = {name: make() for name, make in _charts().items() if name in args.only or not args.only}
    rows = _measured(charts, args)
    parts = [part for part in (PART, kernel_panels.PART) if any(row.part == part for row in rows)]
    told = "\n\n".join(table(rows, part) for part in parts)
    print(told)
    replace_json(
        args.out / "panels.json",
        {"events": args.events, "provenance": describe(pick_device("cpu")), "rows": [*map(asdict, rows)]},
    )
    replace_text(args.out / "panels.csv", frame(rows).to_csv(index=False, lineterminator="\n"))
    replace_text(args.out / "panels.md", told + "\n")
    return rows


def _charts() -> dict[str, Callable[[], Chart]]:
    shipped = Experiment.shipped(DATA)
    tables, singles = shipped.tables(), shipped.singles()
    points = pd.concat([certified_points(tables, family="here", radius=r) for r in (0.25, 0.5)])
    return {
        "certified curves": lambda: curves_chart(tables),
        "votes": votes_chart,
        "plane": plane_chart,
        "cascade": lambda: cascade_chart(singles),
        "dual": lambda: dual_chart(read_table(DATA / "cifar10_systems" / "dual.tsv")),
        "mix": lambda: mix_chart(singles[0.5]),
        "board": lambda: board_chart(points, tables=tables),
    }


def _measured(charts: dict[str, Chart], args: argparse.Namespace) -> list[Row]:
    from playwright.sync_api import sync_playwright

    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=args.browser, headless=True, args=FLAGS)
        for name, chart in charts.items():
            path = Path(folder, "page.html")
            path.write_text(page_html(name, [chart.figure()]), "utf-8")
            rows += _controls_of(browser, path, name, args.events)
        rows += kernel_panels.measured(browser, events=args.events, only=args.only)
        browser.close()
    return rows


def _controls_of(browser: Any, path: Path, name: str, events: int) -> list[Row]:
    """The slowest control of a chart is what is said of it; the others are kept as well."""
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    page.context.set_offline(True)
    page.goto(path.as_uri())
    page.wait_for_function(DRAWN)
    figure = page.locator("figure.dualrs-chart").element_handle()
    found = {
        control: page.evaluate(REACTION, [figure, number, events + 2])[2:]
        for number, control in enumerate(figure.evaluate(NAMES))
    }
    page.close()
    slowest = max(found, key=lambda control: sorted(found[control])[events // 2])
    rows = [Row(PART, name, "slowest control", "ms", found[slowest])]
    return rows + [Row(f"{PART}, each", name, control, "ms", taken) for control, taken in found.items()]


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    known = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    parser.add_argument("--browser", default=known, help="chromium, by default the one on the PATH")
    parser.add_argument("--events", type=int, default=20, help="of each control")
    parser.add_argument("--only", nargs="*", default=[], help="charts and panels, by name; default: all")
    parser.add_argument("--out", type=Path, default=DATA / "benchmarks")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
