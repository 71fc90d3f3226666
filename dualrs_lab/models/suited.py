"""Which data a network was trained for, and whether the images that it meets are such.

An answer is a number; what it means is the place of a class in the data of the training. Folders whose names
sort differently give the same classes other numbers.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn

from dualrs_lab.models.conduct import duplicate

__all__ = ["MadeFor", "how_suited", "suited", "suited_each", "trained_on"]


Model = TypeVar("Model", bound=nn.Module)


class Labelled(Protocol):
    """Images with named classes, such as `data.Images`."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...


@dataclass(frozen=True, kw_only=True)
class MadeFor:
    """What a network is for, as far as its checkpoint says: the `made_for` of a `Classifier`."""

    outputs: int
    channels: int
    classes: tuple[str, ...] | None = None  # in the order of the outputs; None: the checkpoint names none
    shape: tuple[int, ...] | None = None  # (C, H, W)
    reordered_from: tuple[str, ...] | None = None  # the order of the checkpoint, where outputs were moved


def made_for(info: Mapping[str, Any]) -> MadeFor:
    """By the json of a checkpoint. Networks that were trained on numbered images name no classes."""
    architecture, data = info["architecture"], info.get("data")
    data = data if isinstance(data, Mapping) else {}
    said = (data.get(key) for key in ("classes", "shape"))
    names, shape = (tuple(value) if isinstance(value, list | tuple) else () for value in said)
    whole = len(shape) == 3 and all(isinstance(size, int) for size in shape)
    return MadeFor(
        outputs=int(architecture["classes"]),
        channels=int(architecture["channels"]),
        classes=tuple(map(str, names)) if len(names) == architecture["classes"] else None,
        shape=shape if whole else None,
    )


def trained_on(model: nn.Module, images: Labelled) -> None:
    """Note in `model`, a `Classifier`, that it learns from `images`; numbers of images are no classes."""
    architecture = getattr(model, "architecture", None)
    if not architecture:
        return
    data = {"classes": images.classes, "shape": images.shape}
    known = made_for({"architecture": architecture, "data": data})
    before: MadeFor | None = getattr(model, "made_for", None)
    if known.classes is None and before is not None:
        known = replace(known, classes=before.classes)
    model.made_for = known  # type: ignore[assignment]


def suited(call: str, model: Model, images: Labelled, *, names: bool = True) -> Model:
    """`model` as it answers about `images`: itself, or a copy with its outputs in the order of their classes.

    A network without `made_for` is not known, and taken as it is. With `names` the classes are compared: the
    same names in another order give the copy, and a warning; a checkpoint that names none gives a warning
    that only their number was compared. Raises ValueError, with both sides, for other classes, another number
    of them, other channels or another shape.
    """
    known: MadeFor | None = getattr(model, "made_for", None)
    if known is None:
        _refuse_parts(call, model, images, names=names)
        return model
    _refuse_shape(call, known, images)
    if not names or known.classes == images.classes:
        return model
    if known.outputs != len(images.classes):
        raise ValueError(
            f"{call}: the network tells {known.outputs} classes{_listed(known.classes)}, the images have "
            f"{len(images.classes)}{_listed(images.classes)}; choose the data that it was trained for"
        )
    if known.classes is None:
        warnings.warn(
            f"{call}: the checkpoint does not name its classes; that there are {known.outputs} was compared "
            "with the images, their order was not",
            stacklevel=3,
        )
        return model
    return _in_order(call, model, known, images.classes)


def suited_each(call: str, models: Sequence[Model], images: Labelled) -> list[Model]:
    """`suited`, of several networks; one that comes several times stays one."""
    each = {id(model): model for model in models}
    made = {key: suited(call, model, images) for key, model in each.items()}
    return [made[id(model)] for model in models]


def how_suited(model: nn.Module, images: Labelled) -> str:
    """How the classes of a `suited` network were compared with those of the images, for a record."""
    known: MadeFor | None = getattr(model, "made_for", None)
    if known is None:
        return "not known"
    if known.classes is None:
        return "by number" if known.outputs == len(images.classes) else "not compared"
    if known.reordered_from:
        return f"by name, outputs moved from the order {', '.join(known.reordered_from)}"
    return "by name" if known.classes == images.classes else "not compared"


def _refuse_parts(call: str, model: nn.Module, images: Labelled, *, names: bool) -> None:
    # a mix, or whatever else is made of networks that we know
    for part in model.modules():
        known: MadeFor | None = getattr(part, "made_for", None)
        if known is None:
            continue
        _refuse_shape(call, known, images)
        named = names and known.classes is not None and known.outputs == len(images.classes)
        if named and known.classes != images.classes:
            raise ValueError(
                f"{call}: a network within the {type(model).__name__} tells the classes"
                f"{_listed(known.classes, images.classes)}, the images have"
                f"{_listed(images.classes, known.classes or ())}; make it of networks that models.suited has "
                "put in the order of the images"
            )


def _refuse_shape(call: str, known: MadeFor, images: Labelled) -> None:
    wanted = known.shape or (known.channels, *images.shape[1:])
    if tuple(images.shape) != wanted:
        raise ValueError(
            f"{call}: the network was trained for images of {_by(wanted)} (channels x height x width), these "
            f"are of {_by(images.shape)}; load them in its size (folder:PATH?size=…&channels=…), or choose "
            "the data that it was trained for"
        )


def _in_order(call: str, model: Model, known: MadeFor, wanted: tuple[str, ...]) -> Model:
    names = cast(tuple[str, ...], known.classes)
    last = getattr(getattr(model, "body", None), "fc", None)
    if sorted(names) != sorted(wanted) or len({*names}) < len(names) or not isinstance(last, nn.Linear):
        raise ValueError(
            f"{call}: the network tells the classes{_listed(names, wanted)}, the images have"
            f"{_listed(wanted, names)}; choose the data that it was trained for, or name the classes alike"
        )
    warnings.warn(
        f"{call}: the network was trained with its classes in another order; its outputs were moved from"
        f"{_listed(names)} to that of the images,{_listed(wanted)}",
        stacklevel=4,
    )
    made = duplicate(model)
    order = torch.tensor([names.index(name) for name in wanted])
    layer = cast(nn.Linear, cast(nn.Module, made.body).fc)
    with torch.no_grad():
        for part in (layer.weight, layer.bias):
            part.copy_(part[order.to(part.device)])
    made.made_for = replace(known, classes=wanted, reordered_from=names)  # type: ignore[assignment]
    return cast(Model, made)


def _listed(names: Sequence[str] | None, beside: Sequence[str] = ()) -> str:
    # the first few, those first that the other side does not have
    if not names:
        return ""
    first = [name for name in names if beside and name not in beside] or [*names]
    shown = ", ".join(map(repr, first[:6])) + (", …" if len(first) > 6 or len(first) < len(names) else "")
    return f" {shown}"


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
