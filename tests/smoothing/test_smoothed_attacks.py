"""The attack finds what is there and respects its ball; inside certified balls it finds nothing.

Linear networks smooth to themselves, so the distance to the nearest point that a system answers otherwise is
known in closed form.
"""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from dualrs_lab.cascade import Cascade, CascadeSpec, attack_cascade, certify_cascade, from_tables
from dualrs_lab.data import load_images, to_float
from dualrs_lab.dual import (
    Cuts,
    DualCertificate,
    DualSpec,
    Median,
    Plurality,
    attack_dual,
    certify_dual,
    predict_dual,
)
from dualrs_lab.evidence import ABSTAIN, frame, read_table
from dualrs_lab.models import load_checkpoint
from dualrs_lab.smoothing import GaussianNoise, GridNoise, SmoothedAttack, Voter, attack_smoothed

ATTACK = SmoothedAttack(seed=0, steps=30, draws=64)
DIM = 20


def half_space(axis: int, end: float, *, steep: float = 30.0) -> Callable[[torch.Tensor], torch.Tensor]:
    """Class 1 where the coordinate exceeds `end`."""
    return lambda x: torch.stack([steep * (end - x[:, axis]), steep * (x[:, axis] - end)], dim=1)


def origin(count: int) -> torch.Tensor:
    return torch.zeros(count, DIM, dtype=torch.float64)


def distances(found: torch.Tensor, x: torch.Tensor) -> np.ndarray:
    return (found - x).flatten(1).norm(dim=1).numpy()


def test_a_smoothed_half_space_is_crossed_just_beyond_its_distance() -> None:
    radii = torch.tensor([0.2, 0.29, 0.32, 0.6], dtype=torch.float64)
    y = torch.zeros(4, dtype=torch.int64)
    found = attack_smoothed(half_space(3, 0.3), origin(4), y, radii, sigma=0.25, attack=ATTACK)
    assert (distances(found, origin(4)) <= radii.numpy() * (1 + 1e-9)).all()
    assert (found[:, 3] > 0.3).tolist() == [False, False, True, True]
    assert found[:, 3].tolist() == pytest.approx(radii.tolist(), rel=0.05)  # straight there


@pytest.mark.parametrize(
    "rule", [Median(0.25), Cuts((0.25,)), Plurality(0.25)], ids=lambda r: type(r).__name__
)
def test_a_route_is_found_where_both_its_half_spaces_meet(rule) -> None:
    # The second expert is chosen beyond 0.3 on axis 0 and errs beyond 0.4 on axis 1: they meet at 0.5, which
    # is more than the routed radius, max(0.3, 0.4). The first one never errs within reach.
    experts = [half_space(2, 9.0), half_space(1, 0.4)]
    radii = torch.tensor([0.45, 0.49, 0.54, 0.8], dtype=torch.float64)
    found = attack_dual(
        [half_space(0, 0.3)],
        experts,
        origin(4),
        torch.zeros(4, dtype=torch.int64),
        radii,
        estimator=rule,
        sigmas=(0.12, 0.25),
        attack=ATTACK,
    )
    assert found.shape == (4, 2, DIM)
    second = found[:, 1]
    assert (distances(second, origin(4)) <= radii.numpy() * (1 + 1e-9)).all()
    there = (second[:, 0] > 0.3) & (second[:, 1] > 0.4)
    assert there.tolist() == [False, False, True, True]
    assert not (found[:, 0, 2] > 9.0).any()


def test_attacks_with_one_seed_are_equal_and_more_starts_do_no_worse() -> None:
    x, y = origin(3), torch.zeros(3, dtype=torch.int64)
    radii = torch.full((3,), 0.29, dtype=torch.float64)

    def closest(**changes) -> torch.Tensor:
        attack = dataclasses.replace(ATTACK, steps=3, **changes)
        return attack_smoothed(half_space(3, 0.3), x, y, radii, sigma=0.25, attack=attack)

    assert torch.equal(closest(), closest())
    assert not torch.equal(closest(starts=4), closest(starts=4, seed=1))
    assert (closest(starts=4)[:, 3] >= closest()[:, 3] - 0.01).all()
    assert (x == 0).all()  # what came is left alone


def test_what_cannot_be_attacked_is_refused() -> None:
    x, y, radii = origin(2), torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.float64)
    given = {"sigma": 0.25, "attack": ATTACK}
    with pytest.raises(ValueError, match="wanted float images"):
        attack_smoothed(half_space(0, 0.3), x.to(torch.uint8), y, radii, **given)
    with pytest.raises(ValueError, match="one y and one radius each"):
        attack_smoothed(half_space(0, 0.3), x, y[:1], radii, **given)
    with pytest.raises(ValueError, match="no gradient reaches 2 of 2 inputs"):
        attack_smoothed(lambda x: torch.zeros(len(x), 2) + 0 * x[:, :1], x, y, radii, **given)
    one = x.clone()
    one[1, 3] = 0.5

    def dead(x: torch.Tensor) -> torch.Tensor:  # the network is flat around the second image alone
        return half_space(0, 0.3)(x) * (x[:, 3:4].detach() < 0.25)

    with pytest.raises(ValueError, match="no gradient reaches 1 of 2 inputs"):
        attack_smoothed(dead, one, y, radii, sigma=1e-3, attack=ATTACK)
    with pytest.raises(ValueError, match=r"from 0 to 255; wanted \[0, 1\]"):
        attack_smoothed(half_space(0, 0.3), 510 * one, y, radii, **given)
    frozen = torch.nn.Sequential(torch.nn.Linear(DIM, 2).double(), torch.nn.BatchNorm1d(2)).eval()
    frozen[1].train()
    for model in (torch.nn.Linear(DIM, 2).double(), frozen):
        with pytest.raises(ValueError, match=r"in training mode; call \.eval\(\)"):
            attack_smoothed(model, x, y, radii, **given)
    with pytest.raises(ValueError, match="got 1 estimators and 2 experts"):
        attack_dual([half_space(0, 1)], [half_space(0, 1)] * 2, x, y, radii, estimator=Cuts((0.1, 0.1)),
                    sigmas=(0.1, 0.2), attack=ATTACK)  # fmt: skip
    with pytest.raises(ValueError, match="SmoothedAttack: wanted steps, draws, starts >= 1"):
        SmoothedAttack(seed=0, steps=0)


# A system on images, certified and attacked.

LEVELS = (0.12, 0.25, 0.5)
SPEC = DualSpec(estimator=Median(0.25), sigmas=LEVELS, seed=0, n=1000, n_estimator=1000)


def on_the_grid(model: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The base classifier behind rounding to 8 bits, which is what grid noise certifies off the grid too."""
    return lambda x: model((x * 255).round() / 255)


def answers(points: torch.Tensor, estimators: Sequence, experts: Sequence, spec: DualSpec) -> np.ndarray:
    """What the system says at float inputs (N, ...); wrong with probability at most 1e-6 each."""
    spec = dataclasses.replace(spec, noise=GaussianNoise, alpha=1e-6, n_estimator=spec.n, split=None)
    kinds = [spec.estimator.classes(len(spec.sigmas))] * len(estimators) + [10] * len(experts)
    sigmas = (*spec.estimator.sigmas, *spec.sigmas)
    voters = [
        Voter(on_the_grid(model), GaussianNoise(sigma), classes=kind, units=4)
        for model, sigma, kind in zip((*estimators, *experts), sigmas, kinds, strict=True)
    ]
    return predict_dual(voters[: len(estimators)], voters[len(estimators) :], points, spec=spec)


def changed(
    x: torch.Tensor, found: list[DualCertificate], times: float, estimators: Sequence, experts: Sequence,
    spec: DualSpec, attack: SmoothedAttack,
) -> np.ndarray:  # fmt: skip
    """For each certificate: does the attack reach another answer within `times` its radius?"""
    y = torch.tensor([c.predict for c in found])
    radii = torch.tensor([c.radius * times for c in found], dtype=torch.float32)
    points = attack_dual(
        estimators, experts, x, y, radii, estimator=spec.estimator, sigmas=spec.sigmas, attack=attack
    )
    said = answers(points.flatten(0, 1), estimators, experts, spec).reshape(len(x), -1)
    return ((said != y.numpy()[:, None]) & (said != ABSTAIN)).any(axis=1)


def ridge(images, targets: torch.Tensor, noise: float) -> torch.nn.Module:
    """A linear network, fitted in closed form: it serves a noise level by its ridge."""
    pixels, kinds = to_float(images.pixels).flatten(1), torch.eye(int(targets.max()) + 1)[targets]
    mean = pixels.mean(0)
    gram = (pixels - mean).T @ (pixels - mean) + len(pixels) * noise**2 * torch.eye(64)
    weight = torch.linalg.solve(gram, (pixels - mean).T @ kinds)
    layer = torch.nn.Linear(64, kinds.shape[1])
    layer.weight.data, layer.bias.data = 20 * weight.T, 20 * (kinds.mean(0) - mean @ weight)
    return torch.nn.Sequential(torch.nn.Flatten(), layer).eval()


def test_inside_certified_balls_no_other_answer_is_found_and_further_out_many_are() -> None:
    train, test = (load_images("digits", split) for split in ("train", "test"))
    experts = [ridge(train, train.labels, sigma) for sigma in LEVELS]
    estimators = [ridge(train, torch.bucketize(train.labels, torch.tensor([3, 7]), right=True), 0.5)]
    noises = [GridNoise(sigma) for sigma in (0.25, *LEVELS)]
    voters = [
        Voter(model, noise, classes=kind, units=4)
        for model, noise, kind in zip((*estimators, *experts), noises, (3, 10, 10, 10), strict=True)
    ]
    pixels = test.pixels[:25]
    found = certify_dual(voters[:1], voters[1:], pixels, spec=SPEC)
    sure = [i for i, c in enumerate(found) if c.radius > 0]
    x, certificates = to_float(pixels[sure]), [found[i] for i in sure]
    assert len(sure) > 15
    given = (estimators, experts, SPEC, dataclasses.replace(ATTACK, draws=32))
    assert not changed(x, certificates, 0.999, *given).any()
    share = changed(x, certificates, 3.0, *given).mean()
    print(f"within 3 radii {share:.0%} of {len(sure)} answers change")
    assert share > 0.5  # or the attack could not have found anything


CASCADE = Cascade(LEVELS[::-1])


def said_by_cascade(points: torch.Tensor, experts: Sequence, cascade: Cascade, n: int) -> np.ndarray:
    """Which answer `steps` certifies at float inputs (N, ...), ABSTAIN where none; wrong with 1e-6 each."""
    spec = CascadeSpec(cascade=cascade, seed=1, n=n, n_side=n, alpha=1e-6, noise=GaussianNoise)
    voters = [
        Voter(on_the_grid(model), GaussianNoise(sigma), classes=10, units=4)
        for model, sigma in zip(experts, cascade.sigmas, strict=True)
    ]
    return np.array([claim.predict for claim in certify_cascade(voters, points, spec=spec)])


def test_inside_certified_balls_of_a_cascade_no_other_answer_is_found_and_further_out_many_are() -> None:
    train, test = (load_images("digits", split) for split in ("train", "test"))
    experts = [ridge(train, train.labels, sigma) for sigma in CASCADE.sigmas]
    voters = [
        Voter(model, GridNoise(sigma), classes=10, units=4)
        for model, sigma in zip(experts, CASCADE.sigmas, strict=True)
    ]
    spec = CascadeSpec(cascade=CASCADE, seed=0, n=1000, n_side=1000)
    found = frame(certify_cascade(voters, test.pixels[:25], spec=spec))
    sure = found[found["radius"] > 0]
    x, y = to_float(test.pixels[sure.index.to_numpy(copy=True)]), torch.tensor(sure["predict"].tolist())
    assert len(sure) > 15
    attack = dataclasses.replace(ATTACK, draws=32)

    def changed(times: float) -> np.ndarray:
        radii = torch.tensor(sure["radius"].to_numpy() * times, dtype=torch.float32)
        points = attack_cascade(experts, x, y, radii, cascade=CASCADE, attack=attack)
        away = (points - x[:, None]).flatten(2).norm(dim=2)
        assert (away <= radii[:, None] * (1 + 1e-5)).all()
        said = said_by_cascade(points.flatten(0, 1), experts, CASCADE, 1000).reshape(len(x), -1)
        return ((said != y.numpy()[:, None]) & (said != ABSTAIN)).any(axis=1)

    assert not changed(0.999).any()
    share = changed(3.0).mean()
    print(f"within 3 radii {share:.0%} of {len(sure)} answers change")
    assert share > 0.4  # or the attack could not have found anything


def test_a_cascade_is_attacked_by_each_of_its_ways() -> None:
    """Expert 0 errs beyond 0.3 on axis 0; expert 1 errs beyond 0.2 on axis 1, which takes 0 to be silent."""
    third = lambda x: torch.stack([20 * (0.3 - x[:, 0]), 20 * (x[:, 0] - 0.3), 0 * x[:, 0] - 9], dim=1)  # noqa: E731
    fourth = lambda x: torch.stack([20 * (0.2 - x[:, 1]), 20 * (x[:, 1] - 0.2), 0 * x[:, 0] - 9], dim=1)  # noqa: E731
    x, y = origin(2), torch.zeros(2, dtype=torch.int64)
    radii = torch.tensor([0.28, 0.33], dtype=torch.float64)
    found = attack_cascade([third, fourth], x, y, radii, cascade=Cascade((0.25, 0.12)), attack=ATTACK)
    assert found.shape == (2, 3, DIM)
    assert (found[:, 0, 0] > 0.3).tolist() == [False, True]
    assert (found[:, 1, 1] > 0.1).all()  # the second way moves along its own axis as well
    with pytest.raises(ValueError, match="got 1 experts for the sigmas"):
        attack_cascade([third], x, y, radii, cascade=Cascade((0.25, 0.12)), attack=ATTACK)


PACK = Path(__file__).parents[3] / "shared" / "data" / "unpack_cifar10.py"
DATA = Path(__file__).parents[2] / "data"


@pytest.mark.slow
@pytest.mark.skipif(not PACK.exists(), reason="the CIFAR-10 pack is not at ../shared/data")
def test_the_shipped_systems_withstand_the_attack_inside_their_certified_balls(tmp_path: Path) -> None:
    """The tables of data/cifar10_systems: both radii of the dual system, and the cascade of the experts."""
    subprocess.run([sys.executable, PACK, tmp_path / "cifar10_jpeg"], check=True, capture_output=True)
    test = load_images(f"folder:{tmp_path / 'cifar10_jpeg'}", "test")
    sigmas, rule = (0.25, 0.5, 1.0), Cuts((0.5, 1.0))
    name = "cifar10_jpeg_fast_narrow_sigma{0:g}_seed0"
    experts = [load_checkpoint(DATA / "cifar10_jpeg" / f"{name.format(s)}.safetensors")[0] for s in sigmas]
    cuts = [load_checkpoint(DATA / "cifar10_systems" / f"router_cut{k}.safetensors")[0] for k in (1, 2)]
    attack = SmoothedAttack(seed=0, steps=10, draws=16)
    rows = read_table(DATA / "cifar10_systems" / "dual.tsv")
    some = rows[rows["radius"] > 0.1].iloc[::24].head(8)
    x = to_float(test.batch(some["idx"].tolist())[0])
    found = [DualCertificate.from_row(row) for row in some.to_dict("records")]
    spec = DualSpec(estimator=rule, sigmas=sigmas, seed=0, n=400)
    given = (cuts, experts, spec, attack)
    assert not changed(x, found, 0.999, *given).any()
    dual_share = changed(x, found, 4.0, *given).mean()

    tables = {
        s: read_table(DATA / "cifar10_jpeg" / f"{name.format(s)}_smoothed{s:g}_n10000.tsv") for s in sigmas
    }
    cascade = Cascade(sigmas[::-1])
    certified = from_tables(tables, cascade=cascade)
    some = certified[certified["radius"] > 0.1].iloc[::24].head(8)
    x, y = to_float(test.batch(some["idx"].tolist())[0]), torch.tensor(some["predict"].tolist())

    def lost(times: float) -> np.ndarray:
        radii = torch.tensor(some["radius"].to_numpy() * times, dtype=torch.float32)
        points = attack_cascade(experts[::-1], x, y, radii, cascade=cascade, attack=attack)
        said = said_by_cascade(points.flatten(0, 1), experts[::-1], cascade, 400).reshape(len(x), -1)
        return ((said != y.numpy()[:, None]) & (said != ABSTAIN)).any(axis=1)

    assert not lost(0.999).any()
    cascade_share = lost(4.0).mean()
    print(f"within 4 radii the dual system changes {dual_share:.0%}, the cascade {cascade_share:.0%} of 8")
    assert min(dual_share, cascade_share) > 0.2  # or the attack could not have found anything
