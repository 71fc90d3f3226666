"""Attacks on a network: inputs within a budget that it answers differently.

A budget is one number, one per image (N, 1, 1, 1), or one per pixel (N, C or 1, H, W), in the [0, 1] unit. In
linf a pixel moves by its budget at most. In l2 the allowed set is the ellipsoid sum (delta / budget)^2 <= 1,
which for one number is the usual ball; a pixel with budget 0 stays. Results are in [0, 1] as well.

`pgd` is projected gradient ascent (Madry et al. 2018) on a loss, `APGD` its form with adaptive steps; `mma`
ascends the margins of the most likely wrong classes one by one (the minimum-margin attack, Gao et al. 2022);
`auto_attack` is the ensemble of Croce and Hein (2020) in its authors' code. Gradients that vanish make a
network look robust: that is an error here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dualrs_lab.runtime import fold_seed

__all__ = [
    "APGD",
    "L2",
    "LINF",
    "PGD",
    "STANDARD",
    "CrossEntropy",
    "Divergence",
    "Linf",
    "Margin",
    "Norm",
    "Walk",
    "auto_attack",
    "check_evaluating",
    "check_range",
    "margins",
    "mma",
    "pgd",
]

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
"""What AutoAttack's standard version consists of."""


class Norm(Protocol):
    """Which set a budget allows, and the direction of steepest ascent in it."""

    def step(self, slope: Tensor, budget: Tensor, length: float | Tensor) -> Tensor: ...
    def project(self, delta: Tensor, budget: Tensor) -> Tensor: ...
    def start(self, x: Tensor, budget: Tensor, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class Linf:
    """|delta| <= budget, pixel by pixel."""

    def step(self, slope: Tensor, budget: Tensor, length: float | Tensor) -> Tensor:
        return length * slope.sign()

    def project(self, delta: Tensor, budget: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(delta, -budget), budget)

    def start(self, x: Tensor, budget: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (2 * uniform - 1) * budget


@dataclass(frozen=True)
class L2:
    """Sum (delta / budget)^2 <= 1."""

    def step(self, slope: Tensor, budget: Tensor, length: float | Tensor) -> Tensor:
        relative = budget / budget.amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
        scaled = relative * slope
        return length * relative * scaled / _norm(scaled).clamp(min=1e-30)

    def project(self, delta: Tensor, budget: Tensor) -> Tensor:
        inside = delta.where(budget > 0, 0)
        reach = _norm(inside / budget.where(budget > 0, 1))
        return inside / reach.clamp(min=1)

    def start(self, x: Tensor, budget: Tensor, generator: torch.Generator) -> Tensor:
        # uniform in the ellipsoid
        direction = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        reach = torch.rand((len(x), 1, 1, 1), generator=generator, device=x.device, dtype=x.dtype)
        return budget * direction / _norm(direction) * reach ** (1 / x[0].numel())


LINF = Linf()


def _norm(x: Tensor) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True).sqrt()


Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits (N, K) and what they are compared with, mostly labels (N,) -> what is ascended, (N,)."""


@dataclass(frozen=True)
class CrossEntropy:
    """Of the labels."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")


@dataclass(frozen=True)
class Margin:
    """Largest wrong logit minus that of the label: above 0, the answer is wrong. Never saturates."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return margins(logits, y)


@dataclass(frozen=True)
class Divergence:
    """KL from the probabilities of reference logits (N, K) to those here: what TRADES ascends."""

    def __call__(self, logits: Tensor, reference: Tensor) -> Tensor:
        p, q = F.log_softmax(reference, dim=1), F.log_softmax(logits, dim=1)
        return F.kl_div(q, p, reduction="none", log_target=True).sum(1)


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Largest logit of a class other than y (N,), minus the one of y: (N,)."""
    return _wrong(logits, y).amax(1) - logits.gather(1, y[:, None])[:, 0]


def _wrong(logits: Tensor, y: Tensor) -> Tensor:
    # (N, K), without those of the label
    return logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -torch.inf)


@dataclass(frozen=True, kw_only=True)
class PGD:
    """How `pgd` ascends: the defaults are PGD-20 for 8/255 in linf."""

    steps: int = 20
    step: float = 2 / 255  # in linf of each pixel, in l2 of the whole step (of the pixel with most budget)
    restarts: int = 1
    start: float = 1.0  # random start within this share of the budget; 0: at the image
    norm: Norm = LINF
    loss: Loss = CrossEntropy()
    best: bool = True  # the best input of all steps; False: the last, one forward pass fewer (for training)
    blind: float = 0.0  # share of images that may get no gradient at all before it is an error

    def __post_init__(self) -> None:
        if self.steps < 1 or self.step <= 0 or self.restarts < 1 or min(self.start, self.blind) < 0:
            raise ValueError(
                f"{type(self).__name__}: wanted steps and restarts >= 1, step > 0, start and blind >= 0; "
                f"got {self}"
            )

    def walk(self, x: Tensor, budget: Tensor) -> "Walk":
        """One ascent from a start."""
        return Walk(self, x, budget)


class Walk:
    """The points of one ascent of `PGD`: where loss (N,) and slope at a point lead next."""

    def __init__(self, attack: PGD, x: Tensor, budget: Tensor) -> None:
        self.attack, self.x, self.budget = attack, x, budget

    def next(self, point: Tensor, loss: Tensor, slope: Tensor) -> Tensor:
        return self.reach(point, slope, self.attack.step)

    def reach(self, point: Tensor, slope: Tensor, length: float | Tensor) -> Tensor:
        """The point one step along the slope, within the budget."""
        return self.inside(point - self.x + self.attack.norm.step(slope, self.budget, length))

    def inside(self, delta: Tensor) -> Tensor:
        return (self.x + self.attack.norm.project(delta, self.budget)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class APGD(PGD):
    """PGD that adapts its step, image by image (Croce and Hein 2020, algorithm 1).

    It moves with momentum. At checkpoints that come ever closer, an image on which the ascent has stalled
    gets half its step and goes on from its best point. `step` is the first one, in the paper twice the
    budget.
    """

    momentum: float = 0.25  # share of the last move that is added
    enough: float = 0.75  # share of the steps since the last check that must have raised the loss

    def walk(self, x: Tensor, budget: Tensor) -> Walk:
        return _Adapting(self, x, budget)


class _Adapting(Walk):
    attack: APGD

    def __init__(self, attack: APGD, x: Tensor, budget: Tensor) -> None:
        super().__init__(attack, x, budget)
        none = torch.zeros(len(x), device=x.device)
        self.taken, self.checks = 0, _checks(attack.steps)
        self.length = _wide(none + attack.step)
        self.rises, self.last = none, none - torch.inf  # since the last check; at the last point
        self.best, self.checked, self.halved = none - torch.inf, none - torch.inf, none.bool()
        self.top = self.slope = self.before = x

    def next(self, point: Tensor, loss: Tensor, slope: Tensor) -> Tensor:
        better = loss > self.best
        self.best = torch.maximum(loss, self.best)
        self.top, self.slope = (
            torch.where(_wide(better), new, old) for new, old in ((point, self.top), (slope, self.slope))
        )
        self.rises, self.last = self.rises + (loss > self.last), loss
        if self.taken in self.checks:
            point, slope = self._checked(point, slope)
        moved = self.reach(point, slope, self.length)
        if self.taken:
            keep = self.attack.momentum
            moved = self.inside((1 - keep) * (moved - point) + keep * (point - self.before) + point - self.x)
        self.taken, self.before = self.taken + 1, point
        return moved

    def _checked(self, point: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        since = self.checks[self.taken]
        stalled = self.rises < self.attack.enough * since
        stalled |= ~self.halved & (self.checked >= self.best)
        self.rises, self.checked, self.halved = torch.zeros_like(self.rises), self.best, stalled
        back = _wide(stalled)
        self.length = torch.where(back, self.length / 2, self.length)
        return torch.where(back, self.top, point), torch.where(back, self.slope, slope)


def _checks(steps: int) -> dict[int, int]:
    # step at which progress is checked -> steps since the previous check
    found, last, share, gap = dict[int, int](), 0, 0.22, 0.22
    while (at := math.ceil(round(share * steps, 6))) < steps:
        if at > last:
            found[at] = at - last
        last, gap = at, max(gap - 0.03, 0.06)
        share += gap
    return found


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    budget: float | Tensor,
    *,
    attack: PGD,
    generator: torch.Generator,
) -> Tensor:
    """Inputs within `budget` of x (N, C, H, W) in [0, 1] that the loss against y ranks highest.

    With `best`, y are labels (N,); over all steps and restarts, an input that is answered wrongly is
    preferred to one that is not, then the higher loss counts. Otherwise y is what the loss takes, and the
    last step counts.

    Raises ValueError where x is not float in [0, 1], the network is in training mode, a budget is negative or
    does not fit, a gradient is not finite, or more than a share `blind` of the images gets no gradient.
    """
    _check("pgd", model, x, y)
    budget = _budget("pgd", budget, x)
    reached = _Reached.nothing(x)
    moved, finite = (torch.full((len(x),), value, device=x.device) for value in (False, True))
    for _ in range(attack.restarts):
        delta = (
            attack.start * attack.norm.start(x, budget, generator) if attack.start else torch.zeros_like(x)
        )
        point, walk = (x + delta).clamp(0, 1), attack.walk(x, budget)
        for _ in range(attack.steps):
            point.requires_grad_()
            logits = model(point).float()
            loss = attack.loss(logits, y)
            (slope,) = torch.autograd.grad(loss.sum(), point)
            point = point.detach()
            if attack.best:
                reached = reached.better(point, logits.detach(), loss.detach(), y)
            moved |= slope.flatten(1).any(1)
            finite &= slope.isfinite().flatten(1).all(1)
            point = walk.next(point, loss.detach(), slope)
        if attack.best:
            with torch.no_grad():
                logits = model(point).float()
                reached = reached.better(point, logits, attack.loss(logits, y), y)
    _check_finite("pgd", finite)
    _check_moved("pgd", moved | reached.fooled | ~(budget > 0).flatten(1).any(1), attack)
    return reached.point if attack.best else point


def mma(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    budget: float | Tensor,
    *,
    attack: PGD,
    generator: torch.Generator,
    targets: int = 3,
) -> Tensor:
    """As `pgd`, but ascends z_t - z_y for each of the `targets` most likely wrong classes t at x in turn.

    Returns the input with the largest margin over all targets, whatever `attack.loss` says.
    """
    _check("mma", model, x, y)
    with torch.no_grad():
        logits = model(x).float()
    if not 1 <= targets < logits.shape[1]:
        raise ValueError(f"mma: got {targets} targets for {logits.shape[1]} classes; wanted 1 to all others")
    likely = _wrong(logits, y).topk(targets, dim=1).indices
    found, score = x, margins(logits, y)
    for target in likely.unbind(1):

        def towards(logits: Tensor, y: Tensor, target: Tensor = target) -> Tensor:
            return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]

        point = pgd(model, x, y, budget, attack=replace(attack, loss=towards), generator=generator)
        with torch.no_grad():
            value = margins(model(point).float(), y)
        found = torch.where(_wide(value > score), point, found)
        score = torch.maximum(value, score)
    return found


def auto_attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    seed: int,
    norm: Norm = LINF,
    attacks: Sequence[str] = STANDARD,
    batch: int = 250,
) -> Tensor:
    """AutoAttack in the code of its authors, the package `pyautoattack`; by default its standard version.

    Returns inputs like `pgd`: x itself for images that withstood all `attacks`. The budget is one number. The
    global random state is left as it was.

    Raises ModuleNotFoundError without the extra `attacks`, ValueError for fewer than 4 classes, which the
    targeted loss needs, and otherwise as `pgd`.
    """
    _check("auto_attack", model, x, y)
    _budget("auto_attack", eps, x)
    try:
        from pyautoattack import AutoAttack
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "auto_attack: needs pyautoattack; install it with pip install 'dualrs-lab[attacks]'"
        ) from error
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    if classes < 4 or isinstance(norm, Linf) == isinstance(norm, L2):
        raise ValueError(
            f"auto_attack: got {classes} classes and {norm}; wanted 4 or more, and Linf() or L2()"
        )
    unknown = {*attacks} - {*STANDARD, "apgd-dlr", "fab"}
    if unknown or not attacks:
        raise ValueError(
            f"auto_attack: got attacks {tuple(attacks)}; wanted some of {STANDARD}, apgd-dlr, fab"
        )
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        ensemble = AutoAttack(
            # flat and back: the package takes views of gradients, which must not be channels last
            lambda some: model(some.flatten(1).unflatten(1, x.shape[1:])).float(),
            norm="Linf" if isinstance(norm, Linf) else "L2",
            eps=eps,
            seed=fold_seed(seed, "autoattack") % 2**31,
            device=x.device,
            version="standard",
        )
        ensemble.attacks_to_run = list(attacks)
        ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = min(9, classes - 1)
        found, _ = ensemble.run_standard_evaluation(x.contiguous(), y, batch_size=batch)
    return torch.as_tensor(found)


@dataclass(frozen=True)
class _Reached:
    """The best input of each image so far: one that fools the network first, then by loss."""

    point: Tensor
    fooled: Tensor
    loss: Tensor

    @classmethod
    def nothing(cls, x: Tensor) -> "_Reached":
        none = torch.zeros(len(x), device=x.device)
        return cls(x, none.bool(), none - torch.inf)

    def better(self, point: Tensor, logits: Tensor, loss: Tensor, y: Tensor) -> "_Reached":
        fooled = margins(logits, y) > 0
        better = (fooled & ~self.fooled) | ((fooled == self.fooled) & (loss > self.loss))
        return _Reached(
            torch.where(_wide(better), point, self.point),
            fooled | self.fooled,
            torch.where(better, loss, self.loss),
        )


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _check(call: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
    check_evaluating(call, model)
    if not x.is_floating_point() or x.ndim != 4:
        raise ValueError(
            f"{call}: got x {x.dtype} {tuple(x.shape)}; wanted float images (N, C, H, W) in [0, 1], "
            "see data.to_float"
        )
    if len(y) != len(x) or y.device != x.device:
        raise ValueError(
            f"{call}: got y {tuple(y.shape)} on {y.device} for {len(x)} images on {x.device}; wanted one each"
        )
    check_range(call, x)


def check_evaluating(call: str, *models: nn.Module) -> None:
    """ValueError where a network, or a part of one, is in training mode."""
    if any(module.training for model in models for module in model.modules()):
        raise ValueError(f"{call}: the network is in training mode; call .eval() first")


def check_range(call: str, x: Tensor) -> None:
    """ValueError where images leave [0, 1], as NaN does."""
    low, high = x.aminmax() if len(x) else (x.sum(), x.sum())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{call}: got x from {float(low):g} to {float(high):g}; wanted [0, 1], normalisation is the "
            "network's first layer"
        )


def _budget(call: str, budget: float | Tensor, x: Tensor) -> Tensor:
    # (N, C or 1, H or 1, W or 1)
    given = torch.as_tensor(budget, device=x.device, dtype=x.dtype)
    shaped = given.view(1, 1, 1, 1) if given.ndim == 0 else given
    sizes = zip(shaped.shape, x.shape, strict=False)
    fits = shaped.ndim == 4 and all(size in (1, wanted) for size, wanted in sizes)
    if not fits or not bool((shaped >= 0).all()):
        raise ValueError(
            f"{call}: got a budget {tuple(given.shape)} for images {tuple(x.shape)}; wanted one number, or "
            "one per image or pixel as (N, 1 or C, 1 or H, 1 or W), none negative"
        )
    return shaped.expand(len(x), -1, -1, -1)


def _check_finite(call: str, finite: Tensor) -> None:
    if not finite.all():
        broken = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"{call}: gradients of images {broken[:10]} are not finite, and where they lead means nothing; "
            "look for a logarithm or a quotient of 0 in the network, and mix probabilities in the log domain"
        )


def _check_moved(call: str, moved: Tensor, attack: PGD) -> None:
    if len(moved) and float((~moved).float().mean()) > attack.blind:
        still = (~moved).nonzero().flatten().tolist()
        raise ValueError(
            f"{call}: {len(still)} of {len(moved)} images got no gradient at any step (images {still[:10]}): "
            "the network is saturated or not differentiable, and robustness measured so means nothing. Try "
            "loss=Margin(), which does not saturate"
        )
