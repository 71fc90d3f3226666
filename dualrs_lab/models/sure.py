"""Networks that vote only where they are sure, so that what they do not know does no harm.

A noisy copy on which the largest softmax probability is below a *confidence* s is a vote for no class. As a
function of the noisy copy that is a base classifier like any other, into the classes and silence: smoothing
and its certificates hold for it. An expert of a cascade that says nothing leaves the image to the others, see
`cascade.radii`.

One run of draws serves every confidence: votes are told apart by how many of several confidences their draw
fails, and `evidence.at_confidence` counts them by one.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dualrs_lab.models.suited import MadeFor

__all__ = ["Graded", "graded", "graded_each", "grading", "kinds_of"]


class Graded(nn.Module):
    """`model`, with logits (B, C), as a network that also says how sure it is: (B, C) -> (B, C (T + 1)).

    `confidences` s_1 < … < s_T lie in (0, 1). An input whose largest softmax probability (in float32) is
    below k of them has the largest output at C k + c, c being the class that `model` answers: outputs below C
    are answers that pass all confidences. Logits stand in their block as they are, in float32; what fills the
    others lies below the least of them, by about their own span, as checks of a network measure its answers
    by that. Confidences are part of what the network is known by: others are another classifier. Raises
    ValueError for other confidences, for a graded network, and for one that answers labels only.
    """

    made_for: MadeFor | None

    def __init__(self, model: nn.Module, confidences: Sequence[float]) -> None:
        super().__init__()
        self.confidences = tuple(map(float, confidences))
        ascending = all(a < b for a, b in zip(self.confidences, self.confidences[1:], strict=False))
        if not self.confidences or not ascending or not all(0 < s < 1 for s in self.confidences):
            raise ValueError(
                f"Graded: got confidences {self.confidences}; wanted one or more in (0, 1), ascending"
            )
        if any(isinstance(part, Graded) for part in model.modules()):
            raise ValueError("Graded: got a network that is graded already; wanted the one within it")
        if any(getattr(part, "labels_only", False) for part in model.modules()):
            raise ValueError(
                "Graded: got a network that answers labels only; wanted logits, which say how sure it is"
            )
        self.model = model
        self.info: dict[str, Any] = dict(getattr(model, "info", {}))
        self.made_for = getattr(model, "made_for", None)
        exact = torch.tensor(self.confidences, dtype=torch.float64).view(torch.int64)
        self.register_buffer("confidence_bits", exact)  # whole numbers, which no cast to bfloat16 rounds
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        logits = cast(Tensor, self.model(x)).float()
        most = logits.softmax(1).amax(1, keepdim=True)
        failed = torch.stack([most < s for s in self.confidences]).sum(0)
        least = logits.amin(1, keepdim=True)
        floor = least - least.abs() - 1
        blocks = [torch.where(failed == k, logits, floor) for k in range(len(self.confidences) + 1)]
        return torch.cat(blocks, 1)


def grading(model: nn.Module) -> tuple[float, ...]:
    """The confidences by which the votes of a network are told apart; none of a plain one."""
    return model.confidences if isinstance(model, Graded) else ()


def graded(model: nn.Module, classes: int) -> dict[str, Any]:
    """What an identity says of how votes are told apart: nothing of those of a plain network."""
    found = grading(model)
    return {"sure": {"confidences": list(found), "answers": classes}} if found else {}


def graded_each(models: Sequence[nn.Module]) -> dict[str, Any]:
    """What the identity of a system says of its experts: the confidences of each; nothing of plain ones."""
    each = [list(grading(model)) for model in models]
    return {"sure": each} if any(each) else {}


def kinds_of(model: nn.Module, classes: int) -> int:
    """How many kinds of votes a network gives about images of so many classes."""
    return classes * (len(grading(model)) + 1)
