"""One rule for all claims: every method's certificates keep it, come back from rows and can be recomputed."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dualrs_lab.cascade import Cascade, CascadeCertificate, from_tables
from dualrs_lab.dual import Cuts, DualCertificate, judge
from dualrs_lab.evidence import (
    ABSTAIN,
    LOG_COLUMNS,
    Certificate,
    Claim,
    agreement,
    answered,
    append_rows,
    as_table,
    average_radius,
    certified_accuracy,
    claimed,
    decide,
    frame,
    reach,
    read_table,
    summarise,
    whole,
)
from dualrs_lab.mixing import MixCertificate, mixed

DATA = Path(__file__).parents[2] / "data"


def test_an_answer_is_claimed_exactly_where_the_radius_is_above_0() -> None:
    assert answered([3, 3, 3, ABSTAIN], [0.5, 0.0, -1.0, 0.0]).tolist() == [3, ABSTAIN, ABSTAIN, ABSTAIN]
    assert int(answered(3, 1e-300)) == 3


def test_a_table_of_claims_by_hand() -> None:
    images = pd.DataFrame({"idx": [2, 4, 6, 8], "label": [1, 1, 1, -1], "radius": 9.0})
    found = claimed(images, [1, 0, 1, -1], [0.5, 0.25, 0.0, 0.0])
    assert found.to_dict("list") == {
        "idx": [2, 4, 6, 8],
        "label": [1, 1, 1, -1],
        "predict": [1, 0, ABSTAIN, ABSTAIN],
        "radius": [0.5, 0.25, 0.0, 0.0],
        "correct": [1, 0, 0, 0],  # to abstain is never right, even where the label is unknown
    }
    assert reach(found).tolist() == [0.5, -np.inf, -np.inf, -np.inf]


def test_a_fraction_is_no_whole_number() -> None:
    assert [whole(cell) for cell in (7, "7", np.int64(7))] == [7, 7, 7]
    for cell in (7.5, 7.0, "x"):
        with pytest.raises(ValueError, match="invalid literal"):
            whole(cell)


@dataclass(frozen=True, kw_only=True)
class Toy(Claim):
    """A claim whose evidence is one number."""

    most: float = 0.5

    @property
    def guess(self) -> int:
        return 3

    def recomputed(self) -> float:
        return self.most

    def evidence(self) -> dict[str, object]:
        return {"most": self.most}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Toy":
        return cls(**cls._said(row, ["most"]), most=float(row["most"]))

    def _want_evidence(self) -> None:
        self._want(self.most < 1, f"a number below 1, got {self.most}")


def toy(**changes) -> Toy:
    return Toy(**{"idx": 7, "label": 3, "predict": 3, "radius": 0.5, "seconds": 0.25} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"idx": np.int64(7)},
            r"Toy\(idx=7\): wanted Python ints, got {'idx': .*7.*, 'label': 3, 'predict': 3}",
        ),
        ({"predict": True}, "Python ints"),
        ({"idx": -1}, "idx >= 0, label >= -1, got -1, 3"),
        ({"label": -2}, "label >= -1, got 7, -2"),
        ({"seconds": -0.1}, "seconds >= 0, got -0.1"),
        ({"seconds": float("nan")}, "seconds >= 0, got nan"),
        ({"most": 1.0}, "a number below 1, got 1.0"),
        ({"predict": 2}, "predict 3 or -1, got 2"),
        ({"radius": -0.1}, "a finite radius >= 0, got -0.1"),
        ({"radius": float("inf"), "most": float("-inf")}, "a finite radius >= 0, got inf"),
        ({"radius": 0.0}, "radius 0 exactly where abstaining, got 0.0 and class 3"),
        ({"predict": ABSTAIN}, "radius 0 exactly where abstaining, got 0.5 and class -1"),
        ({"radius": 0.50001}, "at most the radius 0.5 of its votes, got 0.50001"),
    ],
)
def test_a_claim_that_breaks_the_rule_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(**changes)


def test_a_claim_may_say_less_and_a_hair_more_than_its_evidence() -> None:
    assert toy(radius=0.25).radius == 0.25
    assert toy(radius=0.5 * (1 + 1e-10)).predict == 3  # another SciPy
    assert not toy(predict=ABSTAIN, radius=0.0).correct
    assert not toy(predict=ABSTAIN, radius=0.0, label=-1).correct
    assert not toy(label=-1).correct
    assert not toy(label=2).correct
    assert toy().correct


def test_a_row_has_the_columns_of_the_field_and_comes_back() -> None:
    row = toy().to_row()
    assert row == {
        "idx": 7, "label": 3, "predict": 3, "radius": 0.5, "correct": 1, "time": 0.25, "most": 0.5,
    }  # fmt: skip
    assert tuple(row)[:6] == LOG_COLUMNS
    assert Toy.from_row(row) == toy()
    del row["most"], row["time"]
    with pytest.raises(
        ValueError, match=r"Toy.from_row: no time, most in the row; wanted a row of this method"
    ):
        Toy.from_row(row)


# The certificates of all methods.

PLAIN = decide(
    np.array([3, 95, 2]), np.array([30, 950, 20]), idx=4, label=1, sigma=0.5, alpha=0.001, seed=2, seconds=0.1
)
MIX = MixCertificate(
    **{name: getattr(PLAIN, name) for name in (field.name for field in dataclasses.fields(PLAIN))}
    | {"method": "mix", "radius": 0.5},
    weight=0.8,
    form="exact",
)
RULE = Cuts((0.5,))
DUAL = judge(
    np.array([[80, 20]]), np.array([[900, 100]]), np.array([5, 95]), np.array([[50, 950], [100, 900]]),
    idx=4, label=1, estimator=RULE, sigmas=(0.25, 0.5), split=RULE.split(2, 0.001), seed=2, seconds=0.1,
    bound="clopper-pearson", drawn=4000,
)  # fmt: skip
CASCADE = CascadeCertificate.from_votes(
    np.array([[50, 50], [5, 95]]), np.array([[400, 600], [50, 950]]), Cascade((0.5, 0.25), (0.1, 0.0)),
    idx=4, label=1, alpha=0.001, seed=2, seconds=0.1,
)  # fmt: skip
CLAIMS: list[Claim] = [PLAIN, dataclasses.replace(MIX, radius=MIX.recomputed()), DUAL, CASCADE]
each_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: type(claim).__name__)


@each_claim
def test_every_certificate_is_a_claim_that_its_row_gives_back(claim: Claim, tmp_path: Path) -> None:
    assert claim.correct
    assert claim.radius == claim.recomputed() > 0
    row = claim.to_row()
    assert tuple(row)[:7] == (*LOG_COLUMNS, "method")
    assert type(claim).from_row(row) == claim
    append_rows(tmp_path / "t.tsv", [claim], columns=tuple(row))
    table = read_table(tmp_path / "t.tsv")
    pd.testing.assert_frame_equal(table, frame([claim]), check_exact=True)
    (again,) = (type(claim).from_row(row) for row in table.to_dict("records"))
    assert again == claim
    assert again.recomputed() == claim.radius


@each_claim
def test_every_certificate_keeps_the_rule(claim: Claim) -> None:
    name = type(claim).__name__
    for changes, message in (
        ({"predict": 0}, r"predict 1 or -1, got 0"),
        ({"radius": claim.radius * 1.001}, r"at most the radius .* of its votes"),
        ({"predict": ABSTAIN}, r"radius 0 exactly where abstaining"),
        ({"seed": 2.0}, r"Python ints, got {.*'seed': 2.0"),
        ({"drawn": 3}, r"drawn, got 3"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}\(idx=4\): wanted .*{message}"):
            dataclasses.replace(claim, **changes)
    none = {"published": 0.0} if isinstance(claim, DualCertificate) else {}
    less = dataclasses.replace(claim, radius=0.0, predict=ABSTAIN, **none)
    assert less.recomputed() == claim.radius


@each_claim
def test_a_row_that_lacks_or_twists_its_evidence_is_refused(claim: Claim) -> None:
    row = claim.to_row()
    for name in ("idx", "time", "alpha", "seed", "drawn"):
        if (name, type(claim)) in (("drawn", Certificate), ("drawn", MixCertificate)):
            continue  # as tables had it first
        with pytest.raises(ValueError, match=rf"from_row: no {name} in the row; wanted a row of this method"):
            type(claim).from_row({key: cell for key, cell in row.items() if key != name})
    with pytest.raises(ValueError, match="of its votes"):
        type(claim).from_row(row | {"radius": 1.5 * claim.radius})
    with pytest.raises(ValueError, match="invalid literal"):
        type(claim).from_row(row | {"idx": 4.5})
    published = dict(zip(LOG_COLUMNS, [4, 1, 1, 0.5, 1, 0.1], strict=True))
    with pytest.raises(
        ValueError, match=r"from_row: no .*(alpha|weight).* in the row; .*a published log has none"
    ):
        type(claim).from_row(published)


def test_claims_are_judged_alike_one_by_one_and_as_a_table() -> None:
    table = frame(CLAIMS)  # one table for all methods: cells of others stay empty
    assert list(table)[:7] == [*LOG_COLUMNS, "method"]
    assert table["method"].tolist() == ["rs", "mix", "dual", "cascade"]
    assert as_table(table) is table
    pd.testing.assert_frame_equal(as_table(CLAIMS), table)
    claims = [dataclasses.replace(claim, idx=i) for i, claim in enumerate(CLAIMS)]  # each image counts once
    table = frame(claims)
    assert certified_accuracy(claims, [0.0, 0.3]).tolist() == certified_accuracy(table, [0.0, 0.3]).tolist()
    assert average_radius(claims) == np.mean([claim.radius for claim in claims])
    assert summarise({"all": claims}, [0.3]).equals(summarise({"all": table}, [0.3]))
    assert agreement(CLAIMS[:1], CLAIMS[2:3])["largest_difference"] == abs(PLAIN.radius - DUAL.radius)


# What is shipped.

SHIPPED = sorted(DATA.glob("*/*_smoothed*_n10000.tsv"))


def recompute(kind: type[Claim], table: pd.DataFrame) -> None:
    """Every row is a claim of this kind, and its radius is that of its votes."""
    claims = [kind.from_row(row) for row in table.to_dict("records")]
    assert [claim.recomputed() for claim in claims] == pytest.approx(table["radius"].tolist(), rel=1e-9)
    assert [claim.correct for claim in claims] == table["correct"].astype(bool).tolist()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_tables_and_their_mixes_recompute(path: Path) -> None:
    table = read_table(path)
    recompute(Certificate, table)
    recompute(MixCertificate, mixed(table, 0.76, form="closed", rule="cohen"))
    recompute(MixCertificate, mixed(table[:100], 0.76, form="exact"))


def test_the_shipped_dual_table_recomputes() -> None:
    table = read_table(DATA / "cifar10_systems" / "dual.tsv")
    recompute(DualCertificate, table)
    claims = [DualCertificate.from_row(row) for row in table.to_dict("records")]
    published = [float(claim.routes.published) for claim in claims]
    assert published == pytest.approx(table["published"].tolist(), rel=1e-9)


def test_the_cascade_of_shipped_tables_recomputes() -> None:
    tables = {float(read_table(path)["sigma"].iloc[0]): read_table(path) for path in SHIPPED[:3]}
    recompute(CascadeCertificate, from_tables(tables, cascade=Cascade((1.0, 0.5, 0.25), (0.3, 0.1, 0.0))))


WINGS = ("evidence", "dual", "cascade", "mixing")


def test_claims_and_their_tables_need_no_torch() -> None:
    names = ("evidence.claim", "evidence.table", *(f"{wing}.certificate" for wing in WINGS))
    code = "import sys, importlib; sys.modules['torch'] = None\n"
    code += "[importlib.import_module('dualrs_lab.' + name) for name in sys.argv[1:]]"
    subprocess.run([sys.executable, "-c", code, *names, "store", "evidence.resume"], check=True)
