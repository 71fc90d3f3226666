"""Every found input is shown to every system; the worst case is that of all; tables go on, or refuse."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dualrs_lab.attacks import PGD, Threat, read_evaluation
from dualrs_lab.data import Images, load_images, to_float
from dualrs_lab.mixing import (
    AdaptiveMix,
    Curve,
    Mix,
    NutsMix,
    answer_margins,
    attacked_logits,
    by_lot,
    evaluate_systems,
    evaluate_systems_table,
    make_head,
    margin_groups,
    summarise_systems,
    worst_margin,
)
from dualrs_lab.models import make_model
from dualrs_lab.pixels import Uniform
from dualrs_lab.training import Adversarial, Standard, TrainConfig, train

THREAT = Threat(eps=0.2, seed=0, batch=60, auto=(), mma=False)
WEIGHTS = (0.0, 0.3, 0.6, 0.8, 0.95, 1.0)


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "test").select(range(120))


@pytest.fixture(scope="module")
def networks() -> tuple[nn.Module, nn.Module]:
    """An accurate and a robust network for digits, seconds each."""
    made = []
    inner = PGD(steps=2, step=0.12, best=False, blind=0.99)
    for objective in (Standard(), Adversarial(budget=Uniform(eps=0.2), attack=inner)):
        model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0)
        config = TrainConfig(epochs=4, seed=0, batch=128, lr=0.1, crop=0, flip=False)
        train(model, load_images("digits", "train"), objective=objective, config=config, progress=False)
        made.append(model.eval())
    return made[0], made[1]


@pytest.fixture(scope="module")
def systems(networks) -> dict[str, nn.Module]:
    return {f"{a:g}": Mix(*networks, a) for a in WEIGHTS}


@pytest.fixture(scope="module")
def table(networks, systems, images) -> pd.DataFrame:
    return evaluate_systems(*networks, systems, images, threat=THREAT, progress=False)


def test_a_row_for_each_image_and_system(table, networks, images) -> None:
    assert len(table) == 120 * len(WEIGHTS)
    assert table["idx"].is_monotonic_increasing
    assert table[table["idx"] == 7]["weight"].tolist() == list(WEIGHTS)
    for column in ("on_accurate", "on_robust", "end_to_end", "worst"):
        assert not (table[column] & ~table["natural"]).any()
        assert not (table["worst"] & ~table[column]).any()
    with torch.no_grad():
        for name, network in zip(("0", "1"), networks, strict=True):
            right = network(to_float(images.pixels)).argmax(1) == images.labels
            assert table[table["system"] == name]["natural"].tolist() == right.tolist()


def test_the_curves_are_those_of_the_paper(table) -> None:
    """Small weights are as weak as g, large ones keep h's robustness; the ends' own attacks are the same."""
    found = summarise_systems(table)
    assert found.loc["0", "worst"] < 0.15
    assert found["worst"].is_monotonic_increasing
    assert found.loc["0.95", "worst"] > 0.6 * found.loc["1", "worst"]
    assert found.loc["0", "natural"] >= found.loc["1", "natural"]
    singly = found.loc["0.6", ["on_accurate", "on_robust", "end_to_end"]]
    assert found.loc["0.6", "worst"] < singly.min()  # why one attack is not enough


def test_tables_go_on_and_refuse_others(tmp_path, networks, systems, images, table) -> None:
    few = {name: systems[name] for name in ("0.3", "0.8")}
    path = tmp_path / "systems.tsv"
    half = dataclasses.replace(THREAT, batch=20)
    first = evaluate_systems_table(
        *networks, few, images, path, threat=half, max_images=20, progress=False
    )  # fmt: skip
    assert set(first["idx"]) == set(range(20))
    whole = evaluate_systems_table(*networks, few, images, path, threat=half, max_images=40, progress=False)
    fresh = evaluate_systems(*networks, few, images, threat=half, max_images=40, progress=False)
    pd.testing.assert_frame_equal(
        whole.drop(columns="image"), fresh.reset_index(drop=True), check_dtype=False
    )
    again = read_evaluation(path)
    assert again["worst"].tolist() == fresh["worst"].tolist()
    assert again["weight"].tolist() == fresh["weight"].tolist()
    with pytest.raises(ValueError, match=r"made with other settings \(systems\)"):
        evaluate_systems_table(
            *networks, {"0.3": Mix(*networks, 0.31)}, images, path, threat=half, max_images=40, progress=False
        )
    with pytest.raises(ValueError, match=r"made with other settings \(networks\)"):
        evaluate_systems_table(*networks[::-1], few, images, path, threat=half, max_images=40, progress=False)


def test_what_another_system_reveals_counts(networks, images) -> None:
    """An input found against one system is tried on the others: the worst case can only fall."""
    alone = evaluate_systems(*networks, {"0.4": Mix(*networks, 0.4)}, images, threat=THREAT, progress=False)
    weights = {f"{a:g}": Mix(*networks, a) for a in (0.4, 0.55)}
    both = evaluate_systems(*networks, weights, images, threat=THREAT, progress=False)
    same = both[both["system"] == "0.4"]
    assert not (same["worst"].to_numpy() & ~alone["worst"].to_numpy()).any()
    np.testing.assert_array_equal(same["end_to_end"], alone["end_to_end"])


def test_every_attack_of_the_threat_is_run(networks, images, monkeypatch) -> None:
    seen = []

    def auto(model, x, y, eps, *, seed, norm, attacks, batch):
        seen.append((type(model).__name__, eps, norm, attacks, batch))
        return x

    monkeypatch.setattr("dualrs_lab.mixing.evaluate.auto_attack", auto)
    systems = {"nuts": NutsMix(*networks, Curve(), 0.9), "fixed": Mix(*networks, 0.6)}
    threat = dataclasses.replace(THREAT, mma=True, auto=("square",), steps=5)
    few = images.select(range(20))
    found = summarise_systems(evaluate_systems(*networks, systems, few, threat=threat, progress=False))
    assert [*found][1:] == [
        "natural", "mma", "autoattack", "on_accurate", "on_robust", "end_to_end", "worst", "images"
    ]  # fmt: skip
    assert (found["mma"] < found["natural"]).all()
    assert found["autoattack"].equals(found["natural"].rename("autoattack"))  # it changed nothing
    assert (found["worst"] <= found["mma"]).all()
    assert seen == [(kind, 0.2, threat.norm, ("square",), 20) for kind in ("_Surrogate", "Mix")]


def test_weights_are_attacked_and_stand_ins_where_there_is_no_gradient(networks, images, tmp_path) -> None:
    few = images.select(range(30))
    head = make_head("pooled", *networks, shape=(1, 8, 8), seed=0)
    adaptive = AdaptiveMix(*networks, head, low=0.6, high=0.9)
    systems = {"adaptive": adaptive, "nuts": NutsMix(*networks, Curve(), 0.9), "fixed": Mix(*networks, 0.6)}
    path = tmp_path / "systems.tsv"
    table = evaluate_systems_table(*networks, systems, few, path, threat=THREAT, progress=False)
    found = summarise_systems(table)
    assert found["weight"].isna().tolist() == [True, False, False]  # it chooses for each image
    assert found.loc["adaptive", "pushed"] < found.loc["adaptive", "natural"]
    for name in ("nuts", "fixed"):  # these have no weight to push
        assert found.loc[name, "pushed"] == found.loc[name, "end_to_end"]
    assert (found["worst"] <= found[["on_accurate", "on_robust", "end_to_end", "pushed"]].min(axis=1)).all()
    assert found.loc["nuts", "end_to_end"] < found.loc["nuts", "natural"]
    narrow = {**systems, "adaptive": adaptive.ranged(0.7, 0.9)}
    with pytest.raises(ValueError, match=r"made with other settings \(systems\)"):
        evaluate_systems_table(*networks, narrow, few, path, threat=THREAT, progress=False)


def test_what_is_no_mix_is_refused(networks, images) -> None:
    with pytest.raises(ValueError, match="g is a Classifier; wanted a mix"):
        evaluate_systems(*networks, {"g": networks[0]}, images, threat=THREAT, progress=False)


def test_by_lot_joins_both_networks_at_the_same_natural_accuracy() -> None:
    curve = pd.DataFrame({"natural": [0.9, 0.8, 0.6], "worst": [0.05, 0.3, 0.35]})
    np.testing.assert_allclose(by_lot(curve), [0.05, 0.15, 0.35])


def test_margins_are_those_of_clean_and_attacked_answers(networks, images) -> None:
    logits = attacked_logits(networks[1], images, eps=0.2, seed=0, batch=50)
    with torch.no_grad():
        torch.testing.assert_close(logits["clean"], networks[1](to_float(images.pixels)))
    assert torch.equal(logits["labels"], images.labels)
    right = {kind: (logits[kind].argmax(1) == images.labels).float().mean() for kind in ("clean", "attacked")}
    assert right["attacked"] < right["clean"] - 0.05
    whole = attacked_logits(networks[1], images, eps=0.2, seed=0)
    found = answer_margins({"accurate": networks[0], "robust": networks[1]}, images, eps=0.2, seed=0)
    assert found.groupby(["network", "images"]).size().eq(120).all()
    own = found[(found["network"] == "robust") & (found["images"] == "attacked")]
    np.testing.assert_allclose(own["margin"], worst_margin(whole["attacked"]))
    assert own["right"].tolist() == (whole["attacked"].argmax(1) == images.labels).int().tolist()


def test_the_groups_that_matter_are_picked_by_network_images_and_answer() -> None:
    kinds = [(n, i, r) for n in ("accurate", "robust") for i in ("clean", "attacked") for r in (0, 1)]
    found = pd.DataFrame(kinds, columns=["network", "images", "right"]).assign(margin=np.arange(8) / 10)
    assert {name: list(rows) for name, rows in margin_groups(found).items()} == {
        "h, attacked and right": [0.7],
        "h, clean and wrong": [0.4],
        "g, attacked and wrong": [0.2],
    }
