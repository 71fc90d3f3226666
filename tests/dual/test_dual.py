"""Dual systems through the engine: true in the plane, the same votes in any company, the level kept.

In the plane every probability of the system is known, so what it answers anywhere in a certified ball is
known too. There alpha = 1e-6 for each certificate: a failure is a fault, not bad luck.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from dualrs_lab.data import Images, load_images
from dualrs_lab.dual import (
    Cuts,
    DualCertificate,
    DualSpec,
    Estimator,
    Median,
    Plurality,
    Split,
    certify_dual,
    certify_dual_table,
    predict,
    predict_by_two_tests,
    predict_dual,
)
from dualrs_lab.dual import certify as dual
from dualrs_lab.evidence import ABSTAIN, lower_bound, rs_radius
from dualrs_lab.lessons import Boxes, lesson_plane, sample_points
from dualrs_lab.runtime import make_generator
from dualrs_lab.smoothing import (
    AtRadii,
    FastPath,
    GaussianNoise,
    GridNoise,
    InputSpecific,
    Spec,
    Stopping,
    Voter,
    certify,
    certify_table,
    job,
)
from dualrs_lab.store import seal

# The system of lesson 11: sigma is small where strips are, large far to the left of them.
INF, SIGMAS, PLANE = np.inf, (0.02, 0.07, 0.25), lesson_plane()
STRIPS, LEFT = (0.38, 0.6, 1.0, INF), (-INF, -INF, 0.3, INF)
ONE = Boxes((STRIPS, LEFT), (0, 2), background=1, classes=3)
PER_CUT = Boxes((STRIPS,), (0,), 1, 2), Boxes((LEFT,), (1,), 0, 2)
ESTIMATORS: dict[str, tuple[Estimator, tuple[Boxes, ...]]] = {
    "median": (Median(0.1), (ONE,)),
    "cuts": (Cuts((0.07, 0.1)), PER_CUT),
    "plurality": (Plurality(0.1), (ONE,)),
    "largest first": (Cuts((0.1, 0.07)), (Boxes((LEFT,), (0,), 1, 2), Boxes((STRIPS,), (1,), 0, 2))),
}
ORDER = {"largest first": SIGMAS[::-1]}  # of the experts, where it is not ascending
KINDS = pytest.mark.parametrize("kind", ESTIMATORS)


def voters(models: Sequence[Callable], sigmas: Sequence[float], classes: int, units: int = 8) -> list[Voter]:
    settings = {"classes": classes, "units": units, "dtype": torch.float64}
    return [Voter(m, GaussianNoise(sigma), **settings) for m, sigma in zip(models, sigmas, strict=True)]


def settings(estimator: Estimator, **changes) -> DualSpec:
    given = {"sigmas": SIGMAS, "seed": 0, "n": 2000, "n_estimator": 2000, "alpha": 1e-6}
    return DualSpec(estimator=estimator, noise=GaussianNoise, **given | changes)


def of(kind: str, **changes) -> DualSpec:
    return settings(ESTIMATORS[kind][0], sigmas=ORDER.get(kind, SIGMAS), **changes)


def system(
    points: np.ndarray,
    spec: DualSpec,
    models: Sequence[Callable],
    experts: Sequence[Callable] = (PLANE,) * 3,
    *,
    units: int = 8,
    **more,
) -> list[DualCertificate]:
    choosers = voters(models, spec.estimator.sigmas, spec.estimator.classes(len(spec.sigmas)), units)
    pool = voters(experts, spec.sigmas, experts[0].classes, units)
    return certify_dual(choosers, pool, torch.tensor(points), spec=spec, **more)


@lru_cache
def certified(kind: str) -> tuple[np.ndarray, list[DualCertificate]]:
    """45 points anywhere, 15 where the choice is large but not far from another one."""
    near = np.random.default_rng(5).uniform((0.265, 0.95), (0.29, 1.0), (15, 2))
    points = np.concatenate([sample_points(PLANE, 45, seed=4)[0], near])
    models = ESTIMATORS[kind][1]
    return points, system(points, of(kind), models, labels=PLANE.predict(points).tolist())


def answers(kind: str, points: np.ndarray) -> np.ndarray:
    """What the ideal system says (N,), from exact probabilities."""
    rule, models = ESTIMATORS[kind]
    p = [model.probabilities(points, s) for model, s in zip(models, rule.sigmas, strict=True)]
    if kind == "plurality":
        chosen = p[0].argmax(axis=1)
    else:
        several = len(p) > 1
        cuts = np.stack([q[:, 0] for q in p], axis=1) if several else np.cumsum(p[0], axis=1)[:, :2]
        chosen = np.pad(cuts >= 0.5, ((0, 0), (0, 1)), constant_values=True).argmax(axis=1)
    said = np.stack([PLANE.smoothed(points, sigma) for sigma in of(kind).sigmas], axis=1)
    return np.take_along_axis(said, chosen[:, None], axis=1)[:, 0]


def broken(kind: str, points: np.ndarray, claims: Sequence[int], radii: Sequence[float]) -> np.ndarray:
    """Which of these claims have another answer at one of 720 places of their ball."""
    angle = np.linspace(-np.pi, np.pi, 72, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    reach = np.asarray(radii)[:, None, None, None] * np.linspace(0, 1 - 1e-9, 10)[:, None, None]
    said = answers(kind, (points[:, None, None] + reach * ring).reshape(-1, 2)).reshape(len(points), -1)
    return (said != np.asarray(claims)[:, None]).any(axis=1) & (np.asarray(radii) > 0)


def both(c: DualCertificate) -> tuple[float, float]:
    """Both radii that the votes alone give."""
    return c.recomputed(), float(c.routes.published)


@KINDS
def test_the_system_answers_as_certified_everywhere_in_the_ball(kind: str) -> None:
    points, found = certified(kind)
    claims = [c.predict for c in found]
    assert not broken(kind, points, claims, [c.radius for c in found]).any()
    assert not broken(kind, points, claims, [c.published for c in found]).any()
    assert np.mean([c.radius > 0 for c in found]) > 0.5
    larger = np.mean([c.radius > c.published for c in found])
    print(f"{kind}: routed is larger at {larger:.0%} of 60 points")
    assert larger > 0.1
    assert all(both(c) == (c.radius, c.published) for c in found)


@KINDS
def test_a_choice_that_need_not_stay_is_no_certificate(kind: str) -> None:
    """Negative control: the radius of the chosen expert alone, on the same votes."""
    points, found = certified(kind)
    claims = [int(c.routes.claim) for c in found]
    assert broken(kind, points, claims, [c.routes.experts[c.top] for c in found]).sum() >= 5


@KINDS
def test_the_guess_is_what_the_system_says_where_it_is_clear(kind: str) -> None:
    points, found = certified(kind)
    clear = np.array([c.radius > 0 for c in found])
    assert (np.array([c.predict for c in found])[clear] == answers(kind, points[clear])).all()


@KINDS
def test_lazy_experts_give_the_radii_that_asking_everyone_gives(kind: str) -> None:
    points, lazy = certified(kind)
    models = ESTIMATORS[kind][1]
    everyone = system(points, of(kind, lazy=False), models)
    for few, all_of_them in zip(lazy, everyone, strict=True):
        assert (few.radius, few.published) == (all_of_them.radius, all_of_them.published)
        assert (few.looks, few.estimator_votes) == (all_of_them.looks, all_of_them.estimator_votes)
        for asked, votes in zip(few.votes, all_of_them.votes, strict=True):
            assert asked in ((), votes)
        assert all_of_them.drawn - few.drawn == 2000 * few.votes.count(())
        assert few.votes[few.top] != ()
    asked = np.mean([3 - c.votes.count(()) for c in lazy])
    print(f"{kind}: {asked:.2f} of 3 experts asked")
    assert asked < 2


def evidence(c: DualCertificate) -> DualCertificate:
    return dataclasses.replace(c, seconds=0.0, label=-1)


@KINDS
def test_guesses_and_counts_are_separate_draws(kind: str) -> None:
    """As many draws of either kind: where votes are torn they agree now and then, by chance."""
    points = certified(kind)[0]
    models = ESTIMATORS[kind][1]
    found = system(points, of(kind, n0=200, n=200, n_estimator=200), models)
    guesses = [votes for c in found for votes in (*c.looks, c.selection)]
    counted = [votes for c in found for votes in (*c.estimator_votes, c.votes[c.top])]
    torn = [i for i, votes in enumerate(guesses) if max(count for _, count in votes) < 180]
    assert len(torn) > 30
    assert np.mean([guesses[i] == counted[i] for i in torn]) < 0.3


STOPS = [AtRadii(radii=(0.02, 0.1), futility=0.01), InputSpecific(pilot=100, loss=0.3)]


@pytest.mark.parametrize("stop", [None, *STOPS])
def test_a_point_gets_the_same_certificate_in_any_company_and_batch(stop: Stopping | None) -> None:
    points = certified("median")[0][:20]
    spec = settings(Median(0.1), **{"stop": stop} if stop else {})
    together = system(points, spec, (ONE,))
    assert list(map(evidence, system(points, spec, (ONE,), units=1))) == list(map(evidence, together))
    turned = system(points[::-1].copy(), spec, (ONE,), units=3, idx=range(19, -1, -1))
    assert list(map(evidence, turned[::-1])) == list(map(evidence, together))
    alone = system(points[7:8], spec, (ONE,), idx=[7])
    assert list(map(evidence, alone)) == [evidence(together[7])]
    assert system(points[:0], spec, (ONE,)) == []


@pytest.mark.parametrize("stop", STOPS)
def test_experts_that_stop_early_take_fewer_draws_and_stay_true(stop: Stopping) -> None:
    points, every = certified("median")
    early = system(points, settings(Median(0.1), stop=stop, n=10_000), (ONE,))
    assert not broken("median", points, [c.predict for c in early], [c.radius for c in early]).any()
    for c in early:
        assert c.bound == stop.bound
        assert both(c) == (c.radius, c.published)
        assert c.published <= c.radius
    per_expert = [(c.drawn - 2300) / (3 - c.votes.count(())) for c in early]
    assert np.mean(per_expert) < 5000
    assert np.mean([c.radius > 0 for c in early]) > np.mean([c.radius > 0 for c in every]) - 0.1


# What plain smoothing says.


def constant(kind: int, classes: int) -> Boxes:
    return Boxes((), (), background=kind, classes=classes)


@pytest.mark.parametrize("j", [0, 1, 2])
@pytest.mark.parametrize(
    "rule", [Median(2.0), Plurality(2.0), Cuts((2.0, 2.0))], ids=lambda r: type(r).__name__
)
def test_a_constant_estimator_is_plain_smoothing(rule: Estimator, j: int) -> None:
    """The same votes as `smoothing` with the same seed, and its radius at the level of the expert."""
    points = certified("median")[0][:15]
    cuts = [constant(int(k < j), 2) for k in range(2)]
    models = cuts if isinstance(rule, Cuts) else [constant(j, 3)]
    spec = settings(rule, seed=5)
    level = spec.levels.experts[j]
    plain = Spec(noise=GaussianNoise(SIGMAS[j]), seed=5, n=2000, alpha=level, dtype=torch.float64)
    single = certify(PLANE, torch.tensor(points), classes=3, spec=plain)
    for c, one in zip(system(points, spec, models), single, strict=True):
        assert c.top == j
        assert (c.selection, c.votes[j]) == (one.selection, one.votes)
        assert (c.radius, c.published, c.predict) == (one.radius, one.radius, one.predict)
        assert c.votes.count(()) == 2
        assert c.routes.constancy > 4


def test_one_expert_alone_is_plain_smoothing_to_the_last_bit() -> None:
    points = certified("median")[0][:15]
    spec = settings(Median(0.1), sigmas=(0.07,), alpha=0.001)
    single = Spec(noise=GaussianNoise(0.07), seed=0, n=2000, alpha=0.001, dtype=torch.float64)
    for c, one in zip(
        system(points, spec, [constant(0, 1)], [PLANE]),
        certify(PLANE, torch.tensor(points), classes=3, spec=single),
        strict=True,
    ):
        assert (c.radius, c.predict, c.votes[0]) == (one.radius, one.predict, one.votes)
        assert c.radius == c.published


def test_equal_experts_make_the_estimator_irrelevant() -> None:
    """Two sigmas that are one but for the last digits; published is 0 where the estimator is torn."""
    points = np.stack([np.full(21, 0.3), np.linspace(0.1, 0.5, 21)], axis=1)
    torn = Boxes((LEFT,), (1,), background=0, classes=2)  # both as likely, on its very edge
    spec = settings(Median(0.1), sigmas=(0.05, 0.05 * (1 + 1e-12)), n=1000)
    plain = Spec(noise=GaussianNoise(0.05), seed=0, n=1000, alpha=spec.levels.experts[0], dtype=torch.float64)
    single = certify(PLANE, torch.tensor(points), classes=3, spec=plain)
    found = system(points, spec, [torn], [PLANE, PLANE])
    assert [c.radius for c in found] == pytest.approx([one.radius for one in single], rel=1e-9)
    assert [c.predict for c in found] == [one.predict for one in single]
    assert all(c.radius > 0.05 for c in found)
    assert np.mean([c.published < 0.01 for c in found]) > 0.8


def test_a_pool_of_experts_answers_each_for_its_own_noise() -> None:
    """Three networks: the votes are those of each alone, and where they disagree the system keeps quiet."""
    points = certified("median")[0][:25]
    others = [PLANE, Boxes(((0.4, -INF, 1.0, INF),), (1,), 0, 3), constant(0, 3)]
    found = system(points, settings(Median(0.1), lazy=False), [ONE], others)
    for j, (model, sigma) in enumerate(zip(others, SIGMAS, strict=True)):
        plain = Spec(noise=GaussianNoise(sigma), seed=0, n=2000, dtype=torch.float64)
        single = certify(model, torch.tensor(points), classes=3, spec=plain)
        assert [c.votes[j] for c in found] == [one.votes for one in single]
        assert all(c.selection == one.selection for c, one in zip(found, single, strict=True) if c.top == j)
    for c in found:
        rivals = c.routes.experts == 0
        assert c.radius <= c.routes.entry[rivals].min(initial=np.inf)


# The level, end to end, where a system spends all of it.

ALPHA, RUNS, ERROR, NOISE = 0.2, 300, 1e-3, 0.12


def _most(alpha: float) -> int:
    """More violations than these refute "at most alpha", wrongly with probability at most ERROR."""
    return int(stats.binom.isf(ERROR, RUNS, alpha))


def right_of(end: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Class 1 where the first coordinate exceeds `end`."""
    return lambda x: torch.stack([end - x[:, 0], x[:, 0] - end], dim=1)


@lru_cache
def spent() -> tuple[float, list[DualCertificate]]:
    """A distance d, and certificates at that distance with a new seed each.

    Left of x - d the estimator takes the small sigma, and there, but no sooner, its expert gives another
    class; the other expert gives class 1 everywhere. Both bounds of the route are spent to the last bit at d,
    on separate draws, by Cohen's rule: 1 - (1 - alpha/2)^2 of certificates claim more, just below alpha.
    """
    level = ALPHA / 2
    d = float(rs_radius(lower_bound(80, 100, level), NOISE)) * (1 - 1e-6)
    spec = DualSpec(
        estimator=Median(NOISE),
        sigmas=(NOISE, 2 * NOISE),
        seed=0,
        n=100,
        n_estimator=100,
        alpha=ALPHA,
        noise=GaussianNoise,
        rule="cohen",
    )
    assert spec.levels.experts == spec.levels.upper * 2 == (level, level)
    half, always = right_of(0.5), lambda x: torch.stack([-torch.ones(len(x)), torch.ones(len(x))], dim=1)
    x = torch.tensor([[0.5 + d]], dtype=torch.float64)
    found = []
    for seed in range(RUNS):
        seeded = dataclasses.replace(spec, seed=seed)
        pool = voters([half, always], spec.sigmas, 2, units=1)
        found += certify_dual(voters([half], (NOISE,), 2, units=1), pool, x, spec=seeded)
    return d, found


def test_the_level_holds_where_it_is_spent() -> None:
    d, found = spent()
    failing = sum(c.radius > d for c in found)
    print(f"{failing} of {RUNS} certificates claim too much, alpha = {ALPHA}")
    assert failing <= _most(ALPHA)
    assert failing >= 0.5 * ALPHA * RUNS  # or this test could not fail
    assert sum(c.published > d for c in found) <= failing


def test_faults_are_caught_where_the_level_is_spent() -> None:
    """Negative controls on the same votes: the choice without constancy, and no expert but the chosen one."""
    d, found = spent()
    assert sum(c.routes.experts[c.top] > d for c in found) > _most(ALPHA)
    agreeing = [c.routes.experts.max() for c in found]
    assert sum(radius > d for radius in agreeing) > _most(ALPHA)


def test_the_class_guessed_on_counted_votes_is_caught() -> None:
    """On the boundary of a single expert any claim is wrong; the guess then follows the votes."""
    spec = settings(Median(1.0), sigmas=(NOISE,), n=100, n_estimator=100, alpha=ALPHA)
    x = np.array([[0.5]])
    half = right_of(0.5)
    half.classes = 2
    valid = reused = 0
    for seed in range(RUNS):
        (c,) = system(x, dataclasses.replace(spec, seed=seed), [constant_of(1)], [half])
        valid += c.predict != ABSTAIN
        votes = dict(c.votes[0])
        reused += bool(rs_radius(lower_bound(max(votes.values()), 100, ALPHA), NOISE) > 0)
    assert valid <= _most(ALPHA) < reused


def constant_of(classes: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: torch.ones(len(x), classes)


# Predictions.


def predictions(
    points: np.ndarray, spec: DualSpec, models: Sequence[Callable], by=predict_dual
) -> np.ndarray:
    choosers = voters(models, spec.estimator.sigmas, spec.estimator.classes(len(spec.sigmas)))
    return by(choosers, voters((PLANE,) * 3, spec.sigmas, 3), torch.tensor(points), spec=spec)


@KINDS
@pytest.mark.parametrize("by", [predict_dual, predict_by_two_tests])
def test_predictions_are_those_of_the_ideal_system_or_none(kind: str, by: Callable) -> None:
    models = ESTIMATORS[kind][1]
    points, _ = certified(kind)
    told = partial(predictions, models=models, by=by)
    found = told(points, of(kind))
    said = found != ABSTAIN
    assert (found[said] == answers(kind, points)[said]).all()  # each fails with probability 1e-6
    assert 0.5 < said.mean() <= 1
    assert said.mean() < 1 or by is predict_dual  # some points lie close to a border between experts
    assert (told(points, of(kind, alpha=0.1)) != ABSTAIN).sum() >= said.sum()
    assert (told(points, of(kind, n=10)) == ABSTAIN).all()  # 10 draws prove nothing here
    fewer = told(points, of(kind, n_estimator=10)) != ABSTAIN
    assert fewer.sum() < said.sum()
    if by is predict_by_two_tests:
        assert not fewer.any()
    else:  # where all experts agree it does not matter who is chosen
        assert (told(points, of(kind, n_estimator=10))[fewer] == answers(kind, points)[fewer]).all()
    alone = told(points[7:8], of(kind))
    assert alone.tolist() == found[7:8].tolist()
    assert told(points[:0], of(kind)).shape == (0,)


@KINDS
def test_routes_answer_more_often_than_two_tests(kind: str) -> None:
    """They take n0 more draws of the estimator and of one expert, which seldom guess wrongly; where the
    choice is close and the experts agree, they need not know it.
    """
    models = ESTIMATORS[kind][1]
    points, _ = certified(kind)
    for alpha, n_estimator in ((1e-6, 10_000), (0.001, 200)):
        spec = of(kind, alpha=alpha, n_estimator=n_estimator)
        routed, tested = (
            int((predictions(points, spec, models, by=by) != ABSTAIN).sum())
            for by in (predict_dual, predict_by_two_tests)
        )
        print(f"{kind}, alpha = {alpha}: {routed} answers by routes, {tested} by two tests, of {len(points)}")
        assert routed >= tested - 1
    assert routed > tested + (0 if kind == "plurality" else 0.2 * len(points))


@pytest.mark.parametrize(
    "rule", [Median(0.1), Cuts((0.1, 0.1)), Plurality(0.1)], ids=["median", "cuts", "plurality"]
)
def test_a_choice_that_is_a_toss_up_is_seldom_called(rule: Estimator) -> None:
    # The first cut, or two experts, at exactly 1/2: each of the cuts has its share of the level.
    cuts = 1 if isinstance(rule, Plurality) else 2
    most = int(stats.binom.isf(ERROR, 2000, ALPHA / cuts))
    yes = np.random.default_rng(0).binomial(100, 0.5, 2000)
    votes = np.stack([yes, 100 - yes, np.zeros_like(yes)], axis=1)[:, None]
    if isinstance(rule, Cuts):
        cut = np.stack([yes, 100 - yes], axis=1)
        votes = np.stack([cut, np.broadcast_to([100, 0], cut.shape)], axis=1)
    pvalue = predict._choice_pvalue(rule, votes)
    assert (pvalue <= ALPHA).sum() <= most
    assert cuts == 1 or (pvalue / cuts <= ALPHA).sum() > most  # negative control: the whole level for each
    assert np.bincount(rule.top(votes))[:2].min() > 800  # negative control: untested, both are chosen


@pytest.mark.parametrize("experts", [2, 3, 5])
@pytest.mark.parametrize("rule", [Median, Cuts], ids=["median", "cuts"])
def test_a_choice_takes_the_worst_test_of_the_cuts_that_decide(rule: type, experts: int) -> None:
    rng, cuts = np.random.default_rng(0), experts - 1
    if rule is Median:
        votes = rng.multinomial(60, rng.dirichlet([2.0] * experts, 40))[:, None]
        yes = votes[:, 0].cumsum(axis=1)[:, :-1]
    else:
        yes = rng.binomial(60, rng.uniform(0.2, 0.8, (40, cuts)))
        votes = np.stack([yes, 60 - yes], axis=2)
    expected = []
    for row in yes:
        first = next((k for k, count in enumerate(row) if count >= 30), cuts - 1)
        expected.append(cuts * max(stats.binomtest(count, 60).pvalue for count in row[: first + 1]))
    found = predict._choice_pvalue(rule(0.1 if rule is Median else (0.1,) * cuts), votes)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


class Dice(Voter):
    """Votes for class 0 with probability p and else for 1, whatever it sees, each on a throw of its own."""

    def __init__(self, p: float, sigma: float) -> None:
        super().__init__(PLANE, GaussianNoise(sigma), classes=2, units=100)
        self.p, self.generator = p, make_generator(0, "dice")
        self.vetted = True  # dice are no function of the input, which is the point here

    def __call__(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return (torch.rand(noise.shape[:2], generator=self.generator) >= self.p).long()


def answered(choice: float, kind: float, alpha: float) -> int:
    """How many of 4000 inputs get an answer, where estimator and experts are dice."""
    spec = settings(Median(0.1), sigmas=(0.1, 0.2), n=100, n_estimator=100, alpha=alpha)
    experts = [Dice(kind, sigma) for sigma in spec.sigmas]
    return int(
        (predict_by_two_tests([Dice(choice, 0.1)], experts, torch.zeros(4000, 2), spec=spec) >= 0).sum()
    )


@pytest.mark.parametrize("dice", [(0.5, 1.0), (1.0, 0.5)], ids=["experts", "classes"])
def test_a_toss_up_between_experts_or_between_classes_gets_half_of_alpha(dice: tuple) -> None:
    """The other test is certain of its side, so that all answers are this one's to refuse."""
    most = int(stats.binom.isf(ERROR, 4000, ALPHA / 2))
    assert 200 < answered(*dice, ALPHA) <= most
    assert answered(*dice, 2 * ALPHA) > most  # negative control: all of alpha for either test


def false_answers(choice: float, kinds: tuple[float, float], alpha: float, *, n: int = 100) -> int:
    """How many of 4000 inputs get class 0, by routes; no other class is answered in these systems."""
    spec = settings(Median(0.1), sigmas=(0.1, 0.2), n=n, n_estimator=n, alpha=alpha)
    experts = [Dice(p, sigma) for p, sigma in zip(kinds, spec.sigmas, strict=True)]
    found = predict_dual([Dice(choice, 0.1)], experts, torch.zeros(4000, 2), spec=spec)
    return int((found == 0).sum())


@pytest.mark.parametrize("case", [(0.4999, (1.0, 0.4999)), (0.4999, (1.0, 0.0)), (1.0, (0.4999, 1.0))])
def test_routes_answer_falsely_with_probability_at_most_alpha(case: tuple) -> None:
    """Where the system just takes the second expert, which just gives class 1; where only one is a toss-up.

    Whether it is taken and what it says are each a test, of which one has to fail. Control: at four times the
    level, where both are tight, more are false.
    """
    most = int(stats.binom.isf(ERROR, 4000, ALPHA))
    kept, caught = (false_answers(*case, alpha) for alpha in (ALPHA, min(0.9, 4 * ALPHA)))
    print(f"{case}: {kept} and, at four times the level, {caught} of 4000 answers are false, alpha = {ALPHA}")
    assert kept <= most
    assert kept > 0.2 * ALPHA * 4000
    assert caught > most or case != (0.4999, (1.0, 0.4999))


def test_a_route_that_is_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: who may be chosen at x has to be asked. Here the second expert is, and disagrees."""
    case = 0.45, (1.0, 0.0)
    assert false_answers(*case, 0.01) <= int(stats.binom.isf(ERROR, 4000, 0.01))
    monkeypatch.setattr(Median, "entry", lambda self, votes, top, split: np.ones((len(votes), 2)))
    assert false_answers(*case, 0.01) > 400


def test_a_single_expert_needs_no_test() -> None:
    for rule in (Median(0.1), Plurality(0.1)):
        assert predict._choice_pvalue(rule, np.full((4, 1, 1), 100)).tolist() == [0.0] * 4


# Tables.


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "test").select(range(40))


def ridge(images: Images, targets: np.ndarray, noise: float) -> torch.nn.Module:
    """A linear network, fitted in closed form: it serves a noise level by its ridge."""
    pixels = images.pixels.flatten(1).double() / 255
    kinds = torch.eye(int(targets.max()) + 1, dtype=torch.float64)[torch.tensor(targets)]
    mean = pixels.mean(0)
    centred = pixels - mean
    gram = centred.T @ centred + len(pixels) * noise**2 * torch.eye(64)
    weight = torch.linalg.solve(gram, centred.T @ kinds)
    layer = torch.nn.Linear(64, kinds.shape[1])
    layer.weight.data, layer.bias.data = weight.T.float(), (kinds.mean(0) - mean @ weight).float()
    return torch.nn.Sequential(torch.nn.Flatten(), layer).eval()


LEVELS = (0.12, 0.25, 0.5)


@pytest.fixture(scope="module")
def networks() -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
    train = load_images("digits", "train")
    labels = train.labels.numpy()
    experts = [ridge(train, labels, sigma) for sigma in LEVELS]
    return [ridge(train, np.digitize(labels, [3, 7]), 0.5)], experts


def grid(**changes) -> DualSpec:
    given = {"estimator": Median(0.25), "sigmas": LEVELS, "seed": 0, "n0": 50, "n": 400, "n_estimator": 300}
    return DualSpec(**given | changes)


def table(networks: tuple, images: Images, path: Path, **changes) -> pd.DataFrame:
    called = {"spec": grid(), "progress": False} | changes
    return certify_dual_table(*networks, images, path, **called)


def assert_same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a.drop(columns="time"), b.drop(columns="time"))


def test_a_table_holds_the_votes_that_single_tables_hold(tmp_path: Path, digits, networks) -> None:
    """One table for each sigma alone, with the same seed: the same draws, so the same votes."""
    found = table(networks, digits, tmp_path / "dual.tsv")
    assert found["idx"].tolist() == list(range(40))
    assert found["label"].tolist() == digits.labels.tolist()
    asked = 0
    for expert, sigma in zip(networks[1], LEVELS, strict=True):
        spec = Spec(noise=GridNoise(sigma), seed=0, n0=50, n=400)
        single = certify_table(expert, digits, tmp_path / f"{sigma}.tsv", spec=spec, progress=False)
        those = found[f"votes_{sigma}"].notna()
        assert found[f"votes_{sigma}"][those].tolist() == single["votes"][those].tolist()
        chosen = found["sigma"] == sigma
        assert found["selection"][chosen].tolist() == single["selection"][chosen].tolist()
        assert chosen.any()
        asked += int(those.sum())
    assert 40 < asked < 120
    assert found["correct"].mean() > 0.5
    assert (found["radius"] > found["published"]).mean() > 0.1
    for row in found.to_dict("records"):
        assert both(DualCertificate.from_row(row)) == (row["radius"], row["published"])


def test_a_table_equals_the_list(tmp_path: Path, digits, networks) -> None:
    found = table(networks, digits, tmp_path / "t.tsv", skip=3, max_images=5)
    assert found["idx"].tolist() == [0, 3, 6, 9, 12]
    kinds = [
        (m, GridNoise(s), k)
        for m, s, k in zip(networks[0] + networks[1], (0.25, *LEVELS), (3, 10, 10, 10), strict=True)
    ]
    made = [Voter(model, noise, classes=k, units=2) for model, noise, k in kinds]
    rows = found["idx"].tolist()
    labels = digits.labels[rows].tolist()
    listed = certify_dual(made[:1], made[1:], digits.pixels[rows], spec=grid(), labels=labels, idx=rows)
    read = [DualCertificate.from_row(row) for row in found.to_dict("records")]
    assert [dataclasses.replace(c, seconds=0.0) for c in read] == [
        dataclasses.replace(c, seconds=0.0) for c in listed
    ]


@pytest.mark.parametrize("stop", [None, *STOPS])
def test_a_table_goes_on_where_it_stopped(tmp_path: Path, digits, networks, stop: Stopping | None) -> None:
    spec = grid(**{"stop": stop} if stop else {})
    whole = table(networks, digits, tmp_path / "whole.tsv", spec=spec)
    path = tmp_path / "cut.tsv"
    table(networks, digits, path, spec=spec, max_images=23)
    first = path.read_bytes()
    path.write_bytes(first + b"23\t4\t4\t0.3")
    assert_same(table(networks, digits, path, spec=dataclasses.replace(spec, batch=300)), whole)
    assert path.read_bytes().startswith(first)


def test_a_finished_table_is_read_and_nothing_is_frozen(tmp_path, digits, networks, monkeypatch) -> None:
    found = table(networks, digits, tmp_path / "t.tsv", max_images=4)
    monkeypatch.setattr(job, "freeze_each", None)
    assert_same(table(networks, digits, tmp_path / "t.tsv", max_images=4), found)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n": 401}, "n"),
        ({"n_estimator": 301}, "n_estimator"),
        ({"estimator": Median(0.3)}, "estimator"),
        ({"estimator": Plurality(0.25)}, "estimator, split"),
        ({"sigmas": (0.12, 0.25, 0.6)}, "sigmas"),
        ({"alpha": 0.01}, "alpha, split"),
        ({"lazy": False}, "lazy"),
        ({"stop": STOPS[1]}, "stop"),
        ({"noise": GaussianNoise}, "noise"),
        ({"dtype": torch.bfloat16}, "fast"),
    ],
)
def test_a_table_of_other_settings_is_refused_and_left_alone(
    tmp_path: Path, digits, networks, changes: dict, named: str
) -> None:
    path = tmp_path / "t.tsv"
    table(networks, digits, path, max_images=2)
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    with pytest.raises(ValueError, match=rf"certify_dual_table: .* other settings \({named}\)"):
        table(networks, digits, path, max_images=2, spec=grid(**changes))
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == before


def test_a_table_of_other_networks_is_refused_or_set_aside(tmp_path: Path, digits, networks) -> None:
    path, (estimators, experts) = tmp_path / "t.tsv", networks
    table(networks, digits, path, max_images=2)
    with pytest.raises(ValueError, match=r"other settings \(experts\)"):
        table((estimators, experts[::-1]), digits, path, max_images=2)
    one = experts[1]
    with pytest.warns(UserWarning, match=r"it is now t_old1\.tsv"):
        found = table((estimators, [one] * 3), digits, path, max_images=2, replace=True)
    assert len(found) == 2


def test_one_classifier_at_several_noise_levels(tmp_path: Path, digits, networks) -> None:
    (estimator,), (_, one, _) = networks
    found = table(([estimator], [one] * 3), digits, tmp_path / "t.tsv")
    assert found["correct"].mean() > 0.5
    assert set(found["sigma"]) == set(LEVELS)
    made = json.loads((tmp_path / "t.json").read_text())
    assert len(set(made["identity"]["experts"])) == 1
    assert made["identity"]["fast"] == FastPath(compile=False, cuda_graph=False).steps(torch.float32)
    assert [d["share"] < 0.05 for d in made["disagreement"]] == [True] * 4
    assert made["provenance"]["versions"]["torch"]


# Votes that are recorded already.


def singles(networks: tuple, images: Images, folder: Path, **changes) -> list[Path]:
    paths = [folder / f"single{sigma}.tsv" for sigma in LEVELS]
    for expert, sigma, path in zip(networks[1], LEVELS, paths, strict=True):
        spec = Spec(**{"noise": GridNoise(sigma), "seed": 0, "n0": 50, "n": 400} | changes)
        certify_table(expert, images, path, spec=spec, progress=False)
    return paths


def test_recorded_votes_give_the_very_table_that_sampling_gives(
    tmp_path: Path, digits, networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = table(networks, digits, tmp_path / "sampled.tsv")
    known = singles(networks, digits, tmp_path, alpha=0.05)  # votes do not depend on the level
    monkeypatch.setattr(dual, "SampledVotes", None)  # no expert is asked
    given = {"recorded": known}
    assert_same(table(networks, digits, tmp_path / "read.tsv", **given), sampled)
    assert_same(table(networks, digits, tmp_path / "part.tsv", max_images=9, **given), sampled.head(9))
    assert_same(table(networks, digits, tmp_path / "part.tsv", **given), sampled)  # taken up again
    made = json.loads((tmp_path / "read.json").read_text())
    assert (
        made["identity"]["recorded"] == [FastPath(compile=False, cuda_graph=False).steps(torch.float32)] * 3
    )
    assert len(made["disagreement"]) == 4
    monkeypatch.setattr(job, "freeze_each", None)
    assert_same(table(networks, digits, tmp_path / "read.tsv", **given), sampled)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seed": 1}, "seed"), ({"n": 300}, "n"), ({"n0": 60}, "n0"), ({"stop": STOPS[1]}, "stop")],
)
def test_recorded_votes_of_other_draws_are_refused(
    tmp_path: Path, digits, networks, changes: dict, named: str
) -> None:
    known = singles(networks, digits.select(range(3)), tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"single0\.12\.tsv was made with other settings \(.*{named}\b"):
        table(networks, digits.select(range(3)), tmp_path / "t.tsv", recorded=known)
    assert not (tmp_path / "t.tsv").exists()


def test_recorded_votes_of_another_network_or_of_too_few_images_are_refused(
    tmp_path: Path, digits, networks
) -> None:
    known = singles(networks, digits, tmp_path)
    with pytest.raises(ValueError, match=r"single0\.25\.tsv was made with other settings \(model, sigma\)"):
        table(networks, digits, tmp_path / "t.tsv", recorded=[known[0], known[1], known[1]])
    with pytest.raises(ValueError, match="got 2 recorded tables for 3 experts"):
        table(networks, digits, tmp_path / "t.tsv", recorded=known[:2])
    with pytest.raises(ValueError, match="where votes stop early depends on the level"):
        table(networks, digits, tmp_path / "t.tsv", recorded=known, spec=grid(stop=STOPS[0]))
    lines = known[1].read_text().splitlines(keepends=True)
    known[1].write_text("".join(lines[:-2]))
    seal("test", known[1])  # a table of fewer images
    with pytest.raises(ValueError, match=r"single0\.25\.tsv lacks 2 of 40 images, idx 38 first"):
        table(networks, digits, tmp_path / "t.tsv", recorded=known)
    assert not (tmp_path / "t.tsv").exists()


# Settings.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigmas": (0.25, 0.12, 0.25)}, "different sigmas"),
        ({"sigmas": ()}, "different sigmas"),
        ({"alpha": 0.0}, "got alpha 0.0; wanted a number > 0 and < 1"),
        ({"n_estimator": 0}, "got n_estimator 0; wanted a whole number >= 1"),
        ({"estimator": Cuts((0.25,))}, "1 cuts part 2 experts, got 3"),
        ({"split": Median(0.25).split(2, 0.001)}, "2 levels for the estimator, 3 for the experts"),
        ({"split": Plurality(0.25).split(3, 0.001)}, "2 levels for the estimator, 3 for the experts"),
        ({"split": Median(0.25).split(3, 0.01)}, "a split of alpha = 0.001"),
        (
            {"split": Split(alpha=0.001, lower=(1e-4,) * 2, upper=(1e-4,) * 2, experts=(1e-4,) * 3)},
            "with guessed_apart",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(**changes)


def test_a_split_of_ones_own_is_used_and_recorded() -> None:
    """Nearly all for the experts: larger expert radii, smaller entry radii."""
    points = certified("median")[0][:10]
    even = settings(Median(0.1), alpha=0.001)
    level = 0.98 * 0.001
    own = Split(alpha=0.001, lower=(5e-6,) * 2, upper=(1e-5,) * 2, experts=(level,) * 3, guessed_apart=True)
    for a, b in zip(
        system(points, even, [ONE]), system(points, dataclasses.replace(even, split=own), [ONE]), strict=True
    ):
        assert b.split == own
        assert b.routes.experts[b.top] >= a.routes.experts[a.top]
        assert (b.routes.entry <= a.routes.entry).all()


def test_voters_that_do_not_fit_are_refused() -> None:
    spec, x = settings(Median(0.1)), torch.zeros((2, 2), dtype=torch.float64)
    choosers, pool = voters([ONE], [0.1], 3), voters([PLANE] * 3, SIGMAS, 3)
    with pytest.raises(ValueError, match="got 1 estimators and 2 experts"):
        certify_dual(choosers, pool[:2], x, spec=spec)
    with pytest.raises(ValueError, match="got 2 estimators and 3 experts"):
        certify_dual(choosers * 2, pool, x, spec=spec)
    with pytest.raises(ValueError, match=r"wanted voters for \(noise, classes\)"):
        certify_dual(choosers, pool[::-1], x, spec=spec)
    with pytest.raises(ValueError, match=r"wanted voters for \(noise, classes\)"):
        certify_dual(voters([ONE], [0.1], 2), pool, x, spec=spec)
    with pytest.raises(ValueError, match="2 inputs, 3 labels, 2 indices"):
        certify_dual(choosers, pool, x, spec=spec, labels=[0, 1, 2])
