"""Each source with each fault that a file, a network or a server may have: refused by name, in one line."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

import dualrs_lab as lab
from dualrs_lab.__main__ import main
from dualrs_lab.adapters import load_network
from tests.adapters.served import serving
from tests.adapters.test_sources import CLASSES, SIDE, SOURCES, Case, command, here, hf_folder, photos, wanted

__all__ = ["here", "photos"]  # fixtures

CODE = """
import torch
from torch import nn

class Faulty(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.register_buffer("asked", torch.zeros(1))

    def forward(self, x):
        logits = x.flatten(1)[:, :4] + x.flatten(1)[:, 4:8]
        if self.fault == "nan":
            return logits * float("nan")
        if self.fault == "batch":
            return logits - logits.mean(0)
        if self.fault == "buffers":
            self.asked += 1
            return logits + self.asked
        if self.fault == "random":
            return logits + torch.rand_like(logits)
        if self.fault == "shape":
            return logits[:, :, None]
        if self.fault == "classes":
            return x.flatten(1)[:, :7]
        if self.fault == "inputs":
            return nn.functional.linear(x.flatten(1), torch.ones(4, 5))
        if self.fault == "code":
            return {}["weights"]
        return logits

class Estimator:
    def __init__(self, fault):
        self.network = Faulty(fault).eval()

    def predict(self, rows):
        with torch.no_grad():
            return self.network(torch.as_tensor(rows)[:, None]).numpy()
"""
FAULTS = ("nan", "batch", "buffers", "random", "shape", "classes", "inputs", "code")
TEXTS = {
    "nan": "NaN logits",
    "batch": "logits of the same inputs lie .* apart .* when they",
    "buffers": "changes its buffers|when they are asked a second time",
    "random": "draws from the global random generator",
    "shape": r"\(\d+, 4, 1\)",
    "classes": r"tells 7|7 classes|\(\d+, 7\)",
    "inputs": r"takes no inputs|could not answer|takes no images",
    "code": "weights",
    "labels": "labels from 9 to 12, and there are 4 classes",
    "text": "hold no numbers, such as",
}


def faulty(fault: str) -> nn.Module:
    space: dict[str, Any] = {}
    exec(CODE, space)  # what a stranger's module holds
    network: nn.Module = space["Faulty"](fault).eval()
    return network


def by_code(folder: Path, fault: str, made: str) -> str:
    body = f"{CODE}\ndef make():\n    return {made.format(fault)}\n"
    (folder / "their_code.py").write_text(body)
    return "their_code:make"


def traced(folder: Path, fault: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(faulty(fault), torch.rand(3, 3, SIDE, SIDE), check_trace=False)
        torch.jit.save(program, folder / "net.pt")
    return "net.pt"


def exported(folder: Path, fault: str) -> str:
    batch = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(faulty(fault), (torch.rand(3, 3, SIDE, SIDE),), dynamic_shapes=batch)
        torch.export.save(program, folder / "net.pt2")
    return "net.pt2"


def onnx_graph(folder: Path, fault: str) -> str:
    onnx, _ = wanted("onnx", "onnx"), wanted("onnxruntime", "onnx")
    side, outputs = (4 if fault == "inputs" else SIDE), (7 if fault == "classes" else CLASSES)
    weight = np.random.default_rng(0).normal(size=(3 * side * side, outputs)).astype(np.float32)
    weight[0, 0] = np.nan if fault == "nan" else weight[0, 0]
    helper, numbers = onnx.helper, onnx.numpy_helper.from_array
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    more = [numbers(weight, "w")]
    shape: list[Any] = ["batch", outputs]
    if fault == "batch":
        nodes += [
            helper.make_node("ReduceMean", ["y"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["y", "mean"], ["z"]),
        ]
    if fault == "shape":
        nodes.append(helper.make_node("Unsqueeze", ["y", "axis"], ["z"]))
        more.append(numbers(np.array([2]), "axis"))
        shape.append(1)
    made = helper.make_graph(
        nodes,
        "faulty",
        [helper.make_tensor_value_info("x", 1, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("z" if len(nodes) > 2 else "y", 1, shape)],
        more,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=9), folder / "net.onnx")
    return "net.onnx"


KINDS: dict[str, tuple[Callable[[Path, str], str], tuple[str, ...]]] = {
    "a factory": (lambda folder, fault: by_code(folder, fault, "Faulty('{}')"), FAULTS),
    "a function": (
        lambda folder, fault: by_code(folder, fault, "(lambda net: lambda x: net(x))(Faulty('{}').eval())"),
        FAULTS,
    ),
    "an estimator": (
        lambda folder, fault: by_code(folder, fault, "Estimator('{}')"),
        ("nan", "batch", "random", "shape", "classes", "inputs", "code"),
    ),
    "TorchScript": (traced, ("nan", "batch", "random", "shape", "classes")),
    "torch.export": (exported, ("nan", "batch", "buffers", "random", "shape", "classes")),
    "ONNX": (onnx_graph, ("nan", "batch", "shape", "classes")),
}


def refused(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which `certify` ends, which holds `text`; no table is left behind."""
    capsys.readouterr()
    code = main(["certify", *words, "--out=t.tsv"])
    told = capsys.readouterr().err
    line = [one for one in told.strip().splitlines() if one.startswith("dualrs-lab: error:")]
    assert code == 2, told
    assert len(line) == 1, told
    assert "Traceback" not in told
    assert re.search(text, line[0]), line[0]
    return line[0]


@pytest.mark.filterwarnings("ignore:the network is sampled without the step")
@pytest.mark.filterwarnings("ignore:.*the checkpoint does not name its classes")
@pytest.mark.parametrize(
    ("kind", "fault"), [(kind, fault) for kind, (_, faults) in KINDS.items() for fault in ("", *faults)]
)
def test_a_faulty_network_of_each_source_is_refused_by_both_doors(
    photos: Path, kind: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the fault (the control) the same network is certified."""
    source = KINDS[kind][0](photos, fault)
    words = command(source, {"mean": 0, "std": 1})
    images = lab.load_images("photos")
    how: dict[str, Any] = {"sigma": 0.25, "seed": 0, "n": 100, "n0": 20, "progress": False}
    if not fault:
        assert main(["certify", *words, "--out=t.tsv"]) == 0
        assert len(lab.certify(lab.load_network(source, mean=0, std=1), images, **how)) == CLASSES
        return
    refused(words, TEXTS[fault], capsys)
    with pytest.raises((ValueError, FloatingPointError), match=TEXTS[fault]):
        lab.certify(lab.load_network(source, mean=0, std=1), images, **how)


def answers(fault: str) -> Callable[[NDArray[np.float32]], Any]:
    def answer(images: NDArray[np.float32]) -> Any:
        logits = images.reshape(len(images), -1)[:, : 7 if fault == "classes" else CLASSES]
        return {
            "nan": logits * np.nan,
            "batch": logits - logits.mean(axis=0),
            "shape": logits[:, :, None],
            "labels": logits.argmax(axis=1) + 9,
            "text": ["cat"] * len(images),
        }.get(fault, logits)

    return answer


@pytest.mark.parametrize("fault", ["", "nan", "batch", "shape", "classes", "labels", "text"])
def test_a_faulty_endpoint_is_refused_by_both_doors(
    photos: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(answers(fault), "logits") as served:
        words = [*command(served.url, {}), "--classes=4"]
        if not fault:
            assert main(["certify", *words, "--out=t.tsv"]) == 0
            return
        refused(words, TEXTS[fault], capsys)
        with pytest.raises((ValueError, FloatingPointError), match=TEXTS[fault]):
            lab.certify(served.url, lab.load_images("photos"), sigma=0.25, seed=0, n=100, n0=20)


# ---- files


def file_of(case: Case) -> Path:
    """The file that holds the weights of a source."""
    file = Path(case.how.get("weights", case.source.partition(":")[2] or case.source))
    return file / "model.safetensors" if file.is_dir() else file


def cut(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


def another_kind(file: Path) -> None:
    np.savez(file.with_suffix(".npz"), rows=np.ones(3))
    file.with_suffix(".npz").replace(file)


FILES: dict[str, Callable[[Path], object]] = {
    "is not there": Path.unlink,
    "is cut": cut,
    "is empty": lambda file: file.write_bytes(b""),
    "is text": lambda file: file.write_text("no network, but text"),
    "is of another kind": another_kind,
}


@pytest.mark.parametrize("fault", FILES)
@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_a_file_that_is_none_is_refused_by_name(
    photos: Path, make: Callable[[Path], Case], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make(photos)
    file = file_of(case)
    FILES[fault](file)
    name = "hf" if case.source == "hf:hf" else re.escape(file.stem)
    refused(command(case.source, case.how), name, capsys)


@pytest.mark.filterwarnings("ignore:the network is sampled without the step")
@pytest.mark.filterwarnings("ignore:.*the checkpoint does not name its classes")
@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_other_classes_and_other_images_are_refused(
    photos: Path, make: Callable[[Path], Case], capsys: pytest.CaptureFixture[str]
) -> None:
    case = make(photos)
    words = command(case.source, case.how)
    refused([*words, "--classes=7"], "4 classes, 7 were wanted|, 4\\), and 7 classes were wanted", capsys)
    grey = [word.replace("folder:photos", "folder:photos?channels=1") for word in words]
    refused(grey, r"channels|1 x 16 x 16|\(\d+, 1, 16, 16\)", capsys)


def test_a_backbone_whose_head_is_still_to_be_trained_is_refused(photos: Path) -> None:
    """Transformers gives it a random head, and says so in its log only."""
    case = hf_folder(photos)
    file = photos / "hf" / "model.safetensors"
    weights = load_file(file)
    head = [name for name in weights if name.startswith("classifier")]
    assert head
    save_file({name: one for name, one in weights.items() if name not in head}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"has no weights for classifier.*wanted a whole image classifier"):
        load_network(case.source)
