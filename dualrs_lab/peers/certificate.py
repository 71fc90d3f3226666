"""A certificate under a noise level of the image: its votes, and what the level follows from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from dualrs_lab.evidence.certificate import COLUMNS, Certificate
from dualrs_lab.evidence.claim import ABSTAIN, answered
from dualrs_lab.evidence.radii import ruled_bounds
from dualrs_lab.peers.radii import smooth_sigma_radius
from dualrs_lab.peers.smooth_sigma import SmoothSigma

__all__ = ["SMOOTH_COLUMNS", "SmoothSigmaCertificate"]


_OWN = ("base", "rate", "centre", "k", "distance", "dims")


SMOOTH_COLUMNS = (*COLUMNS, *_OWN)
"""Columns of a table of `certify_smooth_table`: those of one smoothed classifier, and whence its sigma."""


@dataclass(frozen=True, kw_only=True)
class SmoothSigmaCertificate(Certificate):
    """With probability >= 1 - alpha the classifier with noise sigma(x) answers `predict` within `radius`.

    `sigma` is that of the image, base exp(rate (distance - centre)), see `SmoothSigma`; `dims` is the number
    of its pixels and channels, on which the radius depends, see `peers.radii`.
    """

    method: str = "smooth-sigma"
    base: float
    rate: float
    centre: float
    k: int
    distance: float
    dims: int

    counts: ClassVar[tuple[str, ...]] = (*Certificate.counts, "k", "dims")

    @classmethod
    def under(cls, plain: Certificate, smooth: SmoothSigma, distance: float, dims: int) -> Self:
        """What the votes of `plain`, drawn under sigma(x), say where sigma is not the same everywhere."""
        said = {each.name: getattr(plain, each.name) for each in fields(plain)} | asdict(smooth)
        said |= {"method": "smooth-sigma", "predict": ABSTAIN, "radius": 0.0}
        made = cls(**said, distance=float(distance), dims=int(dims))
        object.__setattr__(made, "radius", made.recomputed())
        object.__setattr__(made, "predict", int(answered(made.guess, made.radius)))
        made.__post_init__()
        return made

    @property
    def smooth(self) -> SmoothSigma:
        """How the level depends on the image."""
        return SmoothSigma(base=self.base, rate=self.rate, centre=self.centre, k=self.k)

    def recomputed(self) -> float:
        """The radius that the votes give, in as many dimensions, if sigma changes at this rate."""
        low, high = ruled_bounds(*self.counted(), **self.how())  # type: ignore[arg-type]
        return float(smooth_sigma_radius(low, high, self.sigma, self.rate, self.dims))

    def evidence(self) -> dict[str, object]:
        """As `Claim.evidence`, with what sigma follows from."""
        return super().evidence() | {name: getattr(self, name) for name in _OWN}

    @classmethod
    def _fields(cls, row: Mapping[str, Any]) -> dict[str, Any]:
        cls._said(row, _OWN)
        floats = ("base", "rate", "centre", "distance")
        return super()._fields(row) | {name: float(row[name]) for name in floats}

    def _want_evidence(self) -> None:
        super()._want_evidence()
        level = float(self.smooth.at(self.distance))
        self._want(
            self.distance >= 0 and self.dims >= 1, f"a distance >= 0, got {self.distance}, {self.dims}"
        )
        self._want(
            abs(self.sigma - level) <= 1e-9 * level, f"sigma {level} of its distance, got {self.sigma}"
        )
