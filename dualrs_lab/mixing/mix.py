"""The mix of an accurate network g and a robust network h, and the ways of mixing that led to it.

`weight` is a in f = log((1 - a) g + a h) over probabilities: 0 is g, 1 is h (Bai, Anderson and Sojoudi 2024).
Above 1/2, a class that h prefers by a large enough margin stays the answer whatever g says; `mixing.radii`
says how far. Everything is computed as logarithms of sums of exponentials: where a probability underflows,
the logarithm of a sum of probabilities has a gradient of 0 or NaN, and the mix looks robust because attacks
are blind.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.models.conduct import in_evaluation

__all__ = [
    "PUBLISHED",
    "Mix",
    "Scaling",
    "gradient_norms",
    "locally_biased",
    "mix_in_logs",
    "mix_logits",
    "worst_margin",
]


def mix_logits(accurate: Tensor, robust: Tensor, weight: float | Tensor) -> Tensor:
    """log((1 - a) softmax(accurate) + a softmax(robust)) of logits (…, N, K): log-probabilities.

    `weight` is a in [0, 1]: one number, or a tensor that broadcasts against (…, N, K), such as (N, 1) for a
    weight of each image, or (W, 1, 1) for W weights from one pair of forward passes. At 0 and 1 the result is
    the log-probabilities of one network, bit for bit. Raises ValueError for a weight outside [0, 1].
    """
    a = torch.as_tensor(weight, dtype=torch.promote_types(accurate.dtype, robust.dtype), device=robust.device)
    if not bool(((a >= 0) & (a <= 1)).all()):
        raise ValueError(f"mix_logits: got a weight {_shown(a)}; wanted [0, 1]: 0 is g, 1 is h")
    return mix_in_logs(accurate, robust, torch.log(a), torch.log1p(-a))


def mix_in_logs(accurate: Tensor, robust: Tensor, trust: Tensor, rest: Tensor) -> Tensor:
    """`mix_logits` with log a and log(1 - a), for weights so close to 0 or 1 that a itself would round."""
    g, h = F.log_softmax(accurate, dim=-1), F.log_softmax(robust, dim=-1)
    return torch.logaddexp(rest + g, trust + h)


def worst_margin(logits: Tensor) -> Tensor:
    """Largest probability less the second, (…, N): for h to decide, it must exceed (1 - a) / a."""
    first, second = F.softmax(logits, dim=-1).topk(2, dim=-1).values.unbind(-1)
    return first - second


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """R_i in (g_i + c R_i h_i) / (1 + c R_i), c = a / (1 - a): how the trust in h depends on the input.

    `by`: "one"; "own", the gradient norm of g_i; "top", that of g's largest output; "ratio", the norm of
    g_i's gradient over that of h_i's. `of`: "probabilities" or "logits". `dual`: 1 for linf budgets, 2 for
    l2. The published comparison chose "one" of "probabilities", which is the default of `Mix`.
    """

    by: str = "one"
    of: str = "probabilities"
    dual: float = 1

    def __post_init__(self) -> None:
        ways, spaces = ("one", "own", "top", "ratio"), ("probabilities", "logits")
        if self.by not in ways or self.of not in spaces or self.dual not in (1, 2):
            raise ValueError(f"Scaling: wanted by of {ways}, of of {spaces} and dual 1 or 2; got {self}")


PUBLISHED = {
    "R = 1": Scaling(),
    "R = own gradient": Scaling(by="own"),
    "R = largest gradient": Scaling(by="top"),
    "R = ratio of gradients": Scaling(by="ratio"),
    "R = 1 on logits": Scaling(of="logits"),
}
"""What Bai et al. 2024 compare (section 3 and figure 1)."""


class Mix(nn.Module):
    """Images (N, C, H, W) -> log-probabilities (N, K) of the mix, a drop-in for logits.

    Both networks are used as they are and keep their parameters; of one in training mode it is a copy in
    evaluation mode. `scales` multiply their logits first (a robust network that is unsure leaves the mix
    no margin). With a `scaling` other than the default, the output is the published quotient: its
    logarithm for probabilities, itself for logits.
    """

    def __init__(
        self,
        accurate: nn.Module,
        robust: nn.Module,
        weight: float,
        *,
        scales: tuple[float, float] = (1.0, 1.0),
        scaling: Scaling | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ValueError(f"Mix: got weight {weight}; wanted [0, 1]: 0 is the accurate network")
        self.accurate, self.robust = (in_evaluation("Mix", one) for one in (accurate, robust))
        self.weight = weight
        self.scales, self.scaling = scales, scaling or Scaling()
        self.eval()

    @property
    def settings(self) -> dict[str, Any]:
        """What the mix depends on besides the networks."""
        return {"weight": self.weight, "scales": self.scales, "scaling": asdict(self.scaling)}

    def forward(self, x: Tensor) -> Tensor:
        if self.scaling.by == "one":
            return self.from_logits(x, self.accurate(x).float(), self.robust(x).float())
        wide = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            g, h = self.accurate(x).float(), self.robust(x).float()
            trust = self._trust(x, self.scales[0] * g, self.scales[1] * h)
        mixed = self.combine(g, h, trust)
        return mixed if wide else mixed.detach()

    def from_logits(self, x: Tensor, g: Tensor, h: Tensor) -> Tensor:
        """The output for images whose logits (N, K) are known already, so that many mixes share them."""
        if self.scaling.by != "one":
            return cast(Tensor, self(x))
        return self.combine(g, h, torch.ones((), device=x.device))

    def combine(self, g: Tensor, h: Tensor, trust: Tensor) -> Tensor:
        """The mix of logits (N, K) with R (N, K), (N, 1) or one."""
        g, h = self.scales[0] * g, self.scales[1] * h
        if self.scaling.by == "one" and self.scaling.of == "probabilities":
            return mix_logits(g, h, self.weight)
        a = self.weight
        if self.scaling.of == "logits":
            return ((1 - a) * g + a * trust * h) / ((1 - a) + a * trust)
        scale = torch.log(trust.clamp(min=1e-30))
        ours, theirs = (torch.log(torch.tensor(share, device=g.device)) for share in (1 - a, a))
        whole = torch.logaddexp(ours, theirs + scale)
        return torch.logaddexp(ours + F.log_softmax(g, 1), theirs + scale + F.log_softmax(h, 1)) - whole

    def _trust(self, x: Tensor, g: Tensor, h: Tensor) -> Tensor:
        norm = self.scaling.dual
        ours, theirs = (self._outputs(logits) for logits in (g, h))
        if self.scaling.by == "top":
            return gradient_norms(ours.amax(1, keepdim=True), x, norm)
        own = gradient_norms(ours, x, norm)
        return own if self.scaling.by == "own" else own / gradient_norms(theirs, x, norm).clamp(min=1e-12)

    def _outputs(self, logits: Tensor) -> Tensor:
        return F.softmax(logits, dim=1) if self.scaling.of == "probabilities" else logits


def gradient_norms(outputs: Tensor, x: Tensor, norm: float) -> Tensor:
    """l1 or l2 norms (N, M) of the gradients of outputs (N, M) to the images x (N, …) that gave them.

    They can be differentiated again, as attacks on a mix with such a scaling require.
    """
    norms = []
    for column in outputs.unbind(1):
        (slope,) = torch.autograd.grad(column.sum(), x, create_graph=True)
        norms.append(torch.linalg.vector_norm(slope.flatten(1) + 1e-12, ord=norm, dim=1))
    return torch.stack(norms, dim=1)


def locally_biased(
    g: Callable[[Tensor], Tensor],
    oracle: Callable[[Tensor], Tensor],
    x: Tensor,
    strength: float,
    *,
    dual: float = 2,
) -> Tensor:
    """g(x) + strength * oracle(x) * |grad g(x)|, (N,): locally biased smoothing (Anderson and Sojoudi 2022).

    For two classes: the sign of g (N,) is the answer; the oracle says -1 or 1, for instance the label of the
    nearest example. Where g is steep, an attacker moves it easily, and the oracle counts for more; with
    infinite strength it answers alone. `dual` is the norm of the gradient, dual to that of the attack.
    """
    if strength < 0:
        raise ValueError(f"locally_biased: got strength {strength}; wanted 0, g alone, or more")
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        value = g(at)
        (slope,) = torch.autograd.grad(value.sum(), at)
    says, steep = oracle(x), torch.linalg.vector_norm(slope.flatten(1), ord=dual, dim=1)
    biased = says * steep if math.isinf(strength) else value.detach() + strength * says * steep
    return cast(Tensor, biased)


def _shown(values: Tensor) -> str:
    low, high = values.aminmax()
    return f"from {float(low):g} to {float(high):g}"
