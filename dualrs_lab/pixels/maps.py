"""Class activation maps as tensors.

A map says where in an image a class is found: activations A (N, K, h, w) of a layer, weighted by the
gradients G of the class's logit. Grad-CAM (Selvaraju et al. 2017) weights channel k by the mean of G, XGrad-
CAM (Fu et al. 2020) by the mean of G weighted with A, LayerCAM (Jiang et al. 2021) each place by G where it
is positive. In our networks the last stage is followed by average pooling and one linear layer, so there G =
W[class] / hw and maps cost one forward pass. (Grad-CAM and XGrad-CAM are equal there.)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.models.body import Body
from dualrs_lab.models.networks import Classifier

__all__ = ["class_maps", "grad_cam", "layer_cam", "normalise", "resize", "xgrad_cam"]


Weighting = Callable[[Tensor, Tensor], Tensor]


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Maps (N, h, w), >= 0, from activations (N, K, h, w) and gradients that broadcast to them."""
    return F.relu((gradients.mean((2, 3), keepdim=True) * activations).sum(1))


def xgrad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """As `grad_cam`; a channel without activation has weight 0."""
    total = activations.sum((2, 3), keepdim=True)
    weights = (gradients * activations).sum((2, 3), keepdim=True) / total.where(total != 0, 1)
    return F.relu((weights * activations).sum(1))


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """As `grad_cam`."""
    return F.relu((F.relu(gradients) * activations).sum(1))


def class_maps(
    model: nn.Module,
    x: Tensor,
    classes: Tensor | None = None,
    *,
    weighting: Weighting = grad_cam,
    layer: str | None = None,
) -> Tensor:
    """Maps (N, h, w) of the layer's size, >= 0, float32, one for each image of x (N, C, H, W) in [0, 1].

    `classes` (N,) are int64; None means the network's own predictions. `layer` names a submodule whose output
    is (N, K, h, w); None is the last stage of a `Classifier`, without a backward pass. A batch is one pass.
    Gradients of parameters are left alone; hooks are removed afterwards, even after an error.

    Raises ValueError for a network in training mode, a layer that does not fit, or a map that is not finite.
    """
    if any(module.training for module in model.modules()):
        raise ValueError("class_maps: the network is in training mode; call .eval() first")
    if layer is None:
        activations, gradients = _pooled(model, x, classes)
    else:
        activations, gradients = _hooked(model, x, classes, layer)
    maps = weighting(activations.float(), gradients.float()).detach()
    if not torch.isfinite(maps).all():
        bad = (~torch.isfinite(maps)).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(f"class_maps: the maps of images {bad[:10]} are not finite; check x and the weights")
    return maps


def _pooled(model: nn.Module, x: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    body = getattr(model, "body", None)
    if not isinstance(model, Classifier) or not isinstance(getattr(body, "fc", None), nn.Linear):
        raise ValueError(
            f"class_maps: got a {type(model).__name__}; without a Classifier that ends in pooling and a "
            "linear layer, name a layer, such as layer='layer4'"
        )
    head = cast(Body, body).fc
    with torch.no_grad():
        activations = model.stages(x)[-1]
        if classes is None:
            classes = cast(Tensor, head(activations.mean((2, 3)))).argmax(1)
        gradients = head.weight[classes] / activations[0, 0].numel()
    return activations, gradients[:, :, None, None]


def _hooked(model: nn.Module, x: Tensor, classes: Tensor | None, layer: str) -> tuple[Tensor, Tensor]:
    try:
        module = model.get_submodule(layer)
    except AttributeError as error:
        names = ", ".join(name for name, _ in model.named_modules() if name)
        raise ValueError(f"class_maps: no layer {layer!r}; wanted one of {names}") from error
    with torch.enable_grad(), _held(module) as held:
        logits = model(x)
        if len(held) != 1 or held[0].ndim != 4:
            shapes = [tuple(tensor.shape) for tensor in held]
            raise ValueError(
                f"class_maps: layer {layer!r} gave outputs of shapes {shapes}; wanted one (N, K, h, w)"
            )
        classes = logits.detach().argmax(1) if classes is None else classes
        score = logits.gather(1, classes[:, None]).sum()
        (gradients,) = torch.autograd.grad(score, held[0])
    return held[0].detach(), gradients


@contextmanager
def _held(module: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of `module` within the context, as leaves: nothing below them is differentiated.

    Later layers get a copy, since they may write in place.
    """
    held: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
        held.append(output.detach().requires_grad_())
        return held[-1].clone()

    handle = module.register_forward_hook(keep)
    try:
        yield held
    finally:
        handle.remove()


def normalise(maps: Tensor) -> Tensor:
    """Each map (N, h, w) stretched to [0, 1]; a constant one becomes 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).where(high > low, 1)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) as (N, H, W), bicubic as in Pillow; values may exceed their range a little."""
    wide = F.interpolate(maps[:, None].float(), size, mode="bicubic", antialias=True, align_corners=False)
    return wide[:, 0]
