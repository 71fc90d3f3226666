"""Experts that are silent on some draws: the theorem on exact systems, the level, and what silence is not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special, stats

from dualrs_lab.cascade import (
    Cascade,
    CascadeCertificate,
    CascadeSpec,
    cascade_radius,
    certify_cascade,
    first_to_accept,
    steps,
)
from dualrs_lab.evidence import ABSTAIN, frame, lower_bound, read_table, upper_bound, write_table
from dualrs_lab.lessons import lesson_plane, sample_points
from dualrs_lab.smoothing import GaussianNoise, Voter

PLANE, SIGMAS = lesson_plane(), (0.25, 0.07, 0.02)
ANSWERS = 2  # where the plane says its third class, the base classifier is silent
CASCADES = [
    Cascade(SIGMAS, answers=ANSWERS),
    Cascade(SIGMAS, (0.03, 0.01, 0.0), answers=ANSWERS),
    Cascade(SIGMAS, (-0.1, -0.05, -0.02), answers=ANSWERS),
    Cascade((0.07, 0.25), (0.02, 0.0), (0.9, 0.1), ANSWERS),
]
Chances = Callable[[np.ndarray, Cascade], np.ndarray]


def spoken(points: np.ndarray, cascade: Cascade) -> np.ndarray:
    """Exact probabilities (N, K, 2) of both classes, over all copies."""
    p = np.stack([PLANE.probabilities(points, sigma)[:, :ANSWERS] for sigma in cascade.sigmas], axis=1)
    return np.clip(p, 1e-12, 1 - 1e-12)


def given_it_speaks(points: np.ndarray, cascade: Cascade) -> np.ndarray:
    """The same, as if silent copies had not been made: what must not be used."""
    p = spoken(points, cascade)
    return np.clip(p / p.sum(axis=2, keepdims=True), 1e-12, 1 - 1e-12)


def answers(points: np.ndarray, cascade: Cascade, chances: Chances = spoken) -> np.ndarray:
    """g (N,) by its definition."""
    p, found = chances(points, cascade), np.full(len(points), ABSTAIN)
    for j in reversed(range(len(cascade.sigmas))):
        accepts = cascade.sigmas[j] * special.ndtri(p[:, j].max(axis=1)) >= cascade.limits[j]
        found = np.where(accepts, p[:, j].argmax(axis=1), found)
    return found


def radii(points: np.ndarray, y: np.ndarray, cascade: Cascade, chances: Chances = spoken) -> np.ndarray:
    """The radius (N,) of the theorem from exact probabilities; of two classes the rival is the other one."""
    p, rows = chances(points, cascade), np.arange(len(points))
    sigma, limit = np.array(cascade.sigmas), np.array(cascade.limits)
    mine, theirs = sigma * special.ndtri(p[rows, :, y]), sigma * special.ndtri(p[rows, :, 1 - y])
    half = (mine - theirs) / 2
    return cascade_radius(np.minimum(mine - limit, half), np.maximum(limit - theirs, half))


def others_in_the_ball(
    points: np.ndarray, y: np.ndarray, radius: np.ndarray, cascade: Cascade, chances: Chances = spoken
) -> np.ndarray:
    """Which (N,) have another answer than y at one of 720 places within their radius."""
    angle = np.linspace(-np.pi, np.pi, 72, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    reach = radius[:, None, None, None] * np.linspace(0, 1 - 1e-6, 10)[:, None, None]
    said = answers((points[:, None, None] + reach * ring).reshape(-1, 2), cascade, chances)
    return (said.reshape(len(points), -1) != y[:, None]).any(axis=1) & (radius > 0)


@pytest.mark.parametrize("cascade", CASCADES, ids=str)
def test_the_exact_system_keeps_its_answer_within_the_radius(cascade: Cascade) -> None:
    points, _ = sample_points(PLANE, 600, seed=3)
    y = answers(points, cascade)
    points, y = points[y != ABSTAIN], y[y != ABSTAIN]
    found = radii(points, y, cascade)
    assert len(points) > 250
    assert (found > 0).mean() > 0.9
    assert not others_in_the_ball(points, y, np.maximum(found, 0), cascade).any()


@pytest.mark.parametrize("cascade", CASCADES[:2], ids=str)
def test_to_leave_silent_copies_out_is_false_somewhere(cascade: Cascade) -> None:
    """Negative control: a share of the copies that speak is no Lipschitz function, of whichever system."""
    points, _ = sample_points(PLANE, 600, seed=3)
    for chances in (spoken, given_it_speaks):
        y = answers(points, cascade, chances)
        own = y != ABSTAIN
        claimed = np.maximum(radii(points[own], y[own], cascade, given_it_speaks), 0)
        assert others_in_the_ball(points[own], y[own], claimed, cascade, chances).mean() > 0.05


@pytest.mark.parametrize("cascade", CASCADES, ids=str)
def test_what_votes_certify_holds_everywhere_in_the_ball(cascade: Cascade) -> None:
    points, _ = sample_points(PLANE, 60, seed=4)
    spec = CascadeSpec(
        cascade=cascade, seed=0, n=4000, n_side=1000, alpha=1e-6, noise=GaussianNoise
    )  # a fault would be no bad luck
    voters = [
        Voter(PLANE, GaussianNoise(sigma), classes=3, units=8, dtype=torch.float64)
        for sigma in cascade.sigmas
    ]
    found = frame(certify_cascade(voters, torch.tensor(points), spec=spec))
    claims, radius = found["predict"].to_numpy(), found["radius"].to_numpy()
    sure = radius > 0
    assert sure.mean() > 0.3
    assert not others_in_the_ball(points, claims, radius, cascade).any()
    assert (claims[sure] == answers(points[sure], cascade)).all()
    assert claims.max() < ANSWERS
    heard = found[[name for name in found if name.startswith("votes_")]]
    assert heard.apply(lambda cells: cells.str.contains("2:", na=False)).any(axis=None)
    assert tuple(found) == CascadeCertificate.columns(cascade)


def test_voters_of_different_numbers_of_classes_need_to_know_which_are_answers() -> None:
    points, spec = sample_points(PLANE, 8, seed=4)[0], {"seed": 0, "n": 300, "noise": GaussianNoise}

    def certified(cascade: Cascade, kinds: tuple[int, ...]) -> list[CascadeCertificate]:
        voters = [
            Voter(
                lambda x, c=c: PLANE(x)[:, :c], GaussianNoise(sigma), classes=c, units=8, dtype=torch.float64
            )
            for sigma, c in zip(cascade.sigmas, kinds, strict=True)
        ]
        return certify_cascade(voters, torch.tensor(points), spec=CascadeSpec(cascade=cascade, **spec))

    with pytest.raises(ValueError, match="got voters of 2 and 3 classes; wanted one number"):
        certified(Cascade(SIGMAS), (3, 2, 2))
    mixed = certified(Cascade(SIGMAS, answers=2), (3, 2, 2))
    assert {kind for one in mixed for votes in one.selection[1:] for kind, _ in votes} <= {0, 1}
    assert {kind for one in mixed for kind, _ in one.selection[0]} == {0, 1, 2}


# Bounds by hand: what fails if silence were a rival, or no trial.


@pytest.mark.parametrize("limit", [0.0, 0.1, -0.3])
def test_silence_is_a_trial_and_neither_an_answer_nor_a_rival(limit: float) -> None:
    votes = np.array([[[300, 20, 680], [900, 60, 40]]])  # the first is silent more often than not
    cascade, y = Cascade((1.0, 0.5), (limit, 0.0), answers=2), np.array([0])
    found, (level, other) = steps(votes, y, cascade=cascade, alpha=0.01), cascade.levels(0.01)
    low, high = lower_bound(300, 1000, level), upper_bound(20, 1000, level)
    mine, theirs = special.ndtri(low), special.ndtri(high)
    half = (mine - theirs) / 2
    assert found.accepts[0, 0] == pytest.approx(min(mine - limit, half))
    assert found.errs[0, 0] == pytest.approx(limit - theirs if limit >= 0 else max(limit - theirs, half))
    assert found.errs[0, 0] > 1  # it does no harm
    own = 0.5 * special.ndtri(lower_bound(900, 1000, other))
    assert found.accepts[0, 1] == pytest.approx(own)
    assert found.radius[0] == pytest.approx(own)
    # Silence as a rival, as of three answers, errs almost at once.
    plain = steps(votes, y, cascade=Cascade((1.0, 0.5), (limit, 0.0)), alpha=0.01)
    assert plain.errs[0, 0] < 0.1
    assert plain.radius[0] < found.radius[0] - 0.2


def test_the_guess_is_the_first_class_that_has_its_share_of_all_draws() -> None:
    votes = np.array([[[40, 5, 55], [20, 70, 10]], [[60, 30, 10], [0, 100, 0]], [[0, 0, 100], [0, 0, 100]]])
    expert, kind = first_to_accept(votes, Cascade((1.0, 0.5), answers=2))
    assert expert.tolist() == [1, 0, ABSTAIN]
    assert kind.tolist() == [1, 0, ABSTAIN]
    low = first_to_accept(votes, Cascade((1.0, 0.5), (-1.0, -9.0), answers=2))
    assert low[0].tolist() == [0, 0, ABSTAIN]  # who says nothing accepts nothing, whatever its threshold
    assert low[1].tolist() == [0, 0, ABSTAIN]
    for answers_ in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="wanted how many classes are answers"):
            Cascade((1.0,), answers=answers_)


# The level, where all of it is spent.

ALPHA, RUNS, N = 0.2, 4000, 400
HARD = {  # probabilities (K, C + 1), the last one of silence
    "silence of all": (np.array([[0.62, 0.08, 0.3], [0.62, 0.08, 0.3]]), (0.0, 0.0)),
    "errs": (np.array([[0.35, 0.2, 0.45], [0.3, 0.4, 0.3]]), (0.0, 0.0)),
    "below a majority": (np.array([[0.3, 0.2, 0.5]]), (-9.0,)),
}


def violations(p: np.ndarray, limits: tuple[float, ...], alpha: float, *, left_out: bool = False) -> int:
    """How often the radius from votes exceeds the one from exact probabilities, for class 0.

    With `left_out`, silent draws are taken as not made.
    """
    cascade = Cascade((0.5, 0.5 * (1 + 1e-9))[: len(p)], limits, answers=2)
    rng = np.random.default_rng(1)
    votes = np.stack([rng.multinomial(N, row, size=RUNS) for row in p], axis=1)
    sigma, limit = np.array(cascade.sigmas), np.array(cascade.limits)
    mine, theirs = sigma * special.ndtri(p[:, 0]), sigma * special.ndtri(p[:, 1])
    half = (mine - theirs) / 2
    true = cascade_radius(np.minimum(mine - limit, half), np.maximum(limit - theirs, half))
    counted = votes[..., :2] if left_out else votes
    found = steps(counted, np.zeros(RUNS, dtype=np.int64), cascade=cascade, alpha=alpha).radius
    return int((found > true + 1e-12).sum())


MOST = int(stats.binom.isf(1e-3, RUNS, ALPHA))
"""More violations than these refute "at most alpha", wrongly with probability at most 1e-3."""


@pytest.mark.parametrize("name", HARD)
def test_the_level_holds_where_some_draws_are_silent(name: str) -> None:
    failing = violations(*HARD[name], ALPHA)
    print(f"{name}: {failing} of {RUNS} claim too much, alpha = {ALPHA}")
    assert failing <= MOST


def test_silent_draws_that_are_left_out_break_the_level() -> None:
    """Negative control: divided by the draws that speak, nearly every claim is too much."""
    assert violations(*HARD["silence of all"], ALPHA, left_out=True) > 0.9 * RUNS
    assert violations(*HARD["silence of all"], 4 * ALPHA) > MOST


# The same draws, asked twice.

TWICE = {  # sure of class 0 and 1, unsure of both, at sigma 0.5; class 0 and 1 at sigma 1; thresholds
    "silence of all": (
        (0.5, 0.05, 0.24, 0.21),
        (special.ndtr(special.ndtri(0.74) / 2), 0.2),
        (0.0, 0.0, 0.0),
    ),
    "the last errs": ((0.2, 0.1, 0.15, 0.55), (0.45, 0.3), (0.1, 0.0, 0.0)),
    "the first errs, below a majority": ((0.3, 0.32, 0.28, 0.1), (0.5, 0.4), (-0.4, 0.2, -0.2)),
}


def violations_twice(name: str, alpha: float) -> int:
    """As `violations`, of a network that is asked again with every vote, from the draws it had before."""
    often, other, limits = TWICE[name]
    cascade = Cascade((0.5, 1.0, 0.5), limits, answers=2, confidences=(0.6, 0.0, 0.0))
    rng = np.random.default_rng(2)
    draws = rng.multinomial(N, often, size=RUNS)
    beside = rng.multinomial(N, (*other, 1 - sum(other)), size=RUNS)
    first = np.stack([draws[:, 0], draws[:, 1], draws[:, 2] + draws[:, 3]], axis=1)
    again = np.stack([draws[:, 0] + draws[:, 2], draws[:, 1] + draws[:, 3], 0 * draws[:, 0]], axis=1)
    votes = np.stack([first, beside, again], axis=1)
    exact = np.array([often[:2], other, (often[0] + often[2], often[1] + often[3])])
    sigma, limit = np.array(cascade.sigmas), np.array(limits)
    mine, theirs = (sigma * special.ndtri(p) for p in exact.T)
    half = (mine - theirs) / 2
    true = cascade_radius(np.minimum(mine - limit, half), np.maximum(limit - theirs, half))
    found = steps(votes, np.zeros(RUNS, dtype=np.int64), cascade=cascade, alpha=alpha).radius
    return int((found > true + 1e-12).sum())


@pytest.mark.parametrize("name", TWICE)
def test_the_level_holds_where_draws_are_asked_twice(name: str) -> None:
    failing = violations_twice(name, ALPHA)
    print(f"{name}: {failing} of {RUNS} claim too much, alpha = {ALPHA}")
    assert failing <= MOST


def test_a_level_that_is_spent_for_each_expert_anew_is_caught() -> None:
    """Negative control: bounds that fail with probability alpha each, as if they were one."""
    assert violations_twice("silence of all", 3 * ALPHA) > MOST


def plainly(points: np.ndarray, cascade: Cascade) -> np.ndarray:
    """Exact probabilities (N, K, 2): one that is never silent takes what it is unsure of for class 1."""
    p = np.stack([PLANE.probabilities(points, sigma) for sigma in cascade.sigmas], axis=1)
    unsure = np.where(np.array(cascade.sure)[:, None] > 0, 0, p[..., 2:])
    both = np.concatenate([p[..., :1], p[..., 1:2] + unsure], axis=2)
    return np.clip(both, 1e-12, 1 - 1e-12)


@pytest.mark.parametrize("limits", [(0.05, 0.0, 0.0), (0.0, 0.03, -0.02), (-0.02, 0.0, 0.0)])
def test_the_exact_system_that_asks_twice_keeps_its_answer(limits: tuple[float, ...]) -> None:
    cascade = Cascade((0.07, 0.25, 0.07), limits, answers=ANSWERS, confidences=(0.5, 0.5, 0.0))
    points, _ = sample_points(PLANE, 600, seed=5)
    y = answers(points, cascade, plainly)
    points, y = points[y != ABSTAIN], y[y != ABSTAIN]
    found = radii(points, y, cascade, plainly)
    assert len(points) > 250
    assert (found > 0).mean() > 0.9
    assert not others_in_the_ball(points, y, np.maximum(found, 0), cascade, plainly).any()


# Rows.


def test_rows_say_how_many_are_answers_and_give_every_certificate_back(tmp_path) -> None:
    rng, cascade = np.random.default_rng(0), Cascade((1.0, 0.5), (0.1, -0.02), (0.9, 0.1), 3)
    made = []
    for idx in range(60):
        p = rng.dirichlet(np.full(4, 0.5), 2)
        how = {"idx": idx, "label": int(p[0].argmax()) % 3, "alpha": 0.01, "seed": 3, "seconds": 0.1}
        votes = rng.multinomial(50, p), rng.multinomial(1000, p)
        made.append(CascadeCertificate.from_votes(*votes, cascade, **how))
    table = frame(made)
    assert tuple(table) == CascadeCertificate.columns(cascade)
    assert {*table["answers"]} == {3}
    assert {one.guess for one in made} <= {ABSTAIN, 0, 1, 2}
    assert [CascadeCertificate.from_row(row) for row in table.to_dict("records")] == made
    write_table(tmp_path / "t.tsv", table)
    assert read_table(tmp_path / "t.tsv").equals(table)
    for forged in (4, 2, 1, 0):
        write_table(tmp_path / "f.tsv", table.assign(answers=forged))
        with pytest.raises(ValueError, match=r"its votes give|wanted answers >= 1"):
            read_table(tmp_path / "f.tsv")


def test_without_silence_nothing_is_said_of_answers() -> None:
    plain = Cascade((1.0, 0.5), (0.1, 0.0))
    assert plain.settings() == {"sigmas": (1.0, 0.5), "thresholds": (0.1, 0.0)}
    assert Cascade((1.0, 0.5), answers=7).settings()["answers"] == 7
    assert not {"answers", "sure"} & {*CascadeCertificate.columns(plain)}


def test_classes_that_nobody_voted_for_do_not_make_silence_an_answer(tmp_path) -> None:
    """Tables are judged by the classes that occur in them: of 5 answers here 0 and 3, beside silence."""
    cascade = Cascade((1.0, 0.5), answers=5)
    votes = np.array([[100, 0, 0, 50, 0, 850], [20, 0, 0, 970, 0, 10]])
    how = {"idx": 0, "label": 3, "alpha": 0.01, "seed": 3, "seconds": 0.1}
    made = CascadeCertificate.from_votes(votes // 10, votes, cascade, **how)
    assert made.predict == 3
    write_table(tmp_path / "t.tsv", frame([made]))
    assert read_table(tmp_path / "t.tsv")["radius"].tolist() == [made.radius]
