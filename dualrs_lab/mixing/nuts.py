"""MixedNUTS: a mix that needs no training, only logits that are kept anyway.

(Bai, Zhou, Patel and Sojoudi 2024.) A robust network is surer of right answers under attack than of wrong
ones on clean images. A curve on its logits widens that gap; g answers with all its weight on one class, and
gives way exactly where h's margin exceeds (1 - a) / a. A grid search on the margins of held-out images
chooses curve and weight.
"""

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.mixing.mix import mix_logits, worst_margin

__all__ = ["Curve", "CurveFit", "NutsMix", "fit_nuts"]


TOP = 250  # logits that are standardised over, as published: not the tail of ImageNet's thousand


@dataclass(frozen=True)
class Curve:
    """Logits (…, K) of h, standardised, then scale * |v|^power with the sign of v = GELU(z + shift)."""

    scale: float = 1.0
    shift: float = 0.0
    power: float = 1.0

    def __call__(self, logits: Tensor) -> Tensor:
        v = F.gelu(_standardised(logits) + self.shift)
        return self.scale * v.sign() * (v.abs() + 1e-12) ** self.power


def _standardised(logits: Tensor) -> Tensor:
    best = logits.topk(min(TOP, logits.shape[-1]), dim=-1).values
    mean, std = best.mean(-1, keepdim=True), best.std(-1, correction=0, keepdim=True)
    return (logits - mean) / (std + 1e-5)


class CurveFit(NamedTuple):
    """What `fit_nuts` found: the curve, the weight of h, and the two shares that the choice rests on."""

    curve: Curve
    weight: float
    kept: float  # of h's right answers under attack, those that g cannot overrule
    lost: float  # of h's wrong answers on clean images, those that g cannot correct


def fit_nuts(
    clean: Tensor,
    attacked: Tensor,
    labels: Tensor,
    *,
    keep: float = 0.985,
    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0),
    shifts: tuple[float, ...] = (-2.0, -1.5, -1.1, -0.7, -0.4, -0.1, 0.2, 0.5),
    powers: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0),
) -> CurveFit:
    """The curve and weight that let g correct most of h's clean errors, at a share `keep` of its robustness.

    `clean` and `attacked` are logits (N, K) of h for the same held-out images with `labels` (N,), as they are
    and under the strongest attack at hand. For each curve the weight is set so that a share `keep` of the
    answers that are right under attack stay right, with a margin of at least (1 - a) / a. Of curves that lose
    equally many corrections, the one that leaves g the most weight is taken.

    Raises ValueError where the shapes differ, or no image is right under attack, or none is wrong as it is.
    """
    if (
        clean.shape != attacked.shape
        or clean.ndim != 2
        or labels.shape != clean.shape[:1]
        or not 0 < keep < 1
    ):
        raise ValueError(
            f"fit_nuts: got clean {tuple(clean.shape)}, attacked {tuple(attacked.shape)}, labels "
            f"{tuple(labels.shape)} and keep {keep}; wanted logits (N, K) twice, labels (N,), keep in (0, 1)"
        )
    robust, errs = attacked.argmax(1) == labels, clean.argmax(1) != labels
    right, wrong = attacked[robust].double(), clean[errs].double()
    if not len(right) or not len(wrong):
        raise ValueError(
            f"fit_nuts: {len(right)} of {len(labels)} images are right under attack and {len(wrong)} wrong "
            "as they are; wanted some of both: take more images"
        )
    best = None
    for scale, shift, power in product(scales, shifts, powers):
        curve = Curve(scale, shift, power)
        ahead = _ahead(curve(right), labels[robust])
        cutoff = float(ahead.quantile(1 - keep, interpolation="lower"))
        if cutoff <= 0:  # the curve itself makes right answers wrong
            continue
        weight, bent = 1 / (1 + cutoff), curve(wrong)
        stays = (bent.argmax(1) != labels[errs]) & (worst_margin(bent) >= cutoff)
        fit = CurveFit(curve, weight, float((ahead >= cutoff).double().mean()), float(stays.double().mean()))
        if best is None or (fit.lost, fit.weight) < (best.lost, best.weight):
            best = fit
    if best is None:
        raise ValueError(
            "fit_nuts: no curve leaves h a margin; is it a robust network, and its logits as asked?"
        )
    return best


def _ahead(logits: Tensor, labels: Tensor) -> Tensor:
    # probability of the label less that of the best other class
    p = F.softmax(logits, dim=1)
    own = F.one_hot(labels, p.shape[1]).bool()
    return p[own] - p.masked_fill(own, 0).amax(1)


class NutsMix(nn.Module):
    """log((1 - a) one-hot(g) + a softmax(curve(h))); finite, but blind to g: attack `surrogate` instead."""

    def __init__(self, accurate: nn.Module, robust: nn.Module, curve: Curve, weight: float) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ValueError(f"NutsMix: got weight {weight}; wanted [0, 1]: 0 is the accurate network")
        self.accurate, self.robust, self.curve, self.weight = accurate, robust, curve, weight
        self.eval()

    @property
    def settings(self) -> dict[str, Any]:
        """What the mix depends on besides the networks."""
        return {"weight": self.weight, "curve": asdict(self.curve)}

    @property
    def surrogate(self) -> nn.Module:
        """A smooth stand-in: softmax(g), and 90 % of h's raw with 10 % of its curved probabilities."""
        return _Surrogate(self).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.from_logits(x, self.accurate(x).float(), self.robust(x).float())

    def from_logits(self, x: Tensor, g: Tensor, h: Tensor) -> Tensor:
        """As `forward`, for images whose logits are known."""
        sure = torch.zeros_like(g).scatter(1, g.argmax(1, keepdim=True), 1e4)
        return mix_logits(sure, self.curve(h), self.weight)


class _Surrogate(nn.Module):
    def __init__(self, mix: NutsMix) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        g, h = self.mix.accurate(x).float(), self.mix.robust(x).float()
        return mix_logits(g, mix_logits(h, self.mix.curve(h), 0.1), 0.5)
