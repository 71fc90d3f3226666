"""Exercises: what is asked, hints in steps, and a judge that knows typical mistakes by what they give.

A *formula* is a function that a reader writes. It is compared with an exact one on cases; where it fails,
each typical mistake is tried in its place, and the one that gives the same numbers says what went wrong. A
*find* is a thing that must have a property, which an exact oracle decides.
"""

import copy
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import numpy as np

from dualrs_lab.exercises.verdict import Picture, Verdict

__all__ = ["Exercise", "Find", "Formula", "Mistake", "check", "exercise", "exercises", "hint"]


ROOMS = {  # lesson -> room; its tuple has the name of the room
    "10_lesson_smoothing": "smoothing",
    "11_lesson_dual": "dual",
    "12_lesson_pixels": "pixels",
    "13_lesson_mixing": "mixing",
    "14_lesson_certificates": "certificates",
    "15_lesson_attacks": "attacking",
}


class Exercise(Protocol):
    """What `check` and `hint` know of one."""

    @property
    def name(self) -> str: ...

    @property
    def asks(self) -> str: ...

    @property
    def hints(self) -> tuple[str, ...]: ...

    def judge(self, answer: Any) -> Verdict: ...


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A wrong formula that readers write, and what to tell them: what is wrong, never what is right."""

    formula: Callable[..., Any]
    says: str


@dataclass(frozen=True, kw_only=True)
class Formula:
    """A function that agrees with `truth` on all `cases`.

    It is called with the values of a case in their order, whatever it calls them. What is None, or a function
    that gives None, is an answer that is still open. A `picture`, where there is one, draws a case and what
    the answer gave for it.
    """

    name: str
    asks: str
    hints: tuple[str, ...]
    truth: Callable[..., Any]
    cases: Sequence[Mapping[str, Any]]
    mistakes: tuple[Mistake, ...]
    rtol: float = 1e-6
    atol: float = 1e-9
    picture: Callable[[Mapping[str, Any], Any], Picture] | None = None

    def judge(self, answer: Any) -> Verdict:
        if answer is None or answer is ...:
            return self._open()
        if not callable(answer):
            what = f"wanted a function of {', '.join(self.cases[0])}, got {_shown(answer)}"
            return Verdict(exercise=self.name, right=False, says=f"{what}.")
        given = []
        for case in self.cases:
            try:
                given.append(answer(*copy.deepcopy([*case.values()])))  # a reader may write into an array
            except Exception as error:  # readers' code raises what it likes
                says = f"{_called(case)} raised {type(error).__name__}: {error}"
                return Verdict(exercise=self.name, right=False, says=says, case=case)
            if given[-1] is None or given[-1] is ...:
                return self._open()
        wrong = [number for number, case in enumerate(self.cases) if not self._same(given[number], case)]
        if not wrong:
            return Verdict(exercise=self.name, right=True, says=f"It agrees in {len(self.cases)} cases.")
        case = self.cases[wrong[0]]
        where = f"{_called(case)} gives {_shown(given[wrong[0]])}."
        known = next((mistake for mistake in self.mistakes if self._gives(mistake.formula, given)), None)
        failed = f"That is not it, in {len(wrong)} of {len(self.cases)} cases. Try `hint({self.name!r})`."
        says = f"{where} {known.says if known else failed}"
        drawn = partial(self.picture, case, given[wrong[0]]) if self.picture else None
        return Verdict(exercise=self.name, right=False, says=says, case=case, picture=drawn)

    def _open(self) -> Verdict:
        return Verdict(exercise=self.name, right=None, says=self.asks)

    def _same(self, value: Any, case: Mapping[str, Any]) -> bool:
        return _close(value, self.truth(*case.values()), self.rtol, self.atol)

    def _gives(self, formula: Callable[..., Any], given: Sequence[Any]) -> bool:
        # whether the mistake is what was written: the same numbers in all cases
        pairs = zip(self.cases, given, strict=True)
        return all(_close(value, _quiet(formula, case), self.rtol, self.atol) for case, value in pairs)


@dataclass(frozen=True, kw_only=True)
class Find:
    """Something that has a property: `examine` gives "" where it has it, and else what is wrong with it.

    An `examine` may raise ValueError or TypeError for what is no answer at all; its words are passed on. A
    `picture`, where there is one, draws a wrong answer that it can draw. A function is still open if it gives
    None for the arguments `probe`.
    """

    name: str
    asks: str
    hints: tuple[str, ...]
    examine: Callable[[Any], str]
    praise: str
    picture: Callable[[Any], Picture] | None = None
    probe: tuple[Any, ...] = ()

    def judge(self, answer: Any) -> Verdict:
        try:
            given = answer(*copy.deepcopy(self.probe)) if self.probe and callable(answer) else answer
            if given is None or given is ...:
                return Verdict(exercise=self.name, right=None, says=self.asks)
            wrong = self.examine(answer)
        except Exception as error:  # readers hand in what they like
            told = f"{type(error).__name__}: {error}"
            return Verdict(exercise=self.name, right=False, says=f"{_shown(answer)} cannot be judged. {told}")
        if wrong:
            drawn = partial(self.picture, answer) if self.picture else None
            case = {"answer": answer}
            return Verdict(exercise=self.name, right=False, says=wrong, case=case, picture=drawn)
        return Verdict(exercise=self.name, right=True, says=self.praise)


def check(name: str, answer: Any) -> Verdict:
    """What is right or wrong about an answer to the exercise of this name; None or `...` is an open one.

    Raises ValueError for an unknown name.
    """
    return exercise(name).judge(answer)


def hint(name: str, step: int = 1) -> str:
    """The hint of this number, 1 first; asking beyond the last gives the last. Raises as `check` does."""
    known = exercise(name).hints
    if not isinstance(step, int) or step < 1:
        raise ValueError(f"hint: got step {step!r}; wanted 1 for the first hint, 2 for the next, …")
    at = min(step, len(known))
    more = f" (hint {at} of {len(known)})" if at < len(known) else " (the last hint)"
    return known[at - 1] + more


def exercise(name: str) -> Exercise:
    """The exercise of this name. Raises ValueError for an unknown one, and names those of the same lesson."""
    known = {one.name: one for every in exercises().values() for one in every}
    if name not in known:
        raise ValueError(f"exercise: got {name!r}; wanted one of {', '.join(map(repr, known))}")
    return known[name]


@cache
def exercises() -> dict[str, tuple[Exercise, ...]]:
    """All exercises by the name of their lesson's notebook, in the order in which they come there."""
    found = {}
    for lesson, room in ROOMS.items():
        module = importlib.import_module(f"dualrs_lab.exercises.{room}")
        found[lesson] = getattr(module, room.upper())
    return found


def _close(value: Any, wanted: Any, rtol: float, atol: float) -> bool:
    try:
        got, truth = np.asarray(value, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    if got.shape != truth.shape:
        return False
    return bool(np.allclose(got, truth, rtol=rtol, atol=atol, equal_nan=True))


def _quiet(formula: Callable[..., Any], case: Mapping[str, Any]) -> Any:
    # what a mistake gives, where it gives anything
    try:
        with np.errstate(all="ignore"):
            return formula(*case.values())
    except (ArithmeticError, ValueError):
        return math.nan


def _called(case: Mapping[str, Any]) -> str:
    return f"f({', '.join(f'{name}={_shown(value)}' for name, value in case.items())})"


def _shown(value: Any) -> str:
    if isinstance(value, bool | str) or value is None:
        return repr(value)
    if isinstance(value, int | np.integer):
        return str(value)
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    if isinstance(value, np.ndarray):
        return f"[{', '.join(map(_shown, value))}]"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
