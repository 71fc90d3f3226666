"""Every exercise: its truth passes, each typical mistake gets the words meant for it, hints tell."""

import math

import numpy as np
import pytest
from scipy import stats

from dualrs_lab.exercises import MIME, Exercise, Find, Formula, Mistake, check, exercise, exercises, hint
from dualrs_lab.exercises.smoothing import failure

ALL = [one for every in exercises().values() for one in every]
FORMULAS = [one for one in ALL if isinstance(one, Formula)]
NAMES = [one.name for one in ALL]

# Answers to what is to be found: right ones of several shapes, and five wrong ones with words they must get.
FOUND = {
    "break the normal interval": (
        [(0.99, 100), [0.97, 30], (np.float64(0.995), np.int64(200))],
        {
            (0.2, 30): "which 5 % allows",
            (0.9, 20): "not yet three times",
            (1, 3): "no probability between 0 and 1",
            (0.9, 20.5): "wanted a whole number",
            (0.9,): "Give two numbers",
            "often": "Give two numbers",
        },
    ),
}  # fmt: skip


def test_each_lesson_has_five_and_no_name_means_two() -> None:
    assert all(len(every) >= 5 for every in exercises().values())
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("one", FORMULAS, ids=lambda one: one.name)
def test_the_truth_is_right_and_each_mistake_gets_its_words(one: Formula) -> None:
    assert one.judge(one.truth).right
    assert len(one.mistakes) >= 5
    for mistake in one.mistakes:
        found = one.judge(mistake.formula)
        assert found.right is False
        assert mistake.says in found.says
        assert found.case in one.cases


@pytest.mark.parametrize("one", FORMULAS, ids=lambda one: one.name)
def test_what_a_reader_calls_things_does_not_matter_and_nonsense_is_told(one: Formula) -> None:
    assert one.judge(lambda *given: one.truth(*given)).right
    assert one.judge(lambda *given: None).right is None
    assert one.judge(None).right is one.judge(...).right is None
    nonsense = one.judge(lambda *given: -12.34)
    assert nonsense.right is False
    assert f"hint({one.name!r})" in nonsense.says
    assert "raised ZeroDivisionError" in one.judge(lambda *given: 1 / 0).says
    assert "raised TypeError" in one.judge(lambda: 1).says
    assert "wanted a function of" in one.judge(0.5).says
    assert one.judge(lambda *given: "text").right is False
    assert one.judge(lambda *given: [1.0, 2.0]).right is False


@pytest.mark.parametrize("one", [one for one in ALL if isinstance(one, Find)], ids=lambda one: one.name)
def test_things_are_found_or_told_why_not(one: Find) -> None:
    right, wrong = FOUND[one.name]
    assert len(wrong) >= 5
    for answer in right:
        assert one.judge(answer).right, answer
    for answer, words in wrong.items():
        found = one.judge(answer)
        assert found.right is False
        assert words in found.says
    assert one.judge(None).right is one.judge(...).right is None


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_hints_come_in_steps_and_never_hold_the_solution_of_a_mistake(one: Exercise) -> None:
    assert len(one.hints) >= 2
    assert hint(one.name).startswith(one.hints[0])
    assert hint(one.name, 99) == f"{one.hints[-1]} (the last hint)"
    with pytest.raises(ValueError, match="got step 0; wanted 1 for the first hint"):
        hint(one.name, 0)
    assert one.asks == check(one.name, None).says


def test_an_unknown_exercise_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="got 'upper bound'; wanted one of 'lower bound', "):
        exercise("upper bound")


def test_a_verdict_shows_itself_and_tells_a_grader() -> None:
    shown = check("lower bound", lambda k, n, alpha: "<b>")._repr_mimebundle_()
    assert shown[MIME] == {"exercise": "lower bound", "state": "not yet"}
    assert shown["text/plain"].startswith("lower bound: not yet. f(k=950, ")
    assert "&lt;b&gt;" in shown["text/html"]
    assert "<b>" not in shown["text/html"]


def test_lower_bounds_by_bisection_and_by_the_beta_law_are_both_right() -> None:
    def bisection(k: int, n: int, alpha: float) -> float:
        low, high = 0.0, k / n
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if stats.binom.sf(k - 1, n, middle) <= alpha else (low, middle)
        return low

    def beta(k: int, n: int, alpha: float) -> float:
        return float(stats.beta.ppf(alpha, k, n - k + 1)) if k else 0.0

    assert check("lower bound", bisection).right
    assert check("lower bound", beta).right


def test_draws_are_found_by_search_as_well() -> None:
    def search(radius: float, sigma: float, alpha: float) -> int:
        return next(n for n in range(1, 10**6) if sigma * stats.norm.ppf(alpha ** (1 / n)) >= radius)

    assert check("draws for a radius", lambda *case: math.ceil(_exact(*case))).right
    one = exercise("draws for a radius")
    assert isinstance(one, Formula)
    easy = [case for case in one.cases if one.truth(*case.values()) < 2000]
    assert easy
    assert [search(*case.values()) for case in easy] == [one.truth(*case.values()) for case in easy]


def _exact(radius: float, sigma: float, alpha: float) -> float:
    return math.log(alpha) / float(stats.norm.logcdf(radius / sigma))


def test_how_often_the_normal_interval_fails_is_that_of_simulation() -> None:
    """10,000 draws; 5 standard errors."""
    p, n = 0.9, 20
    k = np.random.default_rng(0).binomial(n, p, 10_000)
    claim = k / n + stats.norm.ppf(0.05) * np.sqrt(k / n * (1 - k / n) / n)
    assert (claim > p).mean() == pytest.approx(failure(p, n, 0.05), abs=5 * 0.5 / 100)


def test_two_mistakes_with_the_same_numbers_would_be_told_by_the_first() -> None:
    """What the registry's test relies on: mistakes that could not be told apart would fail it."""
    one = Formula(
        name="double", asks="Double it.", hints=("a", "b"), truth=lambda x: 2 * x, cases=[{"x": 2}],
        mistakes=(Mistake(formula=lambda x: x, says="once"), Mistake(formula=lambda x: 2, says="two")),
    )  # fmt: skip
    assert "once" in one.judge(lambda x: 2).says
