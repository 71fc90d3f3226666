"""The dial of cascades that ships follows from the shipped tables, and what is said of it holds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.dial import (
    ALIKE,
    CAT_RS,
    CONSISTENCY,
    certified,
    chosen_for,
    keep_cascade,
    main,
    of_row,
    table_of,
)
from benchmarks.gpu.certifying import RADII
from benchmarks.handed import ALONE, ARMS, BEHIND
from benchmarks.pages.dial import dial, falling_back, gained_over, handed
from benchmarks.pages.taught import TAUGHT
from dualrs_lab.cascade import MOST, CascadeCertificate
from dualrs_lab.evidence import average_radius, certified_accuracy, read_table, reclaimed

AT = [f"{r:g}" for r in RADII]


def test_each_row_follows_from_the_tables_of_its_experts() -> None:
    rows = dial()
    assert len(rows) >= 5
    for row in rows.to_dict("records")[::3]:
        table = certified(of_row(row))
        assert len(table) == 1000
        assert certified_accuracy(table, RADII) == pytest.approx([row[r] for r in AT], abs=1e-6)
        assert average_radius(table) == pytest.approx(row["acr"], abs=1e-6)
    assert rows["held_out_small"].is_monotonic_increasing


def test_one_is_kept_with_its_votes() -> None:
    setting, kept = falling_back(), read_table(TAUGHT / "cascade_falling_back.tsv")
    claims = [CascadeCertificate.from_row(row) for row in kept.to_dict("records")]
    assert {claim.cascade for claim in claims} == {setting.cascade}
    assert [claim.recomputed() for claim in claims] == pytest.approx(kept["radius"].tolist(), rel=1e-9)
    assert {*setting.kinds} == {CAT_RS}
    assert setting.cascade.sigmas == (0.5, 0.25)
    assert setting.cascade.shares == (MOST, 1 - MOST)


def test_what_the_page_says_of_it_holds() -> None:
    over = gained_over("cohen").mean()
    assert (over >= 0).all()  # at no cost anywhere, against the same network by Cohen's radius
    over = gained_over("two-bounds").mean()
    assert (over[["0", "0.25", "0.5", "1.5", "acr"]] > 0).all()
    assert (over[["0.75", "1", "1.25"]] >= -0.004).all()
    error = gained_over("two-bounds").sem()
    assert over["0"] > 2 * error["0"]
    alone = reclaimed(read_table(table_of(0.5, CAT_RS)), "two-bounds")
    curve = chosen_for(dial(), f"alike, {CAT_RS} alone")
    assert average_radius(alone) < float(curve["acr"])


def test_of_each_recipe_there_is_one_and_weights_say_which() -> None:
    rows = dial()
    for kind in (CAT_RS, CONSISTENCY):
        assert {*of_row(chosen_for(rows, f"alike, {kind} alone")).kinds} == {kind}
    held = rows[["held_out_small", "held_out_large"]].to_numpy()
    named = rows["chosen_for"].fillna("")
    for i in np.flatnonzero(named == ""):  # kept for the front alone
        assert not ((held >= held[i]).all(axis=1) & (held > held[i]).any(axis=1)).any()
    assert len(ALIKE) == len(RADII)


def test_images_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "--data" in capsys.readouterr().err


def test_shares_are_read_back_where_there_are_none() -> None:
    row = {"sigmas": "0.5 0.25", "thresholds": "0 -0.3", "shares": np.nan, "kinds": "CAT-RS CAT-RS"}
    assert of_row(row).cascade.shares == ()
    assert of_row(pd.Series(row)).kinds == (CAT_RS, CAT_RS)


def test_dropping_hopeless_images_makes_an_expert_answer_where_it_should_be_silent() -> None:
    rows = handed()
    assert rows["arm"].drop_duplicates().tolist() == [*ARMS]
    by = rows.set_index(["arm", "asked"])[AT]
    for arm in ARMS:
        assert (by.loc[arm, "first"] >= by.loc[arm, "alone"]).all()
    easy, whole = by.loc["easy images"], by.loc["all images"]
    assert (easy.loc["alone", ["1", "1.25"]] > whole.loc["alone", ["1", "1.25"]]).all()
    gained = {arm: by.loc[arm, "first"]["0"] - by.loc[arm, "alone"]["0"] for arm in ARMS}
    assert gained["as it began"] > gained["all images"] > gained["easy images"] > 0
    assert ALONE.sigmas == BEHIND.sigmas[:1]
    assert sum(BEHIND.shares) == 1


def test_a_table_of_fewer_images_is_replaced(tmp_path: Path) -> None:
    table, path = read_table(TAUGHT / "cascade_falling_back.tsv"), tmp_path / "cascade.tsv"
    setting = of_row(chosen_for(pd.read_csv(TAUGHT / "dial.csv"), "alike, CAT-RS alone"))
    for some in (table.iloc[:5], table):
        keep_cascade(path, setting.cascade, some, setting.kinds)
        assert read_table(path)["idx"].tolist() == some["idx"].tolist()
