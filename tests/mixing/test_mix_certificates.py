"""Tables of h become those of the mix: golden numbers, votes that count, nothing claimed beyond h."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dualrs_lab.evidence import (
    ABSTAIN,
    Certificate,
    certified_accuracy,
    decide,
    frame,
    lower_bound,
    margin_radius,
    read_table,
    rs_radius,
    upper_bound,
    write_table,
)
from dualrs_lab.mixing import (
    FORMS,
    MixCertificate,
    check_mixed,
    class_bounds,
    mix_curves,
    mix_radius_closed,
    mix_radius_exact,
    mixed,
    mixed_answers,
    probability_bounds,
    weight_for,
)

ROOT = Path(__file__).parents[2]
LOGS = ROOT / "data" / "published_logs"
OWN = sorted((ROOT / "data" / "cifar10_jpeg").glob("*_n10000.tsv"))
SIGMA, ALPHA = 0.5, 0.001


def table_of(
    shares: np.ndarray, *, n: int = 1000, seed: int = 0, bound: str = "clopper-pearson", rule: str = "cohen"
) -> pd.DataFrame:
    """Rows whose class probabilities are those of `shares` (N, K), label 0."""
    rng = np.random.default_rng(seed)
    rows = [
        decide(
            rng.multinomial(100, p), rng.multinomial(n, p), idx=i, label=0, sigma=SIGMA, alpha=ALPHA, seed=0,
            seconds=0.0, bound=bound, rule=rule,
        )
        for i, p in enumerate(shares)
    ]  # fmt: skip
    return frame(rows)


@pytest.fixture(scope="module")
def own() -> pd.DataFrame:
    shares = np.random.default_rng(1).dirichlet([4, 1, 0.5, 0.3], 300)
    return table_of(shares)


NOISE = {"sigma": SIGMA}
COHENS, CLOSED = {"rule": "cohen"}, {"form": "closed", "rule": "cohen"}


def first_table(table: pd.DataFrame, weight: float, classes: int) -> pd.DataFrame:
    """As the first versions mixed by the votes of all classes: a bound for each of the others."""
    counts = table["votes"].map(lambda text: dict(tuple(map(int, pair.split(":"))) for pair in text.split()))
    kinds = probability_bounds(table, rule="cohen")[2]
    second = [
        max((n for kind, n in row.items() if kind != y), default=0)
        for row, y in zip(counts, kinds, strict=True)
    ]
    told = table["successes"], second, table["n"], table["alpha"]
    radius = mix_radius_exact(*class_bounds("each-class", *told, classes=classes), weight, table["sigma"])
    predict = np.where(radius > 0, kinds, ABSTAIN)
    made = {"radius": radius, "predict": predict, "correct": (predict == table["label"]).astype(int)}
    how = {"method": "mix", "weight": weight, "form": "exact", "others": "votes", "classes": classes}
    return table.drop(columns="rule").assign(**made | how)


def test_golden_numbers_on_published_logs() -> None:
    """Certified accuracy in percent at radii on Cohen et al.'s logs, by theorem 5 and by the exact form."""

    def log(level: str) -> pd.DataFrame:
        return read_table(LOGS / f"cohen2019_cifar10_resnet110_sigma_{level}.tsv")

    wanted = [
        ("0.50", 0.5, [0.25, 0.5, 0.75, 1.0], [35.0, 0.0, 0.0, 0.0], [44.6, 34.0, 25.4, 16.4]),
        ("1.00", 1.0, [0.25, 0.5, 1.0, 1.5], [26.4, 16.2, 0.0, 0.0], [30.2, 24.0, 15.8, 10.8]),
    ]
    for level, sigma, radii, five, exact in wanted:
        table = log(level)
        for form, percent in (("closed", exact), ("exact", exact), ("smoothing", five)):
            found = mixed(table, 0.76, form=form, sigma=sigma, rule="cohen")
            check_mixed(found, table)
            np.testing.assert_allclose(100 * certified_accuracy(found, radii), percent, atol=0.11)


def test_the_radius_is_that_of_h_less_a_constant(own) -> None:
    price = SIGMA * stats.norm.ppf(1 / 1.52)
    found = mixed(own, 0.76, **CLOSED)
    np.testing.assert_allclose(found["radius"], np.maximum(own["radius"] - price, 0), atol=1e-12)
    np.testing.assert_allclose(found["radius"], mixed(own, 0.76, **COHENS)["radius"], atol=1e-12)
    assert (found["radius"] > 0).any()
    assert ((found["predict"] == ABSTAIN) == (found["radius"] == 0)).all()
    assert (found["correct"] == ((found["predict"] == 0) & (found["radius"] > 0))).all()
    assert {*found["method"]} == {"mix"}
    assert {*found["weight"]} == {0.76}
    for name in ("votes", "selection", "successes", "n", "alpha", "seed", "sigma", "label"):
        assert found[name].equals(own[name])  # the evidence comes along


def test_a_log_without_votes_gives_the_same_radii(own) -> None:
    log = own[["idx", "label", "predict", "radius", "correct", "time"]]
    for form in FORMS:
        known, logged = (mixed(t, 0.8, form=form, **how) for t, how in ((own, COHENS), (log, COHENS | NOISE)))
        certified = own["predict"] != ABSTAIN
        np.testing.assert_allclose(known["radius"][certified], logged["radius"][certified], atol=1e-9)
        assert (logged["radius"][~certified] == 0).all()
    with pytest.raises(ValueError, match="no column sigma"):
        mixed(log, 0.8, **COHENS)
    for rule in ("two-bounds", "selected"):
        with pytest.raises(ValueError, match=f"rule='{rule}' and a log without votes, .*; wanted 'cohen'"):
            mixed(log, 0.8, rule=rule, sigma=SIGMA)
        with pytest.raises(ValueError, match=rf"claimed by \['{rule}'\]; wanted 'cohen' for both"):
            mixed(log.assign(rule=rule), 0.8, rule="cohen", sigma=SIGMA)


def test_a_radius_by_two_bounds_is_no_probability() -> None:
    """Why a log of such radii is no ground for a mix: it would claim what is not true."""
    p, rival = 0.45, 0.01
    radius = float(margin_radius(p, rival, SIGMA))
    taken = float(stats.norm.cdf(radius / SIGMA))  # for a probability of the class
    assert taken > 0.8
    true = mix_radius_exact(p, rival, 0.7, SIGMA)
    assert mix_radius_closed(taken, 0.7, SIGMA) > 2 * true


def test_only_tables_of_one_smoothed_network_are_mixed(own) -> None:
    """A routed radius is no probability of a network: with its sigma it would certify more than it holds."""
    dual = read_table(ROOT / "data" / "cifar10_systems" / "dual.tsv")
    one = dual[dual["sigma"] == 0.5]
    for table, given in ((dual, {"sigma": 0.5}), (one, {}), (own.assign(method="cascade"), {})):
        with pytest.raises(ValueError, match=r"got a table of (dual|cascade) at sigma \["):
            mixed(table, 0.9, **given)
    with pytest.raises(ValueError, match="got a table of mix"):  # above the mix, h would get its own back
        mixed(mixed(own, 0.7), 0.9)
    two = own.assign(sigma=np.where(own.index < 3, 0.25, 0.5))
    with pytest.raises(ValueError, match=r"rs at sigma \[0.25, 0.5\]; .* the same in all rows"):
        mixed(two, 0.9)


def test_a_sigma_that_is_not_that_of_the_table_is_refused(own) -> None:
    with pytest.raises(ValueError, match=r"sigma=0.25 for a table of sigma 0.5; leave it out"):
        mixed(own, 0.9, sigma=0.25)
    assert mixed(own, 0.9, sigma=SIGMA)["radius"].equals(mixed(own, 0.9)["radius"])
    log = own[["idx", "label", "predict", "radius", "correct", "time"]]
    for sigma in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="wanted a positive number"):
            mixed(log, 0.9, sigma=sigma, rule="cohen")
    for form in FORMS:  # no finite number of draws gives these radii: they would all become infinite
        with pytest.raises(ValueError, match="at most 6 sigma"):
            mixed(log, 0.9, form=form, sigma=0.05, rule="cohen")


def test_a_bound_for_each_class_costs_what_the_largest_rival_spares(own) -> None:
    """The rule of the first tables: never above two bounds, and the less the more classes there are."""
    few, many = (first_table(own, 0.9, k)["radius"] for k in (4, 400))
    assert (many <= few).all()
    assert many.sum() < few.sum()
    two = mixed(own, 0.9)["radius"]
    assert (few <= two + 1e-12).all()
    assert few.sum() < two.sum()


def test_nothing_for_half_and_less_and_h_itself_at_one(own) -> None:
    for weight in (0.0, 0.3, 0.5):
        for form in FORMS:
            found = mixed(own, weight, form=form, rule="cohen")
            assert (found["predict"] == ABSTAIN).all()
            assert not found["correct"].any()
            assert form == "closed" or (mixed(own, weight, form=form)["predict"] == ABSTAIN).all()
    whole = mixed(own, 1.0, **CLOSED)
    np.testing.assert_allclose(whole["radius"], own["radius"], atol=1e-14)
    assert whole["predict"].equals(own["predict"])


@pytest.mark.parametrize("rule", ["two-bounds", "selected"])
def test_a_mix_of_weight_one_is_h_by_the_same_rule(rule: str) -> None:
    shares = np.random.default_rng(2).dirichlet([4, 1, 0.5, 0.3], 100)
    own = table_of(shares, rule=rule)
    whole = mixed(own, 1.0, rule=rule)
    np.testing.assert_allclose(whole["radius"], own["radius"], atol=1e-12)
    assert (whole["predict"] == own["predict"]).all()
    check_mixed(mixed(own, 0.8, rule=rule), own)


@pytest.mark.parametrize("rule", ["cohen", "two-bounds", "selected"])
def test_forms_are_ordered_and_never_above_h(own, rule) -> None:
    last = None
    for weight in (0.55, 0.7, 0.85, 1.0):
        tables = {form: mixed(own, weight, form=form, rule=rule) for form in FORMS[1:]}
        exact = tables["exact"]["radius"]
        assert (exact >= tables["smoothing"]["radius"] - 1e-12).all()
        assert (exact >= tables["lipschitz"]["radius"] - 1e-12).all()
        if last is not None:
            assert (exact >= last - 1e-12).all()  # more weight on h, never less certified
        last = exact
    alone = mixed(own, 1.0, form="exact", rule=rule)
    for weight in (0.6, 0.9):
        check_mixed(mixed(own, weight, form="exact", rule=rule), alone)


def test_the_votes_of_the_rival_certify_where_the_rest_does_not() -> None:
    """Many classes share the rest: p = 0.55 against ten others of 0.045 each."""
    shares = np.full((40, 11), 0.045)
    shares[:, 0] = 0.55
    table = table_of(shares, n=10_000)
    assert not mixed(table, 0.76, **COHENS)["radius"].any()
    found = mixed(table, 0.76)
    assert (found["radius"] > 0).all()
    p, q, _ = probability_bounds(table)
    np.testing.assert_allclose(p, lower_bound(table["successes"], 10_000, ALPHA / 2))
    counts = [dict(pair.split(":") for pair in votes.split()) for votes in table["votes"]]
    most = [max(int(count) for kind, count in row.items() if kind != "0") for row in counts]
    np.testing.assert_allclose(q, upper_bound(most, 10_000, ALPHA / 2))


def test_both_bounds_hold_together_at_their_level() -> None:
    """Seeded: 4,000 rows at alpha = 0.05 miss with frequency at most 0.05 plus 3.5 standard errors."""
    alpha, p = 0.05, np.array([0.5, 0.3, 0.15, 0.05])
    rng = np.random.default_rng(3)
    rows = [
        decide(
            rng.multinomial(20, p), rng.multinomial(200, p), idx=i, label=0, sigma=1.0, alpha=alpha, seed=0,
            seconds=0,
        )
        for i in range(4000)
    ]  # fmt: skip
    table = frame(rows)
    lower, upper, kinds = probability_bounds(table)
    second = np.array([np.delete(p, kind).max() for kind in kinds])
    missed = (lower > p[kinds]) | (upper < second)
    assert missed.mean() <= alpha + 3.5 * np.sqrt(alpha * (1 - alpha) / 4000)
    halved = (lower_bound(table["successes"], 200, 10 * alpha) > p[kinds]).mean()
    assert halved > alpha + 3.5 * np.sqrt(alpha * (1 - alpha) / 4000)  # the negative control: a level of 0.5


def test_betting_tables_use_their_own_bounds() -> None:
    shares = np.random.default_rng(1).dirichlet([8, 1, 1], 50)
    fixed, betting = table_of(shares), table_of(shares, bound="betting")
    for rule, form in (("cohen", "closed"), ("two-bounds", "exact")):
        a, b = (mixed(t, 0.8, form=form, rule=rule)["radius"] for t in (fixed, betting))
        assert (b <= a).all()
        assert (b > 0).any()


def test_tables_above_those_of_h_are_refused(own) -> None:
    found = mixed(own, 0.8, **COHENS)
    check_mixed(found, own)
    row = int(np.argmax(found["radius"] > 0))
    further = found.assign(radius=found["radius"].where(found.index != row, own["radius"] + 0.01))
    with pytest.raises(ValueError, match=rf"images \[{row}\]"):
        check_mixed(further, own)
    other = found.assign(predict=found["predict"].where(found.index != row, 3))
    with pytest.raises(ValueError, match="another class"):
        check_mixed(other, own)
    with pytest.raises(ValueError, match="an idx comes twice in the mix"):
        check_mixed(pd.concat([found, found]), own)
    with pytest.raises(ValueError, match="form='sharp'"):
        mixed(own, 0.8, form="sharp")
    with pytest.raises(ValueError, match="'cohen' with 'closed'"):
        mixed(own, 0.8, form="closed")
    with pytest.raises(ValueError, match="rule='best'"):
        mixed(own, 0.8, rule="best")


def test_shipped_tables_mix_and_read_back(tmp_path) -> None:
    for path in OWN:
        table = read_table(path)
        found = mixed(table, 0.76, rule="cohen")
        check_mixed(found, table)
        radii = [0.0, 0.25, 0.5, 1.0]
        assert (certified_accuracy(found, radii) <= certified_accuracy(table, radii)).all()
        write_table(tmp_path / "mix.tsv", found)
        again = read_table(tmp_path / "mix.tsv")
        assert again["radius"].tolist() == found["radius"].tolist()
        assert ({*again["form"]}, {*again["rule"]}) == ({"exact"}, {"cohen"})
        two = mixed(table, 0.76)
        check_mixed(two, mixed(table, 1.0))
        assert certified_accuracy(two, 0.0) > certified_accuracy(found, 0.0)
    assert OWN


def test_answers_of_the_mix_come_from_votes_and_logits(own) -> None:
    logits = np.zeros((len(own), 4))
    logits[:, 3] = 5.0  # g always says 3, and is sure
    assert (mixed_answers(own, logits, 0.0) == 3).all()
    counts = [dict(map(int, pair.split(":")) for pair in votes.split()) for votes in own["votes"]]
    assert mixed_answers(own, logits, 1.0).tolist() == [max(row, key=lambda k: row[k]) for row in counts]
    for weight in (0.6, 0.9):
        claims = mixed(own, weight)
        certified = claims["radius"] > 0  # whatever g says, within the radius and so at the image
        said = mixed_answers(own, logits, weight)[certified]
        assert said.tolist() == claims["predict"][certified].tolist()
    for given, weight in ((logits[:3], 0.6), (logits, 1.7)):
        with pytest.raises(ValueError, match=r"logits \(\d+, 4\) for 300 rows"):
            mixed_answers(own, given, weight)


def test_curves_of_mixes_are_what_single_calls_say(own) -> None:
    logits = np.random.default_rng(0).normal(size=(len(own), 4))
    found = mix_curves(own, logits, (0.76, 1.0), (0.0, 0.25))
    assert list(found) == ["sigma", "weight", "form", "rule", "natural", "0", "0.25"]
    assert found["sigma"].tolist() == [SIGMA, SIGMA]
    for row in found.to_dict("records"):
        assert row["natural"] == (mixed_answers(own, logits, row["weight"]) == own["label"]).mean()
        at = certified_accuracy(mixed(own, row["weight"]), [0.0, 0.25])
        assert [row["0"], row["0.25"]] == at.tolist()
    closed = mix_curves(own, logits, (0.76,), (0.25,), **CLOSED)
    assert closed["0.25"].item() == certified_accuracy(mixed(own, 0.76, **CLOSED), 0.25)


def test_the_smallest_weight_for_a_radius() -> None:
    for p, radius in ((0.9, 0.2), (0.99, 0.5), (0.999, 0.0)):
        weight = weight_for(radius, p, SIGMA)
        assert 0.5 < weight < 1
        assert mix_radius_closed(p, weight, SIGMA) == pytest.approx(radius, abs=1e-12)
    assert weight_for(2.0, 0.9, SIGMA) > 1
    assert weight_for(float(rs_radius(0.9, SIGMA)), 0.9, SIGMA) == pytest.approx(1.0)


HOW = [
    {"form": "closed", "rule": "cohen"},
    {"form": "smoothing", "rule": "cohen"},
    {"form": "lipschitz", "rule": "two-bounds"},
    {"form": "exact", "rule": "cohen"},
    {"form": "exact", "rule": "selected"},
    {"form": "exact", "rule": "two-bounds"},
]


@pytest.mark.parametrize("how", HOW, ids=lambda how: f"{how['form']}-{how['rule']}")
@pytest.mark.parametrize("bound", ["clopper-pearson", "betting"])
def test_every_row_of_a_mix_is_a_certificate_that_recomputes(tmp_path, how: dict, bound: str) -> None:
    shares = np.random.default_rng(1).dirichlet([8, 1, 0.5, 0.3], 60)
    found = mixed(table_of(shares, bound=bound), 0.9, **how)
    assert {*found["rule"]} == {how["rule"]}
    write_table(tmp_path / "mix.tsv", found)
    for table in (found, read_table(tmp_path / "mix.tsv")):
        claims = [MixCertificate.from_row(row) for row in table.to_dict("records")]
        assert [claim.recomputed() for claim in claims] == table["radius"].tolist()
        assert [claim.predict for claim in claims] == table["predict"].tolist()
        pd.testing.assert_frame_equal(frame(claims), found, check_dtype=False, check_exact=True)
    assert (found["radius"] > 0).mean() > 0.3


def test_mixed_takes_certificates_one_by_one(own) -> None:
    certificates = [Certificate.from_row(row) for row in own.to_dict("records")]
    assert mixed(certificates, 0.8)["radius"].tolist() == mixed(own, 0.8)["radius"].tolist()


def test_the_first_tables_read_as_they_were_made(own, tmp_path) -> None:
    """They say `others` where later ones say `rule`; without `classes`, only those that need none."""
    rest = mixed(own, 0.8, **CLOSED).drop(columns="rule").assign(others="rest")
    votes = first_table(own, 0.8, 4)
    assert (votes["radius"] > 0).mean() > 0.2
    for first, rule in ((rest, "cohen"), (votes, "each-class")):
        write_table(tmp_path / "first.tsv", first)
        table = read_table(tmp_path / "first.tsv")
        assert table["radius"].tolist() == first["radius"].tolist()
        claims = [MixCertificate.from_row(row) for row in table.to_dict("records")]
        assert {claim.rule for claim in claims} == {rule}
        assert [claim.recomputed() for claim in claims] == pytest.approx(first["radius"].tolist(), rel=1e-12)
        write_table(tmp_path / "first.tsv", first.assign(radius=first["radius"] * 1.001))
        with pytest.raises(ValueError, match="its votes give"):
            read_table(tmp_path / "first.tsv")
    assert {MixCertificate.from_row(row).classes for row in rest.to_dict("records")} == {None}
    votes = votes.drop(columns="classes")
    with pytest.raises(ValueError, match=r"MixCertificate.from_row: no classes in the row"):
        MixCertificate.from_row(votes.iloc[0].to_dict())
    write_table(tmp_path / "first.tsv", votes)
    with pytest.raises(ValueError, match="no column classes"):
        read_table(tmp_path / "first.tsv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 0.7}, "at most the radius"),
        ({"weight": 1.5}, "weight is a share in"),
        ({"form": "lipschitz"}, "at most the radius"),
        ({"rule": "cohen"}, "at most the radius"),
        ({"rule": "each-class", "classes": 50}, "at most the radius"),
        ({"rule": "each-class", "classes": 3}, "the number of all classes, 4 at least, got 3"),
        ({"form": "sharp"}, "form='sharp'"),
        ({"rule": "some"}, "got 'some'"),
        ({"form": "closed"}, "'cohen' with 'closed'"),
        ({"successes": 1}, "as in votes, got 1"),
        ({"predict": 2}, r"predict 0 or -1, got 2"),
    ],
)
def test_a_row_of_a_mix_that_was_changed_is_refused(change: dict, message: str) -> None:
    table = table_of(np.array([[0.9, 0.05, 0.03, 0.02]]), n=5000)
    row = mixed(table, 0.8).iloc[0].to_dict()
    assert MixCertificate.from_row(row).radius > 0
    with pytest.raises(ValueError, match=message):
        MixCertificate.from_row(row | change)


def test_a_table_of_h_whose_votes_say_otherwise_is_not_mixed(own) -> None:
    for changed in (own.assign(successes=own["successes"] + 1), own.assign(n=own["n"] + 1)):
        with pytest.raises(
            ValueError, match=r"of image 0, whose votes say \(\d+, 1000, 100\); the table was changed"
        ):
            mixed(changed, 0.8)
