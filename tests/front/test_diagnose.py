"""Each sign is seen in a network that was made to have its fault, and none in one without.

A sign shows without its fault with probability at most 0.001; networks and noise are seeded.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dualrs_lab as lab
from dualrs_lab.__main__ import main
from dualrs_lab.data import Images, as_floats
from dualrs_lab.front import signs
from dualrs_lab.models import make_model, save_checkpoint

HOW: dict[str, Any] = {"sigma": 0.25, "seed": 0}
ORDER = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])


def names(found: list[lab.Sign]) -> list[str]:
    return [sign.name for sign in found]


def test_of_a_healthy_network_nothing_is_said(network: nn.Module, many: Images) -> None:
    assert lab.diagnose(network, many, **HOW) == []
    assert lab.diagnose(network, many.pixels, **HOW) == []
    assert lab.diagnose(network, many.select(range(5)), **HOW) == []
    table = lab.certify(network, many.spread(40), **HOW, n=200, progress=False)
    assert table.signs == []
    assert signs.table_signs(table.frame) == []


def test_labels_in_another_order(network: nn.Module, many: Images) -> None:
    labels = ORDER[many.labels.numpy()]
    (sign,) = lab.diagnose(network, many.pixels, labels, **HOW)
    assert sign.name == "labels in another order"
    assert sign.measured["order"] == {int(label): output for output, label in enumerate(ORDER)}
    assert sign.measured["best order"] > 0.85
    assert sign.measured["p"] < 1e-6
    assert "label 0 is output 3" in sign.text
    (shown,) = lab.certify(network, many.pixels[:60], labels[:60], **HOW, n=200, progress=False).signs
    assert shown.name == sign.name


def test_two_classes_that_are_swapped_are_seen(network: nn.Module, many: Images) -> None:
    swapped = many.labels.clone()
    swapped[many.labels == 0], swapped[many.labels == 1] = 1, 0
    (sign,) = lab.diagnose(network, many.pixels, swapped, **HOW)
    assert "label 0 is output 1, 1 is output 0" in sign.text


def test_an_order_is_rarely_found_in_labels_that_have_none() -> None:
    """At level 0.05, at most 33 of 400 seeded trials: more has a chance below 0.3 % (binomial)."""
    generator, seen = np.random.default_rng(0), 0
    for _ in range(400):
        answers, labels = generator.integers(0, 5, (2, 100))
        seen += signs.order_sign(answers, labels, 5, level=0.05) is not None
    assert seen <= 33
    # negative control: the best order, judged by the images that chose it, is always better
    best = 0
    for _ in range(100):
        answers, labels = generator.integers(0, 5, (2, 100))
        moved = signs._best_order(answers, labels, 5)[answers] == labels
        best += signs.better(moved, answers == labels) <= 0.05
    assert best > 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda net: lambda x: net(x / 255), "x · 255"),
        (lambda net: lambda x: net((x + 1) / 2), "2x - 1"),
        (lambda net: lambda x: net(1 - x), "1 - x"),
        (lambda net: lambda x: net(x * 0.37 + 0.31), r"\(x - mean\) / std"),
    ],
)
def test_input_in_another_scale(fragile: nn.Module, many: Images, change, said: str) -> None:
    found = lab.diagnose(change(fragile), many, **HOW)
    (sign,) = [one for one in found if one.name == "input in another scale"]
    assert sign.measured["p"] <= 0.001
    assert re.search(said, sign.text)


def test_images_that_are_normalised_twice_or_not_at_all(network: nn.Module, many: Images) -> None:
    pale = replace(many, pixels=(110 + many.pixels // 8).to(torch.uint8))  # of little contrast, as photos are
    x, _ = as_floats(pale)
    mean, std = x.mean(), x.std()

    def body(x: torch.Tensor) -> torch.Tensor:
        # as if trained on normalised images, and lost far from them, as deeper networks are
        lost = 100 * torch.eye(10)[0] * (x.abs().amax((1, 2, 3)) > 6)[:, None]
        return network(x * 0.37 + 0.31) + lost

    def whole(x: torch.Tensor) -> torch.Tensor:
        return body((x - mean) / std)

    quiet = {"sigma": 0.02, "seed": 0}
    assert lab.diagnose(whole, pale, **quiet) == []
    (twice,) = lab.diagnose(lambda x: whole((x - mean) / std), pale, **quiet)
    assert "normalised twice" in twice.text
    (never,) = lab.diagnose(body, pale, **quiet)
    assert "it was trained on normalised images" in never.text


def test_a_network_that_was_not_trained_with_noise(fragile: nn.Module, many: Images) -> None:
    (sign,) = lab.diagnose(fragile, many, sigma=1.0, seed=0)
    assert sign.name == "not trained with noise"
    assert sign.measured["without noise"] > 0.9
    assert sign.measured["with noise"] < 0.5
    (blind,) = lab.diagnose(fragile, many.pixels, sigma=1.0, seed=0)
    assert blind.name == "not trained with noise"


def test_a_noise_level_of_0_to_255(network: nn.Module, many: Images) -> None:
    found = lab.diagnose(network, many, sigma=8.0, seed=0)
    assert found[0].name == "σ in units of 0 to 255"
    assert "sigma=0.0314" in found[0].text
    assert found[0].measured["right under sigma=0.0314"] > 0.9
    table = lab.certify(network, many.spread(30), sigma=8.0, seed=0, n=100, progress=False)
    assert "σ in units of 0 to 255" in names(table.signs)
    assert "sigma=0.0314" in table._repr_html_()


def test_a_network_that_was_not_trained_at_all(many: Images) -> None:
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    (sign,) = lab.diagnose(model, many, **HOW)
    assert sign.name in ("at chance without noise", "one answer for all")


def test_one_answer_for_all(many: Images) -> None:
    (sign,) = lab.diagnose(lambda x: torch.eye(10)[torch.zeros(len(x)).long()], many, **HOW)
    assert sign.name == "one answer for all"
    assert sign.measured == {"class": 0, "share": 1.0}


def test_too_few_draws(network: nn.Module, images: Images) -> None:
    table = lab.certify(network, images, **HOW, n=9, progress=False)
    assert names(table.signs) == ["too few draws"]
    assert "even where all votes agree" in repr(table)
    assert lab.certify(network, images, **HOW, n=12, progress=False).frame["radius"].max() > 0


def test_a_table_alone_tells_what_it_can(fragile: nn.Module, network: nn.Module, many: Images) -> None:
    labels = ORDER[many.labels.numpy()]
    table = lab.certify(network, many.pixels[:60], labels[:60], **HOW, n=200, progress=False)
    assert names(signs.table_signs(table.frame)) == ["labels in another order"]
    lost = lab.certify(fragile, many.pixels[:60], sigma=1.0, seed=0, n=100, progress=False)
    assert names(signs.table_signs(lost.frame)) in (["not sure under noise"], ["one answer for all"])


def test_the_commands_say_why(
    tmp_path: Path, many: Images, network: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    save_checkpoint(tmp_path / "new.safetensors", model)
    out = tmp_path / "table.tsv"
    command = [
        "certify",
        "--checkpoint",
        str(tmp_path / "new.safetensors"),
        "--data",
        "digits",
        "--sigma",
        "4",
    ]
    command += ["--max", "30", "--n", "100", "--seed", "0", "--device", "cpu", "--out", str(out)]
    with pytest.warns(UserWarning, match="does not name its classes"):
        assert main(command) == 0
    assert "\nσ in units of 0 to 255. σ = 4 is a noise level" in capsys.readouterr().out
    assert main(["summary", str(out)]) == 0
    assert "\nσ in units of 0 to 255. σ = 4 is a noise level" in capsys.readouterr().out
    healthy = lab.certify(network, many.spread(40), **HOW, n=200, progress=False).save(tmp_path / "fine.tsv")
    assert main(["summary", str(healthy)]) == 0
    assert "noise level" not in capsys.readouterr().out
