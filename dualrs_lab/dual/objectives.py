"""What a router is trained for: the right choices, or the routed radius itself.

`SoftTarget` is the published objective (Sun, Mao and Vechev 2026): soft cross-entropy to the radii and
consistency under noise. `Stakes` and `RoutedRadius` are ours: the first weights each decision of a cut by the
radius at stake, the second raises the routed certificate itself, min_j max(r_j, R_j), with entry radii r_j
from soft votes. Where `dual.radii` has 0, soft entry radii are negative and say how far beyond it one is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.dual.choice import Cuts, Estimator, Plurality
from dualrs_lab.smoothing.soft import draw_in
from dualrs_lab.training.objectives import noisy_copies
from dualrs_lab.training.together import Pool

__all__ = ["RoutedRadius", "SoftTarget", "Stakes", "soft_choice_radii", "soft_entry_radii"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stakes:
    """Each cut decides its own question, weighted by the radius at stake: with this, a router begins.

    Cut k answers "at most k" where the best of the first experts has a larger radius than the best of the
    others. Its cross-entropy, on `draws` noisy copies of its own, is weighted by the difference. This is
    cost-sensitive classification, which has no constant router to fall into. `radii` (N, K) are those of the
    experts, by the number of the image; `sigmas` (K - 1,) the noise of each cut.
    """

    radii: Tensor
    sigmas: tuple[float, ...]
    draws: int = 2

    def __post_init__(self) -> None:
        _check_radii("Stakes", self.radii, self.sigmas)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        radii, loss = self.radii.to(x)[y], x.new_zeros(())
        for k, (cut, sigma) in enumerate(zip(cast(Pool, model).members, self.sigmas, strict=True)):
            gain = radii[:, : k + 1].amax(dim=1) - radii[:, k + 1 :].amax(dim=1)
            logits = cut(noisy_copies(x, sigma, self.draws, generator)).float()
            wanted = (gain < 0).long().repeat(self.draws)  # class 0 is "at most k"
            each = F.cross_entropy(logits, wanted, reduction="none")
            loss = loss + (gain.abs().repeat(self.draws) * each).mean()
        return loss


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedRadius:
    """Raises the mean routed radius of the cuts of a `Pool`, from soft votes of `draws` noisy copies.

    The entry radii come from the mean probability of each cut, moved a little away from 0 and 1; minimum and
    maximum are softened by `temperature`, so that every cut that could be binding learns. `radii` (N, K) are
    those of the experts, by the number of the image; `sigmas` (K - 1,) the noise of each cut.

    The routed radius is flat where a losing expert is chosen with certainty: its entry radius is far below
    what it certifies. `margin` adds a slope there: that many times the radius that the chosen expert lacks
    compared with the best one, so none where all are equal. Without it, training from nothing ends at a
    constant router, on digits and CIFAR-10 alike.
    """

    radii: Tensor
    sigmas: tuple[float, ...]
    draws: int = 3
    temperature: float = 0.1
    margin: float = 1.0  # 0: the routed radius itself; 1 leads out of wrong choices that are certain

    def __post_init__(self) -> None:
        _check_radii("RoutedRadius", self.radii, self.sigmas)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        yes = []
        for cut, sigma in zip(cast(Pool, model).members, self.sigmas, strict=True):
            logits = cut(noisy_copies(x, sigma, self.draws, generator)).float()
            yes.append(torch.softmax(logits, dim=1)[:, 0].view(self.draws, len(x)).mean(dim=0))
        entry, t = soft_entry_radii(draw_in(torch.stack(yes, dim=1)), self.sigmas), self.temperature
        own = self.radii.to(entry)[y]
        lacks = own.amax(dim=1, keepdim=True) - own
        either = t * torch.logaddexp(entry / t, own / t) + self.margin * lacks * entry.clamp(max=0)
        return (t * torch.logsumexp(-either / t, dim=1)).mean()


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftTarget:
    """The published objective, for an estimator with a class per expert (Sun, Mao and Vechev 2026).

    Soft cross-entropy to softmax(radii), with images weighted by the inverse share of their best sigma, plus
    consistency of the predictions across `draws` noisy copies (Jeong & Shin 2020), weighted by the radius at
    stake: that of the expert which the mean prediction chooses. Means are taken in the log domain, where a
    probability of 0 gives no NaN gradient. Images without any radius should be left out beforehand.
    """

    radii: Tensor  # (N, K), by the number of the image
    sigma: float  # noise of the estimator
    strength: float = 40.0
    entropy: float = 0.5
    draws: int = 2

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        radii = self.radii.to(x)
        logits = model(noisy_copies(x, self.sigma, self.draws, generator)).float()
        log_p = F.log_softmax(logits, dim=1).view(self.draws, len(x), -1)
        target = torch.softmax(radii[y], dim=1)
        soft = -(target * log_p).sum(-1).mean(dim=0)
        log_mean = torch.logsumexp(log_p, dim=0) - math.log(self.draws)
        mean = log_mean.exp()
        divergence = (mean * (log_mean - log_p)).sum(-1).mean(dim=0)
        spread = -(mean * log_mean).sum(-1)
        stake = radii[y].gather(1, mean.argmax(dim=1, keepdim=True)).squeeze(1)
        best = radii.argmax(dim=1)
        share = torch.bincount(best, minlength=radii.shape[1]) / len(best)
        weight = 1 / share[best[y]]
        return (weight * (soft + stake * (self.strength * divergence + self.entropy * spread))).mean()


def _check_radii(call: str, radii: Tensor, sigmas: Sequence[float]) -> None:
    if radii.ndim != 2 or not 0 < len(sigmas) == radii.shape[1] - 1:
        raise ValueError(
            f"{call}: got radii {tuple(radii.shape)} and {len(sigmas)} sigmas; wanted (N, K) and one for "
            "each of K - 1 cuts"
        )


def soft_entry_radii(probabilities: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Entry radii (B, K) from probabilities (B, K - 1) of "at most k", below 0 where the expert is chosen.

    As in `dual.radii`, but without the maximum with 0, which would leave the chosen expert no gradient.
    """
    reach = torch.special.ndtri(probabilities) * probabilities.new_tensor(list(sigmas))
    earlier = torch.cummax(reach, dim=1).values
    first, last = -reach[:, :1], earlier[:, -1:]
    return torch.cat([first, torch.maximum(earlier[:, :-1], -reach[:, 1:]), last], dim=1)


def soft_choice_radii(estimator: Estimator, probabilities: Sequence[Tensor]) -> Tensor:
    """Entry radii (B, K) from the mean probabilities (B, C) of each stream of `estimator`."""
    drawn = [draw_in(p) for p in probabilities]
    if isinstance(estimator, Cuts):
        return soft_entry_radii(torch.stack([p[:, 0] for p in drawn], dim=1), estimator.sigmas)
    p = drawn[0]
    if p.shape[1] == 1:
        return torch.full_like(p, -torch.inf)
    if isinstance(estimator, Plurality):
        ahead: Tensor = torch.special.ndtri(_rivals(p)) - torch.special.ndtri(p)
        return estimator.sigma / 2 * ahead
    at_most = torch.cumsum(p, dim=1)[:, :-1] / p.sum(dim=1, keepdim=True)
    return soft_entry_radii(at_most, [estimator.sigma] * at_most.shape[1])


def _rivals(p: Tensor) -> Tensor:
    # (B, K): the largest of the others
    leading = p.topk(2, dim=1).values
    best, second = leading[:, :1], leading[:, 1:]
    return torch.where(p == best, second, best)
