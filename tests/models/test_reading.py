"""Weights and their json are looked at before a network is made of them, and refusals do not invite."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dualrs_lab.models import (
    import_checkpoint,
    load_checkpoint,
    make_model,
    read_architecture,
    save_checkpoint,
    want_finite,
    why_not_read,
)

GOOD = {"name": "digits_cnn", "classes": 10, "channels": 1}
WEIGHTS = {"body.fc.weight": torch.zeros(10, 128)}


def read(architecture: object) -> dict[str, Any]:
    return read_architecture("load", Path("m.safetensors"), {"architecture": architecture}, WEIGHTS)


def test_an_architecture_is_read_without_what_else_is_said() -> None:
    assert read(GOOD | {"note": "mine"}) == GOOD


@pytest.mark.parametrize(
    ("architecture", "text"),
    [
        (None, "says no architecture"),
        ("digits_cnn", "says no architecture"),
        ({"name": "digits_cnn"}, "says no architecture"),
        (GOOD | {"name": "resnet19"}, "names the network 'resnet19'; wanted one of digits_cnn"),
        (GOOD | {"name": ["digits_cnn"]}, "names the network ['digits_cnn']"),
        (GOOD | {"classes": 12}, "says 12 classes, the last layer in m.safetensors is (10, 128)"),
        (
            GOOD | {"classes": 10**30},
            "says classes 1000000000000000000000000000000; wanted a whole number >= 1",
        ),
        (GOOD | {"classes": True}, "says classes True; wanted a whole number"),
        (GOOD | {"channels": 1.0}, "says channels 1.0; wanted a whole number"),
    ],
)
def test_another_architecture_is_refused_by_the_name_of_its_json(architecture: object, text: str) -> None:
    with pytest.raises(ValueError, match=r"^load: m\.json ") as caught:
        read(architecture)
    assert text in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_no_network(tmp_path: Path, value: float) -> None:
    model = make_model("digits_cnn", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    with torch.no_grad():
        model.body.layer1[0].weight[0, 0, 0, 0] = value
    save_checkpoint(tmp_path / "m.safetensors", model)
    with pytest.raises(
        ValueError, match=r"m\.safetensors holds numbers in body\.layer1\.0\.weight that are not"
    ):
        load_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize("tensors", [None, [torch.zeros(1)], {1: torch.zeros(1)}, {"a": 1}])
def test_what_is_no_dict_of_tensors_is_no_network(tensors: object) -> None:
    with pytest.raises(ValueError, match=r"^load: m\.pth does not hold tensors by name"):
        want_finite("load", Path("m.pth"), tensors)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_a_refusal_names_the_code_and_does_not_say_how_to_run_it(tmp_path: Path) -> None:
    torch.save({"arch": "cifar_resnet20", "state_dict": {}, "extra": Hostile()}, tmp_path / "c.pth")
    (tmp_path / "p.pth").write_bytes(pickle.dumps(Hostile()))
    (tmp_path / "t.pth").write_text("hello")
    texts = []
    for name in ("c.pth", "p.pth", "t.pth"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read as plain tensors: it ") as caught:
            import_checkpoint(tmp_path / name)
        texts.append(str(caught.value))
    assert "it wants to run posix.system" in texts[0]
    assert all("nothing in a checkpoint is ever run" in text for text in texts)
    assert not any("weights_only" in text for text in texts)
    assert why_not_read(RuntimeError("set weights_only=False")).startswith("it is damaged, or no file")


@pytest.mark.parametrize("text", ["", "x", "[]", "3", "[" * 100_000, "\x00"])
def test_a_json_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    model = make_model("digits_cnn", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    save_checkpoint(tmp_path / "m.safetensors", model)
    assert json.loads((tmp_path / "m.json").read_text())["architecture"] == GOOD
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=r"m\.json (is no json|holds no table|says no architecture)"):
        load_checkpoint(tmp_path / "m.safetensors")
