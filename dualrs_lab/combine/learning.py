"""What a combiner is learnt for, and how hard it is tried. Loads at once, as the command line's help must."""

from dataclasses import dataclass

from dualrs_lab.settings import (
    ALPHA,
    COUNT,
    LEVEL,
    SEED,
    SHARE,
    check_settings,
    check_worth,
    required,
    setting,
)

__all__ = ["Learning"]


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What a combiner is learnt for, and how hard it is tried.

    `weights` say what an image is worth that is certified at each of `radii`: the dial between accuracy and
    large radii. Raises ValueError for settings out of their range, and for radii or weights that do not fit.
    """

    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    weights: tuple[float, ...] = ()
    terms: int = setting(16, "terms of the lattice", COUNT)
    starts: int = setting(4, "searches, of which the best is kept", COUNT)
    changes: int = setting(100_000, "changes that each search tries", COUNT)
    held_out: float = setting(0.25, "share of the images that chooses between starts", SHARE)
    draws: int = setting(10_000, "of the certification that is learnt for", COUNT)
    alpha: float = setting(ALPHA, "failure probability of its certificates", LEVEL)
    seed: int = required("of searches and held-out images", SEED)

    def __post_init__(self) -> None:
        check_settings(self)
        given = self.weights or (1.0,) * len(self.radii)
        check_worth("Learning", self.radii, given)
        object.__setattr__(self, "weights", tuple(map(float, given)))
