"""Networks of the published mixes on CIFAR-100: Big Transfer, what is said behind a file, what heads see."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dualrs_lab.adapters import (
    BigTransfer,
    DeepMindWide,
    big_transfer,
    load_network,
    read_choices,
    robustbench_network,
)
from dualrs_lab.mixing import AdaptiveMix, look_into, make_head
from dualrs_lab.models import MODELS

FINE = 100
MEAN = "mean=0.5071,0.4865,0.4409&std=0.2673,0.2564,0.2762"


def bit(folder: Path, prefix: str = "module.") -> tuple[Path, BigTransfer]:
    torch.manual_seed(0)
    network = BigTransfer(FINE, 3, [1, 2, 1, 1], 32).eval()
    path = folder / "cifar100_std_rn152.pt"
    torch.save({"model": {prefix + name: part for name, part in network.state_dict().items()}}, path)
    return path, network


def wide(folder: Path) -> Path:

    torch.manual_seed(1)
    path = folder / "Wang2023Better_WRN-70-16.pt"
    torch.save(DeepMindWide(FINE, 3, 1, 2, relu=False).state_dict(), path)
    return path


def test_big_transfer_is_told_by_its_names_and_sees_images_in_the_size_that_is_said(tmp_path: Path) -> None:
    path, network = bit(tmp_path)
    loaded = load_network(f"robustbench:{path}?size=48")
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    larger = F.interpolate(x, size=(48, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(loaded(x), network((larger - 0.5) / 0.5), rtol=1e-4, atol=1e-5)
    assert loaded.made_for.outputs == FINE
    assert loaded.info["size"] == (48, 48)
    assert loaded.info["network"] == "BigTransfer"


def test_its_largest_network_has_the_names_and_sizes_of_the_published_one() -> None:
    with torch.device("meta"):
        network = BigTransfer(FINE, 3, [3, 8, 36, 3], 128)  # BiT-M-R152x2
        again = big_transfer(network.state_dict())
    names = set(network.state_dict())
    assert {
        "root.conv.weight",
        "body.block1.unit01.downsample.weight",
        "body.block3.unit36.gn3.bias",
    } <= names
    assert {"head.gn.weight", "head.conv.bias"} <= names
    assert "body.block1.unit02.downsample.weight" not in names
    # 232 million with the head of CIFAR-100: 2 x 2048 x 2 channels in the last layer
    count = sum(part.numel() for part in network.parameters())
    assert network.state_dict()["head.conv.weight"].shape == (FINE, 4096, 1, 1)
    assert 230e6 < count < 235e6
    assert again is not None
    assert {n: p.shape for n, p in again.state_dict().items()} == {
        n: p.shape for n, p in network.state_dict().items()
    }
    assert big_transfer({"conv1.weight": torch.zeros(1)}) is None


def test_group_norm_and_standardised_weights_ignore_scale_and_shift_of_a_convolution() -> None:
    torch.manual_seed(0)
    network, x = BigTransfer(5, 3, [1, 1, 1, 1], 32).eval(), torch.rand(2, 3, 32, 32)
    before = network(x)
    with torch.no_grad():
        for name, part in network.named_parameters():
            if "conv" in name and part.ndim == 4 and "head" not in name:
                part.mul_(3).add_(0.5)
        torch.testing.assert_close(network(x), before, rtol=1e-3, atol=1e-3)
        network.head["conv"].weight.mul_(3)
    assert not torch.allclose(network(x), before, atol=1e-2)


def test_what_weights_do_not_tell_is_said_behind_the_file(tmp_path: Path) -> None:
    path = wide(tmp_path)
    loaded = load_network(f"robustbench:{path}?{MEAN}")
    assert loaded.info["mean"] == (0.5071, 0.4865, 0.4409)
    assert loaded.info["std"] == (0.2673, 0.2564, 0.2762)
    relu = robustbench_network(f"{path}?activation=relu&size=16")
    assert (relu.size, relu.info["choices"]) == ((16, 16), ["activation=relu"])
    _, said = read_choices("some.pt?size=128&mean=0.5&std=0.25")
    assert (said.relu, said.size, said.mean, said.std) == (False, 128, (0.5,), (0.25,))
    with pytest.raises(ValueError, match="does not say how its images are normalised"):
        load_network(f"robustbench:{path}")


@pytest.mark.parametrize(
    "said", ["size=large", "sise=128", "mean=0.5", "activation=", "size=1&size=2", "mean=a&std=1", "size"]
)
def test_words_that_say_nothing_are_refused(said: str) -> None:
    with pytest.raises(ValueError, match=r"robustbench:net\.pt\?.*: wanted "):
        read_choices(f"net.pt?{said}")


@pytest.mark.parametrize("kind", ["pooled", "published"])
def test_a_head_looks_at_the_features_of_such_networks(kind: str, tmp_path: Path) -> None:
    g = load_network(f"robustbench:{bit(tmp_path)[0]}?size=64")
    h = load_network(f"robustbench:{wide(tmp_path)}?{MEAN}")
    x = torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    maps, logits = look_into(g, x)
    assert [tuple(one.shape[1:]) for one in maps] == [(128, 16, 16), (256, 8, 8)]
    torch.testing.assert_close(logits, g(x))
    early = h.body.layer[0](h.body.init_conv(h.normalize(x)))
    torch.testing.assert_close(look_into(h, x)[0][0], early)
    assert not any(part._forward_hooks for part in [*g.modules(), *h.modules()])
    mix = AdaptiveMix(g, h, make_head(kind, g, h, shape=(3, 32, 32), seed=0), low=0.84, high=0.99)
    weights = mix.weights(x)
    assert ((weights >= 0.84) & (weights <= 0.99)).all()
    g_share, h_share = (one(x).softmax(1) for one in (g, h))
    wanted = (1 - weights[:, None]) * g_share + weights[:, None] * h_share
    torch.testing.assert_close(mix(x).exp(), wanted, rtol=1e-4, atol=1e-6)


def test_ours_and_those_of_other_zoos_are_looked_at_alike(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    from dualrs_lab.models import make_model

    ours = make_model("resnet18", classes=FINE, channels=3, mean=[0.5] * 3, std=[0.25] * 3, seed=0).eval()
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    maps, logits = look_into(ours, x)
    assert len(maps) == 2
    torch.testing.assert_close(logits, ours(x))
    path = tmp_path / "resnet18.pt"
    torch.save(resnet18(num_classes=FINE).state_dict(), path)
    other = load_network("torchvision:resnet18", weights=path, mean=0, std=1)
    assert [one.shape[1] for one in look_into(other, x)[0]] == [64, 128]
    with pytest.raises(ValueError, match="shows no feature maps"):
        look_into(load_network(nn.Sequential(nn.Flatten(), nn.Linear(3072, FINE)), mean=0, std=1), x)
    with pytest.raises(ValueError, match="shows no feature maps"):
        look_into(nn.Linear(2, 2), x)
    assert "resnet18" in MODELS


# A digest of names and shapes of all weights, from the published definitions: ResNetV2 and DMWideResNet of
# RobustBench at 78fcc9e, which adaptive smoothing has as well.
PUBLISHED = {
    "BiT-M-R152x2": (lambda: BigTransfer(FINE, 3, [3, 8, 36, 3], 128), 459, "5b25c7298a69eb80"),
    "BiT-M-R152x2, CIFAR-10": (lambda: BigTransfer(10, 3, [3, 8, 36, 3], 128), 459, "ab5106cc6eaa1b1a"),
    "WRN-70-16": (lambda: DeepMindWide(FINE, 3, 11, 16, relu=False), 407, "cb1e3afbb918d44c"),
    "WRN-70-16, CIFAR-10": (lambda: DeepMindWide(10, 3, 11, 16, relu=False), 407, "61d36a8e32133fb7"),
    "WRN-28-10": (lambda: DeepMindWide(FINE, 3, 4, 10, relu=False), 155, "001c18b5b3dd0cb2"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_are_called_and_shaped_as_those_of_the_published_networks(name: str) -> None:
    make, count, digest = PUBLISHED[name]
    with torch.device("meta"):
        state = make().state_dict()
    listed = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(state.items()))
    assert len(state) == count
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("normalised", [False, True])
def test_files_of_those_who_trained_a_network_hold_it_in_a_sequential(
    normalised: bool, tmp_path: Path
) -> None:
    body = DeepMindWide(FINE, 3, 1, 2, relu=False).eval()
    place = "module.1." if normalised else "module.0."
    state = {f"{place}{name}": tensor for name, tensor in body.state_dict().items()}
    if normalised:
        state |= {"module.0.mean": torch.full((3, 1, 1), 0.4), "module.0.std": torch.full((3, 1, 1), 0.2)}
    torch.save({"model_state_dict": state}, tmp_path / "cifar100_linf_wrn70-16.pt")
    said = "" if normalised else "?mean=0.4&std=0.2"
    network = load_network(f"robustbench:{tmp_path / 'cifar100_linf_wrn70-16.pt'}{said}")
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x), body((x - 0.4) / 0.2))
