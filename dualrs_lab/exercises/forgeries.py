"""Exercises of lesson 14 on what a table can hide: verify a row, find forgeries, make one."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from dualrs_lab.evidence.binomial import lower_bound
from dualrs_lab.evidence.certificate import Certificate
from dualrs_lab.evidence.radii import rs_radius
from dualrs_lab.evidence.votes import read_votes
from dualrs_lab.exercises.exercise import Exercise, Find, Formula, Mistake
from dualrs_lab.exercises.verdict import Picture, drawn_by
from dualrs_lab.lessons.tables import doubtful_tables, forged_rows, honest_row

__all__ = ["FORGERIES"]


def _holds(
    selection: Mapping[int, int], votes: Mapping[int, int], n: int, alpha: float, predict: int, radius: float,
    *, exact: bool = False, count: bool = True, picked: bool = False, share: bool = False,
    abstains: bool = True,
) -> bool:  # fmt: skip
    if count and sum(votes.values()) != n:
        return False
    guess = max(chosen := votes if picked else selection, key=chosen.__getitem__)
    k = min(votes.get(guess, 0), n)
    found = float(rs_radius(k / n if share else lower_bound(k, n, alpha), 0.25))
    if exact:
        return abs(radius - found) < 1e-9 and predict == (guess if found > 0 else -1)
    fits = radius <= found + 1e-9
    return fits and (not abstains or predict == (guess if radius > 0 else -1))


_R950 = float(rs_radius(lower_bound(950, 1000, 0.001), 0.25))
_R588 = float(rs_radius(lower_bound(588, 1000, 0.001), 0.25))
_ALIKE = {"n": 1000, "alpha": 0.001}
_ROWS: list[dict[str, Any]] = [
    {"selection": {0: 94, 2: 6}, "votes": {0: 950, 2: 50}, **_ALIKE, "predict": 0, "radius": _R950},
    {"selection": {0: 94, 2: 6}, "votes": {0: 950, 2: 50}, **_ALIKE, "predict": 0, "radius": 0.35},
    {"selection": {0: 94, 2: 6}, "votes": {0: 950, 2: 50}, **_ALIKE, "predict": 0, "radius": 0.38},
    {"selection": {0: 9, 2: 1}, "votes": {0: 95, 2: 5}, **_ALIKE, "predict": -1, "radius": 0.0},
    {"selection": {0: 49, 2: 51}, "votes": {0: 588, 2: 412}, **_ALIKE, "predict": 0, "radius": _R588},
    {"selection": {0: 49, 2: 51}, "votes": {0: 588, 2: 412}, **_ALIKE, "predict": -1, "radius": 0.0},
    {"selection": {0: 94, 2: 6}, "votes": {0: 950, 2: 50}, **_ALIKE, "predict": 2, "radius": 0.2},
    {"selection": {1: 52, 2: 48}, "votes": {1: 530, 2: 470}, **_ALIKE, "predict": 1, "radius": 0.0},
]

_VERIFY = Formula(
    name="verify a row",
    asks="Write holds(selection, votes, n, alpha, predict, radius): whether it claims no more "
    "than its votes, by "
    "Cohen's rule at sigma = 0.25. Votes are dicts {class: count}; abstaining is predict -1 with radius 0.",
    hints=(
        "Three questions: do the votes add up to n? Which class did the selection choose? How "
        "far is it certified?",
        "A smaller radius is a smaller promise, and true as well. Where nothing is promised, predict is -1.",
    ),
    truth=_holds,
    cases=_ROWS,
    mistakes=(
        Mistake(
            formula=partial(_holds, exact=True),
            says="You refuse a row that claims less than its votes allow. That is no false promise.",
        ),
        Mistake(
            formula=partial(_holds, count=False),
            says="Do the votes add up to n? Who claims more draws than were made gets a better bound.",
        ),
        Mistake(
            formula=partial(_holds, picked=True),
            says="The class is that of the selection, whatever `predict` says. Who picks the winner of the "
            "votes that count, picks luck.",
        ),
        Mistake(
            formula=partial(_holds, share=True),
            says="The share of the votes lets through what luck may have given: take the bound.",
        ),
        Mistake(
            formula=partial(_holds, abstains=False),
            says="The radius is fine, but of which class? A row may name a class that got no certificate.",
        ),
    ),
    picture=drawn_by("verified_answer", "The selection and the votes of the row"),
)  # fmt: skip


def _find_forged(answer: Any) -> str:
    names, forged = [*doubtful_tables()], forged_rows()
    if not isinstance(answer, Mapping):
        return "Give a dict: the name of each forged table, and the idx of its first row that does not fit."
    if strange := [name for name in answer if name not in names]:
        return f"There is no table {strange[0]!r}; they are {', '.join(names)}."
    if honest := [name for name in answer if name not in forged]:
        return (
            f"Of those that you accuse, {len(honest)} say what their votes say in every row. To be wrong, to "
            "abstain, or to have won other votes is no forgery."
        )
    if wrong := [name for name, idx in answer.items() if idx != forged[name]]:
        return f"Table {wrong[0]} is forged, but {answer[wrong[0]]} is not the idx of its first row that is."
    if len(answer) < len(forged):
        return (
            f"{len(answer)} of {len(forged)} found. Did you compare n with the votes, the class with the "
            "selection, and every radius with its alpha?"
        )
    return ""


def _draw_accused(answer: Any) -> Picture:
    """Of a table that is accused wrongly, what its rows claim, and what their votes give."""
    name, idx = next((name, idx) for name, idx in answer.items() if forged_rows().get(name) != idx)
    rows = doubtful_tables()[name]
    rows = rows if name not in forged_rows() else rows[rows["idx"] == idx]
    given = [Certificate.from_row(dict(row)).recomputed() for _, row in rows.iterrows()]
    draw = drawn_by("paired_bars", f"Claims of table {name} beside what their votes give")
    says = ("claimed", "from its votes")
    title = f"table {name}: claimed, and computed again"
    return draw(rows["radius"], given, [f"idx {idx}" for idx in rows["idx"]], says=says, title=title)


_FORGED = Find(
    name="find the forged tables",
    asks="Five of the tables A to G are forged. Give {name: idx of the first row that does not fit}.",
    hints=(
        "Recompute every radius from selection, votes, sigma and alpha, and compare to the last digit.",
        "In one table the radii are those of another alpha; in one a row has more draws than votes.",
        "In one the class was picked after the votes, in one a share was taken for a bound, in one rounding "
        "went up.",
    ),
    examine=_find_forged,
    praise="No table was caught by looking odd. All were caught by computing again.",
    picture=_draw_accused,
)


def _forge(answer: Any) -> str:
    honest = honest_row()
    if not isinstance(answer, Mapping) or {*answer} != {*honest}:
        return "Give a row with the same columns as honest_row()."
    for name in ("idx", "label", "method", "sigma", "n0", "n", "alpha", "seed", "bound", "drawn", "rule"):
        if answer[name] != honest[name]:
            return (
                f"With another {name} it is another experiment: the json beside the table tells which it was."
            )
    if float(answer["radius"]) <= honest["radius"]:
        return f"The radius is {float(answer['radius']):.4f}, not above the honest {honest['radius']:.4f}."
    try:
        row = Certificate.from_row(answer)
    except ValueError as error:
        return f"verify: WRONG. {error}"
    if row.recomputed() != row.radius:
        return f"verify: WRONG. radius {row.radius:.6f}, and its votes give {row.recomputed():.6f}"
    return ""


def _draw_forged(answer: Any) -> Picture:
    """The claimed radius and the one of the votes, as far as the row can be read."""
    count = dict(read_votes(answer["votes"])).get(int(honest_row()["predict"]), 0)
    found = float(
        rs_radius(lower_bound(min(count, int(answer["n"])), int(answer["n"]), answer["alpha"]), 0.25)
    )
    bars = {"claimed": float(answer["radius"]), "from its votes": max(0.0, found)}
    draw = drawn_by("named_bars", "The radius that the row claims, and that which its votes give")
    title, honest = f"votes {answer['votes']}", honest_row()["radius"]
    return draw(bars, line=honest, says="honest row", title=title, across="l2 radius")


_UNSEEN = Find(
    name="forge what nobody sees",
    asks="Change honest_row() so that its radius grows and `dualrs-lab verify` still finds nothing.",
    hints=(
        "verify computes the radius again from the votes. Which column does it have to believe?",
        "Make up votes: more for the class, fewer for the others, n in all. Then compute what "
        "follows from them.",
    ),
    examine=_forge,
    praise="A table can show that its claims follow from its votes, and not that they were "
    "drawn. To see that, "
    "draw again: network, images and seed are named in the json beside it.",
    picture=_draw_forged,
)


FORGERIES: tuple[Exercise, Exercise, Exercise] = (_VERIFY, _FORGED, _UNSEEN)
