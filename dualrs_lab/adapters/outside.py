"""What answers outside torch, as a network: functions, estimators, graphs of other libraries, endpoints.

Asked with numpy arrays, float32 (N, C, H, W) in [0, 1], they give logits (N, classes) or labels (N,). Labels
are all that smoothing asks for; nothing has gradients.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualrs_lab.files import digest

__all__ = ["Outside", "black_box"]


Ask = Callable[[NDArray[np.float32]], Any]


class Outside(nn.Module):
    """Images `(B, C, H, W)` -> logits `(B, classes)` of what `ask` asks, at most `batch` images at a time.

    Labels become logits of 0 and 1, so `classes` must be known for them: a number, or the names that `ask`
    answers with. Two such networks are one if `identity` is equal and they answer fixed images alike: there
    are no parameters to compare. Copies share what they ask.
    """

    identity: Tensor

    def __init__(
        self,
        ask: Ask,
        *,
        kind: str,
        identity: str,
        classes: int | Sequence[str] | None = None,
        batch: int = 1000,
    ) -> None:
        super().__init__()
        self.ask, self.batch = ask, batch
        self.as_is = self.no_gradients = kind
        self.names = None if classes is None or isinstance(classes, int) else tuple(map(str, classes))
        self.classes = len(self.names) if self.names is not None else cast(int | None, classes)
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)  # `.to` moves it: answers go there
        self.register_buffer("identity", torch.tensor([*bytes.fromhex(identity)], dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        images = np.ascontiguousarray(x.detach().float().cpu().numpy())
        parts = (images[start : start + self.batch] for start in range(0, len(images), self.batch))
        return torch.cat([self._logits(self.ask(part), len(part)) for part in parts]).to(x.device)

    def _logits(self, answers: Any, count: int) -> Tensor:
        found = np.asarray(answers.detach().cpu() if isinstance(answers, Tensor) else answers)
        if found.ndim not in (1, 2) or len(found) != count or found.dtype.kind not in "iufUO":
            raise ValueError(
                f"{self.as_is}: got answers {found.dtype} {found.shape} to {count} images; wanted logits "
                f"({count}, classes) or labels ({count},)"
            )
        if found.ndim == 2:
            return torch.from_numpy(self._numbers(found))
        return self._one_hot(found)

    def _one_hot(self, labels: NDArray[Any]) -> Tensor:
        if self.classes is None:
            raise ValueError(
                f"{self.as_is}: it answers with labels, which do not tell how many there are; say classes"
            )
        if self.names is not None and labels.dtype.kind in "UO":
            labels = np.array([_place(self.as_is, self.names, str(label)) for label in labels])
        numbers = self._numbers(labels)
        known = ~np.isnan(numbers)
        wrong = numbers[known & ~((numbers >= 0) & (numbers < self.classes) & (numbers == np.floor(numbers)))]
        if len(wrong):
            raise ValueError(
                f"{self.as_is}: got the label {wrong[0]:g}; wanted one of 0 to {self.classes - 1}"
            )
        logits = torch.zeros(len(labels), self.classes)
        places = torch.from_numpy(np.where(known, numbers, 0)).long()
        logits[torch.arange(len(labels)), places] = 1
        logits[torch.from_numpy(~known)] = torch.nan
        return logits

    def _numbers(self, found: NDArray[Any]) -> NDArray[np.float32]:
        try:
            return np.array(found, dtype=np.float32)
        except (TypeError, ValueError):
            raise ValueError(
                f"{self.as_is}: got answers that are no numbers, such as {str(found.flat[0])[:60]!r}; "
                "wanted logits or labels, or say the names of the classes in their order"
            ) from None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        for part in ("_parameters", "_buffers"):
            held = getattr(self, part)
            made.__dict__[part] = {name: _copied(tensor) for name, tensor in held.items()}
        return made


def black_box(
    ask: Ask | Any, *, classes: int | Sequence[str] | None = None, name: str = "", batch: int = 1000
) -> Outside:
    """A network of anything that maps images to logits or labels: see `Outside`.

    `ask` is a function of a numpy array, float32 (N, C, H, W) in [0, 1], or an estimator with `predict`,
    which gets rows (N, C * H * W) as scikit-learn's do. `classes` is their number, or their names where it
    answers with names. Tables know it by `name` (default: that of the function) and by its answers to fixed
    images.
    """
    if not callable(ask):
        if not callable(getattr(ask, "predict", None)):
            raise ValueError(f"black_box: got a {type(ask).__name__}; wanted a function, or what has predict")
        kind = f"the estimator {name or type(ask).__name__}"
        predict = ask.predict
        function: Ask = lambda images: predict(images.reshape(len(images), -1))  # noqa: E731
    else:
        kind = f"the black box {name or getattr(ask, '__name__', type(ask).__name__)}"
        function = ask
    return Outside(function, kind=kind, identity=digest(kind), classes=classes, batch=batch)


def _place(kind: str, names: tuple[str, ...], label: str) -> int:
    if label not in names:
        raise ValueError(f"{kind}: got the label {label[:60]!r}; wanted one of {', '.join(names[:20])}")
    return names.index(label)


def _copied(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    copied = tensor.detach().clone()
    return nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied
