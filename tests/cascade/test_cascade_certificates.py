"""A certificate of a cascade says no more than its votes, and comes back whole from its row."""

import dataclasses

import numpy as np
import pytest

from dualrs_lab.cascade import Cascade, CascadeCertificate
from dualrs_lab.evidence import ABSTAIN, frame, lower_bound, rs_radius, upper_bound

SIGMAS = (1.0, 1 / 3, 0.12)  # 1/3 has no short decimal text


def random_certificates(cascade: Cascade, count: int = 60) -> list[CascadeCertificate]:
    """From random votes; experts after the first to accept were not asked, others at random."""
    rng = np.random.default_rng(0)
    made = []
    for idx in range(count):
        p = rng.dirichlet(np.full(4, 0.7), 3)
        selection, votes = rng.multinomial(50, p), rng.multinomial(1000, p)
        votes[rng.random(3) > 0.7] = 0
        selection[1 + rng.integers(3) :] = 0
        how = {"idx": idx, "label": int(p[0].argmax()), "alpha": 0.01, "seed": 3, "seconds": 0.1 * idx}
        made.append(CascadeCertificate.from_votes(selection, votes, cascade, **how))
    return made


@pytest.mark.parametrize("shares", [(), (0.9, 1 / 30, 1 / 30)])
@pytest.mark.parametrize("thresholds", [(), (0.2, 0.1, -0.02)])
def test_rows_give_every_certificate_back(thresholds: tuple[float, ...], shares: tuple[float, ...]) -> None:
    cascade = Cascade(SIGMAS, thresholds, shares)
    certificates = random_certificates(cascade)
    table = frame(certificates)
    assert tuple(table) == CascadeCertificate.columns(cascade)
    assert ("shares" in table) == bool(shares)
    assert [CascadeCertificate.from_row(row) for row in table.to_dict("records")] == certificates
    assert {c.answer[0] for c in certificates} == {ABSTAIN, 0, 1, 2}
    assert 10 < sum(c.predict != ABSTAIN for c in certificates) < 50
    for c, row in zip(certificates, table.to_dict("records"), strict=True):
        assert c.radius == c.recomputed() == max(0.0, float(c.steps.radius)) * (c.guess != ABSTAIN)
        assert row["sigma"] == (0.0 if c.answer[0] == ABSTAIN else SIGMAS[c.answer[0]])
        assert row["accepts_" + repr(1 / 3)] == c.steps.accepts[1]
        assert row["errs_0.12"] == c.steps.errs[2]
        assert row["drawn"] == sum(n for votes in (*c.selection, *c.votes) for _, n in votes)


def by_hand(**changes) -> CascadeCertificate:
    """The first expert keeps quiet, the second says 1; the third was not asked."""
    selection, votes = np.array([[25, 25], [2, 48], [0, 0]]), np.array([[600, 400], [50, 950], [0, 0]])
    how = {"idx": 0, "label": 1, "alpha": 0.03, "seed": 0, "seconds": 0.0}
    limits = (0.5, 0.0, 0.0)
    return dataclasses.replace(
        CascadeCertificate.from_votes(selection, votes, Cascade(SIGMAS, limits), **how), **changes
    )


def test_the_radius_by_hand() -> None:
    c = by_hand()
    assert c.answer == (1, 1)
    own = float(rs_radius(lower_bound(950, 1000, 0.01), 1 / 3))  # alpha over three experts
    silent = 0.5 - float(rs_radius(upper_bound(600, 1000, 0.01), 1.0))  # the first says 0 beyond it
    assert 0 < silent < own
    assert c.radius == pytest.approx(silent, rel=1e-12)
    assert (c.predict, c.correct, by_hand(label=0).correct) == (1, True, False)
    assert c.selection == (((0, 25), (1, 25)), ((0, 2), (1, 48)), ())
    assert c.cascade.thresholds == (0.5, 0.0, 0.0)


def test_who_does_not_accept_claims_nothing() -> None:
    quiet = by_hand(selection=(((0, 25), (1, 25)), ((0, 25), (1, 25)), ()), predict=ABSTAIN, radius=0.0)
    assert quiet.answer == (1, 0)  # a tie of a majority rule goes to the lowest class
    none = by_hand(cascade=Cascade(SIGMAS, (0.5, 1.0, 1.0)), predict=ABSTAIN, radius=0.0)
    assert (none.answer, none.recomputed(), none.to_row()["sigma"]) == ((ABSTAIN, ABSTAIN), 0.0, 0.0)
    with pytest.raises(ValueError, match="wanted predict -1 or -1, got 1"):
        by_hand(cascade=Cascade(SIGMAS, (0.5, 1.0, 1.0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": (((0, 25),),)}, "selection of 3 experts, got 1"),
        ({"votes": ()}, "votes of 3 experts, got 0"),
        ({"votes": (((1, 400), (0, 600)), ((1, 950),), ())}, "votes with each class once, ascending"),
        ({"selection": (((0, 25),), ((1, 48), (1, 2)), ())}, "selection with each class once"),
        ({"votes": (((0, 0),), ((1, 950),), ())}, "positive counts"),
        ({"drawn": 2099}, "at least its 2100 votes drawn, got 2099"),
        ({"votes": (((0, 900), (1, 100)), ((0, 50), (1, 950)), ())}, r"at most the radius .* of its votes"),
        ({"selection": ((), ((0, 48), (1, 2)), ())}, "predict 0 or -1, got 1"),
        ({"alpha": 0.0}, r"alpha in \(0, 1\), got 0.0"),
        ({"seed": np.int64(0)}, "Python ints"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_hand(**changes)


def test_a_row_that_was_changed_is_refused() -> None:
    row = by_hand().to_row()
    for change in ({"votes_1": "0:900 1:100"}, {"thresholds": "0.3 0.0 0.0"}, {"alpha": 0.003}):
        with pytest.raises(ValueError, match="at most the radius"):
            CascadeCertificate.from_row(row | change)
    with pytest.raises(ValueError, match="no selection_1 in the row"):
        CascadeCertificate.from_row({name: cell for name, cell in row.items() if name != "selection_1"})
    with pytest.raises(ValueError, match="wanted a finite threshold for each of 3 experts"):
        CascadeCertificate.from_row(row | {"thresholds": "0.5 0.0"})
