"""Anyone's network as it is sampled: float images in [0, 1] (B, C, H, W) in, logits (B, classes) out.

It is whatever `load_network` takes; randomized smoothing needs votes and nothing else.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dualrs_lab.adapters.load import load_network
from dualrs_lab.adapters.outside import Outside, black_box
from dualrs_lab.front.pictures import Pictures, by_name
from dualrs_lab.models.checkpoints import fingerprint
from dualrs_lab.models.conduct import check_conduct, duplicate, in_evaluation, networks_behind
from dualrs_lab.models.probe import probe_images
from dualrs_lab.models.suited import how_suited, suited
from dualrs_lab.runtime import pick_device
from dualrs_lab.settings import COUNT

__all__ = ["Asked", "as_network", "in_names"]


_FEW = 3  # images by which a network is found out


class Asked:
    """A network of any kind, asked as one of ours: tensors (B, C, H, W) to logits (B, classes)."""

    def __init__(self, box: Outside, name: str, device: torch.device, suit: str) -> None:
        self.box, self.model, self.name, self.suit = box, box.ask, name, suit
        parts = [*self.model.parameters(), *self.model.buffers()] if isinstance(self.model, nn.Module) else []
        self.dtype = next((part.dtype for part in parts if part.is_floating_point()), torch.float32)
        self.device = parts[0].device if parts else device
        self.classes = 0  # until it has answered

    def __call__(self, x: Tensor) -> Tensor:
        logits: Tensor = self.box(x)
        self.classes = logits.shape[1]
        return logits

    @property
    def labels_only(self) -> bool:
        """Whether it has answered labels."""
        parts = (part for network in networks_behind(self.box) for part in network.modules())
        return any(getattr(part, "labels_only", False) for part in parts)

    def identity(self) -> str:
        """The fingerprint of a module; of a function its name, as only its answers tell what it is."""
        return fingerprint(self.model) if isinstance(self.model, nn.Module) else f"function {self.name}"

    @torch.no_grad()
    def answers(self, shape: tuple[int, ...]) -> list[list[float]]:
        """Logits (4, K) of `models.probe_images`, to six digits: see `models.probe`."""
        x = probe_images(shape).to(device=self.device, dtype=self.dtype)
        return [[float(f"{value:.6g}") for value in row] for row in self(x).float().tolist()]


def as_network(
    call: str, model: Any, pictures: Pictures, *, classes: int | Sequence[str] | None = None
) -> Asked:
    """`model`, whatever `load_network` takes, as it is sampled; found out and vetted by the first images.

    `classes` says how many it tells, which a black box does not, or their names in the order of its outputs.
    A module in training mode is copied into evaluation mode, and stays as it is; a network that knows its
    classes is put in the order of the images. Raises ValueError for what is no network, answers otherwise
    than one does, or not by each image alone (see `models.check_conduct`), and for labels beyond its classes.
    """
    if isinstance(model, Asked):
        return model
    names = tuple(map(str, classes)) if isinstance(classes, Sequence) else None
    wanted = classes if not isinstance(classes, Sequence) else len(classes)
    if isinstance(classes, str) or (wanted is not None and (wanted not in COUNT or wanted < 2)):
        raise ValueError(f"{call}: got classes {classes!r}; wanted their number, at least 2, or their names")
    if isinstance(model, str | Path):
        model = load_network(model, classes=names or wanted, device=pick_device("auto"))
    hint = wanted or len(pictures.classes or ()) or None
    name, suit = _name(model), "not known"
    with _called(call):
        if isinstance(model, nn.Module):
            model, suit = _suited(call, model, pictures, names)
            model = _hinted(in_evaluation(call, model), hint)
            box = Outside(model, kind=f"the network {name}", identity="", classes=wanted)
        else:
            box = black_box(model, classes=names or wanted)
        box.hint = hint
        in_evaluation(call, box.eval())
        asked = Asked(box, name, pictures.device, suit)
        first = pictures.floats(range(min(_FEW, len(pictures))))
        check_conduct(call, asked, first.to(device=asked.device, dtype=asked.dtype))
    _want_labels(call, asked, pictures)
    return asked


def _name(model: Any) -> str:
    info = getattr(model, "info", None)
    known = info.get("source") if isinstance(info, dict) else None
    return str(known or getattr(model, "__name__", type(model).__name__))


def _hinted(model: nn.Module, hint: int | None) -> nn.Module:
    # labels do not tell how many classes there are; images may
    if any(isinstance(part, Outside) and part.classes is None for part in model.modules()):
        model = duplicate(model)
        for part in model.modules():
            if isinstance(part, Outside):
                part.hint = hint
    return model


@contextmanager
def _called(call: str) -> Iterator[None]:
    # errors of what is asked name the call, too
    try:
        yield
    except ValueError as error:
        if str(error).startswith(call):
            raise
        raise ValueError(f"{call}: {error}") from error


def in_names(call: str, pictures: Pictures, classes: int | Sequence[str] | None) -> Pictures:
    """`pictures`, labelled by the places of their classes in the names `classes`, if these are names."""
    if classes is None or isinstance(classes, str) or not isinstance(classes, Sequence):
        return pictures
    return by_name(call, pictures, classes)


def _suited(
    call: str, model: nn.Module, pictures: Pictures, names: tuple[str, ...] | None
) -> tuple[nn.Module, str]:
    # networks that know what they were made for are compared with the images
    named = names or pictures.classes
    told: Any = SimpleNamespace(classes=named or (), shape=pictures.shape)
    model = suited(call, model, told, names=named is not None)
    return model, how_suited(model, told)


def _want_labels(call: str, asked: Asked, pictures: Pictures) -> None:
    top, names = max(pictures.labels or (), default=0), pictures.classes
    if names and len(names) != asked.classes:
        shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        raise ValueError(
            f"{call}: the images have {len(names)} classes ({shown}), and {asked.name} tells "
            f"{asked.classes}; give classes=[…], the name of each of its outputs, by which labels are found, "
            "or labels that are places of outputs"
        )
    if top >= asked.classes:
        raise ValueError(
            f"{call}: labels run to {top}, and {asked.name} tells {asked.classes} classes; wanted labels "
            f"from 0 to {asked.classes - 1}, each the place of its class in the outputs. Do they count from "
            "1? labels - 1"
        )
