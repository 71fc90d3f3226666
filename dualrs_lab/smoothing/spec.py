"""How a smoothed classifier is sampled: what a certificate depends on besides network and image.

`Sampling` holds what all methods share: how many draws, at which level, from which seed, through which copy
of the network.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from dualrs_lab.data.images import Images
from dualrs_lab.evidence.radii import rule_levels
from dualrs_lab.models.checkpoints import fingerprint
from dualrs_lab.models.conduct import as_is
from dualrs_lab.models.sure import graded
from dualrs_lab.settings import RULE, setting
from dualrs_lab.smoothing.noise import Noise
from dualrs_lab.smoothing.settings import Draws, FastPath, Meant
from dualrs_lab.smoothing.stopping import AllDraws, Stopping
from dualrs_lab.store import plain

__all__ = ["Ruled", "Sampling", "Spec", "as_rule", "identify"]


@dataclass(frozen=True, kw_only=True)
class Sampling(Draws):
    """How much is sampled and how: what a certificate depends on besides networks, image and noise.

    Raises ValueError as `Draws`.
    """

    dtype: torch.dtype = torch.float32  # of the noisy images, and of the networks that a table freezes
    fast: FastPath = FastPath()  # other steps of freezing them  # noqa: RUF009

    @property
    def per_image(self) -> int:
        """Noisy copies of an image that a network sees, about: what decides whether compiling pays."""
        return self.n

    def identity(self) -> dict[str, Any]:
        """The part of a table's identity that these settings are: rows depend on nothing else in here."""
        return {name: getattr(self, name) for name in (*self.draws, "alpha", "seed")}

    def alpha_split(self) -> dict[str, float]:
        """How alpha is split over bounds, for the record of a table; empty where the identity says it."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Ruled(Sampling):
    """Sampling for radii that follow from votes by a rule, fixed before any draw."""

    rule: str = setting(RULE.names[0], "how a radius follows from the votes", RULE)

    def identity(self) -> dict[str, Any]:
        """As `Sampling.identity`; tables from before there was a choice are Cohen's."""
        return super().identity() | ({} if self.rule == "cohen" else {"rule": self.rule})


Some = TypeVar("Some", bound=Sampling)


def as_allowed(spec: Some, networks: Iterable[nn.Module]) -> Some:
    """`spec`, or in float32 and without steps where one of the networks runs `as_is`.

    What a black box is shown would otherwise be rounded to the 16 bits that this machine is fast in.
    """
    if not any(map(as_is, networks)):
        return spec
    return replace(spec, dtype=torch.float32, fast=FastPath.plain())


def as_rule(rule: Any) -> dict[str, Any]:
    """A rule, a dataclass, by its name and the settings that are given: for the identity of a table."""
    told = {name: value for name, value in asdict(rule).items() if value is not None}
    return {"rule": type(rule).__name__, **told}


_MOST_EARLY = 1000  # paired draws of an image that may stop early, unless told


@dataclass(frozen=True, kw_only=True)
class Spec(Meant, Ruled):
    """How to smooth and how much to sample; everything a certificate depends on besides network and image.

    `n0` draws guess the class, `n` others bound its probability. On the first `paired` of these, the original
    votes as well where it is to be certified, see `evidence.radii`; no image stops before them. Raises
    ValueError for more pairs than draws, and for pairs without an original.
    """

    noise: Noise
    stop: Stopping = AllDraws()  # how many of the n draws an image gets  # noqa: RUF009

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.certify == "copy":
            if self.paired is not None:
                raise ValueError(
                    f"Spec: got paired {self.paired} with certify='copy'; wanted certify='original' with it, "
                    "as only the original votes on paired draws"
                )
            return
        if self.paired is not None and self.paired > self.n:
            raise ValueError(
                f"Spec: got paired {self.paired} of n {self.n} draws; wanted at most n, as pairs are of the "
                "counted draws"
            )

    @property
    def pairs(self) -> int:
        """Draws of each image on which the original votes as well, 0 for a copy.

        A quarter of n unless told, near the best number for copies that are 4 to 20 times as quick, see
        `evidence.radii`; where images may stop early, a thousand at most, as none stops before.
        """
        if self.certify == "copy":
            return 0
        quarter = max(1, self.n // 4)
        usual = quarter if self.stop == AllDraws() else min(quarter, _MOST_EARLY)
        return usual if self.paired is None else self.paired

    @property
    def per_image(self) -> int:
        """Noisy copies of an image, at most."""
        return self.stop.selection(self.n0) + self.n

    def identity(self) -> dict[str, Any]:
        """As `Sampling.identity`."""
        noise = {"noise": type(self.noise).__name__, "sigma": self.noise.sigma}
        meant = {} if self.certify == "copy" else {"certify": self.certify, "paired": self.pairs}
        return super().identity() | noise | {"stop": as_rule(self.stop)} | meant

    def alpha_split(self) -> dict[str, float]:
        """As `Sampling.alpha_split`."""
        return rule_levels(self.rule, self.alpha)


def identify(model: nn.Module, images: Images, spec: Spec) -> dict[str, Any]:
    """What the rows of a table depend on: all of it must be the same for rows to go into one table."""
    own = {"method": "rs", "model": fingerprint(model), "images": images.fingerprint()}
    return plain(own | graded(model, len(images.classes)) | spec.identity())
