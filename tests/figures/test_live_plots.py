"""Figures that move (`figures.live`): a frame over a kept ground is what drawing all would give."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dualrs_lab import figures
from dualrs_lab.evidence import Certificate, decide


def votes(*counts: int, label: int = 0) -> Certificate:
    how = {"idx": 0, "label": label, "sigma": 0.5, "alpha": 0.001, "seed": 0, "seconds": 0.0}
    return decide(np.array([10, 0, 0]), np.array(counts), **how)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def bars() -> tuple[figures.VoteBars, figures.Live]:
    (ax,) = figures.row_of_axes(3.4, height=2.0)
    drawn = figures.VoteBars(3, ax=ax)
    drawn.show(votes(900, 60, 40), classes=["a", "b", "c"])
    return drawn, figures.Live([drawn])


def counted(live: figures.Live, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    times: list[int] = []
    draw = figures.Page.draw
    monkeypatch.setattr(figures.Page, "draw", lambda page, renderer: times.append(1) or draw(page, renderer))
    return times


def test_a_frame_over_the_kept_ground_is_the_frame_drawn_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, live = bars()
    live.png()
    times = counted(live, monkeypatch)
    drawn.show(votes(700, 200, 100), classes=["a", "b", "c"])
    moved = live.png()
    assert not times  # only what moves was drawn
    fresh, whole = bars()
    fresh.show(votes(700, 200, 100), classes=["a", "b", "c"])
    assert whole.png() == moved
    drawn.show(votes(900, 60, 40), classes=["a", "b", "c"])
    assert live.png() != moved


def test_a_still_part_that_changes_is_drawn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, live = bars()
    before = live.png()
    times = counted(live, monkeypatch)
    drawn.show(votes(900, 60, 40, label=1), classes=["a", "b", "c"])  # the tick of the label moves
    assert live.png() != before
    assert times


def test_the_scale_is_that_of_the_screen() -> None:
    sizes = []
    for scale in (1.0, 2.0):
        (ax,) = figures.row_of_axes(3.0, height=2.0)
        drawn = figures.VoteBars(3, ax=ax)
        drawn.show(votes(900, 60, 40))
        live = figures.Live([drawn], scale=scale)
        sizes.append(pixels(live.png()).shape[1])
        assert live.width == 288
    assert sizes == [288, 576]


def test_a_curve_that_reaches_further_has_a_longer_axis_and_the_state_alone_decides_it() -> None:
    def table(scale: float) -> pd.DataFrame:
        rows = pd.DataFrame({"idx": range(4), "label": 0, "predict": 0, "correct": 1, "method": "rs"})
        return rows.assign(radius=scale * np.arange(1, 5), sigma=0.5)

    ax = figures.certified_curves({"fixed": table(0.25), "moving": table(0.2)})
    curve, end = figures.MovingCurves("moving", ax=ax), ax.get_xlim()[1]
    curve.show({"moving": table(0.5)})
    assert ax.get_xlim()[1] == pytest.approx(1.03 * 2.0)
    line = curve.lines["moving"]
    assert (line.get_xdata().max(), line.get_ydata()[0]) == (pytest.approx(2.06), 1.0)
    curve.show({"moving": table(0.2)})
    assert ax.get_xlim()[1] == end


@pytest.mark.parametrize(("end", "shown"), [(0.9, 1.0), (1.0, 1.0), (1.01, 1.25), (0.0301, 0.032), (7, 8)])
def test_ends_of_axes_are_rounded_up(end: float, shown: float) -> None:
    assert figures.rounded_up(end) == pytest.approx(shown)
