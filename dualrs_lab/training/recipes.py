"""Recipes for networks that will be smoothed, by name: an objective with its published settings at each σ."""

from collections.abc import Callable

from dualrs_lab.training.certified import AttackedNoise, CatRs, Macer, OwnRadius, SmoothAdversarial
from dualrs_lab.training.easiness import EasyImages
from dualrs_lab.training.objectives import Consistency, Gaussian, Objective, Standard

__all__ = ["RECIPES", "for_noise"]


def _consistency(sigma: float) -> Consistency:
    return Consistency(sigma=sigma, strength=20.0 if sigma <= 0.25 else 10.0)


def _smoothadv(sigma: float) -> SmoothAdversarial:
    return SmoothAdversarial(sigma=sigma, eps=1.0 if sigma <= 0.5 else 2.0, draws=2, steps=2)


def _smoothadv_consistency(sigma: float) -> SmoothAdversarial:
    strength = _consistency(sigma).strength / 2
    return SmoothAdversarial(sigma=sigma, eps=2 * sigma, draws=2, steps=1, strength=strength)


def _cat_rs(sigma: float) -> CatRs:
    return CatRs(sigma=sigma, strength=2 * sigma, eps=1.0, draws=4, steps=4)


def _macer(sigma: float) -> Macer:
    return Macer(sigma=sigma, strength=4.0 if sigma == 0.5 else 12.0, draws=16)


def _attacked_noise(sigma: float) -> AttackedNoise:
    step = 0.25 if sigma <= 0.5 else 0.5
    return AttackedNoise(sigma=sigma, step=step, draws=4, steps={0.25: 3, 0.5: 6}.get(sigma, 4))


RECIPES: dict[str, Callable[[float], Objective]] = {
    "gaussian": lambda sigma: Gaussian(sigma=sigma),
    "consistency": _consistency,
    "smoothadv": _smoothadv,
    "smoothadv-consistency": _smoothadv_consistency,
    "macer": _macer,
    "cat-rs": _cat_rs,
    "attacked-noise": _attacked_noise,
    "own-radius": lambda sigma: OwnRadius(sigma=sigma),
}
"""Name -> objective from σ: Cohen et al. 2019, Jeong & Shin 2020, Salman et al. 2019, both together, Zhai et
al. 2020, Jeong et al. 2023, Sun et al. 2025, ours. Their numbers are those of the papers for CIFAR-10, where
they say one; SmoothAdv attacks with fewer steps, and both together are as tried in `benchmarks.gpu.recipes`.
"""

_EASY = "-easy"


def for_noise(
    sigma: float, *, recipe: str = "gaussian", consistency: float = 0.0, epochs: int = 15
) -> Objective | EasyImages:
    """What makes a network ready for Gaussian noise `sigma`; 0 is none, and standard training.

    By a recipe of this name; with `-easy` behind it, on images that are worth it. Those are chosen after two
    fifths of the `epochs` and anew after every fifteenth of them, as published (Sun et al. 2025: after 60 of
    150, every 10). `consistency` is a strength of one's own instead of the published one. Raises ValueError
    for an unknown name, and for a strength of a recipe that has none.
    """
    plain = recipe.removesuffix(_EASY)
    if plain not in RECIPES:
        raise ValueError(
            f"for_noise: got the recipe {recipe!r}; wanted one of {', '.join(RECIPES)}, or one of them with "
            f"{_EASY} at its end"
        )
    if consistency and plain not in ("gaussian", "consistency"):
        raise ValueError(
            f"for_noise: a strength of consistency, {consistency:g}, is for the recipe consistency; got "
            f"{recipe!r}"
        )
    if sigma == 0:
        return Standard()
    objective = Consistency(sigma=sigma, strength=consistency) if consistency else RECIPES[plain](sigma)
    if recipe == plain:
        return objective
    threshold = 0.5 if sigma <= 0.25 else 0.4
    return EasyImages(
        objective=objective, start=2 * epochs // 5, every=max(1, epochs // 15), threshold=threshold
    )
