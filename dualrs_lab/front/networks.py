"""Anyone's network as it is sampled: float images in [0, 1] (B, C, H, W) in, logits (B, classes) out.

A module of torch, a function of tensors or of numpy arrays, or a black box that answers labels only:
randomized smoothing needs votes and nothing else.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualrs_lab.adapters.load import load_network
from dualrs_lab.front.pictures import Pictures, by_name
from dualrs_lab.models.checkpoints import fingerprint
from dualrs_lab.models.conduct import check_conduct, in_evaluation
from dualrs_lab.models.probe import probe_images
from dualrs_lab.models.suited import how_suited, suited
from dualrs_lab.runtime import pick_device
from dualrs_lab.settings import COUNT

__all__ = ["Asked", "as_network", "in_names"]


_FEW = 3  # images by which a network is found out


class Asked:
    """A network of any kind, asked as one of ours: tensors (B, C, H, W) to logits (B, classes).

    Whether it takes tensors or arrays, and gives logits or labels, shows when it is asked first. A label is
    logits of 1 for its class and 0 for the others.
    """

    def __init__(
        self, call: str, model: Callable[..., Any], classes: int | None = None, hint: int | None = None
    ) -> None:
        self.call, self.model = call, model
        self.classes, self._hint = classes, hint  # the hint is for labels, which do not tell
        self.labels_only = False
        self._arrays: bool | None = None  # whether it takes arrays, once it has answered
        parts = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
        kinds = (part.dtype for part in parts if part.is_floating_point())
        self.dtype = next(kinds, torch.float32)
        self.device = parts[0].device if parts else None  # None: where the images are
        self.suit = "not known"  # how its classes were compared with those of the images

    @property
    def name(self) -> str:
        """What it is called in a record."""
        return str(getattr(self.model, "__name__", type(self.model).__name__))

    def __call__(self, x: Tensor) -> Tensor:
        return self._logits(self._answer(x), x)

    def identity(self) -> str:
        """The fingerprint of a module; of a function its name, as only its answers tell what it is."""
        return fingerprint(self.model) if isinstance(self.model, nn.Module) else f"function {self.name}"

    @torch.no_grad()
    def answers(self, shape: tuple[int, ...]) -> list[list[float]]:
        """Logits (4, K) of `models.probe_images`, to six digits: see `models.probe`."""
        x = probe_images(shape).to(device=self.device or "cpu", dtype=self.dtype)
        return [[float(f"{value:.6g}") for value in row] for row in self(x).float().tolist()]

    def _answer(self, x: Tensor) -> Any:
        if self._arrays is not None:
            return self.model(x.detach().cpu().numpy() if self._arrays else x)
        errors = []
        for arrays in (False,) if isinstance(self.model, nn.Module) else (False, True):
            try:
                answer = self.model(x.detach().cpu().numpy() if arrays else x)
            except Exception as error:  # what a network is made of has errors of its own
                errors.append(error)
            else:
                self._arrays = arrays
                return answer
        raise ValueError(self._unanswered(x, *errors)) from errors[0]

    def _unanswered(self, x: Tensor, *errors: Exception) -> str:
        told = " and as an array ".join(_told(error) for error in errors)
        return (
            f"{self.call}: {self.name} could not answer float images {tuple(x.shape)} in [0, 1]: {told}; "
            "wanted a function from images (B, C, H, W) to logits (B, classes) or labels (B,). Resize the "
            "images, or wrap it: lambda x: network(what it wants of x)"
        )

    def _logits(self, answer: Any, x: Tensor) -> Tensor:
        found = _as_tensor(self.call, getattr(answer, "logits", answer)).to(x.device)
        count = len(x)
        if found.ndim == 1 and len(found) == count and not found.is_floating_point():
            self.labels_only = True
            return self._one_hot(found, x)
        if found.ndim != 2 or len(found) != count or found.shape[1] < 2:
            raise ValueError(
                f"{self.call}: {self.name} answers {tuple(found.shape)} of {found.dtype} for {count} "
                f"images; wanted logits ({count}, classes) of two classes or more, or whole-number labels "
                f"({count},).{_remedy(found, count)}"
            )
        if self.classes is not None and self.classes != found.shape[1]:
            raise ValueError(
                f"{self.call}: {self.name} tells {found.shape[1]} classes, and {self.classes} were named; "
                "leave classes out, or give as many as it tells"
            )
        self.classes = found.shape[1]
        return found if found.is_floating_point() else found.float()

    def _one_hot(self, labels: Tensor, x: Tensor) -> Tensor:
        self.classes = self.classes or self._hint
        if self.classes is None:
            raise ValueError(
                f"{self.call}: {self.name} answers labels only, which do not tell how many there are; give "
                "classes=10, or the names of the classes"
            )
        labels = labels.long()
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise ValueError(
                f"{self.call}: {self.name} answers labels from {int(labels.min())} to {int(labels.max())}, "
                f"and there are {self.classes} classes; wanted positions 0 to {self.classes - 1}: give the "
                "right classes=, or have it answer the place of each name in a list of them"
            )
        return torch.nn.functional.one_hot(labels, self.classes).to(torch.float32)


def as_network(
    call: str, model: Any, pictures: Pictures, *, classes: int | Sequence[str] | None = None
) -> Asked:
    """`model`, or the network of that name, as it is sampled; found out and vetted by the first images.

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
        model = load_network(model, device=pick_device("auto"))
    if not callable(model):
        raise ValueError(_no_network(call, model))
    model, suit = _suited(call, model, pictures, names)
    hint = wanted or len(pictures.classes or ()) or None
    asked = Asked(call, in_evaluation(call, model), wanted, hint)
    asked.suit, asked.device = suit, asked.device or pictures.device
    first = pictures.floats(range(min(_FEW, len(pictures))))
    check_conduct(call, asked, first.to(device=asked.device, dtype=asked.dtype))
    _want_labels(call, asked, pictures)
    return asked


def in_names(call: str, pictures: Pictures, classes: int | Sequence[str] | None) -> Pictures:
    """`pictures`, labelled by the places of their classes in the names `classes`, if these are names."""
    if classes is None or isinstance(classes, str) or not isinstance(classes, Sequence):
        return pictures
    return by_name(call, pictures, classes)


def _suited(call: str, model: Any, pictures: Pictures, names: tuple[str, ...] | None) -> tuple[Any, str]:
    # networks that know what they were made for are compared with the images
    if not isinstance(model, nn.Module):
        return model, "not known"
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
    if asked.classes is not None and top >= asked.classes:
        raise ValueError(
            f"{call}: labels run to {top}, and {asked.name} tells {asked.classes} classes; wanted labels "
            f"from 0 to {asked.classes - 1}, each the place of its class in the outputs. Do they count from "
            "1? labels - 1"
        )


def _no_network(call: str, model: object) -> str:
    remedy = ". Here: lambda x: model.predict(x.reshape(len(x), -1)), with classes="
    return (
        f"{call}: got a {type(model).__name__}, which cannot be called; wanted a module of torch, a function "
        "from images (B, C, H, W) to logits or labels, or the path of a checkpoint"
        f"{remedy if hasattr(model, 'predict') else ''}"
    )


def _as_tensor(call: str, answer: Any) -> Tensor:
    if isinstance(answer, Tensor):
        return answer
    if isinstance(answer, tuple | dict):
        raise ValueError(
            f"{call}: the network answers a {type(answer).__name__} of {len(answer)} parts; wanted logits "
            "(B, classes) alone: lambda x: network(x)[…]"
        )
    try:
        array = np.asarray(answer)
        return torch.as_tensor(array.copy() if array.dtype.kind in "iuf" else array)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"{call}: the network answers {type(answer).__name__} that hold no numbers, such as "
            f"{str(answer)[:40]!r}; wanted logits (B, classes), or for each image the place of its class in "
            "the list of all, 0 to K - 1"
        ) from None


def _remedy(found: Tensor, count: int) -> str:
    if found.shape == (count, 1):
        return " Of one logit for two classes make both: lambda x: torch.cat([-network(x), network(x)], 1)"
    if found.shape == (count,):
        return " Are these labels? lambda x: network(x).astype(int), or .long() of a tensor"
    return ""


def _told(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}"
