"""What is no module of torch, as a network: functions, estimators, graphs of other libraries, endpoints.

Whoever is asked gives logits (N, classes) or labels (N,), as tensors, arrays or lists; here alone they become
logits of torch. Labels are all that smoothing asks for; nothing has gradients.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from dualrs_lab.files import digest

__all__ = ["Outside", "black_box"]


Ask = Callable[[Any], Any]


class Outside(nn.Module):
    """Images `(B, C, H, W)` -> logits `(B, classes)` of what `ask` answers, at most `batch` images at a time.

    `arrays` says whether it takes numpy arrays, float32, or tensors; where that is left open, it is found by
    asking, arrays first. Labels become logits of 0 and 1, so `classes` must be known for them: a number, or
    the names that `ask` answers with; where they are not, `hint` is taken. Two such networks are one if
    `identity` is equal and they answer fixed images alike: there are no parameters to compare. What is asked
    is no part of this module, and copies share it.
    """

    ask: Ask
    identity: Tensor
    hint: int | None = None

    def __init__(
        self,
        ask: Ask,
        *,
        kind: str,
        identity: str,
        classes: int | Sequence[str] | None = None,
        batch: int = 1000,
        arrays: bool | None = None,
    ) -> None:
        super().__init__()
        self.__dict__["ask"] = ask  # a network among them would become a part of this one
        self.batch, self.arrays = batch, arrays
        self.as_is = self.no_gradients = kind
        self.names = None if classes is None or isinstance(classes, int) else tuple(map(str, classes))
        self.classes = len(self.names) if self.names is not None else cast(int | None, classes)
        self.labels_only = False  # whether it has answered so
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)  # `.to` moves it: answers go there
        self.register_buffer("identity", torch.tensor([*bytes.fromhex(identity)], dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x.detach().contiguous(), self.batch)
        return torch.cat([self._logits(self._answers(part), len(part)).to(x.device) for part in parts])

    def _answers(self, x: Tensor) -> Any:
        if self.arrays is not None:
            return self._asked(x, self.arrays)
        told = []
        for arrays in (False,) if isinstance(self.ask, nn.Module) else (True, False):
            try:
                answers = self._asked(x, arrays)
            except Exception as error:  # what is asked has errors of its own
                told.append(_told(error))
            else:
                self.arrays = arrays
                return answers
        raise ValueError(
            f"{self.as_is} could not answer float images {tuple(x.shape)} in [0, 1]: "
            f"{', and as a tensor '.join(dict.fromkeys(told))}; wanted a function from images (B, C, H, W) "
            "to logits (B, classes) or labels (B,). Resize the images, or wrap it: lambda x: network(what it "
            "wants of x)"
        )

    def _asked(self, x: Tensor, arrays: bool) -> Any:
        return self.ask(x.float().cpu().numpy() if arrays else x)

    def _logits(self, answers: Any, count: int) -> Tensor:
        found = self._numbers(getattr(answers, "logits", answers))
        if found.shape == (count,) and bool((found.isnan() | (found == found.floor())).all()):
            self.labels_only = True
            return self._one_hot(found)
        if found.ndim != 2 or len(found) != count or found.shape[1] < 2:
            raise ValueError(
                f"{self.as_is} answers {_shown(found)} for {count} images; wanted logits ({count}, classes) "
                f"of two classes or more, or whole-number labels ({count},).{_remedy(found, count)}"
            )
        if self.classes not in (None, found.shape[1]):
            raise ValueError(
                f"{self.as_is} tells {found.shape[1]} classes, and {self.classes} were named; leave classes "
                "out, or give as many as it tells"
            )
        return found if found.is_floating_point() else found.float()

    def _one_hot(self, labels: Tensor) -> Tensor:
        classes = self.classes or self.hint
        if classes is None:
            raise ValueError(
                f"{self.as_is} answers labels only, which do not tell how many there are; give classes=10, "
                "or the names of the classes"
            )
        known = labels[~labels.isnan()]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0, 0)
        if not 0 <= low <= high < classes:
            raise ValueError(
                f"{self.as_is} answers labels from {low:g} to {high:g}, and there are {classes} classes; "
                f"wanted positions 0 to {classes - 1}: give the right classes=, or have it answer the place "
                "of each name in a list of them"
            )
        logits = nn.functional.one_hot(labels.nan_to_num().long(), classes).float()
        return logits.masked_fill(labels.isnan()[:, None], torch.nan)

    def _numbers(self, answers: Any) -> Tensor:
        if isinstance(answers, tuple | dict):
            raise ValueError(
                f"{self.as_is} answers a {type(answers).__name__} of {len(answers)} parts; wanted logits "
                "(B, classes) alone: lambda x: network(x)[…]"
            )
        if isinstance(answers, Tensor):
            return answers.detach() if answers.is_floating_point() else answers.detach().long()
        array = np.asarray(answers)
        if array.dtype.kind in "UO" and self.names is not None and array.ndim == 1:
            array = np.array([*self._places(array)])
        try:
            kind = np.int64 if array.dtype.kind in "biu" else np.float32
            return torch.from_numpy(np.array(array, dtype=kind))
        except (TypeError, ValueError):
            raise ValueError(
                f"{self.as_is} answers {type(answers).__name__} that hold no numbers, such as "
                f"{str(array.flat[0])[:60]!r}; wanted logits (B, classes), or for each image the place of "
                "its class in the list of all, 0 to K - 1, or its name: classes=[…] says their order"
            ) from None

    def _places(self, labels: Iterable[Any]) -> Iterable[int]:
        names = cast(tuple[str, ...], self.names)
        for label in map(str, labels):
            if label not in names:
                raise ValueError(
                    f"{self.as_is}: got the label {label[:60]!r}; wanted one of {', '.join(names[:20])}"
                )
            yield names.index(label)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        for part in ("_parameters", "_buffers"):
            made.__dict__[part] = copy.deepcopy(self.__dict__[part], memo)
        return made


def black_box(
    ask: Ask | Any, *, classes: int | Sequence[str] | None = None, name: str = "", batch: int = 1000
) -> Outside:
    """A network of anything that maps images to logits or labels: see `Outside`.

    `ask` is a function of numpy arrays, float32 (N, C, H, W) in [0, 1], or of such tensors, or an estimator
    with `predict`, which gets rows (N, C * H * W) as scikit-learn's do. `classes` is their number, or their
    names where it answers with names. Tables know it by `name` (default: that of the function) and by its
    answers to fixed images.
    """
    if callable(ask):
        kind = f"the black box {name or getattr(ask, '__name__', type(ask).__name__)}"
        return Outside(ask, kind=kind, identity=digest(kind), classes=classes, batch=batch)
    predict = getattr(ask, "predict", None)
    if not callable(predict):
        raise ValueError(
            f"black_box: got a {type(ask).__name__}, which cannot be called; wanted a module of torch, a "
            "function from images (B, C, H, W) to logits or labels, an estimator with predict, or a string "
            "that names a source"
        )
    kind = f"the estimator {name or type(ask).__name__}"
    rows: Ask = lambda images: predict(images.reshape(len(images), -1))  # noqa: E731
    return Outside(rows, kind=kind, identity=digest(kind), classes=classes, batch=batch)


def _shown(found: Tensor) -> str:
    return f"{tuple(found.shape)} of {str(found.dtype).removeprefix('torch.')}"


def _remedy(found: Tensor, count: int) -> str:
    if found.shape == (count, 1):
        return " Of one logit for two classes make both: lambda x: torch.cat([-network(x), network(x)], 1)"
    if found.shape == (count,):
        return f" Are these labels, such as {float(found[0]):g}? They are whole numbers"
    return ""


def _told(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:200]}"
