"""How long each panel with a kernel takes to follow: from a key to the picture, in a page that Voilà serves.

The panels show what is shipped: networks, tables and pictures of CIFAR-10. Of each, the controls named here
move to and fro. Two times are told: until something is seen (a picture or a bar), and until the last picture.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

from benchmarks.measure import Row

__all__ = ["PART", "QUANTITIES", "measured"]

DATA = Path(__file__).resolve().parent.parent / "data"
PART = "panels with a kernel"
QUANTITIES = ("something is seen, ms", "last picture, ms")
START = f"""
from dualrs_lab.combine import read_combiner
from dualrs_lab.data import shipped_pictures
from dualrs_lab.evidence import read_table
from dualrs_lab.experiment import Experiment, Shelf
from dualrs_lab.panels import *
data = {str(DATA)!r}
shipped, pictures = Experiment.shipped(data), shipped_pictures(data)
singles, eps = shipped.singles(), 8 / 255
systems, mixing, pixels = (Shelf(data, f"cifar10_{{part}}") for part in ("systems", "mixing", "pixels"))
rows = mixing.read("systems")
dial = {{name: read_combiner(systems.combiner(name)) for name in ("large", "even", "small")}}
experts = {{sigma: shipped.expert(sigma) for sigma in singles}}
"""
PANELS = {
    "votes": ("VotesPanel()", ["share", "n"]),
    "plane": ("PlanePanel()", ["x", "sigma"]),
    "dual": ("DualPanel()", ["x", "sigma_e"]),
    "certified": ("CertifiedPanel(shipped.tables())", ["radius", "table-1"]),
    "image": ("ImagePanel(experts, pictures, image=30, sigma=0.5)", ["image", "alpha"]),
    "pixels": ("PixelPanel(pixels.network('at'), pictures, eps=eps, image=33)", ["image", "low", "rule"]),
    "blend": (
        "BlendPanel(mixing.network('accurate'), pixels.network('at'), pictures, eps=eps)",
        ["image", "weight"],
    ),
    "cascade": ("CascadePanel(singles, pictures=pictures, image=7)", ["t-0", "image", "by"]),
    "combiner": ("CombinerPanel(singles, dial, pictures=pictures, image=7)", ["dial", "image"]),
    "routed": (
        "RoutedPanel(read_table(systems.answers('dual')), singles, pictures=pictures)",
        ["image", "by"],
    ),
    "mix": ("MixPanel(singles[0.5], curve=rows[rows.system.str.startswith('weight')])", ["weight", "form"]),
}
TOLD = {
    "image": "an image, n = 1,000",
    "routed": "dual system",
    "dual": "dual system in the plane",
    "certified": "certified curves",
}
REACTION = """async (panel, [name, count]) => {
    const picture = panel.querySelector('img'), bar = panel.querySelector('.dualrs-stop');
    const control = panel.querySelector(`.dualrs-${name}`);
    const handle = control.querySelector('.noUi-handle'), menu = control.querySelector('select');
    const busy = () => getComputedStyle(bar).visibility === 'visible';
    const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    const move = step => {
        if (menu) {
            menu.selectedIndex = step % 2 ? 0 : 1;
            menu.dispatchEvent(new Event('change', {bubbles: true}));
        } else if (handle) {
            const few = Number(handle.getAttribute('aria-valuemax')) <= 12;
            const up = few ? 'ArrowRight' : 'PageUp', down = few ? 'ArrowLeft' : 'PageDown';
            handle.dispatchEvent(new KeyboardEvent('keydown', {key: step % 2 ? down : up, bubbles: true}));
        } else control.querySelector('input[type=checkbox]').click();
    };
    const taken = [];
    for (let step = 0; step < count; step++) {
        let seen = picture.src, first = null, last = null;
        const start = performance.now();
        move(step);
        while (true) {
            await frame();
            const now = performance.now();
            if (first === null && busy()) first = now - start;
            if (picture.src !== seen && picture.complete) {
                seen = picture.src;
                last = now - start;
                first = first ?? last;
            }
            if (last !== null && !busy() && now - start - last > 300) break;
            if (now - start > 30000) throw new Error(`${name} changed nothing in step ${step}`);
        }
        taken.push([first, last]);
    }
    return taken;
}"""


def measured(browser: Any, *, events: int, only: Sequence[str] = ()) -> list[Row]:
    """Rows of every panel, or of those named; `browser` is one of Playwright's."""
    chosen = {name: found for name, found in PANELS.items() if name in only or not only}
    if not chosen:
        return []
    rows = []
    with tempfile.TemporaryDirectory() as folder, _served(Path(folder), chosen) as address:
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(300_000)
        page.goto(address)
        for name, (_, controls) in chosen.items():
            page.wait_for_selector(f".dualrs-{name}.dualrs-panel img")
            panel = page.query_selector(f".dualrs-{name}.dualrs-panel")
            panel.scroll_into_view_if_needed()
            found = {
                control: np.array(panel.evaluate(REACTION, [control, events + 2])[2:]) for control in controls
            }
            rows += _rows(TOLD.get(name, name), found)
        page.close()
    return rows


def _rows(arm: str, found: dict[str, Any]) -> list[Row]:
    """The slowest control is what is said of a panel; the others are kept as well."""
    slowest = max(found.values(), key=lambda taken: float(np.median(taken[:, 1])))
    rows = [
        Row(PART, arm, quantity, "", slowest[:, place].tolist()) for place, quantity in enumerate(QUANTITIES)
    ]
    return rows + [
        Row(f"{PART}, each", arm, control, "ms", taken[:, 1].tolist()) for control, taken in found.items()
    ]


@contextmanager
def _served(folder: Path, chosen: dict[str, tuple[str, list[str]]]) -> Iterator[str]:
    sources = [START, *(source for source, _ in chosen.values())]
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "panels.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "voila", str(folder / "panels.ipynb"), "--no-browser", f"--port={port}"]
    kept = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    log = (folder / "log.txt").open("w")
    with log, subprocess.Popen(command, env=kept, stdout=log, stderr=log) as server:
        try:
            _wait(f"http://127.0.0.1:{port}/nothing", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait(address: str, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except urllib.error.HTTPError:  # it answers
            return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.2)
    raise RuntimeError(f"kernel_panels: Voilà did not answer at {address}; pip install voila")
