"""When an image stops, what it keeps, and that the rules are what their settings say."""

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import pytest

from dualrs_lab.evidence import (
    anytime_lower_bound,
    anytime_upper_bound,
    enough_draws,
    lower_bound,
    rs_radius,
    ruled_radius,
    upper_bound,
)
from dualrs_lab.smoothing import AllDraws, AtRadii, InputSpecific, Stopping, Watch

SETTINGS = {"n": 20_000, "alpha": 0.001, "sigma": 0.5, "rule": "cohen"}
TWO = SETTINGS | {"rule": "two-bounds"}
RULES = [AllDraws(), AtRadii(), InputSpecific()]


def _blocks(shares: list[float], blocks: int = 200, seed: int = 0) -> np.ndarray:
    """Cumulative counts (blocks, I, 3) of images whose class 1 gets these shares of the votes."""
    chances = [[(1 - share) * 0.75, share, (1 - share) * 0.25] for share in shares]
    rng = np.random.default_rng(seed)
    return rng.multinomial(100, chances, size=(blocks, len(shares))).cumsum(axis=0)


def _run(watch: Watch, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws (I,) until each image is done and its evidence (I, K), as an engine asks for them."""
    images, drawn = np.arange(counts.shape[1]), np.zeros(counts.shape[1], dtype=np.int64)
    evidence = np.zeros_like(counts[0])
    for block in counts:
        done = watch.done(images, block[images])
        for image in images[done]:
            drawn[image], evidence[image] = block[image].sum(), watch.evidence(int(image), block[image])
        images = images[~done]
        if not len(images):
            break
    assert not len(images)
    return drawn, evidence


def _selection(images: int, draws: int = 100, share: float = 0.9) -> np.ndarray:
    votes = round(draws * share)
    return np.tile([0, votes, draws - votes], (images, 1))


def test_all_draws_are_all_draws_and_all_are_evidence() -> None:
    counts = _blocks([0.99, 0.2])
    watch = AllDraws().watch(_selection(2), **SETTINGS)
    drawn, evidence = _run(watch, counts)
    assert drawn.tolist() == watch.draws.tolist() == [20_000, 20_000]
    np.testing.assert_array_equal(evidence, counts[-1])


@pytest.mark.parametrize(("rule", "selected"), [(AllDraws(), 100), (AtRadii(), 100), (InputSpecific(), 1000)])
def test_selection_draws(rule: Stopping, selected: int) -> None:
    assert rule.selection(100) == selected
    assert rule.selection(5000) == 5000


@pytest.mark.parametrize("rule", RULES)
def test_rules_are_plain_values(rule: Stopping) -> None:
    assert type(rule)(**json.loads(json.dumps(dataclasses.asdict(rule)))) == rule
    assert "bound" not in dataclasses.asdict(rule)
    assert hash(rule) == hash(dataclasses.replace(rule))


@pytest.mark.parametrize("radii", [(), (-0.25,), (0.5, 0.25), (0.25, 0.25), (np.inf,), (np.nan,)])
def test_radii_that_make_no_sense_are_refused(radii: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"AtRadii: wanted finite radii >= 0, each once, ascending.*got"):
        AtRadii(radii=radii)


def test_other_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0 < futility < 1; got AtRadii\(.*futility=0"):
        AtRadii(futility=0)
    with pytest.raises(ValueError, match=r"InputSpecific: got pilot 0; wanted a whole number >= 1"):
        InputSpecific(pilot=0)
    with pytest.raises(ValueError, match=r"InputSpecific: got least 0; wanted a whole number >= 1"):
        InputSpecific(least=0)
    with pytest.raises(ValueError, match=r"InputSpecific: got loss -1; wanted a number > 0"):
        InputSpecific(loss=-1)


SHARES = [1.0, 0.999, 0.99, 0.95, 0.85, 0.75, 0.66, 0.55, 0.5, 0.3, 0.0]
RADII = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5)


def _prefixes(counts: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """For each image its number, its votes and draws block by block, and its lower bounds (blocks,)."""
    for image in range(counts.shape[1]):
        votes, draws = counts[:, image, 1], counts[:, image].sum(axis=1)
        yield image, votes, draws, anytime_lower_bound(votes, draws, SETTINGS["alpha"])


def _reached(p: float, radius: float) -> bool:
    return p > 0.5 and rs_radius(p, SETTINGS["sigma"]) >= radius


@pytest.mark.parametrize("futility", [0.001, 0.05])
def test_an_image_is_done_when_every_radius_is_settled_and_not_before(futility: float) -> None:
    counts = _blocks(SHARES)
    rule = AtRadii(radii=RADII, futility=futility)
    drawn, evidence = _run(rule.watch(_selection(len(SHARES)), **SETTINGS), counts)
    assert len(set(drawn.tolist())) > 5
    assert drawn.max() < 20_000
    for image, votes, draws, low in _prefixes(counts):
        high = np.minimum.accumulate(anytime_upper_bound(votes, draws, rule.futility))
        before = np.concatenate([[1.0], high[:-1]])
        left = SETTINGS["n"] - draws
        hope = anytime_lower_bound(votes + np.ceil(left * before), SETTINGS["n"], SETTINGS["alpha"])
        best = np.maximum.accumulate(low)
        settled = [
            all(_reached(best[t], r) or not _reached(min(high[t], hope[t]), r) for r in RADII)
            for t in range(len(draws))
        ]
        assert draws[settled.index(True)] == drawn[image]
        successes = evidence[image, 1]
        assert anytime_lower_bound(successes, evidence[image].sum(), 0.001) == pytest.approx(
            best[settled.index(True)], rel=1e-14
        )


@pytest.mark.parametrize("rule", ["two-bounds", "selected"])
def test_two_bounds_settle_radii_and_their_evidence_reproduces_them(rule: str) -> None:
    """An image is done when every radius is reached or out of reach, and not a block before; the votes that
    it leaves give the largest radius that any prefix gave.
    """
    counts, told = _blocks(SHARES), SETTINGS | {"rule": rule}
    selection = _selection(len(SHARES))
    selection[::2] = [0, 100, 0]  # unanimous
    drawn, evidence = _run(AtRadii(radii=RADII).watch(selection, **told), counts)
    bounds = anytime_lower_bound, anytime_upper_bound
    both = {"bounds": bounds, "unanimous": selection.max(axis=1) == 100}

    def radii(votes: np.ndarray) -> np.ndarray:
        own, rival = votes[..., 1], votes[..., [0, 2]].max(axis=-1)
        return ruled_radius(rule, own, rival, votes.sum(axis=-1), 0.001, 0.5, **both)

    each = radii(counts)  # (blocks, I)
    blocks = drawn // 100
    best = np.array([each[:b, i].max() for i, b in enumerate(blocks)])
    np.testing.assert_allclose(radii(evidence), best, rtol=1e-12)
    whole = np.maximum.accumulate(each)[-1]
    assert drawn.mean() < 0.6 * counts[-1].sum(axis=1).mean()
    grid = np.array(RADII)
    lost = (whole[:, None] >= grid).sum(axis=1) - (best[:, None] >= grid).sum(axis=1)
    assert (lost <= 1).all()  # given up in vain seldom, and one radius at most
    assert (lost > 0).mean() < 0.2
    enough = grid.max() <= best
    assert all(each[b - 2, i] < grid.max() for i, b in enumerate(blocks) if enough[i] and b > 1)


def test_two_bounds_settle_what_the_rest_cannot() -> None:
    """A class with 0.55 of the votes, the others with half of the rest each: two bounds reach 0.1, soon."""
    chance = np.random.default_rng(1)
    counts = chance.multinomial(100, [[0.225, 0.55, 0.225]], size=(200, 1)).cumsum(axis=0)
    found = {
        told["rule"]: _run(AtRadii(radii=(0.1,)).watch(_selection(1), **told), counts)
        for told in (SETTINGS, TWO)
    }
    assert found["two-bounds"][0][0] < found["cohen"][0][0]
    bounds = anytime_lower_bound, anytime_upper_bound
    reached = {
        rule: ruled_radius(rule, votes[0, 1], votes[0, [0, 2]].max(), votes.sum(), 0.001, 0.5, bounds=bounds)
        for rule, (_, votes) in found.items()
    }
    assert reached["two-bounds"] >= 0.1 > reached["cohen"]


@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_input_specific_draws_by_two_bounds_lose_at_most_the_loss(loss: float) -> None:
    pilot = np.array([[0, 1000, 0], [10, 980, 10], [100, 800, 100], [200, 450, 350], [300, 520, 180]])
    watch = InputSpecific(loss=loss).watch(pilot, **TWO)
    share, rival = pilot[:, 1] / 1000, pilot[:, [0, 2]].max(axis=1) / 1000

    def radius(draws: np.ndarray | int) -> np.ndarray:
        own, theirs = np.floor(share * draws + 1e-9), np.ceil(rival * draws - 1e-9)
        return ruled_radius("two-bounds", own, theirs, draws, 0.001, 1.0)

    assert np.all(radius(watch.draws) >= radius(20_000) - loss)
    assert np.all(radius(watch.draws) > 0)
    fewer = np.maximum(watch.draws - 100, 1)
    assert np.all((radius(20_000) - radius(fewer) > loss) | (radius(fewer) == 0))
    assert np.any(watch.draws < InputSpecific(loss=loss).watch(pilot, **SETTINGS).draws)


def test_what_was_certified_is_kept_when_the_votes_turn() -> None:
    """1000 votes for the class, then none: the claim of the first thousand holds at all times."""
    good = np.tile([0, 100, 0], (10, 1))
    counts = np.concatenate([good, np.tile([100, 0, 0], (190, 1))]).cumsum(axis=0)[:, None]
    watch = AtRadii(radii=(0.25, 1.5)).watch(_selection(1), **SETTINGS)
    drawn, evidence = _run(watch, counts)
    assert drawn[0] > 1000
    assert evidence.tolist() == [[0, 1000, 0]]


def test_the_class_in_question_is_the_leader_of_the_selection_the_lowest_on_ties() -> None:
    counts = np.tile([0, 100, 0], (200, 2, 1)).cumsum(axis=0)
    watch = AtRadii().watch(np.array([[50, 50, 0], [0, 51, 49]]), **SETTINGS)
    drawn, evidence = _run(watch, counts)
    assert drawn[0] == 100  # class 0 has not one vote
    assert drawn[1] > 100
    assert evidence.sum(axis=1)[1] == drawn[1]


def test_radii_beyond_what_n_draws_can_show_do_not_hold_an_image() -> None:
    counts = _blocks([1.0])
    for radii in ((0.5,), (0.5, 5.0), (0.5, 5.0, 1e9)):
        drawn, _ = _run(AtRadii(radii=radii).watch(_selection(1), **SETTINGS), counts)
        assert drawn[0] == 100
    drawn, evidence = _run(AtRadii(radii=(5.0,)).watch(_selection(1), **SETTINGS), counts)
    assert drawn.tolist() == evidence.sum(axis=1).tolist() == [100]


def test_one_image_does_not_change_another() -> None:
    counts = _blocks(SHARES)
    together, evidence = _run(AtRadii().watch(_selection(len(SHARES)), **SETTINGS), counts)
    for image in range(len(SHARES)):
        alone = _run(AtRadii().watch(_selection(1), **SETTINGS), counts[:, [image]])
        assert alone[0] == together[image]
        np.testing.assert_array_equal(alone[1][0], evidence[image])


def test_no_image_takes_more_than_n_draws() -> None:
    counts = np.array([[[0, 60, 40]], [[0, 90, 60]]])
    drawn, _ = _run(AtRadii(radii=(0.0,)).watch(_selection(1), n=150, alpha=0.001, sigma=0.5), counts)
    assert drawn.tolist() == [150]


def test_input_specific_draws_follow_the_pilot() -> None:
    pilot = np.array([[0, 1000], [10, 990], [200, 800], [480, 520], [510, 490], [600, 400], [995, 5]])
    votes = pilot.max(axis=1)
    watch = InputSpecific(loss=0.05).watch(pilot, **SETTINGS)
    expected = enough_draws(votes / 1000, 20_000, 0.001, 0.05, step=100, rule="cohen")
    np.testing.assert_array_equal(watch.draws[votes > 530], expected[votes > 530])
    assert np.all(watch.draws % 100 == 0)

    def radius(draws: np.ndarray | int) -> np.ndarray:
        return rs_radius(lower_bound(np.floor(votes / 1000 * draws + 1e-9), draws, 0.001), 1.0)

    assert np.all(radius(watch.draws) >= radius(20_000) - 0.05)
    looser = InputSpecific(loss=0.2).watch(pilot, **SETTINGS).draws
    assert np.all(looser <= watch.draws)
    assert np.any(looser < watch.draws)


def test_input_specific_gives_the_unclear_a_chance_and_the_hopeless_a_block() -> None:
    pilot = np.array([[300, 300, 400], [505, 495, 0]])
    watch = InputSpecific().watch(pilot, **SETTINGS)
    unclear = enough_draws(upper_bound(505, 1000, 0.001), 20_000, 0.001, 0.05, step=100, rule="cohen")
    assert watch.draws.tolist() == [100, unclear]
    assert unclear > 1000
    drawn, evidence = _run(watch, _blocks([0.2, 0.5]))
    np.testing.assert_array_equal(drawn, watch.draws)
    np.testing.assert_array_equal(evidence.sum(axis=1), watch.draws)
    assert InputSpecific().watch(pilot, n=50, alpha=0.001, sigma=0.5).draws.tolist() == [50, 50]
    at_least = InputSpecific(least=800).watch(pilot, **SETTINGS)
    assert at_least.draws.tolist() == [800, unclear]
    assert InputSpecific(least=800).watch(pilot, n=50, alpha=0.001, sigma=0.5).draws.tolist() == [50, 50]


def test_input_specific_draws_do_not_depend_on_how_sure_a_vote_is() -> None:
    votes = np.array([[20, 980], [480, 520], [0, 1000]])
    told = np.random.default_rng(0).multinomial(votes, [0.5, 0.3, 0.2])  # (I, C, T + 1)
    graded = told.transpose(0, 2, 1).reshape(3, 6)
    rule = InputSpecific(loss=0.1)
    plain, folded = (rule.watch(one, **SETTINGS, answers=2).draws for one in (votes, graded))
    np.testing.assert_array_equal(plain, folded)
    assert (rule.watch(graded, **SETTINGS).draws != plain).any()  # as if kinds were classes
