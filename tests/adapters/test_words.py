"""Words that name a network: `load_network` and the command line know the same ones, as no paths."""

import subprocess
import sys

import pytest

from dualrs_lab.adapters import SCHEMES, ZOOS, names_a_source


def test_schemes_are_those_that_are_read() -> None:
    assert {*SCHEMES} == {*ZOOS, "robustbench"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("timm:resnet18", True), ("hf:ORG/NAME", True), ("my_code.networks:make", True),
        ("http://127.0.0.1:8000/predict", True), ("net.safetensors", False), ("timm", False),
        ("runs/net.onnx", False), ("C:/net.pt", False), ("made at 12:30.pt", False),
    ],
)  # fmt: skip
def test_a_path_is_no_name(text: str, named: bool) -> None:
    assert names_a_source(text) is named


def test_names_are_known_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom dualrs_lab.adapters.sources import names_a_source"
    subprocess.run([sys.executable, "-c", code], check=True)
