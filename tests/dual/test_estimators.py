"""Votes choose an expert as the theory's estimator does, and bound when each may be chosen."""

import numpy as np
import pytest
from scipy import stats

from dualrs_lab.dual import Cuts, Estimator, Median, Plurality, Split

RULES = [Median(0.5), Cuts((0.25, 0.5, 1.0)), Plurality(0.5)]  # of four experts


def test_the_median_is_the_first_expert_with_half_of_the_votes_at_or_below_it() -> None:
    votes = np.array([[6, 2, 1, 1], [5, 0, 0, 5], [4, 1, 3, 2], [0, 0, 1, 9], [3, 2, 2, 3]])
    assert Median(0.5).top(votes[:, None]).tolist() == [0, 0, 1, 3, 1]  # half is enough
    for one in votes:
        by_hand = np.sort(np.repeat(np.arange(4), one))[(one.sum() - 1) // 2]
        assert Median(0.5).top(one[None]) == by_hand


def test_of_cuts_the_first_yes_decides() -> None:
    yes = np.array([[6, 9, 9], [4, 5, 9], [4, 4, 4], [4, 9, 1]])
    votes = np.stack([yes, 10 - yes], axis=-1)
    assert Cuts((1.0, 1.0, 1.0)).top(votes).tolist() == [0, 1, 3, 1]


def test_plurality_takes_most_votes_and_the_lowest_of_equals() -> None:
    votes = np.array([[[4, 1, 4, 1]], [[1, 2, 3, 4]]])
    assert Plurality(0.5).top(votes).tolist() == [0, 3]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_even_split_spends_alpha_and_no_more(rule: Estimator, alpha: float) -> None:
    split = rule.split(4, alpha)
    assert split.guessed_apart
    assert split.spent == pytest.approx(alpha, rel=1e-12)
    assert split.spent <= alpha * (1 + 1e-12)


def random_votes(rule: Estimator, images: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    kinds, streams = rule.classes(4), len(rule.sigmas)
    return rng.multinomial(1000, rng.dirichlet(np.full(kinds, 0.5), (images, streams)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_the_expert_that_votes_choose_may_be_chosen_at_once(rule: Estimator) -> None:
    """r_top = 0, others may be larger; an image alone has the same radii."""
    votes = random_votes(rule, 200)
    top, split = rule.top(votes), rule.split(4, 0.001)
    entry = rule.entry(votes, top, split)
    assert entry.shape == (200, 4)
    assert (np.take_along_axis(entry, top[:, None], axis=1) == 0).all()
    assert (entry > 0).any(axis=1).mean() > 0.5
    np.testing.assert_array_equal(rule.entry(votes[7], top[7], split), entry[7])


def test_cuts_that_see_the_same_votes_are_the_median() -> None:
    votes = random_votes(Median(0.5), 100)
    at_most = np.cumsum(votes[:, 0], axis=1)[:, :-1]
    cuts = np.stack([at_most, 1000 - at_most], axis=-1)
    same, split = Cuts((0.5, 0.5, 0.5)), Median(0.5).split(4, 0.001)
    top = Median(0.5).top(votes)
    np.testing.assert_array_equal(same.top(cuts), top)
    np.testing.assert_array_equal(same.entry(cuts, top, split), Median(0.5).entry(votes, top, split))


def test_two_experts_by_hand() -> None:
    """900 of 1000 votes for the first: the second is not chosen within s Phi^-1(lower bound of 0.9)."""
    votes, level = np.array([[900, 100]]), 0.01
    low = stats.beta.ppf(level, 900, 101)
    wanted = [0.0, 0.5 * stats.norm.ppf(low)]
    both = (level, level)
    median = Split(alpha=0.05, lower=(level,), upper=(level,), experts=both, guessed_apart=True)
    plurality = Split(alpha=0.05, lower=both, upper=both, experts=both, guessed_apart=True)
    np.testing.assert_allclose(Median(0.5).entry(votes, np.array(0), median), wanted, rtol=1e-9)
    np.testing.assert_allclose(Cuts((0.5,)).entry(votes, np.array(0), median), wanted, rtol=1e-9)
    np.testing.assert_allclose(Plurality(0.5).entry(votes, np.array(0), plurality), wanted, rtol=1e-9)


def test_cuts_part_one_expert_more_than_there_are() -> None:
    assert Cuts((0.5, 1.0)).classes(3) == 2
    with pytest.raises(ValueError, match="2 cuts part 3 experts, got 4"):
        Cuts((0.5, 1.0)).classes(4)
    with pytest.raises(ValueError, match="one cut at least"):
        Cuts(())
