"""Panels that take a while or know several experts: views on the way, Stop, latest wins, who answers."""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dualrs_lab import figures
from dualrs_lab.combine import Combiner
from dualrs_lab.data import Images, Pictures
from dualrs_lab.evidence import Certificate, decide, frame, reach, read_table
from dualrs_lab.models import make_model
from dualrs_lab.panels import (
    CascadePanel,
    CombinerPanel,
    Ended,
    ImagePanel,
    MixPanel,
    Panel,
    RoutedPanel,
    SystemPanel,
    still,
    watched_attack,
)
from dualrs_lab.panels.panel import BETWEEN, PATIENCE, whole_slider
from dualrs_lab.smoothing import GridNoise, Spec, certify

DATA = Path(__file__).parents[2] / "data"
ORDER = (0.5, 0.25)


def images(count: int = 12) -> Images:
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    labels = torch.zeros(count, dtype=torch.int64)
    return Images(pixels=pixels, labels=labels, classes=("a", "b", "c"), name="made", split="test")


def network(seed: int = 0) -> nn.Module:
    return make_model("digits_narrow", classes=3, channels=1, mean=[0.5], std=[0.5], seed=seed)


def tables() -> dict[float, pd.DataFrame]:
    rng, p = np.random.default_rng(0), np.random.default_rng(1).dirichlet([5, 1, 1], size=(12, 2))
    how: dict[str, Any] = {"label": 0, "alpha": 0.001, "seed": 0, "seconds": 0.0}
    return {
        sigma: frame(
            decide(
                rng.multinomial(100, p[i, j]), rng.multinomial(1000, p[i, j]), idx=10 * i, sigma=sigma, **how
            )
            for i in range(12)
        )
        for j, sigma in enumerate(ORDER)
    }


class Slow(Panel):
    """Counts up to a hundred, which takes as long as it is told to."""

    def __init__(self, pause: float) -> None:
        self.pause, self.began, self.shown = 0.0, threading.Event(), []
        super().__init__("slow", to=whole_slider("to", 9))
        self.pause = pause

    def views(self, state: Any, tick: Any) -> Iterator[tuple[int, int]]:
        self.began.set()
        for step in range(100 if self.pause else 1):
            time.sleep(self.pause)
            tick(step + 1, 100)
            yield state["to"], step

    def set_up(self) -> list[figures.Drawing]:
        return [figures.Drawing(figures.row_of_axes(1.0, height=1.0)[0])]

    def show(self, state: Any, found: tuple[int, int]) -> None:
        self.shown.append(found)

    def tell(self, state: Any, found: tuple[int, int]) -> str:
        return f"{found}"


def test_what_takes_long_shows_a_bar_soon_and_pictures_on_the_way() -> None:
    panel = Slow(0.01)
    seen: list[tuple[float, str]] = []
    panel.busy.layout.observe(lambda change: seen.append((time.monotonic(), change["new"])), "visibility")
    start = time.monotonic()
    panel.controls["to"].value = 1
    assert panel.wait(60)
    assert [what for _, what in seen] == ["visible", "hidden"]
    assert seen[0][0] - start < PATIENCE + 0.2
    assert 0 < panel.bar.value <= 1000
    on_the_way = panel.shown[1:-1]
    assert 1 <= len(on_the_way) <= (seen[1][0] - start) / BETWEEN
    assert panel.shown[-1] == (1, 99)


def test_a_newer_wish_ends_the_older_one() -> None:
    panel = Slow(0.02)
    panel.began.clear()
    panel.controls["to"].value = 1
    assert panel.began.wait(10)
    panel.controls["to"].value = 2
    panel.controls["to"].value = 3
    assert panel.wait(60)
    assert panel.shown[-1] == (3, 99)
    assert (1, 99) not in panel.shown
    assert "3, 99" in panel.note.value
    assert panel.status.value == ""


def test_stop_leaves_a_view_and_says_that_it_proves_nothing() -> None:
    panel = Slow(0.05)
    panel.began.clear()
    panel.controls["to"].value = 1
    assert panel.began.wait(10)
    time.sleep(2.5 * BETWEEN)
    panel.stop_button.click()
    assert panel.wait(10)
    assert panel.shown[-1][0] == 1
    assert 0 < panel.shown[-1][1] < 99
    assert "which proves nothing" in panel.status.value
    assert panel.busy.layout.visibility == "hidden"
    panel.pause = 0.0
    panel.controls["to"].value = 2
    assert panel.wait(10)
    assert panel.status.value == ""


def test_the_picture_of_an_image_sharpens_and_ends_in_the_certificate() -> None:
    panel = ImagePanel(network(), images(), n=100, image=3)
    state = panel.state | {"n": 5000, "sigma": 0.5}
    views = [*panel.views(state, still)]
    counts = [view.certificate.n for view in views]
    assert counts == sorted(set(counts))
    assert counts[-1] == 5000
    assert len(views) > 1
    last = views[-1].history
    assert (last["lower"] < last["share"]).all()
    assert (last["upper"] > last["second"]).all()
    assert (last["share"] - last["lower"]).iloc[-1] < (last["share"] - last["lower"]).iloc[0]
    assert "first" not in panel.tell(state, views[-1])
    on_the_way = panel.tell(state, views[0])
    assert f"a view of the first {counts[0]:,} votes" in on_the_way
    assert "certified from" not in on_the_way
    panel.show(state, views[0])
    assert f"first {counts[0]:,} of 5,000 votes: a view" in panel.bars.ax.get_title()


def test_an_image_has_the_certificate_of_its_own_copy_and_another_alpha_asks_nobody() -> None:
    panel = ImagePanel(network(), images(), n=400)
    spec = Spec(noise=GridNoise(0.25), seed=0, n=400, alpha=0.01, dtype=panel.dtype)
    voter = panel._voter(spec.noise)
    (wanted,) = certify(voter, images().pixels[:1], classes=3, spec=spec, labels=[0])
    panel._voting.clear()  # nobody is there to be asked
    panel.controls["alpha"].value = 0.01
    assert panel.wait(60)
    assert panel.status.value == ""
    found: Certificate = panel.found(panel.state).certificate
    assert (found.votes, found.radius, found.alpha) == (wanted.votes, wanted.radius, 0.01)


def test_each_noise_level_may_have_its_own_network() -> None:
    several = ImagePanel({0.25: network(0), 0.5: network(1)}, images(), n=200)
    assert [level for _, level in several.controls["sigma"].options] == [0.25, 0.5]
    for seed, sigma in enumerate((0.25, 0.5)):
        alone = ImagePanel(network(seed), images(), n=200, sigma=sigma)
        state = several.state | {"sigma": sigma}
        assert several.certificate(state).votes == alone.certificate(alone.state).votes


def test_an_attack_tells_its_steps_and_can_be_ended() -> None:
    x, y = images().pixels[:1].float() / 255, torch.tensor([0])
    told: list[tuple[int, int]] = []
    model = network().eval()
    found = watched_attack(model, x, y, 0.1, eps=0.1, tick=lambda *at: told.append(at))
    assert told[0] == (0, 20)
    assert told[-1] == (20, 20)
    assert 0 < float((found - x).abs().max()) <= 0.1 + 1e-6

    def over(done: int, total: int) -> None:
        if done == 5:
            raise Ended

    with pytest.raises(Ended):
        watched_attack(model, x, y, 0.1, eps=0.1, tick=over)


def system(kind: str) -> SystemPanel:
    if kind == "cascade":
        return CascadePanel(tables())
    return CombinerPanel(tables(), {"surest": Combiner.surest(ORDER), "one": Combiner.single(ORDER, 0)})


@pytest.mark.parametrize("kind", ["cascade", "combiner"])
def test_images_are_filtered_by_who_answers_and_sorted_by_regret_and_gain(kind: str) -> None:
    panel = system(kind)
    state = panel.state | ({"t-0": 0.3} if kind == "cascade" else {})
    found = panel.find(state)
    assert found.order.tolist() == [*range(12)]
    own = np.maximum(reach(found.table), 0.0)
    best = np.max(list(panel.reaches.values()), axis=0)
    np.testing.assert_allclose(found.regret, best - own)
    top = max(panel.reaches.values(), key=np.mean)
    np.testing.assert_allclose(found.gain, own - top)
    for key in ("regret", "gain"):
        sorted_ = getattr(panel.find(state | {"by": key}), key)[panel.find(state | {"by": key}).order]
        assert (np.diff(sorted_) <= 1e-12).all()
    parts = [panel.find(state | {"shown": f"{panel.verb} at σ = {sigma:g}"}) for sigma in ORDER]
    assert sorted(np.concatenate([part.order for part in parts]).tolist()) == [
        i for i in range(12) if found.who[i] >= 0
    ]
    beyond = parts[0]
    assert beyond.at(state | {"image": 11}) == beyond.order[min(11, len(beyond.order) - 1)]


def test_a_filter_that_leaves_nothing_says_so() -> None:
    whole = CascadePanel(tables())
    first = int(np.flatnonzero(whole.find(whole.state).who == 0)[0])  # by the expert of 0.5
    panel = CascadePanel(tables(), pictures=Pictures(images(1), (10 * first,)))
    panel.controls["shown"].value = "answered at σ = 0.25"
    assert panel.wait(60)
    assert "no image is answered at σ = 0.25" in panel.status.value


def test_pictures_are_shown_where_tables_speak_of_them() -> None:
    pictures = Pictures(images(3), (10, 30, 70))
    panel = CascadePanel(tables(), pictures=pictures)
    assert panel.controls["image"].max == 2
    panel.controls["image"].value = 1
    assert panel.wait(60)
    assert "image 30 (2 of 3 by number): " in panel.note.value
    assert panel.strip is not None
    shown = np.asarray(panel.strip.pictures.get_array())
    np.testing.assert_allclose(shown, pictures.images.pixels[1, 0].numpy() / 255, atol=1e-6)
    with pytest.raises(ValueError, match="none of the 12 images of the tables is among the pictures"):
        CascadePanel(tables(), pictures=Pictures(images(1), (3,)))


def test_a_dual_table_shows_who_is_chosen_and_what_bounds_the_radius() -> None:
    dual = read_table(DATA / "cifar10_systems" / "dual.tsv")
    experts = {
        sigma: dual[["idx", "label", "predict", "correct", "radius"]].assign(sigma=sigma, method="rs")
        for sigma in (0.25, 0.5, 1.0)
    }
    panel = RoutedPanel(dual, experts, image=3)
    row = dual.sort_values("idx").iloc[3]
    at = {text.get_text() for text in panel.radii.legend.get_texts()}
    floored = re.match(r"\d+\.\d{3}", f"{row['radius']:.9f}")
    assert floored is not None
    assert f"routed {floored.group()}" in at
    chosen = [tick.get_text() for tick in panel.radii.ax.get_yticklabels()]
    assert f"σ = {row['sigma']:g} (chosen)" in chosen
    offered = panel.controls["shown"].options  # no image went to the expert of 0.25
    assert offered == ("all images", *(f"routed to the expert at σ = {s:g}" for s in (0.5, 1.0)))
    with pytest.raises(ValueError, match=r"without entry_0\.1; give the tables of its own experts"):
        RoutedPanel(dual, {0.1: experts[0.25]})


def test_the_weight_is_a_point_on_the_measured_curve() -> None:
    curve = pd.DataFrame({"weight": [0.0, 0.6, 1.0], "natural": [0.9, 0.8, 0.6], "worst": [0.0, 0.3, 0.4]})
    panel = MixPanel(tables()[0.5], curve=curve, weight=0.7)
    assert panel.controls["weight"].min == 0.0
    assert panel.plane is not None
    assert (*panel.plane.star.get_xdata(), *panel.plane.star.get_ydata()) == (0.8, 0.3)
    assert "measured at weight 0.6: natural <b>0.800</b>, worst <b>0.300</b>" in panel.note.value
    panel.controls["form"].value = "lipschitz, cohen"
    assert panel.wait(60)
    assert "Bai et al. 2024, theorem 4" in panel.note.value
    with pytest.raises(ValueError, match="wanted one row a weight"):
        MixPanel(tables()[0.5], curve=pd.concat([curve, curve]))
    with pytest.raises(ValueError, match="no pgd in the curve"):
        MixPanel(tables()[0.5], curve=curve, robust="pgd")
