"""Networks have the published shapes, checkpoints come back equal, and the field's checkpoints load with
equal outputs.
"""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models.resnet import BasicBlock

from dualrs_lab.models import (
    MODELS,
    import_checkpoint,
    load_checkpoint,
    make_model,
    pick_model,
    save_checkpoint,
    with_head,
)

COLOUR = {"channels": 3, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
# Parameters with 10 classes, as the papers and public implementations count them.
PARAMETERS = {
    "resnet20": 272_474,
    "resnet110": 1_730_714,
    "resnet18": 11_173_962,
    "wrn34_10": 46_160_474,
}


@pytest.mark.parametrize("name", ["resnet20", "resnet110", "resnet18", "wrn34_10"])
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        body = MODELS[name](10, 3)
    assert sum(p.numel() for p in body.parameters()) == PARAMETERS[name]


def test_wide_start_has_less_than_two_million_parameters_and_does_most_on_wide_maps() -> None:
    with torch.device("meta"):
        body = MODELS["wide_start"](10, 3)
    assert sum(p.numel() for p in body.parameters()) < 2_000_000
    assert min(m.out_channels for m in body.modules() if isinstance(m, nn.Conv2d)) == 128


@pytest.mark.parametrize(
    ("name", "size", "last"),
    [
        ("fast", 32, (256, 3, 3)),
        ("fast_narrow", 32, (128, 3, 3)),
        ("wide_start", 32, (192, 8, 8)),
        ("resnet20", 32, (64, 8, 8)),
        ("resnet18", 32, (512, 4, 4)),
        ("resnet50", 64, (2048, 2, 2)),
    ],
)
def test_stages_end_in_the_map_that_the_linear_head_pools(
    name: str, size: int, last: tuple[int, ...]
) -> None:
    model = make_model(name, classes=7, seed=0, **COLOUR).eval()
    x = torch.rand(2, 3, size, size)
    with torch.inference_mode():
        features = model.stages(x)[-1]
        assert features.shape == (2, *last)
        torch.testing.assert_close(model.body.fc(features.mean((2, 3))), model(x), rtol=1e-4, atol=1e-5)


def test_normalisation_is_inside_the_network() -> None:
    model = make_model("digits_cnn", classes=3, seed=0, **COLOUR).eval()
    x = torch.rand(4, 3, 8, 8)
    mean, std = (torch.tensor(COLOUR[k]).view(-1, 1, 1) for k in ("mean", "std"))
    with torch.inference_mode():
        torch.testing.assert_close(model(x), model.body((x - mean) / std))
    assert {"normalize.mean", "normalize.std"} <= set(model.state_dict())


def test_the_seed_decides_the_weights_and_nothing_global_moves() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (make_model("digits_cnn", classes=3, seed=seed, **COLOUR) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.body.fc.weight, other.body.fc.weight)


def test_a_new_head_keeps_what_was_learned_before_it() -> None:
    model = make_model("fast_narrow", classes=10, channels=3, mean=[0.4] * 3, std=[0.2] * 3, seed=3).eval()
    model.body.stem[1].running_mean += 0.5  # buffers are learned, too
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = with_head(model, classes=2, seed=4).eval()
    x = torch.rand(5, 3, 32, 32)
    assert made(x).shape == (5, 2)
    assert torch.equal(made.stages(x)[-1], model.stages(x)[-1])
    assert made.architecture == {"name": "fast_narrow", "classes": 2, "channels": 3}
    assert torch.equal(made(x), with_head(model, classes=2, seed=4).eval()(x))
    assert not torch.equal(made(x), with_head(model, classes=2, seed=5).eval()(x))
    for parameter in made.parameters():
        parameter.data.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_checkpoint_comes_back_equal_with_its_record(tmp_path: Path) -> None:
    model = make_model("fast_narrow", classes=4, seed=0, **COLOUR).eval()
    save_checkpoint(tmp_path / "m.safetensors", model, sigma=0.25, metrics={"accuracy": 0.5})
    loaded, info = load_checkpoint(tmp_path / "m.safetensors")
    x = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))
    assert info["sigma"] == 0.25
    assert info["architecture"] == {"name": "fast_narrow", "classes": 4, "channels": 3}
    written = json.loads((tmp_path / "m.json").read_text())
    assert {name: written[name] for name in info} == info
    assert {*written} - {*info} <= {"record_sha256"}  # of the record itself


def test_checkpoint_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors is missing"):
        load_checkpoint(tmp_path / "nothing.safetensors")
    model = make_model("digits_cnn", classes=4, seed=0, **COLOUR)
    save_checkpoint(tmp_path / "m.safetensors", model)
    (tmp_path / "m.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"m\.safetensors is no whole file of safetensors"):
        load_checkpoint(tmp_path / "m.safetensors")


def test_unknown_names_and_odd_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="'resnet19'; wanted one of digits_cnn"):
        make_model("resnet19", classes=10, seed=0, **COLOUR)
    with pytest.raises(ValueError, match="3 channel means for 1 channels"):
        make_model("fast", classes=10, channels=1, mean=[0.5] * 3, std=[0.5] * 3, seed=0)
    with pytest.raises(ValueError, match="use 'resnet18'"):
        make_model("resnet50", classes=10, channels=1, mean=[0.5], std=[0.5], seed=0)


class PublishedResNet(nn.Module):
    """An independent CIFAR ResNet with the attribute names of the published checkpoints."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        for stage, (inputs, outputs) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
            stride = 1 if stage == 1 else 2
            down = None
            if stage > 1:
                down = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )
            rest = [BasicBlock(outputs, outputs) for _ in range((depth - 2) // 6 - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(BasicBlock(inputs, outputs, stride, down), *rest))
        self.avgpool = nn.AvgPool2d(8)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.fc(self.avgpool(x).flatten(1))


def published(network: nn.Module, arch: str, path: Path, *, prefix: str = "1.", **more: object) -> None:
    for module in network.modules():  # statistics and scales that a mistake would show
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    state = OrderedDict((prefix + name, tensor) for name, tensor in network.state_dict().items())
    torch.save({"epoch": 90, "arch": arch, "state_dict": state, "optimizer": {}, **more}, path)


@pytest.mark.parametrize("prefix", ["1.", "module.1.", "1.module."])
def test_published_cifar_checkpoint_gives_identical_outputs(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    network = PublishedResNet(20).eval()
    published(network, "cifar_resnet20", tmp_path / "checkpoint.pth.tar", prefix=prefix)
    model, info = import_checkpoint(tmp_path / "checkpoint.pth.tar")
    x = torch.rand(5, 3, 32, 32)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    with torch.inference_mode():
        wanted = network((x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
        torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(model(x).argmax(1), wanted.argmax(1))
    assert info["architecture"]["name"] == "resnet20"
    assert info["epoch"] == 90


def test_published_resnet110_loads_every_weight(tmp_path: Path) -> None:
    network = PublishedResNet(110)
    published(network, "cifar_resnet110", tmp_path / "c.pth")
    model, _ = import_checkpoint(tmp_path / "c.pth")
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(model.body.state_dict()[name], tensor)


def test_published_imagenet_checkpoint_gives_identical_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = resnet50(num_classes=20).eval()
    published(network, "resnet50", tmp_path / "c.pth", prefix="1.module.")
    model, _ = import_checkpoint(tmp_path / "c.pth")
    x = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        assert torch.equal(model(x), network((x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)))


def test_stored_or_given_statistics_win_over_the_usual_ones(tmp_path: Path) -> None:
    network = PublishedResNet(20)
    published(network, "cifar_resnet20", tmp_path / "c.pth")
    content = torch.load(tmp_path / "c.pth", weights_only=True)
    content["state_dict"] |= {
        "0.means": torch.tensor([0.1, 0.2, 0.3]),
        "0.sds": torch.tensor([0.4, 0.5, 0.6]),
    }
    torch.save(content, tmp_path / "stored.pth")
    model, _ = import_checkpoint(tmp_path / "stored.pth")
    torch.testing.assert_close(model.normalize.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    given, _ = import_checkpoint(tmp_path / "stored.pth", mean=[0.0] * 3, std=[1.0] * 3)
    assert given.normalize.std.flatten().tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("name", "shape", "picked"),
    [
        ("auto", (1, 8, 8), "digits_narrow"),
        ("auto", (3, 32, 32), "fast_narrow"),
        ("auto", (3, 224, 224), "resnet50"),
        ("resnet18", (1, 8, 8), "resnet18"),
    ],
)
def test_auto_picks_a_network_by_the_size_of_images(
    name: str, shape: tuple[int, int, int], picked: str
) -> None:
    assert pick_model(name, shape) == picked


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("hostile"),))


def test_code_inside_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"arch": "cifar_resnet20", "state_dict": {}, "extra": Hostile()}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"c\.pth cannot be read as plain tensors"):
        import_checkpoint(tmp_path / "c.pth")
    assert not Path("hostile").exists()


def test_import_errors_name_the_file_and_the_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        import_checkpoint(tmp_path / "none.pth")
    torch.save({"state_dict": {}}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="'arch' and 'state_dict'"):
        import_checkpoint(tmp_path / "c.pth")
    torch.save({"arch": "vit", "state_dict": {}}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="arch 'vit'; wanted one of cifar_resnet20"):
        import_checkpoint(tmp_path / "c.pth")
    published(PublishedResNet(20), "cifar_resnet110", tmp_path / "c.pth")
    with pytest.raises(ValueError, match="does not hold the weights of a resnet110"):
        import_checkpoint(tmp_path / "c.pth")
