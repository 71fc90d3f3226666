"""The attack on a combiner finds what is there; inside certified balls it finds nothing.

Linear networks smooth to themselves, so the distance to the nearest point that a combiner of them answers
otherwise is known.
"""

import dataclasses

import numpy as np
import pytest
import torch

from dualrs_lab.combine import (
    Combiner,
    CombineSpec,
    attack_combined,
    certify_combined,
    combined_margin,
    lengths,
    soft_margins,
)
from dualrs_lab.data import load_images, to_float
from dualrs_lab.evidence import ABSTAIN, frame
from dualrs_lab.smoothing import GaussianNoise, GridNoise, Voter
from dualrs_lab.smoothing.soft import draw_in
from tests.combine.test_combiners import some_lattices
from tests.smoothing.test_smoothed_attacks import ATTACK, DIM, half_space, on_the_grid, origin, ridge

SIGMAS = (0.25, 0.12)


def test_whoever_is_surest_is_overtaken_just_beyond_the_distance() -> None:
    """Expert 0 says 0 up to 0.4 on axis 0, expert 1 says 1 from -0.1 on axis 1 on: F_0 = 0.4, F_1 = 0.1.

    They meet where x_0 + x_1 = 0.3, at the distance 0.3 / sqrt(2): farther than the radius 0.15, which lets
    both move along one axis.
    """
    experts, surest = [half_space(0, 0.4), half_space(1, -0.1)], Combiner.surest(SIGMAS)
    radii = torch.tensor([0.15, 0.2, 0.23, 0.4], dtype=torch.float64)
    y = torch.zeros(4, dtype=torch.int64)
    found = attack_combined(experts, origin(4), y, radii, combiner=surest, attack=ATTACK)
    assert found.shape == (4, 1, DIM)
    away = (found - origin(4)[:, None]).flatten(2).norm(dim=2)
    assert (away <= radii[:, None] * (1 + 1e-9)).all()
    overtaken = found[:, 0, 0] + found[:, 0, 1] > 0.3
    assert overtaken.tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="got 1 experts for the sigmas"):
        attack_combined(experts[:1], origin(4), y, radii, combiner=surest, attack=ATTACK)


def test_each_of_the_nearest_rivals_is_tried() -> None:
    """Three classes on three axes: class j wins beyond its end on axis j."""
    ends = torch.tensor([0.0, 0.2, 0.25, 0.3], dtype=torch.float64)

    def expert(x: torch.Tensor) -> torch.Tensor:
        scores = 30 * (x[:, :4] - ends)
        return torch.cat([torch.zeros_like(scores[:, :1]), scores[:, 1:]], dim=1)

    radii, y = torch.full((1,), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    given = {"combiner": Combiner.single((0.25,), 0), "attack": ATTACK}
    found = attack_combined([expert], origin(1), y, radii, **given)
    assert found.shape == (1, 3, DIM)
    for j in range(3):  # nearest first
        assert found[0, j, 1:4].argmax() == j
        assert found[0, j, j + 1] > ends[j + 1]
    assert attack_combined([expert], origin(1), y, radii, rivals=2, **given).shape == (1, 2, DIM)
    assert attack_combined([expert], origin(1), y, radii, rivals=9, **given).shape == (1, 3, DIM)


def test_margins_of_tensors_are_those_of_arrays() -> None:
    chance = np.random.default_rng(0)
    p = chance.dirichlet([1.0] * 4, (30, 3))
    y = chance.integers(0, 4, 30)
    for combiner in some_lattices(12):
        found = soft_margins(torch.tensor(p), torch.tensor(y), combiner).numpy()
        z = lengths(draw_in(torch.tensor(p)), combiner.sigmas)
        own = z[np.arange(30), :, y]
        wanted = np.stack([combined_margin(own, z[..., c], combiner) for c in range(4)], axis=1)
        wanted[np.arange(30), y] = np.inf
        np.testing.assert_allclose(found, wanted, atol=1e-6)


LEVELS = (0.5, 0.25, 0.12)
COMBINERS = {
    "surest": Combiner.surest(LEVELS, (0.0, 0.05, 0.1)),
    "lattice": Combiner.of_text(LEVELS, "half0.5:0 | own0.25:-0.1 zero:0.3 | half0.12:0 rival0.5:0.2"),
}


def said(points: torch.Tensor, experts: list[torch.nn.Module], combiner: Combiner) -> np.ndarray:
    """What is certified at float inputs (N, ...), ABSTAIN where nothing is; wrong with 1e-6 each."""
    spec = CombineSpec(combiner=combiner, seed=1, n=1000, alpha=1e-6, noise=GaussianNoise)
    voters = [
        Voter(on_the_grid(model), GaussianNoise(sigma), classes=10, units=4)
        for model, sigma in zip(experts, combiner.sigmas, strict=True)
    ]
    return np.array([claim.predict for claim in certify_combined(voters, points, spec=spec)])


@pytest.mark.parametrize("name", COMBINERS)
def test_inside_certified_balls_no_other_answer_is_found_and_further_out_many_are(name: str) -> None:
    """Beyond is the control: radii that are three times too large are refuted."""
    combiner = COMBINERS[name]
    train, test = (load_images("digits", split) for split in ("train", "test"))
    experts = [ridge(train, train.labels, sigma) for sigma in LEVELS]
    voters = [
        Voter(model, GridNoise(sigma), classes=10, units=4)
        for model, sigma in zip(experts, LEVELS, strict=True)
    ]
    spec = CombineSpec(combiner=combiner, seed=0, n=1000)
    found = frame(certify_combined(voters, test.pixels[:16], spec=spec))
    sure = found[found["radius"] > 0]
    x, y = to_float(test.pixels[sure.index.to_numpy(copy=True)]), torch.tensor(sure["predict"].tolist())
    assert len(sure) > 8
    attack = dataclasses.replace(ATTACK, draws=32, steps=20)

    def changed(times: float) -> np.ndarray:
        radii = torch.tensor(sure["radius"].to_numpy() * times, dtype=torch.float32)
        points = attack_combined(experts, x, y, radii, combiner=combiner, attack=attack, rivals=2)
        away = (points - x[:, None]).flatten(2).norm(dim=2)
        assert (away <= radii[:, None] * (1 + 1e-5)).all()
        others = said(points.flatten(0, 1), experts, combiner).reshape(len(x), -1)
        return ((others != y.numpy()[:, None]) & (others != ABSTAIN)).any(axis=1)

    assert not changed(0.999).any()
    share = changed(3.0).mean()
    print(f"{name}: within 3 radii {share:.0%} of {len(sure)} answers change")
    assert share > 0.4  # or the attack could not have found anything
