"""Panels in-process: a control moves, the picture follows, the state alone decides it, errors are seen."""

import base64
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from dualrs_lab.cascade import Cascade, from_tables
from dualrs_lab.combine import Combiner
from dualrs_lab.data import Images
from dualrs_lab.evidence import (
    ABSTAIN,
    Certificate,
    certified_accuracy,
    decide,
    frame,
    lower_bound,
    margin_radius,
    reclaimed,
    rs_radius,
    upper_bound,
)
from dualrs_lab.lessons import lesson_dual, lesson_plane
from dualrs_lab.mixing import Mix, mixed
from dualrs_lab.models import make_model, save_checkpoint
from dualrs_lab.panels import (
    BlendPanel,
    CascadePanel,
    CertifiedPanel,
    CombinerPanel,
    DualPanel,
    ImagePanel,
    MixPanel,
    Panel,
    PixelPanel,
    PlanePanel,
    VotesPanel,
    panel_network,
)

VIEW = "application/vnd.jupyter.widget-view+json"


def table(scale: float) -> pd.DataFrame:
    rows = pd.DataFrame({"idx": range(20), "label": 0, "predict": 0, "correct": 1, "method": "rs"})
    return rows.assign(radius=scale * np.arange(1, 21) / 20, sigma=scale)


def images(pixels: torch.Tensor) -> Images:
    labels = torch.arange(len(pixels)) % 3
    return Images(pixels=pixels, labels=labels, classes=("a", "b", "c"), name="made", split="test")


def image_panel() -> ImagePanel:
    pixels = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    model = make_model("digits_narrow", classes=3, channels=1, mean=[0.5], std=[0.5], seed=0)
    return ImagePanel(model, images(pixels), n=100)


def pixel_panel() -> PixelPanel:
    pixels = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    model = make_model("digits_narrow", classes=3, channels=1, mean=[0.5], std=[0.5], seed=0)
    with torch.no_grad():  # every channel speaks for every class: maps are above 0
        model.body.fc.weight.abs_()
        model.body.fc.weight[:, 0].neg_()  # of which LayerCAM makes nothing
    return PixelPanel(model, images(pixels), eps=0.1)


def cascade_panel() -> CascadePanel:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([5, 1, 1], size=(12, 2))
    tables = {
        sigma: frame(
            decide(
                rng.multinomial(100, p[i, j]),
                rng.multinomial(1000, p[i, j]),
                idx=i, label=0, sigma=sigma, alpha=0.001, seed=0, seconds=0.0,
            )
            for i in range(12)
        )
        for j, sigma in enumerate((0.25, 0.5))
    }  # fmt: skip
    return CascadePanel(tables)


def combiner_panel() -> CombinerPanel:
    rng, order = np.random.default_rng(0), (0.5, 0.25)
    p = rng.dirichlet([5, 1, 1], size=(12, 2))
    how = {"label": 0, "alpha": 0.001, "seed": 0, "seconds": 0.0}
    tables = {
        sigma: frame(
            decide(rng.multinomial(100, p[i, j]), rng.multinomial(1000, p[i, j]), idx=i, sigma=sigma, **how)
            for i in range(12)
        )
        for j, sigma in enumerate(order)
    }
    return CombinerPanel(tables, {"large": Combiner.single(order, 0), "small": Combiner.surest(order)})


def votes_table(count: int = 12, rule: str = "two-bounds") -> pd.DataFrame:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([5, 1, 1], size=count)
    return frame(
        decide(
            rng.multinomial(100, p[i]), rng.multinomial(1000, p[i]), idx=i, label=0, sigma=0.5, alpha=0.001,
            seed=0, seconds=0.0, rule=rule,
        )
        for i in range(count)
    )  # fmt: skip


def blend_panel() -> BlendPanel:
    pixels = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    g, h = (
        make_model("digits_narrow", classes=3, channels=1, mean=[0.5], std=[0.5], seed=seed)
        for seed in (0, 1)
    )
    return BlendPanel(g, h, images(pixels), eps=0.1)


PANELS: dict[str, tuple[Callable[[], Panel], dict[str, Any]]] = {
    "mix": (lambda: MixPanel(votes_table()), {"weight": 0.9, "form": "smoothing, cohen"}),
    "blend": (blend_panel, {"image": 2, "weight": 0.3, "input": "attack on the mix"}),
    "votes": (VotesPanel, {"share": 0.7, "rival": 0.3, "n": 10_000, "alpha": 0.1, "sigma": 0.25}),
    "plane": (lambda: PlanePanel(n=100), {"sigma": 0.1, "x": 0.2, "y": 0.8, "n": 200, "draw": 3}),
    "dual": (lambda: DualPanel(n=1000), {"sigma_e": 0.05, "x": 0.5, "y": 0.7, "n": 200, "draw": 3}),
    "certified": (
        lambda: CertifiedPanel({"a": table(0.5), "b": table(1.0)}),
        {"radius": 0.5, "table-0": False},
    ),
    "cascade": (cascade_panel, {"t-0": 0.2, "image": 5, "by": "radius", "shown": "answered at σ = 0.5"}),
    "combiner": (combiner_panel, {"dial": "small", "image": 5, "by": "gain"}),
    "pixels": (
        pixel_panel,
        {
            "image": 2,
            "fraction": 0.6,
            "low": 0.02,
            "method": "LayerCAM",
            "rule": "mean + k standard deviations",
            "k": 0.5,
        },
    ),
    "image": (image_panel, {"image": 2, "sigma": 0.5, "n": 200, "alpha": 0.1, "draw": 7}),
}


@pytest.fixture(autouse=True)
def _pyplot_stays_empty() -> Iterator[None]:
    yield
    assert matplotlib.pyplot.get_fignums() == []


@pytest.fixture(params=PANELS, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[Panel, dict[str, Any]]:
    make, moves = PANELS[request.param]
    return make(), moves


def test_every_control_changes_the_picture_and_the_state_alone_decides_it(case: tuple[Panel, dict]) -> None:
    panel, moves = case
    first, start, seen = panel.picture.value, panel.state, {panel.picture.value}
    for key, value in moves.items():
        panel.controls[key].value = value
        assert panel.wait(60)
        assert panel.status.value == ""
        assert panel.picture.value not in seen, f"{key} changed nothing"
        seen.add(panel.picture.value)
    assert panel.frame(start) == first


def test_a_panel_shows_itself_with_a_picture_for_where_no_kernel_runs(case: tuple[Panel, dict]) -> None:
    panel, moves = case
    bundle, told = panel._repr_mimebundle_()
    assert told["image/png"]["alt"]
    assert bundle[VIEW]["model_id"] == panel.view.model_id
    assert base64.b64decode(bundle["image/png"]) == panel.picture.value
    assert Image.open(io.BytesIO(panel.picture.value)).format == "PNG"
    assert len(bundle["image/png"]) < 150_000
    key = next(iter(moves))
    assert f"{key}={panel.state[key]}" in bundle["text/plain"]


def test_controls_have_hooks_and_are_all_in_the_view(case: tuple[Panel, dict]) -> None:
    panel, moves = case
    assert set(moves) <= set(panel.controls)
    for key, control in panel.controls.items():
        assert f"dualrs-{key}" in control._dom_classes
        assert control in panel.view.children
    assert "dualrs-picture" in panel.picture._dom_classes
    assert "dualrs-panel" in panel.view._dom_classes


def test_a_failure_in_a_callback_is_said_in_red_and_the_picture_stays() -> None:
    panel = CertifiedPanel({"a <b>": table(0.5)})
    before = panel.picture.value
    panel.controls["table-0"].value = False
    assert panel.wait(60)
    assert "ValueError: CertifiedPanel: no table is ticked; tick at least one" in panel.status.value
    assert "color: #b00020" in panel.status.value
    assert panel.picture.value == before
    panel.controls["table-0"].value = True
    assert panel.wait(60)
    assert panel.status.value == ""
    assert "<b>" not in panel.note.value


def test_a_failure_in_the_first_frame_is_raised() -> None:
    with pytest.raises(ValueError, match="alpha is a failure probability"):
        VotesPanel(alpha=2.0)
    with pytest.raises(ValueError, match="rows have no label"):
        CertifiedPanel({"a": table(0.5).assign(label=-1)})


def test_a_setting_between_the_steps_becomes_a_step() -> None:
    panel = VotesPanel(n=1234)
    assert [value for _, value in panel.controls["n"].options[3:6]] == [1000, 1234, 2000]
    assert panel.state["n"] == 1234
    assert "radius" in panel.note.value


def test_callbacks_from_many_threads_draw_one_after_another() -> None:
    shares = [0.6, 0.7, 0.8]
    panels = [VotesPanel() for _ in shares]
    alone = [p.frame(p.state | {"share": s}) for p, s in zip(panels, shares, strict=True)]

    def move(panel: Panel, share: float) -> None:
        panel.controls["share"].value = share
        assert panel.wait(60)

    before = dict(matplotlib.rcParams)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(move, panels, shares))
    assert [panel.picture.value for panel in panels] == alone
    assert [panel.status.value for panel in panels] == [""] * 3
    assert dict(matplotlib.rcParams) == before


def test_the_votes_panel_rounds_down_to_whole_votes() -> None:
    curves = VotesPanel.curves({"share": 0.755, "rival": 0.5, "n": 100, "alpha": 0.01, "sigma": 0.5})
    row = curves[curves["n"] == 100].iloc[0]
    assert row["lower"] == lower_bound(75, 100, 0.005)
    assert row["upper"] == upper_bound(13, 100, 0.005)
    assert row["radius"] == margin_radius(row["lower"], row["upper"], 0.5)
    assert row["cohen"] == rs_radius(lower_bound(75, 100, 0.01), 0.5) < row["radius"]
    assert row["limit"] == margin_radius(0.755, row["second"], 0.5)
    whole = curves[curves["n"] == 1000].iloc[0]
    assert whole["lower"] == lower_bound(755, 1000, 0.005)
    alone = VotesPanel.curves({"share": 0.755, "rival": 1.0, "n": 100, "alpha": 0.01, "sigma": 0.5})
    assert (
        alone["cohen"] >= alone["radius"]
    ).all()  # where the rest is all the rival's, half of alpha is lost
    panel = VotesPanel(share=0.5, rival=1.0)
    assert panel.note.value.count("abstain") == 2
    assert VotesPanel(share=0.5, rival=0.5).note.value.count("abstain") == 1


def test_the_plane_panel_certifies_the_point_from_its_own_votes() -> None:
    panel = PlanePanel(x=0.2, y=0.3, n=1000)
    found = panel.certificate(panel.state)
    exact = lesson_plane().exact_radius(np.array([[0.2, 0.3]]), 0.07)
    assert found.correct
    assert 0 < found.radius == found.recomputed() < exact[0]
    assert len({panel.certificate(panel.state | {"draw": draw}).votes for draw in range(4)}) > 1
    edge = panel.certificate(panel.state | {"x": 0.4, "y": 0.3})
    assert edge.predict == ABSTAIN


def test_the_dual_panel_shows_both_certificates_of_the_same_votes() -> None:
    panel = DualPanel()
    top, found = panel.certificate(panel.state)
    true = lesson_dual().exact_radius(np.array([[0.25, 0.78]]))[0]
    assert (top, found.claim) == (2, 0)
    assert 0 < found.published < found.routed < true
    assert f"routed <b>{found.routed:.3f}"[:-1] in panel.note.value
    undecided = panel.certificate(panel.state | {"x": 0.3, "y": 0.45})[1]
    assert undecided.published == 0 < undecided.routed
    edge = panel.state | {"x": 0.4, "y": 0.3}
    assert panel.certificate(edge)[1].routed == 0
    assert "abstains" in panel.describe(edge)


def test_the_cascade_panel_shows_the_table_of_its_thresholds() -> None:
    panel = cascade_panel()
    tables = {single["sigma"].iloc[0]: single for single in panel.singles.values()}
    for threshold in (0.0, 0.3):
        panel.controls["t-0"].value = threshold
        assert panel.wait(60)
        found = from_tables(tables, cascade=Cascade((0.5, 0.25), (threshold, 0.0)))
        for name in ("idx", "label", "predict", "radius", "correct"):
            assert panel.table(panel.state)[name].tolist() == found[name].tolist()
        acr = (found["radius"] * found["correct"]).mean()
        assert f"<b>{acr:.4f}"[:-1] in panel.note.value
    assert found["sigma"].nunique() == 2  # with this threshold both experts answer


def test_the_certified_panel_reads_out_the_tables_and_marks_the_best() -> None:
    tables = {"a": table(0.5), "b": table(1.0)}
    panel = CertifiedPanel(tables, radius=0.5)
    found = panel.readout(panel.state)
    assert found["certified"].to_dict() == {k: float(certified_accuracy(t, 0.5)) for k, t in tables.items()}
    assert found["best"].to_dict() == {"a": False, "b": True}
    assert "✓" in panel.note.value
    assert panel.readout(panel.state | {"table-1": False}).index.tolist() == ["a"]


def test_the_image_panel_leaves_the_network_as_it_was() -> None:
    model = make_model("digits_narrow", classes=3, channels=1, mean=[0.5], std=[0.5], seed=0).train()
    panel = ImagePanel(model, images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)), n=100, image=1)
    assert model.training
    found = panel.certificate(panel.state)
    assert (found.idx, found.label, found.n, found.sigma) == (1, 1, 100, 0.25)


class Estimator:
    """Has `predict` of rows, as scikit-learn's do."""

    def predict(self, rows: Any) -> Any:
        return np.asarray(rows).reshape(len(rows), 8, 8).mean(axis=2).argmax(axis=1) % 3


def rows_of(x: Any) -> Any:
    return Estimator().predict(x.reshape(len(x), -1))


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


def test_panels_take_what_load_network_takes(tmp_path: Path) -> None:
    shown = images(torch.randint(0, 256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte())
    model = make_model("digits_narrow", classes=3, channels=1, mean=[0.5], std=[0.5], seed=0)
    save_checkpoint(
        tmp_path / "net.safetensors", model, data={"classes": shown.classes, "shape": shown.shape}
    )
    wanted = ImagePanel(model, shown, n=100)
    by_path = ImagePanel(str(tmp_path / "net.safetensors"), shown, n=100)
    assert by_path.certificate(by_path.state).votes == wanted.certificate(wanted.state).votes
    PixelPanel(tmp_path / "net.safetensors", shown, eps=0.1)
    BlendPanel(tmp_path / "net.safetensors", model, shown, eps=0.1)
    votes = [
        panel.certificate(panel.state).votes
        for panel in (ImagePanel(source, shown, n=100) for source in (rows_of, Estimator()))
    ]
    assert votes[0] == votes[1]
    assert sum(count for _, count in votes[0]) == 100
    named = PixelPanel(two_layers(), shown, eps=0.1, layer="body.0", mean=0.5, std=0.2)
    assert panel_network("t", two_layers(), shown, mean=0.5, std=0.2).info["mean"] == (0.5,)
    assert named.attacked(named.state)[1].shape == (1, 8, 8)
    with pytest.raises(ValueError, match=r"got a Sequential; .*name a layer"):
        PixelPanel(two_layers().eval(), shown, eps=0.1)
    with pytest.raises(ValueError, match="PixelPanel: the estimator Estimator answers, and has no gradients"):
        PixelPanel(Estimator(), shown, eps=0.1)
    with pytest.raises(ValueError, match="BlendPanel: the black box rows_of answers, and has no gradients"):
        BlendPanel(model, rows_of, shown, eps=0.1)
    with pytest.raises(FileNotFoundError, match=r"no file nowhere\.pt"):
        ImagePanel("nowhere.pt", shown)


def test_the_pixel_panel_shows_what_its_sliders_say_and_leaves_the_network_alone() -> None:
    panel = pixel_panel()
    model = panel.model
    x, maps, mask, budget, found = panel.attacked(panel.state | {"fraction": 0.25, "low": 0.025})
    assert torch.equal(mask, budget > 0.05)
    assert maps.shape == (1, 4, 4)
    assert sorted(budget.unique().tolist()) == pytest.approx([0.025, 0.1])
    assert float((budget > 0.05).float().mean()) == 0.25
    assert ((found - x).abs() <= budget + 1e-6).all()
    assert "mean budget 0.0437, 44% of 0.1000" in panel.describe(
        panel.state | {"fraction": 0.25, "low": 0.025}
    )
    original = make_model("digits_narrow", classes=3, channels=1, mean=[0.5], std=[0.5], seed=0).train()
    PixelPanel(original, panel.images, eps=0.1)
    assert original.training
    assert not model.training


def test_the_mix_panel_takes_published_logs() -> None:
    table = votes_table(40, rule="cohen")
    log = table[["idx", "label", "predict", "radius", "correct", "time"]]
    with pytest.raises(ValueError, match="no column sigma; pass sigma="):
        MixPanel(log)
    panel = MixPanel(log, sigma=float(table["sigma"].iloc[0]))
    _, mix = panel.certified({"weight": 0.8, "form": "closed, cohen"})
    by_votes = mixed(table, 0.8, form="closed", rule="cohen")
    certified = log["radius"] > 0
    np.testing.assert_allclose(mix["radius"][certified], by_votes["radius"][certified], atol=1e-9)
    assert all(name.endswith(", cohen") for name in panel.controls["form"].options)


def test_the_mix_panel_shows_what_tables_say() -> None:
    table = votes_table(40)
    panel = MixPanel(table)
    for form, how in {
        "closed, cohen": {"form": "closed", "rule": "cohen"},
        "smoothing, cohen": {"form": "smoothing", "rule": "cohen"},
        "exact, two-bounds": {},
    }.items():
        alone, mix = panel.certified({"weight": 0.8, "form": form})
        assert mix["radius"].tolist() == mixed(table, 0.8, **how)["radius"].tolist()
        assert (mix["radius"] <= alone["radius"] + 1e-12).all()
    assert f"{certified_accuracy(mixed(table, 0.76), 0.25):.3f}" in panel.note.value


def test_panels_take_claims_one_by_one() -> None:
    table = votes_table()
    claims = [Certificate.from_row(row) for row in table.to_dict("records")]
    listed, framed = CertifiedPanel({"h": claims}), CertifiedPanel({"h": table})
    assert listed.readout(listed.state).equals(framed.readout(framed.state))
    assert listed.picture.value == framed.picture.value
    assert MixPanel(claims).note.value == MixPanel(table).note.value
    assert CascadePanel({0.5: claims}).table({})["radius"].tolist() == (
        reclaimed(table, "cohen")["radius"].tolist()  # majorities, whatever the rule of the expert
    )


def test_the_blend_panel_shows_the_mix_and_computes_once(monkeypatch) -> None:
    panel = blend_panel()
    calls = []
    compute = panel.logits
    monkeypatch.setattr(panel, "logits", lambda state, tick: calls.append(state) or compute(state, tick))
    panel.controls["image"].value = 1
    assert panel.wait(60)
    assert len(calls) == 1  # picture and note share it
    panel.controls["weight"].value = 0.4
    assert panel.wait(60)
    assert len(calls) == 1  # what is attacked is g, whatever the weight
    x, _, _ = compute(panel.state)
    expected = Mix(panel.accurate, panel.robust, 0.4)(x)
    assert f"mix: <b>{panel.images.classes[int(expected.argmax(1))]}</b>" in panel.note.value
    natural, _, _ = compute(panel.state | {"input": "as it is"})
    assert 0 < float((x - natural).abs().max()) <= 0.1 + 1e-6
    panel.controls["weight"].value = 0.0
    assert panel.wait(60)
    assert "g may overrule h" in panel.note.value


def test_the_dial_of_combiners_moves_the_curve_and_the_bars() -> None:
    panel = combiner_panel()
    state = dict(panel.state)
    single, surest = (panel.table(state | {"dial": name}) for name in ("large", "small"))
    alone = panel.singles["σ = 0.5"]
    assert np.allclose(single["radius"], alone["radius"])  # one expert alone, by two bounds
    assert (surest["radius"] != single["radius"]).any()
    curves, bars = panel.render(state | {"dial": "small", "image": 3}).axes
    assert "combiner" in [text.get_text() for text in curves.get_legend().get_texts()]
    assert len(bars.patches) == 2
    assert "image 3" in panel.describe(state | {"dial": "small", "image": 3})
