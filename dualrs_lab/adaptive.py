"""Adaptive smoothing: a mixing network looks at features of both networks and chooses the weight per image.

Bai, Anderson, Kim and Sojoudi 2024. f = log((1 - a(x)) softmax(g) + a(x) softmax(h)), a(x) in [low, high] by
an affine map of a sigmoid. Both networks are frozen; a head learns to tell clean images, which g answers
better, from attacked ones. The attacks it learns from are adaptive: they go through the whole and push a(x)
down. Certificates of a mix hold with the weight `low`, the least trust in h that any input can bring about.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dualrs_lab.adversarial import INNER, evaluating
from dualrs_lab.attacks import PGD, CrossEntropy, pgd
from dualrs_lab.data import Images
from dualrs_lab.mixing import mix_in_logs
from dualrs_lab.models import Body, Classifier, read_info, save_tensors
from dualrs_lab.runtime import describe
from dualrs_lab.smoothing import fingerprint
from dualrs_lab.tables import plain
from dualrs_lab.training import TrainConfig, settings, state_path, take_up, train

__all__ = [
    "HEADS",
    "AdaptiveMix",
    "Exposed",
    "MixingLoss",
    "PooledHead",
    "PublishedHead",
    "Pushed",
    "load_mixing",
    "make_head",
    "train_mixing",
]

Pair = tuple[Tensor, Tensor]  # a feature map of g and the one of h


class PooledHead(nn.Module):
    """Features of stages 1 and 2 of both networks -> (N,), from mean and deviation of each channel.

    `channels` are those of (stage 1, stage 2) of g, then of h. At most 1 M parameters for every network here.
    """

    def __init__(self, channels: Sequence[tuple[int, int]], width: int = 256) -> None:
        super().__init__()
        inputs = 2 * sum(first + second for first, second in channels)
        self.layers = nn.Sequential(
            nn.BatchNorm1d(inputs),
            nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, 1, bias=False),
        )  # fmt: skip

    def forward(self, first: Pair, second: Pair) -> Tensor:
        maps = [one.float().flatten(2) for one in (*first, *second)]
        pooled = [part for one in maps for part in (one.mean(2), (one.var(2, correction=0) + 1e-6).sqrt())]
        return cast(Tensor, self.layers(torch.cat(pooled, dim=1))[:, 0])


class PublishedHead(nn.Module):
    """The authors' mixing network V3: 44 M parameters beside two ResNet-18, twice as many as both have.

    A pre-activation ResNet-18 of double width whose first stage are the networks' own first stages, side by
    side; their second stages are added to its second one.
    """

    def __init__(self, channels: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        one, two = (sum(stage) for stage in zip(*channels, strict=True))
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(_PreActivated(inputs, outputs, 2), _PreActivated(outputs, outputs, 1))
            for inputs, outputs in ((one, two), (two, 2 * two), (2 * two, 4 * two))
        )
        self.last = nn.Linear(4 * two, 1, bias=False)

    def forward(self, first: Pair, second: Pair) -> Tensor:
        known = _side_by_side(second)
        x = F.adaptive_avg_pool2d(self.stage2(_side_by_side(first)), _size(known)) + known
        x = self.stage4(self.stage3(x))
        return cast(Tensor, self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))[:, 0])


class _PreActivated(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        return cast(Tensor, kept + self.conv2(F.relu(self.bn2(self.conv1(active)))))


def _side_by_side(maps: Pair) -> Tensor:
    # one may have other stages: at the size of the first
    size = _size(maps[0])
    return torch.cat([one if _size(one) == size else F.adaptive_avg_pool2d(one, size) for one in maps], dim=1)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


HEADS = {"pooled": PooledHead, "published": PublishedHead}


def make_head(
    kind: str, accurate: Classifier, robust: Classifier, *, shape: Sequence[int], seed: int
) -> nn.Module:
    """A fresh head of HEADS for images of `shape` (C, H, W); the global random state is untouched."""
    if kind not in HEADS:
        raise ValueError(f"make_head: got kind {kind!r}; wanted one of {', '.join(HEADS)}")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        channels = []
        for network in (accurate, robust):
            like = next(network.parameters())
            stages = (
                copy.deepcopy(network)
                .eval()
                .stages(torch.zeros(1, *shape, device=like.device, dtype=like.dtype))
            )
            channels.append((stages[0].shape[1], stages[1].shape[1]))
        return cast(nn.Module, HEADS[kind](channels))


class AdaptiveMix(nn.Module):
    """Images -> log-probabilities, with a weight of each image in [low, high] that `head` chooses.

    Both networks are copied and frozen, and stay in evaluation mode while the head is trained. The head's
    output is standardised over batches, then a = low + (high - low) sigmoid(2 u + 1): as published, training
    uses the whole of [0, 1], evaluation a part of it (`ranged`). `scales` multiply the logits of g and of h.
    """

    def __init__(
        self,
        accurate: Classifier,
        robust: Classifier,
        head: nn.Module,
        *,
        low: float = 0.0,
        high: float = 1.0,
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"AdaptiveMix: got weights from {low} to {high}; wanted 0 <= low <= high <= 1")
        self.accurate, self.robust = (
            copy.deepcopy(one).requires_grad_(False).eval() for one in (accurate, robust)
        )
        self.head, self.standard = head, nn.BatchNorm1d(1, affine=False)
        self.low, self.high, self.scales = low, high, scales
        self.train(False)

    @property
    def settings(self) -> dict[str, Any]:
        """What the mix depends on besides its tensors."""
        return {"head": type(self.head).__name__, "range": (self.low, self.high), "scales": self.scales}

    def train(self, mode: bool = True) -> "AdaptiveMix":
        """Mode of the head alone: the frozen networks always evaluate."""
        super().train(mode)
        self.accurate.eval()
        self.robust.eval()
        return self

    def ranged(self, low: float, high: float) -> "AdaptiveMix":
        """The same with other ends of the weight."""
        made = AdaptiveMix(
            self.accurate, self.robust, copy.deepcopy(self.head), low=low, high=high, scales=self.scales
        )
        made.standard.load_state_dict(self.standard.state_dict())
        return made.to(next(self.parameters()).device)

    def forward(self, x: Tensor) -> Tensor:
        return self.look(x)[0]

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (N, K), and the weight's logit (N,) before the range, from one pass of each."""
        (first, g), (second, h) = (_features(network, x) for network in (self.accurate, self.robust))
        u = self.head((first[0], second[0]), (first[1], second[1])).float()
        logit = 2 * self.standard(u[:, None])[:, 0] + 1
        return self._mixed(g.float(), h.float(), logit), logit

    def weights(self, x: Tensor) -> Tensor:
        """a(x), (N,)."""
        return self._trust(self.look(x)[1])[0].exp().clamp(self.low, self.high)

    def from_logits(self, x: Tensor, g: Tensor, h: Tensor) -> Tensor:
        """As `forward`, for images whose logits are known: the head's features are computed again."""
        return self._mixed(g, h, self.look(x)[1])

    @property
    def pushed(self) -> list[tuple[nn.Module, "Pushed"]]:
        """Adaptive attacks for `mix_evaluation`: a module and losses that also push the weight down."""
        exposed = Exposed(self).eval()
        return [(exposed, Pushed(share)) for share in (0.1, 0.3, 0.5)]

    def _trust(self, logit: Tensor) -> tuple[Tensor, Tensor]:
        # log a and log(1 - a), as a itself may round to an end, where the gradients of its logarithms are NaN
        span = self.high - self.low
        return _log_affine(self.low, span, logit), _log_affine(1 - self.high, span, -logit)

    def _mixed(self, g: Tensor, h: Tensor, logit: Tensor) -> Tensor:
        trust, rest = (part[:, None] for part in self._trust(logit))
        return mix_in_logs(self.scales[0] * g, self.scales[1] * h, trust, rest)


def _log_affine(base: float, span: float, logit: Tensor) -> Tensor:
    # log(base + span sigmoid(logit))
    start = torch.log(torch.full_like(logit, base))
    return torch.logaddexp(start, math.log(span) + F.logsigmoid(logit)) if span else start


def _features(network: Classifier, x: Tensor) -> tuple[list[Tensor], Tensor]:
    # the first two stages and the logits, from one pass
    stages = network.stages(x)
    pooled = F.adaptive_avg_pool2d(stages[-1], 1).flatten(1)
    return stages[:2], cast(Tensor, cast(Body, network.body).fc(pooled))


class Exposed(nn.Module):
    """An adaptive mix whose log-probabilities show its weight: plus -log sigmoid of the weight's logit.

    What is added is the same for all classes, so answers, margins and cross-entropy stay; since probabilities
    sum to 1, it can be read off as the log of the sum of exponentials, which `Pushed` does.
    """

    def __init__(self, mix: AdaptiveMix) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        out, logit = self.mix.look(x)
        return out + F.softplus(-logit)[:, None]


@dataclass(frozen=True)
class Pushed:
    """(1 - share) CE + share BCE(a(x), 1), of an `Exposed` mix: fool it, and make it trust g.

    `share` is one number or one for each image (N,).
    """

    share: float | Tensor

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return (1 - self.share) * CrossEntropy()(logits, y) + self.share * torch.logsumexp(logits, dim=1)


@dataclass(frozen=True, kw_only=True)
class MixingLoss:
    """bce BCE(a, attacked?) + ce CE(f, y) + product BCE CE, over the images and as many attacked ones.

    The attack, within a random 0.4 to 1.1 of `eps` for each image, goes through the whole mix; up to a share
    `push` of what it ascends is that the weight falls. The weights of the terms are the authors' for ResNets.
    """

    eps: float
    attack: PGD = INNER
    bce: float = 1.0
    ce: float = 0.5
    product: float = 0.1
    push: float = 0.4

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if not isinstance(model, AdaptiveMix):
            raise ValueError(f"MixingLoss: got a {type(model).__name__}; wanted an AdaptiveMix")
        share, reach = torch.rand((2, len(x)), generator=generator, device=x.device)
        attack = replace(self.attack, loss=Pushed(self.push * share))
        budget = self.eps * (0.4 + 0.7 * reach).view(-1, 1, 1, 1)
        with evaluating(model):
            attacked = pgd(Exposed(model).eval(), x, y, budget, attack=attack, generator=generator)
        out, logit = model.look(torch.cat([x, attacked]))
        target = torch.arange(2, device=x.device).repeat_interleave(len(x)).float()
        told = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
        wrong = F.nll_loss(out, y.repeat(2), reduction="none")
        return (self.bce * told + self.ce * wrong + self.product * told * wrong).mean()


def train_mixing(
    path: Path | str,
    mix: AdaptiveMix,
    images: Images,
    *,
    objective: MixingLoss,
    config: TrainConfig,
    replace: bool = False,
    progress: bool = True,
) -> tuple[AdaptiveMix, dict[str, Any]]:
    """`mix` with the head at `path`, trained now unless it is there with these very settings and networks.

    Only the head is kept (safetensors, and a json with settings, history, networks); training goes on where
    it was stopped. A head of other settings is refused with ValueError, or with `replace` kept under another
    name.
    """
    path, device = Path(path), next(mix.parameters()).device
    start = {"networks": _networks(mix), "head": fingerprint(mix.head), **mix.settings}
    made_by = plain(settings(config, objective, images) | {"start": start})
    if take_up("train_mixing", [path], made_by, replace=replace):
        return load_mixing(path, mix.accurate, mix.robust, device=device)
    state = state_path(path, made_by)
    history = train(mix, images, objective=objective, config=config, state=state, progress=progress)
    info = {
        **mix.settings,
        "networks": _networks(mix),
        "shape": list(images.shape),
        "training": made_by,
        "provenance": describe(device),
        "history": history.to_dict("records"),
    }
    save_tensors(path, nn.ModuleDict({"head": mix.head, "standard": mix.standard}), info)
    state.unlink(missing_ok=True)
    return load_mixing(path, mix.accurate, mix.robust, device=device)


def load_mixing(
    path: Path | str, accurate: Classifier, robust: Classifier, *, device: torch.device | str = "cpu"
) -> tuple[AdaptiveMix, dict[str, Any]]:
    """The mix with the head at `path`, in evaluation mode, and its json.

    Raises FileNotFoundError, or ValueError where the head was trained beside other networks.
    """
    info = read_info("load_mixing", Path(path))
    kinds = {kind.__name__: name for name, kind in HEADS.items()}
    head = make_head(kinds[info["head"]], accurate, robust, shape=info["shape"], seed=0)
    low, high = info["range"]
    mix = AdaptiveMix(accurate, robust, head, low=low, high=high, scales=tuple(info["scales"]))
    if _networks(mix) != info["networks"]:
        raise ValueError(f"load_mixing: {path} was trained beside other networks; wanted {info['networks']}")
    nn.ModuleDict({"head": mix.head, "standard": mix.standard}).load_state_dict(load_file(path))
    return mix.to(device).eval(), info


def _networks(mix: AdaptiveMix) -> list[Any]:
    return [fingerprint(mix.accurate), fingerprint(mix.robust)]
