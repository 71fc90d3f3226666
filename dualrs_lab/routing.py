"""Training the variance estimator: labels, objectives, and what a router loses.

Labels are the radii that each expert certifies on training images, estimated from few draws and mapped to the
number of draws of the certification. `SoftTarget` is the published objective (Sun, Mao and Vechev 2026): soft
cross-entropy to the radii and consistency under noise. `Stakes` and `RoutedRadius` are ours: the first
weights each decision of a cut by the radius at stake, the second raises the routed certificate itself,
min_j max(r_j, R_j), with entry radii r_j from soft votes. `CascadeRadius` trains the experts of a cascade,
which needs no router.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as change
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dualrs_lab.bounds import lower_bound, rs_radius
from dualrs_lab.data import Images, take_waves
from dualrs_lab.dual_certificates import DualCertificate
from dualrs_lab.fastpath import FastPath, FrozenVoter, freeze, settle
from dualrs_lab.files import replace_bytes, replace_json
from dualrs_lab.models import Classifier, load_checkpoint, save_checkpoint
from dualrs_lab.runtime import describe
from dualrs_lab.sampling import GridNoise, NoiseBlocks, count_votes
from dualrs_lab.smoothing import fingerprint
from dualrs_lab.soft import draw_in, soft_cascade_radius, soft_entry_radii
from dualrs_lab.store import plain, take_up
from dualrs_lab.training import TrainConfig, settings, state_path, train

__all__ = [
    "CascadeRadius",
    "Pool",
    "RoutedRadius",
    "SoftTarget",
    "Stakes",
    "count_images",
    "label_votes",
    "mapped_radii",
    "numbered",
    "regret",
    "regret_table",
    "train_router",
    "train_together",
]

Floats = NDArray[np.float64]
_WAVE = 1000  # images at a time


def label_votes(
    experts: Sequence[nn.Module],
    images: Images,
    path: Path | str,
    *,
    sigmas: Sequence[float],
    n: int = 100,
    seed: int,
    dtype: torch.dtype = torch.float32,
    fast: FastPath = FastPath(),  # noqa: B008  # frozen
    replace: bool = False,
) -> Tensor:
    """Votes int32 (N, K) for the label of each image, of `n` draws by each expert; cached in a file.

    The experts are frozen on the device of the first one. A file at `path` that was made with other settings
    is refused with ValueError, or with `replace` kept under another name. Its json tells how it was made.
    """
    path = Path(path)
    if not experts or len(experts) != len(sigmas):
        raise ValueError(
            f"label_votes: got {len(experts)} experts and {len(sigmas)} sigmas; wanted one each (one network "
            "may stand for several experts)"
        )
    identity = plain(
        {
            "experts": [fingerprint(model) for model in experts],
            "images": images.fingerprint(),
            "sigmas": list(sigmas),
            "n": n,
            "seed": seed,
            "dtype": str(dtype).removeprefix("torch."),
        }
    )
    if take_up("label_votes", [path], identity, replace=replace):
        return load_file(path)["votes"]
    device = next(experts[0].parameters()).device
    fast = settle(fast, experts[0], images.shape, inputs=n * len(images))
    voters = [
        freeze(
            model,
            GridNoise(sigma),
            images.shape,
            classes=len(images.classes),
            device=device,
            dtype=dtype,
            fast=fast,
        )
        for model, sigma in zip(experts, sigmas, strict=True)
    ]
    each = [count_images(v, images, n=n, seed=seed, stream="labels", device=device) for v in voters]
    counts = np.stack(each, axis=1)
    own = images.labels.cpu().numpy()[:, None, None]
    votes = torch.from_numpy(np.take_along_axis(counts, own, axis=2)[..., 0]).to(torch.int32)
    record = {"identity": identity, "fast": [voter.steps for voter in voters]}
    replace_json(path.with_suffix(".json"), record | {"provenance": describe(device)})
    replace_bytes(path, save({"votes": votes}))  # last: there is no file without its json
    return votes


def count_images(
    voter: FrozenVoter, images: Images, *, n: int, seed: int, stream: str, device: torch.device
) -> NDArray[np.int64]:
    """Votes (N, classes) about every image, of `n` draws from a stream of noise of its own."""
    blocks = NoiseBlocks(voter.noise, images.shape, seed=seed, stream=stream, device=device)
    waves = take_waves(images, range(len(images)), _WAVE, device)
    return np.concatenate([count_votes(voter, x, blocks, n=n, classes=voter.classes) for x, *_ in waves])


def mapped_radii(votes: Tensor, *, n: int, draws: int, alpha: float, sigmas: Sequence[float]) -> Floats:
    """Radii (N, K) that `draws` draws at level `alpha` would certify with the share of `votes` (N, K) of n.

    The share is (k + 1/2) / (n + 1), so that n of n does not stand for certainty. Without the mapping no
    radius at n = 100 exceeds 1.5 sigma, which would push the labels towards large sigmas.
    """
    share = (votes.numpy() + 0.5) / (n + 1)
    return np.asarray(rs_radius(lower_bound(np.floor(share * draws), draws, alpha), np.asarray(sigmas)))


def numbered(images: Images) -> Images:
    """The images, each with its own number as label, by which objectives of this module look things up."""
    numbers = torch.arange(len(images), device=images.labels.device)
    return change(images, labels=numbers, classes=tuple(map(str, range(len(images)))))


class Pool(nn.Module):
    """Networks that are trained together: the cuts of a router, or the experts of a cascade.

    A cut has logits (B, 2) for the answers "at most k" (class 0) and "more than k".
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)


def train_router(
    path: Path | str,
    make: Callable[[int], Classifier],
    images: Images,
    *,
    objective: "Stakes | RoutedRadius",
    config: TrainConfig,
    device: torch.device,
    replace: bool = False,
    progress: bool = True,
) -> list[Classifier]:
    """The cuts of a router, from their checkpoints `path` + "_cut1", … or trained now on `images`.

    `images` are `numbered`; everything else is as in `train_together`.
    """
    if len(images) != len(objective.radii):
        raise ValueError(
            f"train_router: got {len(images)} images and radii for {len(objective.radii)}; wanted `numbered` "
            "images, and the radii of these"
        )
    return train_together(
        [f"{path}_cut{k + 1}.safetensors" for k in range(len(objective.sigmas))],
        make,
        images,
        objective=objective,
        config=config,
        device=device,
        replace=replace,
        progress=progress,
    )


def train_together(
    paths: Sequence[Path | str],
    make: Callable[[int], Classifier],
    images: Images,
    *,
    objective: "Stakes | RoutedRadius | CascadeRadius",
    config: TrainConfig,
    device: torch.device,
    replace: bool = False,
    progress: bool = True,
) -> list[Classifier]:
    """The networks of a `Pool`, from their checkpoints at `paths` or trained now.

    `make(k)` builds network k = 0, …, from nothing or from another one (`models.with_head`). All are trained
    at once; interrupted training goes on where it was. Checkpoints with other settings, or that began from
    other weights, raise ValueError or, with `replace`, are kept under another name with a warning. Nothing is
    ever overwritten.
    """
    members = [make(k).to(device) for k in range(len(objective.sigmas))]
    begun = {"start": [fingerprint(member) for member in members]}
    made_by = plain(settings(config, objective, images) | begun)
    files = [Path(path) for path in paths]
    if len(take_up("train_together", files, made_by, key="training", replace=replace)) == len(files):
        return [load_checkpoint(file, device=device)[0] for file in files]
    state = state_path(files[0], made_by)
    history = train(Pool(members), images, objective=objective, config=config, state=state, progress=progress)
    for file, member, sigma in zip(files, members, objective.sigmas, strict=True):
        save_checkpoint(
            file,
            member,
            sigma=sigma,
            training=made_by,
            history=history.to_dict("records"),
            seconds=float(history["seconds"].sum()),
            provenance=describe(device),
        )
    state.unlink(missing_ok=True)  # only now: a kill between two checkpoints loses nothing
    return [load_checkpoint(file, device=device)[0] for file in files]


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
            logits = cut(_noisy_copies(x, sigma, self.draws, generator)).float()
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
            logits = cut(_noisy_copies(x, sigma, self.draws, generator)).float()
            yes.append(torch.softmax(logits, dim=1)[:, 0].view(self.draws, len(x)).mean(dim=0))
        entry, t = soft_entry_radii(draw_in(torch.stack(yes, dim=1)), self.sigmas), self.temperature
        own = self.radii.to(entry)[y]
        lacks = own.amax(dim=1, keepdim=True) - own
        either = t * torch.logaddexp(entry / t, own / t) + self.margin * lacks * entry.clamp(max=0)
        return (t * torch.logsumexp(-either / t, dim=1)).mean()


@dataclass(frozen=True, kw_only=True)
class CascadeRadius:
    """Raises the mean certified radius of a cascade of experts (see `cascades`), from soft votes.

    The experts, in a `Pool` and in the order in which they are asked, are trained together: each learns to
    certify what reaches it, and to stay silent where a later one does better. `accuracy` weights the
    cross-entropy of all experts under their own noise, which trades large radii for accuracy. Radii below 0
    have a slope within about `temperature`, which also softens minimum and maximum.
    """

    sigmas: tuple[float, ...]
    accuracy: float = 0.2
    draws: int = 4
    temperature: float = 0.05

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        p, cost = [], x.new_zeros(())
        for expert, sigma in zip(cast(Pool, model).members, self.sigmas, strict=True):
            logits = expert(_noisy_copies(x, sigma, self.draws, generator)).float()
            cost = cost + F.cross_entropy(logits, y.repeat(self.draws))
            p.append(torch.softmax(logits, dim=1).view(self.draws, len(x), -1).mean(dim=0))
        radius = soft_cascade_radius(torch.stack(p, dim=1), y, self.sigmas, self.temperature)
        gained = self.temperature * F.softplus(radius / self.temperature)
        return self.accuracy * cost - gained.mean()


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
        logits = model(_noisy_copies(x, self.sigma, self.draws, generator)).float()
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


def _noisy_copies(x: Tensor, sigma: float, draws: int, generator: torch.Generator) -> Tensor:
    # (draws * B, C, H, W), all images of a draw together
    copies = x.repeat(draws, 1, 1, 1)
    return copies + sigma * torch.randn(copies.shape, generator=generator, device=x.device, dtype=x.dtype)


def regret(entry: Floats, experts: Floats, top: NDArray[np.int64], sigmas: Sequence[float]) -> pd.DataFrame:
    """What the router costs each image, from entry radii and expert radii (N, K) and the choice (N,).

    `regret`: the best expert radius less that of the chosen one; `bottleneck`: the radius of constancy less
    that of the chosen expert (< 0: the estimator limits the published rule); `sigma`: the choice.
    """
    rows = np.arange(len(top))
    others = np.where(np.arange(entry.shape[1]) == top[:, None], np.inf, entry)
    chosen = experts[rows, top]
    return pd.DataFrame(
        {
            "sigma": np.asarray(sigmas)[top],
            "regret": experts.max(axis=1) - chosen,
            "bottleneck": others.min(axis=1) - chosen,
        }
    )


def regret_table(dual: pd.DataFrame, singles: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    """`regret` for each row of a table of `certify_dual_table`, from its experts' own tables by sigma."""
    found = [DualCertificate.from_row({str(k): v for k, v in row.items()}) for row in dual.to_dict("records")]
    own = [table.set_index("idx").loc[dual["idx"]] for table in singles.values()]
    reach = np.stack([np.where(table["correct"] == 1, table["radius"], 0.0) for table in own], axis=1)
    entry = np.stack([one.routes.entry for one in found])
    return regret(entry, reach, np.array([one.top for one in found]), list(singles))
