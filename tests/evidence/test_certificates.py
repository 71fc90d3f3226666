"""A certificate contradicts nothing, tables survive kills, published logs give what was printed."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dualrs_lab.evidence import (
    ABSTAIN,
    COLUMNS,
    Certificate,
    agreement,
    anytime_lower_bound,
    anytime_upper_bound,
    append_rows,
    average_radius,
    certified_accuracy,
    confidence_band,
    decide,
    floor_text,
    frame,
    lower_bound,
    margin_radius,
    read_table,
    repair_table,
    rs_radius,
    summarise,
    upper_bound,
    write_table,
)

TABLES = sorted((Path(__file__).parents[2] / "data" / "cifar10_jpeg").glob("*.tsv"))
LOGS = Path(__file__).parents[2] / "data" / "published_logs"
SIX = ["idx", "label", "predict", "radius", "correct", "time"]


def _decide(selection=(3, 97, 0), votes=(10, 985, 5), **changes) -> Certificate:
    given = {"idx": 7, "label": 1, "sigma": 0.25, "alpha": 0.001, "seed": 0, "seconds": 0.125} | changes
    return decide(np.array(selection), np.array(votes), **given)


def _many(count: int = 40, rule: str = "two-bounds") -> list[Certificate]:
    rng = np.random.default_rng(5)
    chances = rng.dirichlet([1.0, 1.0, 6.0], size=count)
    return [
        _decide(
            rng.multinomial(100, p),
            rng.multinomial(1000, p),
            idx=20 * i,
            label=2,
            seconds=rng.random(),
            rule=rule,
        )
        for i, p in enumerate(chances)
    ]


def test_decide_is_cohens_certify() -> None:
    certificate = _decide()
    assert (certificate.guess, certificate.predict, certificate.correct) == (1, 1, True)
    assert (certificate.n0, certificate.n, certificate.successes) == (100, 1000, 985)
    assert certificate.votes == ((0, 10), (1, 985), (2, 5))
    assert certificate.selection == ((0, 3), (1, 97))
    low, high = lower_bound(985, 1000, 0.0005), upper_bound(10, 1000, 0.0005)
    assert certificate.rule == "two-bounds"
    assert certificate.radius == margin_radius(low, high, 0.25) == certificate.recomputed()
    cohens = _decide(rule="cohen")
    assert cohens.radius == rs_radius(lower_bound(985, 1000, 0.001), 0.25) == cohens.recomputed()
    assert 0 < cohens.radius < certificate.radius


def test_votes_that_chose_when_to_stop_are_bounded_at_every_number_of_draws() -> None:
    stopped = _decide(bound="betting", drawn=4000)
    assert (stopped.bound, stopped.n, stopped.drawn) == ("betting", 1000, 4000)
    low, high = anytime_lower_bound(985, 1000, 0.0005), anytime_upper_bound(10, 1000, 0.0005)
    assert stopped.radius == margin_radius(low, high, 0.25) == stopped.recomputed()
    cohens = _decide(bound="betting", drawn=4000, rule="cohen")
    assert cohens.radius == rs_radius(anytime_lower_bound(985, 1000, 0.001), 0.25) == cohens.recomputed()
    assert stopped.radius < _decide().radius
    with pytest.raises(ValueError, match=r"at most the radius 0.4.* of its votes"):
        dataclasses.replace(stopped, radius=_decide().radius)
    with pytest.raises(ValueError, match="decide: wanted a bound of clopper-pearson, betting, got 'normal'"):
        _decide(bound="normal")


def test_the_guess_comes_from_the_selection_alone() -> None:
    misled = _decide(selection=(60, 40, 0))
    assert (misled.guess, misled.successes, misled.predict, misled.radius) == (0, 10, ABSTAIN, 0.0)
    assert _decide(selection=(50, 50, 0)).guess == 0  # the lowest class wins a tie
    assert _decide(selection=(100, 0, 0), votes=(0, 1000, 0)).successes == 0


def test_abstains_exactly_up_to_one_half() -> None:
    """The votes around the point where the lower bound crosses 1/2."""
    votes = np.arange(540, 560)
    bounds = lower_bound(votes, 1000, 0.001)
    assert bounds[0] < 0.5 < bounds[-1]
    for k, p_lower in zip(votes, bounds, strict=True):
        certificate = _decide(votes=(1000 - k, k, 0), rule="cohen")
        assert (certificate.predict == ABSTAIN) == (certificate.radius == 0) == (p_lower <= 0.5)


def test_two_bounds_abstain_exactly_where_they_do_not_part() -> None:
    """One half for two classes; far below it for three, where no majority is needed."""
    for k in range(530, 580):
        certificate = _decide(votes=(1000 - k, k, 0))
        assert (certificate.predict == ABSTAIN) == (certificate.radius == 0)
        assert (certificate.radius == 0) == (lower_bound(k, 1000, 0.0005) <= 0.5)
    for k in range(330, 460):
        others = (1000 - k) // 2
        certificate = _decide(votes=(others, k, 1000 - k - others))
        parted = lower_bound(k, 1000, 0.0005) > upper_bound(1000 - k - others, 1000, 0.0005)
        assert (certificate.predict == ABSTAIN) == (certificate.radius == 0) == (not parted)
        assert _decide(votes=(others, k, 1000 - k - others), rule="cohen").radius == 0


def test_a_radius_is_that_of_its_votes_but_for_the_last_digits() -> None:
    certificate = _decide()
    assert dataclasses.replace(certificate, radius=certificate.radius * (1 + 1e-12))
    with pytest.raises(ValueError, match="at most the radius"):
        dataclasses.replace(certificate, radius=certificate.radius * (1 + 1e-6))


def test_an_unknown_label_is_never_correct() -> None:
    assert not _decide(label=-1).correct
    assert not _decide(label=-1, votes=(500, 500, 0)).correct  # predict == label == -1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 1001}, r"Certificate\(idx=7\): wanted votes that sum to its 1001 >= 1 draws, got 1000"),
        ({"n0": 99}, "selection that sum to its 99 >= 1 draws, got 100"),
        ({"n": 0, "votes": (), "successes": 0, "predict": -1, "radius": 0.0}, "sum to its 0 >= 1 draws"),
        ({"successes": 986}, "successes 985, as in votes, got 986"),
        ({"radius": 0.6}, "at most the radius 0.4.* of its votes, got 0.6"),
        ({"radius": -0.1}, "a finite radius >= 0, got -0.1"),
        ({"radius": float("nan")}, "a finite radius >= 0, got nan"),
        ({"radius": 0.0}, "radius 0 exactly where abstaining, got 0.0 and class 1"),
        ({"predict": ABSTAIN}, "radius 0 exactly where abstaining, got 0.4.* and class -1"),
        ({"predict": 2}, "predict 1 or -1, got 2"),
        ({"label": -2}, "label >= -1, got 7, -2"),
        ({"idx": np.int64(7)}, "Python ints"),
        ({"method": "a\tb"}, r"a method name, got 'a\\tb'"),
        ({"seconds": -1.0}, "seconds >= 0, got -1.0"),
        ({"drawn": 999}, "at least its 1000 votes drawn, got 999"),
        ({"drawn": None}, "Python ints"),
        ({"bound": "normal"}, "a bound of clopper-pearson, betting, got 'normal'"),
        ({"rule": "best"}, "a rule of two-bounds, cohen, selected, got 'best'"),
        ({"votes": ((1, 985), (0, 15))}, "votes with each class once, ascending"),
        ({"votes": ((0, 15), (1, 985), (2, 0))}, "positive counts"),
        ({"alpha": 0.0}, "alpha is a failure probability"),
        ({"sigma": -0.25}, "sigma must be positive"),
    ],
)
def test_a_certificate_that_contradicts_itself_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(_decide(), **changes)


def test_a_smaller_radius_than_the_votes_give_is_a_true_statement() -> None:
    assert dataclasses.replace(_decide(), radius=0.25).radius == 0.25


@pytest.mark.parametrize("counts", [(0.5, 99.5), ((1, 2), (3, 4))])
def test_decide_refuses_what_is_not_a_count_per_class(counts) -> None:
    with pytest.raises(ValueError, match=r"decide: selection_counts wants whole counts per class \(K,\)"):
        _decide(selection=counts)


def test_rows_and_tables_come_back_bit_for_bit(tmp_path: Path) -> None:
    certificates = [*_many(), _decide(idx=900, bound="betting", drawn=2500)]
    append_rows(tmp_path / "t.tsv", certificates[:15])
    append_rows(tmp_path / "t.tsv", certificates[15:])
    table = read_table(tmp_path / "t.tsv")
    pd.testing.assert_frame_equal(table, frame(certificates), check_exact=True)
    assert tuple(table.columns) == COLUMNS
    assert [Certificate.from_row(row) for row in table.to_dict("records")] == certificates
    assert [Certificate.from_row(certificate.to_row()) for certificate in certificates] == certificates
    write_table(tmp_path / "whole.tsv", table)
    assert (tmp_path / "whole.tsv").read_bytes() == (tmp_path / "t.tsv").read_bytes()


def test_tables_without_the_last_columns_are_cohens_on_all_draws(tmp_path: Path) -> None:
    certificates = _many(rule="cohen")
    write_table(tmp_path / "old.tsv", frame(certificates).drop(columns=["bound", "drawn", "rule"]))
    table = read_table(tmp_path / "old.tsv")
    assert tuple(table.columns) == COLUMNS[:-3]
    assert [Certificate.from_row(row) for row in table.to_dict("records")] == certificates
    assert len(TABLES) == 3
    for path in TABLES:
        rows = read_table(path).to_dict("records")
        assert [Certificate.from_row(row).recomputed() for row in rows] == [row["radius"] for row in rows]


def test_the_file_is_the_log_format_of_the_field(tmp_path: Path) -> None:
    append_rows(tmp_path / "t.tsv", [_decide(), _decide(votes=(500, 500, 0), idx=8)])
    lines = (tmp_path / "t.tsv").read_text().splitlines()
    assert lines[0].split("\t") == list(COLUMNS)
    assert lines[1].split("\t")[:6] == ["7", "1", "1", repr(_decide().radius), "1", "0.125"]
    assert lines[1].split("\t")[-3:] == ["clopper-pearson", "1000", "two-bounds"]
    assert lines[1].split("\t")[-5:-3] == ["0:3 1:97", "0:10 1:985 2:5"]
    assert lines[2].split("\t")[:6] == ["8", "1", "-1", "0.0", "0", "0.125"]
    # as the analysis scripts of the field read it
    table = pd.read_csv(tmp_path / "t.tsv", delimiter="\t")
    assert (table["correct"] & (table["radius"] >= 0.25)).mean() == 0.5


def test_frames_have_numbers_even_without_rows(tmp_path: Path) -> None:
    append_rows(tmp_path / "t.tsv", [])
    for table in (frame([]), frame(_many()), read_table(tmp_path / "t.tsv")):
        assert table["n"].dtype == table["correct"].dtype == np.int64
        assert table["radius"].dtype == table["time"].dtype == np.float64


def test_other_methods_share_a_table(tmp_path: Path) -> None:
    """A later method brings columns; a row that does not know them leaves the cells empty."""
    columns = (*COLUMNS, "router", "entry_radius")
    other = {
        "idx": 3,
        "label": 1,
        "predict": 1,
        "radius": 0.3,
        "correct": True,
        "time": 1.5,
        "method": "mine",
    }
    append_rows(tmp_path / "t.tsv", [_decide()], columns=columns)
    append_rows(tmp_path / "t.tsv", [other | {"entry_radius": 0.1, "router": "2:9"}])
    table = read_table(tmp_path / "t.tsv")
    assert tuple(table.columns) == columns
    assert table["n"].tolist() == [1000, pd.NA]
    assert table["correct"].tolist() == [1, 1]
    assert table["entry_radius"].tolist()[1] == 0.1
    assert Certificate.from_row(table.iloc[0].to_dict()) == _decide()
    write_table(tmp_path / "again.tsv", table)
    assert (tmp_path / "again.tsv").read_bytes() == (tmp_path / "t.tsv").read_bytes()
    with pytest.raises(ValueError, match=r"append_rows.*\['cut'\] missing"):
        append_rows(tmp_path / "t.tsv", [other | {"cut": 1}])
    with pytest.raises(ValueError, match=r"append_rows.*\['radius'\] missing"):
        append_rows(tmp_path / "t.tsv", [{k: v for k, v in other.items() if k != "radius"}])


def test_a_kill_at_any_byte_is_repaired(tmp_path: Path) -> None:
    path, certificates = tmp_path / "t.tsv", _many(3)
    append_rows(path, certificates)
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        if data[size - 1 : size] != b"\n" and size:
            for call in (lambda: read_table(path), lambda: append_rows(path, certificates[-1:])):
                with pytest.raises(ValueError, match="unfinished"):
                    call()
        whole = repair_table(path)
        assert whole == max(0, data[:size].count(b"\n") - 1)
        append_rows(path, certificates[whole:])
        assert path.read_bytes() == data
    assert repair_table(tmp_path / "absent.tsv") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "last line is unfinished"),
        ("a,b\n", "wanted a tab separated header .* idx label predict radius correct time, got"),
        ("\t".join(SIX) + "\n0\t1\t1\t0.3\t1\n", "line 2 has 5 cells, the header has 6"),
        ("\t".join(SIX) + "\n0\t1\t1\t0.3\t1\t2\n\n", "line 3 has 1 cells"),
        ("\t".join(SIX) + "\n0\t1\t1\tx\t1\t2\n", "column radius: could not convert string to float: 'x'"),
        ("\t".join([*SIX, "idx"]) + "\n", "different names"),
    ],
)
def test_a_bad_table_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "t.tsv")


def test_a_missing_table_and_a_log_without_votes_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"read_table\(.*absent.tsv\): no such file"):
        read_table(tmp_path / "absent.tsv")
    with pytest.raises(ValueError, match=r"no method, sigma, .*a published log has none"):
        Certificate.from_row(dict.fromkeys(SIX, 1))


def test_both_time_formats_and_windows_line_ends(tmp_path: Path) -> None:
    rows = ["0\t1\t1\t0.978\t1\t0:02:31.238689", "1\t1\t-1\t0.0\t0\t1:00:00", "2\t1\t1\t1.2\t1\t16.2"]
    (tmp_path / "log.tsv").write_bytes("\r\n".join(["\t".join(SIX), *rows, ""]).encode())
    table = read_table(tmp_path / "log.tsv")
    assert list(table.columns) == [*SIX, "method"]
    assert table["time"].tolist() == [151.238689, 3600.0, 16.2]
    assert table["radius"].tolist() == [0.978, 0.0, 1.2]
    assert set(table["method"]) == {"published"}


PRINTED = {  # Cohen, Rosenfeld and Kolter 2019, CIFAR-10, at r = 0.25, 0.5, …, 1.5
    "0.25": (0.60, 0.43, 0.27, 0.00, 0.00, 0.00),
    "0.50": (0.55, 0.41, 0.32, 0.23, 0.15, 0.09),
    "1.00": (0.39, 0.34, 0.28, 0.22, 0.17, 0.14),
}


@pytest.mark.parametrize("sigma", PRINTED)
def test_published_logs_give_what_their_authors_printed(sigma: str) -> None:
    table = read_table(LOGS / f"cohen2019_cifar10_resnet110_sigma_{sigma}.tsv")
    assert len(table) == 500
    assert np.round(certified_accuracy(table, np.arange(1, 7) / 4), 2).tolist() == list(PRINTED[sigma])


@pytest.mark.parametrize(
    ("sigma", "acr", "abstain"),
    [("0.12", 0.270, 0.038), ("0.25", 0.429, 0.086), ("0.50", 0.538, 0.166), ("1.00", 0.542, 0.290)],
)
def test_published_average_radius_and_abstentions(sigma: str, acr: float, abstain: float) -> None:
    table = read_table(LOGS / f"cohen2019_cifar10_resnet110_sigma_{sigma}.tsv")
    assert round(average_radius(table), 3) == acr
    assert summarise({"cohen": table}, [0.0]).loc["cohen", "abstain"] == abstain


def test_shipped_numbers_of_cohen_follow_from_their_logs() -> None:
    shipped = pd.read_csv(LOGS.parent / "published_cifar10.csv")
    cohen = shipped[shipped["method"] == "Cohen 2019"]
    assert set(cohen["sigma"]) == {0.12, 0.25, 0.5, 1.0}
    for sigma, rows in cohen.groupby("sigma"):
        table = read_table(LOGS / f"cohen2019_cifar10_resnet110_sigma_{sigma:.2f}.tsv")
        found = certified_accuracy(table, rows["radius"])
        np.testing.assert_allclose(found, rows["certified_accuracy"], atol=1e-12)
        assert (rows["images"] == len(table)).all()


def test_every_published_log_survives_the_journey(tmp_path: Path) -> None:
    logs = sorted(LOGS.glob("*.tsv"))
    assert len(logs) == 4
    for log in logs:
        table = read_table(log)
        assert len(table) == len(log.read_text().splitlines()) - 1
        assert (table["time"] > 5).all()
        write_table(tmp_path / log.name, table)
        pd.testing.assert_frame_equal(read_table(tmp_path / log.name), table, check_exact=True)


def _small() -> pd.DataFrame:
    """Certified at 0.5 and 1.0, wrong at 2.0, abstaining."""
    numbers = {"idx": [0, 1, 2, 3], "label": [1, 1, 1, 1], "predict": [1, 1, 0, -1]}
    return pd.DataFrame(numbers | {"radius": [0.5, 1.0, 2.0, 0.0], "correct": [1, 1, 0, 0]})


def test_certified_accuracy_counts_at_least_and_keeps_the_shape() -> None:
    assert certified_accuracy(_small(), [0.0, 0.5, 0.500001, 1.0, 1.1]).tolist() == [
        0.5,
        0.5,
        0.25,
        0.25,
        0.0,
    ]
    assert certified_accuracy(_small(), 0.5).shape == ()
    assert certified_accuracy(_small(), np.zeros((2, 3))).shape == (2, 3)


def test_average_radius_is_the_area_under_the_curve() -> None:
    assert average_radius(_small()) == 0.375
    table, fine = frame(_many()), np.linspace(0, 1, 100_001)
    area = certified_accuracy(table, fine[1:]).sum() * fine[1]
    assert average_radius(table) == pytest.approx(area, abs=1e-5)


def test_the_band_is_clopper_pearson_of_the_count() -> None:
    low, high = confidence_band(_small(), [0.5, 1.0], level=0.9)
    assert low == pytest.approx([lower_bound(2, 4, 0.05), lower_bound(1, 4, 0.05)])
    assert high == pytest.approx([upper_bound(2, 4, 0.05), upper_bound(1, 4, 0.05)])


def test_a_summary_has_one_row_per_table() -> None:
    others = frame(_many()).assign(idx=lambda table: table["idx"] + 100)
    summary = summarise({"small": _small(), "many": others}, [0, 0.25, 0.5])
    assert list(summary.columns) == ["images", "abstain", "0", "0.25", "0.5", "acr"]
    assert summary.loc["small"].tolist() == [4, 0.25, 0.5, 0.5, 0.5, 0.375]


def test_agreement_looks_at_the_common_images() -> None:
    other = _small().assign(idx=[1, 2, 3, 4], predict=[1, 1, -1, 1], radius=[0.75, 1.0, 0.0, 0.3])
    assert agreement(_small(), other) == {
        "images": 3,
        "same_prediction": pytest.approx(2 / 3),
        "abstain_a": pytest.approx(1 / 3),
        "abstain_b": pytest.approx(1 / 3),
        "largest_difference": 1.0,
        "mean_difference": pytest.approx(1.25 / 3),
    }
    with pytest.raises(ValueError, match=r"agreement: .* no common idx \(4 in a, 4 in b\)"):
        agreement(_small(), _small().assign(idx=[5, 6, 7, 8]))
    with pytest.raises(ValueError, match="an idx comes twice in b, 1 first"):
        agreement(_small(), pd.concat([other, other]))


def test_accuracy_without_labels_or_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="certified_accuracy: 4 rows have no label"):
        certified_accuracy(_small().assign(label=-1), 0.5)
    with pytest.raises(ValueError, match="average_radius: the table has no rows"):
        average_radius(frame([]))


def test_shown_radii_are_rounded_down() -> None:
    assert floor_text(0.4999) == "0.499"
    assert floor_text(0.0999999, 1) == "0.0"
    assert floor_text(0.3, 3) == "0.300"  # the float next to 0.3, not the binary fraction below it
    assert floor_text(1.2345678, 5) == "1.23456"
    assert floor_text(1e-7) == "0.000"
    values = np.random.default_rng(0).random(1000) * 4
    assert all(0 <= value - float(floor_text(value, 3)) < 1e-3 + 1e-12 for value in values)
