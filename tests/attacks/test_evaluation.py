"""Tables say what attacks found on each image, go on after a kill, and refuse what cannot be."""

import dataclasses
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dualrs_lab.attacks import (
    L2,
    PGD,
    Threat,
    check_possible,
    evaluate,
    evaluate_table,
    mean_answers,
    read_evaluation,
    robust_accuracy,
    summarise_attacks,
)
from dualrs_lab.data import Images, load_images, to_float
from dualrs_lab.models import make_model
from dualrs_lab.training import Standard, TrainConfig, train

evaluation = import_module("dualrs_lab.attacks.evaluate")

THREAT = Threat(eps=0.1, seed=0, batch=50, auto=("apgd-ce",))


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "test").select(range(120))


@pytest.fixture(scope="module")
def model():
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0)
    config = TrainConfig(epochs=3, seed=0, batch=64, lr=0.1, crop=0, flip=False)
    train(model, load_images("digits", "train"), objective=Standard(), config=config, progress=False)
    return model


@pytest.fixture(scope="module")
def table(model, images) -> pd.DataFrame:
    return evaluate(model, images, threat=THREAT, progress=False)


def test_answers_are_averaged_image_by_image() -> None:
    tables = [
        pd.DataFrame({"idx": idx, "pgd": right}) for idx, right in (([3, 8], [1, 0]), ([8, 3], [True, True]))
    ]
    assert mean_answers(tables, "pgd").to_dict() == {3: 1.0, 8: 0.5}
    with pytest.raises(ValueError, match="different images"):
        mean_answers([tables[0], tables[1].iloc[:1]], "pgd")


def test_one_call_gives_every_attack_on_the_same_images(table, model, images) -> None:
    assert list(table.columns) == [
        "idx", "label", "predict", "natural", "pgd", "mma", "autoattack", "worst",
        "pgd_seconds", "mma_seconds", "autoattack_seconds",
    ]  # fmt: skip
    assert table["idx"].tolist() == list(range(120))
    with torch.no_grad():
        predicted = model(to_float(images.pixels)).argmax(1)
    assert table["predict"].tolist() == predicted.tolist()
    assert (table["natural"] == (table["predict"] == table["label"])).all()
    assert (table["worst"] == table[["natural", "pgd", "mma", "autoattack"]].all(axis=1)).all()
    assert table["worst"].mean() < table["natural"].mean() - 0.2
    assert (table.filter(like="seconds") > 0).all(axis=None)


def test_summary_is_mean_error_and_seconds(table) -> None:
    found = summarise_attacks(table)
    assert list(found.index) == ["natural", "pgd", "mma", "autoattack", "worst"]
    share = table["pgd"].mean()
    assert found.loc["pgd", "accuracy"] == share
    assert found.loc["pgd", "error"] == pytest.approx((share * (1 - share) / 120) ** 0.5)
    assert found.loc["pgd", "seconds"] == pytest.approx(table["pgd_seconds"].sum())
    assert (found["accuracy"].iloc[1:] <= found.loc["natural", "accuracy"]).all()


def test_attacks_can_be_left_out(model, images) -> None:
    few = images.select(range(20))
    found = evaluate(
        model, few, threat=dataclasses.replace(THREAT, mma=False, auto=(), norm=L2(), eps=0.5), progress=False
    )
    assert "mma" not in found
    assert "autoattack" not in found
    assert (found["worst"] == found["pgd"]).all()


def test_a_killed_table_goes_on_with_equal_rows(tmp_path: Path, table, model, images, monkeypatch) -> None:
    path = tmp_path / "t.tsv"

    class Kill(Exception):
        pass

    def die(*arguments: object, **settings: object) -> None:
        die.calls += 1
        if die.calls == 3:
            raise Kill
        return real(*arguments, **settings)

    die.calls, real = 0, evaluation.pgd
    monkeypatch.setattr(evaluation, "pgd", die)
    with pytest.raises(Kill):
        evaluate_table(model, images, path, threat=THREAT, progress=False)
    kept = read_evaluation(path)["idx"].tolist()
    assert kept == [*range(50), *range(100, 120)]  # the batches are spread over all images
    die.calls = 10
    whole = evaluate_table(model, images, path, threat=THREAT, progress=False)
    assert die.calls == 11  # the batch between alone
    answers = ["idx", "natural", "pgd", "mma", "autoattack", "worst"]
    pd.testing.assert_frame_equal(whole[answers], table[answers])
    pd.testing.assert_frame_equal(read_evaluation(path)[answers], table[answers])
    again = evaluate_table(model, images, path, threat=THREAT, progress=False)
    assert die.calls == 11
    pd.testing.assert_frame_equal(again[answers], table[answers])


def test_other_settings_are_refused_or_set_aside(tmp_path: Path, model, images) -> None:
    path, few = tmp_path / "t.tsv", images.select(range(20))
    threat = dataclasses.replace(THREAT, mma=False, auto=())
    evaluate_table(model, few, path, threat=threat, progress=False)
    before = path.read_bytes()
    stronger = dataclasses.replace(threat, eps=0.2)
    with pytest.raises(ValueError, match=r"t\.tsv was made with other settings \(threat\)"):
        evaluate_table(model, few, path, threat=stronger, progress=False)
    assert path.read_bytes() == before
    with pytest.warns(UserWarning, match=r"t\.tsv was made with other settings; it is now t_old1\.tsv"):
        evaluate_table(model, few, path, threat=stronger, replace=True, progress=False)
    assert (tmp_path / "t_old1.tsv").read_bytes() == before
    (tmp_path / "other.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(ValueError, match="columns"):
        read_evaluation(tmp_path / "other.tsv")


def possible(**columns: list[int]) -> pd.DataFrame:
    answers = {"natural": [1, 1, 1, 0], "pgd": [1, 1, 0, 0], "autoattack": [1, 0, 0, 0], **columns}
    made = pd.DataFrame({name: np.array(values, dtype=bool) for name, values in answers.items()})
    made["worst"] = made[list(answers)].all(axis=1)
    made.insert(0, "idx", range(4))
    return made


def test_impossible_tables_are_refused() -> None:
    check_possible(possible())
    with pytest.raises(ValueError, match=r"images \[3\] are right under pgd but wrong as they are"):
        check_possible(possible(pgd=[1, 1, 0, 1]))
    with pytest.raises(ValueError, match="worst is not the worst case"):
        check_possible(possible().assign(worst=True))
    with pytest.raises(ValueError, match=r"AutoAttack leaves 25.0% more images right than pgd"):
        check_possible(possible(pgd=[0, 1, 0, 0], autoattack=[1, 0, 1, 0]))


def test_the_slack_counts_images() -> None:
    """36 of 100 against 35: in floating point, 0.36 - 0.35 exceeds 0.01."""
    rows = [
        possible().iloc[[0]].assign(idx=i, natural=True, pgd=i < 35, autoattack=i < 36) for i in range(100)
    ]
    table = pd.concat(rows, ignore_index=True)
    table["worst"] = table[["pgd", "autoattack"]].all(axis=1)
    check_possible(table)
    more = table.assign(autoattack=table["idx"] < 37)
    with pytest.raises(ValueError, match=r"AutoAttack leaves 2\.0% more"):
        check_possible(more)


def test_autoattack_is_that_of_the_threat(model, images, monkeypatch) -> None:
    seen = []

    def auto(model, x, y, eps, **given):
        seen.append((eps, given["norm"], given["attacks"]))
        return x

    monkeypatch.setattr(evaluation, "auto_attack", auto)
    threat = Threat(eps=0.4, norm=L2(), seed=0, mma=False, steps=1, auto=("fab-t", "square"))
    evaluate(model, images.select(range(5)), threat=threat, progress=False)
    assert seen == [(0.4, L2(), ("fab-t", "square"))]


def test_a_network_in_training_mode_is_refused_before_it_sees_an_image(model, images) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d)).train()
    try:
        with pytest.raises(ValueError, match=r"evaluate: .* training mode"):
            evaluate(model, images, threat=THREAT, progress=False)
    finally:
        model.eval()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Quantised(nn.Module):
    """Rounds its input to a few levels: no gradient, and robust to nothing but gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model((8 * x).round() / 8 + 0 * x)


def test_a_network_without_gradients_does_not_get_a_table(model, images) -> None:
    with pytest.raises(ValueError, match="got no gradient at any step"):
        evaluate(Quantised(model).eval(), images, threat=THREAT, progress=False)


def test_robust_accuracy_is_that_of_the_table_within_sampling(model, images, table) -> None:
    found = robust_accuracy(model, images, eps=0.1, attack=PGD(step=0.025), seed=3)
    assert found == pytest.approx(table["pgd"].mean(), abs=0.05)  # other random starts, other precision
    for eps, text in ((0.0, "got eps 0.0; wanted a number > 0"), (8, "got eps 8 in linf; wanted at most 1")):
        with pytest.raises(ValueError, match=f"^Threat: {text}"):
            Threat(eps=eps, seed=0)
    assert Threat(eps=8, seed=0, norm=L2()).eps == 8
