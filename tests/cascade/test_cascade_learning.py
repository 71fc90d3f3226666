"""Who is asked and from where on, learnt from votes: what it promises is what certificates of them give."""

from itertools import product

import numpy as np
import pytest

from dualrs_lab.cascade import (
    MOST,
    THRESHOLDS,
    Cascade,
    CascadeFront,
    cascade_front,
    steps,
)

RADII, SIGMAS = (0.0, 0.25, 0.5, 0.75, 1.0), (0.25, 1.0, 0.5)  # out of order


def made(images: int = 80, seed: int = 0, draws: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(4, 0.4), size=(images, len(SIGMAS)))
    labels = p.sum(axis=1).argmax(axis=1)
    return rng.multinomial(draws, p), labels


def as_if(counts: np.ndarray, labels: np.ndarray, draws: int) -> np.ndarray:
    """Votes (N, K, C) with the label's rounded down and the others' up, as if so many had been drawn."""
    share = (counts + 0.5) / (counts.sum(axis=2, keepdims=True) + 1) * draws
    mine = np.arange(counts.shape[2]) == labels[:, None, None]
    return np.where(mine, np.floor(share), np.ceil(share)).astype(int)


def test_every_setting_is_there_and_says_what_the_theorem_gives() -> None:
    counts, labels = made()
    limits = (-0.2, 0.0, 0.3)
    front = cascade_front(counts, labels, SIGMAS, radii=RADII, draws=2000, alpha=0.01, thresholds=limits)
    # each of three is left out or at one of three thresholds; of K > 1 experts, K + 1 ways to share
    kinds = [sum(limit is not None for limit in one) for one in product((None, *limits), repeat=3)]
    assert len(front.cascades) == sum(1 if kind == 1 else kind + 1 for kind in kinds if kind)
    assert len({*front.cascades}) == len(front.cascades)
    assert all(cascade.sigmas == tuple(sorted(cascade.sigmas)[::-1]) for cascade in front.cascades)
    assert {max(cascade.shares, default=MOST) for cascade in front.cascades} == {MOST}
    votes = as_if(counts, labels, 2000)
    for number in range(0, len(front.cascades), 7):
        cascade = front.cascades[number]
        asked = votes[:, [SIGMAS.index(sigma) for sigma in cascade.sigmas]]
        own = np.take_along_axis(asked, labels[:, None, None], axis=2)[..., 0]
        rival = np.where(np.arange(4) == labels[:, None, None], 0, asked).max(axis=2)
        rest = np.maximum(2000 - own - rival, 0)
        pair = np.stack([own, rival, rest // 2, rest - rest // 2], axis=2)  # what `steps` reads of them
        pair[..., 0] -= pair.sum(axis=2) - 2000  # rounded up, the others may have one vote too many
        want = steps(pair, np.zeros(80, dtype=int), cascade=cascade, alpha=0.01)
        curve = [(want.radius > r).mean() for r in RADII]
        assert front.curves[number] == pytest.approx(curve)


def test_one_that_says_nothing_hands_on_at_no_cost() -> None:
    """An expert with large radii that is silent on half of the images, and one with small ones on none."""
    rng, half = np.random.default_rng(1), np.arange(200) % 2 == 0
    sure = rng.multinomial(1000, [0.98, 0.01, 0.01], size=200)
    silent = rng.multinomial(1000, [0.4, 0.35, 0.25], size=200)
    counts = np.stack([np.where(half[:, None], sure, silent), sure], axis=1)
    front = cascade_front(counts, np.zeros(200, dtype=int), (1.0, 0.25), radii=RADII)
    best = front.cascades[front.best((1, 1, 1, 1, 1))]
    assert best.sigmas == (1.0, 0.25)
    curve = front.curves[front.best((1, 1, 1, 1, 1))]
    assert curve[0] == 1.0
    assert curve[-1] == 0.5
    alone = front.cascades.index(Cascade((1.0,), (0.0,)))
    assert (curve >= front.curves[alone]).all()
    assert front.curves[alone][0] == 0.5


def test_weights_choose_and_the_undominated_are_all_that_could_be_chosen() -> None:
    counts, labels = made(seed=2)
    front = cascade_front(counts, labels, SIGMAS, radii=RADII, thresholds=(-0.2, 0.0, 0.3))
    small, large = np.array([1, 1, 0, 0, 0.0]), np.array([0, 0, 0, 1, 1.0])
    kept = front.undominated([small, large])
    goals = front.curves @ np.stack([small, large], axis=1)
    for number in range(len(goals)):
        better = (goals >= goals[number]).all(axis=1) & (goals > goals[number]).any(axis=1)
        reached = (goals[kept] >= goals[number]).all(axis=1)
        assert reached.any()
        assert not (number in kept and better.any())
    for mix in np.linspace(0, 1, 11):
        worth = goals[front.best(mix * small + (1 - mix) * large)] @ [mix, 1 - mix]
        assert worth == pytest.approx((goals[kept] @ [mix, 1 - mix]).max())


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"labels": np.zeros(3, dtype=int)}, "wanted \\(N, K, C\\)"),
        ({"sigmas": (0.5, 0.25)}, "wanted \\(N, K, C\\)"),
        ({"counts": np.zeros((80, 3, 4), dtype=int)}, "votes about each image"),
        ({"labels": np.full(80, 4)}, "wanted one of the 4 classes"),
        ({"sigmas": (0.5, 0.25, -1.0)}, "different positive sigmas"),
        ({"thresholds": (np.nan,)}, "finite threshold"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, wanted: str) -> None:
    counts, labels = made()
    given = {"counts": counts, "labels": labels, "sigmas": SIGMAS, "radii": RADII} | changes
    with pytest.raises(ValueError, match=wanted):
        cascade_front(**given)


def test_weights_that_do_not_fit_are_refused() -> None:
    front = CascadeFront(RADII, (Cascade((0.5,)),), np.ones((1, 5)))
    for weights in ((1, 1), (0, 0, 0, 0, 0), (1, 1, 1, 1, -1), (1, 1, 1, 1, np.inf)):
        with pytest.raises(ValueError, match="as many weights >= 0, not all 0"):
            front.best(weights)


def test_the_grid_holds_a_majority_and_less_and_more() -> None:
    assert 0.0 in THRESHOLDS
    assert min(THRESHOLDS) < 0 < max(THRESHOLDS)
