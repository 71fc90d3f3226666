"""A certificate of a dual system says no more than its votes, and comes back whole from a table."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dualrs_lab.dual import Cuts, DualCertificate, Estimator, Median, Plurality, Split, judge
from dualrs_lab.evidence import ABSTAIN, append_rows, average_radius, certified_accuracy, frame, read_table

SIGMAS = (0.12, 1 / 3, 1.0)  # 1/3 has no short decimal text
RULES = [Median(0.5), Cuts((1 / 3, 0.7)), Plurality(0.5)]
EACH = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


def random_certificates(
    rule: Estimator, images: int = 40, *, bound: str = "clopper-pearson", asked: float = 0.7
) -> list[DualCertificate]:
    """From random votes; experts are asked or not at random, and idx descends."""
    rng = np.random.default_rng(0)
    kinds, streams = rule.classes(3), len(rule.sigmas)
    made = []
    for idx in reversed(range(images)):
        p = rng.dirichlet(np.full(kinds, 0.3), streams)
        chances = rng.dirichlet(np.full(4, 0.1)) * 0.9 + rng.dirichlet(np.full(4, 0.1), 3) * 0.1
        looks, estimates = rng.multinomial(50, p), rng.multinomial(1000, p)
        selection, votes = rng.multinomial(50, chances[1]), rng.multinomial(1000, chances)
        votes[rng.random(3) > asked] = 0
        made.append(
            judge(
                looks,
                estimates,
                selection,
                votes,
                idx=idx,
                label=int(chances[0].argmax()),
                estimator=rule,
                sigmas=SIGMAS,
                split=rule.split(3, 0.001),
                seed=3,
                seconds=0.1 * idx,
                bound=bound,
                drawn=10_000,
            )
        )
    return made


def both(c: DualCertificate) -> tuple[float, float]:
    """Both radii that the votes alone give."""
    return c.recomputed(), float(c.routes.published)


@EACH
@pytest.mark.parametrize("bound", ["clopper-pearson", "betting"])
def test_a_row_gives_the_certificate_back_and_its_votes_both_radii(rule: Estimator, bound: str) -> None:
    certificates = random_certificates(rule, bound=bound)
    for certificate in certificates:
        row = certificate.to_row()
        assert tuple(row) == DualCertificate.columns(SIGMAS)
        again = DualCertificate.from_row(row)
        assert again == certificate
        assert both(again) == (row["radius"], row["published"])
    assert {c.top for c in certificates} == {0, 1, 2}
    assert any(0 < c.published < c.radius for c in certificates)


@EACH
def test_a_table_on_disk_gives_every_certificate_back(rule: Estimator, tmp_path: Path) -> None:
    """Also with experts that were never asked, of which a whole column stays empty."""
    certificates = random_certificates(rule)
    none = [dataclasses.replace(c, radius=0.0, published=0.0, predict=ABSTAIN) for c in certificates]
    for name, some in (("some", certificates), ("none", [unasked(c) for c in none])):
        path = tmp_path / f"{name}.tsv"
        append_rows(path, some[:15], columns=DualCertificate.columns(SIGMAS))
        append_rows(path, some[15:])
        table = read_table(path)
        assert tuple(table.columns) == DualCertificate.columns(SIGMAS)
        pd.testing.assert_frame_equal(frame(some), table, check_exact=True)
        assert [DualCertificate.from_row(row) for row in table.to_dict("records")] == some
        for row, certificate in zip(table.to_dict("records"), some, strict=True):
            assert row["sigma"] == SIGMAS[certificate.top]
            found = certificate.routes
            assert [row[f"entry_{s}"] for s in ("0.12", repr(1 / 3), "1")] == found.entry.tolist()
            assert [row[f"radius_{s}"] for s in ("0.12", repr(1 / 3), "1")] == found.experts.tolist()
            assert row["constancy"] == found.constancy
        correct = [c.correct for c in some]
        assert certified_accuracy(table, 0.0) == np.mean(correct)
        assert average_radius(table) == pytest.approx(np.mean([c.radius * c.correct for c in some]))
    assert table["votes_1"].isna().all()


def unasked(c: DualCertificate) -> DualCertificate:
    return dataclasses.replace(c, votes=((), (), ()))


def by_hand(*, rule: str = "cohen", **changes) -> DualCertificate:
    """K = 2, median: 900 of 1000 for the first expert, which gives class 1 950 of 1000, the second 700."""
    split = Split(alpha=0.1, lower=(0.05,), upper=(0.05,), experts=(0.05, 0.05), guessed_apart=True)
    made = judge(
        np.array([[40, 10]]),
        np.array([[900, 100]]),
        np.array([2, 48]),
        np.array([[50, 950], [300, 700]]),
        idx=0,
        label=1,
        estimator=Median(0.5),
        sigmas=(0.25, 0.5),
        split=split,
        seed=0,
        seconds=0.0,
        bound="clopper-pearson",
        drawn=3100,
        rule=rule,
    )
    return dataclasses.replace(made, **changes)


def test_both_radii_by_hand() -> None:
    certificate, found = by_hand(), by_hand().routes
    low = [stats.beta.ppf(0.05, k, 1001 - k) for k in (900, 950, 700)]
    entry, first, second = np.array([0.5, 0.25, 0.5]) * stats.norm.ppf(low)
    np.testing.assert_allclose(found.entry, [0, entry], rtol=1e-9)
    np.testing.assert_allclose(found.experts, [first, second], rtol=1e-9)
    assert certificate.radius == pytest.approx(min(first, max(entry, second)), rel=1e-9)
    assert certificate.published == pytest.approx(min(entry, first), rel=1e-9)
    assert (certificate.predict, certificate.top, certificate.correct) == (1, 0, True)
    two = by_hand(rule="two-bounds").routes
    halved = stats.norm.ppf(
        stats.beta.ppf(0.025, [950, 700], [51, 301])
    )  # two classes: the rest is the rival
    np.testing.assert_allclose(two.experts, np.array([0.25, 0.5]) * halved, rtol=1e-9)
    np.testing.assert_array_equal(two.entry, found.entry)
    assert not by_hand(label=0).correct
    assert not by_hand(label=-1).correct


def test_an_expert_that_the_votes_rule_out_need_not_be_asked() -> None:
    """The entry radius of the second is beyond the radius, so its votes change nothing."""
    certificate = by_hand()
    assert certificate.routes.entry[1] >= certificate.radius
    assert both(by_hand(votes=(certificate.votes[0], ()))) == both(certificate)
    with pytest.raises(ValueError, match=r"at most the radius 0\.0 of its votes"):
        by_hand(votes=((), certificate.votes[1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": 0.4}, r"wanted at most the radius 0\.38\d+ of its votes, got 0\.4"),
        ({"published": 0.3805, "radius": 0.38}, "0 <= published <= radius"),
        ({"predict": 0}, "predict 1 or -1, got 0"),
        ({"predict": ABSTAIN}, "radius 0 exactly where abstaining"),
        ({"radius": 0.0, "published": 0.0}, "radius 0 exactly where abstaining"),
        ({"radius": -0.1}, "a finite radius >= 0, got -0.1"),
        ({"radius": float("nan")}, "a finite radius >= 0, got nan"),
        ({"published": -0.1}, "0 <= published <= radius"),
        ({"idx": np.int64(0)}, "Python ints"),
        ({"idx": -1}, "idx >= 0"),
        ({"seconds": -1.0}, "seconds >= 0"),
        ({"bound": "normal"}, "a bound of clopper-pearson, betting, got 'normal'"),
        ({"rule": "best"}, "a rule of two-bounds, cohen, selected, got 'best'"),
        ({"sigmas": (0.25, 0.25)}, "different sigmas"),
        ({"sigmas": ()}, "different sigmas"),
        ({"drawn": 3099}, "at least its 3100 votes drawn, got 3099"),
        ({"looks": ()}, "looks of 1 streams, got 0"),
        ({"looks": (((0, 40), (2, 10)),)}, "looks with each class once"),
        ({"estimator_votes": ((),)}, "estimator_votes with each class once"),
        ({"estimator_votes": (((1, 100), (0, 900)),)}, "estimator_votes with each class once"),
        ({"selection": ()}, "selection with each class once"),
        ({"votes": (((1, 950),),)}, "votes of 2 streams, got 1"),
        ({"votes": (((1, 950), (1, 50)), ())}, "votes with each class once"),
        ({"votes": (((0, -50), (1, 950)), ())}, "positive counts"),
        ({"split": Split(alpha=0.2, lower=(0.05,), upper=(0.05,), experts=(0.05, 0.05))}, "guessed_apart"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_hand(**changes)


def test_a_published_radius_above_its_votes_is_refused() -> None:
    """The second expert disagrees, near: published is the entry radius, which routed exceeds no more."""
    certificate = by_hand()
    small = by_hand(
        estimator_votes=(((0, 700), (1, 300)),),
        votes=(certificate.votes[0], ((1, 1000),)),
        radius=0.3,
        published=0.1,
    )
    routed, published = both(small)
    assert published < routed
    assert dataclasses.replace(small, published=published * (1 + 1e-12))
    for more in ({"published": published * (1 + 1e-6)}, {"radius": routed * (1 + 1e-6)}):
        with pytest.raises(ValueError, match=r"at most the (published )?radius .* of its votes"):
            dataclasses.replace(small, **more)
    with pytest.raises(ValueError, match=r"at most the published radius 0\.2.* of its votes, got 0\.3"):
        dataclasses.replace(small, published=0.3)


def test_smaller_claims_are_allowed_and_kept() -> None:
    """As a table rounded down by other software would make them."""
    less = by_hand(radius=0.3, published=0.25)
    assert DualCertificate.from_row(less.to_row()) == less
    assert both(less) == both(by_hand())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "mean"}, "wanted an estimator of median, cuts, plurality, got 'mean'"),
        ({"radius": 0.5}, "at most the radius"),
        ({"votes_0.25": "0:500 1:500"}, "at most the radius"),
        ({"alpha": 0.05}, "the levels add up to 0.1"),
    ],
)
def test_a_row_that_was_changed_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DualCertificate.from_row(by_hand().to_row() | change)


def test_a_row_of_another_method_is_refused() -> None:
    row = by_hand().to_row()
    del row["levels"]
    with pytest.raises(ValueError, match="no levels in the row"):
        DualCertificate.from_row(row)
