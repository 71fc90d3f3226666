"""A network of each source is the network that was saved, and certifies, by one call and by one command."""

import contextlib
import importlib.util
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

import dualrs_lab as lab
from dualrs_lab.__main__ import main
from dualrs_lab.adapters import Graph, load_network, read_weights, robustbench_network
from dualrs_lab.adapters.robustbench import DeepMindPreActivation, DeepMindWide, PreActivation
from dualrs_lab.adapters.zoos import processed
from dualrs_lab.evidence import Certificate, read_table
from dualrs_lab.models import MODELS, as_is, make_model, save_checkpoint, want_gradients
from dualrs_lab.models.residual import WideResNet
from dualrs_lab.smoothing import GridNoise, Spec, certify

SIDE, CLASSES = 16, 4
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
GIVEN = {"mean": MEAN, "std": STD}
SPEC = Spec(noise=GridNoise(0.25), seed=0, n0=100, n=100, alpha=0.05)
PIXELS = torch.randint(256, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class Case(NamedTuple):
    """A source, how it is loaded, and what the network was before."""

    source: str
    how: dict[str, Any]
    before: Callable[[Tensor], Tensor]


def normal(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)


def behind(network: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: network(normal(x))


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    ).eval()


def wanted(package: str, extra: str) -> Any:
    return pytest.importorskip(package, reason=f"needs pip install 'dualrs-lab[{extra}]'")


def ours(folder: Path) -> Case:
    model = make_model("digits_narrow", classes=CLASSES, channels=3, mean=MEAN, std=STD, seed=0).eval()
    save_checkpoint(folder / "ours.safetensors", model)
    return Case("ours.safetensors", {}, model)


def published(folder: Path) -> Case:
    torch.manual_seed(0)
    body = MODELS["resnet20"](CLASSES, 3).eval()
    state = {f"1.{name}": tensor for name, tensor in body.state_dict().items()}
    torch.save({"arch": "cifar_resnet20", "state_dict": state}, folder / "cohen.pth.tar")
    return Case("cohen.pth.tar", GIVEN, behind(body))


def torchvision_named(folder: Path) -> Case:
    torch.manual_seed(0)
    body = resnet18(weights=None, num_classes=CLASSES).eval()
    save_file(body.state_dict(), folder / "tv.safetensors")
    return Case("torchvision:resnet18", {"weights": folder / "tv.safetensors", **GIVEN}, behind(body))


def timm_named(folder: Path) -> Case:
    timm = wanted("timm", "timm")
    torch.manual_seed(0)
    body = timm.create_model("resnet10t", pretrained=False, num_classes=CLASSES).eval()
    torch.save(body.state_dict(), folder / "timm.pt")
    return Case("timm:resnet10t", {"weights": folder / "timm.pt", **GIVEN}, behind(body))


def hf_folder(folder: Path) -> Case:
    transformers = wanted("transformers", "hf")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES
    )
    body = transformers.ResNetForImageClassification(config).eval()
    body.save_pretrained(folder / "hf")
    settings = {"do_normalize": True, "image_mean": [*MEAN], "image_std": [*STD], "do_rescale": True}
    settings |= {"rescale_factor": 1 / 255, "size": {"height": SIDE, "width": SIDE}}
    settings |= {"image_processor_type": "ViTImageProcessor"}
    (folder / "hf" / "preprocessor_config.json").write_text(json.dumps(settings))
    return Case("hf:hf", {}, lambda x: body(pixel_values=normal(x)).logits)


def robustbench_file(folder: Path) -> Case:
    """The layout of TRADES, with the normalisation that some of RobustBench's networks hold."""
    torch.manual_seed(0)
    body = WideResNet(CLASSES, 3, depth=10, widen=1).eval()
    state = {"mu": torch.tensor(MEAN).view(1, 3, 1, 1), "sigma": torch.tensor(STD).view(1, 3, 1, 1)}
    for name, tensor in body.state_dict().items():
        head, _, rest = name.replace(".shortcut.", ".convShortcut.").partition(".")
        state[f"{head}.layer.{rest}" if head.startswith("block") else f"{head}.{rest}"] = tensor
    state["sub_block1.layer.0.bn1.weight"] = torch.ones(1)  # is in files of TRADES, and is not used
    torch.save({"state_dict": {f"module.{name}": one for name, one in state.items()}}, folder / "rb.pt")
    return Case("robustbench:rb.pt", {}, behind(body))


def onnx_file(folder: Path) -> Case:
    onnx, _ = wanted("onnx", "onnx"), wanted("onnxruntime", "onnx")
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3 * SIDE * SIDE, CLASSES)).astype(np.float32) / 10
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", kinds.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, ["batch", CLASSES])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "net.onnx")
    return Case("net.onnx", GIVEN, lambda x: normal(x).flatten(1) @ torch.from_numpy(weight))


def torchscript_file(folder: Path) -> Case:
    body = small()
    with warnings.catch_warnings():  # TorchScript is deprecated, and files of it are there
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(body), folder / "script.pt")
    return Case("script.pt", GIVEN, behind(body))


def exported_file(folder: Path) -> Case:
    body = small()
    batch = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(body, (torch.rand(2, 3, SIDE, SIDE),), dynamic_shapes=batch)
        torch.export.save(program, folder / "net.pt2")
    return Case("net.pt2", GIVEN, behind(body))


FACTORY = f"""
import torch
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, {CLASSES}),
    )
"""


def factory(folder: Path) -> Case:
    (folder / "their_code.py").write_text(FACTORY)
    body = small()
    torch.save({"model": body.state_dict(), "epoch": 7}, folder / "their.ckpt")
    return Case("their_code:make", {"weights": folder / "their.ckpt", **GIVEN}, behind(body))


SOURCES = [
    ours,
    published,
    torchvision_named,
    timm_named,
    hf_folder,
    robustbench_file,
    onnx_file,
    torchscript_file,
    exported_file,
    factory,
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "their_code", raising=False)
    return tmp_path


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_a_network_of_each_source_is_the_one_that_was_saved_and_certifies(
    here: Path, make: Callable[[Path], Case]
) -> None:
    case = make(here)
    network = load_network(case.source, **case.how)
    x = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(network(x), case.before(x), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(network(x), case.before(1 - x), atol=1e-4)
    assert not any(part.training for part in network.modules())
    assert network.info["source"] == case.source
    (one, two) = certify(network, PIXELS, classes=CLASSES, spec=SPEC)
    (same, _) = certify(case.before, PIXELS, classes=CLASSES, spec=SPEC)
    assert sum(count for _, count in (*one.votes, *two.votes)) == 2 * SPEC.n
    assert (one.predict, one.votes) == (same.predict, same.votes)
    by_door = lab.certify(network, PIXELS, sigma=0.25, n=100, n0=100, alpha=0.05, seed=0, progress=False)
    told = [Certificate.from_row(row) for row in by_door.frame.to_dict("records")]
    assert [(row.predict, row.votes) for row in told] == [(one.predict, one.votes), (two.predict, two.votes)]
    assert by_door.record["info"]["network"] == case.source


@pytest.fixture
def photos(here: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(CLASSES):
            (here / "photos" / split / f"c{label}").mkdir(parents=True)
            pixels = rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(here / "photos" / split / f"c{label}" / "a.png")
    return here


def command(source: str, how: dict[str, Any]) -> list[str]:
    words = [
        f"--model={source}",
        "--data=folder:photos",
        "--sigma=0.25",
        "--n=100",
        "--max=2",
        "--device=cpu",
    ]
    for name, value in how.items():
        words.append(f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return words


@pytest.mark.filterwarnings("ignore:certify_table. the checkpoint does not name its classes")
@pytest.mark.filterwarnings("ignore:the network is sampled without the step 'fold'")
@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_a_network_of_each_source_certifies_by_one_command(
    photos: Path, make: Callable[[Path], Case], capsys: pytest.CaptureFixture[str]
) -> None:
    case = make(photos)
    words = ["certify", *command(case.source, case.how), "--dtype=float32", "--out=t.tsv"]
    assert main(words) == 0, capsys.readouterr().err
    table, record = read_table("t.tsv"), json.loads((photos / "t.json").read_text())
    assert table["idx"].tolist() == [0, 1]
    assert len(record["identity"]["model"]) == 16
    assert record["info"]["checkpoint"] == case.source
    assert str(photos) not in json.dumps(record)
    assert main(words) == 0  # goes on: nothing is left to do
    assert read_table("t.tsv").equals(table)


@pytest.mark.filterwarnings("ignore:certify_table. the checkpoint does not name its classes")
def test_other_normalisation_or_size_is_another_network(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = torchvision_named(photos)
    words = ["certify", *command(case.source, case.how), "--dtype=float32", "--out=t.tsv"]
    assert main(words) == 0
    for other in ("--mean=0.5,0.4,0.31", "--size=32"):
        assert main([*words, other]) == 2
        assert "t.tsv was made with other settings (model)" in capsys.readouterr().err


def test_published_weights_of_torchvision_bring_their_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    body = resnet18(weights=None).eval()
    asked: list[dict[str, Any]] = []

    def fetched(self: ResNet18_Weights, **how: Any) -> dict[str, Tensor]:
        asked.append({"weights": self.name, **how})
        return body.state_dict()

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fetched)
    network = load_network("torchvision:resnet18")
    assert asked == [
        {"weights": "IMAGENET1K_V1", "progress": False, "check_hash": True, "weights_only": True}
    ]
    assert (network.info["mean"], network.info["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (network.info["size"], network.info["outputs"]) == ((224, 224), 1000)
    assert network.info["names"][0] == "tench"
    x = torch.rand(1, 3, 224, 224)
    mean, std = (torch.tensor(network.info[name]).view(-1, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(network(x), body((x - mean) / std))
    named = load_network("torchvision:resnet18", weights="IMAGENET1K_V1", mean=0, std=1)
    torch.testing.assert_close(named(x), body(x))


def test_published_weights_of_timm_bring_their_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = wanted("timm", "timm")
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: real(name, pretrained=False))
    network = load_network("timm:resnet10t")
    published = real("resnet10t", pretrained=False).pretrained_cfg
    assert network.info["mean"] == tuple(published["mean"])
    assert network.info["std"] == tuple(published["std"])
    assert network.info["size"] == published["input_size"][1:]
    assert network.made_for.outputs == network.info["outputs"] == 1000


def test_without_the_net_published_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no net here")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(ValueError, match=r"no net here.*name a file of its weights \(weights=FILE"):
        load_network("torchvision:resnet18")


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({"image_mean": [0.5], "image_std": [0.25]}, (0.5,), (0.25,)),
        ({"image_mean": [0.5], "image_std": [0.25], "rescale_factor": 1 / 127.5}, (0.25,), (0.125,)),
        ({"image_mean": [127.5], "image_std": [255.0], "do_rescale": False}, (0.5,), (1.0,)),
        ({"do_normalize": False}, 0.0, 1.0),
        ({"image_mean": [0.5], "image_std": [0.5], "rescale_offset": True}, None, None),
        ({"image_mean": None}, None, None),
        ({}, None, None),
    ],
)
def test_settings_of_image_processors_are_brought_to_images_in_0_1(
    settings: dict[str, Any], mean: Any, std: Any
) -> None:
    assert processed(settings) == (mean, std)


# ---- the five forms in which a ResNet-18 of torchvision is kept


@pytest.fixture
def forms(here: Path) -> nn.Module:
    torch.manual_seed(0)
    network = resnet18(weights=None, num_classes=CLASSES).eval()
    state = network.state_dict()
    torch.save(state, here / "state.pt")
    torch.save({"arch": "resnet18", "state_dict": state, "epoch": 3}, here / "arch.pt")
    torch.save({"arch": "resnet50", "state_dict": state}, here / "borrowed.pt")
    torch.save(network, here / "whole.pt")
    save_file(state, here / "plain.safetensors")
    return network


@pytest.mark.parametrize("file", ["state.pt", "arch.pt", "borrowed.pt", "plain.safetensors"])
def test_the_forms_of_a_torchvision_resnet18_load(forms: nn.Module, file: str) -> None:
    x = torch.rand(2, 3, 64, 64)
    named = load_network("torchvision:resnet18", weights=file, **GIVEN)
    torch.testing.assert_close(named(x), forms(normal(x)))
    if file != "borrowed.pt":  # names of weights, or `arch`, tell the network
        torch.testing.assert_close(load_network(file, **GIVEN)(x), forms(normal(x)))


def test_a_borrowed_arch_is_named_and_so_is_the_right_one(forms: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"arch 'resnet50'.*they are those of torchvision:resnet18"):
        load_network("borrowed.pt", **GIVEN)


@pytest.mark.parametrize("source", ["whole.pt", "torchvision:resnet18"])
def test_a_whole_pickle_is_refused_with_the_remedy(forms: nn.Module, source: str) -> None:
    weights = {} if source == "whole.pt" else {"weights": "whole.pt"}
    with pytest.raises(ValueError, match=r"wants to run torchvision.*ResNet") as told:
        load_network(source, **weights, **GIVEN)
    for remedy in (
        "from safetensors.torch import save_file",
        "save_file(network.state_dict(), '",
        "--weights",
    ):
        assert remedy in str(told.value)


def test_unknown_normalisation_is_refused_with_the_two_ways(forms: nn.Module) -> None:
    for source, how in (("state.pt", {}), ("torchvision:resnet18", {"weights": "state.pt"})):
        with pytest.raises(ValueError, match=r"Say mean and std of images in.*or mean 0 and std 1 where"):
            load_network(source, **how)
        with pytest.raises(ValueError, match="got one of mean and std"):
            load_network(source, mean=MEAN, **how)
        x = torch.rand(2, 3, 64, 64)
        torch.testing.assert_close(load_network(source, mean=0, std=1, **how)(x), forms(x))


def test_programs_of_torch_run_as_they_are_and_stay_in_evaluation(here: Path) -> None:
    for make in (torchscript_file, exported_file):
        case = make(here)
        network = load_network(case.source, **case.how)
        assert isinstance(network.body, Graph)
        assert as_is(network) == network.body.as_is
        assert not network.body.train().training
        want_gradients("attack", network)  # and have gradients
        x = torch.rand(2, 3, SIDE, SIDE, requires_grad=True)
        (slope,) = torch.autograd.grad(network(x)[:, 0].sum(), x)
        assert float(slope.abs().sum()) > 0


def test_images_are_resized_inside_in_bfloat16_too(here: Path) -> None:
    case = torchvision_named(here)
    network = load_network(case.source, size=32, **case.how)
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    wanted = network(images)
    found = network.to(torch.bfloat16)(images.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.1)


def test_images_are_resized_inside(here: Path) -> None:
    case = torchvision_named(here)
    network, large = load_network(case.source, size=32, **case.how), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(large), case.before(large))
    halved = nn.functional.interpolate(large, 20, mode="bilinear", antialias=True)
    wanted_inside = nn.functional.interpolate(halved, 32, mode="bilinear", antialias=True)
    torch.testing.assert_close(network(halved), case.before(wanted_inside))


# ---- RobustBench: that the five families are its own was seen with its sources


def small_stem(folder: Path) -> tuple[nn.Module, dict[str, Tensor]]:
    body = MODELS["resnet18"](CLASSES, 3).eval()
    state = {name.replace("downsample", "shortcut"): tensor for name, tensor in body.state_dict().items()}
    return body, {name.replace("fc.", "linear."): tensor for name, tensor in state.items()}


def test_a_resnet_of_robustbench_is_told_by_its_names(here: Path) -> None:
    body, state = small_stem(here)
    torch.save(state, here / "rn.pt")
    x = torch.rand(1, 3, 32, 32)
    for source in ("robustbench:rn.pt", "rn.pt"):
        torch.testing.assert_close(load_network(source, **GIVEN)(x), body(normal(x)))
    with pytest.raises(ValueError, match="RobustBench keeps it in the code"):
        load_network("robustbench:rn.pt")
    with pytest.raises(ValueError, match="wanted activation=relu, size=128"):
        load_network("robustbench:rn.pt?activation=tanh", **GIVEN)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("family", ["wide", "pre-activation"])
def test_the_activation_of_deepminds_networks_is_said_behind_the_file(
    here: Path, family: str, relu: bool
) -> None:
    torch.manual_seed(0)
    made = DeepMindWide(CLASSES, 3, 1, 1, relu=relu) if family == "wide" else None
    network = made or DeepMindPreActivation(CLASSES, 3, [1, 1, 1, 1], relu=relu)
    torch.save(network.eval().state_dict(), here / "dm.pt")
    assert robustbench_network("dm.pt").outputs == CLASSES
    x = torch.rand(2, 3, 32, 32)
    alike = {
        said: torch.allclose(load_network(f"robustbench:dm.pt{said}", mean=0, std=1)(x), network(x))
        for said in ("", "?activation=relu")
    }
    assert alike == {"": not relu, "?activation=relu": relu}


@pytest.mark.parametrize("last", [True, False])
def test_a_pre_activation_network_is_told_by_its_names(here: Path, last: bool) -> None:
    torch.manual_seed(0)
    network = PreActivation(CLASSES, 3, [1, 1, 1, 1], last=last).eval()
    torch.save(network.state_dict(), here / "pre.pt")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load_network("pre.pt", mean=0, std=1)(x), network(x))


# ---- bad input


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("owned"),))


def hostile_export(folder: Path) -> None:
    """A program of torch.export whose sample inputs are a pickle that runs code."""
    exported_file(folder)
    buffer = io.BytesIO()
    torch.save({"x": Hostile()}, buffer)
    with zipfile.ZipFile(folder / "net.pt2") as good, zipfile.ZipFile(folder / "bad.pt2", "w") as bad:
        for name in good.namelist():
            inputs = "sample_inputs" in name or "example_inputs" in name
            bad.writestr(name, buffer.getvalue() if inputs else good.read(name))


def test_nothing_is_unpickled(here: Path) -> None:
    torch.save({"state_dict": Hostile()}, here / "state.pt")
    hostile_export(here)
    with pytest.raises(ValueError, match="nothing in a checkpoint is ever run"):
        read_weights("state.pt")
    for source in ("state.pt", "robustbench:state.pt", "bad.pt2"):
        with pytest.raises(ValueError, match=r"state\.pt|bad\.pt2"):
            load_network(source, **GIVEN)
    assert not (here / "owned").exists()
    # the control: torch.export itself would have run it
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        torch.export.load("bad.pt2")
    assert (here / "owned").exists()


@pytest.mark.parametrize(
    ("source", "how", "text"),
    [
        ("none.pt", {}, "load_network: no file none.pt"),
        ("resnet18", {}, "no file resnet18; wanted a file"),
        ("torchvision:resnet19", {}, "torchvision:resnet19: there is no such network"),
        ("torchvision:resnet18", {"weights": "none.pt"}, "no file none.pt"),
        ("torchvision:resnet18", {"weights": "text.pt"}, "text.pt cannot be read as plain tensors"),
        ("torchvision:resnet50", {"weights": "state.pt"}, "they are those of torchvision:resnet18"),
        ("torchvision:vgg11", {"weights": "state.pt"}, "have no classifier.6.bias"),
        ("torchvision:resnet18", {"weights": "state.pt", "classes": 7}, "tells 4 classes, 7 were wanted"),
        ("torchvision:resnet18", {"weights": "state.pt", "size": 0}, "got size 0"),
        ("robustbench:none.pt", {}, "no file none.pt, which robustbench:none.pt names"),
        ("robustbench:state.pt", {}, "holds the weights of none of"),
        ("state.pt", {"weights": "state.pt"}, "is whole; leave weights out"),
        ("odd.pt", {}, "and not of which network; name it"),
        ("empty.pt", {}, "holds no tensor"),
        ("nan.pt", {}, "that are not finite"),
        ("text.onnx", {}, "onnx"),
        ("text.pt2", {}, "is no archive that torch.export saved"),
        ("folder", {}, "is no regular file"),
        ("nowhere:make", {}, "nowhere:make cannot be imported"),
        ("json:nothing", {}, "json:nothing cannot be imported"),
        ("json:dumps", {"weights": "state.pt"}, "json:dumps wants arguments"),
        ("gopher://127.0.0.1/x", {}, "gopher://127.0.0.1/x: Protocol not known"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_refused_by_name(
    forms: nn.Module, here: Path, source: str, how: dict[str, Any], text: str
) -> None:
    torch.save({"some.weight": torch.ones(3)}, here / "odd.pt")
    torch.save({}, here / "empty.pt")
    torch.save({"some.weight": torch.tensor([torch.nan])}, here / "nan.pt")
    for name in ("text.pt", "text.onnx", "text.pt2"):
        (here / name).write_text("no network")
    (here / "folder").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=r".") as told:
        load_network(source, **{**GIVEN, **how})
    assert text in str(told.value)
    assert len(str(told.value)) < 1500


@pytest.mark.parametrize(
    ("package", "source", "extra"),
    [("timm", "timm:resnet10t", "timm"), ("transformers", "hf:a/b", "hf"), ("onnxruntime", "a.onnx", "onnx")],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, package: str, source: str, extra: str
) -> None:
    (here / "a.onnx").write_bytes(b"")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "dualrs_lab.adapters.network.find_spec", lambda name: None if name == package else real(name)
    )
    with pytest.raises(ValueError, match=rf"this needs {package}: pip install 'dualrs-lab\[{extra}\]'"):
        load_network(source, weights=None)


class Counting(nn.Module):
    """A network that remembers how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("asked", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return x.flatten(1)[:, :CLASSES]


def nan(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :CLASSES] * torch.nan


def whole_batch(x: Tensor) -> Tensor:
    return (x - x.mean(0)).flatten(1)[:, :CLASSES]


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (Function(nan), "NaN logits"),
        (Function(whole_batch), "without other inputs beside them|one by one|another order"),
        (Counting(), "changes its buffers"),
        (Function(lambda x: x.flatten(1)[:, : CLASSES + 1]), r"wanted \(\d+, 4\)"),
        (Function(lambda x: x.mean((2, 3), keepdim=True)), "gave logits"),
        (nn.Sequential(nn.Flatten(), nn.Linear(10, CLASSES)), "takes no inputs of 3 x 16 x 16"),
    ],
    ids=["nan", "batch", "buffers", "classes", "shape", "inputs"],
)  # fmt: skip
def test_a_network_that_is_no_function_of_one_image_is_refused(network: nn.Module, text: str) -> None:
    loaded = load_network(network, mean=MEAN, std=STD)
    with pytest.raises((ValueError, FloatingPointError), match=text):
        certify(loaded, PIXELS, classes=CLASSES, spec=SPEC)


def test_a_network_in_training_mode_stays_as_it_is() -> None:
    network = small().train()
    loaded = load_network(network)
    assert network.training
    assert not loaded.training
    certify(loaded, PIXELS, classes=CLASSES, spec=SPEC)
    assert float(network[1].num_batches_tracked) == 0


def test_a_network_that_is_given_stays_where_and_as_it_is() -> None:
    network = small().double()
    assert load_network(network) is network
    loaded = load_network(network, mean=0, std=1, device="cpu")
    assert loaded.body is network
    on_meta = small().to("meta")  # a device that is not the CPU
    assert load_network(on_meta) is on_meta
    assert next(load_network(on_meta, mean=0, std=1).parameters()).device.type == "meta"


@pytest.mark.parametrize("make", [ours, published], ids=lambda make: make.__name__)
def test_other_numbers_of_classes_than_a_checkpoint_has_are_refused(
    here: Path, make: Callable[[Path], Case]
) -> None:
    case = make(here)
    with pytest.raises(ValueError, match="tells 4 classes, 7 were wanted"):
        load_network(case.source, **case.how, classes=7)


def test_images_of_other_channels_are_refused() -> None:
    loaded = load_network(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), mean=MEAN, std=STD)
    with pytest.raises(ValueError, match="is for images of 3 channels"):
        certify(loaded, PIXELS[:, :1], classes=12, spec=SPEC)
