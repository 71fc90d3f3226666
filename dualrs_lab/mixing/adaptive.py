"""Adaptive smoothing: a small network looks at features of both networks and chooses the weight per image.

Bai, Anderson, Kim and Sojoudi 2024. f = log((1 - a(x)) softmax(g) + a(x) softmax(h)), a(x) in [low, high] by
an affine map of a sigmoid. Both networks are frozen; a head learns to tell clean images, which g answers
better, from attacked ones. The attacks it learns from are adaptive: they go through the whole mix and push
a(x) down. Certificates of a mix hold with the weight `low`, the least trust in h that an input can cause.
"""

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dualrs_lab.attacks.checks import evaluating
from dualrs_lab.attacks.norms import CrossEntropy
from dualrs_lab.attacks.pgd import PGD, pgd
from dualrs_lab.data.images import Images
from dualrs_lab.mixing.heads import HEADS, look_into, make_head
from dualrs_lab.mixing.mix import mix_in_logs
from dualrs_lab.models.checkpoints import fingerprint, read_info, save_tensors
from dualrs_lab.models.conduct import duplicate
from dualrs_lab.models.suited import suited
from dualrs_lab.runtime import describe
from dualrs_lab.store import making, plain
from dualrs_lab.training.adversarial import INNER
from dualrs_lab.training.checkpoints import state_path
from dualrs_lab.training.config import TrainConfig
from dualrs_lab.training.loop import settings, train

__all__ = ["AdaptiveMix", "Exposed", "MixingLoss", "Pushed", "load_mixing", "train_mixing"]


class AdaptiveMix(nn.Module):
    """Images -> log-probabilities, with a weight in [low, high] that `head` chooses for each image.

    Its networks are those of ours, or of `load_network` where these show their feature maps (`look`).
    Both networks are copied and frozen, and stay in evaluation mode while the head is trained. The head's
    output is standardised over batches, then a = low + (high - low) sigmoid(2 u + 1): as published, training
    uses the whole of [0, 1], evaluation a part of it (`ranged`). `scales` multiply the logits of g and of h.
    """

    def __init__(
        self,
        accurate: nn.Module,
        robust: nn.Module,
        head: nn.Module,
        *,
        low: float = 0.0,
        high: float = 1.0,
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"AdaptiveMix: got weights from {low} to {high}; wanted 0 <= low <= high <= 1")
        self.accurate, self.robust = (duplicate(one).requires_grad_(False) for one in (accurate, robust))
        self.head, self.standard = head, nn.BatchNorm1d(1, affine=False)
        self.low, self.high, self.scales = low, high, scales
        self.train(False)

    @property
    def settings(self) -> dict[str, Any]:
        """What the mix depends on besides its tensors."""
        return {"head": type(self.head).__name__, "range": (self.low, self.high), "scales": self.scales}

    def train(self, mode: bool = True) -> "AdaptiveMix":
        """Set the mode of the head alone: the frozen networks stay in evaluation mode."""
        super().train(mode)
        self.accurate.eval()
        self.robust.eval()
        return self

    def ranged(self, low: float, high: float) -> "AdaptiveMix":
        """The same mix with another range of the weight."""
        made = AdaptiveMix(
            self.accurate, self.robust, copy.deepcopy(self.head), low=low, high=high, scales=self.scales
        )
        made.standard.load_state_dict(self.standard.state_dict())
        return made.to(next(self.parameters()).device)

    def forward(self, x: Tensor) -> Tensor:
        return self.look(x)[0]

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (N, K) and the weight's logit (N,) before the range; one pass of each network."""
        (first, g), (second, h) = (look_into(network, x) for network in (self.accurate, self.robust))
        u = self.head((first[0], second[0]), (first[1], second[1])).float()
        logit = 2 * self.standard(u[:, None])[:, 0] + 1
        return self._mixed(g.float(), h.float(), logit), logit

    def weights(self, x: Tensor) -> Tensor:
        """a(x), (N,)."""
        return self._trust(self.look(x)[1])[0].exp().clamp(self.low, self.high)

    def from_logits(self, x: Tensor, g: Tensor, h: Tensor) -> Tensor:
        """As `forward`, for images whose logits are known; the head's features are computed again."""
        return self._mixed(g, h, self.look(x)[1])

    @property
    def pushed(self) -> list[tuple[nn.Module, "Pushed"]]:
        """Adaptive attacks for `mixing.evaluate`: a module and losses that also push the weight down."""
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


class Exposed(nn.Module):
    """An adaptive mix whose output shows its weight: -log sigmoid of the weight's logit is added to it.

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

    The attack goes through the whole mix, with a budget of 0.4 to 1.1 times `eps`, drawn for each image; in
    the loss that it ascends, a random share of at most `push` rewards a falling weight. The weights of the
    terms are the authors' for ResNets.
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
    """`mix` with the head at `path`, trained now unless it is there with these settings and networks.

    Only the head is kept (safetensors, and a json with settings, history, networks); training goes on where
    it was stopped. A head with other settings is refused with ValueError or, with `replace`, kept under
    another name.
    """
    path, device = Path(path), next(mix.parameters()).device
    suited("train_mixing", mix, images)
    start = {"networks": _networks(mix), "head": fingerprint(mix.head), **mix.settings}
    made_by = plain(settings(config, objective, images) | {"start": start})
    with making("train_mixing", [path], made_by, key="training", replace=replace) as there:
        if there:
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
    path: Path | str, accurate: nn.Module, robust: nn.Module, *, device: torch.device | str = "cpu"
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
