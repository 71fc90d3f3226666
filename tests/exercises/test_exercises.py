"""Every exercise: its truth passes, each typical mistake gets the words meant for it, hints tell."""

import html
import io
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from dualrs_lab.__main__ import main
from dualrs_lab.combine import Combiner, class_margins
from dualrs_lab.dual import even_split
from dualrs_lab.evidence import lower_bound, rs_radius, write_table
from dualrs_lab.exercises import (
    ATTACKING,
    BREAKING,
    CERTIFICATES,
    DUAL,
    FORGERIES,
    MIME,
    MIXING,
    PIXELS,
    PLANE,
    SMOOTHING,
    Exercise,
    Find,
    Formula,
    Mistake,
    Verdict,
    check,
    exercise,
    exercises,
    hint,
)
from dualrs_lab.exercises.breaking import mixed_problem
from dualrs_lab.exercises.mixing import mix_turns
from dualrs_lab.exercises.smoothing import failure
from dualrs_lab.lessons import (
    Boxes,
    MedianChoice,
    by_entropy,
    by_margin,
    by_ratio,
    doubtful_tables,
    forged_rows,
    honest_row,
    lesson_estimator,
    linear_problem,
    sign_strike,
    write_doubtful,
)
from dualrs_lab.mixing import mix_radius_closed

ALL = [one for every in exercises().values() for one in every]
FORMULAS = [one for one in ALL if isinstance(one, Formula)]
NAMES = [one.name for one in ALL]

INF = np.inf
NOWHERE = ((0.54887218, 0.62769231), (0.55, 0.62))  # no class has probability 1/2 at any level
FORGED = honest_row() | {
    "votes": "2:1000",
    "successes": 1000,
    "radius": float(rs_radius(lower_bound(1000, 1000, 0.001), 0.25)),
}


class Answer(dict[str, Any]):
    """A dict that can stand for an answer in a dict."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class Even:
    """Budgets of pixels, the same everywhere or as given, that can stand for an answer in a dict."""

    def __init__(self, eps: Any) -> None:
        self.eps = eps

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.broadcast_to(np.asarray(self.eps, dtype), (6, 6)).copy()


WEIGHTS = np.abs(linear_problem()[0])
PLACED = np.where(WEIGHTS.argsort(axis=None).argsort().reshape(6, 6) >= 18, 0.2, 0.0)


MIX, IMAGE, LABEL = mixed_problem()


class Pixels(np.ndarray):
    """An image that can stand for an answer in a dict."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


def struck(by: Any, pull: Any = by_margin, eps: float = 0.1) -> Pixels:
    """The image of the exercise as an attack on `by` leaves it."""
    return sign_strike(by, IMAGE[None], np.array([LABEL]), eps, pull=pull)[0].view(Pixels)


def single(pull: Any) -> Any:
    """A pull of many images as that of one, which a reader writes."""
    return lambda scores, label: pull(scores[None], np.array([label]))[0]


def likelihood(scores: np.ndarray, label: int) -> np.ndarray:
    """Only the rivals go up."""
    found = (scores == np.delete(scores, label).max()).astype(float)
    found[label] = 0.0
    return found


def farthest(scores: np.ndarray, label: int) -> np.ndarray:
    return np.eye(10)[scores.argmin()] - np.eye(10)[label]


def following(scores: np.ndarray, label: int) -> np.ndarray:
    return np.eye(10)[(label == 0) * 1] - np.eye(10)[label]


def overflowing(scores: np.ndarray, label: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.exp(scores) / np.exp(scores).sum() - np.eye(10)[label]


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
    "break the naive radius": (
        [((0.37, 0.7), (0.4375, 0.7)), np.array([[0.375, 0.72], [0.4375, 0.7]])],
        {
            ((0.2, 0.3), (0.2, 0.3)): "one and the same point",
            ((0.2, 0.3), (0.9, 0.3)): "outside the ball",
            ((0.2, 0.3), (0.21, 0.3)): "asks the same expert",
            ((0.7892, 0.5568), (0.7736, 0.5189)): "asks another expert, but that one agrees",
            ((0.2, 1.3), (0.2, 1.31)): "have to be in the unit square",
            ((0.2, 0.3),): "give two points",
            "left": "give two points",
            NOWHERE: "cannot be broken",
        },
    ),
    "a router of your own": (
        [
            MedianChoice(Boxes(((-INF, -INF, 0.4, INF), (0.4, 0.6, 1, INF)), (2, 0), 1, 3), 0.1),
            MedianChoice(Boxes(((0.38, 0.6, 1, INF), (0.38, -INF, INF, 0.6)), (0, 1), 2, 3), 0.12),
        ],
        {
            0.1: "Give a MedianChoice",
            MedianChoice(Boxes((), (), 0, 2), 0.1): "wanted 3, one for each of the levels",
            MedianChoice(Boxes((), (), 1, 3), 0.1): "Nobody is ever routed",
            MedianChoice(Boxes(((0.38, 0.6, 1, INF),), (2,), 1, 3), 0.1): "Which level resolves the strips?",
            MedianChoice(lesson_estimator(), 0.02): "What does sigma_e do to entry radii?",
            MedianChoice(lesson_estimator(), 0.1): "Where would a larger level reach farther",
        },
    ),
    "thresholds of a cascade": (
        [(0.1, 0.0), [0.08, 0], np.array([0.09, 0.0])],
        {
            (0.0, 0.0): "about many of them it is wrong",
            (0.3, 0.05): "Who may answer more often?",
            (2.0, 0.0): "never answers: so sure it is nowhere",
            (0.05, 0.02): "or σ = 0.25 is not held back",
            (0.1, 0.07, 0.0): "give two thresholds",
            (-0.1, 0.0): "a threshold is a length, 0 or more",
            "sure": "give two thresholds",
        },
    ),
    "break a certificate of a mix": (
        [(0.99, 0.76, 2.2), [0.9, 0.6, 1.0], (np.float64(0.95), 0.9, 1.6)],
        {
            (0.99, 0.76, 2.5): "nothing is claimed at 2.5",
            (0.99, 0.76, 1.0): "g can only turn margins below 0.3158",
            (0.99, 1.0, 2.0): "the mix is h",
            (0.4, 0.76, 0.1): "wanted p between 1/2 and 1",
            (0.99, 76, 1.0): "wanted p between 1/2 and 1",
            (0.99, 0.76): "Give three numbers",
        },
    ),
    "choose a weight": (
        [0.86, np.float64(0.87)],
        {
            0.6: "Certified at 0.05: 33.3%",
            0.97: "Clean accuracy: 96.1%",
            0.5: "nothing is certified, whatever h says",
            86: "86 is no weight",
            True: "Give one number",
            "heavy": "Give one number",
        },
    ),
    "place a budget": (
        [PLACED, PLACED.tolist()],
        {
            Answer(): "an array of shape (6, 6)",
            (0.1, 0.2): "an array of shape (6, 6)",
            Even(0.1): "Which pixels is it wasted on?",
            Even(0.2): "place it, do not add to it",
            Even(0.3): "Each budget lies between 0 and 0.2",
            Even(-0.1): "Each budget lies between 0 and 0.2",
            Even(0.05): "Which pixels is it wasted on?",
            Even(0.2 - PLACED): "the budget lies where the classifier hardly looks",
        },
    ),
    "what a weak attack missed": (
        [(0.64, 0.965), np.array([0.63, 0.98]), [0.645, 0.95]],
        {
            (0.565, 0.965): "0.0000 away, and still class 0",
            (0.5, 0.965): "still class 0: its lead there is",
            (0.7, 0.965): "That is 0.1350 away, and the budget is 0.1",
            (0.6,): "Give one point of the plane",
            (math.nan, 0.9): "Give one point of the plane",
            "right": "Give one point of the plane",
        },
    ),
    "a loss that sees": (
        [
            single(by_margin),
            single(by_ratio),
            lambda scores, label: list(single(by_margin)(scores, label)),
            lambda scores, label: single(by_entropy)(scores / 1000, label),
        ],
        {
            single(by_entropy): "nothing to follow",
            single(lambda scores, labels: -by_margin(scores, labels)): "The label's own score is pulled up",
            following: "It pulls towards one class, whatever the image",
            farthest: "towards rivals that are far away",
            overflowing: "Some of it is not a number",
            (lambda scores, label: 1.0): "wanted 10 numbers, one for each score, got shape ()",
            (lambda scores: scores): "cannot be judged. TypeError",
            "cross-entropy": "Give a function of the scores",
        },
    ),
    "an attack that knows the mix": (
        [struck(MIX), struck(MIX, by_ratio), struck(MIX).reshape(8, 8), struck(MIX).tolist()],
        {
            IMAGE.view(Pixels): "So do g and h by themselves",
            struck(MIX.g): "g and h are both wrong there, each for another class",
            struck(MIX.h): "h alone is wrong there",
            np.clip(IMAGE + 0.2, 0, 1).view(Pixels): "away from the image, and the budget is 0.1",
            (1.5 * IMAGE).view(Pixels): "An image has values in [0, 1]",
            IMAGE[:10].view(Pixels): "Give 64 pixels",
            "brighter": "Give 64 pixels",
        },
    ),
    "find the forged tables": (
        [forged_rows(), dict(reversed(forged_rows().items()))],
        {
            Answer(A=0, C=100): "2 of 5 found",
            Answer(forged_rows(), B=140): "Of those that you accuse, 1 say what their votes say",
            Answer(forged_rows(), C=120): "but 120 is not the idx",
            Answer(H=1): "no table 'H'; they are A, B",
            "ACDEG": "Give a dict",
        },
    ),
    "forge what nobody sees": (
        [FORGED, FORGED | {"time": 1.0}],
        {
            Answer(honest_row()): "not above the honest",
            Answer(honest_row(), radius=0.2): "wanted at most the radius 0.105",
            Answer(FORGED, radius=0.3): "radius 0.300000, and its votes give 0.6158",
            Answer(FORGED, votes="2:999"): "votes that sum to its 1000",
            Answer(FORGED, alpha=0.05): "With another alpha it is another experiment",
            Answer(FORGED, n=10_000): "With another n it is another experiment",
            Answer(FORGED, predict=1, correct=0): "wanted predict 2 or -1, got 1",
            Answer(radius=1.0): "the same columns as honest_row()",
        },
    ),
}  # fmt: skip


def test_each_lesson_has_five_and_no_name_means_two() -> None:
    assert [*exercises().values()] == [SMOOTHING, DUAL, PIXELS, MIXING, CERTIFICATES, ATTACKING]
    assert {one.name for one in (*PLANE, *FORGERIES, *BREAKING)} < {*NAMES}
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
        assert any(found.case is case for case in one.cases)


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


def test_entry_radii_as_a_sum_or_from_arrays_are_right_as_well() -> None:
    def added(before: float, here: float, sigma_e: float) -> float:
        ways = [-stats.norm.ppf(here), stats.norm.ppf(before)]
        return sigma_e * sum(way for way in ways if way > 0)  # only one of the two can be above 0

    assert check("entry radius", added).right
    assert check("entry radius", lambda b, h, s: s * np.max([0, -stats.norm.ppf(h), stats.norm.ppf(b)])).right


def test_a_reader_may_write_into_what_is_given() -> None:
    def published(entry: np.ndarray, experts: np.ndarray, chosen: int) -> float:
        entry[chosen] = experts[chosen]
        return float(entry.min())

    assert check("published radius", published).right
    assert check("published radius", published).right


def test_the_level_of_a_bound_is_that_of_the_package() -> None:
    for experts in range(1, 8):
        split = even_split(experts, 0.001, monotone=True, guessed_apart=True, rule="cohen")
        assert split.experts[0] == pytest.approx(0.001 / min(experts, 3))
    assert check("level of a bound", lambda experts, alpha: alpha / min(experts, 3)).right


def test_the_radius_of_whoever_is_surest_is_that_of_the_combiner() -> None:
    one = exercise("radius of whoever is surest")
    assert isinstance(one, Formula)
    for case in one.cases:
        combiner = Combiner.surest((0.02, 0.07, 0.25)[: len(case["t"])], tuple(case["t"]))
        margin = class_margins(case["z"], combiner).max()
        assert one.truth(**case) == pytest.approx(margin, abs=1e-9)


def test_no_g_turns_a_mix_within_its_radius_and_some_g_beyond() -> None:
    for p, a in ((0.99, 0.76), (0.8, 0.9), (0.95, 0.6)):
        radius = float(mix_radius_closed(p, a, 1.0))
        assert not mix_turns(p, a, radius - 1e-9)
        assert mix_turns(p, a, radius + 1e-9)


DRAWN = [one for one in ALL if getattr(one, "picture", None)]
NOT_DRAWN = {"level of a bound", "signs of masking"}  # a share of alpha, four comparisons: nothing to see


def test_nearly_every_exercise_draws_what_fails() -> None:
    assert {*NAMES} - {one.name for one in DRAWN} == NOT_DRAWN


def drawing(verdict: Verdict) -> str:
    """The picture of a wrong answer in its page, "" where there is none; its words are there in any case."""
    shown = str(verdict._repr_mimebundle_()["text/html"])
    assert html.escape(verdict.says) in shown
    found = re.search(r'<img alt="[A-Z][^"]{20,}" src="data:image/png;base64,\w[^>]*>', shown)
    assert bool(found) == ("<img" in shown)
    return found[0] if found else ""


@pytest.mark.parametrize("one", [one for one in DRAWN if isinstance(one, Formula)], ids=lambda one: one.name)
def test_each_mistake_is_drawn_on_the_case_that_it_fails(one: Formula) -> None:
    """One picture in full of each exercise; of other mistakes, that there is something to draw."""
    for mistake in one.mistakes:
        found = one.judge(mistake.formula)
        assert found.picture is not None
        case, given = found.picture.args  # type: ignore[attr-defined]
        assert case is found.case
        wrong = mistake.formula(*case.values())
        assert np.allclose(np.asarray(given, dtype=float), np.asarray(wrong, dtype=float), equal_nan=True)
    assert drawing(one.judge(one.mistakes[0].formula))
    assert not drawing(one.judge(one.truth))
    assert not drawing(one.judge(lambda *given: "far"))  # nobody can draw that


SHOWN = {  # an answer that is drawn, and one that nobody can draw
    "break the normal interval": ((0.2, 30), "often"),
    "break the naive radius": (((0.2, 0.3), (0.9, 0.3)), "left"),
    "a router of your own": (MedianChoice(lesson_estimator(), 0.02), 0.1),
    "thresholds of a cascade": ((0.3, 0.05), "sure"),
    "break a certificate of a mix": ((0.99, 0.76, 1.0), "heavy"),
    "choose a weight": (0.6, "heavy"),
    "place a budget": (Even(0.1), (0.1, 0.2)),
    "find the forged tables": (forged_rows() | {"C": 120}, "ACDEG"),
    "forge what nobody sees": (FORGED | {"radius": 0.3}, {"radius": 1.0}),
    "what a weak attack missed": ((0.7, 0.965), "right"),
    "a loss that sees": (single(by_entropy), "cross-entropy"),
    "an attack that knows the mix": (struck(MIX.g), "brighter"),
}


@pytest.mark.parametrize("one", [one for one in DRAWN if isinstance(one, Find)], ids=lambda one: one.name)
def test_what_was_found_wrongly_is_drawn_and_what_cannot_be_drawn_is_told(one: Find) -> None:
    right, (wrong, nonsense) = FOUND[one.name][0][0], SHOWN[one.name]
    assert drawing(one.judge(wrong))
    assert one.judge(nonsense).right is False
    assert not drawing(one.judge(nonsense))
    assert not drawing(one.judge(right))


def test_an_honest_table_is_drawn_as_it_is_and_a_forged_one_gives_no_more_away_than_the_row_accused() -> None:
    honest = check("find the forged tables", {"B": 0}).picture
    wrong = check("find the forged tables", {"C": 120}).picture
    assert honest is not None
    assert wrong is not None
    assert "Claims of table B beside what their votes give" in honest().alt
    height = [Image.open(io.BytesIO(one().png)).height for one in (honest, wrong)]
    assert height[0] > 2 * height[1]  # twelve rows, and one


def test_where_nothing_can_be_drawn_words_are_left() -> None:
    code = (
        "import sys\nsys.modules['matplotlib'] = None\nfrom dualrs_lab.exercises import check\n"
        "shown = check('lower bound', lambda k, n, alpha: k / n)._repr_mimebundle_()\n"
        "assert '<img' not in shown['text/html'] and 'the share of the votes' in shown['text/html']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_function_that_gives_nothing_yet_is_open() -> None:
    assert check("a loss that sees", lambda scores, label: None).right is None
    assert check("a loss that sees", lambda scores, label: ...).right is None
    assert check("a loss that sees", lambda scores: 1).right is False


def test_forged_tables_are_found_by_both_programs_and_honest_ones_pass(tmp_path: Path) -> None:
    """What the lesson says of them: `dualrs-lab verify`, and the program that shares no code with it."""
    assert write_doubtful(tmp_path) == [f"{name}.tsv" for name in doubtful_tables()]
    ours = {name: main(["verify", str(tmp_path / f"{name}.tsv")]) for name in doubtful_tables()}
    assert {name for name, code in ours.items() if code == 1} == {*forged_rows()}
    assert sorted({*ours.values()}) == [0, 1]
    script = Path(__file__).parents[2] / "data" / "verify_table.py"
    told = subprocess.run(
        [sys.executable, script, *sorted(tmp_path.glob("*.tsv"))], capture_output=True, text=True, check=False
    )
    for line in told.stdout.splitlines():
        name = Path(line.split(": ")[0]).stem
        at = f"(idx {forged_rows()[name]})" if name in forged_rows() else "certified"
        assert at in line, line


def test_a_row_that_nobody_can_doubt_passes_verify(tmp_path: Path) -> None:
    write_table(tmp_path / "row.tsv", pd.DataFrame([FORGED]))
    assert main(["verify", str(tmp_path / "row.tsv")]) == 0
