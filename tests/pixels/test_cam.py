"""Maps equal those of an independent library, masks follow their rules, and nothing is left behind."""

import matplotlib
import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from PIL import Image
from torch import nn

from dualrs_lab.models import MODELS, make_model
from dualrs_lab.pixels import (
    AboveMean,
    Everywhere,
    JetMask,
    TopFraction,
    class_maps,
    grad_cam,
    layer_cam,
    normalise,
    pixel_budget,
    resize,
    xgrad_cam,
)
from dualrs_lab.runtime import make_generator

SMALL = ("digits_narrow", "fast_narrow", "resnet20", "resnet18")
LAST = {"digits_narrow": "body.layer3", "fast_narrow": "body.layer3", "resnet20": "body.layer3"}


def network(name: str = "fast_narrow", seed: int = 0) -> nn.Module:
    model = make_model(name, classes=10, channels=3, mean=[0.5] * 3, std=[0.25] * 3, seed=seed)
    for module in model.modules():  # statistics that are not those of a fresh network
        if isinstance(module, nn.BatchNorm2d):
            generator = make_generator(seed, "statistics")
            module.running_mean.copy_(0.3 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return model.eval()


def images(count: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=make_generator(seed))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("name", SMALL)
def test_the_closed_form_equals_captum(name: str) -> None:
    model, x = network(name), images()
    layer = LAST.get(name, "body.layer4")
    classes = torch.tensor([3, 1, 4, 1, 5, 9])
    oracle = LayerGradCam(model, model.get_submodule(layer)).attribute(x, classes, relu_attributions=True)
    assert oracle.max() > 0
    assert relative(class_maps(model, x, classes), oracle[:, 0].detach()) < 1e-5


@pytest.mark.parametrize("layer", ["body.layer1", "body.layer2", "body.layer3.0"])
def test_a_hooked_layer_equals_captum(layer: str) -> None:
    model, x = network(), images()
    classes = torch.tensor([0, 9, 4, 2, 5, 5])
    oracle = LayerGradCam(model, model.get_submodule(layer)).attribute(x, classes, relu_attributions=True)
    assert oracle.max() > 0
    assert relative(class_maps(model, x, classes, layer=layer), oracle[:, 0].detach()) < 1e-5


@pytest.mark.parametrize("weighting", [grad_cam, xgrad_cam, layer_cam])
def test_closed_form_and_backward_pass_agree(weighting) -> None:
    model, x = network("resnet20"), images()
    short = class_maps(model, x, weighting=weighting)
    assert short.shape == (6, 8, 8)
    assert relative(short, class_maps(model, x, weighting=weighting, layer="body.layer3")) < 1e-5


def test_weightings_by_hand() -> None:
    # two channels, two places; gradients that differ by place
    activations = torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]]]])
    gradients = torch.tensor([[[[2.0, 0.0]], [[-1.0, 0.5]]]])
    # Grad-CAM: channel weights 1 and -0.25
    assert grad_cam(activations, gradients)[0, 0].tolist() == [0.5, 2.5]
    # XGrad-CAM: (2 * 1 + 0) / 4 = 0.5 and (-2 + 1) / 4 = -0.25
    assert xgrad_cam(activations, gradients)[0, 0].tolist() == [0.0, 1.0]
    # LayerCAM: 2 * 1 + 0, and 0 + 0.5 * 2
    assert layer_cam(activations, gradients)[0, 0].tolist() == [2.0, 1.0]


def test_own_predictions_are_the_default_and_a_batch_is_its_images() -> None:
    model, x = network("resnet20"), images()
    with torch.no_grad():
        predicted = model(x).argmax(1)
    maps = class_maps(model, x)
    assert torch.equal(maps, class_maps(model, x, predicted))
    one_by_one = torch.cat([class_maps(model, x[i : i + 1]) for i in range(len(x))])
    assert relative(maps, one_by_one) < 1e-5
    assert not torch.allclose(maps, class_maps(model, x, (predicted + 1) % 10))


def test_nothing_is_left_behind_even_after_an_error() -> None:
    model, x = network(), images()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    class_maps(model, x)
    class_maps(model, x, layer="body.layer2")
    with pytest.raises(RuntimeError):
        class_maps(model, images()[:, :2], layer="body.layer2")  # two channels: breaks within
    with pytest.raises(ValueError, match=r"body\.fc.* gave outputs of shapes \[\(6, 10\)\]"):
        class_maps(model, x, layer="body.fc")
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_maps_work_without_gradients_around_them_and_with_frozen_parameters() -> None:
    model, x = network(), images()
    wanted = class_maps(model, x, layer="body.layer2")
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(class_maps(model, x, layer="body.layer2"), wanted)
    assert not wanted.requires_grad


def test_errors_say_what_to_do() -> None:
    model, x = network(), images()
    with pytest.raises(ValueError, match=r"no layer 'layer9'; wanted one of .*body\.layer3"):
        class_maps(model, x, layer="layer9")
    with pytest.raises(ValueError, match=r"name a layer, such as layer='layer4'"):
        class_maps(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval(), x)
    with pytest.raises(ValueError, match=r"images \[2\] are not finite"):
        class_maps(model, x.index_fill(0, torch.tensor([2]), torch.nan))
    model.body.layer2.train()
    with pytest.raises(ValueError, match=r"call \.eval\(\) first"):
        class_maps(model, x)


def test_every_network_of_the_lab_has_a_closed_form() -> None:
    for name in MODELS:
        assert hasattr(MODELS[name](10, 3), "fc"), name


def maps(count: int = 50) -> torch.Tensor:
    return torch.rand(count, 4, 4, generator=make_generator(2))


@pytest.mark.parametrize(("fraction", "pixels"), [(0.3, 307), (1e-4, 1)])
def test_the_top_fraction_are_the_largest_and_equally_many(fraction: float, pixels: int) -> None:
    """At least one pixel, however small the fraction."""
    mask = TopFraction(fraction=fraction)(maps(), (32, 32))
    assert mask.shape == (50, 1, 32, 32)
    assert mask.sum((1, 2, 3)).unique().tolist() == [pixels]
    values = resize(maps(), (32, 32))[:, None]
    inside = values.where(mask, torch.inf).amin((1, 2, 3))
    assert (inside >= values.where(~mask, -torch.inf).amax((1, 2, 3))).all()


def test_above_mean_is_that_rule_written_out() -> None:
    mask = AboveMean(k=0.5)(maps(), (16, 16))
    for one, values in zip(mask[:, 0].numpy(), resize(maps(), (16, 16)).numpy(), strict=True):
        np.testing.assert_array_equal(one, values > values.mean() + 0.5 * values.std(ddof=1))


@pytest.mark.parametrize("rule", [TopFraction(fraction=0.1), AboveMean(), JetMask(), Everywhere()])
def test_a_map_without_variation_leaves_all_pixels_important(rule) -> None:
    flat = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 0.7), maps(1)[0]])
    mask = rule(flat, (32, 32))
    assert mask[:2].all()
    assert isinstance(rule, Everywhere) or not mask[2].all()


def published(map_: np.ndarray, size: int) -> np.ndarray:
    """The rule of the published code, with the libraries that it uses."""
    wide = Image.fromarray(map_).resize((size, size), Image.Resampling.BICUBIC)
    picture = (255 * matplotlib.colormaps["jet"](np.asarray(wide) ** 2)[:, :, :3]).astype(np.uint8)
    colours = picture.astype(np.float64)
    return (colours > colours.mean() + colours.std(ddof=1)).transpose(2, 0, 1)


def test_the_published_rule_is_reproduced_with_its_defect() -> None:
    scaled = normalise(maps(300))
    mask = JetMask()(scaled, (32, 32))
    reference = np.stack([published(one.numpy(), 32) for one in scaled])
    assert (mask.numpy() != reference).mean() < 1e-4  # pixels on a border between two levels
    shares = mask.float().mean((0, 2, 3))
    assert shares[0] < shares[1] < shares[2]  # blue most of all, the colour of *unimportant* pixels
    assert not mask.all(1).any()  # no pixel in all three channels
    hottest = TopFraction(fraction=0.02)(scaled, (32, 32))
    assert not (mask[:, 2:] & hottest).any()


def test_resizing_is_that_of_pillow() -> None:
    for one, wide in zip(maps(5), resize(maps(5), (32, 24)), strict=True):
        oracle = Image.fromarray(one.numpy()).resize((24, 32), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(wide.numpy(), np.asarray(oracle), atol=1e-6)


def test_budgets() -> None:
    mask = torch.tensor([[[[True, False]]]])
    assert pixel_budget(mask, high=0.5, low=0.25).tolist() == [[[[0.5, 0.25]]]]
    with pytest.raises(ValueError, match="0 <= low <= high"):
        pixel_budget(mask, high=0.25, low=0.5)
    with pytest.raises(ValueError, match="wanted bool"):
        pixel_budget(mask.float(), high=0.5, low=0.25)
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\]"):
        TopFraction(fraction=0.0)
