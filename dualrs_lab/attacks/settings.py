"""The settings of attacks that need no torch, so that the command line can show them at once."""

from dataclasses import dataclass

from dualrs_lab.settings import BUDGET, COUNT, SEED, Range, check_settings, required, setting

__all__ = ["Effort"]


FEW = Range(whole=True, least=1, most=100_000)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """The budget of an attacker in the unit of [0, 1] pixels, and how hard PGD and MMA try.

    Raises ValueError, with the name of the class, for numbers that make no sense.
    """

    eps: float = required("the attacker's budget in [0, 1] units, such as 8/255", BUDGET)
    seed: int = required("of everything drawn", SEED)
    steps: int = setting(20, "of an ascent", FEW)
    restarts: int = setting(1, "of PGD-20 and MMA", FEW)
    targets: int = setting(3, "classes that MMA tries", FEW)
    batch: int = setting(250, "images that are attacked together", COUNT)

    def __post_init__(self) -> None:
        check_settings(self)
